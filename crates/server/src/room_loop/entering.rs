//! Somebody on the way into a room.

use tokio::sync::oneshot;

use crate::room::Joining;

/// Who joins, until a room takes them. A room may end, or panic, before that, with this in its mailbox or in its queues:
/// wherever it is dropped then, who joins goes back to whoever sent it, for the next room.
#[derive(Debug)]
pub(crate) struct Entering {
    joining: Option<Joining>,
    outcome: Option<oneshot::Sender<Result<(), Joining>>>,
}

impl Entering {
    /// What is sent to the room, and what becomes of it: who joins, if the room did not take them.
    pub(crate) fn new(joining: Joining) -> (Self, oneshot::Receiver<Result<(), Joining>>) {
        let (outcome, receiver) = oneshot::channel();
        let entering = Self {
            joining: Some(joining),
            outcome: Some(outcome),
        };
        (entering, receiver)
    }

    /// Whose participant it is; empty once it was taken.
    pub(super) fn name(&self) -> &str {
        let joining = self.joining.as_ref();
        joining.map_or("", |joining| &joining.name)
    }

    /// The room takes them; `None` if whoever sent it has gone.
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
    /// Of which nobody is told what becomes of it.
    fn from(joining: Joining) -> Self {
        Self {
            joining: Some(joining),
            outcome: None,
        }
    }
}
