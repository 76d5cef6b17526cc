//! The owners of the rooms. The lock on the directory keeps other processes out, so the epochs
//! order only the rooms of this process, and are kept in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use meshagent_store::{Batch, Epoch, RoomId, StoreError, WriteError};

#[derive(Debug, Default)]
pub(crate) struct Owners {
    state: Mutex<State>,
    /// Signals that a commit has ended.
    committed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The epoch of each room that has an owner.
    epochs: HashMap<RoomId, Epoch>,
    /// The highest epoch of any room so far.
    last: Epoch,
    /// The rooms with a batch in the commit that runs.
    committing: Vec<RoomId>,
}

/// A commit that runs. The rooms of its batches keep their owners until it is dropped.
#[derive(Debug)]
pub(crate) struct Committing<'a>(&'a Owners);

impl Drop for Committing<'_> {
    fn drop(&mut self) {
        self.0.state().committing.clear();
        self.0.committed.notify_all();
    }
}

impl Owners {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one step, so a panic leaves none half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a commit, and returns which of its writes are refused. There is one at a time.
    pub(crate) fn begin(&self, batches: &[Batch]) -> (BTreeMap<usize, WriteError>, Committing<'_>) {
        let mut state = self.state();
        let rooms = batches.iter().map(|batch| batch.room.clone());
        state.committing.extend(rooms);
        let fenced = Batch::fenced(batches, |room| state.epoch(room));
        (fenced, Committing(self))
    }

    /// Makes the caller the owner of a room. It waits for a commit of the room that runs, but not
    /// for those of other rooms.
    pub(crate) fn take_over(
        &self,
        room: &RoomId,
        from: Option<Epoch>,
    ) -> Result<Epoch, StoreError> {
        let mut state = self
            .committed
            .wait_while(self.state(), |state| state.committing.contains(room))
            .unwrap_or_else(PoisonError::into_inner);
        let epoch = state.epoch(room);
        if from.is_some_and(|from| from != epoch) {
            return Err(StoreError::Fenced { epoch });
        }
        state.last.0 += 1;
        let epoch = state.last;
        state.epochs.insert(room.clone(), epoch);
        Ok(epoch)
    }

    pub(crate) fn release(&self, room: &RoomId, epoch: Epoch) {
        let mut state = self.state();
        if state.epoch(room) == epoch {
            state.epochs.remove(room);
        }
    }
}

impl State {
    /// Returns the present epoch of a room; if it has no owner, one that no owner has.
    fn epoch(&self, room: &RoomId) -> Epoch {
        self.epochs.get(room).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    fn room(name: &str) -> RoomId {
        RoomId::new("project", name)
    }

    #[test]
    fn take_over_waits_for_a_commit_of_its_room_only() {
        let owners = Owners::default();
        let epoch = owners.take_over(&room("größe"), None).unwrap();
        let batch = Batch {
            room: room("größe"),
            epoch,
            writes: 1,
        };
        let (fenced, committing) = owners.begin(std::slice::from_ref(&batch));
        assert!(fenced.is_empty());
        owners.take_over(&room("other"), None).unwrap();
        let (taken, is_taken) = channel();
        std::thread::scope(|scope| {
            scope.spawn(|| taken.send(owners.take_over(&room("größe"), None)));
            let early = is_taken.recv_timeout(Duration::from_millis(50));
            assert!(early.is_err(), "a commit of the room is running");
            drop(committing);
            let next = is_taken.recv().unwrap().unwrap();
            assert!(next > epoch);
        });
        let (fenced, _committing) = owners.begin(&[batch]);
        assert!(matches!(fenced[&0], WriteError::Fenced { .. }));
    }
}
