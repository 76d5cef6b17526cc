//! A participant that is entering a room.

use tokio::sync::oneshot;

use crate::room::Joining;

/// A join, until a room takes it. The room may end or panic first, with this in its mailbox or
/// queues. Wherever it is dropped then, the join goes back to its sender, for the next room.
#[derive(Debug)]
pub(crate) struct Entering {
    joining: Option<Joining>,
    outcome: Option<oneshot::Sender<Result<(), Joining>>>,
}

impl Entering {
    /// Creates the value for the room, and the receiver of the outcome: `Err` with the join if the
    /// room did not take it.
    pub(crate) fn new(joining: Joining) -> (Self, oneshot::Receiver<Result<(), Joining>>) {
        let (outcome, receiver) = oneshot::channel();
        let entering = Self {
            joining: Some(joining),
            outcome: Some(outcome),
        };
        (entering, receiver)
    }

    /// The participant's name; empty once the join was taken.
    pub(super) fn name(&self) -> &str {
        let joining = self.joining.as_ref();
        joining.map_or("", |joining| &joining.name)
    }

    /// Takes the join into the room; `None` if its sender has gone.
    pub(super) fn take(mut self) -> Option<Joining> {
        let outcome = self.outcome.take();
        let is_gone = outcome.is_some_and(|outcome| outcome.send(Ok(())).is_err());
        self.joining.take().filter(|_| !is_gone)
    }
}

impl Drop for Entering {
    fn drop(&mut self) {
        if let (Some(joining), Some(outcome)) = (self.joining.take(), self.outcome.take()) {
            let _ = outcome.send(Err(joining));
        }
    }
}

#[cfg(any(test, feature = "simulation"))]
impl From<Joining> for Entering {
    /// A join whose outcome is not reported.
    fn from(joining: Joining) -> Self {
        Self {
            joining: Some(joining),
            outcome: None,
        }
    }
}
