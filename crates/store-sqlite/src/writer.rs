//! The one connection that writes: a batch becomes one transaction, a refused write costs only itself.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use meshagent_store::{DocumentId, Staging, StoreError, Write, WriteError, Written};
use rusqlite::Connection;

use crate::authors::Authors;
use crate::contents::{self, Ahead, Content};
use crate::error::{is_of_one_write, is_of_space, store_error};
use crate::freeing::{self, Doomed, MAX_KEPT, Removal, Unfreed};
use crate::identity::OpenFiles;
use crate::open::{BUSY_TIMEOUT, Options, open_writer};
use crate::write::{self, Failure};

/// Writes of one batch that are set aside one after another because they fail, each for another attempt. If there are
/// more, all of them are looked for first.
const MAX_SET_ASIDE: usize = 8;
/// After how long the log is tried again that something else holds, such as a backup: twice as long each time.
const ERASE_PAUSE: Duration = Duration::from_millis(20);
const MAX_ERASE_PAUSE: Duration = Duration::from_secs(1);
/// How long the log keeps what was overwritten, if nothing is deleted meanwhile.
const OVERWRITTEN_KEPT: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(crate) struct Writer {
    path: PathBuf,
    options: Options,
    files: Arc<OpenFiles>,
    is_rescued: bool,
    /// Since when the log has what was deleted, or from when on it is to be emptied of what was overwritten.
    erase_at: Option<Instant>,
    /// Not before, as something held it.
    erase_again_at: Option<Instant>,
    erase_pause: Duration,
    /// What was set aside and can't be freed, as it is damaged.
    kept: HashSet<Doomed>,
    /// Batches that are written ahead of their commit.
    uploads: Vec<Upload>,
    /// `None` after a failure, until the next attempt.
    session: Option<Session>,
}

/// A batch that is written ahead of its commit, as long as somebody has its [`Staging`].
#[derive(Debug)]
struct Upload {
    staging: Weak<()>,
    /// For each write; `None` if it was given up, as others needed the space.
    ahead: Option<Vec<Ahead>>,
}

/// A connection, and what is known of the state that it sees.
#[derive(Debug)]
struct Session {
    connection: Connection,
    authors: Authors,
}

impl Session {
    fn new(connection: Connection) -> Self {
        Self {
            connection,
            authors: Authors::default(),
        }
    }
}

/// Why a transaction came to nothing.
enum Failed {
    Sqlite {
        error: rusqlite::Error,
        at: At,
    },
    /// The files are not there, or it can't be told whether they are.
    Files(StoreError),
    /// It was not meant to come to anything.
    Rehearsed,
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Sqlite { error, .. } => store_error(error),
            Failed::Files(error) => error,
            Failed::Rehearsed => Self::Unavailable("it was only tried".into()),
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum At {
    Beginning,
    /// At this write of the batch.
    Write(usize),
    /// The last step, with the sync.
    Committing,
}

impl At {
    fn failed(self) -> impl FnOnce(rusqlite::Error) -> Failed {
        move |error| Failed::Sqlite { error, at: self }
    }
}

impl Writer {
    pub(crate) fn new(
        path: PathBuf,
        options: Options,
        files: Arc<OpenFiles>,
        connection: Connection,
    ) -> Self {
        let mut writer = Self {
            path,
            options,
            files,
            is_rescued: false,
            erase_at: None,
            erase_again_at: None,
            erase_pause: Duration::ZERO,
            kept: HashSet::new(),
            uploads: Vec::new(),
            session: Some(Session::new(connection)),
        };
        // The log may have what was deleted or overwritten before the process ended.
        if writer.erase().is_err() {
            writer.erase_at = Some(Instant::now());
        }
        writer
    }

    /// Writes some parts ahead of a batch, and returns whether none was left to be written.
    pub(crate) fn stage(
        &mut self,
        writes: &[Write],
        staging: &Staging,
    ) -> Result<bool, StoreError> {
        if !contents::is_worth_it(writes) {
            return Ok(true);
        }
        self.begin()?;
        let ahead = match self.upload(staging) {
            Some(upload) => upload.ahead.clone().ok_or_else(given_up)?,
            None => vec![Ahead::Nothing; writes.len()],
        };
        if contents::is_all_ahead(writes, &ahead) {
            return Ok(true);
        }
        // A commit takes what others have staged, but not this.
        let mut space = Space {
            is_taken: true,
            ..Space::default()
        };
        let failed = loop {
            let mut ahead = ahead.clone();
            let result =
                self.transact(|session| {
                    let connection = &session.connection;
                    contents::write_ahead(connection, writes, &mut ahead, |write| {
                        match write::refuses(connection, write) {
                            Ok(()) => Ok(false),
                            Err(Failure::Refused(_)) => Ok(true),
                            Err(Failure::Sqlite(error)) => Err(error),
                        }
                    })
                    .map_err(At::Write(0).failed())
                });
            match result {
                Ok(()) => {
                    let found = self.files.check_written();
                    self.unless_lost(found)?;
                    self.set_ahead(staging, ahead);
                    return Ok(false);
                }
                // The commit finds out which of the writes it is.
                Err(Failed::Sqlite {
                    error,
                    at: At::Write(_),
                }) if is_of_one_write(&error) => {
                    self.set_ahead(staging, vec![Ahead::Done(None); writes.len()]);
                    return Ok(false);
                }
                Err(Failed::Sqlite { error, .. })
                    if is_of_space(&error) && self.make_space(&mut space, Some(staging)) => {}
                Err(failed) => break failed,
            }
        };
        self.overwrite_tail(&failed);
        let found = self.files.check_written();
        self.unless_lost(found)?;
        Err(failed.into())
    }

    fn upload(&mut self, staging: &Staging) -> Option<&mut Upload> {
        self.uploads
            .retain(|upload| upload.staging.strong_count() > 0);
        self.uploads
            .iter_mut()
            .find(|upload| staging.is(&upload.staging))
    }

    fn set_ahead(&mut self, staging: &Staging, ahead: Vec<Ahead>) {
        match self.upload(staging) {
            Some(upload) => upload.ahead = Some(ahead),
            None => self.uploads.push(Upload {
                staging: staging.token(),
                ahead: Some(ahead),
            }),
        }
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        self.files.still_there()?;
        if self.session.is_none() {
            // A connection that opened a log without a name would begin another.
            self.look()?;
        }
        Ok(())
    }

    /// Makes space, one way after another; `false` if there is none left. What is written ahead of others than `own` is
    /// given up last.
    fn make_space(&mut self, space: &mut Space, own: Option<&Staging>) -> bool {
        if !space.is_emptied {
            space.is_emptied = true;
            if self.empty_log() {
                return true;
            }
        }
        if !space.is_freed {
            space.is_freed = true;
            while let Ok(false) = self.free_some() {}
            return true;
        }
        if !space.is_taken {
            space.is_taken = true;
            let mut is_any = false;
            for upload in &mut self.uploads {
                if !own.is_some_and(|own| own.is(&upload.staging)) {
                    is_any |= upload.ahead.take().is_some();
                }
            }
            while let Ok(false) = self.free_some() {}
            return is_any;
        }
        false
    }

    /// If it was the sync that failed, the batch lies complete in the WAL's tail, where a restart would find it. The
    /// next transaction overwrites the tail; so tries one now, for what it's worth.
    fn overwrite_tail(&mut self, failed: &Failed) {
        if matches!(
            failed,
            Failed::Sqlite {
                at: At::Committing,
                ..
            }
        ) {
            let _ = self.probe();
        }
    }

    /// Whether the log has nothing from before.
    pub(crate) fn has_erased(&self) -> bool {
        self.erase_at.is_none()
    }

    /// Commits a batch, of which some may have been written ahead.
    pub(crate) fn commit(
        &mut self,
        writes: &[Write],
        staging: Option<&Staging>,
    ) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
        self.begin()?;
        let ahead = match staging.and_then(|staging| self.upload(staging)) {
            Some(upload) => upload.ahead.clone().ok_or_else(given_up)?,
            None => Vec::new(),
        };
        // Set aside once they failed, so that the others find their way to the disk.
        let mut damaged = BTreeMap::new();
        let (mut attempts, mut is_rehearsed) = (0, false);
        let mut space = Space::default();
        let failed = loop {
            let batch = Batch {
                writes,
                ahead: &ahead,
                // What was deleted is to make room.
                removal: if space.is_freed {
                    Removal::AtOnce
                } else {
                    Removal::WhenCheap
                },
            };
            let result = self.transact(|session| apply_all(session, batch, &damaged, 0));
            match result {
                Ok(results) => {
                    // Before anybody is told: what was written to a file without a name is lost.
                    let found = self.files.check_written();
                    self.unless_lost(found)?;
                    if let Some(staging) = staging {
                        self.uploads.retain(|upload| !staging.is(&upload.staging));
                    }
                    self.erase_after(&results);
                    return Ok(results);
                }
                Err(Failed::Sqlite { error, .. })
                    if is_of_space(&error) && self.make_space(&mut space, staging) => {}
                Err(Failed::Sqlite {
                    error,
                    at: At::Write(index),
                }) if is_of_one_write(&error) && (attempts < MAX_SET_ASIDE || !is_rehearsed) => {
                    attempts += 1;
                    damaged.insert(index, damage(&error));
                    if attempts == MAX_SET_ASIDE && !is_rehearsed {
                        is_rehearsed = true;
                        attempts = 0;
                        if let Err(failed) = self.rehearse(batch, &mut damaged) {
                            break failed;
                        }
                    }
                }
                Err(failed) => break failed,
            }
        };
        self.overwrite_tail(&failed);
        let found = self.files.check_written();
        self.unless_lost(found)?;
        Err(failed.into())
    }

    /// Finds all writes of a batch that fail by their own fault, and keeps nothing: whatever fails, the next one is
    /// tried next, so the batch is gone through once.
    fn rehearse(
        &mut self,
        batch: Batch<'_>,
        damaged: &mut BTreeMap<usize, WriteError>,
    ) -> Result<(), Failed> {
        let mut start = 0;
        loop {
            let tried = self.transact(|session| {
                apply_all(session, batch, damaged, start)?;
                Err::<(), _>(Failed::Rehearsed)
            });
            match tried {
                Err(Failed::Sqlite {
                    error,
                    at: At::Write(index),
                }) if is_of_one_write(&error) => {
                    damaged.insert(index, damage(&error));
                    start = index + 1;
                }
                Ok(()) | Err(Failed::Rehearsed) => return Ok(()),
                Err(failed) => return Err(failed),
            }
        }
    }

    /// Looks whether all files are where they were.
    pub(crate) fn look(&mut self) -> Result<(), StoreError> {
        let found = self.files.check_all();
        self.unless_lost(found)
    }

    /// The same, and does what was put off.
    pub(crate) fn tend(&mut self) -> Result<(), StoreError> {
        self.look()?;
        if self.owes_erasing() {
            self.erase()?;
        }
        Ok(())
    }

    /// Frees some of what large deletions set aside, and returns whether nothing is left of it.
    pub(crate) fn free_some(&mut self) -> Result<bool, StoreError> {
        self.begin()?;
        let mut kept = std::mem::take(&mut self.kept);
        let spared = self.spared();
        let spared: Vec<Doomed> = spared.into_iter().filter(|one| kept.insert(*one)).collect();
        let mut damaged = None;
        let freed = (|| {
            let is_owed = self
                .session()
                .and_then(|session| freeing::is_owed(&session.connection, &kept));
            if !is_owed.map_err(At::Beginning.failed())? {
                return Ok(true);
            }
            self.transact(|session| {
                freeing::free_some(&session.connection, &kept).map_err(
                    |Unfreed { doomed, error }| {
                        damaged = doomed.filter(|_| is_of_one_write(&error));
                        At::Write(0).failed()(error)
                    },
                )
            })
        })();
        let found = self.files.check_written();
        for one in spared {
            kept.remove(&one);
        }
        let is_kept = damaged.is_some() && kept.len() < MAX_KEPT;
        kept.extend(damaged);
        self.kept = kept;
        self.unless_lost(found)?;
        match freed {
            // It costs space, and the others none.
            Err(_) if is_kept => Ok(false),
            freed => Ok(freed?),
        }
    }

    /// What is written ahead of batches that may still be committed.
    fn spared(&mut self) -> Vec<Doomed> {
        self.uploads
            .retain(|upload| upload.staging.strong_count() > 0);
        let ahead = self
            .uploads
            .iter()
            .flat_map(|upload| &upload.ahead)
            .flatten();
        ahead
            .filter_map(Ahead::content)
            .flat_map(Content::doomed)
            .collect()
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
    fn erase_after(&mut self, results: &[Result<Written, WriteError>]) {
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
    fn erase(&mut self) -> Result<(), StoreError> {
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
    fn unless_lost(&mut self, found: Result<(), StoreError>) -> Result<(), StoreError> {
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
    fn empty_log(&mut self) -> bool {
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

    fn session(&mut self) -> rusqlite::Result<&Session> {
        match &mut self.session {
            Some(session) => Ok(session),
            none => {
                let connection = open_writer(&self.path, &self.options)?;
                Ok(none.insert(Session::new(connection)))
            }
        }
    }

    /// Writes something of no meaning, all the way to the disk.
    pub(crate) fn probe(&mut self) -> Result<(), StoreError> {
        let written = self.transact(|session| {
            session
                .connection
                .prepare_cached("UPDATE probe SET count = count + 1")
                .and_then(|mut update| update.execute([]))
                .map_err(At::Write(0).failed())
        });
        // First, as it says why.
        self.look()?;
        written?;
        Ok(())
    }

    fn transact<T>(
        &mut self,
        run: impl FnOnce(&mut Session) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        let mut session = if let Some(session) = self.session.take() {
            session
        } else {
            let connection =
                open_writer(&self.path, &self.options).map_err(At::Beginning.failed())?;
            Session::new(connection)
        };
        let execute = |session: &Session, sql| {
            session
                .connection
                .prepare_cached(sql)
                .and_then(|mut statement| statement.execute([]))
        };
        let result = (|| {
            execute(&session, "BEGIN IMMEDIATE").map_err(At::Beginning.failed())?;
            self.files.check().map_err(Failed::Files)?;
            let result = run(&mut session)?;
            // Readers see the files that are open, so nothing may be in them that is going to be refused.
            self.files.check_unless_recent().map_err(Failed::Files)?;
            execute(&session, "COMMIT").map_err(At::Committing.failed())?;
            Ok(result)
        })();
        match &result {
            Ok(_) => self.session = Some(session),
            // Another connection would not find a log that has lost its name.
            Err(Failed::Files(_) | Failed::Rehearsed) if execute(&session, "ROLLBACK").is_ok() => {
                self.session = Some(Session::new(session.connection));
            }
            // The connection is closed here, which rolls back whatever it had under way; what was known goes too.
            Err(_) => {}
        }
        result
    }
}

fn damage(error: &rusqlite::Error) -> WriteError {
    let what = error.to_string();
    WriteError::Damaged { what }
}

/// Which ways to make space were tried.
#[derive(Default)]
struct Space {
    is_emptied: bool,
    is_freed: bool,
    is_taken: bool,
}

fn given_up() -> StoreError {
    StoreError::Full("others needed the space".into())
}

/// Writes that are committed together.
#[derive(Clone, Copy)]
struct Batch<'a> {
    writes: &'a [Write],
    /// What was written ahead of each; nothing if it is empty.
    ahead: &'a [Ahead],
    removal: Removal,
}

/// Applies the writes of a batch from `start` on, but those that are known to fail, and what builds on them.
fn apply_all(
    session: &mut Session,
    batch: Batch<'_>,
    damaged: &BTreeMap<usize, WriteError>,
    start: usize,
) -> Result<Vec<Result<Written, WriteError>>, Failed> {
    let mut results = Vec::with_capacity(batch.writes.len());
    // A later update of a document builds on the one that was refused.
    let mut broken: HashSet<DocumentId> = HashSet::new();
    for (index, write) in batch.writes.iter().enumerate() {
        let behind = match write {
            Write::Append { document, .. } | Write::Snapshot { document, .. } => {
                broken.get(document).copied()
            }
            _ => None,
        };
        let result = if let Some(error) = damaged.get(&index) {
            Err(error.clone())
        } else if let Some(document) = behind {
            Err(WriteError::Behind { document })
        } else if index < start {
            continue;
        } else {
            let ahead = match batch.ahead.get(index) {
                Some(Ahead::Done(content)) => content.as_ref(),
                _ => None,
            };
            let result = apply(session, write, batch.removal, ahead);
            result.map_err(At::Write(index).failed())?
        };
        if let (Write::Append { document, .. }, Err(error)) = (write, &result)
            && !matches!(error, WriteError::NoSuchDocument { .. })
        {
            broken.insert(*document);
        }
        results.push(result);
    }
    Ok(results)
}

fn apply(
    session: &mut Session,
    write: &Write,
    removal: Removal,
    ahead: Option<&Content>,
) -> rusqlite::Result<Result<Written, WriteError>> {
    let Session {
        connection,
        authors,
    } = session;
    if matches!(write, Write::Append { .. }) {
        // The commonest write is spared the copies of pages that a savepoint makes: it is refused, if at all, before
        // it changes anything.
        return match write::apply(connection, authors, write, removal, ahead) {
            Ok(written) => Ok(Ok(written)),
            Err(Failure::Refused(error)) => Ok(Err(error)),
            Err(Failure::Sqlite(error)) => Err(error),
        };
    }
    connection
        .prepare_cached("SAVEPOINT one_write")?
        .execute([])?;
    let result = match write::apply(connection, authors, write, removal, ahead) {
        Ok(written) => Ok(written),
        Err(Failure::Refused(error)) => {
            connection
                .prepare_cached("ROLLBACK TO one_write")?
                .execute([])?;
            Err(error)
        }
        Err(Failure::Sqlite(error)) => return Err(error),
    };
    connection
        .prepare_cached("RELEASE one_write")?
        .execute([])?;
    Ok(result)
}
