//! Turns at reading from the store: how many reads are under way at a time, of which kinds, and of which rooms.
//!
//! A room stands in the common lines with a few reads at a time, so rooms take turns, however many reads one of them
//! wants. What may take long has a line of its own first, and leaves most places to what is short.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Reads that all rooms have under way together; more wait for their turn.
const READS: usize = 16;
/// Of these, lists of folders, which may be long.
const LISTS: usize = 4;
/// Of these, files that are opened at most, for which the store goes through all of each; there is always a core for
/// others, if there is more than one.
const MAX_FILES: usize = 4;
/// What one room has of the reads, or stands in line for.
const ROOM_READS: usize = 4;

/// A kind of read that may take long.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Long {
    /// A file is opened.
    File,
    /// A folder is listed.
    List,
}

/// Who has his turn, until this is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    // The semaphores are never closed.
    _permits: [Option<SemaphorePermit<'a>>; 2],
}

/// The lines of all rooms.
#[derive(Debug)]
pub(crate) struct Reads {
    all: Semaphore,
    files: Semaphore,
    lists: Semaphore,
}

impl Reads {
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            all: Semaphore::new(READS),
            files: Semaphore::new(cores.saturating_sub(1).clamp(1, MAX_FILES)),
            lists: Semaphore::new(LISTS),
        }
    }

    /// Waits for a read's turn.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, its place in the line is gone.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        Turn {
            _permits: [self.all.acquire().await.ok(), None],
        }
    }

    /// Waits for the turn of a read that may take long; [`Reads::turn`] comes after it.
    ///
    /// # Cancel safety
    /// As [`Reads::turn`].
    pub(crate) async fn long_turn<'a>(&'a self, own: &'a RoomReads, long: Long) -> Turn<'a> {
        let (own, common) = match long {
            Long::File => (&own.files, &self.files),
            Long::List => (&own.lists, &self.lists),
        };
        let own = own.acquire().await.ok();
        Turn {
            _permits: [own, common.acquire().await.ok()],
        }
    }
}

/// The lines within one room.
#[derive(Debug)]
pub(crate) struct RoomReads {
    all: Semaphore,
    files: Semaphore,
    lists: Semaphore,
}

impl RoomReads {
    pub(crate) fn new() -> Self {
        Self {
            all: Semaphore::new(ROOM_READS),
            files: Semaphore::new(1),
            lists: Semaphore::new(1),
        }
    }

    /// Waits for the turn of one of the room's reads.
    ///
    /// # Cancel safety
    /// As [`Reads::turn`].
    pub(crate) async fn turn(&self) -> Turn<'_> {
        Turn {
            _permits: [self.all.acquire().await.ok(), None],
        }
    }
}
