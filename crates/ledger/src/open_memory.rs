//! The memory of the documents of all rooms: counted for the server, and for each participant whose
//! requests loaded, created or extended them.
//!
//! The memory of a document is known when it is loaded. It is counted then, and refused if it
//! crosses a bound. The growth by an update is estimated before the update is applied, and counted
//! for its author afterwards.

use std::collections::{BinaryHeap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// When the memory for all is used up, a participant that has less than a sixteenth of it may still
/// add bytes, within [`BEYOND`].
const RESERVE: usize = 16;
/// Such participants together may exceed the memory for all by an eighth.
const BEYOND: usize = 8;

/// The documents in memory take as much as permitted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TooMuchOpen {
    /// The bound of the participant would be crossed.
    #[error(
        "the documents that this participant has in memory are limited to {limit} bytes; \
         close some, or try again when they are unloaded"
    )]
    Participant {
        /// The participant's bound, in bytes.
        limit: usize,
    },
    /// The bound for all participants together would be crossed.
    #[error(
        "the documents in memory are limited to {limit} bytes for all clients together; \
         close large ones, or try again later"
    )]
    Server {
        /// The bound for all participants together, in bytes.
        limit: usize,
    },
}

/// The approximate memory of all loaded documents.
#[derive(Debug, Default)]
pub struct OpenMemory {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: usize,
    // A participant without a document has no entry.
    by_participant: HashMap<Arc<str>, usize>,
}

impl OpenMemory {
    /// The approximate bytes of all documents.
    pub fn bytes(&self) -> usize {
        self.state().bytes
    }

    /// Whether documents that nobody has open should be unloaded now: all documents together take
    /// more than three quarters of `max`.
    pub fn is_tight(&self, max: usize) -> bool {
        self.bytes() > max / 4 * 3
    }

    /// Counts a document of this size. A participant may have three eighths of `max`, or a single
    /// document of any size.
    ///
    /// # Errors
    ///
    /// If a bound would be crossed; nothing is counted then.
    pub fn hold(
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
            shares: Shares(vec![(name, bytes)]),
            passing: 0,
            bytes,
            all: Arc::clone(self),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The content is numbers, which no panic leaves half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The name as one text that all charges share.
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

/// The memory of one document, counted until the charge is dropped.
#[derive(Debug)]
pub struct OpenCharge {
    /// The bytes by the participant that caused them.
    shares: Shares,
    /// Additional bytes for a limited time, which count for the largest shares.
    passing: usize,
    /// The sum of the shares, without that.
    bytes: usize,
    all: Arc<OpenMemory>,
}

impl OpenCharge {
    /// The bytes of the document, without those for a limited time.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a participant has a share in the document.
    pub fn is_shared_by(&self, participant: &str) -> bool {
        self.shares.position(participant).is_ok()
    }

    /// The number of bytes that a participant may add to the document.
    pub fn left(&self, participant: &str, max: usize) -> usize {
        let [own, all] = self.bounds(participant, max, false);
        own.0.min(all.0)
    }

    /// Checks that a participant may add this number of bytes to the document.
    /// Memory that deletions take because they split runs may exceed each bound by an eighth, so
    /// that they are possible at a bound.
    ///
    /// # Errors
    ///
    /// If a bound would be crossed.
    pub fn takes(
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

    /// The number of bytes that a participant may add to the document within each bound. A document
    /// may always grow if it is the only one in which the participant has a share, or the only one
    /// in memory.
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
        let here = self.shares.of(participant);
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

    /// Sets the size of the document, and the `passing` bytes that it takes for a limited time.
    /// Growth counts for `participant`, and growth of the passing bytes for the largest share.
    pub fn set(&mut self, participant: &str, bytes: usize, passing: usize) {
        let grown = bytes.saturating_sub(self.bytes);
        let more_passing = passing.saturating_sub(self.passing);
        let gone = self.bytes.saturating_sub(bytes) + self.passing.saturating_sub(passing);
        (self.bytes, self.passing) = (bytes, passing);
        let mut added = Vec::new();
        if grown > 0 {
            let name = self.name_of(participant);
            added.push((Arc::clone(&name), grown));
            self.shares.add(name, grown);
        }
        if more_passing > 0 {
            let name = self.shares.largest();
            let name = name.unwrap_or_else(|| self.name_of(participant));
            added.push((Arc::clone(&name), more_passing));
            self.shares.add(name, more_passing);
        }
        // Nobody knows whose bytes were removed, so the largest shares shrink first.
        let released = self.shares.take(gone);
        // All rooms share the sums, so they are locked only for what has changed.
        let mut state = self.all.state();
        for (name, bytes) in &added {
            state.add(name, *bytes);
        }
        for (name, bytes) in &released {
            state.release(name, *bytes);
        }
    }

    /// The name as one text that all charges share.
    fn name_of(&self, participant: &str) -> Arc<str> {
        let known = self.shares.position(participant);
        known.map_or_else(
            |_| self.all.state().name_of(participant),
            |at| Arc::clone(&self.shares.0[at].0),
        )
    }
}

/// Bytes by participant, ordered by name. Most documents have one or two participants, for which a
/// list takes the least memory.
#[derive(Debug)]
struct Shares(Vec<(Arc<str>, usize)>);

impl Shares {
    fn position(&self, participant: &str) -> Result<usize, usize> {
        self.0
            .binary_search_by(|(name, _)| (**name).cmp(participant))
    }

    fn of(&self, participant: &str) -> usize {
        self.position(participant).map_or(0, |at| self.0[at].1)
    }

    fn add(&mut self, participant: Arc<str>, bytes: usize) {
        match self.position(&participant) {
            Ok(at) => self.0[at].1 += bytes,
            Err(at) => {
                self.0.reserve_exact(usize::from(self.0.len() < 2));
                self.0.insert(at, (participant, bytes));
            }
        }
    }

    /// The participant with the largest share.
    fn largest(&self) -> Option<Arc<str>> {
        let largest = self.0.iter().max_by_key(|(_, share)| *share);
        largest.map(|(name, _)| Arc::clone(name))
    }

    /// Takes bytes from the largest shares, and returns them by participant.
    fn take(&mut self, mut bytes: usize) -> Vec<(Arc<str>, usize)> {
        let mut taken = Vec::new();
        if bytes == 0 {
            return taken;
        }
        // There may be thousands of authors, so the next largest is not searched among all.
        let by_share = self.0.iter().enumerate();
        let mut by_share: BinaryHeap<(usize, usize)> =
            by_share.map(|(at, (_, share))| (*share, at)).collect();
        while bytes > 0
            && let Some((share, at)) = by_share.pop()
        {
            let less = bytes.min(share);
            bytes -= less;
            self.0[at].1 -= less;
            taken.push((Arc::clone(&self.0[at].0), less));
        }
        self.0.retain(|(_, share)| *share > 0);
        taken
    }
}

impl Drop for OpenCharge {
    fn drop(&mut self) {
        let mut state = self.all.state();
        for (name, share) in &self.shares.0 {
            state.release(name, *share);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn charges_are_released_and_errors_name_the_bound() {
        let all = Arc::new(OpenMemory::default());
        let max = 800;
        let mut one = all.hold("jörg", 200, max).unwrap();
        let second = all.hold("jörg", 100, max).unwrap();
        let refused = all.hold("jörg", 1, max).unwrap_err();
        assert_eq!(refused, TooMuchOpen::Participant { limit: 300 });
        // Growth counts for its author.
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
        // The largest share shrinks first.
        one.set("zoë", 150, 0);
        assert_eq!(all.bytes(), 450);
        let of = |name| all.state().of(name);
        assert_eq!((of("zoë"), of("jörg")), (0, 250));
        drop((one, second, other));
        assert_eq!(all.bytes(), 0);
        assert!(all.state().by_participant.is_empty());
        // A document that is larger than the bound is held alone.
        drop(all.hold("jörg", 5_000, max).unwrap());
        assert_eq!(all.bytes(), 0);
    }

    #[test]
    fn a_share_bounds_growth_except_of_a_single_document() {
        let all = Arc::new(OpenMemory::default());
        let max = 800;
        let mut one = all.hold("jörg", 200, max).unwrap();
        one.set("jörg", 700, 0);
        assert_eq!(one.left("jörg", max), usize::MAX);
        let mut second = all.hold("zoë", 50, max).unwrap();
        let of_participant = TooMuchOpen::Participant { limit: 300 };
        assert_eq!(second.takes("jörg", 1, max, false), Err(of_participant));
        second.set("zoë", 150, 0);
        // All memory is in use; participants with small shares may still add.
        let of_all = TooMuchOpen::Server { limit: 800 };
        assert_eq!(second.takes("zoë", 1, max, false), Err(of_all));
        assert_eq!(one.takes("jörg", 1, max, false), Err(of_all));
        assert_eq!(second.takes("ann", 50, max, false), Ok(()));
        assert_eq!(second.takes("ann", 51, max, false), Err(of_all));
        // And what deletions take.
        assert_eq!(second.takes("jörg", 100, max, true), Err(of_participant));
        assert_eq!(second.takes("zoë", 50, max, true), Ok(()));
        assert_eq!(second.takes("zoë", 51, max, true), Err(of_all));
        // All of them together have a bound, too.
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

    /// Before, each share that became empty was searched among all, and the sums of all rooms were
    /// locked meanwhile.
    #[test]
    fn emptying_a_document_of_many_authors_costs_no_more_than_filling_it() {
        let all = Arc::new(OpenMemory::default());
        let mut one = all.hold("zoë", 1, usize::MAX).unwrap();
        let count = 20_000;
        let began = Instant::now();
        for number in 0..count {
            let bytes = one.bytes() + 100 + number % 7;
            one.set(&format!("ärzte-{number:05}"), bytes, 0);
        }
        let filled = began.elapsed();
        assert_eq!(all.state().by_participant.len(), count + 1);
        let began = Instant::now();
        one.set("zoë", 0, 0);
        let emptied = began.elapsed();
        assert!(emptied < filled * 4, "{emptied:?} after {filled:?}");
        assert!(all.state().by_participant.is_empty());
    }
}
