//! What the documents in memory take, of all rooms: for the server, and for each participant who had them read or made,
//! or made them grow.
//!
//! What a document takes is known when it is there, so it is counted then, and refused if it goes beyond a bound. What
//! an update will add is estimated before it is applied, and what it did add is counted afterwards, for its author.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a participant may have when there is no memory for all: a sixteenth of that. Who has no more goes on, within
/// [`BEYOND`].
const RESERVE: usize = 16;
/// The part of the memory for all by which those who have little may exceed it together.
const BEYOND: usize = 8;

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
        let name = state.name_of(participant);
        state.add(&name, bytes);
        drop(state);
        Ok(OpenCharge {
            shares: BTreeMap::from_iter([(name, bytes)]),
            passing: 0,
            bytes,
            all: Arc::clone(self),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Numbers, which no panic leaves half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The one copy of a name that all who count for it have.
    fn name_of(&self, participant: &str) -> Arc<str> {
        let known = self.by_participant.get_key_value(participant);
        known.map_or_else(|| participant.into(), |(name, _)| Arc::clone(name))
    }

    fn of(&self, participant: &str) -> usize {
        self.by_participant
            .get(participant)
            .copied()
            .unwrap_or_default()
    }

    fn add(&mut self, participant: &Arc<str>, bytes: usize) {
        *self
            .by_participant
            .entry(Arc::clone(participant))
            .or_default() += bytes;
        self.bytes += bytes;
    }

    fn release(&mut self, participant: &str, bytes: usize) {
        self.bytes -= bytes;
        if let Some(own) = self.by_participant.get_mut(participant) {
            *own -= bytes;
            if *own == 0 {
                self.by_participant.remove(participant);
            }
        }
    }
}

/// What one document takes, counted until this is dropped.
#[derive(Debug)]
pub(crate) struct OpenCharge {
    /// Of it, by who caused it.
    shares: BTreeMap<Arc<str>, usize>,
    /// What it takes beside that for a while. It is in the shares of those who have most.
    passing: usize,
    /// The sum of the shares, without that.
    bytes: usize,
    all: Arc<OpenMemory>,
}

impl OpenCharge {
    /// What of it lasts.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a participant has a share in it.
    pub(crate) fn is_shared_by(&self, participant: &str) -> bool {
        self.shares.contains_key(participant)
    }

    /// How many bytes a participant may add to it.
    pub(crate) fn left(&self, participant: &str, max: usize) -> usize {
        let [own, all] = self.bounds(participant, max, false);
        own.0.min(all.0)
    }

    /// Whether a participant may add so many bytes to it. What deletions take, because they split
    /// what they leave, may exceed each bound by an eighth, so that they are possible at a bound.
    ///
    /// # Errors
    /// If a bound would be crossed.
    pub(crate) fn takes(
        &self,
        participant: &str,
        bytes: usize,
        max: usize,
        only_deletes: bool,
    ) -> Result<(), TooMuchOpen> {
        let bounds = self.bounds(participant, max, only_deletes);
        let crossed = bounds.into_iter().find(|(left, _)| bytes > *left);
        crossed.map_or(Ok(()), |(_, bound)| Err(bound))
    }

    /// How many bytes a participant may add to it within each bound. One document may always grow, if it is the only one
    /// in which the participant has a share, or the only one in memory.
    fn bounds(
        &self,
        participant: &str,
        max: usize,
        only_deletes: bool,
    ) -> [(usize, TooMuchOpen); 2] {
        let share = if only_deletes { BEYOND } else { usize::MAX };
        let extended = |bound: usize| bound + bound / share;
        let state = self.all.state();
        let (own, all) = (state.of(participant), state.bytes);
        drop(state);
        let here = self.shares.get(participant).copied().unwrap_or_default();
        let limit = max / 8 * 3;
        let of_own = if own == here {
            usize::MAX
        } else {
            extended(limit).saturating_sub(own)
        };
        let of_all = if all == self.bytes + self.passing {
            usize::MAX
        } else {
            let reserve = (max / RESERVE).saturating_sub(own);
            let beyond = (max + max / BEYOND).saturating_sub(all);
            let left = extended(max).saturating_sub(all);
            left.max(reserve.min(beyond))
        };
        [
            (of_own, TooMuchOpen::Participant { limit }),
            (of_all, TooMuchOpen::Server { limit: max }),
        ]
    }

    /// The document takes so many bytes by now, and `passing` ones for a while. What it has grown by is `participant`'s;
    /// more of what passes is whose share is the largest.
    pub(crate) fn set(&mut self, participant: &str, bytes: usize, passing: usize) {
        let mut state = self.all.state();
        if bytes > self.bytes {
            let name = state.name_of(participant);
            let grown = bytes - self.bytes;
            state.add(&name, grown);
            *self.shares.entry(name).or_default() += grown;
        }
        if passing > self.passing {
            let largest = self.shares.iter().max_by_key(|(_, share)| **share);
            let name = largest.map_or_else(|| participant.into(), |(name, _)| Arc::clone(name));
            let grown = passing - self.passing;
            state.add(&name, grown);
            *self.shares.entry(name).or_default() += grown;
        }
        // What is gone was whoever's: first of those who have most of it.
        let mut gone = self.bytes.saturating_sub(bytes) + self.passing.saturating_sub(passing);
        while gone > 0 {
            let largest = self.shares.iter_mut().max_by_key(|(_, share)| **share);
            let Some((name, share)) = largest else { break };
            let released = gone.min(*share);
            *share -= released;
            gone -= released;
            state.release(name, released);
            if *share == 0 {
                let name = Arc::clone(name);
                self.shares.remove(&name);
            }
        }
        drop(state);
        (self.bytes, self.passing) = (bytes, passing);
    }
}

impl Drop for OpenCharge {
    fn drop(&mut self) {
        let mut state = self.all.state();
        for (name, share) in &self.shares {
            state.release(name, *share);
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
        // What others write into it is theirs.
        one.set("zoë", 450, 50);
        assert_eq!(all.bytes(), 600);
        // And so is what passes, since most of it is theirs.
        assert_eq!(all.state().of("zoë"), 300);
        assert!(one.is_shared_by("zoë"));
        let refused = all.hold("zoë", 51, max).unwrap_err();
        assert_eq!(refused, TooMuchOpen::Participant { limit: 300 });
        let other = all.hold("łukasz", 200, max).unwrap();
        let refused = all.hold("ann", 1, max).unwrap_err();
        assert_eq!(refused, TooMuchOpen::Server { limit: 800 });
        assert!(all.is_tight(max));
        // What is gone was of those who had most.
        one.set("zoë", 150, 0);
        assert_eq!(all.bytes(), 450);
        let of = |name| all.state().of(name);
        assert_eq!((of("zoë"), of("jörg")), (0, 250));
        drop((one, second, other));
        assert_eq!(all.bytes(), 0);
        assert!(all.state().by_participant.is_empty());
        // One that is larger than all there may be is held alone.
        drop(all.hold("jörg", 5_000, max).unwrap());
        assert_eq!(all.bytes(), 0);
    }

    #[test]
    fn a_share_bounds_growth_but_of_a_single_document() {
        let all = Arc::new(OpenMemory::default());
        let max = 800;
        let mut one = all.hold("jörg", 200, max).unwrap();
        one.set("jörg", 700, 0);
        assert_eq!(one.left("jörg", max), usize::MAX);
        let mut second = all.hold("zoë", 50, max).unwrap();
        let of_participant = TooMuchOpen::Participant { limit: 300 };
        assert_eq!(second.takes("jörg", 1, max, false), Err(of_participant));
        second.set("zoë", 150, 0);
        // All of it is in use, and small shares go on.
        let of_all = TooMuchOpen::Server { limit: 800 };
        assert_eq!(second.takes("zoë", 1, max, false), Err(of_all));
        assert_eq!(one.takes("jörg", 1, max, false), Err(of_all));
        assert_eq!(second.takes("ann", 50, max, false), Ok(()));
        assert_eq!(second.takes("ann", 51, max, false), Err(of_all));
        // And what deletions take.
        assert_eq!(second.takes("jörg", 100, max, true), Err(of_participant));
        assert_eq!(second.takes("zoë", 50, max, true), Ok(()));
        assert_eq!(second.takes("zoë", 51, max, true), Err(of_all));
        // But not without a bound for all of them.
        one.set("jörg", 740, 0);
        assert_eq!(second.takes("ann", 10, max, false), Ok(()));
        assert_eq!(second.takes("ann", 11, max, false), Err(of_all));
        one.set("jörg", 300, 0);
        assert_eq!(one.left("jörg", max), 350);
        assert_eq!(second.left("zoë", max), 350);
        let third = all.hold("zoë", 100, max).unwrap();
        assert_eq!(second.left("zoë", max), 50);
        drop((one, second, third));
        assert!(all.state().by_participant.is_empty());
    }
}
