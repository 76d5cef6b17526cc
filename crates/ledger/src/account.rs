//! The account of one connection: the bytes held for it, and those taken from its participant and
//! from the server.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::bounds::{OverBound, Scope};
use crate::charge::{Charge, Pass};
use crate::kind::Kind;
use crate::ledger::{Ledger, Participant};
use crate::level::Level;
use crate::lock;

/// The bytes of a connection that are not charged to its participant and the server.
pub(crate) const FREE_BYTES: usize = 4 << 10;
/// The steps in which a connection takes bytes from its participant and the server.
const STEP_BYTES: usize = 16 << 10;
/// A connection that holds no more than this may use the reserve.
const SMALL_BYTES: usize = 64 << 10;
/// The reserve is this part of a bound, beyond it.
const RESERVE: usize = 8;
/// A participant that holds no more than this part of a bound may use the reserve.
const LITTLE_SHARE: usize = 16;

/// The memory that is held for one connection.
#[derive(Debug)]
pub struct Account {
    pub(crate) own: Mutex<Own>,
    /// Shared bytes that are queued for the connection.
    pub(crate) taking: AtomicUsize,
    /// Used for its bound and its waiting charges; the held bytes are in `own`.
    level: Level,
    pub(crate) participant: Arc<Participant>,
}

#[derive(Debug, Default)]
pub(crate) struct Own {
    held: usize,
    /// The bytes that were taken from the participant and the server.
    reserved: usize,
    /// The part of `held` for files that the peer sends.
    pub(crate) uploading: usize,
    /// The number of unhandled chunks of its calls.
    chunks: usize,
    /// The start of the current span with unhandled chunks.
    chunks_since: Option<Instant>,
    /// The length of all earlier spans.
    kept_waiting: Duration,
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

    /// The name with which the account was created: of the participant and its room.
    pub fn participant(&self) -> &str {
        &self.participant.name
    }

    /// Charges bytes, or reports the bound that they would cross.
    ///
    /// # Errors
    ///
    /// If a bound would be crossed; nothing is charged then.
    pub fn try_charge(self: &Arc<Self>, kind: Kind, bytes: usize) -> Result<Charge, OverBound> {
        let mut charge = self.empty(kind);
        charge.try_grow(bytes)?;
        Ok(charge)
    }

    /// Charges bytes as soon as they fit.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, nothing is charged.
    pub async fn charge(self: &Arc<Self>, kind: Kind, bytes: usize) -> Charge {
        let mut charge = self.empty(kind);
        charge.grow(bytes).await;
        charge
    }

    /// Charges bytes regardless of the bounds: they exist already and are bounded by other means.
    pub fn charge_anyway(self: &Arc<Self>, kind: Kind, bytes: usize) -> Charge {
        let mut charge = self.empty(kind);
        charge.grow_anyway(bytes);
        charge
    }

    /// Charges what a turn is about to make and drops again. The bounds of the participant and the
    /// server don't apply, because what they hold may wait for this turn. All turns together have a
    /// bound of their own; a turn that is alone may exceed it. `None` if they would cross it.
    pub fn try_work(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        if !self.ledger().kind(Kind::Work).try_add(bytes, 0) {
            return None;
        }
        self.take_counted(Kind::Work, bytes);
        Some(Charge::taken(Arc::clone(self), Kind::Work, bytes))
    }

    /// Creates a charge of zero bytes.
    pub fn empty(self: &Arc<Self>, kind: Kind) -> Charge {
        Charge::new(Some(Arc::clone(self)), kind)
    }

    /// Whether this number of bytes of a kind would fit now.
    pub fn admits(&self, kind: Kind, bytes: usize) -> bool {
        let own = lock(&self.own);
        let (held, more) = (
            own.held,
            wanted(own.held + bytes).saturating_sub(own.reserved),
        );
        drop(own);
        let participant = &self.participant;
        let fits =
            |level: &Level| level.fits_now(bytes, reserve_of(level, participant, more, false));
        self.level.fits(held, bytes, 0)
            && participant.level.fits_now(bytes, 0)
            && fits(self.ledger().kind(kind))
            && fits(&self.ledger().server)
    }

    /// The bytes that are held for the connection.
    pub fn held(&self) -> usize {
        lock(&self.own).held
    }

    /// Counts a chunk of one of the connection's calls until the result is dropped, which happens
    /// when the chunk is handled. Until then the connection waits for the server, not for its peer.
    pub fn chunk_came(self: &Arc<Self>) -> ChunkWaits {
        let mut own = lock(&self.own);
        own.chunks += 1;
        own.chunks_since.get_or_insert_with(Instant::now);
        drop(own);
        ChunkWaits(Arc::clone(self))
    }

    /// The total time for which the server has delayed the connection.
    pub fn kept_waiting(&self) -> Duration {
        let own = lock(&self.own);
        let now = own.chunks_since.map(|since| since.elapsed());
        own.kept_waiting.saturating_add(now.unwrap_or_default())
    }

    /// Adds to [`kept_waiting`](Self::kept_waiting), for a caller that measures such a delay
    /// itself.
    pub fn keep_waiting(&self, waited: Duration) {
        lock(&self.own).kept_waiting += waited;
    }

    /// Identifies the participant. The value is unique while something is charged to the
    /// participant.
    pub fn speaker(&self) -> Speaker {
        Speaker(Arc::as_ptr(&self.participant) as usize)
    }

    /// The server's ledger.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.participant.ledger
    }

    /// Takes bytes from all accounts, or from none.
    pub(crate) fn take(
        &self,
        kind: Kind,
        bytes: usize,
        how: How,
        pass: &Pass,
    ) -> Result<(), Scope> {
        let is_next = |level: &Level, scope| match how {
            How::Now => true,
            // A charge that has its turn here has queued at the earlier bounds already.
            How::InTurn(at) => scope <= at || level.waiting.load(Ordering::SeqCst) == 0,
        };
        let ledger = &**self.ledger();
        let mut own = lock(&self.own);
        let held = own.held + bytes;
        let (may_pass_own, may_pass_all) = (pass.participant.is_some(), pass.server.is_some());
        if !(may_pass_own || may_pass_all || self.level.fits(own.held, bytes, 0)) {
            return Err(Scope::Connection);
        }
        let is_small = held <= SMALL_BYTES;
        let is_free = held <= FREE_BYTES;
        let more = wanted(held).saturating_sub(own.reserved);
        let kind_of = kind;
        let (kind, participant, server) = (ledger.kind(kind), &*self.participant, &ledger.server);
        // Found before anything is added, because that counts for the participant.
        let reserve = |level| reserve_of(level, participant, more, is_small);
        let (of_kind, of_server) = (reserve(kind), reserve(server));
        let of_participant = if is_small {
            participant.level.max / RESERVE
        } else {
            0
        };
        let try_add = |level: &Level, scope, bytes, reserve| {
            (reserve > 0 || is_next(level, scope)) && level.try_add(bytes, reserve)
        };
        if may_pass_all {
            // Before they are held, so that they never use up the reserve.
            kind.pass(bytes);
            server.pass(bytes);
        }
        if may_pass_all || is_free {
            kind.add(bytes);
        } else if !try_add(kind, Scope::Kind, bytes, of_kind) {
            return Err(Scope::Kind);
        }
        if more > 0 {
            if may_pass_own || may_pass_all {
                participant.add(more);
            } else if !(is_small || is_next(&participant.level, Scope::Participant))
                || !participant.try_add(more, of_participant)
            {
                kind.give(bytes);
                return Err(Scope::Participant);
            }
            if may_pass_all {
                server.add(more);
            } else if !try_add(server, Scope::Server, more, of_server) {
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

    /// Whether a charge of so many bytes would wait among those that may use the reserve of a
    /// bound, because the participant holds little.
    pub(crate) fn waits_for_reserve(&self, level: &Level, scope: Scope, bytes: usize) -> bool {
        let own = lock(&self.own);
        let more = wanted(own.held + bytes).saturating_sub(own.reserved);
        drop(own);
        matches!(scope, Scope::Kind | Scope::Server) && holds_little(level, &self.participant, more)
    }

    pub(crate) fn take_anyway(&self, kind: Kind, bytes: usize) {
        self.ledger().kind(kind).add(bytes);
        self.take_counted(kind, bytes);
    }

    /// Takes bytes that their kind has counted already.
    fn take_counted(&self, kind: Kind, bytes: usize) {
        let mut own = lock(&self.own);
        own.held += bytes;
        own.count(kind, bytes);
        let more = wanted(own.held).saturating_sub(own.reserved);
        if more > 0 {
            self.participant.add(more);
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
        // One spare step is kept for the next charge, unless the connection holds almost nothing.
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
            self.participant.give(back);
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

/// Identifies the participant that caused a message to others; no participant by default.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Speaker(usize);

/// A chunk that waits until its room handles it; counted until this value is dropped.
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

/// Whether a participant holds so little, with `more` bytes, that it may use the reserve of a bound
/// of the server. Accounts without a participant never do.
fn holds_little(level: &Level, participant: &Participant, more: usize) -> bool {
    participant.level.max < usize::MAX
        && participant.held_by_name().saturating_add(more) <= level.max / LITTLE_SHARE
}

/// The reserve beyond a bound of the server that a charge may use. Small connections of
/// participants that hold much leave a half of it to the other participants.
fn reserve_of(level: &Level, participant: &Participant, more: usize, is_small: bool) -> usize {
    if holds_little(level, participant, more) {
        level.max / RESERVE
    } else if is_small {
        level.max / RESERVE / 2
    } else {
        0
    }
}

/// The bytes that a connection takes from its participant and the server when it holds `held`.
fn wanted(held: usize) -> usize {
    held.saturating_sub(FREE_BYTES).next_multiple_of(STEP_BYTES)
}

/// How a charge meets a bound.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum How {
    /// The charge is refused if it does not fit now.
    Now,
    /// The charge waits, and has its turn at this bound. At later bounds it queues behind the
    /// charges that wait there.
    InTurn(Scope),
}
