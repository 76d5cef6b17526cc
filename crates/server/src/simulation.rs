//! The server without sockets, tasks, threads and clock, for tests only: whoever drives it says what happens next.
//!
//! [`SimServer`] is made of the parts that serve real connections: packets are read by the same reader, each room is
//! the same loop around the same state machine with the same outboxes, and the committer's own code decides which rooms'
//! batches are committed together, and which answers wait until what was deleted is erased. What threads and clocks decide, the driver decides here: when a socket is written to, when
//! the disk has time, which read comes back first, when a place in the lane is free, what time it is. Which of several
//! things that have happened a room looks at first follows from the seed.
//!
//! The rules by which tasks wait for each other hold: [`SimServer::receive`] takes no packet from a connection that
//! is not read from, and a room whose next batch is long leaves what arrives in its mailbox.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use meshagent_protocol::{ApiScope, Envelope, MessageId, PacketLimits, PacketReader};
use meshagent_store::{RoomId, Store, StoreError, Timestamp};
use tokio::sync::{Semaphore, oneshot};

use crate::committer::{Answer, BatchResult, Outcome, Work};
use crate::config::Config;
use crate::ids::Ids;
use crate::lane;
use crate::ledger::Held;
use crate::metrics::Metrics;
use crate::outbox::{Cost, Outbox, Outgoing};
use crate::room::{Conn, Fetch, FetchResult, Joining, Room};
use crate::room_loop::{Letter, Next, Places, RoomInput, RoomLoop, TURN};
use crate::rooms::{MAILBOX, PLACES, places, read};
use crate::signer::UrlSigner;
use crate::usage::Usage;

/// The project that all rooms of a simulation are in.
const PROJECT: &str = "simulation";

/// A connection, as [`SimServer::connect`] named it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SimConn(u64);

/// Sizes that have bounds.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct SimFigures {
    /// Rooms in memory.
    pub rooms: usize,
    /// Documents in memory, those on their way in or out included.
    pub documents: usize,
    /// Bytes that the fullest outbox holds for its connection alone, its largest message apart.
    pub outbox_bytes: usize,
    /// Writes in the longest next batch of a room.
    pub staged_writes: usize,
    /// Bytes of changes that a document keeps for readers that fell behind, the most of any.
    pub recent_bytes: usize,
    /// Bytes that wait in a document for operations that never came, the most of any.
    pub pending_bytes: usize,
}

/// What a socket's writer got to write.
#[derive(Debug, Default)]
pub struct SimWritten {
    /// The packets, in order.
    pub packets: Vec<Bytes>,
    /// Whether the server has ended the connection, after these.
    pub ended: bool,
}

/// See the [module's text](self).
#[derive(Debug)]
pub struct SimServer {
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    store: Arc<dyn Store>,
    signer: UrlSigner,
    usage: Arc<Usage>,
    ids: Ids,
    now: Timestamp,
    /// An instant to count from, and when that was.
    started: (Instant, Timestamp),
    rooms: BTreeMap<String, RoomState>,
    connections: BTreeMap<SimConn, Connection>,
    next_conn: u64,
    reads: Vec<Read>,
    /// What the committer has to do.
    work: Work,
    /// What the store made of the batches of the last transaction, if that is not answered yet.
    committed: Option<Vec<Answer>>,
    /// How long each turn of a room is said to take.
    turn_time: Duration,
    /// Decides which of several things that have happened comes first.
    random: u64,
}

#[derive(Debug)]
struct RoomState {
    room: RoomLoop,
    mailbox: VecDeque<Letter>,
    /// The batch that the committer has.
    committing: Option<oneshot::Receiver<Outcome>>,
    /// What has happened while the room worked, or waited for the lane.
    committed: Option<BatchResult>,
    fetched: VecDeque<(u64, Result<FetchResult, StoreError>)>,
    is_due: bool,
    /// Whether it waits for a place in the lane.
    is_in_lane: bool,
    /// Counts the rooms that had this name, so that a read of one does not come back to the next.
    generation: u64,
}

#[derive(Debug)]
struct Connection {
    room: String,
    packets: PacketReader,
    outbox: Arc<Outbox>,
    /// Read from the socket while the connection, or its room, took no more.
    held: Option<RoomInput>,
    held_bytes: usize,
    /// For what it has in its room's mailbox.
    places: Arc<Semaphore>,
    /// Taken by the writer and not written.
    writing: VecDeque<(Outgoing, Cost)>,
    next_message: u64,
}

#[derive(Debug)]
struct Read {
    room: String,
    generation: u64,
    number: u64,
    state: ReadState,
}

#[derive(Debug)]
enum ReadState {
    Waiting(Fetch),
    Done(Result<FetchResult, StoreError>),
}

impl SimServer {
    /// A server that has just started on this store. The seed decides on all ids that it draws.
    pub fn new(config: Config, store: Arc<dyn Store>, seed: u64, now: Timestamp) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let documents = store.stats().map_or(0, |stats| stats.documents);
        let usage = Arc::new(Usage::new(documents, &config.limits));
        Self {
            config: Arc::new(config),
            metrics: Arc::new(Metrics::new()),
            store,
            signer: UrlSigner::new("simulation"),
            usage,
            ids: Ids::from_seed(bytes),
            now,
            started: (Instant::now(), now),
            rooms: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_conn: 0,
            reads: Vec::new(),
            work: Work::default(),
            committed: None,
            turn_time: Duration::ZERO,
            random: seed | 1,
        }
    }

    /// Under which name a room's documents stand in the store.
    pub fn room_id(room: &str) -> RoomId {
        RoomId::new(PROJECT, room)
    }

    /// Somebody with this name and these rights joins.
    pub fn connect(&mut self, room: &str, participant: &str, scope: ApiScope) -> SimConn {
        self.next_conn += 1;
        let conn = self.next_conn;
        let outbox = Arc::new(Outbox::new(
            self.config.limits.max_outbox_bytes,
            &self
                .usage
                .ledger()
                .account(&format!("{room}\n{participant}")),
        ));
        let joining = Joining {
            participant_id: self.ids.uuid(),
            name: participant.to_owned(),
            role: "user".to_owned(),
            scope,
            origin: "http://simulation".to_owned(),
            expires: None,
            outbox: Arc::clone(&outbox),
            account: self
                .usage
                .ledger()
                .account(&format!("{room}\n{participant}")),
        };
        let limits = PacketLimits {
            max_message_bytes: self.config.limits.max_message_bytes,
            ..PacketLimits::default()
        };
        let connection = Connection {
            room: room.to_owned(),
            packets: PacketReader::new(limits),
            outbox,
            held: None,
            held_bytes: 0,
            places: Arc::new(Semaphore::new(PLACES as usize)),
            writing: VecDeque::new(),
            next_message: 0,
        };
        self.connections.insert(SimConn(conn), connection);
        if !self.rooms.contains_key(room) {
            let state = RoomState {
                room: RoomLoop::new(Room::new(
                    Self::room_id(room),
                    Arc::clone(&self.config),
                    Arc::clone(&self.metrics),
                    self.signer.clone(),
                    Arc::clone(&self.usage),
                    self.ids.fork(),
                )),
                mailbox: VecDeque::new(),
                committing: None,
                committed: None,
                fetched: VecDeque::new(),
                is_due: false,
                is_in_lane: false,
                generation: conn,
            };
            self.rooms.insert(room.to_owned(), state);
        }
        self.post(room, RoomInput::Join(Conn(conn), joining.into()));
        SimConn(conn)
    }

    /// The connection is gone. What it had queued is lost, what it had handed in is not.
    pub fn disconnect(&mut self, conn: SimConn) {
        if let Some(connection) = self.connections.remove(&conn) {
            self.post(&connection.room, RoomInput::Leave(Conn(conn.0)));
        }
    }

    /// Takes a packet, unless the connection is not read from just now: then it is returned, to be handed in again
    /// later.
    ///
    /// # Errors
    /// The packet, if it was not taken.
    pub fn receive(&mut self, conn: SimConn, packet: Bytes) -> Result<(), Bytes> {
        self.push_held(conn);
        let Some(connection) = self.connections.get_mut(&conn) else {
            // Nobody listens any more; the bytes go where those to a closed socket go.
            return Ok(());
        };
        if connection.held.is_some() {
            return Err(packet);
        }
        let message_bytes = packet.len();
        connection.held = match connection.packets.handle_packet(&packet) {
            Ok(None) => None,
            Ok(Some(message)) => {
                self.metrics.messages_received.inc();
                connection.held_bytes = message_bytes;
                Some(match Envelope::parse(message) {
                    Ok(envelope) => RoomInput::Message(Conn(conn.0), envelope),
                    Err(error) => {
                        RoomInput::Invalid(Conn(conn.0), error.id, error.code(), error.to_string())
                    }
                })
            }
            Err(error) => error
                .message_id
                .map(|id| RoomInput::Invalid(Conn(conn.0), id, error.code(), error.to_string())),
        };
        self.push_held(conn);
        Ok(())
    }

    /// What is written to a connection next, up to so many messages.
    pub fn take(&mut self, conn: SimConn, messages: usize) -> SimWritten {
        let mut written = SimWritten::default();
        let Some(connection) = self.connections.get_mut(&conn) else {
            written.ended = true;
            return written;
        };
        let mut drained = false;
        for _ in 0..messages {
            if connection.writing.is_empty() {
                connection.writing = connection.outbox.try_take();
            }
            let Some((item, cost)) = connection.writing.pop_front() else {
                written.ended = connection.outbox.is_closed();
                break;
            };
            connection.next_message += 1;
            let id = MessageId::from(connection.next_message);
            written
                .packets
                .extend(item.packets(id).into_iter().flatten());
            drained |= connection.outbox.written(cost);
        }
        let room = connection.room.clone();
        if drained {
            self.post(&room, RoomInput::Drained(Conn(conn.0)));
        }
        self.push_held(conn);
        written
    }

    /// Whether something waits to be written to a connection.
    pub fn has_output(&self, conn: SimConn) -> bool {
        self.connections.get(&conn).is_some_and(|connection| {
            !connection.writing.is_empty()
                || connection.outbox.queued().0 > 0
                || connection.outbox.is_closed()
        })
    }

    /// Whether rooms have handed in batches that the committer has not begun to write.
    pub fn has_batches(&self) -> bool {
        self.work.has_batches()
    }

    /// Whether the committer is between [`begin_commit`](Self::begin_commit) and [`end_commit`](Self::end_commit).
    pub fn is_committing(&self) -> bool {
        self.committed.is_some()
    }

    /// The committer writes the batches whose turn it is, and returns how many. No room learns of it yet.
    pub fn begin_commit(&mut self) -> usize {
        let answers = self.work.commit(self.store.as_ref(), &self.metrics);
        let count = answers.len();
        self.committed = Some(answers);
        count
    }

    /// The rooms learn what became of their batches, unless something that one deleted is to be erased first.
    pub fn end_commit(&mut self) {
        let answers = self.committed.take().unwrap_or_default();
        self.work.answer(answers, self.instant());
        self.clear_away();
    }

    /// Whether answers, or the store, wait for [`clear_away`](Self::clear_away).
    pub fn is_clearing(&self) -> bool {
        self.work.is_waiting()
    }

    /// The committer has the store erase what it can, and answers who waited for that. Returns how many batches were
    /// answered.
    pub fn clear_away(&mut self) -> usize {
        self.work.clear_away(self.store.as_ref(), self.instant());
        let names: Vec<String> = self.rooms.keys().cloned().collect();
        let mut answered = 0;
        for name in names {
            let Some(state) = self.rooms.get_mut(&name) else {
                continue;
            };
            let Some(Ok((result, _))) = state.committing.as_mut().map(oneshot::Receiver::try_recv)
            else {
                continue;
            };
            state.committing = None;
            state.committed = Some(result);
            answered += 1;
            self.run(&name);
        }
        answered
    }

    fn instant(&self) -> Instant {
        let (instant, then) = self.started;
        let millis = self.now.0.saturating_sub(then.0);
        instant + Duration::from_millis(u64::try_from(millis).unwrap_or_default())
    }

    /// How many reads are under way.
    pub fn reads(&self) -> usize {
        self.reads.len()
    }

    /// One of the reads under way goes on: at the first call the store is asked, at the second the room learns the
    /// answer, which may be old by then.
    pub fn advance_read(&mut self, index: usize) {
        let Some(one) = self.reads.get_mut(index) else {
            return;
        };
        if let ReadState::Waiting(fetch) = &one.state {
            let room = Self::room_id(&one.room);
            one.state = ReadState::Done(read(self.store.as_ref(), &room, fetch.clone()));
            return;
        }
        let one = self.reads.remove(index);
        let ReadState::Done(result) = one.state else {
            return;
        };
        let Some(state) = self.rooms.get_mut(&one.room) else {
            return;
        };
        if state.generation == one.generation {
            state.fetched.push_back((one.number, result));
            self.run(&one.room);
        }
    }

    /// Time passes, without any consequence but for what happens later.
    pub fn set_time(&mut self, now: Timestamp) {
        self.now = now;
    }

    /// How many rooms wait for a place in the lane.
    pub fn lane(&self) -> usize {
        self.rooms.values().filter(|room| room.is_in_lane).count()
    }

    /// One of the rooms that wait for the lane does its work.
    pub fn advance_lane(&mut self, index: usize) {
        let waiting = self.rooms.iter().filter(|(_, room)| room.is_in_lane);
        let Some(name) = waiting.map(|(name, _)| name.clone()).nth(index) else {
            return;
        };
        if let Some(state) = self.rooms.get_mut(&name) {
            state.is_in_lane = false;
            state.room.work(self.now, || self.turn_time);
        }
        self.run(&name);
    }

    /// From now on each turn of a room takes so long.
    pub fn set_turn_time(&mut self, time: Duration) {
        self.turn_time = time;
    }

    /// The rooms look at their clock-driven work, and the store is tended.
    pub fn tick(&mut self) {
        // If something is put off, it is tried again at the next tick.
        let _ = self.store.tend();
        self.work.tended(self.instant());
        let names: Vec<String> = self.rooms.keys().cloned().collect();
        for name in names {
            if let Some(state) = self.rooms.get_mut(&name) {
                state.is_due = true;
            }
            self.run(&name);
        }
    }

    /// Whether all that was handed in is handled and answered by the store, as a room's task waits for when the server
    /// stops.
    pub fn is_flushed(&self) -> bool {
        let is_flushed = |state: &RoomState| state.mailbox.is_empty() && state.room.is_flushed();
        self.reads.is_empty() && self.rooms.values().all(is_flushed)
    }

    /// The sizes that have bounds.
    pub fn figures(&self) -> SimFigures {
        let mut figures = SimFigures {
            rooms: self.rooms.len(),
            ..SimFigures::default()
        };
        for state in self.rooms.values() {
            state.room.room().add_figures(&mut figures);
        }
        for connection in self.connections.values() {
            let (own, largest) = connection.outbox.own_bytes();
            let writing = connection.writing.iter().map(|(_, cost)| cost.own).max();
            let largest = largest.max(writing.unwrap_or_default());
            figures.outbox_bytes = figures.outbox_bytes.max(own.saturating_sub(largest));
        }
        figures
    }

    /// The text of `/metrics`.
    pub fn metrics(&self) -> String {
        self.metrics.render()
    }

    /// Hands a connection's next input to its room, if both take it.
    fn push_held(&mut self, conn: SimConn) {
        let Some(connection) = self.connections.get_mut(&conn) else {
            return;
        };
        let has_place = self
            .rooms
            .get(&connection.room)
            .is_some_and(|state| state.mailbox.len() < MAILBOX);
        if !has_place || !connection.outbox.has_room() {
            return;
        }
        let own =
            Arc::clone(&connection.places).try_acquire_many_owned(places(connection.held_bytes));
        let Ok(own) = own else {
            return;
        };
        let Some(input) = connection.held.take() else {
            return;
        };
        if input.is_answered() {
            connection.outbox.expect_answer();
        }
        let room = connection.room.clone();
        let bytes = std::mem::take(&mut connection.held_bytes);
        self.post_bytes(&room, input, bytes, Some(own));
    }

    fn post(&mut self, room: &str, input: RoomInput) {
        self.post_bytes(room, input, 0, None);
    }

    fn post_bytes(&mut self, room: &str, input: RoomInput, bytes: usize, places: Places) {
        if let Some(state) = self.rooms.get_mut(room) {
            let letter = Letter::new(input, bytes, places, Held::none());
            state.mailbox.push_back(letter);
        }
        self.run(room);
    }

    /// What a room's task does when something has happened.
    fn run(&mut self, name: &str) {
        let Some(state) = self.rooms.get_mut(name) else {
            return;
        };
        if state.is_in_lane {
            return;
        }
        loop {
            match state.room.next(self.now) {
                Next::Work { bytes } if lane::is_heavy(bytes) => {
                    state.is_in_lane = true;
                    return;
                }
                Next::Work { .. } => {
                    state.room.work(self.now, || self.turn_time);
                }
                Next::Commit(writes) => {
                    let (done, result) = oneshot::channel();
                    self.work.add(writes, done);
                    state.committing = Some(result);
                }
                Next::Fetch(number, fetch) => self.reads.push(Read {
                    room: name.to_owned(),
                    generation: state.generation,
                    number,
                    state: ReadState::Waiting(fetch),
                }),
                Next::Wait { may_end: true, .. } if state.mailbox.is_empty() => break,
                Next::Wait {
                    takes_letters,
                    goes_on,
                    ..
                } => {
                    if !state.take_something(takes_letters, goes_on, &mut self.random) {
                        return;
                    }
                }
                Next::End => break,
            }
        }
        self.rooms.remove(name);
    }
}

impl RoomState {
    /// Hands in one of the things that have happened. Returns false if nothing has.
    fn take_something(&mut self, takes_letters: bool, goes_on: bool, random: &mut u64) -> bool {
        let ready = [
            takes_letters && !self.mailbox.is_empty(),
            self.committed.is_some(),
            !self.fetched.is_empty(),
            self.is_due,
            goes_on,
        ];
        let ready: Vec<usize> = (0..ready.len()).filter(|index| ready[*index]).collect();
        let chosen = match ready[..] {
            [] => return false,
            [one] => one,
            _ => {
                // xorshift64 (Marsaglia, 2003).
                *random ^= *random << 13;
                *random ^= *random >> 7;
                *random ^= *random << 17;
                let index = usize::try_from(*random % ready.len() as u64).unwrap_or_default();
                ready[index]
            }
        };
        match chosen {
            0 => {
                let count = self.mailbox.len().min(TURN);
                self.room.receive(self.mailbox.drain(..count).collect());
            }
            1 => {
                if let Some(result) = self.committed.take() {
                    self.room.committed(result, Duration::ZERO);
                }
            }
            2 => {
                if let Some((number, result)) = self.fetched.pop_front() {
                    self.room.fetched(number, result.into());
                }
            }
            3 => {
                self.is_due = false;
                self.room.tick();
            }
            _ => self.room.go_on(),
        }
        true
    }
}
