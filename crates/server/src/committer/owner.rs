//! The ownership of a room in the store. A room's driver shares it with the committer, which names
//! it in each of the room's batches; the room itself does not know of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use meshagent_store::{AsyncStore, Epoch, RoomId, StoreError};
use tokio::sync::OnceCell;

#[derive(Debug)]
pub(crate) struct Owner {
    room: RoomId,
    /// The epoch since the room was taken over.
    taken: OnceCell<Epoch>,
    /// The epoch since it was renewed last; 0 before the first time.
    renewed: AtomicU64,
}

impl Owner {
    /// Creates the owner of a room that has not been taken over yet.
    pub(crate) fn new(room: RoomId) -> Arc<Self> {
        Arc::new(Self {
            room,
            taken: OnceCell::new(),
            renewed: AtomicU64::new(0),
        })
    }

    pub(super) fn room(&self) -> &RoomId {
        &self.room
    }

    fn renewed(&self) -> Option<Epoch> {
        let epoch = self.renewed.load(Ordering::Acquire);
        (epoch > 0).then_some(Epoch(epoch))
    }

    /// Takes the room over, unless that is done, and returns the epoch. A room reads and writes
    /// nothing before that.
    ///
    /// # Errors
    /// The store can't be written.
    pub(crate) async fn take(&self, store: &dyn AsyncStore) -> Result<Epoch, StoreError> {
        if let Some(epoch) = self.renewed() {
            return Ok(epoch);
        }
        let take_over = || store.take_over(&self.room, None);
        self.taken.get_or_try_init(take_over).await.copied()
    }

    /// Takes the room over from itself, so that none of its earlier batches can still arrive. Only
    /// the committer does that, while no other batch of the room is in flight.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] if the room has another owner. That is also the case if an earlier
    /// renewal took effect and its answer was lost.
    pub(super) async fn renew(&self, store: &dyn AsyncStore) -> Result<(), StoreError> {
        let before = self.take(store).await?;
        let epoch = store.take_over(&self.room, Some(before)).await?;
        self.renewed.store(epoch.0, Ordering::Release);
        Ok(())
    }

    /// Gives the room up.
    pub(super) async fn release(&self, store: &dyn AsyncStore) -> Result<(), StoreError> {
        match self.renewed().or_else(|| self.taken.get().copied()) {
            Some(epoch) => store.release(&self.room, epoch).await,
            None => Ok(()),
        }
    }
}
