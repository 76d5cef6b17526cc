//! How long to wait before the next try. Knows neither clock nor random source.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// Waits that double, each cut by a random part, so that clients which lost one server together don't come back
/// together.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self::up_to(LONGEST)
    }

    /// Waits that become longer than usual, for what costs both sides more than a connection.
    pub(crate) fn up_to(longest: Duration) -> Self {
        Self {
            next: FIRST,
            longest,
        }
    }

    /// It works again.
    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// There was a connection for so long. One that ends before the longest wait has proved nothing: a server that lets
    /// everybody in and then drops them would be asked for ever, many times a second.
    pub(crate) fn connected(&mut self, time: Duration) {
        if time >= self.longest {
            self.reset();
        }
    }

    /// How long to wait now: between half of the step and the whole of it, as `random` says.
    pub(crate) fn next(&mut self, random: u32) -> Duration {
        let step = self.next;
        self.next = self.longest.min(step * 2);
        let part = f64::from(random) / f64::from(u32::MAX);
        step.mul_f64(0.5 + part / 2.0)
    }
}

/// A random number for [`Backoff::next`].
pub(crate) fn random() -> u32 {
    // A machine without a random source waits in step with others, which is no harm here.
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
            // Any number will do: they are spread over all that there are.
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
