//! The heavy-work pool: where slow work runs without delaying other rooms.
//!
//! A runtime thread that decodes ten megabytes serves nothing else meanwhile. So a task that is
//! about to do heavy work takes a place in the pool and moves the thread's other tasks to another
//! thread. The pool has one place less than there are cores, so that one core always remains for
//! other work.
//!
//! Places are granted in the order of the requests. A room requests a place for each of its turns,
//! which are short. So rooms with much heavy work alternate, and a room with little of it waits
//! briefly.

use std::time::Instant;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;

use crate::metrics::Metrics;

/// Bytes to decode, merge or encode from which on work is heavy. They take approximately a
/// millisecond.
const HEAVY_BYTES: usize = 128 << 10;

/// Whether work on approximately `bytes` bytes belongs in the pool.
pub(crate) fn is_heavy(bytes: usize) -> bool {
    bytes >= HEAVY_BYTES
}

#[derive(Debug)]
pub(crate) struct Lane {
    places: Semaphore,
}

impl Lane {
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            places: Semaphore::new(cores.saturating_sub(1).max(1)),
        }
    }

    /// Does work on approximately `bytes` bytes, directly or in the pool.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, the work was not started.
    pub(crate) async fn run<T>(
        &self,
        bytes: usize,
        metrics: &Metrics,
        work: impl FnOnce() -> T,
    ) -> T {
        if !is_heavy(bytes) {
            return work();
        }
        // A single-threaded runtime has no other thread for its tasks.
        let many_threads = Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread;
        let place = if many_threads {
            self.places.acquire().await.ok()
        } else {
            None
        };
        let started = Instant::now();
        let done = match &place {
            Some(_) => tokio::task::block_in_place(work),
            None => work(),
        };
        metrics
            .heavy_seconds
            .observe(started.elapsed().as_secs_f64());
        done
    }
}
