//! Reads of a room from the store.

use std::sync::Arc;

use meshagent_ledger::Charge;
use meshagent_store::{AsyncStore, EntryKind, RoomId, StoreError, block_on};

use super::Rooms;
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
pub(super) async fn read_if_small(
    store: &dyn AsyncStore,
    room: &RoomId,
    fetch: Fetch,
    usage: &Usage,
) -> Result<First, StoreError> {
    let bytes = match &fetch {
        Fetch::Document { path } => {
            match stored_bytes(store, room, path, EntryKind::Document).await? {
                None => return Ok(First::Read(FetchResult::Document(None), Charge::none())),
                Some(bytes) => bytes,
            }
        }
        Fetch::DocumentById { bytes, .. } => *bytes,
        // A file that is larger than `max` is not read.
        Fetch::File { path, max } => stored_bytes(store, room, path, EntryKind::File)
            .await?
            .filter(|bytes| bytes <= max)
            .unwrap_or_default(),
        Fetch::List { path, max } if *max > SMALL_LIST => {
            let entries = store.list(room, path, SMALL_LIST + 1).await?;
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
    let result = read(store, room, fetch).await?;
    charge.grow_anyway(result.bytes().saturating_sub(bytes));
    Ok(First::Read(result, charge))
}

/// The stored size of an entry, if there is one of this kind.
async fn stored_bytes(
    store: &dyn AsyncStore,
    room: &RoomId,
    path: &str,
    kind: EntryKind,
) -> Result<Option<usize>, StoreError> {
    let entry = store.stat(room, path).await?;
    let entry = entry.filter(|entry| entry.kind == kind);
    let size = entry.map(|entry| entry.size.unwrap_or_default());
    Ok(size.map(|size| usize::try_from(size).unwrap_or(usize::MAX)))
}

/// Runs a read of a room.
pub(crate) async fn read(
    store: &dyn AsyncStore,
    room: &RoomId,
    fetch: Fetch,
) -> Result<FetchResult, StoreError> {
    Ok(match fetch {
        Fetch::Document { path } => FetchResult::Document(store.load(room, &path).await?),
        Fetch::DocumentById { document, .. } => {
            FetchResult::Document(store.load_by_id(document).await?)
        }
        Fetch::File { path, max } => FetchResult::File(read_whole(store, room, &path, max).await?),
        Fetch::OpenFile { path } => FetchResult::OpenFile(store.open_file(room, &path).await?),
        Fetch::FilePart {
            path,
            mut reading,
            length,
        } => {
            let part = reading.next(store, room, &path, length).await?;
            FetchResult::FilePart(part.map(|part| (part, reading)))
        }
        Fetch::Stat { path } => FetchResult::Stat(store.stat(room, &path).await?),
        Fetch::List { path, max } => FetchResult::List(store.list(room, &path, max).await?),
    })
}

/// Reads a file as a whole, unless it is longer than `max` bytes.
async fn read_whole(
    store: &dyn AsyncStore,
    room: &RoomId,
    path: &str,
    max: usize,
) -> Result<WholeFile, StoreError> {
    let entry = store.stat(room, path).await?;
    let size = entry
        .filter(|entry| entry.kind == EntryKind::File)
        .and_then(|entry| entry.size);
    let is_too_large = |size: u64| size > max as u64;
    if let Some(size) = size.filter(|size| is_too_large(*size)) {
        return Ok(WholeFile::TooLarge(size));
    }
    Ok(match store.read_file(room, path).await? {
        None => WholeFile::Missing,
        // Another file has replaced it since `stat`.
        Some(file) if is_too_large(file.data.len() as u64) => {
            WholeFile::TooLarge(file.data.len() as u64)
        }
        Some(file) => WholeFile::Read(file),
    })
}

impl Rooms {
    /// Reads from the store, after waiting for a turn.
    ///
    /// # Errors
    /// If the store can't be read.
    pub(crate) async fn read<T, F>(
        &self,
        read: impl FnOnce(Arc<dyn AsyncStore>) -> F + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let turn = self.reads.turn().await;
        let store = Arc::clone(&self.store);
        let blocks = store.blocks();
        let reading = async move {
            // The turn lasts as long as the read, even if its result is no longer awaited.
            let _turn = turn;
            read(store).await
        };
        let reading = if blocks {
            tokio::task::spawn_blocking(move || block_on(reading))
        } else {
            tokio::spawn(reading)
        };
        reading
            .await
            .unwrap_or_else(|error| Err(StoreError::Unavailable(error.into())))
    }

    /// Reads for the holder of a link to a file, who is in no room. The links take turns, and all
    /// of them together take turns with the rooms.
    ///
    /// # Errors
    /// See [`Rooms::read`].
    pub(crate) async fn read_for_link<T, F>(
        &self,
        link: &Arc<str>,
        read: impl FnOnce(Arc<dyn AsyncStore>) -> F + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let turn = self.reads.link_turn(link).await;
        let read = move |store| async move {
            // The turn lasts as long as the read, even if its result is no longer awaited.
            let _turn = turn;
            read(store).await
        };
        self.read(read).await
    }
}

/// Reads from a store that blocks.
#[cfg(test)]
pub(crate) fn read_now(
    store: &dyn meshagent_store::Store,
    room: &RoomId,
    fetch: Fetch,
) -> Result<FetchResult, StoreError> {
    let store = meshagent_store::Embedded(store);
    block_on(read(&store, room, fetch))
}
