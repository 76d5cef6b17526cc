//! A connection's way into its room.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use crate::ledger::{Account, Held};
use crate::room_loop::{Letter, RoomInput};

/// Messages that may be on their way to a room. When it is full, connections of that room wait with reading.
pub(crate) const MAILBOX: usize = 1024;
/// Messages of one connection that may wait for its room; a longer one counts for several.
pub(crate) const PLACES: u32 = 64;
/// The bytes from which on it does, and for each of which it counts once more.
pub(super) const PLACE_BYTES: usize = 64 << 10;

/// A connection's way into its room, bounded in messages for all of the room, and in messages and their bytes for each
/// connection. There is no bound in bytes for the room: those who keep it waiting would have all of it, and everybody
/// would wait for them. The ledger bounds what a participant's connections have here together.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox {
    pub(super) inputs: mpsc::Sender<Letter>,
    pub(super) places: Arc<Semaphore>,
    /// Whose chunks are on their way through it.
    account: Option<Arc<Account>>,
}

impl Mailbox {
    pub(super) fn new() -> (Self, mpsc::Receiver<Letter>) {
        let (inputs, receiver) = mpsc::channel(MAILBOX);
        let mailbox = Self {
            inputs,
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
        let is_chunk = input.is_chunk();
        let waits = self.account.as_ref().filter(|_| is_chunk);
        let waits = waits.map(Account::chunk_came);
        // First the connection's own, so that it keeps nobody waiting while it waits for itself.
        let own = Arc::clone(&self.places).acquire_many_owned(places(bytes));
        let Ok(own) = own.await else {
            return Err(input);
        };
        let letter = Letter::new(input, bytes, Some(own), held).waiting(waits);
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
