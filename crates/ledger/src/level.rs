//! One bound, and the charges that wait at it.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, Semaphore};

use crate::bounds::Scope;

/// A bound, the bytes held below it, and the charges that wait at it.
#[derive(Debug)]
pub(crate) struct Level {
    pub(crate) max: usize,
    held: AtomicUsize,
    /// The part of `held` that charges took because they may exceed the bound, approximately: the
    /// server's `held` counts steps.
    passing: AtomicUsize,
    pub(crate) waiting: AtomicUsize,
    /// The charges that wait for bytes within the bound.
    line: Line,
    /// Those that may also use the reserve. They never wait behind the others.
    small: Line,
}

/// A line of charges that wait.
#[derive(Debug)]
struct Line {
    /// The first waiting charge has the permit; the others queue for it.
    turn: Semaphore,
    /// Wakes the first waiting charge.
    freed: Notify,
}

impl Line {
    fn new() -> Self {
        Self {
            turn: Semaphore::new(1),
            freed: Notify::new(),
        }
    }
}

impl Level {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            held: AtomicUsize::new(0),
            passing: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            line: Line::new(),
            small: Line::new(),
        }
    }

    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    pub(crate) fn fits(&self, held: usize, more: usize, reserve: usize) -> bool {
        held == 0 || held.saturating_add(more) <= self.max.saturating_add(reserve)
    }

    pub(crate) fn fits_now(&self, more: usize, reserve: usize) -> bool {
        let held = self.held().saturating_sub(self.passing(reserve));
        self.fits(held, more, reserve)
    }

    /// The bytes that do not count for a charge with this reserve: the one that may exceed the
    /// bound does not use up the reserve.
    pub(crate) fn passing(&self, reserve: usize) -> usize {
        if reserve > 0 {
            self.passing.load(Ordering::SeqCst)
        } else {
            0
        }
    }

    pub(crate) fn try_add(&self, bytes: usize, reserve: usize) -> bool {
        if self.max == usize::MAX {
            self.add(bytes);
            return true;
        }
        let passing = self.passing(reserve);
        let add = |held: usize| {
            let fits = self.fits(held.saturating_sub(passing), bytes, reserve);
            fits.then_some(held + bytes)
        };
        self.held
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, add)
            .is_ok()
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Counts so many of the held bytes as beyond the bound.
    pub(crate) fn pass(&self, bytes: usize) {
        self.passing.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Counts so many bytes no longer as beyond the bound.
    pub(crate) fn stop_passing(&self, bytes: usize) {
        self.passing.fetch_sub(bytes, Ordering::SeqCst);
    }

    pub(crate) fn is_exceeded(&self) -> bool {
        self.held() > self.max
    }

    pub(crate) fn give(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::SeqCst);
        self.wake();
    }

    pub(crate) fn wake(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.line.freed.notify_one();
            self.small.freed.notify_one();
        }
    }
}

/// Counts a waiting charge until it is dropped.
pub(crate) struct Waits<'a>(&'a Level);

impl<'a> Waits<'a> {
    pub(crate) fn at(level: &'a Level) -> Self {
        level.waiting.fetch_add(1, Ordering::SeqCst);
        Self(level)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Waits for the charge's turn at a bound, then until `take` succeeds or fails at another bound.
/// While `may_use_reserve`, the charge waits only behind others that may; fails at this bound when
/// that ends.
pub(crate) async fn wait_at(
    level: &Level,
    scope: Scope,
    may_use_reserve: impl Fn() -> bool,
    take: impl Fn() -> Result<(), Scope>,
) -> Result<(), Scope> {
    let is_small = may_use_reserve();
    let line = if is_small { &level.small } else { &level.line };
    // The semaphore is never closed.
    let _turn = line.turn.acquire().await;
    loop {
        let freed = line.freed.notified();
        tokio::pin!(freed);
        // Registered before the attempt, so bytes that are freed in between are not missed.
        freed.as_mut().enable();
        match take() {
            Err(same) if same == scope => {
                if is_small && !may_use_reserve() {
                    return Err(scope);
                }
                freed.await;
            }
            done => return done,
        }
    }
}
