//! The server's refusals of a document's edits, until each handle has reported them.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use crate::live_document::Refusal;

/// The latest refusals, with the numbers of the refused edits.
///
/// A caller passes the position up to which it has reported, so nothing is kept for each handle.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    known: VecDeque<(RangeInclusive<u64>, Refusal)>,
}

impl Refusals {
    /// Records that these edits were refused.
    pub(crate) fn note(&mut self, edits: RangeInclusive<u64>, refusal: Refusal) {
        if self.known.len() == CAPACITY
            && let Some((oldest, _)) = self.known.pop_front()
            && let Some((next, _)) = self.known.front_mut()
        {
            // The next entry covers both, and all numbers between them: an edit reported too often
            // is better than one not reported.
            *next = *oldest.start().min(next.start())..=*oldest.end().max(next.end());
        }
        self.known.push_back((edits, refusal));
    }

    /// The first refusal of an edit after `told` and up to `last`.
    pub(crate) fn between(&self, told: u64, last: u64) -> Option<&Refusal> {
        let mut known = self.known.iter();
        let found =
            known.find(|(edits, _)| *edits.start().max(&(told + 1)) <= *edits.end().min(&last));
        found.map(|(_, refusal)| refusal)
    }
}

/// How many refusals are kept separately.
const CAPACITY: usize = 16;

#[cfg(test)]
mod tests {
    use super::{CAPACITY, Refusal, Refusals};

    fn because(text: &str) -> Refusal {
        let (code, text) = (None, text.to_owned());
        Refusal { code, text }
    }

    #[test]
    fn what_was_sent_as_one_is_refused_as_one() {
        let mut refusals = Refusals::default();
        refusals.note(3..=5, because("three to five"));
        refusals.note(8..=8, because("eight"));
        let told_of = |told, last| {
            let refusal = refusals.between(told, last);
            refusal.map(|refusal| refusal.text.as_str())
        };
        assert_eq!(told_of(0, 2), None);
        for last in 3..=9 {
            assert_eq!(told_of(0, last), Some("three to five"), "up to {last}");
        }
        assert_eq!(told_of(4, 4), None, "nothing new");
        assert_eq!(told_of(5, 7), None);
        assert_eq!(told_of(5, 8), Some("eight"));
        assert_eq!(told_of(8, 9), None);
    }

    #[test]
    fn many_refusals_are_bounded_and_none_is_forgotten() {
        let mut refusals = Refusals::default();
        for number in 1..=1_000 {
            refusals.note(number..=number, because("no"));
        }
        assert_eq!(refusals.known.len(), CAPACITY);
        for number in 1..=1_000 {
            assert!(refusals.between(number - 1, number).is_some(), "{number}");
        }
        assert_eq!(refusals.between(1_000, 1_001), None);
    }
}
