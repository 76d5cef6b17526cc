//! The ledger of one server, and its participants.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::{Notify, Semaphore};

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
    pub(crate) names: Mutex<HashMap<String, Weak<Named>>>,
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
            names: Mutex::default(),
        })
    }

    /// Creates the account of one connection. Connections with the same `participant` share the
    /// bound of that participant.
    pub fn account(self: &Arc<Self>, participant: &str) -> Arc<Account> {
        self.account_of(participant, participant)
    }

    /// Creates the account of one connection in a room. Connections with the same name in the same
    /// room share the bound of a participant. Whether a participant holds little is decided for its
    /// name in all rooms together.
    pub fn account_in(self: &Arc<Self>, room: &str, name: &str) -> Arc<Account> {
        self.account_of(&format!("{room}\n{name}"), name)
    }

    fn account_of(self: &Arc<Self>, participant: &str, name: &str) -> Arc<Account> {
        let named = self.named(name);
        let mut participants = lock(&self.participants);
        let known = participants.get(participant).and_then(Weak::upgrade);
        let participant = known.unwrap_or_else(|| {
            let bound = self.bounds.participant();
            let new = Participant::new(participant, bound, named, self);
            participants.insert(participant.to_owned(), Arc::downgrade(&new));
            new
        });
        drop(participants);
        Account::new(self.bounds.connection(), participant)
    }

    /// Creates an account for memory that is shared, or not held for a single participant. Only the
    /// server's bounds apply to it.
    pub fn common(self: &Arc<Self>) -> Arc<Account> {
        let named = Named::new("", self);
        Account::new(usize::MAX, Participant::new("", usize::MAX, named, self))
    }

    fn named(self: &Arc<Self>, name: &str) -> Arc<Named> {
        let mut names = lock(&self.names);
        let known = names.get(name).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let new = Named::new(name, self);
            names.insert(name.to_owned(), Arc::downgrade(&new));
            new
        })
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
    named: Arc<Named>,
    pub(crate) ledger: Arc<Ledger>,
}

impl Participant {
    fn new(name: &str, bound: usize, named: Arc<Named>, ledger: &Arc<Ledger>) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            named,
            level: Level::new(bound),
            overdraft: Arc::new(Semaphore::new(1)),
            taking: AtomicUsize::new(0),
            ledger: Arc::clone(ledger),
        })
    }
}

impl Participant {
    /// The bytes that are held for its name in all rooms.
    pub(crate) fn held_by_name(&self) -> usize {
        self.named.held.load(Ordering::SeqCst)
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.named.held.fetch_add(bytes, Ordering::SeqCst);
        self.level.add(bytes);
    }

    pub(crate) fn try_add(&self, bytes: usize, reserve: usize) -> bool {
        let has_added = self.level.try_add(bytes, reserve);
        if has_added {
            self.named.held.fetch_add(bytes, Ordering::SeqCst);
        }
        has_added
    }

    pub(crate) fn give(&self, bytes: usize) {
        self.named.held.fetch_sub(bytes, Ordering::SeqCst);
        self.named.released.notify_waiters();
        self.level.give(bytes);
    }

    /// Waits until `is_light`, which depends on what is held for the name.
    pub(crate) async fn lightened(&self, is_light: impl Fn() -> bool) {
        loop {
            let released = self.named.released.notified();
            tokio::pin!(released);
            // Registered before the check, so a release in between is not missed.
            released.as_mut().enable();
            if is_light() {
                return;
            }
            released.await;
        }
    }
}

/// The memory that is held for one name in all rooms.
#[derive(Debug)]
pub(crate) struct Named {
    name: String,
    held: AtomicUsize,
    /// Wakes charges that wait until less is held for the name.
    released: Notify,
    ledger: Weak<Ledger>,
}

impl Named {
    fn new(name: &str, ledger: &Arc<Ledger>) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            held: AtomicUsize::new(0),
            released: Notify::new(),
            ledger: Arc::downgrade(ledger),
        })
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let Some(ledger) = self.ledger.upgrade() else {
            return;
        };
        let mut names = lock(&ledger.names);
        // The entry may already belong to a newer participant with this name.
        if names
            .get(&self.name)
            .is_some_and(|known| known.strong_count() == 0)
        {
            names.remove(&self.name);
        }
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
