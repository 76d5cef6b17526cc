//! The reasons why a data directory can't be opened.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::error::is_out_of_space;

/// The reason why a data directory can't be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// SQLite can't open or read the database.
    #[error("can't open the database {path}")]
    Database {
        /// The file's path.
        path: PathBuf,
        /// SQLite's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The directory, or a file in it, can't be created or opened.
    #[error("can't use {path} as part of the data directory")]
    Directory {
        /// The path of the file or directory.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// A file that belongs to the database can't be read or written.
    #[error("can't read and write {path}")]
    File {
        /// The file's path.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The database is an empty file, but files that belong to it exist.
    #[error("{path} is empty, but {left} exists: put a backup in its place")]
    Empty {
        /// The path of the database.
        path: PathBuf,
        /// A file that exists.
        left: PathBuf,
    },
    /// The file is the database of another program.
    #[error("{path} is the database of another program: choose another data directory")]
    Foreign {
        /// The file's path.
        path: PathBuf,
    },
    /// Another process uses the directory.
    #[error(
        "the data directory {path} is in use by another server: stop it or choose another directory"
    )]
    InUse {
        /// The directory's path.
        path: PathBuf,
    },
    /// The database's file has another name, by which another server could use it.
    #[error(
        "{path} has another hard link: remove that, or replace this file by a copy \
         (cp, then mv) while no server runs"
    )]
    Linked {
        /// The path of the database.
        path: PathBuf,
    },
    /// The WAL is damaged before its last acknowledged transaction.
    #[error("{path} is damaged at byte {at}: acknowledged data after that byte can't be read")]
    LogGap {
        /// The path of the WAL.
        path: PathBuf,
        /// The end of the readable part, in bytes: a WAL that is cut to this length keeps
        /// that part.
        at: u64,
    },
    /// The WAL does not have a valid header.
    #[error(
        "{path} has no valid header of a write-ahead log: acknowledged data in it can't be read"
    )]
    LogHeader {
        /// The path of the WAL.
        path: PathBuf,
    },
    /// The database is missing, but files that belong to it exist.
    #[error(
        "{path} is missing, but {left} exists: put the database back or choose another directory"
    )]
    Missing {
        /// The path of the database.
        path: PathBuf,
        /// A file that exists.
        left: PathBuf,
    },
    /// A later version of this program wrote the file.
    #[error(
        "{path} has format {found}, expected at most {known}: use a later version of the program"
    )]
    NewerFormat {
        /// The file's path.
        path: PathBuf,
        /// The file's format.
        found: i32,
        /// The latest format that this version supports.
        known: i32,
    },
    /// The path of the database is a link or a directory, for example.
    #[error(
        "{path} is not a regular file: put the database there, or link the whole data directory"
    )]
    NoFile {
        /// The path of the database.
        path: PathBuf,
    },
    /// The file system does not support a write-ahead log.
    #[error(
        "{path} can't have a write-ahead log (on a network file system?): choose a local directory"
    )]
    NoLog {
        /// The path of the database.
        path: PathBuf,
    },
}

impl OpenError {
    /// Returns whether there was no space to open the database.
    pub(crate) fn is_out_of_space(&self) -> bool {
        let Self::Database { source, .. } = self else {
            return false;
        };
        source.downcast_ref().is_some_and(is_out_of_space)
    }
}
