//! How long to wait before the next try.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// Waits that double, each cut by a random part, so that clients which lost one server together don't come back
/// together.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: FIRST }
    }

    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }

    pub(crate) fn next(&mut self) -> Duration {
        let longest = self.next;
        self.next = LONGEST.min(longest * 2);
        // A clock without a random source waits in step with others, which is no harm here.
        let random = getrandom::u32().unwrap_or(u32::MAX);
        let part = f64::from(random) / f64::from(u32::MAX);
        longest.mul_f64(0.5 + part / 2.0)
    }
}
