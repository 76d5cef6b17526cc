//! When a connection's token is no longer good.

use std::time::Duration;

use crate::rooms::now;

/// How often it is looked at the wall clock at least, of a connection whose token expires.
const CLOCK_CHECK: Duration = Duration::from_mins(10);

/// Waits until a token has expired, by the wall clock, which may be set meanwhile.
pub(super) async fn expiry(at: u64) {
    let at = i64::try_from(at.saturating_mul(1000)).unwrap_or(i64::MAX);
    while let left @ 1.. = at.saturating_sub(now().0) {
        let left = Duration::from_millis(left.unsigned_abs());
        tokio::time::sleep(left.min(CLOCK_CHECK)).await;
    }
}
