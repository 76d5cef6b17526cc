//! Reads of the rooms from the store, in two steps each.

use std::sync::Arc;

use meshagent_store::{StoreError, block_on};

use super::SimServer;
use crate::room::{Fetch, FetchResult};
use crate::rooms::read;

#[derive(Debug)]
pub(super) struct Read {
    pub(super) room: String,
    pub(super) generation: u64,
    pub(super) number: u64,
    pub(super) state: ReadState,
}

#[derive(Debug)]
pub(super) enum ReadState {
    Waiting(Fetch),
    Done(Result<FetchResult, StoreError>),
}

impl SimServer {
    /// How many reads are in flight.
    pub fn reads(&self) -> usize {
        self.reads.len()
    }

    /// Advances a read. The first call reads from the store; the second hands the result, which may
    /// be outdated by then, to the room.
    pub fn advance_read(&mut self, index: usize) {
        let Some(one) = self.reads.get_mut(index) else {
            return;
        };
        if let ReadState::Waiting(fetch) = &one.state {
            let room = Self::room_id(&one.room);
            let owner = self
                .rooms
                .get(&one.room)
                .map(|room| Arc::clone(&room.owner));
            let store = self.store.as_ref();
            one.state = ReadState::Done(block_on(async {
                if let Some(owner) = owner {
                    owner.take(store).await?;
                }
                read(store, &room, fetch.clone()).await
            }));
            return;
        }
        let one = self.reads.remove(index);
        let ReadState::Done(result) = one.state else {
            return;
        };
        let Some(state) = self.rooms.get_mut(&one.room) else {
            return;
        };
        if state.generation == one.generation {
            state.fetched.push_back((one.number, result));
            self.run(&one.room);
        }
    }
}
