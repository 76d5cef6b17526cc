//! The ledger of one server, and its participants.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::Semaphore;

use crate::account::Account;
use crate::bounds::Bounds;
use crate::kind::Kind;
use crate::level::Level;
use crate::lock;

/// The memory that one server holds for its peers.
#[derive(Debug)]
pub struct Ledger {
    bounds: Bounds,
    pub(crate) server: Level,
    pub(crate) kinds: [Level; Kind::ALL.len()],
    /// The permit to exceed the server's bounds; one charge at a time has it.
    pub(crate) overdraft: Arc<Semaphore>,
    /// The number of charges that were refused because of memory held for others.
    pub(crate) refusals: AtomicU64,
    /// The number of requests that wait until others release shared bytes.
    pub(crate) wanting: AtomicUsize,
    /// The number of downloads by link whose next part waits until others have read theirs.
    pub(crate) parts_wanting: AtomicUsize,
    pub(crate) participants: Mutex<HashMap<String, Weak<Participant>>>,
}

impl Ledger {
    /// Creates a ledger without charges.
    pub fn new(bounds: Bounds) -> Arc<Self> {
        let kinds = Kind::ALL.map(|kind| {
            Level::new(match kind {
                Kind::Received => bounds.received,
                // It lasts as long as its connection, so it must never fill the server.
                Kind::State => bounds.server / 2,
                // Unauthenticated peers must leave space for participants.
                Kind::Head => bounds.server / 16,
                // It comes on top of what is held already.
                Kind::Work => bounds.server / 4,
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

    /// Creates the account of one connection. Connections with the same `participant` share the
    /// bound of that participant.
    pub fn account(self: &Arc<Self>, participant: &str) -> Arc<Account> {
        let mut participants = lock(&self.participants);
        let known = participants.get(participant).and_then(Weak::upgrade);
        let participant = known.unwrap_or_else(|| {
            let bound = self.bounds.participant();
            let new = Participant::new(participant, bound, self);
            participants.insert(participant.to_owned(), Arc::downgrade(&new));
            new
        });
        drop(participants);
        Account::new(self.bounds.connection(), participant)
    }

    /// Creates an account for memory that is shared, or not held for a single participant. Only the
    /// server's bounds apply to it.
    pub fn common(self: &Arc<Self>) -> Arc<Account> {
        Account::new(usize::MAX, Participant::new("", usize::MAX, self))
    }

    /// The bytes that are charged to the server, in steps of 16 KiB for each connection.
    pub fn held(&self) -> usize {
        self.server.held()
    }

    /// The bytes of one kind, for all peers.
    pub fn held_of(&self, kind: Kind) -> usize {
        self.kind(kind).held()
    }

    pub(crate) fn kind(&self, kind: Kind) -> &Level {
        &self.kinds[kind as usize]
    }
}

/// The memory that is held for the connections of one participant.
#[derive(Debug)]
pub(crate) struct Participant {
    pub(crate) name: String,
    pub(crate) level: Level,
    /// The permit to exceed the participant's bound; one charge at a time has it.
    pub(crate) overdraft: Arc<Semaphore>,
    /// Shared bytes that are queued for its connections.
    pub(crate) taking: AtomicUsize,
    pub(crate) ledger: Arc<Ledger>,
}

impl Participant {
    fn new(name: &str, bound: usize, ledger: &Arc<Ledger>) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            level: Level::new(bound),
            overdraft: Arc::new(Semaphore::new(1)),
            taking: AtomicUsize::new(0),
            ledger: Arc::clone(ledger),
        })
    }
}

impl Drop for Participant {
    fn drop(&mut self) {
        let mut participants = lock(&self.ledger.participants);
        // The entry may already belong to a newer participant with this name.
        if participants
            .get(&self.name)
            .is_some_and(|known| known.strong_count() == 0)
        {
            participants.remove(&self.name);
        }
    }
}
