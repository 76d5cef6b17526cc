//! The single connection that writes: a batch becomes one transaction, and a refused write affects
//! only itself.

mod batch;
mod space;
mod staging;
mod wal;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshagent_store::{Staging, StoreError, Write, WriteError, Written};
use rusqlite::Connection;

use self::batch::{Batch, apply_all};
use self::space::{Space, space_taken};
use self::staging::StagedBatch;
use crate::authors::Authors;
use crate::erased_keys::Sweep;
use crate::error::{concerns_one_write, is_out_of_space, store_error};
use crate::freeing::{Garbage, Removal};
use crate::identity::OpenFiles;
use crate::open::{LOCK_FILE, Options, open_writer};
use crate::read;
use crate::reserve::{Reserve, Use};

/// The number of failing writes of one batch that are set aside one after another, each with
/// another attempt. If more of them fail, a dry run first finds all of them.
const MAX_SET_ASIDE: usize = 8;

/// SQLite's default.
const PAGE_SIZE: u64 = 4096;

#[derive(Debug)]
pub(crate) struct Writer {
    path: PathBuf,
    options: Options,
    files: Arc<OpenFiles>,
    reserve: Reserve,
    page_size: u64,
    is_rescued: bool,
    /// The time since which the WAL contains deleted content, or from which it will be emptied of
    /// overwritten content.
    erase_at: Option<Instant>,
    /// The time before which emptying the WAL is not retried, because another program held it.
    erase_retry_at: Option<Instant>,
    erase_pause: Duration,
    /// Objects to be freed whose rows are damaged, so that they can't be freed.
    damaged: HashSet<Garbage>,
    /// The removal of the rows of erased keys.
    sweep: Sweep,
    /// Batches that are being staged.
    staged_batches: Vec<StagedBatch>,
    /// The connection; `None` after a failure, until the next attempt.
    session: Option<Session>,
}

/// A connection, and the rows of authors that are known in the state that it sees.
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

    /// Returns the length of the database in pages.
    fn pages(&self) -> rusqlite::Result<u64> {
        self.number("PRAGMA page_count")
    }

    fn free_pages(&self) -> rusqlite::Result<u64> {
        self.number("PRAGMA freelist_count")
    }

    fn number(&self, sql: &str) -> rusqlite::Result<u64> {
        self.connection
            .prepare_cached(sql)?
            .query_row([], |row| row.get::<_, i64>(0))
            .map(i64::unsigned_abs)
    }
}

/// The reason why a transaction was not committed.
enum Failed {
    Sqlite {
        error: rusqlite::Error,
        at: Step,
    },
    /// The files are missing, or can't be checked.
    Files(StoreError),
    /// It was a dry run.
    DryRun,
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Sqlite { error, .. } => store_error(error),
            Failed::Files(error) => error,
            Failed::DryRun => Self::Unavailable("the transaction was a dry run".into()),
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Begin,
    /// At this write of the batch.
    Write(usize),
    /// When the database's file was extended.
    Grow,
    /// At the last step, which syncs.
    Commit,
}

impl Step {
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
        reserve: Reserve,
    ) -> Self {
        let session = Session::new(connection);
        let mut writer = Self {
            path,
            options,
            files,
            reserve,
            page_size: session.number("PRAGMA page_size").unwrap_or(PAGE_SIZE),
            is_rescued: false,
            erase_at: None,
            erase_retry_at: None,
            erase_pause: Duration::ZERO,
            damaged: HashSet::new(),
            sweep: Sweep::new(),
            staged_batches: Vec::new(),
            session: Some(session),
        };
        // The WAL may contain content that was deleted or overwritten before the process ended.
        if writer.erase().is_err() {
            writer.erase_at = Some(Instant::now());
        }
        writer
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        self.files.check_known()?;
        if self.session.is_none() {
            // A connection that finds the WAL deleted would create another.
            self.check_files()?;
        }
        Ok(())
    }

    /// If a sync failed, the batch is complete in the WAL's tail, where a restart would find it.
    /// The next transaction overwrites the tail, so this attempts one immediately. It needs no
    /// space beyond that of the tail, as it changes one page.
    fn overwrite_tail(&mut self) {
        if self.begin().is_ok() {
            let _ = self.transact(Use::Deletion, write_probe);
        }
    }

    /// Commits the batches of several owners, or one that may be staged in part.
    pub(crate) fn commit(
        &mut self,
        writes: &[Write],
        fenced: BTreeMap<usize, WriteError>,
        staging: Option<&Staging>,
    ) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
        self.begin()?;
        let staged = match staging.and_then(|staging| self.staged_batch(staging)) {
            Some(batch) => batch.staged.clone().ok_or_else(space_taken)?,
            None => Vec::new(),
        };
        // Writes that failed, or are not their owner's any more, are set aside, so that the others
        // reach the disk.
        let mut damaged = fenced;
        let (mut attempts, mut is_dry_run_done) = (0, false);
        let mut may_be_in_tail = false;
        let mut space = Space::default();
        let only_deletes = writes
            .iter()
            .all(|write| matches!(write, Write::Delete { .. }));
        let purpose = if only_deletes {
            Use::Deletion
        } else {
            Use::Other
        };
        let failed = loop {
            let batch = Batch {
                writes,
                staged: &staged,
                // Deletions have to free space.
                removal: if space.is_freed {
                    Removal::Immediate
                } else {
                    Removal::ImmediateIfCheap
                },
            };
            let result = self.transact(purpose, |session| apply_all(session, batch, &damaged, 0));
            may_be_in_tail |= is_failed_commit(&result);
            match result {
                Ok(results) => {
                    // This check precedes the acknowledgement: content in a deleted file is lost.
                    let found = self.files.check_written();
                    self.rescue_if_lost(found)?;
                    if let Some(staging) = staging {
                        self.staged_batches
                            .retain(|batch| !staging.is(&batch.staging));
                    }
                    self.erase_after(&results);
                    return Ok(results);
                }
                Err(Failed::Sqlite { error, at })
                    if is_out_of_space(&error)
                        && self.make_space(&mut space, staging, purpose, at) => {}
                Err(Failed::Sqlite {
                    error,
                    at: Step::Write(index),
                }) if concerns_one_write(&error)
                    && (attempts < MAX_SET_ASIDE || !is_dry_run_done) =>
                {
                    attempts += 1;
                    let damage = self.damage(&error, &writes[index]);
                    damaged.insert(index, damage);
                    if attempts == MAX_SET_ASIDE && !is_dry_run_done {
                        is_dry_run_done = true;
                        attempts = 0;
                        if let Err(failed) = self.dry_run(batch, &mut damaged) {
                            break failed;
                        }
                    }
                }
                Err(failed) => break failed,
            }
        };
        if may_be_in_tail {
            self.overwrite_tail();
        }
        let found = self.files.check_written();
        self.rescue_if_lost(found)?;
        Err(self.failure(failed))
    }

    /// Converts a failure. SQLite does not tell a disk that became read-only from others.
    fn failure(&self, failed: Failed) -> StoreError {
        match failed.into() {
            StoreError::Unavailable(source) if is_read_only(&self.path) => {
                StoreError::ReadOnly(source)
            }
            error => error,
        }
    }

    /// Finds all writes of a batch that fail by themselves, without committing anything: after a
    /// failure it continues with the next write, so it applies the batch once.
    fn dry_run(
        &mut self,
        batch: Batch<'_>,
        damaged: &mut BTreeMap<usize, WriteError>,
    ) -> Result<(), Failed> {
        let mut start = 0;
        loop {
            let tried = self.transact(Use::Other, |session| {
                apply_all(session, batch, damaged, start)?;
                Err::<(), _>(Failed::DryRun)
            });
            match tried {
                Err(Failed::Sqlite {
                    error,
                    at: Step::Write(index),
                }) if concerns_one_write(&error) => {
                    let damage = self.damage(&error, &batch.writes[index]);
                    damaged.insert(index, damage);
                    start = index + 1;
                }
                Ok(()) | Err(Failed::DryRun) => return Ok(()),
                Err(failed) => return Err(failed),
            }
        }
    }

    /// Describes the damage that a write met, by path and room.
    fn damage(&mut self, error: &rusqlite::Error, write: &Write) -> WriteError {
        let place = match write {
            Write::CreateDocument { room, path, .. }
            | Write::PutFile { room, path, .. }
            | Write::Delete { room, path, .. }
            | Write::Move {
                room, source: path, ..
            } => format!("{path:?} in room {room}"),
            Write::Append { document, .. } | Write::Snapshot { document, .. } => self
                .session()
                .ok()
                .and_then(|session| read::place(&session.connection, *document))
                .unwrap_or_else(|| format!("document {document}")),
        };
        WriteError::Damaged {
            what: format!("{place}: {error}"),
        }
    }

    /// Checks that all files are in place.
    pub(crate) fn check_files(&mut self) -> Result<(), StoreError> {
        let found = self.files.check_all();
        self.rescue_if_lost(found)
    }

    /// Checks that all files are in place, and does the work that was deferred.
    pub(crate) fn tend(&mut self) -> Result<(), StoreError> {
        self.check_files()?;
        if self.is_erasure_due() {
            self.erase()?;
        }
        self.refill_reserve()
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

    /// Writes a row that has no meaning, and syncs it to the disk. It fails, too, if there is no
    /// space for more.
    pub(crate) fn probe(&mut self) -> Result<(), StoreError> {
        let mut space = Space {
            is_freed: true,
            is_taken: true,
            ..Space::default()
        };
        let written = loop {
            match self.transact(Use::Probe, write_probe) {
                Err(Failed::Sqlite { error, at })
                    if is_out_of_space(&error)
                        && self.make_space(&mut space, None, Use::Probe, at) => {}
                tried => break tried,
            }
        };
        // This check comes first, as it reports the reason.
        self.check_files()?;
        written.map_err(|failed| self.failure(failed))
    }

    fn transact<T>(
        &mut self,
        purpose: Use,
        run: impl FnOnce(&mut Session) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        let mut session = if let Some(session) = self.session.take() {
            session
        } else {
            let connection =
                open_writer(&self.path, &self.options).map_err(Step::Begin.failed())?;
            Session::new(connection)
        };
        let execute = |session: &Session, sql| {
            session
                .connection
                .prepare_cached(sql)
                .and_then(|mut statement| statement.execute([]))
        };
        let result = (|| {
            execute(&session, "BEGIN IMMEDIATE").map_err(Step::Begin.failed())?;
            // The index has the number without a statement, which SQLite would compile each time.
            let before = match self.files.check().map_err(Failed::Files)? {
                Some(pages) => pages,
                None => session.pages().map_err(Step::Begin.failed())?,
            };
            let result = run(&mut session)?;
            self.grow(&session, before, purpose)
                .map_err(Step::Grow.failed())?;
            // Readers see the open files, so these must not contain a write that will be refused.
            self.files.check_unless_recent().map_err(Failed::Files)?;
            execute(&session, "COMMIT").map_err(Step::Commit.failed())?;
            Ok(result)
        })();
        match &result {
            Ok(_) => self.session = Some(session),
            // Another connection would not find a WAL that was deleted.
            Err(Failed::Files(_) | Failed::DryRun) if execute(&session, "ROLLBACK").is_ok() => {
                self.session = Some(Session::new(session.connection));
            }
            // The connection is closed here, which rolls back its transaction; the known authors
            // are dropped, too.
            Err(_) => {}
        }
        result
    }
}

/// Writes the row that has no meaning.
fn write_probe(session: &mut Session) -> Result<(), Failed> {
    session
        .connection
        .prepare_cached("UPDATE probe SET count = count + 1")
        .and_then(|mut update| update.execute([]))
        .map(drop)
        .map_err(Step::Write(0).failed())
}

/// Returns whether a transaction failed at its last step, after it was written to the WAL.
fn is_failed_commit<T>(result: &Result<T, Failed>) -> bool {
    matches!(
        result,
        Err(Failed::Sqlite {
            at: Step::Commit,
            ..
        })
    )
}

/// Returns whether the disk with this database has become read-only. The lock stands for the
/// database: to open and close the database itself would release SQLite's locks on it.
fn is_read_only(database: &Path) -> bool {
    let lock = database.with_file_name(LOCK_FILE);
    let opened = std::fs::OpenOptions::new().write(true).open(lock);
    opened.is_err_and(|error| error.kind() == io::ErrorKind::ReadOnlyFilesystem)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use crate::open::{DATABASE_FILE, open_database, open_keeper};
    use crate::reserve::RESERVE_FILE;

    use super::*;

    /// A reserve that can't be filled stands for a full disk.
    #[test]
    fn tail_is_overwritten_without_space_for_more() {
        let directory = tempfile::tempdir().unwrap();
        let full = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/full", full.path().join(RESERVE_FILE)).unwrap();
        let path = directory.path().join(DATABASE_FILE);
        let options = Options::default();
        let opened = open_database(directory.path(), &options).unwrap();
        let _keeper = open_keeper(&path).unwrap();
        let files = Arc::new(OpenFiles::open(&path, &[]).unwrap());
        let reserve = Reserve::open(full.path());
        let mut writer = Writer::new(path, options, files, opened.connection, reserve);
        let count = |writer: &mut Writer| {
            let session = writer.session().unwrap();
            session.number("SELECT count FROM probe").unwrap()
        };
        let before = count(&mut writer);
        let probed = writer.probe();
        assert!(matches!(probed, Err(StoreError::Full(_))), "{probed:?}");
        let tended = writer.tend();
        assert!(matches!(tended, Err(StoreError::Full(_))), "{tended:?}");
        assert_eq!(count(&mut writer), before);
        writer.overwrite_tail();
        assert_eq!(count(&mut writer), before + 1);
    }
}
