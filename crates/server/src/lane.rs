//! Where work that takes long is done, so that it keeps nobody else waiting.
//!
//! A worker thread of the runtime that decodes ten megabytes serves nobody meanwhile. So who is about to do that
//! takes a place in the lane and hands the thread's other tasks on. There is one place less than there are
//! cores: whatever is in the lane, a core is left for everybody else.
//!
//! Places are given in the order in which they were asked for, and a room asks anew for each of its turns, which
//! are short: so rooms with much heavy work take turns, and one that has less of it comes soon.

use std::time::Instant;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;

use crate::metrics::Metrics;

/// Bytes to decode, merge or encode from which on work belongs in the lane. They take about a millisecond.
const HEAVY_BYTES: usize = 128 << 10;

/// Whether work of about so many bytes belongs in the lane.
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

    /// Does work of about so many bytes, here and now or in the lane.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the work was not begun.
    pub(crate) async fn run<T>(
        &self,
        bytes: usize,
        metrics: &Metrics,
        work: impl FnOnce() -> T,
    ) -> T {
        if !is_heavy(bytes) {
            return work();
        }
        // A runtime with one thread has nobody to hand its tasks to.
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
