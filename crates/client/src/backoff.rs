//! The pauses between retries, without a clock or a random source.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// Pauses that double, each shortened by a random part, so that clients which lost a server
/// together do not reconnect together.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self::up_to(LONGEST)
    }

    /// Pauses up to another maximum, for retries that cost both sides more than a connection.
    pub(crate) fn up_to(longest: Duration) -> Self {
        Self {
            next: FIRST,
            longest,
        }
    }

    /// Restarts at the shortest pause, after a success.
    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// A connection has lasted this long. Only one that lasted as long as the longest pause counts
    /// as a success. Otherwise a server that accepts connections and drops them would be retried
    /// many times a second without end.
    pub(crate) fn connected(&mut self, time: Duration) {
        if time >= self.longest {
            self.reset();
        }
    }

    /// The next pause: between half of the step and the whole step, chosen by `random`.
    pub(crate) fn next(&mut self, random: u32) -> Duration {
        let step = self.next;
        self.next = self.longest.min(step * 2);
        let part = f64::from(random) / f64::from(u32::MAX);
        step.mul_f64(0.5 + part / 2.0)
    }
}

/// A random number for [`Backoff::next`].
pub(crate) fn random() -> u32 {
    // Without a random source the pauses are the longest ones, which is harmless.
    getrandom::u32().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Backoff, LONGEST};

    fn waits(backoff: &mut Backoff, random: u32) -> Vec<u128> {
        (0..9).map(|_| backoff.next(random).as_millis()).collect()
    }

    #[test]
    fn waits_double_up_to_the_longest_and_are_cut_by_half_at_most() {
        let longest = [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000];
        let mut backoff = Backoff::new();
        assert_eq!(waits(&mut backoff, u32::MAX), longest);
        backoff.reset();
        assert_eq!(waits(&mut backoff, 0), longest.map(|wait| wait / 2));
        backoff.reset();
        for (number, longest) in longest.into_iter().enumerate() {
            // Any spread over the full range will do.
            let random = u32::try_from(number).unwrap().wrapping_mul(0x9e37_79b9);
            let wait = backoff.next(random).as_millis();
            assert!((longest / 2..=longest).contains(&wait), "{wait}");
        }
    }

    #[test]
    fn waits_become_as_long_as_they_may() {
        let longest = Duration::from_mins(5);
        let mut backoff = Backoff::up_to(longest);
        let waits = waits(&mut backoff, u32::MAX);
        assert_eq!(waits[7..], [12_800, 25_600]);
        let later: Vec<_> = (0..9).map(|_| backoff.next(u32::MAX)).collect();
        assert_eq!(later[4..], [longest; 5]);
    }

    #[test]
    fn only_a_connection_that_lasted_counts() {
        let mut backoff = Backoff::new();
        let mut last = Duration::ZERO;
        for _ in 0..7 {
            backoff.connected(Duration::ZERO);
            let wait = backoff.next(u32::MAX);
            assert!(wait > last, "{wait:?} after {last:?}");
            last = wait;
        }
        backoff.connected(LONGEST.checked_sub(Duration::from_millis(1)).unwrap());
        assert_eq!(backoff.next(u32::MAX), LONGEST);
        backoff.connected(LONGEST);
        assert_eq!(backoff.next(u32::MAX).as_millis(), 100);
    }
}
