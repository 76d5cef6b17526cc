//! The owners of the rooms. The lock on the directory keeps other processes out, so the epochs
//! order only the rooms of this process, and are kept in memory.

use std::collections::HashMap;

use meshagent_store::{Epoch, RoomId, StoreError};

/// The epoch of each room that has an owner.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    epochs: HashMap<RoomId, Epoch>,
    /// The highest epoch of any room so far.
    last: Epoch,
}

impl Owners {
    /// Returns the present epoch of a room. After its owner has ended, it is one that no owner has.
    pub(super) fn epoch(&self, room: &RoomId) -> Epoch {
        self.epochs.get(room).copied().unwrap_or_default()
    }

    pub(crate) fn take_over(
        &mut self,
        room: &RoomId,
        from: Option<Epoch>,
    ) -> Result<Epoch, StoreError> {
        let epoch = self.epoch(room);
        if from.is_some_and(|from| from != epoch) {
            return Err(StoreError::Fenced { epoch });
        }
        self.last.0 += 1;
        self.epochs.insert(room.clone(), self.last);
        Ok(self.last)
    }

    pub(crate) fn release(&mut self, room: &RoomId, epoch: Epoch) {
        if self.epoch(room) == epoch {
            self.epochs.remove(room);
        }
    }
}
