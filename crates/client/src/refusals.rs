//! The server's refusals of a document's edits, until each handle has reported them.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use crate::live_document::Refusal;
use crate::replica::LostEdit;

/// The latest refusals, with the numbers of the refused edits, and with the edits that were lost.
///
/// A caller passes the position up to which it has reported, so nothing is kept for each handle.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    known: VecDeque<(RangeInclusive<u64>, Refusal)>,
    lost: VecDeque<LostEdit>,
    /// The size of `lost`.
    bytes: usize,
}

impl Refusals {
    /// Records that this edit was refused and is lost.
    pub(crate) fn note(&mut self, lost: LostEdit, refusal: Refusal) {
        self.note_numbers(lost.numbers.clone(), refusal);
        self.bytes += lost.bytes();
        self.lost.push_back(lost);
        while self.bytes > LOST_BYTES && self.lost.len() > 1 {
            self.drop_oldest();
        }
    }

    fn note_numbers(&mut self, edits: RangeInclusive<u64>, refusal: Refusal) {
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

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.lost.pop_front() {
            self.bytes -= oldest.bytes();
        }
    }

    /// The first refusal of an edit after `told` and up to `last`.
    pub(crate) fn between(&self, told: u64, last: u64) -> Option<&Refusal> {
        let mut known = self.known.iter();
        let found =
            known.find(|(edits, _)| *edits.start().max(&(told + 1)) <= *edits.end().min(&last));
        found.map(|(_, refusal)| refusal)
    }

    /// The lost edits after `told` and up to `last`.
    pub(crate) fn lost(&self, told: u64, last: u64) -> Vec<LostEdit> {
        let is_news =
            |edit: &&LostEdit| told < *edit.numbers.end() && *edit.numbers.start() <= last;
        self.lost.iter().filter(is_news).cloned().collect()
    }

    /// Drops the content of lost edits up to `told`, which every handle has reported.
    pub(crate) fn forget(&mut self, told: u64) {
        self.lost.retain(|edit| *edit.numbers.end() > told);
        self.bytes = self.lost.iter().map(LostEdit::bytes).sum();
    }
}

/// How many refusals are kept separately.
const CAPACITY: usize = 16;

/// The content of lost edits is kept up to this size, and always that of the last one.
const LOST_BYTES: usize = if cfg!(test) { 1 << 10 } else { 64 << 20 };

#[cfg(test)]
mod tests {
    use super::{CAPACITY, LOST_BYTES, LostEdit, Refusal, Refusals};

    fn because(text: &str) -> Refusal {
        let (code, text) = (None, text.to_owned());
        Refusal { code, text }
    }

    #[test]
    fn what_was_sent_as_one_is_refused_as_one() {
        let mut refusals = Refusals::default();
        refusals.note_numbers(3..=5, because("three to five"));
        refusals.note_numbers(8..=8, because("eight"));
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
            refusals.note_numbers(number..=number, because("no"));
        }
        assert_eq!(refusals.known.len(), CAPACITY);
        for number in 1..=1_000 {
            assert!(refusals.between(number - 1, number).is_some(), "{number}");
        }
        assert_eq!(refusals.between(1_000, 1_001), None);
    }

    #[test]
    fn content_is_kept_until_it_was_reported_and_up_to_a_size() {
        let mut refusals = Refusals::default();
        for number in 1..=100 {
            refusals.note(LostEdit::sample(number, 100), because("no"));
            assert!(refusals.bytes <= LOST_BYTES);
        }
        let last = refusals.lost(98, 100);
        let numbers: Vec<u64> = last.iter().map(|edit| *edit.numbers.end()).collect();
        assert_eq!(numbers, [99, 100]);
        refusals.forget(99);
        assert_eq!(refusals.lost(0, 100).len(), 1);
        // The refusals are still known.
        assert!(refusals.between(98, 99).is_some());
        refusals.note(LostEdit::sample(101, 2 * LOST_BYTES), because("no"));
        assert_eq!(refusals.lost(0, 101).len(), 1);
        refusals.forget(101);
        assert_eq!(refusals.bytes, 0);
    }
}
