//! The embedded store: one SQLite file in a data directory, one writer, group commit.
//!
//! All rooms of a server share one file, `meshagent.db`, in WAL mode, so that one sync makes all that arrived
//! meanwhile durable and readers never wait for the writer. Any SQLite tool can read it while the server runs,
//! and back it up. Every value that clients gave us carries a checksum that is compared when it is read.
//! Damage to who made an update is told by `provenance` and keeps nobody from the document.
//!
//! A data directory belongs to one process at a time. The claim is a file lock, which the operating system lets go
//! when the process ends, however it ends.
//!
//! It merges no updates and knows nothing of what is in them.

mod authors;
mod checksum;
mod contents;
mod error;
mod files;
mod freeing;
mod identity;
mod log_file;
mod log_index;
mod open;
mod provenance;
mod read;
mod readers;
mod schema;
mod seal;
mod sqlite_store;
mod upgrade;
mod write;
mod writer;

pub use open::{DATABASE_FILE, Durability, Found, LOCK_FILE, OpenError, Options};
pub use sqlite_store::SqliteStore;
