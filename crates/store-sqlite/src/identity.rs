//! The files that a store has open, and whether the data directory still has them: what is written to a file without
//! a name is lost when the process ends, and SQLite itself does not look.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use meshagent_store::StoreError;

use crate::log_index::LogIndex;

/// For how long a check need not be repeated if another one follows.
const RECENT: Duration = Duration::from_millis(5);
const GONE: &str = "was deleted or moved";

/// The database, its log and the log's index, as they were when the store was opened. A connection that stays open
/// as long as the store keeps SQLite from replacing any of them.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    database: OpenFile,
    wal: OpenFile,
    shm: OpenFile,
    index: LogIndex,
    others: Vec<OpenFile>,
    /// The length of the log when it was last looked at.
    log_bytes: AtomicU64,
    /// When all files were last found.
    checked: Mutex<Option<Instant>>,
    /// What was found, once something was. It stays: what is put there again may be anything.
    lost: OnceLock<Lost>,
}

#[derive(Debug)]
struct Lost {
    what: String,
    log: Log,
}

/// What our connections take for the log, once something was lost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Log {
    /// It is one, with a name or without.
    Whole,
    /// Only a beginning of it is there.
    Cut,
    /// Another program may write to it without their knowing.
    Shared,
}

#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    identity: Identity,
}

/// Different for each file that exists at the same time; an open file's is not given to another.
#[cfg(unix)]
type Identity = (u64, u64);
#[cfg(not(unix))]
type Identity = ();

#[cfg(unix)]
fn identity(file: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt as _;
    (file.dev(), file.ino())
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> Identity {}

impl OpenFiles {
    /// The files of a database that is open, and those of `others` in its directory.
    pub(crate) fn open(database: &Path, others: &[PathBuf]) -> io::Result<Self> {
        let others = others.iter().cloned();
        let shm = beside(database, "-shm");
        Ok(Self {
            database: OpenFile::new(database.to_owned())?,
            wal: OpenFile::new(beside(database, "-wal"))?,
            index: LogIndex::open(&shm)?,
            shm: OpenFile::new(shm)?,
            others: others.map(OpenFile::new).collect::<io::Result<_>>()?,
            log_bytes: AtomicU64::new(0),
            checked: Mutex::new(None),
            lost: OnceLock::new(),
        })
    }

    /// Whether what is written has a name, and all of the log is there. Costs three look-ups and a short read. To be
    /// asked at the beginning of every transaction: what is written behind the gap makes a log that was cut as long as
    /// it should be.
    ///
    /// # Errors
    /// [`StoreError::Replaced`], and from then on always; [`StoreError::Unavailable`] if that can't be told now.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        self.check_each([&self.database, &self.shm])?;
        self.check_log()?;
        *self.checked() = Some(Instant::now());
        Ok(())
    }

    /// The same, unless a check has just passed. Only for where another check follows before anybody is answered.
    ///
    /// # Errors
    /// As for [`check`](Self::check).
    pub(crate) fn check_unless_recent(&self) -> Result<(), StoreError> {
        let is_recent = |checked: Instant| checked.elapsed() < RECENT;
        if (*self.checked()).is_some_and(is_recent) {
            return self.still_there();
        }
        self.check()
    }

    fn checked(&self) -> MutexGuard<'_, Option<Instant>> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the log has its name and is all there.
    fn check_log(&self) -> Result<(), StoreError> {
        self.still_there()?;
        let mut found = Ok(());
        let length = || {
            let log = fs::metadata(&self.wal.path)?;
            found = self.wal.is_same(&log);
            self.log_bytes.store(log.len(), Ordering::Relaxed);
            Ok(log.len())
        };
        match self.index.has_whole_log(length) {
            Ok(is_whole) => {
                if let Err(what) = found {
                    self.lose_file(&self.wal, what);
                } else if !is_whole {
                    self.lose(Lost {
                        what: format!("{} was cut short", self.wal.path.display()),
                        log: Log::Cut,
                    });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.lose_file(&self.wal, GONE);
            }
            Err(error) => return Err(StoreError::Unavailable(Box::new(error))),
        }
        self.still_there()
    }

    /// The same of what is on the disk by now: that it can't be told takes nothing from it, and is for the next write
    /// to find.
    ///
    /// # Errors
    /// [`StoreError::Replaced`], and from then on always.
    pub(crate) fn check_written(&self) -> Result<(), StoreError> {
        let _ = self.check();
        self.still_there()
    }

    /// The same as [`check`](Self::check), of all files.
    pub(crate) fn check_all(&self) -> Result<(), StoreError> {
        self.check()?;
        self.check_each(&self.others)
    }

    fn check_each<'a>(
        &self,
        files: impl IntoIterator<Item = &'a OpenFile>,
    ) -> Result<(), StoreError> {
        for file in files {
            if self.lost.get().is_some() {
                break;
            }
            match fs::metadata(&file.path) {
                Ok(found) => {
                    if let Err(what) = file.is_same(&found) {
                        self.lose_file(file, what);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.lose_file(file, GONE);
                }
                // It may be there.
                Err(error) => return Err(StoreError::Unavailable(Box::new(error))),
            }
        }
        self.still_there()
    }

    fn lose_file(&self, file: &OpenFile, what: &str) {
        self.lose(Lost {
            what: format!("{} {what}", file.path.display()),
            // A program that finds no index makes another.
            log: if file.path == self.shm.path {
                Log::Shared
            } else {
                Log::Whole
            },
        });
    }

    fn lose(&self, lost: Lost) {
        let _ = self.lost.set(lost);
    }

    /// What is known already, without a look.
    pub(crate) fn still_there(&self) -> Result<(), StoreError> {
        match self.lost.get() {
            None => Ok(()),
            Some(lost) => Err(StoreError::Replaced(lost.what.clone().into())),
        }
    }

    /// Whether the log can still be moved into the database, which is where it was.
    pub(crate) fn can_be_rescued(&self) -> bool {
        self.has_log()
            && fs::metadata(&self.database.path)
                .is_ok_and(|found| identity(&found) == self.database.identity)
    }

    /// Whether what our connections take for the log is one, as far as is known.
    pub(crate) fn has_log(&self) -> bool {
        self.lost.get().is_none_or(|lost| lost.log == Log::Whole)
    }

    /// If what is left of a log that was cut is all in the database, and so is what came after it: empties it. The
    /// next start would take its old pages for the newest.
    pub(crate) fn drop_outdated_log(&self) -> io::Result<()> {
        if self.lost.get().is_none_or(|lost| lost.log != Log::Cut) {
            return Ok(());
        }
        let wal = fs::OpenOptions::new().write(true).open(&self.wal.path)?;
        let found = wal.metadata()?;
        if identity(&found) == self.wal.identity && found.len() < self.index.moved_bytes()? {
            wal.set_len(0)?;
            wal.sync_all()?;
        }
        Ok(())
    }

    /// Whether [`OpenFiles::check`] found something before.
    pub(crate) fn are_lost(&self) -> bool {
        self.lost.get().is_some()
    }

    /// The length of the log, as of the last check.
    pub(crate) fn wal_bytes(&self) -> u64 {
        self.log_bytes.load(Ordering::Relaxed)
    }
}

impl OpenFile {
    fn new(path: PathBuf) -> io::Result<Self> {
        let identity = identity(&fs::metadata(&path)?);
        Ok(Self { path, identity })
    }

    /// Whether what was found by its name is still this file, or what became of it.
    fn is_same(&self, found: &Metadata) -> Result<(), &'static str> {
        if identity(found) == self.identity {
            Ok(())
        } else {
            Err("was replaced by another file")
        }
    }
}

/// SQLite's name for a file that belongs to a database.
pub(crate) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}
