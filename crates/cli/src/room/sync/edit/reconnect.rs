//! The timeout for reconnects.

use std::time::Duration;

use tokio::time::Instant;

/// Maximum time without a connection, the same as for joining a room. The edited file is kept after
/// a timeout.
pub(super) const RECONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// The deadline for the next connection, while there is none.
#[derive(Debug, Default)]
pub(super) struct ReconnectTimeout(Option<Instant>);

impl ReconnectTimeout {
    /// Starts the timeout when the connection is lost, and ends it when there is one again.
    pub(super) fn update(&mut self, is_connected: bool, now: Instant) {
        if is_connected {
            self.0 = None;
        } else {
            self.0.get_or_insert(now + RECONNECT_TIMEOUT);
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
    fn each_disconnect_starts_a_new_timeout() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timeout = ReconnectTimeout::default();
        timeout.update(true, at(0));
        assert_eq!(timeout.deadline(), None, "connected");
        timeout.update(false, at(1));
        timeout.update(false, at(5));
        assert_eq!(timeout.deadline(), Some(at(1) + RECONNECT_TIMEOUT));
        timeout.update(true, at(6));
        assert_eq!(timeout.deadline(), None, "connected again");
        timeout.update(false, at(20));
        assert_eq!(timeout.deadline(), Some(at(20) + RECONNECT_TIMEOUT));
    }
}
