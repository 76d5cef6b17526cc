//! Changes of the wall clock: code that waits for a time of day checks again when the clock is set.

use std::time::{Duration, Instant};

use meshagent_store::Timestamp;
use tokio::sync::watch;

/// A smaller difference is the usual correction of a clock, or a late tick.
const CHANGE: Duration = Duration::from_millis(500);

/// Reports changes of the wall clock to the futures of [`WallClock::reaches`].
///
/// The wall clock differs from the time that timers count when it is set, and after the machine was
/// suspended.
#[derive(Debug)]
pub(crate) struct WallClock {
    now: fn() -> Timestamp,
    changed: watch::Sender<()>,
}

impl WallClock {
    pub(crate) fn new(now: fn() -> Timestamp) -> Self {
        Self {
            now,
            changed: watch::Sender::new(()),
        }
    }

    /// Compares the wall clock with the time since the last call.
    pub(crate) fn check(&self, last: &mut (Timestamp, Instant), instant: Instant) {
        let now = (self.now)();
        let passed = instant.saturating_duration_since(last.1).as_millis();
        let expected = last
            .0
            .0
            .saturating_add(i64::try_from(passed).unwrap_or(i64::MAX));
        *last = (now, instant);
        if u128::from(now.0.abs_diff(expected)) >= CHANGE.as_millis() {
            tracing::info!(
                milliseconds = now.0.saturating_sub(expected),
                "the system's clock was set"
            );
            self.changed.send_replace(());
        }
    }

    /// The start of [`WallClock::check`].
    pub(crate) fn start(&self) -> (Timestamp, Instant) {
        ((self.now)(), Instant::now())
    }

    /// Waits until the wall clock shows this time, in seconds since 1970.
    ///
    /// # Cancel safety
    /// The future only waits, and may be dropped.
    pub(crate) async fn reaches(&self, at: u64) {
        let at = i64::try_from(at.saturating_mul(1000)).unwrap_or(i64::MAX);
        let mut changed = self.changed.subscribe();
        while let left @ 1.. = at.saturating_sub((self.now)().0) {
            let left = Duration::from_millis(left.unsigned_abs());
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                // The sender lives as long as `self`.
                _ = changed.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::atomic::{AtomicI64, Ordering};
    use std::task::Poll;

    use super::*;

    /// Years from now for the timers, so that only a check of the clock can end the wait.
    const FAR: i64 = 1_000_000_000_000;

    #[tokio::test]
    async fn a_wait_ends_when_the_clock_is_set_beyond_it() {
        static NOW: AtomicI64 = AtomicI64::new(0);
        let clock = WallClock::new(|| Timestamp(NOW.load(Ordering::Relaxed)));
        let mut last = clock.start();
        let mut reaches = pin!(clock.reaches(FAR.unsigned_abs() / 1000));
        let mut is_waiting = async || {
            poll_fn(|context| Poll::Ready(reaches.as_mut().poll(context).is_pending())).await
        };
        assert!(is_waiting().await);

        // A clock that runs, is set back, or is set to an earlier time ends nothing.
        let mut instant = last.1;
        for (wall, timers) in [(1000, 1000), (-5000, 1000), (FAR - 5000, 1000)] {
            NOW.store(wall, Ordering::Relaxed);
            instant += Duration::from_millis(timers);
            clock.check(&mut last, instant);
            assert!(is_waiting().await, "{wall}");
        }
        NOW.store(FAR + 1, Ordering::Relaxed);
        clock.check(&mut last, instant + Duration::from_secs(1));
        assert!(!is_waiting().await);
    }
}
