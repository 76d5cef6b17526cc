//! Reads of a room from the store, on a thread for blocking work.

use meshagent_ledger::Charge;
use meshagent_store::{EntryKind, RoomId, Store, StoreError};

use crate::reads::SMALL_BYTES;
use crate::room::{ENTRY_BYTES, Fetch, FetchResult, WholeFile};
use crate::usage::Usage;

/// Entries of a list that needs no space.
const SMALL_LIST: usize = SMALL_BYTES / ENTRY_BYTES;

/// Result of the first look at the store.
pub(super) enum First {
    /// The result: it is small, or its size was unknown.
    Read(FetchResult, Charge),
    /// The size of a result that needs space first.
    Large(Fetch, usize),
}

/// Reads a small result, or one whose size the store can't report. For other reads returns the
/// size; for a long list, the largest possible one.
pub(super) fn read_if_small(
    store: &dyn Store,
    room: &RoomId,
    fetch: Fetch,
    usage: &Usage,
) -> Result<First, StoreError> {
    let stored = |path: &str, kind| {
        let entry = store.stat(room, path)?.filter(|entry| entry.kind == kind);
        let size = entry.map(|entry| entry.size.unwrap_or_default());
        Ok(size.map(|size| usize::try_from(size).unwrap_or(usize::MAX)))
    };
    let bytes = match &fetch {
        Fetch::Document { path } => match stored(path, EntryKind::Document)? {
            None => return Ok(First::Read(FetchResult::Document(None), Charge::none())),
            Some(bytes) => bytes,
        },
        Fetch::DocumentById { bytes, .. } => *bytes,
        // A file that is larger than `max` is not read.
        Fetch::File { path, max } => stored(path, EntryKind::File)?
            .filter(|bytes| bytes <= max)
            .unwrap_or_default(),
        Fetch::List { path, max } if *max > SMALL_LIST => {
            let entries = store.list(room, path, SMALL_LIST + 1)?;
            if entries
                .as_ref()
                .is_some_and(|entries| entries.len() > SMALL_LIST)
            {
                let bytes = max.saturating_mul(ENTRY_BYTES);
                return Ok(First::Large(fetch, bytes));
            }
            let result = FetchResult::List(entries);
            let charge = usage.charge_read(result.bytes());
            return Ok(First::Read(result, charge));
        }
        // The download charges a part of a file.
        Fetch::List { .. }
        | Fetch::OpenFile { .. }
        | Fetch::FilePart { .. }
        | Fetch::Stat { .. } => 0,
    };
    if bytes > SMALL_BYTES {
        return Ok(First::Large(fetch, bytes));
    }
    let mut charge = usage.charge_read(bytes);
    let result = read(store, room, fetch)?;
    charge.grow_anyway(result.bytes().saturating_sub(bytes));
    Ok(First::Read(result, charge))
}

/// Runs a read of a room.
pub(crate) fn read(
    store: &dyn Store,
    room: &RoomId,
    fetch: Fetch,
) -> Result<FetchResult, StoreError> {
    Ok(match fetch {
        Fetch::Document { path } => FetchResult::Document(store.load(room, &path)?),
        Fetch::DocumentById { document, .. } => FetchResult::Document(store.load_by_id(document)?),
        Fetch::File { path, max } => FetchResult::File(read_whole(store, room, &path, max)?),
        Fetch::OpenFile { path } => FetchResult::OpenFile(store.open_file(room, &path)?),
        Fetch::FilePart {
            path,
            mut reading,
            length,
        } => {
            let part = reading.next(store, room, &path, length)?;
            FetchResult::FilePart(part.map(|part| (part, reading)))
        }
        Fetch::Stat { path } => FetchResult::Stat(store.stat(room, &path)?),
        Fetch::List { path, max } => FetchResult::List(store.list(room, &path, max)?),
    })
}

/// Reads a file as a whole, unless it is longer than `max` bytes.
fn read_whole(
    store: &dyn Store,
    room: &RoomId,
    path: &str,
    max: usize,
) -> Result<WholeFile, StoreError> {
    let entry = store.stat(room, path)?;
    let size = entry
        .filter(|entry| entry.kind == EntryKind::File)
        .and_then(|entry| entry.size);
    let is_too_large = |size: u64| size > max as u64;
    if let Some(size) = size.filter(|size| is_too_large(*size)) {
        return Ok(WholeFile::TooLarge(size));
    }
    Ok(match store.read_file(room, path)? {
        None => WholeFile::Missing,
        // Another file has replaced it since `stat`.
        Some(file) if is_too_large(file.data.len() as u64) => {
            WholeFile::TooLarge(file.data.len() as u64)
        }
        Some(file) => WholeFile::Read(file),
    })
}
