//! The identity of the files that a store has open. A file that was deleted or replaced loses
//! everything written to it when the process ends, and SQLite does not check for that.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use meshagent_store::StoreError;

use crate::directory_watch::DirectoryWatch;
use crate::wal_index::{Found, WalIndex};

/// The duration for which a check need not be repeated if another one follows.
const RECENT: Duration = Duration::from_millis(5);
const GONE: &str = "was deleted or moved";

/// The database, its WAL and the WAL index, as they were when the store was opened. A connection
/// that stays open as long as the store prevents SQLite from replacing any of them.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    directory: OpenFile,
    database: OpenFile,
    wal: OpenFile,
    wal_file: fs::File,
    shm: OpenFile,
    index: WalIndex,
    others: Vec<OpenFile>,
    /// A thread that finds a change holds the lock until it has recorded a loss, so the next one
    /// that finds no change knows of it.
    watch: Mutex<DirectoryWatch>,
    /// The database. Close it after all connections, as the [`WalIndex`].
    #[cfg(unix)]
    file: fs::File,
    /// The length of the WAL at the last check.
    wal_bytes: AtomicU64,
    /// When all files were last found in place.
    checked: Mutex<Option<Instant>>,
    /// The first loss that was detected. It stays: a file that is put back may be any file.
    lost: OnceLock<Lost>,
}

#[derive(Debug)]
struct Lost {
    what: String,
    wal: WalState,
}

/// The state of the WAL that our connections use, after a loss.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum WalState {
    /// The WAL is complete, deleted or not.
    Whole,
    /// Only the beginning of the WAL exists.
    Cut,
    /// Another program may write to the WAL without our connections noticing.
    Shared,
}

#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    identity: Identity,
}

/// An identity that differs between files that exist at the same time. That of an open file is
/// not reused.
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
    /// Identifies the files of an open database, and those of `others` in its directory.
    pub(crate) fn open(database: &Path, others: &[PathBuf]) -> io::Result<Self> {
        let others = others.iter().cloned();
        let (wal, shm) = (beside(database, "-wal"), beside(database, "-shm"));
        // The watch begins first, so nothing changes unseen between the two.
        let watch = Mutex::new(DirectoryWatch::of_file(database));
        let wal_file = fs::File::open(&wal)?;
        let directory = database.parent().unwrap_or_else(|| Path::new("."));
        Ok(Self {
            watch,
            directory: OpenFile::new(directory.to_owned())?,
            database: OpenFile::new(database.to_owned())?,
            wal: OpenFile {
                identity: identity(&wal_file.metadata()?),
                path: wal,
            },
            wal_file,
            index: WalIndex::open(&shm)?,
            shm: OpenFile::new(shm)?,
            others: others.map(OpenFile::new).collect::<io::Result<_>>()?,
            #[cfg(unix)]
            file: fs::OpenOptions::new().write(true).open(database)?,
            wal_bytes: AtomicU64::new(0),
            checked: Mutex::new(None),
            lost: OnceLock::new(),
        })
    }

    /// Checks that the files are in place and the WAL is complete. Call it at the beginning of
    /// every transaction: a write behind a cut would restore the length of a WAL that was cut.
    /// Returns the pages of the database, as far as is known; within a write transaction, that is
    /// their number at its beginning.
    ///
    /// It costs one look-up, of the directory: whether the names in it have changed is read from a
    /// [`DirectoryWatch`], where there is one.
    ///
    /// # Errors
    /// [`StoreError::Replaced`], permanently; [`StoreError::Unavailable`] if the files can't be
    /// checked now.
    pub(crate) fn check(&self) -> Result<Option<u64>, StoreError> {
        self.check_if_changed()?;
        let pages = self.check_wal()?;
        *self.checked() = Some(Instant::now());
        Ok(pages)
    }

    /// Looks for all files by their names if some name in their directory has changed, or if their
    /// directory is not found by its own name, which a watch does not report.
    fn check_if_changed(&self) -> Result<(), StoreError> {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = fs::metadata(&self.directory.path);
        let is_same = directory.is_ok_and(|found| self.directory.is_same(&found).is_ok());
        if watch.has_changed() || !is_same {
            let found = self.check_each([&self.database, &self.shm, &self.wal]);
            // A file that could not be looked for is looked for again.
            watch.set_changed(found.is_err());
            found?;
        }
        drop(watch);
        self.check_known()
    }

    /// Calls [`check`](Self::check) unless it has just passed. Only for callers that check again
    /// before they report a result.
    ///
    /// # Errors
    /// As for [`check`](Self::check).
    pub(crate) fn check_unless_recent(&self) -> Result<(), StoreError> {
        let is_recent = |checked: Instant| checked.elapsed() < RECENT;
        if (*self.checked()).is_some_and(is_recent) {
            return self.check_known();
        }
        self.check().map(drop)
    }

    fn checked(&self) -> MutexGuard<'_, Option<Instant>> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks that the WAL is complete; returns the pages of the database, if they are known.
    fn check_wal(&self) -> Result<Option<u64>, StoreError> {
        self.check_known()?;
        let length = || {
            let length = self.wal_file.metadata()?.len();
            self.wal_bytes.store(length, Ordering::Relaxed);
            Ok(length)
        };
        let found = self.index.find(length);
        let Found { is_complete, pages } =
            found.map_err(|error| StoreError::Unavailable(Box::new(error)))?;
        if !is_complete {
            self.lose(Lost {
                what: format!("{} was cut short", self.wal.path.display()),
                wal: WalState::Cut,
            });
        }
        self.check_known()?;
        Ok(pages)
    }

    /// Checks the files after a write. A failure to check does not undo the write; the next write
    /// will report it.
    ///
    /// # Errors
    /// [`StoreError::Replaced`], permanently.
    pub(crate) fn check_written(&self) -> Result<(), StoreError> {
        let _ = self.check_if_changed();
        let _ = self.check_wal();
        self.check_known()
    }

    /// Checks all files by their names, including those that [`check`](Self::check) skips.
    pub(crate) fn check_all(&self) -> Result<(), StoreError> {
        self.check_each([&self.shm, &self.wal])?;
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
                // The file may exist.
                Err(error) => return Err(StoreError::Unavailable(Box::new(error))),
            }
        }
        self.check_known()
    }

    fn lose_file(&self, file: &OpenFile, what: &str) {
        self.lose(Lost {
            what: format!("{} {what}", file.path.display()),
            // A program that finds no WAL index creates another.
            wal: if file.path == self.shm.path {
                WalState::Shared
            } else {
                WalState::Whole
            },
        });
    }

    fn lose(&self, lost: Lost) {
        let _ = self.lost.set(lost);
    }

    /// Returns the loss that was detected before, without another check.
    pub(crate) fn check_known(&self) -> Result<(), StoreError> {
        match self.lost.get() {
            None => Ok(()),
            Some(lost) => Err(StoreError::Replaced(lost.what.clone().into())),
        }
    }

    /// Returns whether the WAL can still be moved into the database, which is still in place.
    pub(crate) fn can_be_rescued(&self) -> bool {
        self.has_valid_wal()
            && fs::metadata(&self.database.path)
                .is_ok_and(|found| identity(&found) == self.database.identity)
    }

    /// Returns whether our connections use a valid WAL, as far as is known.
    pub(crate) fn has_valid_wal(&self) -> bool {
        self.lost
            .get()
            .is_none_or(|lost| lost.wal == WalState::Whole)
    }

    /// Empties what is left of a WAL that was cut, if the database contains all of it, and
    /// everything that came after it. Otherwise the next start would take the old pages in it for
    /// the newest.
    pub(crate) fn drop_outdated_wal(&self) -> io::Result<()> {
        if self.lost.get().is_none_or(|lost| lost.wal != WalState::Cut) {
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

    /// Extends the database's file, of which `from` bytes are committed, to `to` bytes, so that a
    /// checkpoint finds the space. Call it within a write transaction: then no other program writes
    /// beyond the committed pages.
    ///
    /// # Errors
    /// The disk is full, for example.
    #[cfg(unix)]
    pub(crate) fn grow(&self, from: u64, to: u64) -> io::Result<()> {
        use std::os::unix::fs::FileExt as _;
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let start = self.file.metadata()?.len().max(from);
        let mut at = start;
        while at < to {
            let rest = usize::try_from(to - at).unwrap_or(usize::MAX);
            let part = &ZEROS[..rest.min(ZEROS.len())];
            if let Err(error) = self.file.write_all_at(part, at) {
                let _ = self.file.set_len(start);
                return Err(error);
            }
            at += part.len() as u64;
        }
        Ok(())
    }

    #[cfg(not(unix))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "the signature on other systems"
    )]
    pub(crate) fn grow(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    /// Returns whether [`OpenFiles::check`] has detected a loss.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.get().is_some()
    }

    /// Returns the length of the WAL at the last check.
    pub(crate) fn wal_bytes(&self) -> u64 {
        self.wal_bytes.load(Ordering::Relaxed)
    }
}

impl OpenFile {
    fn new(path: PathBuf) -> io::Result<Self> {
        let identity = identity(&fs::metadata(&path)?);
        Ok(Self { path, identity })
    }

    /// Checks that the file found by this name is still the same one; the error describes
    /// the change.
    fn is_same(&self, found: &Metadata) -> Result<(), &'static str> {
        if identity(found) == self.identity {
            Ok(())
        } else {
            Err("was replaced by another file")
        }
    }
}

/// Returns SQLite's name for a file that belongs to a database.
pub(crate) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}
