//! Opening a data directory: its lock, the file's mode and format, the settings of a connection.

mod error;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

pub use self::error::OpenError;
use crate::identity::beside;
use crate::reserve::RESERVE_FILE;
use crate::schema::{self, FORMAT, Format};
use crate::wal_file::{self, WalFile};

/// The database's name in the data directory.
pub const DATABASE_FILE: &str = "meshagent.db";
/// The name of the file that is locked while a process uses the data directory.
pub const LOCK_FILE: &str = "meshagent.lock";

/// The name of the file that exists while a store is open, and stays if the store was not closed.
const OPEN_FILE: &str = "meshagent.open";

/// The number of attempts to lock a directory that is in use, and the pause between them: one
/// second in total.
const LOCK_ATTEMPTS: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// The time for which a statement waits for another process, such as a backup tool, to release
/// the file.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The size in bytes to which the WAL shrinks after a burst.
const WAL_KEEP_BYTES: i64 = 64 << 20;
/// The size of the writer's page cache.
const WRITER_CACHE_KIB: i64 = 16 << 10;
/// The capacity for cached statements, above the number of different statements in this crate.
const CACHED_STATEMENTS: usize = 64;

/// The failures that a commit survives.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Durability {
    /// A power failure: each commit waits until the disk reports that it is on stable storage.
    #[default]
    Fsync,
    /// The death of the process. A power failure may lose the last commits, but never damages
    /// the file.
    Os,
}

/// Options of a store; begin with the default.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub struct Options {
    /// The failures that a commit survives.
    pub durability: Durability,
    /// The size in bytes to which the database file may grow; beyond it, writes fail as on a full
    /// disk. `None` for no limit.
    pub max_bytes: Option<u64>,
}

/// The lock on a data directory; no other process may use the directory while this exists.
#[derive(Debug)]
pub(crate) struct DirectoryLock(File);

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Closing the file would release the lock too, but not while a child process that was
        // forked in the meantime has it open. If this fails, closing remains.
        let _ = self.0.unlock();
    }
}

/// Creates the directory if it does not exist, and locks it.
///
/// It waits for a moment for a lock that is about to be released: the kernel releases the locks of
/// a killed process shortly after it has reported the end of the process.
pub(crate) fn lock_directory(data_dir: &Path) -> Result<DirectoryLock, OpenError> {
    create_dir(data_dir).map_err(|source| OpenError::Directory {
        path: data_dir.to_owned(),
        source,
    })?;
    check_writable(data_dir)?;
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
    let mut attempts = LOCK_ATTEMPTS;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(DirectoryLock(lock)),
            Err(TryLockError::WouldBlock) if attempts > 0 => {
                attempts -= 1;
                std::thread::sleep(LOCK_PAUSE);
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

/// Checks that files can be created in the directory: SQLite would report that it can't open the
/// database. A full disk is not an obstacle yet.
fn check_writable(data_dir: &Path) -> Result<(), OpenError> {
    let path = data_dir.join("meshagent.try");
    match private().create(true).truncate(false).open(&path) {
        Ok(_) => {
            let _ = fs::remove_file(&path);
            Ok(())
        }
        Err(source)
            if matches!(
                source.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            Err(OpenError::Directory {
                path: data_dir.to_owned(),
                source,
            })
        }
        Err(_) => Ok(()),
    }
}

/// The state in which a data directory was found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Found {
    /// A database that was closed, or whose WAL was read completely.
    Database,
    /// A database that was not closed, and whose WAL is missing. Unless another SQLite program has
    /// moved the WAL into the database, the last commits are lost.
    DatabaseWithoutLog,
    /// A database whose WAL was readable only up to this byte, although more was committed after
    /// it. With [`Durability::Os`] a power failure may leave that; otherwise the WAL was damaged.
    DatabaseWithCutLog {
        /// The length of the readable part, in bytes.
        at: u64,
    },
    /// No database existed; it was created.
    Nothing,
}

/// A database that is ready for use.
pub(crate) struct Opened {
    /// The writer's connection.
    pub(crate) connection: Connection,
    pub(crate) found: Found,
    /// The reason why unsealed content of earlier formats is still in the file's free pages, if
    /// it is.
    pub(crate) unsealed: Option<rusqlite::Error>,
}

/// Creates or checks the database of a locked directory, and opens the writer's connection.
pub(crate) fn open_database(data_dir: &Path, options: &Options) -> Result<Opened, OpenError> {
    let path = data_dir.join(DATABASE_FILE);
    check_file(&path)?;
    let found = inspect(data_dir, &path, options.durability)?;
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
    // The format is checked first: the file of another program is not changed, not even its
    // journal mode.
    if !set_up_writer(&connection, options).map_err(failed)? {
        return Err(OpenError::NoLog { path });
    }
    Ok(Opened {
        connection,
        found,
        unsealed,
    })
}

/// The first bytes of a database, <https://www.sqlite.org/fileformat2.html#the_database_header>.
const DATABASE_HEADER: &[u8; 16] = b"SQLite format 3\0";

/// Checks that the file may be a database: a leftover WAL would make another file look like one.
fn check_file(path: &Path) -> Result<(), OpenError> {
    let failed = |source| OpenError::Directory {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Ok(file) if file.is_file() => {
            // Under another name the file would have another lock and another WAL.
            #[cfg(unix)]
            if std::os::unix::fs::MetadataExt::nlink(&file) > 1 {
                return Err(OpenError::Linked {
                    path: path.to_owned(),
                });
            }
        }
        Ok(_) => {
            return Err(OpenError::NoFile {
                path: path.to_owned(),
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(failed(source)),
    }
    let mut header = Vec::with_capacity(DATABASE_HEADER.len());
    // SQLite would open a file that it may not write, and fail later.
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .and_then(|file| {
            file.take(DATABASE_HEADER.len() as u64)
                .read_to_end(&mut header)
        })
        .map_err(|source| OpenError::File {
            path: path.to_owned(),
            source,
        })?;
    // An empty file is a database to be created, and a journal means that the first transaction
    // will be rolled back.
    if header.is_empty() || header == DATABASE_HEADER || beside(path, "-journal").exists() {
        return Ok(());
    }
    Err(OpenError::Database {
        path: path.to_owned(),
        source: "the file is not an SQLite database: restore it from a backup".into(),
    })
}

/// Reads the tables that every start needs: a file that was copied over the database lacks most of
/// its pages. Content is not read: its damage is reported to the reader of that content.
fn check_tables(connection: &Connection) -> rusqlite::Result<()> {
    for table in ["rooms", "probe"] {
        let mut select = connection.prepare(&format!("SELECT 1 FROM {table} LIMIT 1"))?;
        select.exists([])?;
    }
    Ok(())
}

/// Inspects the files before anything is changed: SQLite would create an empty database in place of
/// a missing one, and delete the WAL of the missing one.
fn inspect(data_dir: &Path, path: &Path, durability: Durability) -> Result<Found, OpenError> {
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
        // A WAL exists after an unclean stop, of this program or another one.
        Some(1..) if wal_length.is_some_and(|length| length > 0) => {
            inspect_wal(wal, marked_durability(data_dir).unwrap_or(durability))
        }
        Some(1..) => Ok(Found::Database),
        found => {
            let reserve = data_dir.join(RESERVE_FILE);
            let left = if wal_length.is_some_and(|length| length > 0) {
                wal
            } else if was_open {
                data_dir.join(OPEN_FILE)
            // It is filled only after the database was created.
            } else if length(&reserve)?.is_some_and(|length| length > 0) {
                reserve
            } else {
                return Ok(Found::Nothing);
            };
            let path = path.to_owned();
            Err(match found {
                Some(_) => OpenError::Empty { path, left },
                None => OpenError::Missing { path, left },
            })
        }
    }
}

/// Inspects a WAL that was written with this durability. It is opened for writing as SQLite will
/// open it: SQLite would not report that it may only read.
fn inspect_wal(path: PathBuf, durability: Durability) -> Result<Found, OpenError> {
    let examined = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .and_then(|wal| wal_file::examine(&wal));
    match examined {
        Ok(WalFile::Whole) => Ok(Found::Database),
        Ok(WalFile::NoHeader) => Err(OpenError::LogHeader { path }),
        Ok(WalFile::Gap { at }) => match durability {
            Durability::Fsync => Err(OpenError::LogGap { path, at }),
            Durability::Os => Ok(Found::DatabaseWithCutLog { at }),
        },
        Err(source) => Err(OpenError::File { path, source }),
    }
}

/// Records that the database has a WAL now, which belongs to it until it is closed, and the
/// durability of its commits.
pub(crate) fn mark_open(data_dir: &Path, durability: Durability) -> Result<(), OpenError> {
    let path = data_dir.join(OPEN_FILE);
    let made = private()
        .create(true)
        .truncate(false)
        .open(&path)
        .and_then(|mut mark| {
            if marked_durability(data_dir) != Some(durability) {
                // A full disk must not prevent a start: an empty mark is a mark, too.
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

/// Returns the durability to record while the WAL may contain commits of a server with the other
/// durability: the lower one.
pub(crate) fn first_mark(data_dir: &Path, durability: Durability) -> Durability {
    match marked_durability(data_dir) {
        Some(Durability::Os) => Durability::Os,
        _ => durability,
    }
}

/// Returns the durability of the server that was not stopped, if it is known.
fn marked_durability(data_dir: &Path) -> Option<Durability> {
    let mark = fs::read(data_dir.join(OPEN_FILE)).ok()?;
    [Durability::Fsync, Durability::Os]
        .into_iter()
        .find(|durability| mark == durability_mark(*durability).as_bytes())
}

/// Records that the WAL was moved into the database and removed.
pub(crate) fn mark_closed(data_dir: &Path) {
    let wal = beside(&data_dir.join(DATABASE_FILE), "-wal");
    if !wal.exists() {
        // A mark that stays only causes an unneeded warning at the next start.
        let _ = fs::remove_file(data_dir.join(OPEN_FILE));
    }
}

fn is_marked_open(data_dir: &Path) -> bool {
    data_dir.join(OPEN_FILE).exists()
}

/// Opens another connection for the writer.
pub(crate) fn open_writer(path: &Path, options: &Options) -> rusqlite::Result<Connection> {
    let connection = connect(path)?;
    // The database has had a WAL before.
    set_up_writer(&connection, options)?;
    Ok(connection)
}

/// Opens a connection that is not used: as long as it is open, the database keeps its WAL and the
/// WAL its index, whatever happens to other connections.
pub(crate) fn open_keeper(path: &Path) -> Result<Connection, OpenError> {
    let open = || {
        let connection = connect(path)?;
        // The first read opens the WAL.
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(connection)
    };
    open().map_err(|source| database_error(path, source))
}

/// Returns SQLite's error, unless a file beside the database can't be used: SQLite does not name
/// that file, and a backup of the database would not help.
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

/// Opens a connection that can't write.
pub(crate) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    // Without `SQLITE_OPEN_CREATE`: a file that vanishes while the server runs must not be replaced
    // by an empty one.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(connection)
}

/// Sets up the writer's connection; returns whether the database has a write-ahead log. Without
/// one, readers and the writer would wait for each other, and a copy taken while the server runs
/// would be inconsistent. Memory databases and some file systems do not support one.
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
    // On macOS a plain fsync leaves the data in the disk's cache; elsewhere these have no effect.
    connection.pragma_update(None, "fullfsync", options.durability == Durability::Fsync)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    // A move of a folder changes many pages. Those that don't fit into the cache, or the copies of
    // them for the case that the move is refused, would be written and read several times.
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // For unsealed values, as far as it costs no further pages. The first page of the keys table
    // needs it.
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

/// Creates the directory and its missing parents, for their owner only.
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

/// Creates the file with a mode that SQLite then gives to its other files too, and syncs its name
/// and those of its parent directories, so that they survive a power failure. An empty file counts
/// as one whose creation was interrupted.
fn create_file(path: &Path) -> io::Result<()> {
    private()
        .create(true)
        .truncate(false)
        .open(path)?
        .sync_all()?;
    let directories = path.ancestors().skip(1);
    for (depth, directory) in directories.enumerate() {
        match sync_dir(directory) {
            // Directories above the data directory may not be readable.
            Err(error) if depth > 0 && error.kind() == io::ErrorKind::PermissionDenied => break,
            synced => synced?,
        }
    }
    Ok(())
}

/// Returns options for files that only the owner may read and write.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Syncs a directory, so that new names in it survive a power failure.
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
    fn database_without_wal_support_is_refused() {
        let memory = Connection::open_in_memory().unwrap();
        assert!(!set_up_writer(&memory, &Options::default()).unwrap());
    }
}
