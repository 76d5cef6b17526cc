//! One bound, and the charges that wait at it.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, Semaphore};

use crate::bounds::Scope;

/// A bound, the bytes held below it, and the charges that wait at it.
#[derive(Debug)]
pub(crate) struct Level {
    pub(crate) max: usize,
    held: AtomicUsize,
    pub(crate) waiting: AtomicUsize,
    /// The first waiting charge has the permit; the others queue for it.
    turn: Semaphore,
    /// Wakes the first waiting charge.
    freed: Notify,
}

impl Level {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            held: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            turn: Semaphore::new(1),
            freed: Notify::new(),
        }
    }

    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    pub(crate) fn fits(&self, held: usize, more: usize, reserve: usize) -> bool {
        held == 0 || held.saturating_add(more) <= self.max.saturating_add(reserve)
    }

    pub(crate) fn fits_now(&self, more: usize) -> bool {
        self.fits(self.held(), more, 0)
    }

    pub(crate) fn try_add(&self, bytes: usize, reserve: usize) -> bool {
        if self.max == usize::MAX {
            self.add(bytes);
            return true;
        }
        let add = |held| self.fits(held, bytes, reserve).then_some(held + bytes);
        self.held
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, add)
            .is_ok()
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::SeqCst);
    }

    pub(crate) fn give(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::SeqCst);
        self.wake();
    }

    pub(crate) fn wake(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.freed.notify_one();
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
pub(crate) async fn wait_at(
    level: &Level,
    scope: Scope,
    take: impl Fn() -> Result<(), Scope>,
) -> Result<(), Scope> {
    // The semaphore is never closed.
    let _turn = level.turn.acquire().await;
    loop {
        let freed = level.freed.notified();
        tokio::pin!(freed);
        // Registered before the attempt, so bytes that are freed in between are not missed.
        freed.as_mut().enable();
        match take() {
            Err(same) if same == scope => freed.await,
            done => return done,
        }
    }
}
