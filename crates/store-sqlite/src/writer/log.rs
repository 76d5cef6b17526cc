//! The log: what was deleted or overwritten is erased from it.

use std::time::{Duration, Instant};

use meshagent_store::{StoreError, WriteError, Written};

use super::{Session, Writer};
use crate::error::store_error;
use crate::open::BUSY_TIMEOUT;

/// After how long the log is tried again that something else holds, such as a backup: twice as long each time.
const ERASE_PAUSE: Duration = Duration::from_millis(20);
const MAX_ERASE_PAUSE: Duration = Duration::from_secs(1);
/// How long the log keeps what was overwritten, if nothing is deleted meanwhile.
const OVERWRITTEN_KEPT: Duration = Duration::from_mins(1);

impl Writer {
    /// Whether the log has nothing from before.
    pub(crate) fn has_erased(&self) -> bool {
        self.erase_at.is_none()
    }

    /// Whether the log has what was deleted, or has had for long what was overwritten.
    pub(crate) fn owes_erasing(&self) -> bool {
        self.erase_at.is_some_and(|at| at <= Instant::now())
    }

    /// Erases what is owed, if the log can be emptied now, and returns whether nothing is owed any more. The log is
    /// only tried if `is_free` says that none of our readers is in the way.
    pub(crate) fn try_erase(&mut self, is_free: impl FnOnce() -> bool) -> Result<bool, StoreError> {
        if !self.owes_erasing() {
            return Ok(true);
        }
        let is_early = |again_at| Instant::now() < again_at;
        if self.erase_again_at.is_some_and(is_early) || !is_free() {
            return Ok(false);
        }
        self.empty_whole_log()
    }

    /// Empties the log of what a batch deleted, and later of what it overwrote.
    pub(super) fn erase_after(&mut self, results: &[Result<Written, WriteError>]) {
        let deletes = |written: &Written| match written {
            Written::Deleted { .. } => true,
            Written::Moved { replaced, .. } => !replaced.is_empty(),
            _ => false,
        };
        if results.iter().flatten().any(deletes) {
            self.erase_at = Some(Instant::now());
            // If it fails, it is tried again by whoever wants to know, and when the store is tended, which says so.
            let _ = self.try_erase(|| true);
        } else if self.erase_at.is_none()
            && results
                .iter()
                .flatten()
                .any(|written| matches!(written, Written::Put { replaced: true }))
        {
            self.erase_at = Some(Instant::now() + OVERWRITTEN_KEPT);
        }
    }

    /// Moves the whole log into the database and makes it an empty file.
    pub(super) fn erase(&mut self) -> Result<(), StoreError> {
        if self.empty_whole_log()? {
            return Ok(());
        }
        Err(StoreError::Unavailable(
            "what was deleted stays in the log as long as a reader holds it, such as a backup"
                .into(),
        ))
    }

    /// The same; whether no reader was in the way.
    fn empty_whole_log(&mut self) -> Result<bool, StoreError> {
        let empty = |session: &Session| {
            session.connection.busy_timeout(Duration::ZERO)?;
            let emptied =
                session
                    .connection
                    .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
            session.connection.busy_timeout(BUSY_TIMEOUT)?;
            emptied
        };
        let is_busy: bool = self.session().and_then(empty).map_err(store_error)?;
        if is_busy {
            self.erase_pause = (self.erase_pause * 2).clamp(ERASE_PAUSE, MAX_ERASE_PAUSE);
            self.erase_again_at = Some(Instant::now() + self.erase_pause);
        } else {
            self.erase_at = None;
            self.erase_pause = Duration::ZERO;
            self.erase_again_at = None;
        }
        Ok(!is_busy)
    }

    /// If only the log has lost its name, what is in it is not lost yet: it goes into the database, once.
    pub(super) fn unless_lost(&mut self, found: Result<(), StoreError>) -> Result<(), StoreError> {
        if matches!(found, Err(StoreError::Replaced(_))) && !self.is_rescued {
            self.is_rescued = true;
            // Another connection would not find the log.
            if self.session.is_some() && self.files.can_be_rescued() {
                self.empty_log();
            }
            // At worst the next start finds damage.
            let _ = self.files.drop_outdated_log();
        }
        found
    }

    /// Whether all of the log went into the database just now, so that the log can begin again in the space that
    /// it has.
    pub(super) fn empty_log(&mut self) -> bool {
        let moved = |session: &Session| {
            session
                .connection
                .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
                    let (log, moved): (i64, i64) = (row.get(1)?, row.get(2)?);
                    Ok(log > 0 && log == moved)
                })
        };
        self.session()
            .is_ok_and(|session| moved(session).unwrap_or(false))
    }
}
