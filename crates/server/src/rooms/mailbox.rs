//! A connection's way into its room.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use crate::ledger::{Account, Held};
use crate::room_loop::{Letter, RoomInput};

/// Messages that may be on their way to a room. When it is full, connections of that room wait with reading.
pub(crate) const MAILBOX: usize = 1024;
/// Kilobytes of messages that may wait for a room, likewise.
const MAILBOX_KILOBYTES: u32 = 64 << 10;
/// Messages of one connection that may wait for its room; a longer one counts for several.
pub(crate) const PLACES: u32 = 64;
/// The bytes from which on it does, and for each of which it counts once more.
pub(super) const PLACE_BYTES: usize = 64 << 10;

/// A connection's way into its room, bounded in messages and in their bytes: for all of the room, and for each connection.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox {
    pub(super) inputs: mpsc::Sender<Letter>,
    kilobytes: Arc<Semaphore>,
    pub(super) places: Arc<Semaphore>,
    /// Whose chunks are on their way through it.
    account: Option<Arc<Account>>,
}

impl Mailbox {
    pub(super) fn new() -> (Self, mpsc::Receiver<Letter>) {
        let (inputs, receiver) = mpsc::channel(MAILBOX);
        let mailbox = Self {
            inputs,
            kilobytes: Arc::new(Semaphore::new(MAILBOX_KILOBYTES as usize)),
            places: Arc::new(Semaphore::new(PLACES as usize)),
            account: None,
        };
        (mailbox, receiver)
    }

    /// With the account of the connection.
    pub(super) fn of(self, account: Arc<Account>) -> Self {
        Self {
            account: Some(account),
            ..self
        }
    }

    /// The same room's for another connection.
    pub(super) fn for_another(&self) -> Self {
        Self {
            places: Arc::new(Semaphore::new(PLACES as usize)),
            ..self.clone()
        }
    }

    /// Waits for a place. Gives the input back if the room has ended.
    pub(crate) async fn send(
        &self,
        input: RoomInput,
        bytes: usize,
        held: Held,
    ) -> Result<(), RoomInput> {
        // One message larger than the bound passes alone.
        let kilobytes = u32::try_from(bytes >> 10)
            .unwrap_or(u32::MAX)
            .min(MAILBOX_KILOBYTES);
        let is_chunk = input.is_chunk();
        let waits = self.account.as_ref().filter(|_| is_chunk);
        let waits = waits.map(Account::chunk_came);
        // First the connection's own, so that it keeps nobody waiting while it waits for itself.
        let own = Arc::clone(&self.places).acquire_many_owned(places(bytes));
        let Ok(own) = own.await else {
            return Err(input);
        };
        let kilobytes = if kilobytes == 0 {
            None
        } else {
            let taken = Arc::clone(&self.kilobytes).acquire_many_owned(kilobytes);
            let Ok(taken) = taken.await else {
                return Err(input);
            };
            Some(taken)
        };
        let letter = Letter::new(input, bytes, [Some(own), kilobytes], held).waiting(waits);
        self.inputs
            .send(letter)
            .await
            .map_err(|refused| refused.0.input)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.inputs.is_closed()
    }
}

/// How many of a connection's places a message of so many bytes takes.
pub(crate) fn places(bytes: usize) -> u32 {
    let places = u32::try_from(bytes / PLACE_BYTES).unwrap_or(u32::MAX);
    places.saturating_add(1).min(PLACES)
}
