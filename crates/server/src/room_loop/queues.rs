//! The queues of envelopes in a room, one for each participant: participants share the room's time
//! equally.
//!
//! Envelopes of one participant keep their order. Of the waiting participants, the one that has
//! used the least time is next. A participant that was idle gets no credit for the time that others
//! used meanwhile. So a participant that sends much, or what takes long, waits for itself, however
//! many connections it has, and the others have their turn after one envelope of each.
//!
//! Envelopes that may take long let the others go first, whatever time their participants have
//! used. Otherwise the first such envelopes of many participants would run one after the other.
//! This delay is bounded by [`SHORT_SHARE`], so that they get their turn.
//!
//! Envelopes that may touch many entries of the storage take little time here, but the room
//! accepts nothing behind one until it is on disk. So they give way to short envelopes in the
//! same way. They also wait while the room holds them back, and for some time after a previous
//! one of the same participant; the participant's later envelopes wait behind them. So no
//! participant occupies the disk, or fills the queue of storage events, at the expense of others.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use meshagent_store::Timestamp;

use super::{Letter, RoomInput};
use crate::room::{Conn, may_touch_many};

/// The least time charged for an envelope, so that equal ones take turns.
const LEAST_NANOS: u64 = 1_000;
/// An envelope that takes more time has taken long.
pub(super) const LONG: Duration = Duration::from_millis(8);
/// Time that short envelopes get between two long ones, and between two that may touch many
/// entries.
const SHORT_SHARE: Duration = Duration::from_millis(50);
/// After an operation on many entries, its participant's next one waits for the disk's time
/// multiplied by this.
const DISK_SHARE: u32 = 3;
/// The upper bound of that wait.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The index of a participant's queue; reused after its last connection has left.
type Slot = usize;

#[derive(Debug, Default)]
pub(super) struct Queues {
    slots: Vec<Queue>,
    /// Unused indexes of `slots`.
    free: Vec<Slot>,
    /// Slots of the present participants, used when a connection joins or leaves.
    by_name: HashMap<Arc<str>, Slot>,
    /// Slots of connections.
    by_connection: HashMap<Conn, Slot>,
    /// Queues with envelopes, ordered by the nanoseconds that each participant has used.
    ready: BTreeSet<(u64, Slot)>,
    /// Queues whose next envelope may take long, in the same order.
    long: BTreeSet<(u64, Slot)>,
    /// Queues whose next envelope may touch many entries, in the same order.
    many: BTreeSet<(u64, Slot)>,
    /// Whether the room holds back the queues in `many`.
    holds_many: bool,
    /// Participants whose next operation on many entries waits longer, and until when.
    until: HashMap<Arc<str>, Timestamp>,
    /// Time that other envelopes have taken since the last long one.
    since_long: Duration,
    /// Time that other envelopes have taken since the last one that may touch many entries.
    since_many: Duration,
    /// The most time that a participant had used when it was served: the virtual time.
    clock: u64,
}

#[derive(Debug, Default)]
struct Queue {
    name: Arc<str>,
    letters: VecDeque<Letter>,
    had: u64,
    /// What the last envelope took, and the last heavy one, if any.
    took: Duration,
    heavy_took: Option<Duration>,
    connections: usize,
}

/// The line in which a participant waits, given by its next envelope.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Line {
    Ready,
    Long,
    Many,
}

/// The queue of an envelope that was taken.
#[derive(Debug)]
pub(super) struct Served {
    slot: Slot,
    line: Line,
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

    /// Whether the next envelope may take long: if the last one did, or if it is heavy and the last
    /// heavy one was not quick.
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

    /// Updates the time and whether envelopes that may touch many entries are held back.
    pub(super) fn look(&mut self, now: Timestamp, holds_many: bool) {
        self.holds_many = holds_many;
        // A clock that was set back makes no participant wait longer.
        let longest = i64::try_from(LONGEST_WAIT.as_millis()).unwrap_or(i64::MAX);
        let waits = |until: &Timestamp| *until > now && until.0.saturating_sub(now.0) <= longest;
        self.until.retain(|_, until| waits(until));
    }

    /// Records how long the disk took for an operation on many entries of this participant.
    pub(super) fn touched_many(&mut self, name: Arc<str>, took: Duration, now: Timestamp) {
        let wait = took.saturating_mul(DISK_SHARE).min(LONGEST_WAIT);
        let wait = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        self.until
            .insert(name, Timestamp(now.0.saturating_add(wait)));
    }

    /// Ends the waits of all participants.
    pub(super) fn forget_waits(&mut self) {
        self.until.clear();
    }

    /// Of the queues whose next envelope may touch many entries, the first one that need not wait.
    fn first_many(&self) -> Option<(u64, Slot)> {
        let may_go = |slot: Slot| {
            let queue = self.slots.get(slot);
            queue.is_some_and(|queue| !self.until.contains_key(&queue.name))
        };
        let mut many = self.many.iter().filter(|_| !self.holds_many);
        many.find(|(_, slot)| may_go(*slot)).copied()
    }

    /// The queue that is next, apart from those whose next envelope may take long.
    fn first_short(&self) -> Option<(Line, (u64, Slot))> {
        let many = self.first_many().map(|many| (Line::Many, many));
        let Some(ready) = self.ready.first() else {
            return many;
        };
        many.filter(|(_, many)| many < ready && self.since_many >= SHORT_SHARE)
            .or(Some((Line::Ready, *ready)))
    }

    /// Returns the slot of a participant, a new one if it has none.
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

    /// Adds an envelope; `is_heavy` estimates whether an envelope is heavy.
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
                // Input of a connection that has already left goes to a queue without a name.
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

    /// Whether the next envelope may take long.
    pub(super) fn is_next_long(&self) -> bool {
        let Some((had, _)) = self.long.first() else {
            return false;
        };
        if let Some((ready, _)) = self.ready.first() {
            return *had < *ready && self.since_long >= SHORT_SHARE;
        }
        // These two alternate.
        self.first_many().is_none() || self.since_long >= self.since_many
    }

    /// Returns the next envelope; if `without_long`, among those that don't take long.
    pub(super) fn peek(&self, without_long: bool) -> Option<&Letter> {
        let (_, slot) = if self.is_next_long() && !without_long {
            *self.long.first()?
        } else {
            self.first_short()?.1
        };
        self.slots.get(slot)?.letters.front()
    }

    /// Removes that envelope. The caller reports its duration through [`served`](Self::served).
    pub(super) fn pop(&mut self, without_long: bool) -> Option<(Served, Letter)> {
        let (line, first) = if self.is_next_long() && !without_long {
            (Line::Long, *self.long.first()?)
        } else {
            self.first_short()?
        };
        let (had, slot) = self.line(line).take(&first)?;
        self.clock = self.clock.max(had);
        let queue = self.slots.get_mut(slot)?;
        let letter = queue.letters.pop_front()?;
        if let RoomInput::Leave(conn) = &letter.input {
            self.left(*conn);
        }
        Some((Served { slot, line }, letter))
    }

    /// Forgets a connection that has left, or that the room did not take.
    pub(super) fn left(&mut self, conn: Conn) {
        if let Some(slot) = self.by_connection.remove(&conn)
            && let Some(queue) = self.slots.get_mut(slot)
        {
            queue.connections = queue.connections.saturating_sub(1);
        }
    }

    /// Records how long an envelope of this participant took, and whether it was heavy.
    pub(super) fn served(
        &mut self,
        Served { slot, line }: Served,
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
        for (since, of) in [
            (&mut self.since_long, Line::Long),
            (&mut self.since_many, Line::Many),
        ] {
            *since = if line == of {
                Duration::ZERO
            } else {
                since.saturating_add(took)
            };
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

    /// Whether no participant or connection is known.
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
