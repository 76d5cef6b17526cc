//! The queue of unacknowledged edits, by number.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use meshagent_document::merge_updates;

/// A kept update.
#[derive(Debug)]
pub(super) struct Unsaved {
    /// The numbers of the first and the last edit in it. The last one identifies it.
    pub(super) first: u64,
    pub(super) number: u64,
    /// The number of edits.
    pub(super) count: u32,
    /// The mark of the first edit in the document.
    pub(super) mark: u64,
    pub(super) update: Vec<u8>,
    /// The parts that were merged, to be tried alone. Empty if they are not known, or if it is a
    /// single edit.
    pub(super) parts: Vec<Part>,
    pub(super) kind: Kind,
    pub(super) standing: Standing,
    /// Whether it is tried alone after a refusal, so that it must not be merged.
    pub(super) is_trial: bool,
    /// Whether the server may have received it.
    pub(super) was_sent: bool,
}

/// One of several merged edits.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) first: u64,
    pub(super) number: u64,
    pub(super) count: u32,
    pub(super) mark: u64,
    pub(super) update: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Replaces operations that were given up.
    Blank,
    Edit,
    /// Repeats earlier operations that the server lacks.
    Fill,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// To be sent.
    Waiting,
    Sent,
    /// The server has stored it, but can't show it before a fill arrives.
    Stored,
    Refused,
}

impl Unsaved {
    pub(super) fn new(number: u64, mark: u64, update: Vec<u8>, kind: Kind) -> Self {
        Self {
            first: number,
            number,
            count: u32::from(kind == Kind::Edit),
            mark,
            update,
            parts: Vec::new(),
            kind,
            standing: Standing::Waiting,
            is_trial: false,
            was_sent: false,
        }
    }

    pub(super) fn into_parts(self) -> Vec<Part> {
        if !self.parts.is_empty() {
            return self.parts;
        }
        let Self {
            first,
            number,
            count,
            mark,
            update,
            ..
        } = self;
        vec![Part {
            first,
            number,
            count,
            mark,
            update,
        }]
    }

    fn of_part(part: Part) -> Self {
        let Part {
            first,
            number,
            count,
            mark,
            update,
        } = part;
        Self {
            first,
            count,
            ..Self::new(number, mark, update, Kind::Edit)
        }
    }

    fn is_waiting_edit(&self) -> bool {
        self.kind == Kind::Edit && self.standing == Standing::Waiting && !self.is_trial
    }
}

/// All kept updates.
#[derive(Debug, Default)]
pub(super) struct Queue {
    all: BTreeMap<u64, Unsaved>,
    // The numbers of the updates in each standing, of fills and of trials.
    waiting: BTreeSet<u64>,
    fills: BTreeSet<u64>,
    trials: BTreeSet<u64>,
    stored: BTreeSet<u64>,
    refused: BTreeSet<u64>,
    // The updates in flight, and their bytes.
    updates: usize,
    bytes: usize,
    /// How many edits were visited to be sent or merged.
    #[cfg(test)]
    pub(super) looked_at: std::cell::Cell<u64>,
}

impl Queue {
    /// Counts a visited edit.
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "only tests count it"))]
    fn look(&self) {
        #[cfg(test)]
        self.looked_at.set(self.looked_at.get() + 1);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Unsaved> {
        self.all.values()
    }

    pub(super) fn into_values(self) -> impl Iterator<Item = Unsaved> {
        self.all.into_values()
    }

    /// The updates above a number.
    pub(super) fn after(&self, number: u64) -> impl Iterator<Item = &Unsaved> {
        let range = (Bound::Excluded(number), Bound::Unbounded);
        self.all.range(range).map(|(_, one)| one)
    }

    pub(super) fn get(&self, number: u64) -> Option<&Unsaved> {
        self.all.get(&number)
    }

    /// The number of the first kept edit.
    pub(super) fn first(&self) -> Option<u64> {
        self.all.values().next().map(|one| one.first)
    }

    /// How many updates, and how many bytes, are in flight.
    pub(super) fn under_way(&self) -> (usize, usize) {
        (self.updates, self.bytes)
    }

    pub(super) fn is_trying(&self) -> bool {
        !self.trials.is_empty()
    }

    pub(super) fn first_trial(&self) -> Option<u64> {
        self.trials.first().copied()
    }

    pub(super) fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    pub(super) fn has_fill(&self) -> bool {
        !self.fills.is_empty()
    }

    pub(super) fn push(&mut self, one: Unsaved) {
        self.index(&one, true);
        self.all.insert(one.number, one);
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Unsaved> {
        let one = self.all.remove(&number)?;
        self.index(&one, false);
        Some(one)
    }

    pub(super) fn set(&mut self, number: u64, standing: Standing) {
        if let Some(mut one) = self.remove(number) {
            one.standing = standing;
            one.was_sent |= standing == Standing::Sent;
            self.push(one);
        }
    }

    /// Adds an update to the indexes, or removes it.
    fn index(&mut self, one: &Unsaved, is_there: bool) {
        let note = |numbers: &mut BTreeSet<u64>| {
            if is_there {
                numbers.insert(one.number);
            } else {
                numbers.remove(&one.number);
            }
        };
        if one.is_trial {
            note(&mut self.trials);
        }
        if one.kind == Kind::Fill {
            note(&mut self.fills);
        }
        match one.standing {
            Standing::Waiting => note(&mut self.waiting),
            Standing::Stored => note(&mut self.stored),
            Standing::Refused => note(&mut self.refused),
            Standing::Sent if is_there => {
                self.updates += 1;
                self.bytes += one.update.len();
            }
            Standing::Sent => {
                self.updates -= 1;
                self.bytes -= one.update.len();
            }
        }
    }

    /// The next update to send. Fills come first, since the others may depend on them. An update
    /// that replaces operations is sent once all earlier ones are acknowledged.
    pub(super) fn first_waiting(&self) -> Option<u64> {
        let waits = |number: &&u64| {
            self.look();
            self.waiting.contains(number)
        };
        let first = self.all.keys().next();
        let may_go = |number: &&u64| {
            self.look();
            let kind = self.all.get(number).map(|one| one.kind);
            kind != Some(Kind::Blank) || first == Some(*number)
        };
        let fill = self.fills.iter().find(waits);
        fill.or_else(|| self.waiting.iter().find(may_go)).copied()
    }

    /// Marks an update as sent, and returns it.
    pub(super) fn send(&mut self, number: u64) -> Option<Vec<u8>> {
        self.set(number, Standing::Sent);
        Some(self.all.get(&number)?.update.clone())
    }

    /// Merges a waiting edit with the following ones that also only insert. Returns the number of
    /// the result.
    pub(super) fn merge_waiting(&mut self, number: u64, max_bytes: usize) -> u64 {
        let (mut bytes, mut last) = (0, None);
        let run = self.all.range(number..).map(|(_, one)| one);
        let run = run.take_while(|one| {
            self.look();
            bytes += one.update.len();
            // An edit between them that the server has stored, but can't show, may depend on the
            // first of them.
            let follows = last
                .replace(one.number)
                .is_none_or(|last| last + 1 == one.first);
            follows && one.is_waiting_edit() && !deletes(&one.update) && bytes <= max_bytes
        });
        let run: Vec<&Unsaved> = run.collect();
        let [_, .., last] = run[..] else {
            return number;
        };
        let last = last.number;
        let updates: Vec<&[u8]> = run.iter().map(|one| &one.update[..]).collect();
        // Updates that were made here can be merged. If not, they are sent one by one.
        let Ok(update) = merge_updates(&updates) else {
            return number;
        };
        let numbers: Vec<u64> = run.iter().map(|one| one.number).collect();
        self.merge(&numbers, update, max_bytes);
        last
    }

    /// Replaces several edits by one merged update. The parts are kept up to a size; beyond it they
    /// become one edit.
    pub(super) fn merge(&mut self, numbers: &[u64], update: Vec<u8>, max_bytes: usize) {
        let merged: Vec<Unsaved> = numbers
            .iter()
            .filter_map(|number| self.remove(*number))
            .collect();
        let (Some(first), Some(last)) = (merged.first(), merged.last()) else {
            return;
        };
        let mut one = Unsaved {
            first: first.first,
            count: merged.iter().map(|one| one.count).sum(),
            was_sent: merged.iter().any(|one| one.was_sent),
            ..Unsaved::new(last.number, first.mark, update, Kind::Edit)
        };
        let parts: Vec<Part> = merged.into_iter().flat_map(Unsaved::into_parts).collect();
        let bytes: usize = parts.iter().map(|part| part.update.len()).sum();
        if bytes <= max_bytes {
            one.parts = parts;
        }
        self.push(one);
    }

    /// The last waiting edits, newest first.
    pub(super) fn last_waiting(
        &self,
        mut next: u64,
        max_bytes: usize,
    ) -> impl Iterator<Item = &Unsaved> {
        let mut bytes = 0;
        self.all.values().rev().take_while(move |one| {
            self.look();
            bytes += one.update.len();
            let follows = one.number + 1 == next;
            next = one.first;
            follows && one.is_waiting_edit() && bytes <= max_bytes
        })
    }

    /// Queues the parts of a refused update to be tried alone. Returns false if there are none.
    pub(super) fn take_apart(&mut self, number: u64) -> bool {
        if self.get(number).is_none_or(|one| one.parts.len() < 2) {
            return false;
        }
        let mut parts = match self.remove(number) {
            Some(one) => one.into_parts(),
            None => return false,
        };
        let second = parts.split_off(parts.len() / 2);
        self.extend(parts, true);
        self.extend(second, true);
        true
    }

    /// Adds consecutive edits: as trials, merged into as few updates as possible, or one by one.
    pub(super) fn extend(&mut self, mut parts: Vec<Part>, is_trial: bool) {
        let is_mixed = parts.len() > 1 && parts.iter().any(|part| deletes(&part.update));
        if !is_trial || parts.len() < 2 {
            for part in parts {
                let one = Unsaved::of_part(part);
                self.push(Unsaved { is_trial, ..one });
            }
        } else if is_mixed {
            let second = parts.split_off(parts.len() / 2);
            self.extend(parts, true);
            self.extend(second, true);
        } else {
            let updates: Vec<&[u8]> = parts.iter().map(|part| &part.update[..]).collect();
            if let (Ok(update), [first, .., last]) = (merge_updates(&updates), &parts[..]) {
                let one = Unsaved::new(last.number, first.mark, update, Kind::Edit);
                let first = first.first;
                let count = parts.iter().map(|part| part.count).sum();
                self.push(Unsaved {
                    first,
                    count,
                    parts,
                    is_trial,
                    ..one
                });
            } else {
                let second = parts.split_off(parts.len() / 2);
                self.extend(parts, true);
                self.extend(second, true);
            }
        }
    }

    /// Updates in flight have to be sent again, and so do stored ones that no fill makes visible.
    pub(super) fn unsent(&mut self) {
        let has_fill = self.has_fill();
        let again = |one: &&Unsaved| match one.standing {
            Standing::Sent => true,
            Standing::Stored => !has_fill,
            Standing::Waiting | Standing::Refused => false,
        };
        let again = self.all.values().filter(again).map(|one| one.number);
        for number in again.collect::<Vec<u64>>() {
            self.set(number, Standing::Waiting);
        }
    }

    /// The server now has the operations that it lacked before this number. Updates that it has
    /// stored since may lack others.
    pub(super) fn filled(&mut self, number: u64) {
        for stored in std::mem::take(&mut self.stored) {
            if stored < number {
                self.all.remove(&stored);
            } else {
                self.set(stored, Standing::Waiting);
            }
        }
    }

    /// Refuses the stored updates, which will never be shown. Returns whether there were any.
    pub(super) fn refuse_stored(&mut self) -> bool {
        let stored = self.stored.clone();
        for &number in &stored {
            self.set(number, Standing::Refused);
        }
        !stored.is_empty()
    }

    pub(super) fn refused(&self) -> impl Iterator<Item = &Unsaved> {
        let refused = self.refused.iter();
        refused.filter_map(|number| self.all.get(number))
    }

    pub(super) fn take_refused(&mut self) -> Vec<Unsaved> {
        let refused = self.refused.clone().into_iter();
        refused.filter_map(|number| self.remove(number)).collect()
    }

    pub(super) fn reconsider(&mut self) {
        for number in self.refused.clone() {
            self.set(number, Standing::Waiting);
        }
    }

    pub(super) fn refuse_all(&mut self) {
        let kinds: Vec<(u64, Kind)> = self.iter().map(|one| (one.number, one.kind)).collect();
        for (number, kind) in kinds {
            if kind == Kind::Blank {
                // No edit is lost with it.
                self.remove(number);
            } else {
                self.set(number, Standing::Refused);
            }
        }
    }
}

/// Whether an update deletes or overwrites something: the delete set at its end is not empty.
fn deletes(update: &[u8]) -> bool {
    update.last() != Some(&0)
}
