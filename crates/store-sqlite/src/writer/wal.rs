//! The WAL: deleted and overwritten content is erased from it.

use std::time::{Duration, Instant};

use meshagent_store::{StoreError, WriteError, Written};

use super::{Session, Writer};
use crate::error::store_error;
use crate::open::BUSY_TIMEOUT;

/// The time until a WAL that is held, for example by a backup, is tried again. It doubles
/// each time.
const ERASE_PAUSE: Duration = Duration::from_millis(20);
const MAX_ERASE_PAUSE: Duration = Duration::from_secs(1);
/// The time for which the WAL keeps overwritten content, unless something is deleted in
/// the meantime.
const OVERWRITTEN_KEPT: Duration = Duration::from_mins(1);

impl Writer {
    /// Returns whether the WAL contains no deleted or overwritten content.
    pub(crate) fn is_wal_clean(&self) -> bool {
        self.erase_at.is_none()
    }

    /// Returns whether the WAL contains deleted content, or has contained overwritten content
    /// for long.
    pub(crate) fn is_erasure_due(&self) -> bool {
        self.erase_at.is_some_and(|at| at <= Instant::now())
    }

    /// Erases deleted and overwritten content if that is due and the WAL can be emptied now, and
    /// returns whether nothing is due any more. It tries that only if `is_free` returns that the
    /// store's own readers are not in the way.
    pub(crate) fn try_erase(&mut self, is_free: impl FnOnce() -> bool) -> Result<bool, StoreError> {
        if !self.is_erasure_due() {
            return Ok(true);
        }
        let is_early = |again_at| Instant::now() < again_at;
        if self.erase_retry_at.is_some_and(is_early) || !is_free() {
            return Ok(false);
        }
        self.truncate_wal()
    }

    /// Empties the WAL of the content that a batch deleted, and later of the content that
    /// it overwrote.
    pub(super) fn erase_after(&mut self, results: &[Result<Written, WriteError>]) {
        let deleted = |written: &Written| match written {
            Written::Deleted { entries } => entries.len(),
            Written::Moved { replaced, .. } => replaced.len(),
            _ => 0,
        };
        let is_replaced = |written: &Written| matches!(written, Written::Put { replaced: true });
        let written = || results.iter().flatten();
        let replaced = written().filter(|written| is_replaced(written)).count();
        let deleted: usize = written().map(deleted).sum();
        // Content that replaces other content may have a new entry.
        self.sweep.add_erased(deleted + replaced);
        if deleted > 0 {
            self.erase_at = Some(Instant::now());
            // `Store::erase` and `Store::tend` retry a failure; the latter reports it.
            let _ = self.try_erase(|| true);
        } else if self.erase_at.is_none() && replaced > 0 {
            self.erase_at = Some(Instant::now() + OVERWRITTEN_KEPT);
        }
    }

    /// Moves the whole WAL into the database and truncates it.
    pub(super) fn erase(&mut self) -> Result<(), StoreError> {
        if self.truncate_wal()? {
            return Ok(());
        }
        Err(StoreError::Unavailable(
            "deleted content stays in the WAL while a reader holds it, such as a backup".into(),
        ))
    }

    /// Moves the whole WAL into the database and truncates it, unless a reader is in the way;
    /// returns whether it did.
    fn truncate_wal(&mut self) -> Result<bool, StoreError> {
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
            self.erase_retry_at = Some(Instant::now() + self.erase_pause);
        } else {
            // Before others take the space that the WAL had.
            let _ = self.reserve.refill(0);
            self.erase_at = None;
            self.erase_pause = Duration::ZERO;
            self.erase_retry_at = None;
        }
        Ok(!is_busy)
    }

    /// If only the WAL was deleted, its content is not lost yet: it is moved into the
    /// database, once.
    pub(super) fn rescue_if_lost(
        &mut self,
        found: Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        if matches!(found, Err(StoreError::Replaced(_))) && !self.is_rescued {
            self.is_rescued = true;
            // Another connection would not find the WAL.
            if self.session.is_some() && self.files.can_be_rescued() {
                self.checkpoint_all();
            }
            // If this fails, the next start may find damage.
            let _ = self.files.drop_outdated_wal();
        }
        found
    }

    /// Moves the WAL into the database as far as possible; returns whether all of it was moved, so
    /// that the WAL can restart in the space that it has.
    pub(super) fn checkpoint_all(&mut self) -> bool {
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
