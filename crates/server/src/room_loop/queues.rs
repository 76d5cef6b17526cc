//! Letters that wait in a room, and whose is next: participants share the room's time equally.
//!
//! A participant's letters keep their order. Of those who wait, the one who has had the least time is next; who did not
//! wait for a while has no claim to what others used meanwhile. So whoever sends much, or what takes long, waits for
//! itself, however many connections it has, and the others have their turn after one letter of each.
//!
//! Letters that may take long let the others go first, whoever has had how much: else the first of such letters of many
//! participants would go one after the other. But not for longer than [`SHORT_SHARE`], so that they have their turn.
//!
//! Letters that may touch many entries of the storage wait, and what their participants said after them, while the room
//! does not take them, and for some time after one that did: nobody makes the disk, or the news, everybody's business.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use meshagent_store::Timestamp;

use super::{Letter, RoomInput};
use crate::room::{Conn, may_touch_many};

/// What a letter takes at least, so that equal ones take turns.
const LEAST_NANOS: u64 = 1_000;
/// A letter that takes more has taken long.
pub(super) const LONG: Duration = Duration::from_millis(8);
/// How much time those have that don't take long between two that may and whose turn it is.
const SHORT_SHARE: Duration = Duration::from_millis(50);
/// So many times what the disk took for what touched many entries, its participant waits before the next such letter.
const DISK_SHARE: u32 = 3;
/// But no longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The place of a participant's queue in the list of all; free again after the last connection has left.
type Slot = usize;

#[derive(Debug, Default)]
pub(super) struct Queues {
    slots: Vec<Queue>,
    /// The `slots` that no participant has.
    free: Vec<Slot>,
    /// The slots of those who are here, looked at when a connection joins or leaves.
    by_name: HashMap<Arc<str>, Slot>,
    /// Whose a connection is.
    by_connection: HashMap<Conn, Slot>,
    /// Those with letters, by the nanoseconds that each has had.
    ready: BTreeSet<(u64, Slot)>,
    /// Those whose next letter may take long, likewise.
    long: BTreeSet<(u64, Slot)>,
    /// Those whose next letter may touch many entries, likewise.
    many: BTreeSet<(u64, Slot)>,
    /// Whether these wait.
    holds_many: bool,
    /// Who of them waits longer, and until when.
    until: HashMap<Arc<str>, Timestamp>,
    /// What letters have taken since the last of those.
    since_long: Duration,
    /// The most that somebody had had who was served.
    clock: u64,
}

#[derive(Debug, Default)]
struct Queue {
    name: Arc<str>,
    letters: VecDeque<Letter>,
    had: u64,
    /// What the last letter took, and the last that weighed much, if there was one.
    took: Duration,
    heavy_took: Option<Duration>,
    connections: usize,
}

/// Where a participant waits, by its next letter.
#[derive(Clone, Copy, Debug)]
enum Line {
    Ready,
    Long,
    Many,
}

/// Whose letter it was that was taken.
#[derive(Debug)]
pub(super) struct Served {
    slot: Slot,
    was_long: bool,
}

impl Queue {
    fn line(&self, is_heavy: impl FnOnce(&Letter) -> bool) -> Line {
        let next = self.letters.front();
        let touches_many = next.is_some_and(|letter| match &letter.input {
            RoomInput::Message(_, envelope) => may_touch_many(&envelope.message),
            _ => false,
        });
        if touches_many {
            Line::Many
        } else if self.may_take_long(is_heavy) {
            Line::Long
        } else {
            Line::Ready
        }
    }

    /// Whether the letter that is next may take long: if it weighs much, going by the last one that did, and by the last
    /// one in any case.
    fn may_take_long(&self, is_heavy: impl FnOnce(&Letter) -> bool) -> bool {
        let Some(next) = self.letters.front() else {
            return false;
        };
        let is_known_short = self.heavy_took.is_some_and(|took| took <= LONG);
        self.took > LONG || !is_known_short && is_heavy(next)
    }
}

impl Queues {
    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.long.is_empty() && self.many.is_empty()
    }

    /// It is `now`, and letters that may touch many entries wait, or not.
    pub(super) fn look(&mut self, now: Timestamp, holds_many: bool) {
        self.holds_many = holds_many;
        // A clock that was set back makes nobody wait longer.
        let longest = i64::try_from(LONGEST_WAIT.as_millis()).unwrap_or(i64::MAX);
        let waits = |until: &Timestamp| *until > now && until.0.saturating_sub(now.0) <= longest;
        self.until.retain(|_, until| waits(until));
    }

    /// The disk took so long for what touched many entries, and was somebody's letter.
    pub(super) fn touched_many(&mut self, name: Arc<str>, took: Duration, now: Timestamp) {
        let wait = took.saturating_mul(DISK_SHARE).min(LONGEST_WAIT);
        let wait = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        self.until
            .insert(name, Timestamp(now.0.saturating_add(wait)));
    }

    /// Nobody is waited for any more.
    pub(super) fn forget_waits(&mut self) {
        self.until.clear();
    }

    /// Who has had the least of those whose next letter takes its turn as it comes.
    fn first_short(&self) -> Option<(Line, (u64, Slot))> {
        let mut many = self.many.iter();
        let may_go = |slot: Slot| {
            let queue = self.slots.get(slot);
            !self.holds_many && queue.is_some_and(|queue| !self.until.contains_key(&queue.name))
        };
        let many = many.find(|(_, slot)| may_go(*slot));
        let many = many.map(|first| (Line::Many, *first));
        let ready = self.ready.first().map(|first| (Line::Ready, *first));
        ready
            .into_iter()
            .chain(many)
            .min_by_key(|(_, first)| *first)
    }

    /// The slot of a participant, a new one if it has none.
    fn slot_of(&mut self, name: &Arc<str>) -> Slot {
        if let Some(slot) = self.by_name.get(name) {
            return *slot;
        }
        let queue = Queue {
            name: Arc::clone(name),
            ..Queue::default()
        };
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot] = queue;
            slot
        } else {
            self.slots.push(queue);
            self.slots.len() - 1
        };
        self.by_name.insert(Arc::clone(name), slot);
        slot
    }

    fn line(&mut self, line: Line) -> &mut BTreeSet<(u64, Slot)> {
        match line {
            Line::Ready => &mut self.ready,
            Line::Long => &mut self.long,
            Line::Many => &mut self.many,
        }
    }

    /// Adds a letter; `is_heavy` says of one whether it weighs much.
    pub(super) fn push(&mut self, letter: Letter, is_heavy: impl FnOnce(&Letter) -> bool) {
        let slot = match &letter.input {
            RoomInput::Join(conn, entering) => {
                let slot = self.slot_of(&entering.name().into());
                self.by_connection.insert(*conn, slot);
                self.slots[slot].connections += 1;
                slot
            }
            input => match self.by_connection.get(&input.conn()) {
                Some(slot) => *slot,
                // Whoever has left already has a queue without a name.
                None => self.slot_of(&Arc::default()),
            },
        };
        let queue = &mut self.slots[slot];
        queue.letters.push_back(letter);
        if queue.letters.len() == 1 {
            queue.had = queue.had.max(self.clock);
            let (had, line) = (queue.had, queue.line(is_heavy));
            self.line(line).insert((had, slot));
        }
    }

    /// Whether the letter that is next may take long.
    pub(super) fn is_next_long(&self) -> bool {
        let Some((had, _)) = self.long.first() else {
            return false;
        };
        let short = self.first_short();
        short.is_none_or(|(_, (short, _))| *had < short && self.since_long >= SHORT_SHARE)
    }

    /// The letter that is next; if `without_long`, of those that don't take long.
    pub(super) fn peek(&self, without_long: bool) -> Option<&Letter> {
        let (_, slot) = if self.is_next_long() && !without_long {
            *self.long.first()?
        } else {
            self.first_short()?.1
        };
        self.slots.get(slot)?.letters.front()
    }

    /// Takes it. What it took is to be said by [`served`](Self::served).
    pub(super) fn pop(&mut self, without_long: bool) -> Option<(Served, Letter)> {
        let was_long = self.is_next_long() && !without_long;
        let (had, slot) = if was_long {
            self.since_long = Duration::ZERO;
            self.long.pop_first()?
        } else {
            let (line, first) = self.first_short()?;
            self.line(line).take(&first)?
        };
        self.clock = self.clock.max(had);
        let queue = self.slots.get_mut(slot)?;
        let letter = queue.letters.pop_front()?;
        if let RoomInput::Leave(conn) = &letter.input
            && self.by_connection.remove(conn).is_some()
        {
            queue.connections = queue.connections.saturating_sub(1);
        }
        Some((Served { slot, was_long }, letter))
    }

    /// A letter of this participant took so long, and weighed much or not.
    pub(super) fn served(
        &mut self,
        Served { slot, was_long }: Served,
        took: Duration,
        was_heavy: bool,
        is_heavy: impl FnOnce(&Letter) -> bool,
    ) {
        let Some(queue) = self.slots.get_mut(slot) else {
            return;
        };
        queue.took = took;
        if was_heavy {
            queue.heavy_took = Some(took);
        }
        if !was_long {
            self.since_long = self.since_long.saturating_add(took);
        }
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        queue.had = queue.had.saturating_add(nanos.max(LEAST_NANOS));
        if !queue.letters.is_empty() {
            let (had, line) = (queue.had, queue.line(is_heavy));
            self.line(line).insert((had, slot));
        } else if queue.connections == 0 {
            self.by_name.remove(&queue.name);
            *queue = Queue::default();
            self.free.push(slot);
        }
    }
}

#[cfg(test)]
impl Queues {
    pub(super) fn len(&self) -> usize {
        self.slots.iter().map(|queue| queue.letters.len()).sum()
    }

    /// Whether nothing is known of anybody.
    pub(super) fn is_forgotten(&self) -> bool {
        self.by_name.is_empty()
            && self.by_connection.is_empty()
            && self.free.len() == self.slots.len()
            && self.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_that_is_set_back_makes_nobody_wait_longer() {
        let mut queues = Queues::default();
        let hour = 3_600_000;
        queues.touched_many(
            Arc::from("änn"),
            Duration::from_secs(1),
            Timestamp(2 * hour),
        );
        queues.look(Timestamp(2 * hour + 100), false);
        assert_eq!(queues.until.len(), 1);
        queues.look(Timestamp(hour), false);
        assert!(queues.until.is_empty());
    }
}
