//! The health of the store: taken from the last commits, or else from a check that all callers
//! share, at most one each second.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use meshagent_store::StoreError;
use tokio::sync::watch;

/// How long a result is valid.
const FRESH: Duration = Duration::from_secs(1);
/// A store that answers a check more slowly is not ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the store can't be used. Strangers may read it, so it names nothing of the machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Obstacle {
    /// A stable word for programs.
    pub(crate) word: &'static str,
    /// A sentence for people.
    pub(crate) text: &'static str,
}

impl Obstacle {
    const SLOW: Self = Self {
        word: "storage-slow",
        text: "the storage did not answer in time: its disk may be overloaded or failing",
    };

    pub(crate) fn of(error: &StoreError) -> Self {
        let (word, text) = match error {
            StoreError::Full(_) => (
                "storage-full",
                "the server's disk is full: delete something, or give it more space",
            ),
            StoreError::ReadOnly(_) => (
                "storage-read-only",
                "the server's disk can only be read, maybe since it had an error: nothing is saved \
                 until it can be written again",
            ),
            StoreError::Replaced(_) => (
                "storage-replaced",
                "the database was deleted or replaced while in use: nothing is saved until the \
                 server is restarted",
            ),
            StoreError::Corrupt { .. } => (
                "storage-damaged",
                "the stored data is damaged: a backup may have to be restored",
            ),
            _ => (
                "storage-unavailable",
                "the storage can't be read or written at the moment",
            ),
        };
        Self { word, text }
    }
}

/// The error text for a participant whose request fails with the store.
pub(crate) fn refusal(error: &StoreError) -> String {
    match error {
        // Requests fail until the operator has acted.
        StoreError::Replaced(_) => format!("storage failed: {error}"),
        StoreError::Full(_) => {
            "the server's disk is full; try again when there is space, which deletions make"
                .to_owned()
        }
        StoreError::ReadOnly(_) => "the server's disk can only be read, so nothing is saved; \
             try again when its operator has mended it"
            .to_owned(),
        StoreError::Corrupt { .. } => format!(
            "storage failed: {error}; it is not readable again before the operator has restored \
             a backup"
        ),
        _ => format!("storage failed, try again later: {error}; the server's log says more"),
    }
}

/// Written by the committer's thread, read by all callers of `ready`.
#[derive(Debug)]
pub(crate) struct Health {
    state: Mutex<State>,
    /// Signals each result.
    answers: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    /// The last result, its time, and whether a commit has failed since.
    last: Option<Finding>,
    /// The time of the last check. Commits don't count.
    checked_at: Option<Instant>,
    is_asked: bool,
    /// Something found no space, and no check has succeeded since.
    is_full: bool,
    /// Why the store can't be used before a restart.
    is_lost: Option<Obstacle>,
}

#[derive(Debug)]
struct Finding {
    at: Instant,
    is_doubtful: bool,
    /// If the store can't be used, the reason.
    result: Result<(), Obstacle>,
}

/// The next step of a caller of `ready`.
enum Next {
    Answer(Result<(), Obstacle>),
    /// Ask the committer for a check.
    Ask,
    /// Wait for the check of another caller.
    Wait,
    /// Wait until a check is allowed again.
    Sleep(Duration),
}

impl Health {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
            answers: watch::channel(()).0,
        }
    }

    /// Records the result of a commit.
    pub(crate) fn committed(&self, result: Result<(), &StoreError>) {
        let mut state = self.state();
        match result {
            // A small commit may succeed on a full disk.
            Ok(()) if state.is_full => state.doubt(),
            Ok(()) => state.found(Ok(())),
            Err(StoreError::Replaced(_)) => state.lose(result),
            Err(StoreError::Full(_)) => state.lack_space(),
            // The fault may lie in that commit alone; a check decides.
            Err(_) => state.doubt(),
        }
        drop(state);
        self.signal();
    }

    /// Wakes the callers of `ready`. Who subscribes later finds the new state.
    fn signal(&self) {
        if self.answers.receiver_count() > 0 {
            self.answers.send_replace(());
        }
    }

    /// Records that a commit was only partly done for lack of space.
    pub(crate) fn doubt(&self) {
        self.state().lack_space();
        self.signal();
    }

    /// Records the result of a check.
    pub(crate) fn checked(&self, result: Result<(), &StoreError>) {
        let mut state = self.state();
        state.is_asked = false;
        state.checked_at = Some(Instant::now());
        match result {
            Ok(()) => state.is_full = false,
            Err(StoreError::Full(_)) => state.is_full = true,
            Err(_) => {}
        }
        state.found(result.map_err(Obstacle::of));
        state.lose(result);
        drop(state);
        self.signal();
    }

    /// Records the result of the store's maintenance, which does not count as a check.
    pub(crate) fn tended(&self, result: Result<(), &StoreError>) {
        self.state().lose(result);
    }

    /// Whether the store can be used now, or why not. `ask` requests a check, and returns false if
    /// that is impossible now.
    pub(crate) async fn ready(&self, ask: impl Fn() -> bool) -> Result<(), Obstacle> {
        let mut answers = self.answers.subscribe();
        let answer = async {
            loop {
                answers.borrow_and_update();
                match self.next() {
                    Next::Answer(answer) => return answer,
                    Next::Ask if ask() => {}
                    Next::Ask => self.state().is_asked = false,
                    Next::Wait => {}
                    Next::Sleep(pause) => {
                        tokio::time::sleep(pause).await;
                        continue;
                    }
                }
                // The sender belongs to `self`, so it is alive.
                let _ = answers.changed().await;
            }
        };
        tokio::time::timeout(PATIENCE, answer)
            .await
            .unwrap_or(Err(Obstacle::SLOW))
    }

    fn next(&self) -> Next {
        let mut state = self.state();
        let now = Instant::now();
        if let Some(why) = state.is_lost {
            return Next::Answer(Err(why));
        }
        if let Some(last) = &state.last
            && !last.is_doubtful
            && now.duration_since(last.at) < FRESH
        {
            return Next::Answer(last.result);
        }
        if state.is_asked {
            return Next::Wait;
        }
        if let Some(checked_at) = state.checked_at
            && let Some(pause) = FRESH.checked_sub(now.duration_since(checked_at))
            && !pause.is_zero()
        {
            return Next::Sleep(pause);
        }
        state.is_asked = true;
        Next::Ask
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is a series of assignments, and the state is consistent after each.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn found(&mut self, result: Result<(), Obstacle>) {
        self.last = Some(Finding {
            at: Instant::now(),
            is_doubtful: false,
            result,
        });
    }

    /// Marks the last result as possibly outdated.
    fn doubt(&mut self) {
        if let Some(last) = &mut self.last {
            last.is_doubtful = true;
        }
    }

    /// Records that something found no space.
    fn lack_space(&mut self) {
        self.is_full = true;
        self.doubt();
    }

    /// Remembers, and logs once, a failure that lasts until a restart.
    fn lose(&mut self, result: Result<(), &StoreError>) {
        if let Err(error @ StoreError::Replaced(_)) = result
            && self.is_lost.is_none()
        {
            tracing::error!(
                error = %crate::committer::with_causes(error),
                "nothing is saved any more: stop the server, put the database back, start it again"
            );
            self.is_lost = Some(Obstacle::of(error));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn full() -> StoreError {
        StoreError::Full("full".into())
    }

    #[tokio::test]
    async fn commits_answer_for_the_store() {
        let health = Health::new();
        health.committed(Ok(()));
        let ready = health.ready(|| panic!("asked although a commit has just succeeded"));
        assert_eq!(ready.await, Ok(()));
    }

    #[tokio::test]
    async fn all_who_ask_share_one_check_a_second() {
        let health = Health::new();
        let checks = AtomicU64::new(0);
        let started = Instant::now();
        for round in 0..50 {
            let full = full();
            let ask = || {
                checks.fetch_add(1, Ordering::Relaxed);
                health.checked(if round < 25 { Err(&full) } else { Ok(()) });
                true
            };
            let (one, other) = tokio::join!(health.ready(ask), health.ready(ask));
            assert_eq!(one, other);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let checks = checks.load(Ordering::Relaxed);
        assert!(
            (1..=started.elapsed().as_secs() + 1).contains(&checks),
            "{checks} checks"
        );
    }

    #[tokio::test]
    async fn failed_commit_is_followed_by_a_check() {
        let health = Health::new();
        health.committed(Ok(()));
        health.committed(Err(&full()));
        let ask = || {
            health.checked(Err(&full()));
            true
        };
        assert!(health.ready(ask).await.is_err());
        health.committed(Ok(()));
        let ask = || {
            health.checked(Ok(()));
            true
        };
        assert_eq!(health.ready(ask).await, Ok(()));
    }

    /// A small commit may succeed on a full disk.
    #[tokio::test]
    async fn only_a_check_shows_that_the_disk_has_space_again() {
        for is_doubt in [false, true] {
            let health = Health::new();
            health.committed(Ok(()));
            if is_doubt {
                health.doubt();
            } else {
                health.committed(Err(&full()));
            }
            health.committed(Ok(()));
            let asked = AtomicU64::new(0);
            let ask = || {
                asked.fetch_add(1, Ordering::Relaxed);
                health.checked(Err(&full()));
                true
            };
            assert!(health.ready(ask).await.is_err());
            assert_eq!(asked.load(Ordering::Relaxed), 1);
            health.committed(Ok(()));
            let ready = health.ready(|| {
                health.checked(Ok(()));
                true
            });
            assert_eq!(ready.await, Ok(()));
        }
    }

    #[tokio::test]
    async fn lost_store_stays_lost() {
        let health = Health::new();
        health.tended(Err(&StoreError::Replaced("gone".into())));
        health.committed(Ok(()));
        health.checked(Ok(()));
        let ready = health.ready(|| panic!("asked although it is lost"));
        let why = ready.await.unwrap_err();
        assert_eq!(why.word, "storage-replaced");
    }
}
