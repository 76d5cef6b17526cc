//! Rate limits of one connection and of all connections together.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A limit of units per second, with bursts of as many as `burst` allows.
///
/// Callers that exceed it wait; nothing is refused. The whole state is one instant: when everything
/// taken so far would have been taken at exactly the rate (the "theoretical arrival time" of ATM's
/// generic cell rate algorithm).
#[derive(Debug)]
pub(crate) struct Rate {
    per_second: u64,
    burst: Duration,
    due: Mutex<Instant>,
}

impl Rate {
    pub(crate) fn new(per_second: u64, burst: Duration) -> Self {
        Self {
            per_second: per_second.max(1),
            burst,
            due: Mutex::new(Instant::now()),
        }
    }

    /// Takes `units`, and returns how long to wait before the next ones.
    pub(crate) fn take(&self, units: usize, now: Instant) -> Duration {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let nanos = (units as u64).saturating_mul(1_000_000_000) / self.per_second;
        let cost = Duration::from_nanos(nanos);
        *due = (*due).max(now) + cost;
        due.saturating_duration_since(now)
            .saturating_sub(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_then_the_rate_counts() {
        let rate = Rate::new(100, Duration::from_secs(2));
        let start = Instant::now();
        assert_eq!(rate.take(200, start), Duration::ZERO);
        let wait = rate.take(50, start);
        assert!((490..=500).contains(&wait.as_millis()), "{wait:?}");
        // After a rest there is one burst again, and no more.
        let later = start + Duration::from_hours(1);
        assert_eq!(rate.take(200, later), Duration::ZERO);
        assert!(rate.take(100, later) >= Duration::from_millis(990));
    }
}
