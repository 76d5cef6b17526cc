//! The loop around a room, without I/O: it decides how envelopes form turns, when none are taken,
//! what work the room wants, and when the room ends.
//!
//! A driver calls [`RoomLoop::next`], does what it returns, and hands in what has happened
//! meanwhile. A room's task is one driver (`rooms.rs`), the simulation is the other. Both run the
//! same decisions.

mod entering;
mod queues;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meshagent_ledger::{ChunkWaits, Held};
use meshagent_protocol::{ClientToServer, Envelope, ErrorCode, MessageId};
use meshagent_store::{StoreError, Timestamp, Write, WriteError, Written};
use tokio::sync::OwnedSemaphorePermit;

pub(crate) use self::entering::Entering;
use self::queues::Queues;
use crate::committer::BatchResult;
use crate::lane;
use crate::outbox::Outbox;
use crate::reads::Brought;
use crate::room::{Action, Conn, Fetch, Room};

/// Inputs that a room takes in one turn.
pub(crate) const TURN: usize = 64;
/// A turn that takes longer sends the following ones to the heavy-work pool.
const LONG_TURN: Duration = queues::LONG;
/// A turn ends after this time; the remaining envelopes wait for the next turn.
const FULL_TURN: Duration = Duration::from_millis(50);
/// Part of a turn with envelopes that sends queued storage events (news).
const NEWS_TURN: Duration = Duration::from_millis(5);
/// A shorter turn in the pool brings the following ones back.
const SHORT_TURN: Duration = Duration::from_millis(2);
/// A participant whose operation touches more entries than this waits before its next one, in
/// proportion to the disk's work.
const FEW_ENTRIES: usize = 16;
/// Batches for which an envelope waits that may take long: the one in flight, and the next one with
/// what arrived meanwhile.
const AWAITED_BATCHES: u8 = 2;

/// An input of a connection to its room.
#[derive(Debug)]
pub(crate) enum RoomInput {
    Join(Conn, Entering),
    Leave(Conn),
    Message(Conn, Envelope),
    Invalid(Conn, MessageId, ErrorCode, String),
    Drained(Conn),
    #[cfg(test)]
    Panic,
}

impl RoomInput {
    /// The connection that sent it.
    fn conn(&self) -> Conn {
        match self {
            Self::Join(conn, _)
            | Self::Leave(conn)
            | Self::Message(conn, _)
            | Self::Invalid(conn, ..)
            | Self::Drained(conn) => *conn,
            #[cfg(test)]
            Self::Panic => Conn(u64::MAX),
        }
    }

    /// Whether it is a chunk of a streamed call.
    pub(crate) fn is_chunk(&self) -> bool {
        let Self::Message(_, envelope) = self else {
            return false;
        };
        matches!(envelope.message, ClientToServer::RequestChunk { .. })
    }

    /// Whether exactly one answer follows.
    pub(crate) fn is_answered(&self) -> bool {
        match self {
            Self::Message(_, envelope) => {
                !matches!(envelope.message, ClientToServer::SetAttributes(_))
            }
            Self::Invalid(..) => true,
            Self::Join(..) | Self::Leave(_) | Self::Drained(_) => false,
            #[cfg(test)]
            Self::Panic => false,
        }
    }
}

/// An envelope: an input in the mailbox, with the places that it takes of its connection until it
/// is handled.
#[derive(Debug)]
pub(crate) struct Letter {
    pub(crate) input: RoomInput,
    bytes: usize,
    _places: Places,
    held: Held,
    /// For a chunk: kept until it is handled, so that the waiting time is known.
    _waits: Option<ChunkWaits>,
}

pub(crate) type Places = Option<OwnedSemaphorePermit>;

impl Letter {
    pub(crate) fn new(input: RoomInput, bytes: usize, places: Places, held: Held) -> Self {
        Self {
            input,
            bytes,
            _places: places,
            held,
            _waits: None,
        }
    }

    /// Marks a chunk whose connection waits until it is handled.
    pub(crate) fn waiting(self, waits: Option<ChunkWaits>) -> Self {
        Self {
            _waits: waits,
            ..self
        }
    }
}

/// The driver's next step.
#[derive(Debug)]
pub(crate) enum Next {
    /// Call [`RoomLoop::work`], which goes through approximately `bytes` bytes, where it delays no
    /// other room.
    Work { bytes: usize },
    /// Commit these writes, and hand in the result.
    Commit(Vec<Write>),
    /// Read this, and hand in the result with its number.
    Fetch(u64, Fetch),
    /// Wait for something to hand in. Envelopes stay in the mailbox unless `takes_letters`. If
    /// `goes_on`, envelopes or storage events wait in the loop, and [`RoomLoop::go_on`] is one of
    /// the possible next steps. If `may_end` and the mailbox is empty, the room can be dropped
    /// instead.
    Wait {
        takes_letters: bool,
        goes_on: bool,
        may_end: bool,
    },
    /// End the room: all input is durable and answered, and no more will come; or the room is lost,
    /// and what is not answered stays so.
    End,
}

/// The content of the next turn.
#[derive(Debug)]
enum Turn {
    /// Nothing has happened.
    Rest,
    /// The room's next actions.
    Actions,
    /// The envelopes that are next.
    Letters,
    /// A batch's result, and how long the store worked on it.
    Committed(BatchResult, Duration),
    Fetched(u64, Box<Brought>),
    Timeout,
}

/// See the [module's text](self).
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts about the turns"
)]
pub(crate) struct RoomLoop {
    room: Room,
    outboxes: BTreeMap<Conn, Arc<Outbox>>,
    /// Envelopes that were handed in and wait for their turn.
    queues: Queues,
    turn: Turn,
    /// Whether the turn runs in the heavy-work pool, where it delays no other room.
    is_aside: bool,
    action: Option<Action>,
    /// Reads that have not returned.
    fetching: usize,
    /// Whether the last turn took long. Then the next one goes to the heavy-work pool, whatever its
    /// weight.
    is_slow: bool,
    /// Batches for which the next envelope has waited because it may take long.
    batches: u8,
    /// Whether the batch in flight takes so long that envelopes no longer wait for it.
    is_late: bool,
    /// The mailbox is closed: no more envelopes come.
    is_closed: bool,
    /// The room has another owner, or it is unknown what is stored. It does nothing more.
    is_lost: bool,
}

impl RoomLoop {
    pub(crate) fn new(room: Room) -> Self {
        Self {
            room,
            outboxes: BTreeMap::new(),
            queues: Queues::default(),
            is_aside: false,
            turn: Turn::Rest,
            action: None,
            fetching: 0,
            is_slow: false,
            batches: 0,
            is_late: false,
            is_closed: false,
            is_lost: false,
        }
    }

    /// Returns the driver's next step.
    pub(crate) fn next(&mut self, now: Timestamp) -> Next {
        if self.is_lost {
            return Next::End;
        }
        self.queues.look(now, self.room.holds_many());
        if self.is_closed {
            self.queues.forget_waits();
        }
        match self.action.take() {
            Some(Action::Commit(writes)) => return Next::Commit(writes),
            Some(Action::Fetch(number, fetch)) => {
                self.fetching += 1;
                return Next::Fetch(number, fetch);
            }
            None => {}
        }
        let bytes = match &self.turn {
            Turn::Rest => return self.rest(),
            Turn::Actions => self.room.staged_bytes(),
            Turn::Letters if self.is_slow => usize::MAX,
            Turn::Letters => self
                .queues
                .peek(self.stands_back())
                .map_or(0, |letter| weight(&self.room, letter)),
            Turn::Committed(result, _) => self.room.committed_weight(result),
            Turn::Fetched(_, brought) => {
                let result = brought.result.as_ref();
                result.map_or(0, |result| self.room.fetched_weight(result))
            }
            Turn::Timeout => self.room.timeout_weight(now),
        };
        self.is_aside = lane::is_heavy(bytes);
        Next::Work { bytes }
    }

    fn rest(&self) -> Next {
        let has_letters = !self.queues.is_empty();
        let has_news = self.room.has_news();
        if self.is_closed
            && !has_letters
            && !has_news
            && self.room.is_flushed()
            && self.fetching == 0
        {
            return Next::End;
        }
        let accepts = self.room.accepts_requests();
        Next::Wait {
            takes_letters: !self.is_closed && accepts,
            goes_on: accepts && self.queues.peek(self.stands_back()).is_some() || has_news,
            may_end: !has_letters && self.room.is_idle(),
        }
    }

    /// Runs the turn that [`next`](Self::next) announced. `elapsed` returns how long it has taken
    /// so far. Long work is split into several turns, so that other rooms run in between.
    pub(crate) fn work(&mut self, now: Timestamp, elapsed: impl Fn() -> Duration) {
        let turn = std::mem::replace(&mut self.turn, Turn::Actions);
        match turn {
            Turn::Rest => self.turn = Turn::Rest,
            Turn::Actions => {
                self.action = self.room.poll_action();
                if self.action.is_none() {
                    self.turn = Turn::Rest;
                }
            }
            Turn::Letters => self.handle_letters(now, elapsed),
            Turn::Committed(result, took) => {
                if touched(&result) > FEW_ENTRIES
                    && let Some(name) = self.room.touches_many()
                {
                    self.queues.touched_many(Arc::clone(name), took, now);
                }
                self.room.handle_committed(result, now);
                if self.room.is_worn() {
                    self.turn = Turn::Timeout;
                }
            }
            Turn::Fetched(number, brought) => {
                let Brought { result, unhandled } = *brought;
                self.room.handle_fetched(number, result, now);
                drop(unhandled);
            }
            Turn::Timeout => self.room.handle_timeout(now),
        }
    }

    /// Sends some of the storage events, then handles the envelopes that are next, as far as they
    /// fit into a turn.
    fn handle_letters(&mut self, now: Timestamp, elapsed: impl Fn() -> Duration) {
        if self.room.has_news() {
            self.room.tell_news(|| elapsed() < NEWS_TURN);
            self.queues.look(now, self.room.holds_many());
        }
        // The time for storage events is not charged to the participants of the envelopes.
        let told = elapsed();
        let mut weighed = 0_usize;
        let mut took = Duration::ZERO;
        for _ in 0..TURN {
            if !self.room.accepts_requests() {
                break;
            }
            let stands_back = self.stands_back();
            let Some(next) = self.queues.peek(stands_back) else {
                break;
            };
            let weight = weight(&self.room, next);
            weighed = weighed.saturating_add(weight);
            // A heavy envelope begins the next turn, which runs in the pool.
            if !self.is_aside && lane::is_heavy(weighed) {
                break;
            }
            let may_take_long = self.queues.is_next_long() && !stands_back;
            let Some((whose, letter)) = self.queues.pop(stands_back) else {
                break;
            };
            self.handle(letter.input, letter.held, now);
            let before = std::mem::replace(&mut took, elapsed().saturating_sub(told));
            let this = took.saturating_sub(before);
            let room = &self.room;
            self.queues
                .served(whose, this, lane::is_heavy(weight), |letter| {
                    is_heavy(room, letter)
                });
            if may_take_long {
                self.batches = 0;
            }
            if took > FULL_TURN {
                break;
            }
        }
        self.is_slow = took > LONG_TURN || self.is_slow && took > SHORT_TURN;
    }

    /// Whether the next envelope may take long and gives way to those whose answers need the disk:
    /// it may take longer than the disk, and they would wait for both. The delay is bounded, so the
    /// envelope gets its turn however many others arrive.
    fn stands_back(&self) -> bool {
        self.queues.is_next_long()
            && !self.is_late
            && self.batches < AWAITED_BATCHES
            && !self.room.is_flushed()
    }

    /// Announces that no more envelopes come. Like all inputs, this is a reaction to
    /// [`Next::Wait`].
    pub(crate) fn close(&mut self) {
        self.is_closed = true;
    }

    /// Adds envelopes, at most as many as a mailbox holds.
    pub(crate) fn receive(&mut self, letters: Vec<Letter>) {
        for letter in letters {
            let room = &self.room;
            self.queues.push(letter, |letter| is_heavy(room, letter));
        }
    }

    /// Starts a turn for the queued envelopes and storage events.
    pub(crate) fn go_on(&mut self) {
        self.begin(Turn::Letters);
    }

    /// Hands in the result of the batch in flight, and how long the store worked on it.
    pub(crate) fn committed(&mut self, result: BatchResult, took: Duration) {
        if self.stands_back() {
            self.batches += 1;
        }
        self.is_late = false;
        self.is_lost = loses_room(&result);
        self.begin(Turn::Committed(result, took));
    }

    /// Ends the room, because it has another owner.
    #[cfg(feature = "simulation")]
    pub(crate) fn lose(&mut self) {
        self.is_lost = true;
    }

    /// Hands in the result of a read.
    pub(crate) fn fetched(&mut self, number: u64, brought: Brought) {
        self.fetching = self.fetching.saturating_sub(1);
        self.begin(Turn::Fetched(number, Box::new(brought)));
    }

    /// Reports that a read will not return.
    pub(crate) fn fetch_lost(&mut self) {
        self.fetching = self.fetching.saturating_sub(1);
    }

    /// Starts the clock-driven work: unloading, snapshots, retries.
    pub(crate) fn tick(&mut self) {
        self.is_late = !self.room.is_flushed();
        self.begin(Turn::Timeout);
    }

    /// Takes the uncommitted writes of a room that ends early, after the batch in flight is
    /// settled.
    ///
    /// Returns none if the store's last result is not handled yet and contains a refusal: later
    /// writes may build on it.
    pub(crate) fn take_writes(&mut self) -> Vec<Write> {
        if let Turn::Committed(result, _) = &self.turn
            && !is_whole(result)
        {
            return Vec::new();
        }
        let mut writes = match self.action.take() {
            Some(Action::Commit(writes)) => writes,
            _ => Vec::new(),
        };
        writes.extend(self.room.take_writes());
        writes
    }

    /// Whether the store has answered all input.
    #[cfg(feature = "simulation")]
    pub(crate) fn is_flushed(&self) -> bool {
        self.room.is_flushed()
            && self.queues.is_empty()
            && !self.room.has_news()
            && self.fetching == 0
            && matches!(self.turn, Turn::Rest)
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn room(&self) -> &Room {
        &self.room
    }

    /// Whether the room has another owner, or what is stored is unknown.
    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Ends the connections after their queued messages are written.
    pub(crate) fn finish(&self) {
        for outbox in self.outboxes.values() {
            outbox.finish();
        }
    }

    fn begin(&mut self, turn: Turn) {
        debug_assert!(
            matches!(self.turn, Turn::Rest),
            "a driver hands in what it was asked to wait for"
        );
        self.turn = turn;
    }

    fn handle(&mut self, input: RoomInput, held: Held, now: Timestamp) {
        match input {
            RoomInput::Join(conn, entering) => {
                let Some(joining) = entering.take() else {
                    // Nothing says that it leaves.
                    return self.queues.left(conn);
                };
                self.outboxes.insert(conn, Arc::clone(&joining.outbox));
                self.room.handle_join(conn, joining, now);
            }
            RoomInput::Leave(conn) => {
                self.outboxes.remove(&conn);
                self.room.handle_leave(conn, now);
            }
            RoomInput::Message(conn, envelope) => {
                self.room.hold(held);
                self.room.handle_message(conn, envelope, now);
            }
            RoomInput::Invalid(conn, id, code, text) => {
                self.room.handle_invalid(conn, id, code, text);
            }
            RoomInput::Drained(conn) => self.room.handle_drained(conn),
            #[cfg(test)]
            RoomInput::Panic => panic!("a test asked for it"),
        }
    }
}

/// Whether the whole batch is on disk.
pub(crate) fn is_whole(result: &BatchResult) -> bool {
    let results = result.as_ref();
    results.is_ok_and(|results| results.iter().all(Result::is_ok))
}

/// Whether the room must not say anything any more.
fn loses_room(result: &BatchResult) -> bool {
    match result {
        Ok(results) => {
            let is_fenced = |result: &_| matches!(result, Err(WriteError::Fenced { .. }));
            results.iter().any(is_fenced)
        }
        Err(error) => matches!(**error, StoreError::Fenced { .. } | StoreError::Unknown(_)),
    }
}

/// The number of entries that a batch moved or deleted.
fn touched(result: &BatchResult) -> usize {
    let written = result.as_ref().into_iter().flatten().flatten();
    let entries = written.map(|written| match written {
        Written::Deleted { entries } => entries.len(),
        Written::Moved { entries, replaced } => entries.len() + replaced.len(),
        _ => 0,
    });
    entries.sum()
}

/// Bytes that the room may have to go through for an input.
fn weight(room: &Room, letter: &Letter) -> usize {
    match &letter.input {
        RoomInput::Message(conn, envelope) => {
            letter.bytes + room.message_weight(*conn, &envelope.message)
        }
        RoomInput::Drained(conn) => room.drained_weight(*conn),
        RoomInput::Leave(conn) => room.leave_weight(*conn),
        _ => letter.bytes,
    }
}

fn is_heavy(room: &Room, letter: &Letter) -> bool {
    lane::is_heavy(weight(room, letter))
}

#[cfg(test)]
mod tests;
