//! Storage for a room server: the [`Store`] trait, a store in memory, a conformance suite that
//! every store passes, and a store that fails on demand.
//!
//! The crate contains no database, opens no file, starts no task and reads no clock: timestamps are
//! part of the writes. The calls of a [`Store`] block; those of an [`AsyncStore`] may wait. A
//! server uses the second form, and [`Embedded`] makes it of the first.
//!
//! A room's documents and files share one namespace of paths with the semantics of object
//! storage: a folder exists while an entry lies below it, and `a` and `a/b` may both exist.
//! Callers pass normalised paths (no leading, trailing or doubled `/`); the empty path is the
//! room's root folder.

mod entry;
mod failing;
mod id;
mod memory;
mod reach;
mod reading;
mod store;
mod waiting;
mod write;

pub mod conformance;
pub mod path;
pub mod provenance;

pub use entry::{
    Entry, EntryKind, FileHead, FileVersion, StoreStats, StoredDocument, StoredFile, StoredUpdate,
};
pub use failing::{FailingStore, Fault};
pub use id::{DocumentId, Epoch, RoomId, Seq, Timestamp};
pub use memory::MemoryStore;
pub use provenance::{Author, Contribution, OperationRange, ProvenanceRecord};
pub use reach::{Kinds, Reach};
pub use reading::{FileReading, FileSum};
pub use store::{BoxError, Staging, Store, StoreError};
pub use waiting::{Answer, AsyncStore, Blocking, Embedded, block_on};
pub use write::{
    Batch, MAX_TOUCHED_ENTRIES, MAX_TOUCHED_PATH_BYTES, MovedEntry, Removed, Touched, Write,
    WriteError, Written,
};
