//! Turns at reading from the store: how many reads are under way at a time, of which kinds, and of which rooms.
//!
//! A room stands in the common lines with a few reads at a time, so rooms take turns, however many reads one of them
//! wants. What may take long has a line of its own first, and leaves most places to what is short.
//!
//! A result stays in memory until its room has handled it, which may be long after the read. Until then the read keeps
//! its place in the room, and is charged. A result of more than [`SMALL_BYTES`] also needs space among the unhandled
//! results of its room and of all rooms; it waits for that before it is read, by its size in the store, or, of a list, by
//! what it may have at most. Small ones never wait for large ones, and their number is bounded by the places.
//!
//! A read that waits for space holds neither a place nor a turn; it takes a place again once it has space. Who has
//! space waits for places and turns, and each of these is given back without space: after a read, or when the room has
//! handled a result. A room never waits for a read before it does its other work. So there is no deadlock.

use std::sync::Arc;

use meshagent_store::StoreError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ledger::Charge;
use crate::room::FetchResult;

/// Reads that all rooms have under way together; more wait for their turn.
const READS: usize = 16;
/// Of these, lists of folders, which may be long.
const LISTS: usize = 4;
/// Of these, files that are opened at most, for which the store goes through all of each; there is always a core for
/// others, if there is more than one.
const MAX_FILES: usize = 4;
/// What one room has of the reads, or stands in line for.
const ROOM_READS: usize = 4;

/// A result of at most so many bytes needs no space.
pub(crate) const SMALL_BYTES: usize = 64 << 10;
/// The part of what the server may hold that may be read and not handled, of all rooms; and of one of them.
const UNHANDLED_PART: usize = 4;
const ROOM_PART: usize = 8;

/// A kind of read that may take long.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Long {
    /// A file is opened.
    File,
    /// A folder is listed.
    List,
}

/// A turn, until this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    // The semaphores are never closed.
    _permit: Option<OwnedSemaphorePermit>,
}

/// The lines of all rooms.
#[derive(Debug)]
pub(crate) struct Reads {
    all: Arc<Semaphore>,
    files: Arc<Semaphore>,
    lists: Arc<Semaphore>,
    unhandled: Unfilled,
    /// The bound of one room.
    room_bytes: usize,
}

impl Reads {
    /// For a server that may hold so many bytes for its peers.
    pub(crate) fn new(max_held_bytes: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            all: Arc::new(Semaphore::new(READS)),
            files: Arc::new(Semaphore::new(cores.saturating_sub(1).clamp(1, MAX_FILES))),
            lists: Arc::new(Semaphore::new(LISTS)),
            unhandled: Unfilled::new(max_held_bytes / UNHANDLED_PART),
            room_bytes: max_held_bytes / ROOM_PART,
        }
    }

    /// The lines within one room.
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
    /// Dropped before it is ready, its place in the line is gone.
    pub(crate) async fn turn(&self) -> Turn {
        Turn {
            _permit: Arc::clone(&self.all).acquire_owned().await.ok(),
        }
    }

    /// Waits for the common turn of a read that may take long; [`Reads::turn`] comes after it.
    ///
    /// # Cancel safety
    /// As [`Reads::turn`].
    pub(crate) async fn long_turn(&self, long: Long) -> Turn {
        let line = match long {
            Long::File => &self.files,
            Long::List => &self.lists,
        };
        Turn {
            _permit: Arc::clone(line).acquire_owned().await.ok(),
        }
    }

    /// Waits for the space of a result of so many bytes. Whoever waits holds nothing else that others wait for.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, nothing is held.
    pub(crate) async fn space(&self, room: &RoomReads, bytes: usize) -> Space {
        // The room's own first: a room with too many unhandled results waits for itself.
        let own = room.unhandled.take(bytes).await;
        [own, self.unhandled.take(bytes).await]
    }
}

/// Space among the unhandled results of a room, and of all of them.
pub(crate) type Space = [Option<OwnedSemaphorePermit>; 2];
/// Places among the reads of a room: of those that may take long, if it is one, and of all.
pub(crate) type Places = [Option<OwnedSemaphorePermit>; 2];

/// What is free of a bound in bytes.
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

    /// Waits until there is space. What is larger than the bound passes alone.
    async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kilobytes = kilobytes(bytes).min(self.max);
        let permit = Arc::clone(&self.kilobytes).acquire_many_owned(kilobytes);
        permit.await.ok()
    }
}

fn kilobytes(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX)
}

/// What a read holds from before it begins until its room has handled what it brought.
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

    /// Of what needs no space.
    pub(crate) fn small(places: Places, charge: Charge) -> Self {
        Self::large(places, [None, None], charge)
    }

    /// Of what has it.
    pub(crate) fn large(places: Places, space: Space, charge: Charge) -> Self {
        Self {
            _places: places,
            kilobytes: space,
            charge,
        }
    }

    /// The result has so many bytes. Space beyond that is given back; bytes beyond the estimate are in memory already,
    /// and are charged.
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

/// What came of a read, and what it holds until that is handled.
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

/// A result without a place or a charge, for drivers that read from the store themselves.
impl From<Result<FetchResult, StoreError>> for Brought {
    fn from(result: Result<FetchResult, StoreError>) -> Self {
        Self {
            result,
            unhandled: Unhandled::none(),
        }
    }
}

/// The lines within one room.
#[derive(Debug)]
pub(crate) struct RoomReads {
    all: Arc<Semaphore>,
    files: Arc<Semaphore>,
    lists: Arc<Semaphore>,
    unhandled: Unfilled,
}

impl RoomReads {
    /// Waits for the place of a read that may take long; [`RoomReads::places`] waits for it, too.
    ///
    /// # Cancel safety
    /// As [`Reads::turn`].
    pub(crate) async fn long_place(&self, long: Long) -> Option<OwnedSemaphorePermit> {
        let line = match long {
            Long::File => &self.files,
            Long::List => &self.lists,
        };
        Arc::clone(line).acquire_owned().await.ok()
    }

    /// Waits for the places of one of the room's reads, which it has until what it brought is handled.
    ///
    /// # Cancel safety
    /// As [`Reads::turn`].
    pub(crate) async fn places(&self, long: Option<Long>) -> Places {
        let long = match long {
            Some(long) => self.long_place(long).await,
            None => None,
        };
        [long, Arc::clone(&self.all).acquire_owned().await.ok()]
    }
}
