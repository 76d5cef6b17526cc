//! Detects peers that block others: the server holds memory for such a peer, which neither sends
//! nor reads enough to release it, while others wait for memory or are refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::account::{Account, FREE_BYTES};
use crate::bounds::Scope;
use crate::ledger::Ledger;
use crate::lock;

/// The bytes that a peer has to send or read in each window, at least.
const WINDOW_BYTES: usize = 64 << 10;
/// How often that amount doubles while others wait.
const MAX_DOUBLINGS: u32 = 3;
/// The doubled amount is at most this part of what the server holds for the peer.
const HELD_SHARE: usize = 4;
/// The number of windows in which it has to read one answer.
const WINDOWS_PER_ITEM: usize = 24;

/// Counts a request that waits until others release shared bytes or a part of a file.
#[derive(Debug)]
pub struct Wanted {
    ledger: Arc<Ledger>,
    count: fn(&Ledger) -> &AtomicUsize,
}

impl Wanted {
    fn new(ledger: &Arc<Ledger>, count: fn(&Ledger) -> &AtomicUsize) -> Self {
        count(ledger).fetch_add(1, Ordering::Relaxed);
        Self {
            ledger: Arc::clone(ledger),
            count,
        }
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        (self.count)(&self.ledger).fetch_sub(1, Ordering::Relaxed);
    }
}

impl Ledger {
    /// Whether a request waits until others release shared bytes.
    pub fn is_wanted(&self) -> bool {
        self.wanting.load(Ordering::Relaxed) > 0
    }

    /// Counts a request that waits for shared bytes, until the result is dropped.
    pub fn want(self: &Arc<Self>) -> Wanted {
        Wanted::new(self, |ledger| &ledger.wanting)
    }

    /// Whether a download by link waits until others have read their parts.
    pub fn is_part_wanted(&self) -> bool {
        self.parts_wanting.load(Ordering::Relaxed) > 0
    }

    /// Counts a download by link that waits, until the result is dropped.
    pub fn want_part(self: &Arc<Self>) -> Wanted {
        Wanted::new(self, |ledger| &ledger.parts_wanting)
    }
}

/// Shared bytes that are queued for one connection; counted until they are written or dropped.
#[derive(Debug)]
struct Taking {
    bytes: Bytes,
    by: Arc<Account>,
}

impl AsRef<[u8]> for Taking {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        for taking in [&self.by.taking, &self.by.participant.taking] {
            taking.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        }
    }
}

impl Account {
    /// Counts shared bytes as queued for this connection, until the result is dropped.
    pub fn take_over(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        for taking in [&self.taking, &self.participant.taking] {
            taking.fetch_add(bytes.len(), Ordering::Relaxed);
        }
        Bytes::from_owner(Taking {
            bytes,
            by: Arc::clone(self),
        })
    }

    /// Whether more bytes may be queued for this connection. `shared` is the bound of all shared
    /// bytes: a connection may have a quarter of it, all connections of a participant three
    /// eighths. One item is always accepted.
    pub fn may_take(&self, bytes: usize, shared: usize) -> bool {
        let fits = |taking: &AtomicUsize, max| {
            let taking = taking.load(Ordering::Relaxed);
            taking == 0 || taking.saturating_add(bytes) <= max
        };
        fits(&self.taking, shared / 4) && fits(&self.participant.taking, shared / 8 * 3)
    }

    /// Whether the peer is sending files that are not complete.
    pub fn is_uploading(&self) -> bool {
        lock(&self.own).uploading > 0
    }

    pub(crate) fn note_refusal(&self, scope: Scope) {
        if scope != Scope::Connection {
            self.ledger().refusals.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether a charge or request waits for memory that this connection may hold.
    fn is_waited_for(&self) -> bool {
        let ledger = self.ledger();
        let levels = [&ledger.server, &self.participant.level];
        let mut levels = levels.into_iter().chain(&ledger.kinds);
        ledger.is_wanted() || levels.any(|level| level.waiting.load(Ordering::SeqCst) > 0)
    }
}

/// The bytes that a connection transfers in one direction, counted in windows of time.
#[derive(Debug)]
pub struct Pace {
    window: Duration,
    since: Instant,
    bytes: usize,
    /// For a sender, the number of windows until now, without a gap, in which others waited.
    waited_for: Option<u32>,
    /// The server's number of refusals when the window began.
    refusals: u64,
}

impl Pace {
    /// Begins the first window; all windows have this length.
    pub fn new(window: Duration, account: &Account) -> Self {
        Self {
            window,
            since: Instant::now(),
            bytes: 0,
            waited_for: None,
            refusals: account.ledger().refusals.load(Ordering::Relaxed),
        }
    }

    /// Begins the first window of a peer that sends. The longer others wait, the faster it has to
    /// be if the server holds much for it: the least amount doubles with each window.
    pub fn of_sender(window: Duration, account: &Account) -> Self {
        Self {
            waited_for: Some(0),
            ..Self::new(window, account)
        }
    }

    /// Begins a new window.
    pub fn begin(&mut self, account: &Account) {
        *self = Self {
            waited_for: self.waited_for,
            ..Self::new(self.window, account)
        };
    }

    /// Adds transferred bytes.
    pub fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// Extends the window by a time in which the peer could not transfer anything.
    pub fn pause(&mut self, waited: Duration) {
        self.since += waited;
    }

    /// The end of the window.
    pub fn ends(&self) -> Instant {
        self.since + self.window
    }

    /// Ends the window if its time is over, and returns whether the peer was too slow in it while
    /// others waited. `held` is the number of bytes that the server holds for the peer in addition
    /// to its account, `item` the length of the answer that it reads now.
    pub fn is_in_the_way(
        &mut self,
        account: &Account,
        held: usize,
        item: usize,
        now: Instant,
    ) -> bool {
        if now < self.ends() {
            return false;
        }
        let (bytes, refusals) = (self.bytes, self.refusals);
        self.begin(account);
        if refusals == self.refusals && !account.is_waited_for() {
            self.waited_for = self.waited_for.map(|_| 0);
            return false;
        }
        let held = held.max(account.held());
        let doublings = self.waited_for.unwrap_or_default().min(MAX_DOUBLINGS);
        self.waited_for = self.waited_for.map(|windows| windows.saturating_add(1));
        let least = (WINDOW_BYTES << doublings).min(WINDOW_BYTES.max(held / HELD_SHARE));
        bytes < least.max(item / WINDOWS_PER_ITEM) && held > FREE_BYTES
    }
}
