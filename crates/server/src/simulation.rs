//! The server without sockets, tasks, threads and clock, for tests only: a driver decides what
//! happens next.
//!
//! [`SimServer`] consists of the parts that serve real connections. The same reader parses packets,
//! each room is the same loop around the same state machine with the same outboxes, and the
//! committer's own code decides which rooms' batches are committed together and which answers wait
//! until deleted data is erased. What threads and clocks decide in production, the driver decides
//! here: when a socket is written to, when the disk has time, which read completes first, when the
//! heavy-work pool has a place, what time it is. The seed decides which of several ready events a
//! room handles first.
//!
//! Back-pressure works as in production: [`SimServer::receive`] takes no packet from a connection
//! whose reads pause, and a room whose next batch is full leaves its envelopes in the mailbox.

mod reading;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use meshagent_ledger::Held;
use meshagent_protocol::{ApiScope, Envelope, MessageId, PacketLimits, PacketReader};
use meshagent_store::{AsyncStore, Embedded, RoomId, Store, StoreError, Timestamp, block_on};
use tokio::sync::{Semaphore, oneshot};

use self::reading::{Read, ReadState};
use crate::committer::{Answer, BatchResult, Outcome, Owner, Work};
use crate::config::Config;
use crate::ids::Ids;
use crate::lane;
use crate::metrics::Metrics;
use crate::outbox::{Cost, Outbox, Outgoing};
use crate::room::{Conn, FetchResult, Joining, Room};
use crate::room_loop::{Letter, Next, Places, RoomInput, RoomLoop, TURN};
use crate::rooms::{MAILBOX, PLACES, places};
use crate::signer::UrlSigner;
use crate::usage::Usage;

/// The project of all rooms in a simulation.
const PROJECT: &str = "simulation";

/// The identity of a connection, from [`SimServer::connect`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SimConn(u64);

/// Sizes of queues and caches that have bounds.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct SimFigures {
    /// Rooms in memory.
    pub rooms: usize,
    /// Documents in memory, including those that are being loaded or unloaded.
    pub documents: usize,
    /// Bytes that the fullest outbox holds for its connection alone, without its largest message.
    pub outbox_bytes: usize,
    /// Writes in the longest next batch of a room.
    pub staged_writes: usize,
    /// The most bytes of recent changes that any document keeps for slow readers.
    pub recent_bytes: usize,
    /// The most bytes that any document keeps of updates with missing operations.
    pub pending_bytes: usize,
}

/// Output of a socket's writer.
#[derive(Debug, Default)]
pub struct SimWritten {
    /// The packets, in order.
    pub packets: Vec<Bytes>,
    /// Whether the server ended the connection after these packets.
    pub ended: bool,
}

/// See the [module's text](self).
#[derive(Debug)]
pub struct SimServer {
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    store: Arc<dyn AsyncStore>,
    signer: UrlSigner,
    usage: Arc<Usage>,
    ids: Ids,
    now: Timestamp,
    /// An instant and the simulated time at that instant.
    started: (Instant, Timestamp),
    rooms: BTreeMap<String, RoomState>,
    connections: BTreeMap<SimConn, Connection>,
    next_conn: u64,
    reads: Vec<Read>,
    /// Pending work of the committer.
    work: Work,
    /// The results of the last transaction, until they are answered.
    committed: Option<Vec<Answer>>,
    /// The simulated duration of each turn of a room.
    turn_time: Duration,
    /// The state of the random generator that picks one of several ready events.
    random: u64,
}

#[derive(Debug)]
struct RoomState {
    room: RoomLoop,
    owner: Arc<Owner>,
    mailbox: VecDeque<Letter>,
    /// The result of the batch in flight.
    committing: Option<oneshot::Receiver<Outcome>>,
    /// Events that happened while the room worked, or waited for the heavy-work pool.
    committed: Option<BatchResult>,
    fetched: VecDeque<(u64, Result<FetchResult, StoreError>)>,
    is_due: bool,
    /// Whether the room waits for a place in the heavy-work pool.
    is_in_lane: bool,
    /// Distinguishes rooms of one name, so that a read of one room does not return to the next.
    generation: u64,
}

#[derive(Debug)]
struct Connection {
    room: String,
    packets: PacketReader,
    outbox: Arc<Outbox>,
    /// Received while the connection or its room took no more input.
    held: Option<RoomInput>,
    held_bytes: usize,
    /// Places in its room's mailbox.
    places: Arc<Semaphore>,
    /// Taken from the outbox and not written yet.
    writing: VecDeque<(Outgoing, Cost)>,
    next_message: u64,
}

impl SimServer {
    /// Creates a server that has just started on this store. The seed determines all ids that it
    /// draws.
    pub fn new(config: Config, store: Arc<dyn Store>, seed: u64, now: Timestamp) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let documents = store.stats().map_or(0, |stats| stats.documents);
        let usage = Arc::new(Usage::new(documents, &config.limits));
        Self {
            config: Arc::new(config),
            metrics: Arc::new(Metrics::new()),
            store: Arc::new(Embedded(store)),
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

    /// The id of a room in the store.
    pub fn room_id(room: &str) -> RoomId {
        RoomId::new(PROJECT, room)
    }

    /// Connects a participant with this name and these rights.
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
                owner: Owner::new(Self::room_id(room)),
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

    /// Removes a connection. Its queued output is lost; the input that it handed in is not.
    pub fn disconnect(&mut self, conn: SimConn) {
        if let Some(connection) = self.connections.remove(&conn) {
            self.post(&connection.room, RoomInput::Leave(Conn(conn.0)));
        }
    }

    /// Takes a packet, unless reads from the connection pause. Then the caller gets it back and
    /// hands it in again later.
    ///
    /// # Errors
    /// The packet, if it was not taken.
    pub fn receive(&mut self, conn: SimConn, packet: Bytes) -> Result<(), Bytes> {
        self.push_held(conn);
        let Some(connection) = self.connections.get_mut(&conn) else {
            // Bytes to a closed socket are dropped.
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

    /// Returns what is written to a connection next, at most `messages` messages.
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

    /// Whether output for a connection is waiting.
    pub fn has_output(&self, conn: SimConn) -> bool {
        self.connections.get(&conn).is_some_and(|connection| {
            !connection.writing.is_empty()
                || connection.outbox.queued().0 > 0
                || connection.outbox.is_closed()
        })
    }

    /// Whether batches wait that the committer has not begun to write.
    pub fn has_batches(&self) -> bool {
        self.work.has_batches(self.instant())
    }

    /// Whether the committer is between [`begin_commit`](Self::begin_commit) and
    /// [`end_commit`](Self::end_commit).
    pub fn is_committing(&self) -> bool {
        self.committed.is_some()
    }

    /// Commits the batches that are next, and returns their number. Rooms do not learn of it yet.
    pub fn begin_commit(&mut self) -> usize {
        let answers = self
            .work
            .commit(self.store.as_ref(), &self.metrics, self.instant());
        let count = answers.len();
        self.committed = Some(answers);
        count
    }

    /// Hands the results to the rooms, except where deleted data must be erased first.
    pub fn end_commit(&mut self) {
        let answers = self.committed.take().unwrap_or_default();
        self.work.answer(answers, self.instant());
        self.clear_away();
    }

    /// Whether answers, or the store, wait for [`clear_away`](Self::clear_away).
    pub fn is_clearing(&self) -> bool {
        self.work.is_clearing()
    }

    /// Erases what the store can erase, and hands out the answers that waited for it. Returns how
    /// many batches were answered.
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

    /// Ends a room, because another server owns it.
    pub fn end_lease(&mut self, room: &str) {
        if let Some(state) = self.rooms.get_mut(room) {
            state.room.lose();
        }
        self.run(room);
    }

    fn instant(&self) -> Instant {
        let (instant, then) = self.started;
        let millis = self.now.0.saturating_sub(then.0);
        instant + Duration::from_millis(u64::try_from(millis).unwrap_or_default())
    }

    /// Sets the time. It has no effect until something reads the clock.
    pub fn set_time(&mut self, now: Timestamp) {
        self.now = now;
    }

    /// How many rooms wait for a place in the heavy-work pool.
    pub fn lane(&self) -> usize {
        self.rooms.values().filter(|room| room.is_in_lane).count()
    }

    /// Runs the work of a room that waits for the heavy-work pool.
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

    /// Makes each turn of a room take `time` from now on.
    pub fn set_turn_time(&mut self, time: Duration) {
        self.turn_time = time;
    }

    /// Runs the clock-driven work of the rooms and the store's maintenance.
    pub fn tick(&mut self) {
        // What the store puts off is tried again at the next tick.
        let _ = block_on(self.store.tend());
        self.work.tended(self.instant());
        let names: Vec<String> = self.rooms.keys().cloned().collect();
        for name in names {
            if let Some(state) = self.rooms.get_mut(&name) {
                state.is_due = true;
            }
            self.run(&name);
        }
    }

    /// Whether all input is handled and answered by the store. A stopping server waits for the
    /// same.
    pub fn is_flushed(&self) -> bool {
        let is_flushed = |state: &RoomState| state.mailbox.is_empty() && state.room.is_flushed();
        self.reads.is_empty() && self.rooms.values().all(is_flushed)
    }

    /// Returns the sizes that have bounds.
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

    /// Renders the text of `/metrics`.
    pub fn metrics(&self) -> String {
        self.metrics.render()
    }

    /// Hands a connection's next input to its room, if both accept it.
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

    /// Runs a room until it waits, like its task in production.
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
                    self.work.add(Arc::clone(&state.owner), writes, done);
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
        state.room.finish();
        self.rooms.remove(name);
        // A join that the room did not handle would go to the next room; here its client connects
        // again.
        for connection in self.connections.values().filter(|one| one.room == name) {
            connection.outbox.finish();
        }
    }
}

impl RoomState {
    /// Hands in one of the events that are ready. Returns false if there is none.
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
