//! The account of one connection: what it holds, and what it takes from its participant and the server.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::bounds::{OverBound, Scope};
use crate::charge::Charge;
use crate::kind::Kind;
use crate::ledger::{Ledger, Participant};
use crate::level::Level;
use crate::lock;

/// What a connection may hold without its participant or the server being asked.
pub(crate) const FREE_BYTES: usize = 4 << 10;
/// The steps in which a connection takes from its participant and the server.
const STEP_BYTES: usize = 16 << 10;
/// A connection that holds no more than this may use the reserve.
const SMALL_BYTES: usize = 64 << 10;

/// Everything that is held for one connection.
#[derive(Debug)]
pub struct Account {
    pub(crate) own: Mutex<Own>,
    /// Of what many share, what is on its way to it.
    pub(crate) taking: AtomicUsize,
    /// Only for those who wait; what is held is in `own`.
    level: Level,
    pub(crate) participant: Arc<Participant>,
}

#[derive(Debug, Default)]
pub(crate) struct Own {
    held: usize,
    /// What was taken from the participant and the server.
    reserved: usize,
    /// Of what is held, files that it sends.
    pub(crate) uploading: usize,
    /// Chunks of its calls that came and are not handled, and since when there are some; for how long there were some
    /// before that.
    chunks: usize,
    chunks_since: Option<Instant>,
    kept_waiting: Duration,
    /// One of its charges has the participant's overdraft, or the server's.
    pub(crate) passes_participant: bool,
    pub(crate) passes_server: bool,
}

impl Own {
    pub(crate) fn count(&mut self, kind: Kind, bytes: usize) {
        if kind == Kind::Upload {
            self.uploading += bytes;
        }
    }

    pub(crate) fn uncount(&mut self, kind: Kind, bytes: usize) {
        if kind == Kind::Upload {
            self.uploading = self.uploading.saturating_sub(bytes);
        }
    }
}

impl Account {
    pub(crate) fn new(bound: usize, participant: Arc<Participant>) -> Arc<Self> {
        Arc::new(Self {
            own: Mutex::default(),
            taking: AtomicUsize::new(0),
            level: Level::new(bound),
            participant,
        })
    }

    /// Whose connection it is, in which room, as the account was asked for.
    pub fn participant(&self) -> &str {
        &self.participant.name
    }

    /// Charges bytes, or says which bound they would cross.
    ///
    /// # Errors
    /// If a bound would be crossed; nothing is charged.
    pub fn try_charge(self: &Arc<Self>, kind: Kind, bytes: usize) -> Result<Charge, OverBound> {
        let mut charge = self.empty(kind);
        charge.try_grow(bytes)?;
        Ok(charge)
    }

    /// Charges bytes as soon as they fit.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, nothing was charged.
    pub async fn charge(self: &Arc<Self>, kind: Kind, bytes: usize) -> Charge {
        let mut charge = self.empty(kind);
        charge.grow(bytes).await;
        charge
    }

    /// Charges bytes whatever the bounds say, for what exists already and is bounded by other means.
    pub fn charge_anyway(self: &Arc<Self>, kind: Kind, bytes: usize) -> Charge {
        let mut charge = self.empty(kind);
        charge.grow_anyway(bytes);
        charge
    }

    /// A charge of nothing yet.
    pub fn empty(self: &Arc<Self>, kind: Kind) -> Charge {
        Charge::new(Some(Arc::clone(self)), kind)
    }

    /// Whether bytes of this kind would fit now.
    pub fn admits(&self, kind: Kind, bytes: usize) -> bool {
        let held = lock(&self.own).held;
        self.level.fits(held, bytes, 0)
            && self.participant.level.fits_now(bytes)
            && self.ledger().kind(kind).fits_now(bytes)
            && self.ledger().server.fits_now(bytes)
    }

    /// Bytes that are held for the connection.
    pub fn held(&self) -> usize {
        lock(&self.own).held
    }

    /// A chunk of one of the connection's calls has come; it is handled when this is dropped. Until then it is the server
    /// that is waited for, and not the connection.
    pub fn chunk_came(self: &Arc<Self>) -> ChunkWaits {
        let mut own = lock(&self.own);
        own.chunks += 1;
        own.chunks_since.get_or_insert_with(Instant::now);
        drop(own);
        ChunkWaits(Arc::clone(self))
    }

    /// For how long the server has kept the connection waiting until now, in all.
    pub fn kept_waiting(&self) -> Duration {
        let own = lock(&self.own);
        let now = own.chunks_since.map(|since| since.elapsed());
        own.kept_waiting.saturating_add(now.unwrap_or_default())
    }

    /// The server kept the connection waiting for so long.
    pub fn keep_waiting(&self, waited: Duration) {
        lock(&self.own).kept_waiting += waited;
    }

    /// Which participant it is, for as long as something is charged to it.
    pub fn speaker(&self) -> Speaker {
        Speaker(Arc::as_ptr(&self.participant) as usize)
    }

    /// The server's ledger.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.participant.ledger
    }

    /// Takes bytes from all accounts, or from none.
    pub(crate) fn take(&self, kind: Kind, bytes: usize, how: How) -> Result<(), Scope> {
        let is_next = |level: &Level, scope| match how {
            How::Now => true,
            // Whoever has its turn here stood in line at the bounds before.
            How::InTurn(at) => scope <= at || level.waiting.load(Ordering::SeqCst) == 0,
        };
        let ledger = &**self.ledger();
        let mut own = lock(&self.own);
        let held = own.held + bytes;
        let waits = how != How::Now;
        let may_pass_all = waits && own.passes_server;
        let may_pass_own = waits && own.passes_participant;
        if !(may_pass_own || may_pass_all || self.level.fits(own.held, bytes, 0)) {
            return Err(Scope::Connection);
        }
        let is_small = held <= SMALL_BYTES;
        let is_free = held <= FREE_BYTES;
        let reserve = |level: &Level| if is_small { level.max / 8 } else { 0 };
        let kind_of = kind;
        let kind = ledger.kind(kind);
        if may_pass_all || is_free {
            kind.add(bytes);
        } else if !(is_small || is_next(kind, Scope::Kind)) || !kind.try_add(bytes, reserve(kind)) {
            return Err(Scope::Kind);
        }
        let more = wanted(held).saturating_sub(own.reserved);
        if more > 0 {
            let participant = &self.participant.level;
            if may_pass_own || may_pass_all {
                participant.add(more);
            } else if !(is_small || is_next(participant, Scope::Participant))
                || !participant.try_add(more, reserve(participant))
            {
                kind.give(bytes);
                return Err(Scope::Participant);
            }
            let server = &ledger.server;
            if may_pass_all {
                server.add(more);
            } else if !(is_small || is_next(server, Scope::Server))
                || !server.try_add(more, reserve(server))
            {
                kind.give(bytes);
                participant.give(more);
                return Err(Scope::Server);
            }
            own.reserved += more;
        }
        own.held = held;
        own.count(kind_of, bytes);
        Ok(())
    }

    pub(crate) fn take_anyway(&self, kind: Kind, bytes: usize) {
        let mut own = lock(&self.own);
        self.ledger().kind(kind).add(bytes);
        own.held += bytes;
        own.count(kind, bytes);
        let more = wanted(own.held).saturating_sub(own.reserved);
        if more > 0 {
            self.participant.level.add(more);
            self.ledger().server.add(more);
            own.reserved += more;
        }
    }

    pub(crate) fn give(&self, kind: Kind, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut own = lock(&self.own);
        own.held -= bytes;
        own.uncount(kind, bytes);
        let spare = own.reserved - wanted(own.held).min(own.reserved);
        // A step is kept for what comes next, unless there is nothing left to keep it for.
        let back = if own.held <= FREE_BYTES || spare > STEP_BYTES {
            spare
        } else {
            0
        };
        own.reserved -= back;
        drop(own);
        self.level.wake();
        self.ledger().kind(kind).give(bytes);
        if back > 0 {
            self.participant.level.give(back);
            self.ledger().server.give(back);
        }
    }

    pub(crate) fn level(&self, kind: Kind, scope: Scope) -> &Level {
        match scope {
            Scope::Connection => &self.level,
            Scope::Participant => &self.participant.level,
            Scope::Server => &self.ledger().server,
            Scope::Kind => self.ledger().kind(kind),
        }
    }
}

/// A participant, to those who are told what it says and does; nobody in particular by default.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Speaker(usize);

/// A chunk that waits until its room handles it.
#[derive(Debug)]
pub struct ChunkWaits(Arc<Account>);

impl Drop for ChunkWaits {
    fn drop(&mut self) {
        let mut own = lock(&self.0.own);
        own.chunks = own.chunks.saturating_sub(1);
        if own.chunks == 0
            && let Some(since) = own.chunks_since.take()
        {
            own.kept_waiting = own.kept_waiting.saturating_add(since.elapsed());
        }
    }
}

/// What a connection that holds so much takes from its participant and the server.
fn wanted(held: usize) -> usize {
    held.saturating_sub(FREE_BYTES).next_multiple_of(STEP_BYTES)
}

/// How a charge meets a bound.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum How {
    /// It fits now, or not.
    Now,
    /// It waits, at present here: elsewhere it goes behind those who wait already.
    InTurn(Scope),
}
