//! Answers to deletions, which are held back until what was deleted can be read nowhere; others' batches go on meanwhile.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use meshagent_store::{Store, StoreError, Written};
use tokio::sync::oneshot;

use super::{BatchResult, Outcome, with_causes};

/// How long an answer is held at most. Then something holds the store's log that is none of its own reads, such as a
/// backup; until that has ended, further deletions are answered without waiting for it.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the store is asked after it was tended: what it put off may wait for reads of its own.
const TENDED: Duration = Duration::from_millis(200);

/// Answers that wait. There are as many as rooms at most, since each has one batch under way.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Whether the store may have space to free.
    frees: bool,
    answers: Vec<Answer>,
    /// The store is asked until then, even if no answer waits.
    ask_until: Option<Instant>,
    /// Whether an answer was held for as long as it may be, and the store has not erased since.
    is_given_up: bool,
}

#[derive(Debug)]
struct Answer {
    done: oneshot::Sender<Outcome>,
    outcome: Outcome,
    until: Instant,
}

impl Held {
    /// Answers a batch, or holds its answer if it deleted something. A room that is gone needs no answer.
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
        // What an earlier process left.
        self.frees = true;
        self.ask_until = Some(now + TENDED);
    }

    /// Whether the store has space to free, as far as is known.
    pub(super) fn frees(&self) -> bool {
        self.frees
    }

    /// Has the store free some of it.
    pub(super) fn free_some(&mut self, store: &dyn Store) {
        let freed = catch_unwind(AssertUnwindSafe(|| store.free_some()))
            .unwrap_or_else(|_| Err(StoreError::Unavailable("the store panicked".into())));
        if let Err(error) = &freed {
            tracing::warn!(error = %with_causes(error), "space of what was deleted can't be freed now");
        }
        // If it failed, it is tried again after the store is tended.
        self.frees = matches!(freed, Ok(false));
    }

    /// Whether answers wait.
    pub(super) fn is_awaited(&self) -> bool {
        !self.answers.is_empty()
    }

    /// Whether the store is to be asked.
    pub(super) fn is_waiting(&self) -> bool {
        !self.answers.is_empty() || self.ask_until.is_some()
    }

    /// Has the store erase what it can, and gives the answers that are due.
    pub(super) fn erase(&mut self, store: &dyn Store, now: Instant) {
        let erased = catch_unwind(AssertUnwindSafe(|| store.erase()))
            .unwrap_or_else(|_| Err(StoreError::Unavailable("the store panicked".into())));
        if matches!(erased, Ok(true)) {
            self.is_given_up = false;
            self.ask_until = None;
        }
        self.ask_until = self.ask_until.filter(|until| now < *until);
        let is_due = |answer: &mut Answer| match &erased {
            // Of a store that is lost nothing will come.
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
                    "a deletion was answered although remains are in the store's log; they go when that is emptied"
                );
            }
            let _ = answer.done.send(answer.outcome);
        }
    }
}

/// Whether something of it ended that could be read before. What is only overwritten goes later.
fn deletes(result: &BatchResult) -> bool {
    let deletes = |written: &Written| match written {
        Written::Deleted { .. } => true,
        Written::Moved { replaced, .. } => !replaced.is_empty(),
        _ => false,
    };
    result
        .as_ref()
        .is_ok_and(|results| results.iter().flatten().any(deletes))
}
