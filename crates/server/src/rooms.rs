//! The rooms in memory, and the task that drives each room's loop.
//!
//! The task tracker behind [`Rooms::wait`] owns the tasks. A task ends when its room is idle. When
//! the server stops, it ends after all input is durable and answered or, once the grace period is
//! over, after everything that it has done so far is durable.

mod fetching;
mod joining;
mod mailbox;

use std::any::Any;
use std::collections::HashMap;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use meshagent_store::{AsyncStore, RoomId, StoreError, Timestamp, Write};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::fetching::read;
#[cfg(test)]
pub(crate) use self::fetching::read_now;
use self::fetching::{First, read_if_small};
pub(crate) use self::joining::Joined;
#[cfg(any(test, feature = "simulation"))]
pub(crate) use self::mailbox::PLACES;
#[cfg(feature = "simulation")]
pub(crate) use self::mailbox::places;
pub(crate) use self::mailbox::{MAILBOX, Mailbox};
use crate::committer::{Committer, Outcome, Owner, with_causes};
use crate::config::Config;
use crate::ids::Ids;
use crate::lane::{self, Lane};
use crate::metrics::Metrics;
use crate::reads::{Brought, Long, Reads, RoomReads, Unhandled};
use crate::room::{Fetch, Room};
pub(crate) use crate::room_loop::RoomInput;
use crate::room_loop::{Letter, Next, RoomLoop, is_whole};
use crate::signer::UrlSigner;
use crate::usage::Usage;

/// Interval of the clock-driven work: unloading, snapshots, retries.
const TICK: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Rooms {
    project: Arc<str>,
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    store: Arc<dyn AsyncStore>,
    committer: Committer,
    signer: UrlSigner,
    reads: Reads,
    lane: Lane,
    usage: Arc<Usage>,
    ids: Mutex<Ids>,
    next_conn: AtomicU64,
    running: Mutex<HashMap<String, Running>>,
    /// Connections in a room or about to join it, by the room's name; rooms without any are absent.
    taken: Mutex<HashMap<String, usize>>,
    tasks: TaskTracker,
    stopping: CancellationToken,
    /// Set when the grace period of a stop is over: rooms begin nothing more.
    killed: CancellationToken,
}

#[derive(Debug)]
struct Running {
    mailbox: Mailbox,
    /// Cancelled when the room has ended. No other room of its name starts earlier.
    ended: CancellationToken,
}

/// A connection's seat in a room, from before it joins until it has left.
#[derive(Debug)]
pub(crate) struct Seat {
    room: String,
    rooms: Arc<Rooms>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.rooms.taken();
        if let Some(count) = taken.get_mut(&self.room) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.room);
            }
        }
    }
}

/// A room's name in the map, removed when its task ends, however it ends.
struct Place {
    name: String,
    rooms: Arc<Rooms>,
    ended: CancellationToken,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.rooms.running().remove(&self.name);
        self.ended.cancel();
    }
}

/// The state of a room for a new connection.
enum Way {
    Open(Mailbox),
    /// The room is ending; the next room of the name starts when this is cancelled.
    Ending(CancellationToken),
    /// The server is stopping.
    Closed,
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
        store: Arc<dyn AsyncStore>,
        committer: Committer,
        signer: UrlSigner,
        ids: Ids,
        stopping: CancellationToken,
        killed: CancellationToken,
        usage: Usage,
    ) -> Self {
        let reads = Reads::new(config.limits.max_held_bytes);
        Self {
            project: project.into(),
            config,
            metrics,
            store,
            committer,
            signer,
            reads,
            lane: Lane::new(),
            usage: Arc::new(usage),
            ids: Mutex::new(ids),
            next_conn: AtomicU64::new(0),
            running: Mutex::default(),
            taken: Mutex::default(),
            tasks: TaskTracker::new(),
            stopping,
            killed,
        }
    }

    pub(crate) fn room_id(&self, room: &str) -> RoomId {
        RoomId::new(&*self.project, room)
    }

    /// The shared resources of all rooms.
    pub(crate) fn usage(&self) -> &Usage {
        &self.usage
    }

    /// The heavy-work pool.
    pub(crate) fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Draws an id that no other participant has or had.
    pub(crate) fn participant_id(&self) -> String {
        self.ids
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .uuid()
    }

    /// Takes a seat for one more participant of the room, unless all are taken. Connections that
    /// have not joined yet hold seats as well.
    pub(crate) fn take_seat(self: &Arc<Self>, room: &str) -> Option<Seat> {
        let max = self.config.limits.max_participants_per_room;
        let mut taken = self.taken();
        let before = taken.get(room).copied().unwrap_or_default();
        if before >= max {
            return None;
        }
        taken.insert(room.to_owned(), before + 1);
        drop(taken);
        Some(Seat {
            room: room.to_owned(),
            rooms: Arc::clone(self),
        })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        // A count changes in one step, so a panic leaves none half changed.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, room: &str) -> Way {
        let mut running = self.running();
        if let Some(found) = running.get(room) {
            return if found.mailbox.is_closed() {
                Way::Ending(found.ended.clone())
            } else {
                Way::Open(found.mailbox.for_another())
            };
        }
        if self.stopping.is_cancelled() {
            return Way::Closed;
        }
        let (mailbox, inputs) = Mailbox::new();
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
        let ended = CancellationToken::new();
        let place = Place {
            name: room.to_owned(),
            rooms: Arc::clone(self),
            ended: ended.clone(),
        };
        let task = RoomTask {
            name: room.to_owned(),
            owner: Owner::new(self.room_id(room)),
            room: RoomLoop::new(state),
            rooms: Arc::clone(self),
            fetches: JoinSet::new(),
            reads: Arc::new(self.reads.for_room()),
            committing: None,
        };
        self.tasks.spawn(task.supervise(inputs, place));
        running.insert(
            room.to_owned(),
            Running {
                mailbox: mailbox.clone(),
                ended,
            },
        );
        self.metrics.rooms.inc();
        Way::Open(mailbox)
    }

    /// Waits until every room has flushed and ended. Call it after cancelling the stopping token.
    pub(crate) async fn wait(&self) {
        // A join that missed the stop has started its room before it released this lock.
        drop(self.running());
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn running(&self) -> MutexGuard<'_, HashMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct RoomTask {
    name: String,
    owner: Arc<Owner>,
    room: RoomLoop,
    rooms: Arc<Rooms>,
    fetches: JoinSet<(u64, Brought)>,
    reads: Arc<RoomReads>,
    committing: Option<oneshot::Receiver<Outcome>>,
}

impl RoomTask {
    /// Runs the room to its end. If it panics, other rooms are unaffected: its connections end, and
    /// the next join starts the room from what is on disk.
    async fn supervise(mut self, mut inputs: mpsc::Receiver<Letter>, place: Place) {
        let outcome = {
            let mut running = std::pin::pin!(self.run(&mut inputs));
            // The state of a room that panicked is not used again.
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
                "a room panicked; it starts again from what is on disk"
            );
            // Unhandled results would keep other rooms waiting.
            self.fetches.shutdown().await;
            // New joins wait in the mailbox until the result of the batch in flight is known: a
            // room that read the store earlier would miss it.
            if self.committing.is_some()
                && let (Ok(written), _) = committed(&mut self.committing).await
            {
                let usage = &self.rooms.usage;
                usage.settle_removed(&written);
                usage.settle_created(&written);
            }
        }
        if self.room.is_lost() {
            tracing::warn!(
                room = self.name,
                "another server has taken the room over, or what is stored is unknown; the \
                 connections end"
            );
        }
        // Joins that a room did not handle go back to their senders, for the next room.
        inputs.close();
        while inputs.recv().await.is_some() {}
        // Everything is answered that will be; the sockets write what is queued and end.
        self.room.finish();
        self.rooms.committer.release(self.owner).await;
        self.rooms.metrics.rooms.dec();
        drop(place);
    }

    async fn run(&mut self, inputs: &mut mpsc::Receiver<Letter>) {
        let stopping = self.rooms.stopping.clone();
        let killed = self.rooms.killed.clone();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !killed.is_cancelled() {
            let (takes_letters, goes_on) = match self.room.next(now()) {
                Next::Work { bytes } => {
                    self.work(bytes).await;
                    continue;
                }
                Next::Commit(writes) => {
                    // While the server is busy, this lets readers be served and envelopes arrive,
                    // so that the next commit contains more of them. Otherwise it returns
                    // immediately.
                    tokio::task::yield_now().await;
                    self.committing = Some(self.submit(writes).await);
                    continue;
                }
                Next::Fetch(number, fetch) => {
                    self.fetch(number, fetch);
                    continue;
                }
                Next::Wait { may_end: true, .. } if inputs.is_empty() && !inputs.is_closed() => {
                    // A send into the mailbox may be in progress; the room handles it before it
                    // ends.
                    inputs.close();
                    continue;
                }
                Next::Wait {
                    takes_letters,
                    goes_on,
                    ..
                } => (takes_letters, goes_on),
                Next::End => return,
            };
            let waiting = if takes_letters { inputs.len() } else { 0 };
            let mut letters = Vec::with_capacity(waiting.min(MAILBOX));
            // Results come before new envelopes, which may never cease. Each result was caused by
            // an envelope, so they do not starve the envelopes.
            tokio::select! {
                biased;
                () = killed.cancelled() => {}
                () = stopping.cancelled(), if takes_letters && !inputs.is_closed() => inputs.close(),
                (result, took) = committed(&mut self.committing) => {
                    self.committing = None;
                    self.room.committed(result, took);
                }
                Some(fetched) = self.fetches.join_next() => match fetched {
                    Ok((number, brought)) => {
                        if let Err(error) = &brought.result {
                            tracing::error!(error = %with_causes(error), "a read from the store \
                                                                          failed");
                        }
                        self.room.fetched(number, brought);
                    }
                    Err(error) => {
                        tracing::error!(%error, "a read from the store did not finish");
                        self.room.fetch_lost();
                    }
                },
                _ = tick.tick() => self.room.tick(),
                // Envelopes that arrived meanwhile take part in the choice of the next one, however
                // many precede them in the mailbox.
                () = std::future::ready(()), if goes_on => {
                    while takes_letters && letters.len() < MAILBOX && let Ok(letter) = inputs.try_recv() {
                        letters.push(letter);
                    }
                    self.receive(letters, inputs);
                    self.room.go_on();
                }
                _ = inputs.recv_many(&mut letters, MAILBOX), if takes_letters => {
                    if letters.is_empty() {
                        self.room.close();
                    }
                    self.receive(letters, inputs);
                }
            }
        }
        self.cut_short(inputs).await;
    }

    /// Takes envelopes. If the room is ending, joins go back to their senders, for the next room.
    fn receive(&mut self, mut letters: Vec<Letter>, inputs: &mpsc::Receiver<Letter>) {
        if inputs.is_closed() {
            letters.retain(|letter| !matches!(letter.input, RoomInput::Join(..)));
        }
        self.room.receive(letters);
    }

    /// Ends before all input is handled. Nothing more is begun, and the mailbox is dropped.
    /// Finished work is made durable, but no longer acknowledged, as the connections have ended.
    async fn cut_short(&mut self, inputs: &mut mpsc::Receiver<Letter>) {
        inputs.close();
        self.fetches.abort_all();
        if self.committing.is_some() {
            let (result, _) = committed(&mut self.committing).await;
            // Later writes may build on the refused ones.
            if !is_whole(&result) {
                return;
            }
        }
        let writes = self.room.take_writes();
        if !writes.is_empty() {
            self.committing = Some(self.submit(writes).await);
            // The committer logs a refusal.
            let _ = committed(&mut self.committing).await;
        }
    }

    async fn submit(&self, writes: Vec<Write>) -> oneshot::Receiver<Outcome> {
        self.rooms.committer.submit(&self.owner, writes).await
    }

    /// Runs the room's turn where it delays no other room.
    async fn work(&mut self, bytes: usize) {
        let rooms = Arc::clone(&self.rooms);
        let work = || {
            let started = Instant::now();
            self.room.work(now(), || started.elapsed());
        };
        let done = rooms.lane.run(bytes, &rooms.metrics, work);
        if lane::is_heavy(bytes) {
            tokio::select! {
                biased;
                () = rooms.killed.cancelled() => {}
                () = done => {}
            }
        } else {
            done.await;
        }
    }

    fn fetch(&mut self, number: u64, fetch: Fetch) {
        let rooms = Arc::clone(&self.rooms);
        let own = Arc::clone(&self.reads);
        let owner = Arc::clone(&self.owner);
        let room = self.rooms.room_id(&self.name);
        self.fetches.spawn(async move {
            let long = match &fetch {
                Fetch::List { .. } => Some(Long::List),
                Fetch::OpenFile { .. } => Some(Long::File),
                _ => None,
            };
            let places = own.places(long).await;
            let usage = Arc::clone(&rooms.usage);
            let first = {
                let room = room.clone();
                read_in_turn(&rooms, long, move |store| async move {
                    // What an earlier owner has in flight may still change what is stored.
                    owner.take(store.as_ref()).await?;
                    read_if_small(store.as_ref(), &room, fetch, &usage).await
                })
            };
            let brought = match first.await {
                Ok(First::Read(result, charge)) => {
                    Ok(Brought::new(Ok(result), Unhandled::small(places, charge)))
                }
                Ok(First::Large(fetch, bytes)) => {
                    // While the read waits for space, the room's other reads use the places.
                    drop(places);
                    let space = rooms.reads.space(&own, bytes).await;
                    let places = own.places(long).await;
                    // A list is charged when it is read.
                    let charged = if long.is_none() { bytes } else { 0 };
                    let charge = rooms.usage.charge_read(charged);
                    let unhandled = Unhandled::large(places, space, charge);
                    let read = move |store: Arc<dyn AsyncStore>| async move {
                        let result = read(store.as_ref(), &room, fetch).await;
                        Ok(Brought::new(result, unhandled))
                    };
                    read_in_turn(&rooms, long, read).await
                }
                Err(error) => Err(error),
            };
            (number, brought.unwrap_or_else(|error| Err(error).into()))
        });
    }
}

/// Reads from the store, after waiting for a turn among reads that may take as long.
async fn read_in_turn<T, F>(
    rooms: &Rooms,
    long: Option<Long>,
    read: impl FnOnce(Arc<dyn AsyncStore>) -> F + Send + 'static,
) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, StoreError>> + Send + 'static,
{
    let _long = match long {
        Some(long) => Some(rooms.reads.long_turn(long).await),
        None => None,
    };
    rooms.read(read).await
}

async fn committed(committing: &mut Option<oneshot::Receiver<Outcome>>) -> Outcome {
    let Some(outcome) = committing else {
        return std::future::pending().await;
    };
    outcome.await.unwrap_or_else(|_| {
        let error = StoreError::Unknown("the committer has stopped".into());
        (Err(Arc::new(error)), Duration::ZERO)
    })
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

/// The wall clock in the unit of tokens.
pub(crate) fn unix_seconds() -> u64 {
    u64::try_from(now().0 / 1000).unwrap_or_default()
}

#[cfg(test)]
mod tests;
