//! What the server holds for its peers, in bytes: charged before it is made, released when it is dropped.
//!
//! Three accounts pay for each charge: the connection's, its participant's, and the server's. A kind of charge may
//! have a bound of its own. Beyond a bound a charge is [refused](Account::try_charge), [waits](Account::charge), or is
//! only [counted](Account::charge_anyway) because the thing exists already; `docs/operations.md` says which, per kind.
//!
//! # Rules
//! - A waiting charge keeps its place: at each bound the charges that wait are served in the order they came.
//! - Connections that hold something while they wait for more could wait for each other for ever. One of them at a
//!   time, per participant and per server, therefore goes on beyond the bound.
//! - One charge larger than a bound passes when nothing else is held there.
//! - A connection that holds little may use a reserve, so that those who hold much never keep it waiting.
//! - The first [`FREE_BYTES`] of a connection count as part of the connection and are never waited for. Beyond that its
//!   participant and the server are asked for [`STEP_BYTES`] at a time: most messages touch only the connection's own account.
//! - A right to go beyond a bound is no good in the hands of one who waits for a peer to read: such a request
//!   [stands back](Charge::stand_back), and the peer has to take its answers in good time ([`pressure`]).

mod open_memory;
mod pressure;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

pub use self::open_memory::{OpenCharge, OpenMemory, TooMuchOpen};
pub use self::pressure::{Pace, Wanted};

/// What a connection may hold without its participant or the server being asked.
pub const FREE_BYTES: usize = 4 << 10;
/// The steps in which a connection takes from its participant and the server.
const STEP_BYTES: usize = 16 << 10;
/// A connection that holds no more than this may use the reserve.
const SMALL_BYTES: usize = 64 << 10;

/// What something is held for.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// Parts of files on their way out.
    Download,
    /// Chunks that came before their call was ready for them.
    Early,
    /// Long heads of HTTP requests that are not complete.
    Head,
    /// JSON as values.
    Parsed,
    /// Answers and messages in a connection's outbox, without what it shares with others.
    Queued,
    /// What was read from the store, until its room has handled it.
    Read,
    /// Frames and messages, until they are handled.
    Received,
    /// Encoded states, changes and messages that many connections share.
    Shared,
    /// Writes that wait for the disk.
    Staged,
    /// What a participant's entry in its room takes: attributes, calls, requests that wait.
    State,
    /// Files on their way in.
    Upload,
}

impl Kind {
    /// All kinds, in the order of the enum.
    pub const ALL: [Self; 11] = [
        Self::Download,
        Self::Early,
        Self::Head,
        Self::Parsed,
        Self::Queued,
        Self::Read,
        Self::Received,
        Self::Shared,
        Self::Staged,
        Self::State,
        Self::Upload,
    ];

    /// The label of its gauge.
    pub fn label(self) -> &'static str {
        match self {
            Self::Download => "download",
            Self::Early => "early",
            Self::Head => "head",
            Self::Parsed => "parsed",
            Self::Queued => "queued",
            Self::Read => "read",
            Self::Received => "received",
            Self::Shared => "shared",
            Self::Staged => "staged",
            Self::State => "state",
            Self::Upload => "upload",
        }
    }
}

/// The bounds of a ledger, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// For all peers together.
    pub server: usize,
    /// Of what is [received](Kind::Received).
    pub received: usize,
}

impl Bounds {
    /// A quarter: a message, and what becomes of it, has to fit.
    fn connection(self) -> usize {
        self.server / 4
    }

    /// Three eighths: no two participants fill the server.
    fn participant(self) -> usize {
        self.server / 8 * 3
    }
}

/// A participant, to those who are told what it says and does; nobody in particular by default.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Speaker(usize);

/// Which bound a charge would cross, in the order in which they are asked.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Scope {
    /// The connection's.
    Connection,
    /// The server's, for this kind.
    Kind,
    /// The participant's.
    Participant,
    /// The server's, for all kinds together.
    Server,
}

/// A charge that was not made.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}", self.text())]
pub struct OverBound {
    /// The bound that would be crossed.
    pub scope: Scope,
}

impl OverBound {
    fn text(self) -> &'static str {
        match self.scope {
            Scope::Connection => {
                "the server holds too much for this connection; read your answers, or try again later"
            }
            Scope::Participant => {
                "the server holds too much for this participant; read your answers, or try again later"
            }
            Scope::Server | Scope::Kind => {
                "the server holds as much as it may for all its clients; try again later"
            }
        }
    }
}

/// Everything that one server holds for its peers.
#[derive(Debug)]
pub struct Ledger {
    bounds: Bounds,
    server: Level,
    kinds: [Level; Kind::ALL.len()],
    /// Whose charge goes beyond the server's bounds.
    overdraft: Arc<Semaphore>,
    /// Charges that were refused because of others.
    refusals: AtomicU64,
    /// Requests that wait for others to let go of what is shared.
    wanting: AtomicUsize,
    /// Links whose next part waits until others have taken theirs.
    parts_wanting: AtomicUsize,
    participants: Mutex<HashMap<String, Weak<Participant>>>,
}

impl Ledger {
    /// Creates a ledger without charges.
    pub fn new(bounds: Bounds) -> Arc<Self> {
        let kinds = Kind::ALL.map(|kind| {
            Level::new(match kind {
                Kind::Received => bounds.received,
                // It stays as long as its connection does, so it never fills the server.
                Kind::State => bounds.server / 2,
                // Strangers' have to leave room for those who are known.
                Kind::Head => bounds.server / 16,
                _ => usize::MAX,
            })
        });
        Arc::new(Self {
            bounds,
            server: Level::new(bounds.server),
            kinds,
            overdraft: Arc::new(Semaphore::new(1)),
            refusals: AtomicU64::new(0),
            wanting: AtomicUsize::new(0),
            parts_wanting: AtomicUsize::new(0),
            participants: Mutex::default(),
        })
    }

    /// An account for one connection. Connections with the same `participant` share that one's bound.
    pub fn account(self: &Arc<Self>, participant: &str) -> Arc<Account> {
        let mut participants = lock(&self.participants);
        let known = participants.get(participant).and_then(Weak::upgrade);
        let participant = known.unwrap_or_else(|| {
            let new = Arc::new(Participant {
                name: participant.to_owned(),
                level: Level::new(self.bounds.participant()),
                overdraft: Arc::new(Semaphore::new(1)),
                taking: AtomicUsize::new(0),
                ledger: Arc::clone(self),
            });
            participants.insert(participant.to_owned(), Arc::downgrade(&new));
            new
        });
        drop(participants);
        Arc::new(Account {
            own: Mutex::default(),
            taking: AtomicUsize::new(0),
            level: Level::new(self.bounds.connection()),
            participant,
        })
    }

    /// An account for what is held for many, or for nobody in particular: only the server's bounds count.
    pub fn common(self: &Arc<Self>) -> Arc<Account> {
        let participant = Arc::new(Participant {
            name: String::new(),
            level: Level::new(usize::MAX),
            overdraft: Arc::new(Semaphore::new(1)),
            taking: AtomicUsize::new(0),
            ledger: Arc::clone(self),
        });
        Arc::new(Account {
            own: Mutex::default(),
            taking: AtomicUsize::new(0),
            level: Level::new(usize::MAX),
            participant,
        })
    }

    /// Bytes that are charged to the server, in steps.
    pub fn held(&self) -> usize {
        self.server.held()
    }

    /// Bytes of one kind, of all peers.
    pub fn held_of(&self, kind: Kind) -> usize {
        self.kind(kind).held()
    }

    fn kind(&self, kind: Kind) -> &Level {
        &self.kinds[kind as usize]
    }
}

/// Everything that is held for the connections of one participant.
#[derive(Debug)]
struct Participant {
    name: String,
    level: Level,
    /// Whose charge goes beyond the participant's bound.
    overdraft: Arc<Semaphore>,
    /// Of what many share, what is on its way to its connections.
    taking: AtomicUsize,
    ledger: Arc<Ledger>,
}

impl Drop for Participant {
    fn drop(&mut self) {
        let mut participants = lock(&self.ledger.participants);
        // Another one may have come under this name.
        if participants
            .get(&self.name)
            .is_some_and(|known| known.strong_count() == 0)
        {
            participants.remove(&self.name);
        }
    }
}

/// Everything that is held for one connection.
#[derive(Debug)]
pub struct Account {
    own: Mutex<Own>,
    /// Of what many share, what is on its way to it.
    taking: AtomicUsize,
    /// Only for those who wait; what is held is in `own`.
    level: Level,
    participant: Arc<Participant>,
}

#[derive(Debug, Default)]
struct Own {
    held: usize,
    /// What was taken from the participant and the server.
    reserved: usize,
    /// Of what is held, files that it sends.
    uploading: usize,
    /// Chunks of its calls that came and are not handled, and since when there are some; for how long there were some
    /// before that.
    chunks: usize,
    chunks_since: Option<Instant>,
    kept_waiting: Duration,
    /// One of its charges has the participant's overdraft, or the server's.
    passes_participant: bool,
    passes_server: bool,
}

impl Own {
    fn count(&mut self, kind: Kind, bytes: usize) {
        if kind == Kind::Upload {
            self.uploading += bytes;
        }
    }

    fn uncount(&mut self, kind: Kind, bytes: usize) {
        if kind == Kind::Upload {
            self.uploading = self.uploading.saturating_sub(bytes);
        }
    }
}

impl Account {
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
        Charge {
            account: Some(Arc::clone(self)),
            kind,
            bytes: 0,
            pass: Pass::default(),
        }
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
    fn take(&self, kind: Kind, bytes: usize, how: How) -> Result<(), Scope> {
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

    fn take_anyway(&self, kind: Kind, bytes: usize) {
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

    fn give(&self, kind: Kind, bytes: usize) {
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

    fn level(&self, kind: Kind, scope: Scope) -> &Level {
        match scope {
            Scope::Connection => &self.level,
            Scope::Participant => &self.participant.level,
            Scope::Server => &self.ledger().server,
            Scope::Kind => self.ledger().kind(kind),
        }
    }
}

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
enum How {
    /// It fits now, or not.
    Now,
    /// It waits, at present here: elsewhere it goes behind those who wait already.
    InTurn(Scope),
}

/// Which bounds a connection may cross, because it holds something that others may wait for.
#[derive(Debug, Default)]
struct Pass {
    participant: Option<OwnedSemaphorePermit>,
    /// It crosses all of them.
    server: Option<OwnedSemaphorePermit>,
}

/// Bytes of one kind that are held for a connection; released when it is dropped.
#[derive(Debug)]
pub struct Charge {
    /// `None` for a charge of nothing that belongs to nobody.
    account: Option<Arc<Account>>,
    kind: Kind,
    bytes: usize,
    pass: Pass,
}

impl Charge {
    /// A charge of nothing that belongs to nobody.
    pub fn none() -> Self {
        Self {
            account: None,
            kind: Kind::Received,
            bytes: 0,
            pass: Pass::default(),
        }
    }

    /// How much it is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Charges more, or nothing if that would cross a bound.
    ///
    /// # Errors
    /// If a bound would be crossed; the charge is what it was.
    pub fn try_grow(&mut self, more: usize) -> Result<(), OverBound> {
        if let Some(account) = &self.account {
            account.take(self.kind, more, How::Now).map_err(|scope| {
                account.note_refusal(scope);
                OverBound { scope }
            })?;
            self.bytes += more;
        }
        Ok(())
    }

    /// Charges more as soon as it fits.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the charge is what it was.
    pub async fn grow(&mut self, more: usize) {
        let Some(account) = self.account.clone() else {
            return;
        };
        let take = |at| account.take(self.kind, more, How::InTurn(at));
        let mut taken = take(Scope::Connection);
        while let Err(scope) = taken {
            let level = account.level(self.kind, scope);
            let _waits = Waits::at(level);
            let waited = wait_at(level, scope, || take(scope));
            // Nobody can wait for what was never taken from the others; a kind counts all.
            if scope != Scope::Kind && account.held() <= FREE_BYTES {
                taken = waited.await;
                continue;
            }
            let is_own = matches!(scope, Scope::Connection | Scope::Participant);
            let overdraft = if is_own {
                &account.participant.overdraft
            } else {
                &account.ledger().overdraft
            };
            tokio::select! {
                biased;
                result = waited => taken = result,
                permit = Arc::clone(overdraft).acquire_owned() => {
                    // The semaphores are never closed.
                    let mut held = lock(&account.own);
                    if is_own {
                        self.pass.participant = permit.ok();
                        held.passes_participant = true;
                    } else {
                        self.pass.server = permit.ok();
                        held.passes_server = true;
                    }
                    drop(held);
                    taken = take(scope);
                }
            }
        }
        self.bytes += more;
    }

    /// Charges more until it covers so many bytes, as soon as that fits.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the charge is what it was.
    pub async fn cover(&mut self, bytes: usize) {
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 {
            self.grow(more).await;
        }
    }

    /// Charges more whatever the bounds say.
    pub fn grow_anyway(&mut self, more: usize) {
        if let Some(account) = &self.account {
            account.take_anyway(self.kind, more);
            self.bytes += more;
        }
    }

    /// Releases a part, at most all of it.
    pub fn shrink(&mut self, less: usize) {
        let less = less.min(self.bytes);
        self.bytes -= less;
        if let Some(account) = &self.account {
            account.give(self.kind, less);
        }
    }

    /// Adds what another charge of the same connection and kind covers; others stay separate.
    ///
    /// # Errors
    /// The other charge, if it belongs elsewhere.
    pub fn merge(&mut self, mut other: Self) -> Result<(), Self> {
        if self.account.is_none() && self.bytes == 0 {
            *self = other;
            return Ok(());
        }
        let same_account = match (&self.account, &other.account) {
            (Some(own), Some(others)) => Arc::ptr_eq(own, others),
            _ => other.bytes == 0,
        };
        if !same_account || self.kind != other.kind {
            return Err(other);
        }
        self.bytes += std::mem::take(&mut other.bytes);
        self.pass.participant = self
            .pass
            .participant
            .take()
            .or_else(|| other.pass.participant.take());
        self.pass.server = self.pass.server.take().or_else(|| other.pass.server.take());
        Ok(())
    }

    /// Gives up the right to go beyond a bound, if it has one.
    pub fn stand_back(&mut self) {
        let Some(account) = &self.account else { return };
        let had = std::mem::take(&mut self.pass);
        if had.participant.is_some() || had.server.is_some() {
            let mut own = lock(&account.own);
            own.passes_participant &= had.participant.is_none();
            own.passes_server &= had.server.is_none();
        }
    }

    /// The same bytes, held for something else from now on.
    #[must_use]
    pub fn into_kind(mut self, kind: Kind) -> Self {
        if let Some(account) = &self.account {
            account.ledger().kind(kind).add(self.bytes);
            account.ledger().kind(self.kind).give(self.bytes);
            let mut own = lock(&account.own);
            own.uncount(self.kind, self.bytes);
            own.count(kind, self.bytes);
            drop(own);
            self.kind = kind;
        }
        self
    }
}

/// Waits for its turn at a bound, and there until `take` succeeds, or names another bound that is in the way.
async fn wait_at(
    level: &Level,
    scope: Scope,
    take: impl Fn() -> Result<(), Scope>,
) -> Result<(), Scope> {
    // Never closed.
    let _turn = level.turn.acquire().await;
    loop {
        let freed = level.freed.notified();
        tokio::pin!(freed);
        // Registered before the look, so that nothing that is freed in between is missed.
        freed.as_mut().enable();
        match take() {
            Err(same) if same == scope => freed.await,
            done => return done,
        }
    }
}

/// What one message holds, from its last byte to the end of what became of it.
#[derive(Debug)]
pub struct Held {
    received: Charge,
    parsed: Charge,
}

impl Held {
    /// Joins the charges for a message's bytes and for its JSON as values.
    pub fn new(received: Charge, parsed: Charge) -> Self {
        Self { received, parsed }
    }

    /// For what no message is the cause of.
    pub fn none() -> Self {
        Self::new(Charge::none(), Charge::none())
    }

    /// All of it, held for something else from now on.
    #[must_use]
    pub fn into_kind(self, kind: Kind) -> Self {
        Self::new(self.received.into_kind(kind), self.parsed.into_kind(kind))
    }

    /// Gives up the right to go beyond a bound, if it has one.
    pub fn stand_back(&mut self) {
        self.received.stand_back();
        self.parsed.stand_back();
    }

    /// Charges more whatever the bounds say, for what came of the message.
    pub fn grow_anyway(&mut self, more: usize) {
        self.received.grow_anyway(more);
    }

    /// How much it is.
    pub fn bytes(&self) -> usize {
        self.received.bytes() + self.parsed.bytes()
    }
}

impl From<Charge> for Held {
    fn from(charge: Charge) -> Self {
        Self::new(charge, Charge::none())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shrink(self.bytes);
        self.stand_back();
    }
}

/// One bound, what is held below it, and those who wait there.
#[derive(Debug)]
struct Level {
    max: usize,
    held: AtomicUsize,
    waiting: AtomicUsize,
    /// The first of those who wait has it; the others stand in line for it.
    turn: Semaphore,
    /// Wakes the first.
    freed: Notify,
}

impl Level {
    fn new(max: usize) -> Self {
        Self {
            max,
            held: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            turn: Semaphore::new(1),
            freed: Notify::new(),
        }
    }

    fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn fits(&self, held: usize, more: usize, reserve: usize) -> bool {
        held == 0 || held.saturating_add(more) <= self.max.saturating_add(reserve)
    }

    fn fits_now(&self, more: usize) -> bool {
        self.fits(self.held(), more, 0)
    }

    fn try_add(&self, bytes: usize, reserve: usize) -> bool {
        if self.max == usize::MAX {
            self.add(bytes);
            return true;
        }
        let add = |held| self.fits(held, bytes, reserve).then_some(held + bytes);
        self.held
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, add)
            .is_ok()
    }

    fn add(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::SeqCst);
    }

    fn give(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.freed.notify_one();
        }
    }
}

/// Counts one who waits.
struct Waits<'a>(&'a Level);

impl<'a> Waits<'a> {
    fn at(level: &'a Level) -> Self {
        level.waiting.fetch_add(1, Ordering::SeqCst);
        Self(level)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Numbers and a map, which no panic leaves half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
