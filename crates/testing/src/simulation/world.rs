//! One run: clients, network, server and disk, driven by one queue of events in virtual time.
//!
//! # Layout
//!
//! - `schedule`: the events, and when they occur.
//! - `programs`: the actions and restarts of the clients.
//! - `network`: the connections.
//! - `outages`: commits, faults of the disk, and how the server stops and starts.
//! - `checks`: bounds during the run, and the comparison at its end.

mod checks;
mod network;
mod outages;
mod programs;
mod schedule;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meshagent_server::Config;
use meshagent_server::simulation::SimServer;
use meshagent_store::{FailingStore, Store, Timestamp};

use self::network::{Link, LinkId};
use self::schedule::Event;
use super::client::{Client, Context};
use super::disk::{Disk, StoreBug};
use super::random::Random;
use super::record::{Place, Record};
use super::trace::{Totals, Trace};

/// A millisecond. Times and delays are in microseconds.
const MILLISECOND: u64 = 1000;

/// A second in microseconds.
const SECOND: u64 = 1000 * MILLISECOND;

/// The limit on the steps of a run. A run that reaches it counts as endless.
const MAX_STEPS: u64 = 300_000;

/// The time limit for the system to come to rest, after the last planned failure.
const REST: u64 = 300 * SECOND;

/// The minimum time between two holds of the log. After an answer has waited for too long, the next
/// ones do not wait until the store is found to have erased everything, and the server looks for
/// that only when it tends the store.
const HOLD_PAUSE: u64 = 1500 * MILLISECOND;

/// Documents with a smaller size limit can get full.
const SMALL_DOCUMENT: usize = 1 << 20;

/// The state of a run.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts about one run"
)]
pub(super) struct World {
    random: Random,
    seed: u64,
    now: u64,
    steps: u64,
    /// The number of events scheduled so far, which orders events at the same time.
    scheduled: u64,
    /// The event queue, by time and number.
    events: BTreeMap<(u64, u64), Event>,
    config: Config,
    /// Whether some edits are large.
    is_heavy: bool,
    /// The server; `None` while it is down.
    server: Option<SimServer>,
    /// How often the server has started.
    starts: u64,
    /// How often another server has edited a document.
    takeovers: u64,
    /// Its edits in rooms whose leases have not ended.
    unseen: Vec<(Place, Vec<u8>)>,
    /// The disk; `None` only while it is opened again.
    disk: Option<Disk>,
    store: Arc<FailingStore<Arc<dyn Store>>>,
    clients: Vec<Client>,
    /// The current connection of each client.
    connections: Vec<Option<LinkId>>,
    links: BTreeMap<LinkId, Link>,
    next_link: LinkId,
    commit_is_scheduled: bool,
    erasure_is_scheduled: bool,
    /// Whether the power is cut during the next commit.
    cut_in_commit: bool,
    /// Since when something holds the store's log.
    log_held: Option<u64>,
    /// When the log was last released.
    log_released: u64,
    reads_scheduled: usize,
    heavy_work_scheduled: usize,
    /// The end of the planned failures.
    end: u64,
    record: Record,
    pub(super) totals: Totals,
}

impl World {
    /// Creates the world of a seed.
    pub(super) fn new(seed: u64, bug: StoreBug) -> Result<Self, String> {
        let mut random = Random::new(seed);
        let disk = if random.one_in(20) && bug == StoreBug::None {
            Disk::sqlite()?
        } else {
            Disk::log(bug)
        };
        let (clients, documents) = programs::clients(&mut random);
        let end = random.between(2, 6) * SECOND;
        let config = config(&mut random, documents);
        let store = Arc::new(FailingStore::new(disk.store()));
        let mut world = Self {
            seed,
            now: 0,
            steps: 0,
            scheduled: 0,
            events: BTreeMap::new(),
            is_heavy: random.one_in(12),
            config,
            server: None,
            starts: 0,
            takeovers: 0,
            unseen: Vec::new(),
            connections: clients.iter().map(|_| None).collect(),
            disk: Some(disk),
            store,
            clients,
            links: BTreeMap::new(),
            next_link: 0,
            commit_is_scheduled: false,
            erasure_is_scheduled: false,
            cut_in_commit: false,
            log_held: None,
            log_released: 0,
            reads_scheduled: 0,
            heavy_work_scheduled: 0,
            end,
            record: Record::default(),
            totals: Totals::default(),
            random,
        };
        if matches!(world.disk, Some(Disk::Sqlite { .. })) {
            world.totals.add("runs on SQLite", 1);
        }
        world.plan();
        Ok(world)
    }

    /// Runs until the failures are over, the system is at rest and all clients have left.
    pub(super) fn run(&mut self, trace: &mut Trace) -> Result<(), String> {
        // The first step of the trace has all parameters of the run.
        trace.step(format_args!(
            "seed {} with {:?}",
            self.seed, self.config.limits
        ));
        self.run_until(trace, |world| world.now >= world.end)?;
        self.land()?;
        self.store.recover();
        self.hold_log(false);
        for link in self.links.values_mut() {
            link.slow_until = 0;
        }
        loop {
            let deadline = self.now + REST;
            self.run_until(trace, |world| world.is_at_rest() || world.now > deadline)?;
            if !self.is_at_rest() {
                let clients: Vec<String> = self.clients.iter().map(Client::unfinished).collect();
                return Err(format!("the system does not come to rest: {clients:#?}"));
            }
            if !self.start_over() {
                break;
            }
        }
        self.compare()?;
        self.leave(trace)?;
        self.note_metrics();
        self.totals.add("steps", self.steps);
        Ok(())
    }

    /// Handles events until a condition holds.
    fn run_until(
        &mut self,
        trace: &mut Trace,
        is_done: impl Fn(&Self) -> bool,
    ) -> Result<(), String> {
        loop {
            let Some((at, event)) = self.events.pop_first() else {
                return Err("the event queue is empty".to_owned());
            };
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err(format!("no end after {MAX_STEPS} steps, at {event:?}"));
            }
            let (time, _) = at;
            self.now = time;
            // To check at every step would take longer than the steps. The condition does not wait
            // for what the tick itself starts.
            if matches!(event, Event::Tick) && is_done(self) {
                self.events.insert(at, event);
                return Ok(());
            }
            if let Some(server) = &mut self.server {
                server.set_time(timestamp(time));
            }
            trace.step(format_args!("{time} {event:?}"));
            self.handle(event, trace)?;
            self.settle();
        }
    }

    /// The clients, and the context for their steps.
    fn context(&mut self) -> (&mut [Client], Context<'_>) {
        let context = Context {
            now: self.now,
            record: &mut self.record,
            totals: &mut self.totals,
            may_be_full: self.config.limits.max_document_bytes < SMALL_DOCUMENT,
            log_held: self.log_held,
            is_heavy: self.is_heavy,
        };
        (&mut self.clients, context)
    }

    /// Handles one event.
    fn handle(&mut self, event: Event, trace: &mut Trace) -> Result<(), String> {
        match event {
            Event::Act(client) => return self.act(client, trace),
            Event::Arrive(id) => {
                if let Some(link) = self.links.get_mut(&id) {
                    link.arrived = (link.arrived + 1).min(link.up.len());
                }
                self.read_socket(id);
            }
            Event::Write(id) => self.write_socket(id),
            Event::Deliver(id) => return self.deliver(id, trace),
            Event::Notice(id) => {
                if let Some(link) = self.links.remove(&id)
                    && let (Some(server), Some(conn)) = (&mut self.server, link.conn)
                {
                    server.disconnect(conn);
                }
            }
            Event::Lost(id) => {
                if let Some(link) = self.links.remove(&id) {
                    self.disconnect(link.client, id);
                }
            }
            Event::GiveUp(client, id) => self.disconnect(client, id),
            Event::Expire(id) => self.expire(id),
            Event::BeginCommit => return self.begin_commit(),
            Event::EndCommit => {
                if let Some(server) = &mut self.server
                    && server.is_committing()
                {
                    server.end_commit();
                }
            }
            Event::CheckErasure => {
                self.erasure_is_scheduled = false;
                if let Some(server) = &mut self.server
                    && !server.is_committing()
                {
                    let answered = server.clear_away() as u64;
                    let kind = "batches answered after an erasure";
                    self.totals.add(kind, answered);
                }
            }
            Event::HoldLog if self.now < self.end && self.now > self.log_released + HOLD_PAUSE => {
                self.hold_log(true);
                let delay = self.random.below(3 * SECOND);
                self.after(delay, Event::ReleaseLog);
            }
            Event::ReleaseLog => self.hold_log(false),
            Event::Read => {
                self.reads_scheduled = self.reads_scheduled.saturating_sub(1);
                if let Some(server) = &mut self.server
                    && server.reads() > 0
                {
                    let index = self.random.index(server.reads());
                    server.advance_read(index);
                }
            }
            Event::HeavyWork => {
                self.heavy_work_scheduled = self.heavy_work_scheduled.saturating_sub(1);
                if let Some(server) = &mut self.server
                    && server.lane() > 0
                {
                    self.totals.add("turns in the heavy-work pool", 1);
                    let index = self.random.index(server.lane());
                    server.advance_lane(index);
                }
            }
            Event::Pace => {
                let millis = self.random.below(80);
                if let Some(server) = &mut self.server {
                    server.set_turn_time(Duration::from_millis(millis));
                }
                let delay = self.random.below(SECOND);
                if self.now < self.end {
                    self.after(delay, Event::Pace);
                }
            }
            Event::Tick => {
                self.after(SECOND, Event::Tick);
                if let Some(server) = &mut self.server {
                    server.tick();
                }
                return self.check_bounds();
            }
            Event::Fault => self.fault(),
            Event::Land => return self.land(),
            Event::TakeOver => return self.take_over(),
            Event::EndLease(client) => return self.end_lease(client),
            Event::PowerCut if self.server.is_some() => return self.cut_power(),
            Event::PowerCutInCommit => self.cut_in_commit = true,
            Event::Stop if self.server.is_some() => self.stop(),
            Event::Start => return self.start(),
            Event::Storm(client) => {
                let (clients, mut context) = self.context();
                clients[client].storm(&mut context);
                self.transmit(client, trace);
            }
            Event::PowerCut | Event::Stop | Event::HoldLog => {}
        }
        Ok(())
    }
}

/// A random configuration, with bounds and durations that a short run reaches.
fn config(random: &mut Random, documents: u64) -> Config {
    let mut config = Config::default();
    let marks = [2 << 10, 8 << 10, 64 << 10, 1 << 20];
    config.limits.max_outbox_bytes = marks[random.index(marks.len())];
    config.limits.max_documents = documents;
    if random.one_in(3) {
        config.limits.max_pending_bytes = random.index(20_000);
    }
    if random.one_in(4) {
        config.limits.max_shared_bytes = random.index(20_000);
    }
    if random.one_in(8) {
        config.limits.max_document_bytes = random.index(8000) + 2000;
    }
    if random.one_in(6) {
        config.limits.max_streams_per_connection = 4;
    }
    if random.one_in(2) {
        config.provenance_kept = Duration::from_secs(random.below(5));
    }
    config.snapshot_every = random.index(60) + 4;
    config.unload_after = Duration::from_secs(random.between(1, 6));
    config
}

/// Converts a time of the run to the server's clock, which counts milliseconds and does not start
/// at 0.
fn timestamp(time: u64) -> Timestamp {
    Timestamp(1_000_000 + i64::try_from(time / MILLISECOND).unwrap_or(i64::MAX / 2))
}
