//! The one connection that writes: a batch becomes one transaction, a refused write costs only itself.

mod ahead;
mod batch;
mod log;
mod space;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshagent_store::{Staging, StoreError, Write, WriteError, Written};
use rusqlite::Connection;

use self::ahead::Upload;
use self::batch::{Batch, apply_all};
use self::space::{Space, given_up};
use crate::authors::Authors;
use crate::error::{is_of_one_write, is_of_space, store_error};
use crate::freeing::{Doomed, Removal};
use crate::identity::OpenFiles;
use crate::open::{Options, open_writer};

/// Writes of one batch that are set aside one after another because they fail, each for another attempt. If there are
/// more, all of them are looked for first.
const MAX_SET_ASIDE: usize = 8;

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

    fn begin(&mut self) -> Result<(), StoreError> {
        self.files.still_there()?;
        if self.session.is_none() {
            // A connection that opened a log without a name would begin another.
            self.look()?;
        }
        Ok(())
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
