//! How long a lost connection is waited for.

use std::time::Duration;

use tokio::time::Instant;

/// As long as commands wait for a room. Nothing is lost by giving up: what was written stays in its file.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// When to give up, while the connection is lost.
#[derive(Debug, Default)]
pub(super) struct Patience(Option<Instant>);

impl Patience {
    /// Takes note of whether there is a connection. Each loss is waited for anew.
    pub(super) fn note(&mut self, is_connected: bool, now: Instant) {
        if is_connected {
            self.0 = None;
        } else {
            self.0.get_or_insert(now + PATIENCE);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_loss_is_waited_for_anew() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut patience = Patience::default();
        patience.note(true, at(0));
        assert_eq!(patience.deadline(), None, "there is nothing to wait for");
        patience.note(false, at(1));
        patience.note(false, at(5));
        assert_eq!(patience.deadline(), Some(at(1) + PATIENCE));
        patience.note(true, at(6));
        assert_eq!(patience.deadline(), None, "it is back");
        patience.note(false, at(20));
        assert_eq!(patience.deadline(), Some(at(20) + PATIENCE));
    }
}
