//! Answers to deletions, held back until the deleted data can't be read anywhere. Other batches are
//! committed meanwhile.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use meshagent_store::{AsyncStore, StoreError, Written, block_on};
use tokio::sync::oneshot;

use super::{BatchResult, Outcome, with_causes};

/// How long an answer is held at most. After this time something outside of the server, such as a
/// backup, holds the store's log. Until that has ended, further deletions are answered without the
/// wait.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// How long the store is asked to erase after its maintenance: what it puts off may wait for its
/// own reads.
const TENDED: Duration = Duration::from_millis(200);

/// Answers that wait, at most one for each room, since a room has one batch in flight.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Whether the store may have space to free.
    frees: bool,
    answers: Vec<Answer>,
    /// The store is asked to erase until then, even if no answer waits.
    ask_until: Option<Instant>,
    /// Whether an answer was held for the whole time, and the store has not erased since.
    is_given_up: bool,
}

#[derive(Debug)]
struct Answer {
    done: oneshot::Sender<Outcome>,
    outcome: Outcome,
    until: Instant,
}

impl Held {
    /// Answers a batch, or holds its answer if it deleted something. An answer to a room that has
    /// ended is dropped.
    pub(super) fn answer(
        &mut self,
        done: oneshot::Sender<Outcome>,
        outcome: Outcome,
        now: Instant,
    ) {
        let deletes = deletes(&outcome.0);
        self.frees |= deletes;
        if deletes && !self.is_given_up {
            let until = now + PATIENCE;
            self.answers.push(Answer {
                done,
                outcome,
                until,
            });
        } else {
            let _ = done.send(outcome);
        }
    }

    pub(super) fn tended(&mut self, now: Instant) {
        // An earlier process may have left space to free.
        self.frees = true;
        self.ask_until = Some(now + TENDED);
    }

    /// Whether the store may have space to free.
    pub(super) fn frees(&self) -> bool {
        self.frees
    }

    /// Frees some space in the store.
    pub(super) fn free_some(&mut self, store: &dyn AsyncStore) {
        let freed = catch_unwind(AssertUnwindSafe(|| block_on(store.free_some())))
            .unwrap_or_else(|_| Err(StoreError::Unavailable("the store panicked".into())));
        if let Err(error) = &freed {
            tracing::warn!(error = %with_causes(error), "space of what was deleted can't be freed \
                                                         now");
        }
        // After a failure it is tried again when the store's maintenance has run.
        self.frees = matches!(freed, Ok(false));
    }

    /// Whether answers wait.
    pub(super) fn is_awaited(&self) -> bool {
        !self.answers.is_empty()
    }

    /// Whether the store should be asked to erase.
    pub(super) fn is_waiting(&self) -> bool {
        !self.answers.is_empty() || self.ask_until.is_some()
    }

    /// Erases what the store can erase, and sends the answers that are due.
    pub(super) fn erase(&mut self, store: &dyn AsyncStore, now: Instant) {
        let erased = catch_unwind(AssertUnwindSafe(|| block_on(store.erase())))
            .unwrap_or_else(|_| Err(StoreError::Unavailable("the store panicked".into())));
        if matches!(erased, Ok(true)) {
            self.is_given_up = false;
            self.ask_until = None;
        }
        self.ask_until = self.ask_until.filter(|until| now < *until);
        let is_due = |answer: &mut Answer| match &erased {
            // A store that was replaced will never erase.
            Ok(true) | Err(StoreError::Replaced(_)) => true,
            Ok(false) | Err(_) => answer.until <= now,
        };
        for answer in self.answers.extract_if(.., is_due) {
            if !matches!(erased, Ok(true)) && !self.is_given_up {
                self.is_given_up = true;
                let why = match &erased {
                    Err(error) => with_causes(error),
                    Ok(_) => "something holds the database open for reading".to_owned(),
                };
                tracing::warn!(
                    why,
                    "a deletion was answered although remains are in the store's log; they go \
                     when that is emptied"
                );
            }
            let _ = answer.done.send(answer.outcome);
        }
    }
}

/// Whether the batch removed entries. Data that is only overwritten is erased later.
pub(super) fn deletes(result: &BatchResult) -> bool {
    let deletes = |written: &Written| match written {
        Written::Deleted { .. } => true,
        Written::Moved { replaced, .. } => !replaced.is_empty(),
        _ => false,
    };
    result
        .as_ref()
        .is_ok_and(|results| results.iter().flatten().any(deletes))
}
