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

/// Everything that one server holds for its peers.
#[derive(Debug)]
pub struct Ledger {
    bounds: Bounds,
    pub(crate) server: Level,
    pub(crate) kinds: [Level; Kind::ALL.len()],
    /// Whose charge goes beyond the server's bounds.
    pub(crate) overdraft: Arc<Semaphore>,
    /// Charges that were refused because of others.
    pub(crate) refusals: AtomicU64,
    /// Requests that wait for others to let go of what is shared.
    pub(crate) wanting: AtomicUsize,
    /// Links whose next part waits until others have taken theirs.
    pub(crate) parts_wanting: AtomicUsize,
    pub(crate) participants: Mutex<HashMap<String, Weak<Participant>>>,
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
            let bound = self.bounds.participant();
            let new = Participant::new(participant, bound, self);
            participants.insert(participant.to_owned(), Arc::downgrade(&new));
            new
        });
        drop(participants);
        Account::new(self.bounds.connection(), participant)
    }

    /// An account for what is held for many, or for nobody in particular: only the server's bounds count.
    pub fn common(self: &Arc<Self>) -> Arc<Account> {
        Account::new(usize::MAX, Participant::new("", usize::MAX, self))
    }

    /// Bytes that are charged to the server, in steps.
    pub fn held(&self) -> usize {
        self.server.held()
    }

    /// Bytes of one kind, of all peers.
    pub fn held_of(&self, kind: Kind) -> usize {
        self.kind(kind).held()
    }

    pub(crate) fn kind(&self, kind: Kind) -> &Level {
        &self.kinds[kind as usize]
    }
}

/// Everything that is held for the connections of one participant.
#[derive(Debug)]
pub(crate) struct Participant {
    pub(crate) name: String,
    pub(crate) level: Level,
    /// Whose charge goes beyond the participant's bound.
    pub(crate) overdraft: Arc<Semaphore>,
    /// Of what many share, what is on its way to its connections.
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
        // Another one may have come under this name.
        if participants
            .get(&self.name)
            .is_some_and(|known| known.strong_count() == 0)
        {
            participants.remove(&self.name);
        }
    }
}
