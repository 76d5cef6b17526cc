//! How much the connections of the server may have under way together, and how fast each may be.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// What a connection may hold of an incomplete message without asking.
const FREE_BYTES: usize = 64 << 10;

/// Bytes of messages that were received and not handled yet, of all connections.
///
/// Charged in kilobytes, and only beyond what is [free](FREE_BYTES). Who finds it used up waits its turn.
///
/// A message that turns out larger than it was judged to be asks for more while it has a part, so many of them could
/// wait for each other for ever. One of these at a time therefore goes on beyond the budget.
#[derive(Clone, Debug)]
pub(crate) struct ReceiveBudget {
    kilobytes: Arc<Semaphore>,
    overdraft: Arc<Semaphore>,
    total: u32,
}

/// One connection's part of the budget, for one message.
#[derive(Debug, Default)]
pub(crate) struct Charge {
    kilobytes: Option<OwnedSemaphorePermit>,
    /// Whether the rest of the message may come beyond the budget.
    overdraft: Option<OwnedSemaphorePermit>,
}

impl ReceiveBudget {
    pub(crate) fn new(bytes: usize) -> Self {
        let total = u32::try_from(bytes >> 10).unwrap_or(u32::MAX >> 4).max(1);
        Self {
            kilobytes: Arc::new(Semaphore::new(total as usize)),
            overdraft: Arc::new(Semaphore::new(1)),
            total,
        }
    }

    /// Waits until `charge` covers a message of so many bytes. One larger than the budget has it for itself.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the charge is what it was.
    pub(crate) async fn cover(&self, charge: &mut Charge, bytes: usize) {
        if bytes <= FREE_BYTES || charge.overdraft.is_some() {
            return;
        }
        let wanted = u32::try_from(bytes >> 10)
            .unwrap_or(u32::MAX)
            .min(self.total);
        let has = charge
            .kilobytes
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let more = wanted.saturating_sub(u32::try_from(has).unwrap_or(u32::MAX));
        if more == 0 {
            return;
        }
        let acquire = Arc::clone(&self.kilobytes).acquire_many_owned(more);
        // The semaphores are never closed.
        let Some(held) = &mut charge.kilobytes else {
            charge.kilobytes = acquire.await.ok();
            return;
        };
        tokio::select! {
            biased;
            permit = acquire => permit.into_iter().for_each(|permit| held.merge(permit)),
            permit = Arc::clone(&self.overdraft).acquire_owned() => charge.overdraft = permit.ok(),
        }
    }

    /// Bytes that are charged now.
    pub(crate) fn used_bytes(&self) -> u64 {
        (u64::from(self.total) - self.kilobytes.available_permits() as u64) << 10
    }
}

/// So many units per second, and a burst of as many seconds' worth.
///
/// Who is over it waits; nothing is refused. One moment says it all: when everything taken so far would have
/// been taken at the rate (the "theoretical arrival time" of ATM's generic cell rate algorithm).
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

    /// Takes so many units, and says how long to wait before the next are taken.
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

    #[tokio::test]
    async fn who_finds_the_budget_used_up_waits() {
        let budget = ReceiveBudget::new(1 << 20);
        let (mut first, mut second) = (Charge::default(), Charge::default());
        budget.cover(&mut first, 10 << 10).await;
        assert_eq!(budget.used_bytes(), 0, "little is free");
        budget.cover(&mut first, 700 << 10).await;
        budget.cover(&mut first, 600 << 10).await;
        assert_eq!(budget.used_bytes(), 700 << 10);
        let wait = Duration::from_millis(20);
        let waits = tokio::time::timeout(wait, budget.cover(&mut second, 400 << 10)).await;
        assert!(waits.is_err());
        drop(first);
        budget.cover(&mut second, usize::MAX).await;
        assert_eq!(budget.used_bytes(), 1 << 20, "never more than there is");
    }

    #[tokio::test]
    async fn messages_that_grow_do_not_wait_for_each_other_for_ever() {
        let budget = ReceiveBudget::new(1 << 20);
        let mut charges: [Charge; 10] = std::array::from_fn(|_| Charge::default());
        for charge in &mut charges {
            budget.cover(charge, 100 << 10).await;
        }
        let mut waiting: Vec<_> = charges
            .into_iter()
            .map(|mut charge| {
                let budget = budget.clone();
                tokio::spawn(async move {
                    budget.cover(&mut charge, 500 << 10).await;
                    budget.cover(&mut charge, 900 << 10).await;
                })
            })
            .collect();
        for task in waiting.drain(..) {
            let done = tokio::time::timeout(Duration::from_secs(10), task).await;
            done.expect("one after the other goes on").unwrap();
        }
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn a_burst_is_free_and_then_the_rate_counts() {
        let rate = Rate::new(100, Duration::from_secs(2));
        let start = Instant::now();
        assert_eq!(rate.take(200, start), Duration::ZERO);
        let wait = rate.take(50, start);
        assert!((490..=500).contains(&wait.as_millis()), "{wait:?}");
        // After a rest there is a burst again, and no more than one.
        let later = start + Duration::from_hours(1);
        assert_eq!(rate.take(200, later), Duration::ZERO);
        assert!(rate.take(100, later) >= Duration::from_millis(990));
    }
}
