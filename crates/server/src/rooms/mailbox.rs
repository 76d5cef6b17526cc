//! The mailbox of a room, as one connection uses it.

use std::sync::Arc;

use meshagent_ledger::{Account, Held};
use tokio::sync::{Semaphore, mpsc};

use crate::room_loop::{Letter, RoomInput};

/// Envelopes that a room's mailbox holds. When it is full, reads from the room's connections pause.
pub(crate) const MAILBOX: usize = 1024;
/// Envelopes of one connection that may wait for its room; a long one counts as several.
pub(crate) const PLACES: u32 = 64;
/// An envelope counts once more for each of these bytes.
pub(super) const PLACE_BYTES: usize = 64 << 10;

/// A handle of one connection to its room's mailbox. The room has a bound on envelopes, and each
/// connection one on envelopes and their bytes. The room has none on bytes: the participants whose
/// envelopes wait longest would use it up, and all others would wait for them. Instead, the ledger
/// bounds the bytes of each participant.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox {
    pub(super) inputs: mpsc::Sender<Letter>,
    pub(super) places: Arc<Semaphore>,
    /// The account that counts the connection's chunks in the mailbox.
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

    /// Adds the account of the connection.
    pub(super) fn of(self, account: Arc<Account>) -> Self {
        Self {
            account: Some(account),
            ..self
        }
    }

    /// A handle to the same mailbox for another connection.
    pub(super) fn for_another(&self) -> Self {
        Self {
            places: Arc::new(Semaphore::new(PLACES as usize)),
            ..self.clone()
        }
    }

    /// Waits for a place. Returns the input if the room has ended.
    pub(crate) async fn send(
        &self,
        input: RoomInput,
        bytes: usize,
        held: Held,
    ) -> Result<(), RoomInput> {
        let is_chunk = input.is_chunk();
        let waits = self.account.as_ref().filter(|_| is_chunk);
        let waits = waits.map(Account::chunk_came);
        // The connection's own place comes first, so that while it waits for itself, it takes no
        // place in the room's mailbox.
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

/// How many of a connection's places a message of `bytes` bytes takes.
pub(crate) fn places(bytes: usize) -> u32 {
    let places = u32::try_from(bytes / PLACE_BYTES).unwrap_or(u32::MAX);
    places.saturating_add(1).min(PLACES)
}
