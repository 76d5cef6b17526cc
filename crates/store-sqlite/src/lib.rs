//! The embedded store: one SQLite file in a data directory, one writer, group commit.
//!
//! All rooms of a server share one file, `meshagent.db`, in WAL mode: one sync makes everything
//! that arrived in the meantime durable, and readers never wait for the writer. Any SQLite tool can
//! read the file, and back it up, while the server runs. Every value from a client carries a
//! checksum that is compared when the value is read. Corrupt provenance is reported by `provenance`
//! and never blocks loading a document.
//!
//! A data directory belongs to one process at a time. A file lock ensures that; the operating
//! system releases it when the process ends for any reason.
//!
//! The store does not merge updates and does not interpret their content.

mod authors;
mod checksum;
mod contents;
mod directory_watch;
mod erased_keys;
mod error;
mod files;
mod freeing;
mod identity;
mod open;
mod owners;
mod provenance;
mod read;
mod readers;
mod reserve;
mod schema;
mod seal;
mod sqlite_store;
mod upgrade;
mod wal_file;
mod wal_index;
mod write;
mod writer;

pub use open::{DATABASE_FILE, Durability, Found, LOCK_FILE, OpenError, Options};
pub use reserve::RESERVE_FILE;
pub use sqlite_store::SqliteStore;
