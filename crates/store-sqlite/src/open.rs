//! Opening a data directory: the claim on it, the file's mode and format, a connection's settings.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use thiserror::Error;

use crate::schema::{self, FORMAT, Format};

/// The database's name in the data directory.
pub const DATABASE_FILE: &str = "meshagent.db";
/// The name of the file whose lock is the claim on the data directory.
pub const LOCK_FILE: &str = "meshagent.lock";

/// How often, and with what pause, a claim is tried that somebody else has: for one second.
const CLAIM_ATTEMPTS: u32 = 50;
const CLAIM_PAUSE: Duration = Duration::from_millis(20);
/// How long a statement waits for another process, such as a backup tool, to let go of the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
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

/// Makes or checks the database of a claimed directory, and opens the writer's connection.
pub(crate) fn open_database(data_dir: &Path, options: &Options) -> Result<Connection, OpenError> {
    let path = data_dir.join(DATABASE_FILE);
    create_file(&path).map_err(|source| OpenError::Directory {
        path: path.clone(),
        source,
    })?;
    let failed = |source| OpenError::Database {
        path: path.clone(),
        source: Box::new(source),
    };
    let mut connection = connect(&path).map_err(failed)?;
    match schema::prepare(&mut connection).map_err(failed)? {
        Format::Current => {}
        Format::Foreign => return Err(OpenError::Foreign { path }),
        Format::Newer(found) => {
            return Err(OpenError::NewerFormat {
                path,
                found,
                known: FORMAT,
            });
        }
    }
    // The format comes first: not even the journal mode of a file is changed that isn't ours.
    set_up_writer(&connection, options).map_err(failed)?;
    Ok(connection)
}

/// The writer's connection, once more.
pub(crate) fn open_writer(path: &Path, options: &Options) -> rusqlite::Result<Connection> {
    let connection = connect(path)?;
    set_up_writer(&connection, options)?;
    Ok(connection)
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

fn set_up_writer(connection: &Connection, options: &Options) -> rusqlite::Result<()> {
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    debug_assert_eq!(
        mode, "wal",
        "only memory databases and old file systems refuse it"
    );
    let synchronous = match options.durability {
        Durability::Fsync => "FULL",
        Durability::Os => "NORMAL",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    // On macOS a plain fsync leaves the data in the disk's cache; elsewhere these change nothing.
    connection.pragma_update(None, "fullfsync", options.durability == Durability::Fsync)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    connection.pragma_update(None, "foreign_keys", true)?;
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
    Ok(())
}

fn create_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Makes the file with a mode that SQLite then gives to its other files too.
fn create_file(path: &Path) -> io::Result<()> {
    match private().create_new(true).open(path) {
        Ok(file) => {
            file.sync_all()?;
            path.parent().map_or(Ok(()), sync_dir)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
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
