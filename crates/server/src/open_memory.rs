//! What the documents in memory take, of all rooms: for the server, and for each participant who had them read or made.
//!
//! What a document takes is known when it is there, so it is counted then, and refused if it goes beyond a bound. What
//! it grows by is counted too, for the server alone: it is not always those who opened a document who write it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The documents in memory take as much as they may.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum TooMuchOpen {
    #[error(
        "the documents that this participant has in memory are limited to {limit} bytes; close some, or try again when they are let go"
    )]
    Participant { limit: usize },
    #[error(
        "the documents in memory are limited to {limit} bytes for all clients together; close large ones, or try again later"
    )]
    Server { limit: usize },
}

/// See the [module's text](self).
#[derive(Debug, Default)]
pub(crate) struct OpenMemory {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: usize,
    // Nobody without a document is in it.
    by_participant: HashMap<Arc<str>, usize>,
}

impl OpenMemory {
    /// Bytes that all of them take, about.
    pub(crate) fn bytes(&self) -> usize {
        self.state().bytes
    }

    /// Whether those that nobody has open should not stay: they take more than three quarters of what there may be.
    pub(crate) fn is_tight(&self, max: usize) -> bool {
        self.bytes() > max / 4 * 3
    }

    /// Counts a document of so many bytes. A participant may have three eighths of `max`; one document always.
    ///
    /// # Errors
    /// If a bound would be crossed; nothing is counted.
    pub(crate) fn hold(
        self: &Arc<Self>,
        participant: &str,
        bytes: usize,
        max: usize,
    ) -> Result<OpenCharge, TooMuchOpen> {
        let fits = |held: usize, max| held == 0 || held.saturating_add(bytes) <= max;
        let mut state = self.state();
        let own = state.by_participant.get(participant).copied();
        let limit = max / 8 * 3;
        if !fits(own.unwrap_or_default(), limit) {
            return Err(TooMuchOpen::Participant { limit });
        }
        if !fits(state.bytes, max) {
            return Err(TooMuchOpen::Server { limit: max });
        }
        let participant: Arc<str> = participant.into();
        *state
            .by_participant
            .entry(Arc::clone(&participant))
            .or_default() += bytes;
        state.bytes += bytes;
        drop(state);
        Ok(OpenCharge {
            participant,
            bytes,
            grown: 0,
            all: Arc::clone(self),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Numbers, which no panic leaves half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one document takes, counted until this is dropped.
#[derive(Debug)]
pub(crate) struct OpenCharge {
    participant: Arc<str>,
    /// Of its participant's.
    bytes: usize,
    /// What it takes beyond that.
    grown: usize,
    all: Arc<OpenMemory>,
}

impl OpenCharge {
    /// The document takes so many bytes by now.
    pub(crate) fn set(&mut self, bytes: usize) {
        let grown = bytes.saturating_sub(self.bytes);
        if grown != self.grown {
            let mut state = self.all.state();
            state.bytes = state.bytes - self.grown + grown;
            drop(state);
            self.grown = grown;
        }
    }
}

impl Drop for OpenCharge {
    fn drop(&mut self) {
        let mut state = self.all.state();
        state.bytes -= self.bytes + self.grown;
        if let Some(own) = state.by_participant.get_mut(&self.participant) {
            *own -= self.bytes;
            if *own == 0 {
                state.by_participant.remove(&self.participant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_released_and_bounds_say_which_they_are() {
        let all = Arc::new(OpenMemory::default());
        let max = 800;
        let mut one = all.hold("jörg", 200, max).unwrap();
        let second = all.hold("jörg", 100, max).unwrap();
        let refused = all.hold("jörg", 1, max).unwrap_err();
        assert_eq!(refused, TooMuchOpen::Participant { limit: 300 });
        // What others write into it is not that participant's.
        one.set(500);
        assert_eq!(all.bytes(), 600);
        let other = all.hold("zoë", 200, max).unwrap();
        let refused = all.hold("łukasz", 1, max).unwrap_err();
        assert_eq!(refused, TooMuchOpen::Server { limit: 800 });
        assert!(all.is_tight(max));
        one.set(150);
        assert_eq!(all.bytes(), 500);
        drop((one, second, other));
        assert_eq!(all.bytes(), 0);
        assert!(all.state().by_participant.is_empty());
        // One that is larger than all there may be is held alone.
        drop(all.hold("jörg", 5_000, max).unwrap());
        assert_eq!(all.bytes(), 0);
    }
}
