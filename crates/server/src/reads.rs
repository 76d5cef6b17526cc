//! Turns at reading from the store: bounds on concurrent reads, for each kind and each room.
//!
//! A room queues only a few reads at a time, so rooms take turns, however many reads one of them
//! wants. Reads that may take long first wait in a queue of their own, and leave most places to
//! short ones.
//!
//! A result stays in memory until its room has handled it, which may be long after the read. Until
//! then the read keeps its place in the room and is charged. A result of more than [`SMALL_BYTES`]
//! also needs space among the unhandled results of its room and of all rooms. The read waits for
//! that space first, going by its size in the store or, for a list, by its largest possible size.
//! Small reads never wait for large ones, and the places bound their number.
//!
//! Deadlock is impossible: a read that waits for space holds neither a place nor a turn, and takes
//! a place again once it has space. A read with space waits for places and turns, and these are
//! released without needing space, after a read or when the room has handled a result. A room never
//! waits for a read before its other work.

use std::sync::Arc;

use meshagent_ledger::Charge;
use meshagent_store::StoreError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::fair::{FairTurn, FairTurns};
use crate::room::FetchResult;

/// Concurrent reads of all rooms together; more wait for their turn.
const READS: usize = 16;
/// Concurrent lists of folders, which may be long.
const LISTS: usize = 4;
/// Files opened concurrently for rooms. That takes long only if the disk does.
const FILES: usize = 4;
/// Reads of one room that are queued, running or unhandled.
const ROOM_READS: usize = 4;

/// A result of at most this size needs no space.
pub(crate) const SMALL_BYTES: usize = 64 << 10;
/// The bound on unhandled results of all rooms is the server's bound on held bytes divided by this.
/// Below, the divisor for one room.
const UNHANDLED_PART: usize = 4;
const ROOM_PART: usize = 8;

/// A kind of read that may take long.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Long {
    /// Opens a file.
    File,
    /// Lists a folder.
    List,
}

/// A turn at reading, released when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    // The semaphores are never closed.
    _permit: Option<OwnedSemaphorePermit>,
}

/// The queues that all rooms share.
#[derive(Debug)]
pub(crate) struct Reads {
    all: Arc<Semaphore>,
    files: Arc<Semaphore>,
    lists: Arc<Semaphore>,
    /// For holders of links to files, who are in no room; the links take turns.
    links: Arc<FairTurns>,
    unhandled: Unfilled,
    /// The bound on unhandled bytes of one room.
    room_bytes: usize,
}

impl Reads {
    /// Creates the queues of a server that may hold `max_held_bytes` for its peers.
    pub(crate) fn new(max_held_bytes: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(READS)),
            files: Arc::new(Semaphore::new(FILES)),
            lists: Arc::new(Semaphore::new(LISTS)),
            links: Arc::new(FairTurns::new(ROOM_READS)),
            unhandled: Unfilled::new(max_held_bytes / UNHANDLED_PART),
            room_bytes: max_held_bytes / ROOM_PART,
        }
    }

    /// Creates the queues within one room.
    pub(crate) fn for_room(&self) -> RoomReads {
        RoomReads {
            all: Arc::new(Semaphore::new(ROOM_READS)),
            files: Arc::new(Semaphore::new(1)),
            lists: Arc::new(Semaphore::new(1)),
            unhandled: Unfilled::new(self.room_bytes),
        }
    }

    /// Waits for a read's turn.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, its place in the queue is lost.
    pub(crate) async fn turn(&self) -> Turn {
        Turn {
            _permit: Arc::clone(&self.all).acquire_owned().await.ok(),
        }
    }

    /// Waits for a turn among the reads for links; [`Reads::turn`] follows it.
    ///
    /// # Cancel safety
    /// See [`Reads::turn`].
    pub(crate) async fn link_turn(&self, link: &Arc<str>) -> FairTurn {
        self.links.turn(link).await
    }

    #[cfg(test)]
    pub(crate) fn links_waiting(&self) -> usize {
        self.links.waiting()
    }

    /// Waits for the common turn of a read that may take long; [`Reads::turn`] follows it.
    ///
    /// # Cancel safety
    /// See [`Reads::turn`].
    pub(crate) async fn long_turn(&self, long: Long) -> Turn {
        let line = match long {
            Long::File => &self.files,
            Long::List => &self.lists,
        };
        Turn {
            _permit: Arc::clone(line).acquire_owned().await.ok(),
        }
    }

    /// Waits for the space of a result of `bytes` bytes. A waiting caller holds nothing else for
    /// which others wait.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, nothing is held.
    pub(crate) async fn space(&self, room: &RoomReads, bytes: usize) -> Space {
        // The room's own space comes first: a room with too many unhandled results delays only
        // itself.
        let own = room.unhandled.take(bytes).await;
        [own, self.unhandled.take(bytes).await]
    }
}

/// Space among the unhandled results of a room, and of all rooms.
pub(crate) type Space = [Option<OwnedSemaphorePermit>; 2];
/// Places among the reads of a room: among the long ones, if it is one, and among all.
pub(crate) type Places = [Option<OwnedSemaphorePermit>; 2];

/// The free part of a bound in bytes.
#[derive(Debug)]
struct Unfilled {
    kilobytes: Arc<Semaphore>,
    max: u32,
}

impl Unfilled {
    fn new(bytes: usize) -> Self {
        let max = kilobytes(bytes).max(1);
        Self {
            kilobytes: Arc::new(Semaphore::new(max as usize)),
            max,
        }
    }

    /// Waits until there is space. A request beyond the bound passes alone.
    async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kilobytes = kilobytes(bytes).min(self.max);
        let permit = Arc::clone(&self.kilobytes).acquire_many_owned(kilobytes);
        permit.await.ok()
    }
}

fn kilobytes(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX)
}

/// The resources of a read, from before it begins until the room has handled its result.
#[derive(Debug)]
pub(crate) struct Unhandled {
    _places: Places,
    kilobytes: Space,
    charge: Charge,
}

impl Unhandled {
    fn none() -> Self {
        Self::small([None, None], Charge::none())
    }

    /// For a result that needs no space.
    pub(crate) fn small(places: Places, charge: Charge) -> Self {
        Self::large(places, [None, None], charge)
    }

    /// For a result that has its space.
    pub(crate) fn large(places: Places, space: Space, charge: Charge) -> Self {
        Self {
            _places: places,
            kilobytes: space,
            charge,
        }
    }

    /// Adjusts the charge to the real size of the result. Excess space is released. Bytes beyond
    /// the estimate are charged in any case, as they are in memory already.
    fn done(&mut self, bytes: usize) {
        self.charge
            .shrink(self.charge.bytes().saturating_sub(bytes));
        let more = bytes.saturating_sub(self.charge.bytes());
        self.charge.grow_anyway(more);
        for permit in self.kilobytes.iter_mut().flatten() {
            let wanted = kilobytes(bytes) as usize;
            drop(permit.split(permit.num_permits().saturating_sub(wanted)));
        }
    }
}

/// The result of a read, and the resources that it holds until it is handled.
#[derive(Debug)]
pub(crate) struct Brought {
    pub(crate) result: Result<FetchResult, StoreError>,
    pub(crate) unhandled: Unhandled,
}

impl Brought {
    pub(crate) fn new(result: Result<FetchResult, StoreError>, mut unhandled: Unhandled) -> Self {
        unhandled.done(result.as_ref().map_or(0, FetchResult::bytes));
        Self { result, unhandled }
    }
}

/// A result without a place or charge, for drivers that read from the store themselves.
impl From<Result<FetchResult, StoreError>> for Brought {
    fn from(result: Result<FetchResult, StoreError>) -> Self {
        Self {
            result,
            unhandled: Unhandled::none(),
        }
    }
}

/// The queues within one room.
#[derive(Debug)]
pub(crate) struct RoomReads {
    all: Arc<Semaphore>,
    files: Arc<Semaphore>,
    lists: Arc<Semaphore>,
    unhandled: Unfilled,
}

impl RoomReads {
    /// Waits for the place of a read that may take long; [`RoomReads::places`] includes it.
    ///
    /// # Cancel safety
    /// See [`Reads::turn`].
    pub(crate) async fn long_place(&self, long: Long) -> Option<OwnedSemaphorePermit> {
        let line = match long {
            Long::File => &self.files,
            Long::List => &self.lists,
        };
        Arc::clone(line).acquire_owned().await.ok()
    }

    /// Waits for the places of one of the room's reads, which it holds until its result is handled.
    ///
    /// # Cancel safety
    /// See [`Reads::turn`].
    pub(crate) async fn places(&self, long: Option<Long>) -> Places {
        let long = match long {
            Some(long) => self.long_place(long).await,
            None => None,
        };
        [long, Arc::clone(&self.all).acquire_owned().await.ok()]
    }
}
