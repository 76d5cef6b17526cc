//! The rooms in memory, and the task that drives each: it feeds the state machine and does what it asks.
//!
//! A room's task is owned by the tracker that [`Rooms::wait`] waits for. It ends by itself when the room is
//! idle, and when the server stops, after everything that was handed in is durable and answered.

use std::any::Any;
use std::collections::HashMap;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use meshagent_protocol::{ClientToServer, Envelope, MessageId};
use meshagent_store::{RoomId, Store, StoreError, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::budget::Charge;
use crate::committer::{BatchResult, Committer, with_causes};
use crate::config::Config;
use crate::ids::Ids;
use crate::lane::Lane;
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::room::{Action, Conn, Fetch, FetchResult, Joining, Room};
use crate::signer::UrlSigner;
use crate::usage::Usage;

/// Messages that may wait for a room. When it is full, connections of that room wait with reading.
pub(crate) const MAILBOX: usize = 1024;
/// Kilobytes of messages that may wait for a room, likewise.
const MAILBOX_KILOBYTES: u32 = 64 << 10;
/// Reads from the store that all rooms have under way together; more wait for their turn.
const CONCURRENT_READS: usize = 16;
/// Inputs that a room takes in one turn.
const TURN: usize = 64;
/// A turn that takes longer sends the next ones to the lane.
const LONG_TURN: Duration = Duration::from_millis(8);
/// A turn that is shorter ends that.
const SHORT_TURN: Duration = Duration::from_millis(2);
/// How often a room looks at its clock-driven work: unloading, snapshots, retries.
const TICK: Duration = Duration::from_secs(1);

/// What a connection says to its room.
#[derive(Debug)]
pub(crate) enum RoomInput {
    Join(Conn, Joining),
    Leave(Conn),
    Message(Conn, Envelope),
    Invalid(Conn, MessageId, String),
    Drained(Conn),
    #[cfg(test)]
    Panic,
}

impl RoomInput {
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

/// An input in the mailbox, and the place that it takes there.
#[derive(Debug)]
struct Letter {
    input: RoomInput,
    bytes: usize,
    _place: OwnedSemaphorePermit,
    _charge: Charge,
}

/// A connection's way into its room, bounded in messages and in their bytes.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox {
    inputs: mpsc::Sender<Letter>,
    kilobytes: Arc<Semaphore>,
}

impl Mailbox {
    fn new() -> (Self, mpsc::Receiver<Letter>) {
        let (inputs, receiver) = mpsc::channel(MAILBOX);
        let kilobytes = Arc::new(Semaphore::new(MAILBOX_KILOBYTES as usize));
        (Self { inputs, kilobytes }, receiver)
    }

    /// Waits for a place. Gives the input back if the room has ended.
    pub(crate) async fn send(
        &self,
        input: RoomInput,
        bytes: usize,
        charge: Charge,
    ) -> Result<(), RoomInput> {
        // One message larger than the bound passes alone.
        let kilobytes = u32::try_from(bytes >> 10)
            .unwrap_or(u32::MAX)
            .min(MAILBOX_KILOBYTES);
        let Ok(place) = Arc::clone(&self.kilobytes)
            .acquire_many_owned(kilobytes)
            .await
        else {
            return Err(input);
        };
        let letter = Letter {
            input,
            bytes,
            _place: place,
            _charge: charge,
        };
        self.inputs
            .send(letter)
            .await
            .map_err(|refused| refused.0.input)
    }

    fn is_closed(&self) -> bool {
        self.inputs.is_closed()
    }
}

#[derive(Debug)]
pub(crate) struct Rooms {
    project: Arc<str>,
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    store: Arc<dyn Store>,
    committer: Committer,
    signer: UrlSigner,
    reads: Arc<Semaphore>,
    lane: Lane,
    usage: Arc<Usage>,
    ids: Mutex<Ids>,
    next_conn: AtomicU64,
    running: Mutex<HashMap<String, Running>>,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

#[derive(Debug)]
struct Running {
    mailbox: Mailbox,
    participants: Arc<AtomicUsize>,
}

impl Rooms {
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts are named at the one place that calls this"
    )]
    pub(crate) fn new(
        project: &str,
        config: Arc<Config>,
        metrics: Arc<Metrics>,
        store: Arc<dyn Store>,
        committer: Committer,
        signer: UrlSigner,
        ids: Ids,
        stopping: CancellationToken,
        usage: Usage,
    ) -> Self {
        Self {
            project: project.into(),
            config,
            metrics,
            store,
            committer,
            signer,
            reads: Arc::new(Semaphore::new(CONCURRENT_READS)),
            lane: Lane::new(),
            usage: Arc::new(usage),
            ids: Mutex::new(ids),
            next_conn: AtomicU64::new(0),
            running: Mutex::default(),
            tasks: TaskTracker::new(),
            stopping,
        }
    }

    pub(crate) fn room_id(&self, room: &str) -> RoomId {
        RoomId::new(&*self.project, room)
    }

    /// What all rooms use together.
    pub(crate) fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Where heavy work is done.
    pub(crate) fn lane(&self) -> &Lane {
        &self.lane
    }

    /// An id that no other participant has or had.
    pub(crate) fn participant_id(&self) -> String {
        self.ids
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .uuid()
    }

    /// Whether the room takes one more participant.
    pub(crate) fn has_place(&self, room: &str) -> bool {
        let max = self.config.limits.max_participants_per_room;
        self.running()
            .get(room)
            .is_none_or(|running| running.participants.load(Ordering::Relaxed) < max)
    }

    /// Joins, starting the room if it is not in memory. `None` when the server is stopping.
    pub(crate) async fn join(
        self: &Arc<Self>,
        room: &str,
        joining: Joining,
    ) -> Option<(Conn, Mailbox)> {
        let conn = Conn(self.next_conn.fetch_add(1, Ordering::Relaxed));
        let mut input = RoomInput::Join(conn, joining);
        while !self.stopping.is_cancelled() {
            let mailbox = self.mailbox(room);
            match mailbox.send(input, 0, Charge::default()).await {
                Ok(()) => return Some((conn, mailbox)),
                // The room ended between the look and the send; the next look starts it again.
                Err(refused) => input = refused,
            }
        }
        None
    }

    fn mailbox(self: &Arc<Self>, room: &str) -> Mailbox {
        let mut running = self.running();
        if let Some(found) = running.get(room)
            && !found.mailbox.is_closed()
        {
            return found.mailbox.clone();
        }
        let (mailbox, inputs) = Mailbox::new();
        let participants = Arc::new(AtomicUsize::new(0));
        let seed = self
            .ids
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .fork();
        let state = Room::new(
            self.room_id(room),
            Arc::clone(&self.config),
            Arc::clone(&self.metrics),
            self.signer.clone(),
            Arc::clone(&self.usage),
            seed,
        );
        let task = RoomTask {
            name: room.to_owned(),
            room: state,
            rooms: Arc::clone(self),
            participants: Arc::clone(&participants),
            outboxes: HashMap::new(),
            fetches: JoinSet::new(),
            committing: None,
            is_slow: false,
        };
        self.tasks.spawn(task.supervise(inputs));
        running.insert(
            room.to_owned(),
            Running {
                mailbox: mailbox.clone(),
                participants,
            },
        );
        self.metrics.rooms.inc();
        mailbox
    }

    /// Waits until every room has flushed and ended. Call it after the stopping token was cancelled.
    pub(crate) async fn wait(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn running(&self) -> MutexGuard<'_, HashMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct RoomTask {
    name: String,
    room: Room,
    rooms: Arc<Rooms>,
    participants: Arc<AtomicUsize>,
    outboxes: HashMap<Conn, Arc<Outbox>>,
    fetches: JoinSet<(u64, Result<FetchResult, StoreError>)>,
    committing: Option<oneshot::Receiver<BatchResult>>,
    /// Whether the last turn took long; then the next one goes to the lane, whatever it weighs.
    is_slow: bool,
}

impl RoomTask {
    /// Runs the room to its end. If it panics, others don't notice: its connections end, and whoever joins next
    /// finds the room as it is on disk.
    async fn supervise(mut self, mut inputs: mpsc::Receiver<Letter>) {
        let outcome = {
            let mut running = std::pin::pin!(self.run(&mut inputs));
            // The state of a room that panicked is not looked at again.
            poll_fn(|context| {
                match catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(context))) {
                    Ok(poll) => poll.map(Ok),
                    Err(panic) => Poll::Ready(Err(panic)),
                }
            })
            .await
        };
        if let Err(panic) = outcome {
            self.rooms.metrics.room_panics.inc();
            tracing::error!(
                room = self.name,
                panic = panic_text(&*panic),
                "a room panicked; it starts anew from what is on disk"
            );
            // Who joins waits in the mailbox until it is known what became of the last batch: a room that read the
            // store before that would not know of it.
            if self.committing.is_some() {
                let _ = committed(&mut self.committing).await;
            }
            self.fetches.shutdown().await;
            self.rooms.running().remove(&self.name);
            inputs.close();
            while let Some(letter) = inputs.recv().await {
                if let RoomInput::Join(_, joining) = letter.input {
                    joining.outbox.finish();
                }
            }
        }
        // Everything is answered; the sockets write what is queued and end.
        for outbox in self.outboxes.values() {
            outbox.finish();
        }
        self.rooms.metrics.rooms.dec();
    }

    async fn run(&mut self, inputs: &mut mpsc::Receiver<Letter>) {
        let stopping = self.rooms.stopping.clone();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(TURN);
        let mut open = true;
        loop {
            self.act().await;
            if self.room.is_idle() && inputs.is_empty() && self.try_end(inputs) {
                break;
            }
            if !open && self.room.is_flushed() && self.fetches.is_empty() {
                break;
            }
            tokio::select! {
                () = stopping.cancelled(), if open && !inputs.is_closed() => inputs.close(),
                received = inputs.recv_many(&mut batch, TURN), if open && self.room.accepts_requests() => {
                    open = received > 0;
                    let bytes = if self.is_slow {
                        usize::MAX
                    } else {
                        batch.iter().map(|letter| self.weight(letter)).sum()
                    };
                    self.turn(bytes, |task| task.handle_all(&mut batch)).await;
                }
                result = committed(&mut self.committing) => {
                    self.committing = None;
                    let bytes = self.room.in_flight_bytes();
                    self.turn(bytes, |task| task.room.handle_committed(result, now())).await;
                    if self.room.is_worn() {
                        let bytes = self.room.largest_document_bytes();
                        self.turn(bytes, |task| task.room.handle_timeout(now())).await;
                    }
                }
                Some(fetched) = self.fetches.join_next() => match fetched {
                    Ok((number, result)) => {
                        if let Err(error) = &result {
                            tracing::error!(error = %with_causes(error), "a read from the store failed");
                        }
                        let bytes = result.as_ref().map_or(0, FetchResult::bytes);
                        self.turn(bytes, |task| task.room.handle_fetched(number, result, now())).await;
                    }
                    Err(error) => tracing::error!(%error, "a read from the store did not finish"),
                },
                _ = tick.tick() => {
                    let bytes = self.room.largest_document_bytes();
                    self.turn(bytes, |task| task.room.handle_timeout(now())).await;
                }
            }
        }
    }

    /// Bytes that the room may have to go through for an input.
    fn weight(&self, letter: &Letter) -> usize {
        match &letter.input {
            RoomInput::Message(conn, envelope) => {
                letter.bytes + self.room.expected_bytes(*conn, &envelope.message)
            }
            _ => letter.bytes,
        }
    }

    /// Lets the room work, where it keeps no other room waiting.
    async fn turn(&mut self, bytes: usize, work: impl FnOnce(&mut Self)) {
        let rooms = Arc::clone(&self.rooms);
        rooms.lane.run(bytes, &rooms.metrics, || work(self)).await;
    }

    fn handle_all(&mut self, letters: &mut Vec<Letter>) {
        let (started, now) = (Instant::now(), now());
        for letter in letters.drain(..) {
            self.handle(letter.input, now);
        }
        let took = started.elapsed();
        self.is_slow = took > LONG_TURN || self.is_slow && took > SHORT_TURN;
    }

    fn handle(&mut self, input: RoomInput, now: Timestamp) {
        match input {
            RoomInput::Join(conn, joining) => {
                self.outboxes.insert(conn, Arc::clone(&joining.outbox));
                self.room.handle_join(conn, joining, now);
            }
            RoomInput::Leave(conn) => {
                self.outboxes.remove(&conn);
                self.room.handle_leave(conn, now);
            }
            RoomInput::Message(conn, envelope) => self.room.handle_message(conn, envelope, now),
            RoomInput::Invalid(conn, id, text) => self.room.handle_invalid(conn, id, text),
            RoomInput::Drained(conn) => self.room.handle_drained(conn),
            #[cfg(test)]
            RoomInput::Panic => panic!("a test asked for it"),
        }
        self.participants
            .store(self.room.participant_count(), Ordering::Relaxed);
    }

    async fn act(&mut self) {
        loop {
            let mut action = None;
            let bytes = self.room.staged_bytes();
            self.turn(bytes, |task| action = task.room.poll_action())
                .await;
            let Some(action) = action else { break };
            match action {
                Action::Commit(writes) => {
                    self.committing = Some(self.rooms.committer.submit(writes).await);
                }
                Action::Fetch(number, fetch) => {
                    let store = Arc::clone(&self.rooms.store);
                    let reads = Arc::clone(&self.rooms.reads);
                    let room = self.rooms.room_id(&self.name);
                    self.fetches.spawn(async move {
                        let _permit = reads.acquire_owned().await;
                        let read =
                            tokio::task::spawn_blocking(move || read(store.as_ref(), &room, fetch))
                                .await;
                        let result =
                            read.unwrap_or_else(|error| Err(StoreError::Unavailable(error.into())));
                        (number, result)
                    });
                }
            }
        }
    }

    /// Takes the room out of the map, unless somebody is on the way in.
    fn try_end(&self, inputs: &mut mpsc::Receiver<Letter>) -> bool {
        let mut running = self.rooms.running();
        if !inputs.is_empty() {
            return false;
        }
        inputs.close();
        if !inputs.is_empty() {
            // Closed with something in it: it is handled, and the room ends after that.
            return false;
        }
        // A room that was started anew under this name keeps its place.
        if running
            .get(&self.name)
            .is_some_and(|running| running.mailbox.is_closed())
        {
            running.remove(&self.name);
        }
        true
    }
}

/// Does a room's read.
pub(crate) fn read(
    store: &dyn Store,
    room: &RoomId,
    fetch: Fetch,
) -> Result<FetchResult, StoreError> {
    Ok(match fetch {
        Fetch::Document { path } => FetchResult::Document(store.load(room, &path)?),
        Fetch::File { path } => FetchResult::File(store.read_file(room, &path)?),
        Fetch::Stat { path } => FetchResult::Stat(store.stat(room, &path)?),
        Fetch::List { path } => FetchResult::List(store.list(room, &path)?),
    })
}

async fn committed(committing: &mut Option<oneshot::Receiver<BatchResult>>) -> BatchResult {
    match committing {
        Some(result) => match result.await {
            Ok(result) => result,
            Err(_) => Err(Arc::new(StoreError::Unavailable(
                "the committer has stopped".into(),
            ))),
        },
        None => std::future::pending().await,
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a text")
}

/// The wall clock in the store's unit.
pub(crate) fn now() -> Timestamp {
    let since_epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
