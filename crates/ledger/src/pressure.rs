//! Who is in others' way: a peer that makes the server hold memory, and neither sends nor takes enough to end that,
//! while others wait for memory or are refused it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::account::{Account, FREE_BYTES};
use crate::bounds::Scope;
use crate::ledger::Ledger;
use crate::lock;

/// What such a peer has to send or take in each window, at least.
const WINDOW_BYTES: usize = 64 << 10;
/// In so many windows it has to take one answer.
const WINDOWS_PER_ITEM: usize = 24;

/// One who waits for others to let go of what is shared, or of a part of a file.
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
    /// Whether somebody waits for others to let go of what is shared.
    pub fn is_wanted(&self) -> bool {
        self.wanting.load(Ordering::Relaxed) > 0
    }

    /// Somebody waits, until this is dropped.
    pub fn want(self: &Arc<Self>) -> Wanted {
        Wanted::new(self, |ledger| &ledger.wanting)
    }

    /// Whether somebody with a link waits for others to take the parts that they have.
    pub fn is_part_wanted(&self) -> bool {
        self.parts_wanting.load(Ordering::Relaxed) > 0
    }

    /// Somebody with a link waits, until this is dropped.
    pub fn want_part(self: &Arc<Self>) -> Wanted {
        Wanted::new(self, |ledger| &ledger.parts_wanting)
    }
}

/// What many share, on its way to one of them; counted until that one has it.
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
    /// The same bytes, on their way to this connection.
    pub fn take_over(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        for taking in [&self.taking, &self.participant.taking] {
            taking.fetch_add(bytes.len(), Ordering::Relaxed);
        }
        Bytes::from_owner(Taking {
            bytes,
            by: Arc::clone(self),
        })
    }

    /// Whether so many more of all the `shared` bytes that there may be can be on their way to this connection: a
    /// quarter of them, to all of its participant three eighths. One is always.
    pub fn may_take(&self, bytes: usize, shared: usize) -> bool {
        let fits = |taking: &AtomicUsize, max| {
            let taking = taking.load(Ordering::Relaxed);
            taking == 0 || taking.saturating_add(bytes) <= max
        };
        fits(&self.taking, shared / 4) && fits(&self.participant.taking, shared / 8 * 3)
    }

    /// Whether the peer sends files that are not complete.
    pub fn is_uploading(&self) -> bool {
        lock(&self.own).uploading > 0
    }

    pub(crate) fn note_refusal(&self, scope: Scope) {
        if scope != Scope::Connection {
            self.ledger().refusals.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether somebody waits for what this connection may hold.
    fn is_waited_for(&self) -> bool {
        let ledger = self.ledger();
        let levels = [&ledger.server, &self.participant.level];
        let mut levels = levels.into_iter().chain(&ledger.kinds);
        ledger.is_wanted() || levels.any(|level| level.waiting.load(Ordering::SeqCst) > 0)
    }
}

/// How much comes or goes on a connection in one direction, looked at window by window.
#[derive(Debug)]
pub struct Pace {
    window: Duration,
    since: Instant,
    bytes: usize,
    /// How often anybody had been refused something when the window began.
    refusals: u64,
}

impl Pace {
    /// Begins the first window, which takes so long.
    pub fn new(window: Duration, account: &Account) -> Self {
        Self {
            window,
            since: Instant::now(),
            bytes: 0,
            refusals: account.ledger().refusals.load(Ordering::Relaxed),
        }
    }

    /// Begins a window.
    pub fn begin(&mut self, account: &Account) {
        *self = Self::new(self.window, account);
    }

    /// So many bytes came or were taken.
    pub fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// So much time was not the peer's.
    pub fn pause(&mut self, waited: Duration) {
        self.since += waited;
    }

    /// When it is to be looked at again.
    pub fn ends(&self) -> Instant {
        self.since + self.window
    }

    /// Ends the window if it is time. Whether the peer was too slow in it, with others waiting. `held` is what the server
    /// holds for it beside what is charged to it, `item` the length of what it takes now.
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
        bytes < WINDOW_BYTES.max(item / WINDOWS_PER_ITEM)
            && held.max(account.held()) > FREE_BYTES
            && (refusals != self.refusals || account.is_waited_for())
    }
}
