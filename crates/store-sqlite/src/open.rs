//! Opening a data directory: the claim on it, the file's mode and format, a connection's settings.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use thiserror::Error;

use crate::identity::beside;
use crate::log_file::{self, LogFile};
use crate::schema::{self, FORMAT, Format};

/// The database's name in the data directory.
pub const DATABASE_FILE: &str = "meshagent.db";
/// The name of the file whose lock is the claim on the data directory.
pub const LOCK_FILE: &str = "meshagent.lock";

/// The name of the file that is there while a store is open, and stays if it was not closed.
const OPEN_FILE: &str = "meshagent.open";

/// How often, and with what pause, a claim is tried that somebody else has: for one second.
const CLAIM_ATTEMPTS: u32 = 50;
const CLAIM_PAUSE: Duration = Duration::from_millis(20);
/// How long a statement waits for another process, such as a backup tool, to let go of the file.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The WAL shrinks back to this after a burst.
const WAL_KEEP_BYTES: i64 = 64 << 20;
/// Above the number of different statements that this crate has.
const CACHED_STATEMENTS: usize = 64;

/// What a commit survives.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Durability {
    /// The machine losing power: each commit waits until the disk says that it is on stable storage.
    #[default]
    Fsync,
    /// The process being killed. A power cut may lose the last commits, but never damages the file.
    Os,
}

/// How to open a store; begin with the default.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub struct Options {
    /// What a commit survives.
    pub durability: Durability,
    /// Bytes that the database file may grow to; beyond it, writes fail as on a full disk. `None` for no bound.
    pub max_bytes: Option<u64>,
}

/// Why a data directory can't be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// SQLite can't open or read it.
    #[error("can't open the database {path}")]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The directory, or a file in it, can't be made or opened.
    #[error("can't use {path} as part of the data directory")]
    Directory {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// A file that belongs to the database can't be read or written.
    #[error("can't read and write {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The file isn't ours.
    #[error("{path} is the database of another program, choose another data directory")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Another process has claimed it.
    #[error(
        "the data directory {path} is in use by another running server, stop it or choose another one"
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The log is damaged before what was acknowledged last.
    #[error(
        "{path} is damaged at byte {at}, and what was acknowledged behind that place can't be read"
    )]
    LogGap {
        /// The log.
        path: PathBuf,
        /// Where what can be read of it ends: a log that is cut to this length keeps that.
        at: u64,
    },
    /// The log does not begin as one.
    #[error(
        "{path} does not begin as a write-ahead log, so what was acknowledged in it can't be read"
    )]
    LogHeader {
        /// The log.
        path: PathBuf,
    },
    /// The database is not there, but what belonged to it is.
    #[error(
        "{path} is missing, but {left} of it is there: put the database back, or choose another data directory"
    )]
    Missing {
        /// The database.
        path: PathBuf,
        /// What is there.
        left: PathBuf,
    },
    /// A later version of this program wrote it.
    #[error(
        "{path} has format {found} and this version knows {known} at most, use a later version"
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i32,
        /// The latest format that this version knows.
        known: i32,
    },
    /// What has the database's name is a link, or a directory, say.
    #[error(
        "{path} is not a regular file: put the database itself there, or link the whole data directory"
    )]
    NoFile {
        /// What it is.
        path: PathBuf,
    },
    /// There can't be a write-ahead log.
    #[error(
        "{path} can't have a write-ahead log, as on some network file systems: choose a data directory on a disk of this machine"
    )]
    NoLog {
        /// The database.
        path: PathBuf,
    },
}

/// A data directory that no other process may use as long as this is kept.
#[derive(Debug)]
pub(crate) struct Claim(File);

impl Drop for Claim {
    fn drop(&mut self) {
        // Closing the file lets go of it too, but not while a child that was forked meanwhile has it open. If this
        // fails, closing is what is left.
        let _ = self.0.unlock();
    }
}

/// Makes the directory if it isn't there, and claims it.
///
/// Waits a moment for a claim that is just ending: the kernel lets go of a killed process's files shortly after it
/// has said that the process is gone.
pub(crate) fn claim(data_dir: &Path) -> Result<Claim, OpenError> {
    create_dir(data_dir).map_err(|source| OpenError::Directory {
        path: data_dir.to_owned(),
        source,
    })?;
    let path = data_dir.join(LOCK_FILE);
    let failed = |source| OpenError::Directory {
        path: path.clone(),
        source,
    };
    let lock = private()
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(failed)?;
    let mut attempts = CLAIM_ATTEMPTS;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(Claim(lock)),
            Err(TryLockError::WouldBlock) if attempts > 0 => {
                attempts -= 1;
                std::thread::sleep(CLAIM_PAUSE);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::InUse {
                    path: data_dir.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
    }
}

/// What a data directory was found to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Found {
    /// A database that was closed, or whose log was read again.
    Database,
    /// A database that was not closed, and whose log is gone. If no other SQLite program has folded it in, what was
    /// committed last is missing.
    DatabaseWithoutLog,
    /// A database whose log could be read only up to this byte, though more was committed behind it. With
    /// [`Durability::Os`] a power cut may leave that, or the log was damaged.
    DatabaseWithCutLog {
        /// How much of the log could be read.
        at: u64,
    },
    /// Nothing: a database was made.
    Nothing,
}

/// A database that is ready.
pub(crate) struct Opened {
    /// The writer's.
    pub(crate) connection: Connection,
    pub(crate) found: Found,
    /// Why remains of what earlier formats kept are still in the file, if they are.
    pub(crate) unsealed: Option<rusqlite::Error>,
}

/// Makes or checks the database of a claimed directory, and opens the writer's connection.
pub(crate) fn open_database(data_dir: &Path, options: &Options) -> Result<Opened, OpenError> {
    let path = data_dir.join(DATABASE_FILE);
    check_file(&path)?;
    let found = look(data_dir, &path, options.durability)?;
    if found == Found::Nothing {
        create_file(&path).map_err(|source| OpenError::Directory {
            path: path.clone(),
            source,
        })?;
    }
    let failed = |source| database_error(&path, source);
    let mut connection = connect(&path).map_err(failed)?;
    let unsealed = match schema::prepare(&mut connection).map_err(failed)? {
        Format::Current { unsealed } => unsealed,
        Format::Foreign => return Err(OpenError::Foreign { path }),
        Format::Newer(found) => {
            return Err(OpenError::NewerFormat {
                path,
                found,
                known: FORMAT,
            });
        }
    };
    check_tables(&connection).map_err(failed)?;
    // The format comes first: not even the journal mode of a file is changed that isn't ours.
    if !set_up_writer(&connection, options).map_err(failed)? {
        return Err(OpenError::NoLog { path });
    }
    Ok(Opened {
        connection,
        found,
        unsealed,
    })
}

/// What a database begins with, <https://www.sqlite.org/fileformat2.html#the_database_header>.
const DATABASE_HEADER: &[u8; 16] = b"SQLite format 3\0";

/// Whether a database may be there: a log that is left beside something else would make it look like one.
fn check_file(path: &Path) -> Result<(), OpenError> {
    let failed = |source| OpenError::Directory {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Ok(file) if file.is_file() => {}
        Ok(_) => {
            return Err(OpenError::NoFile {
                path: path.to_owned(),
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(failed(source)),
    }
    let mut header = Vec::with_capacity(DATABASE_HEADER.len());
    File::open(path)
        .and_then(|file| {
            file.take(DATABASE_HEADER.len() as u64)
                .read_to_end(&mut header)
        })
        .map_err(failed)?;
    // An empty file is one that is to be made, and with a journal the first transaction is to be undone.
    if header.is_empty() || header == DATABASE_HEADER || beside(path, "-journal").exists() {
        return Ok(());
    }
    Err(OpenError::Database {
        path: path.to_owned(),
        source: "the file is not a database, or not any more: put it back from a backup".into(),
    })
}

/// Reads what every start needs: what was copied over the database has few of its pages. Content is
/// not read: its damage is for the reader of that content.
fn check_tables(connection: &Connection) -> rusqlite::Result<()> {
    for table in ["rooms", "probe"] {
        let mut select = connection.prepare(&format!("SELECT 1 FROM {table} LIMIT 1"))?;
        select.exists([])?;
    }
    Ok(())
}

/// What is there, before anything is changed: SQLite would begin an empty database where one is missing, and delete
/// the log of the one that was there.
fn look(data_dir: &Path, path: &Path, durability: Durability) -> Result<Found, OpenError> {
    let length = |path: &Path| match fs::metadata(path) {
        Ok(file) => Ok(Some(file.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(OpenError::Directory {
            path: path.to_owned(),
            source,
        }),
    };
    let wal = beside(path, "-wal");
    let (wal_length, was_open) = (length(&wal)?, is_marked_open(data_dir));
    match length(path)? {
        Some(1..) if was_open && wal_length.is_none() => Ok(Found::DatabaseWithoutLog),
        // There is one after an unclean stop, ours or another program's.
        Some(1..) if wal_length.is_some_and(|length| length > 0) => {
            look_at_log(wal, marked_durability(data_dir).unwrap_or(durability))
        }
        Some(1..) => Ok(Found::Database),
        _ if wal_length.is_some_and(|length| length > 0) => Err(OpenError::Missing {
            path: path.to_owned(),
            left: wal,
        }),
        _ if was_open => Err(OpenError::Missing {
            path: path.to_owned(),
            left: data_dir.join(OPEN_FILE),
        }),
        _ => Ok(Found::Nothing),
    }
}

/// What the log is found to be that was written with this durability. It is opened as SQLite is going to, which would
/// not say that it may only read.
fn look_at_log(path: PathBuf, durability: Durability) -> Result<Found, OpenError> {
    let examined = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .and_then(|log| log_file::examine(&log));
    match examined {
        Ok(LogFile::Whole) => Ok(Found::Database),
        Ok(LogFile::NoHeader) => Err(OpenError::LogHeader { path }),
        Ok(LogFile::Gap { at }) => match durability {
            Durability::Fsync => Err(OpenError::LogGap { path, at }),
            Durability::Os => Ok(Found::DatabaseWithCutLog { at }),
        },
        Err(source) => Err(OpenError::File { path, source }),
    }
}

/// Notes that the database has a log now, which belongs to it until it is closed, and what its commits survive.
pub(crate) fn mark_open(data_dir: &Path, durability: Durability) -> Result<(), OpenError> {
    let path = data_dir.join(OPEN_FILE);
    let made = private()
        .create(true)
        .truncate(false)
        .open(&path)
        .and_then(|mut mark| {
            if marked_durability(data_dir) != Some(durability) {
                // A full disk keeps no server from starting: a mark that says nothing is one, too.
                let _ = mark
                    .set_len(0)
                    .and_then(|()| mark.write_all(durability_mark(durability).as_bytes()))
                    .and_then(|()| mark.sync_all());
            }
            sync_dir(data_dir)
        });
    made.map_err(|source| OpenError::Directory { path, source })
}

fn durability_mark(durability: Durability) -> &'static str {
    match durability {
        Durability::Fsync => "fsync\n",
        Durability::Os => "os\n",
    }
}

/// What the mark is to say while the log may have what a server of the other durability wrote: less than this one
/// promises.
pub(crate) fn first_mark(data_dir: &Path, durability: Durability) -> Durability {
    match marked_durability(data_dir) {
        Some(Durability::Os) => Durability::Os,
        _ => durability,
    }
}

/// That of the server which did not stop, if it is known.
fn marked_durability(data_dir: &Path) -> Option<Durability> {
    let mark = fs::read(data_dir.join(OPEN_FILE)).ok()?;
    [Durability::Fsync, Durability::Os]
        .into_iter()
        .find(|durability| mark == durability_mark(*durability).as_bytes())
}

/// Notes that the log was folded into the database and is gone.
pub(crate) fn mark_closed(data_dir: &Path) {
    let wal = beside(&data_dir.join(DATABASE_FILE), "-wal");
    if !wal.exists() {
        // A mark that stays makes the next start say more than it has to.
        let _ = fs::remove_file(data_dir.join(OPEN_FILE));
    }
}

fn is_marked_open(data_dir: &Path) -> bool {
    data_dir.join(OPEN_FILE).exists()
}

/// The writer's connection, once more.
pub(crate) fn open_writer(path: &Path, options: &Options) -> rusqlite::Result<Connection> {
    let connection = connect(path)?;
    // It has had a log before.
    set_up_writer(&connection, options)?;
    Ok(connection)
}

/// A connection that is not used: as long as it is open, the database keeps its log and the log its index, whatever
/// becomes of other connections.
pub(crate) fn open_keeper(path: &Path) -> Result<Connection, OpenError> {
    let open = || {
        let connection = connect(path)?;
        // The log is opened by the first read.
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(connection)
    };
    open().map_err(|source| database_error(path, source))
}

/// What SQLite says, unless it can't use a file beside the database: it does not tell which, and a backup of the
/// database would not help.
fn database_error(path: &Path, source: rusqlite::Error) -> OpenError {
    for suffix in ["-wal", "-shm"] {
        let path = beside(path, suffix);
        match OpenOptions::new().read(true).write(true).open(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return OpenError::File { path, source };
            }
            _ => {}
        }
    }
    OpenError::Database {
        path: path.to_owned(),
        source: Box::new(source),
    }
}

/// A connection that can't write.
pub(crate) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    // Without `SQLITE_OPEN_CREATE`: a file that vanishes while the server runs must not be replaced by an empty one.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(connection)
}

/// Whether there is a write-ahead log. Without one, readers and the writer would wait for each other, and a copy taken
/// meanwhile would not be one; memory databases and some file systems refuse it.
fn set_up_writer(connection: &Connection, options: &Options) -> rusqlite::Result<bool> {
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        return Ok(false);
    }
    let synchronous = match options.durability {
        Durability::Fsync => "FULL",
        Durability::Os => "NORMAL",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    // On macOS a plain fsync leaves the data in the disk's cache; elsewhere these change nothing.
    connection.pragma_update(None, "fullfsync", options.durability == Durability::Fsync)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // For what isn't sealed, as far as it costs no further pages. The page on which keys began needs it.
    connection.pragma_update(None, "secure_delete", "FAST")?;
    connection.pragma_update(None, "journal_size_limit", WAL_KEEP_BYTES)?;
    if let Some(max_bytes) = options.max_bytes {
        let page_size: u64 = connection
            .pragma_query_value(None, "page_size", |row| row.get::<_, i64>(0))?
            .unsigned_abs()
            .max(1);
        let pages = i64::try_from(max_bytes / page_size)
            .unwrap_or(i64::MAX)
            .max(1);
        connection.pragma_update(None, "max_page_count", pages)?;
    }
    Ok(true)
}

/// Makes the directory, and those on the way to it, for their owner only.
fn create_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Makes the file with a mode that SQLite then gives to its other files too, and lets its name and those of the
/// directories on the way to it survive a power cut. An empty file is taken for one that was left half-way.
fn create_file(path: &Path) -> io::Result<()> {
    private()
        .create(true)
        .truncate(false)
        .open(path)?
        .sync_all()?;
    let directories = path.ancestors().skip(1);
    for (depth, directory) in directories.enumerate() {
        match sync_dir(directory) {
            // Those above our own may not be ours to open.
            Err(error) if depth > 0 && error.kind() == io::ErrorKind::PermissionDenied => break,
            synced => synced?,
        }
    }
    Ok(())
}

/// For the owner only.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes new names in a directory survive a power cut.
fn sync_dir(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        File::open(path)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn database_that_can_have_no_log_is_refused() {
        let memory = Connection::open_in_memory().unwrap();
        assert!(!set_up_writer(&memory, &Options::default()).unwrap());
    }
}
