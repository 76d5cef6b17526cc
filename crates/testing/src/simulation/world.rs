//! One run: clients, network, server and disk under one queue of events in virtual time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meshagent_server::Config;
use meshagent_server::simulation::{SimConn, SimServer};
use meshagent_store::{FailingStore, Fault, Store, Timestamp};

use super::client::{Client, Context, Manner};
use super::disk::{Disk, Plant};
use super::random::Random;
use super::record::{self, Record};
use super::roaming;
use super::trace::{Totals, Trace};

/// Requests of one connection that may be unanswered, and about what a small answer takes in its outbox.
const UNANSWERED: usize = 1024;
const ANSWER_BYTES: usize = 512;

const MILLISECOND: u64 = 1000;
const SECOND: u64 = 1000 * MILLISECOND;
/// How often the committer sees whether what was deleted is erased, if it waits for that.
const CLEAR_PAUSE: u64 = 2 * MILLISECOND;
/// How long nothing holds the log at least: once an answer has waited for too long, the next ones don't before the store
/// is found to have erased all, which is looked for when it is tended.
const HOLD_PAUSE: u64 = 1500 * MILLISECOND;
/// A run that takes more steps than this will never end.
const MAX_STEPS: u64 = 300_000;
/// How long everything may take to come to rest once nothing goes wrong any more.
const REST: u64 = 300 * SECOND;
/// A room's own bound, with the batch of messages that its task takes at once.
const STAGED_WRITES: usize = 1024 + 512;
/// A document with a smaller bound may get full.
const SMALL_DOCUMENT: usize = 1 << 20;
const RECENT_BYTES: usize = 1 << 20;

/// Numbers the connections of a run.
type LinkId = u64;

#[derive(Clone, Copy, Debug)]
enum Event {
    /// A client does something.
    Act(usize),
    /// A packet of the client is at the server's socket.
    Arrive(LinkId),
    /// The server writes to a socket.
    Write(LinkId),
    /// A packet of the server is at the client.
    Deliver(LinkId),
    /// The server finds out that the connection is gone.
    Notice(LinkId),
    /// The client does.
    Lost(LinkId),
    /// The client gives up a connection on which nothing has come for long.
    GiveUp(usize, LinkId),
    /// A token is no longer good, and the server ends its connection.
    Expire(LinkId),
    BeginCommit,
    EndCommit,
    /// The committer sees whether what was deleted is erased.
    Clear,
    /// Something begins to hold the store's log, as a backup does.
    HoldLog,
    ReleaseLog,
    Read,
    /// A room does its heavy work.
    Lane,
    /// The host gets slow, or fast again.
    Pace,
    Tick,
    /// The disk begins to fail.
    Fault,
    /// The power goes.
    PowerCut,
    /// The power goes in the middle of the next commit.
    PowerCutInCommit,
    /// The server is stopped as an operator does.
    Stop,
    Start,
    /// A client edits more than a room takes at once.
    Storm(usize),
}

/// A connection: a pipe in each direction, in which order holds.
#[derive(Debug)]
struct Link {
    client: usize,
    /// The server's end; gone when the server is, or has ended the connection.
    conn: Option<SimConn>,
    up: VecDeque<Bytes>,
    /// How many of `up` are at the server's socket.
    arrived: usize,
    down: VecDeque<Bytes>,
    last_up: u64,
    last_down: u64,
    /// Until then the client reads nothing.
    slow_until: u64,
    is_writing: bool,
    /// Nothing arrives on it any more, and nobody has noticed.
    is_silent: bool,
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts about one run"
)]
pub(super) struct World {
    random: Random,
    seed: u64,
    now: u64,
    steps: u64,
    scheduled: u64,
    events: BTreeMap<(u64, u64), Event>,
    config: Config,
    is_heavy: bool,
    /// `None` while it is down.
    server: Option<SimServer>,
    starts: u64,
    /// `None` only while it is being opened anew.
    disk: Option<Disk>,
    store: Arc<FailingStore<Arc<dyn Store>>>,
    clients: Vec<Client>,
    connections: Vec<Option<LinkId>>,
    links: BTreeMap<LinkId, Link>,
    next_link: LinkId,
    commit_is_scheduled: bool,
    clear_is_scheduled: bool,
    cut_in_commit: bool,
    /// Since when something holds the store's log, and when it did last.
    log_held: Option<u64>,
    log_released: u64,
    reads_scheduled: usize,
    lane_scheduled: usize,
    /// Until then things go wrong.
    end: u64,
    record: Record,
    pub(super) totals: Totals,
}

impl World {
    pub(super) fn new(seed: u64, plant: Plant) -> Result<Self, String> {
        let mut random = Random::new(seed);
        let disk = if random.one_in(20) && plant == Plant::Nothing {
            Disk::sqlite()?
        } else {
            Disk::log(plant)
        };
        let is_crowded = random.one_in(4);
        let (rooms, most) = if is_crowded {
            (random.between(3, 4), 2)
        } else {
            (random.between(1, 2), 4)
        };
        let mut clients = Vec::new();
        let mut documents = 0;
        for room in 0..rooms {
            let mut paths: Vec<String> = (0..random.between(1, 2))
                .map(|number| format!("{number}.board"))
                .collect();
            documents += paths.len() as u64;
            if random.one_in(2) {
                documents += roaming::DOCUMENTS;
                paths.extend(roaming::paths());
            }
            let mut manners = vec![Manner::Careful, Manner::Witness];
            for _ in 0..random.between(1, most) {
                let all = [
                    Manner::Python,
                    Manner::Npm,
                    Manner::Python,
                    Manner::Npm,
                    Manner::Careful,
                    Manner::Ours,
                    Manner::Ours,
                    Manner::Witness,
                    Manner::Intruder,
                ];
                manners.push(all[random.index(all.len())]);
            }
            for manner in manners {
                let number = clients.len() as u64 + 1;
                let room = format!("room-{room}");
                clients.push(Client::new(number, manner, &room, &paths, random.fork()));
            }
        }
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
            connections: clients.iter().map(|_| None).collect(),
            disk: Some(disk),
            store,
            clients,
            links: BTreeMap::new(),
            next_link: 0,
            commit_is_scheduled: false,
            clear_is_scheduled: false,
            cut_in_commit: false,
            log_held: None,
            log_released: 0,
            reads_scheduled: 0,
            lane_scheduled: 0,
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

    /// What will go wrong, and when.
    fn plan(&mut self) {
        self.at(0, Event::Start);
        for client in 0..self.clients.len() {
            let time = self.random.below(SECOND);
            self.at(time, Event::Act(client));
        }
        for _ in 0..self.random.below(3) {
            let time = self.random.below(self.end);
            self.at(time, Event::Fault);
        }
        for _ in 0..self.random.below(4) {
            let time = self.random.below(self.end);
            let outages = [
                Event::PowerCut,
                Event::PowerCutInCommit,
                Event::PowerCutInCommit,
                Event::Stop,
            ];
            let outage = outages[self.random.index(outages.len())];
            self.at(time, outage);
        }
        if self.random.one_in(4) {
            let time = self.random.below(self.end);
            self.at(time, Event::Pace);
        }
        if self.random.one_in(25) {
            let time = self.random.below(self.end);
            self.at(time, Event::Storm(0));
        }
        for _ in 0..self.random.below(3) {
            let time = self.random.below(self.end);
            self.at(time, Event::HoldLog);
        }
    }

    /// Runs to the end.
    pub(super) fn run(&mut self, trace: &mut Trace) -> Result<(), String> {
        // What is taken apart is put into one sentence of the trace.
        trace.step(format_args!(
            "seed {} with {:?}",
            self.seed, self.config.limits
        ));
        self.run_until(trace, |world| world.now >= world.end)?;
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
                return Err(format!("does not come to rest: {clients:#?}"));
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

    fn run_until(
        &mut self,
        trace: &mut Trace,
        is_done: impl Fn(&Self) -> bool,
    ) -> Result<(), String> {
        loop {
            let Some((at, event)) = self.events.pop_first() else {
                return Err("nothing happens any more".to_owned());
            };
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err(format!("no end after {MAX_STEPS} steps, at {event:?}"));
            }
            let (time, _) = at;
            self.now = time;
            // Looking at every step would take longer than the steps. What the tick itself begins is not waited for.
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
            Event::Clear => {
                self.clear_is_scheduled = false;
                if let Some(server) = &mut self.server
                    && !server.is_committing()
                {
                    let answered = server.clear_away() as u64;
                    let kind = "batches answered when something was erased";
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
            Event::Lane => {
                self.lane_scheduled = self.lane_scheduled.saturating_sub(1);
                if let Some(server) = &mut self.server
                    && server.lane() > 0
                {
                    self.totals.add("turns in the lane", 1);
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
            Event::PowerCut if self.server.is_some() => return self.cut_power(),
            Event::PowerCutInCommit => self.cut_in_commit = true,
            Event::Stop if self.server.is_some() => self.stop(),
            Event::Start => return self.start(),
            Event::Storm(client) => {
                let mut context = Context {
                    now: self.now,
                    record: &mut self.record,
                    totals: &mut self.totals,
                    may_be_full: self.config.limits.max_document_bytes < SMALL_DOCUMENT,
                    log_held: self.log_held,
                    is_heavy: self.is_heavy,
                };
                self.clients[client].storm(&mut context);
                self.transmit(client, trace);
            }
            Event::PowerCut | Event::Stop | Event::HoldLog => {}
        }
        Ok(())
    }

    /// Sees to it that what the server waits for happens.
    fn settle(&mut self) {
        let Some(server) = &self.server else {
            return;
        };
        let (has_batches, is_committing, is_clearing, reads, lane) = (
            server.has_batches(),
            server.is_committing(),
            server.is_clearing(),
            server.reads(),
            server.lane(),
        );
        let idle: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| {
                !link.is_writing && link.conn.is_some_and(|conn| server.has_output(conn))
            })
            .map(|(id, _)| *id)
            .collect();
        if has_batches && !is_committing && !self.commit_is_scheduled {
            self.commit_is_scheduled = true;
            let delay = self.disk_delay();
            self.after(delay, Event::BeginCommit);
        }
        if is_clearing && !is_committing && !self.clear_is_scheduled {
            self.clear_is_scheduled = true;
            self.after(CLEAR_PAUSE, Event::Clear);
        }
        while self.reads_scheduled < reads {
            self.reads_scheduled += 1;
            let delay = self.disk_delay();
            self.after(delay, Event::Read);
        }
        while self.lane_scheduled < lane {
            self.lane_scheduled += 1;
            let delay = self.lane_delay();
            self.after(delay, Event::Lane);
        }
        for id in idle {
            let delay = self.random.below(3 * MILLISECOND);
            let time = self.now + delay;
            if let Some(link) = self.links.get_mut(&id) {
                link.is_writing = true;
                let time = time.max(link.slow_until);
                self.at(time, Event::Write(id));
            }
        }
    }

    fn act(&mut self, index: usize, trace: &mut Trace) -> Result<(), String> {
        let is_ending = self.now >= self.end;
        let pause = if is_ending {
            200 * MILLISECOND
        } else {
            self.random.between(2, 120) * MILLISECOND
        };
        self.after(pause, Event::Act(index));
        if self.clients[index].is_ours() && !is_ending && self.random.one_in(40) {
            return self.restart(index);
        }
        if self.connections[index].is_none() {
            self.connect(index);
            return Ok(());
        }
        if is_ending {
            self.clients[index].finish();
        } else if self.random.one_in(60) {
            self.drop_link(index);
            return Ok(());
        } else if self.random.one_in(90) {
            self.silence(index);
        } else if self.random.one_in(50) {
            let pause = self.random.between(100, 5000) * MILLISECOND;
            let until = self.now + pause;
            if let Some(link) = self.connections[index].and_then(|id| self.links.get_mut(&id)) {
                self.totals.add("readers that pause", 1);
                link.slow_until = until;
            }
        } else {
            let mut context = Context {
                now: self.now,
                record: &mut self.record,
                totals: &mut self.totals,
                may_be_full: self.config.limits.max_document_bytes < SMALL_DOCUMENT,
                log_held: self.log_held,
                is_heavy: self.is_heavy,
            };
            self.clients[index].act(&mut context);
        }
        self.transmit(index, trace);
        Ok(())
    }

    /// The program of a client ends, and begins again from its journals.
    fn restart(&mut self, index: usize) -> Result<(), String> {
        self.drop_link(index);
        let mut context = Context {
            now: self.now,
            record: &mut self.record,
            totals: &mut self.totals,
            may_be_full: self.config.limits.max_document_bytes < SMALL_DOCUMENT,
            log_held: self.log_held,
            is_heavy: self.is_heavy,
        };
        self.clients[index].restart(&mut context)
    }

    fn connect(&mut self, index: usize) {
        let Some(server) = &mut self.server else {
            return;
        };
        let client = &mut self.clients[index];
        let scope = client.next_scope();
        let conn = server.connect(&client.room, &client.name, scope);
        client.connected();
        self.totals.add("connections", 1);
        self.next_link += 1;
        let link = Link {
            client: index,
            conn: Some(conn),
            up: VecDeque::new(),
            arrived: 0,
            down: VecDeque::new(),
            last_up: 0,
            last_down: 0,
            slow_until: 0,
            is_writing: false,
            is_silent: false,
        };
        self.links.insert(self.next_link, link);
        self.connections[index] = Some(self.next_link);
        if self.now < self.end && self.random.one_in(12) {
            let delay = self.random.below(4 * SECOND);
            self.after(delay, Event::Expire(self.next_link));
        }
    }

    /// The connection breaks; each side finds out in its own time.
    fn drop_link(&mut self, index: usize) {
        let Some(id) = self.connections[index] else {
            return;
        };
        self.totals.add("connections dropped", 1);
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        // Some of what is on its way still arrives.
        link.up.truncate(self.random.index(link.up.len() + 1));
        link.arrived = link.arrived.min(link.up.len());
        link.down.clear();
        let delay = self.random.below(2 * SECOND);
        self.after(delay, Event::Notice(id));
        self.disconnect(index, id);
    }

    /// The connection dies in silence: what is sent goes nowhere, until each side finds out in its own time.
    fn silence(&mut self, index: usize) {
        let Some(id) = self.connections[index] else {
            return;
        };
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        self.totals.add("connections that died in silence", 1);
        link.is_silent = true;
        link.up.truncate(self.random.index(link.up.len() + 1));
        link.arrived = link.arrived.min(link.up.len());
        link.down.clear();
        let delay = self.random.below(3 * SECOND);
        self.after(delay, Event::Notice(id));
        let delay = self.random.below(3 * SECOND);
        self.after(delay, Event::GiveUp(index, id));
    }

    /// The server drops a connection. What it had queued is lost, what it had sent still arrives.
    fn expire(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id).filter(|link| !link.is_silent) else {
            return;
        };
        let (Some(server), Some(conn)) = (&mut self.server, link.conn.take()) else {
            return;
        };
        self.totals.add("tokens expired", 1);
        server.disconnect(conn);
        link.up.clear();
        link.arrived = 0;
        let time = link.last_down.max(self.now);
        let delay = self.random.below(200 * MILLISECOND);
        self.at(time + delay, Event::Lost(id));
    }

    fn disconnect(&mut self, index: usize, id: LinkId) {
        if self.connections[index] == Some(id) {
            self.connections[index] = None;
            self.clients[index].disconnected();
        }
    }

    /// A client's packets go on their way.
    fn transmit(&mut self, index: usize, trace: &mut Trace) {
        let packets = self.clients[index].take_output();
        let Some(id) = self.connections[index] else {
            return;
        };
        for packet in packets {
            trace.step(format_args!(
                "{index} sends {:08x}",
                crc32fast::hash(&packet)
            ));
            let delay = self.network_delay();
            let Some(link) = self.links.get_mut(&id).filter(|link| !link.is_silent) else {
                return;
            };
            link.last_up = link.last_up.max(self.now + delay);
            link.up.push_back(packet);
            let time = link.last_up;
            self.at(time, Event::Arrive(id));
        }
    }

    /// The server reads what has arrived, as far as it reads from this connection.
    fn read_socket(&mut self, id: LinkId) {
        let (Some(server), Some(link)) = (&mut self.server, self.links.get_mut(&id)) else {
            return;
        };
        let Some(conn) = link.conn else {
            return;
        };
        while link.arrived > 0
            && let Some(packet) = link.up.pop_front()
        {
            if let Err(packet) = server.receive(conn, packet) {
                link.up.push_front(packet);
                self.totals.add("times a connection was not read from", 1);
                return;
            }
            link.arrived -= 1;
        }
    }

    fn write_socket(&mut self, id: LinkId) {
        let messages = self.random.index(8) + 1;
        let (Some(server), Some(link)) = (&mut self.server, self.links.get_mut(&id)) else {
            return;
        };
        link.is_writing = false;
        let Some(conn) = link.conn else {
            return;
        };
        if link.slow_until > self.now {
            link.is_writing = true;
            let time = link.slow_until;
            return self.at(time, Event::Write(id));
        }
        let written = server.take(conn, messages);
        if written.ended {
            server.disconnect(conn);
            link.conn = None;
            self.totals.add("connections ended by the server", 1);
        }
        self.send_down(id, written.packets);
        if written.ended {
            let time = self.links.get(&id).map_or(0, |link| link.last_down);
            let time = time.max(self.now);
            self.at(time, Event::Lost(id));
        }
        // There may be room now for what had to wait.
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            self.read_socket(id);
        }
    }

    fn send_down(&mut self, id: LinkId, packets: Vec<Bytes>) {
        for packet in packets {
            let delay = self.network_delay();
            let Some(link) = self.links.get_mut(&id) else {
                return;
            };
            // To a client that is gone, or that nothing reaches.
            if self.connections[link.client] != Some(id) || link.is_silent {
                return;
            }
            link.last_down = link.last_down.max(self.now + delay);
            link.down.push_back(packet);
            let time = link.last_down;
            self.at(time, Event::Deliver(id));
        }
    }

    fn deliver(&mut self, id: LinkId, trace: &mut Trace) -> Result<(), String> {
        let Some(link) = self.links.get_mut(&id) else {
            return Ok(());
        };
        let Some(packet) = link.down.pop_front() else {
            return Ok(());
        };
        let index = link.client;
        trace.step(format_args!(
            "{index} gets {:08x}",
            crc32fast::hash(&packet)
        ));
        let mut context = Context {
            now: self.now,
            record: &mut self.record,
            totals: &mut self.totals,
            may_be_full: self.config.limits.max_document_bytes < SMALL_DOCUMENT,
            log_held: self.log_held,
            is_heavy: self.is_heavy,
        };
        self.clients[index].receive(&packet, &mut context)?;
        self.transmit(index, trace);
        Ok(())
    }

    fn begin_commit(&mut self) -> Result<(), String> {
        self.commit_is_scheduled = false;
        let Some(server) = &mut self.server else {
            return Ok(());
        };
        if !server.has_batches() || server.is_committing() {
            return Ok(());
        }
        if self.cut_in_commit {
            self.cut_in_commit = false;
            self.totals.add("power cuts in a commit", 1);
            if let Some(disk) = &mut self.disk {
                disk.begin_torn()?;
            }
            server.begin_commit();
            return self.cut_power();
        }
        let batches = server.begin_commit();
        let is_one_of_many = server.has_batches();
        self.totals.add("commits", 1);
        self.totals
            .add("commits of several rooms", u64::from(batches > 1));
        self.totals.add(
            "batches left for the next commit",
            u64::from(is_one_of_many),
        );
        for (document, update) in self.store.take_refused() {
            self.totals.add("appends refused", 1);
            record::is_absent(self.store.inner().as_ref(), document, &update)?;
        }
        let delay = self.disk_delay();
        self.after(delay, Event::EndCommit);
        Ok(())
    }

    fn fault(&mut self) {
        self.totals.add("faults of the disk", 1);
        let faults = [Fault::Full, Fault::Unavailable];
        let fault = faults[self.random.index(2)];
        let calls = self.random.between(1, 5);
        if self.random.one_in(4) {
            // Too large, say: the rest of its batch stands.
            let from = self.store.appends() + self.random.below(3);
            self.store.refuse_appends(from..from + calls);
        } else if self.random.one_in(3) {
            let from = self.store.reads() + self.random.below(3);
            self.store.fail_reads(from..from + calls, fault);
        } else {
            let from = self.store.commits() + self.random.below(3);
            self.store.fail_commits(from..from + calls, fault);
        }
    }

    /// Everything that is not on the disk is gone. What the server has sent still arrives.
    fn cut_power(&mut self) -> Result<(), String> {
        self.totals.add("power cuts", 1);
        self.note_metrics();
        self.server = None;
        self.store = Arc::new(FailingStore::new(Arc::new(
            meshagent_store::MemoryStore::new(),
        )));
        let disk = self.disk.take().ok_or("there is no disk")?;
        let (disk, is_torn) = disk.cut(&mut self.random)?;
        self.disk = Some(disk);
        self.hold_log(false);
        self.totals.add("torn commits", u64::from(is_torn));
        self.lose_links();
        Ok(())
    }

    /// What was handed in is answered, then everybody is let go.
    fn stop(&mut self) {
        self.totals.add("stops", 1);
        self.hold_log(false);
        if let Some(server) = &mut self.server {
            if server.is_committing() {
                server.end_commit();
            }
            while !server.is_flushed() {
                if server.lane() > 0 {
                    server.advance_lane(0);
                } else if server.has_batches() {
                    server.begin_commit();
                    server.end_commit();
                } else if server.is_clearing() {
                    server.clear_away();
                } else if server.reads() > 0 {
                    let index = self.random.index(server.reads());
                    server.advance_read(index);
                } else {
                    break;
                }
            }
        }
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            let conn = self.links.get(&id).and_then(|link| link.conn);
            if let (Some(server), Some(conn)) = (&mut self.server, conn) {
                let written = server.take(conn, usize::MAX);
                self.send_down(id, written.packets);
            }
        }
        self.note_metrics();
        self.server = None;
        self.lose_links();
    }

    fn hold_log(&mut self, is_held: bool) {
        let is_held = self
            .disk
            .as_ref()
            .is_some_and(|disk| disk.hold_log(is_held));
        if is_held {
            self.log_held = self.log_held.or(Some(self.now));
        } else if self.log_held.take().is_some() {
            self.log_released = self.now;
        }
    }

    /// The server is gone; the clients will find out, and it will come back.
    fn lose_links(&mut self) {
        self.commit_is_scheduled = false;
        self.clear_is_scheduled = false;
        self.cut_in_commit = false;
        self.events.retain(|_, event| {
            !matches!(
                event,
                Event::BeginCommit | Event::EndCommit | Event::Clear | Event::Read | Event::Lane
            )
        });
        self.reads_scheduled = 0;
        self.lane_scheduled = 0;
        let mut losses = Vec::new();
        for (id, link) in &mut self.links {
            link.conn = None;
            link.up.clear();
            link.arrived = 0;
            losses.push((*id, link.last_down.max(self.now)));
        }
        for (id, time) in losses {
            let delay = self.random.below(300 * MILLISECOND);
            self.at(time + delay, Event::Lost(id));
        }
        let delay = self.random.between(10, 800) * MILLISECOND;
        self.after(delay, Event::Start);
    }

    fn start(&mut self) -> Result<(), String> {
        if self.server.is_some() {
            return Ok(());
        }
        let disk = self.disk.as_ref().ok_or("there is no disk")?;
        self.record
            .check(disk.store().as_ref())
            .map_err(|error| format!("after a restart: {error}"))?;
        self.store = Arc::new(FailingStore::new(disk.store()));
        self.starts += 1;
        let seed = Random::new(self.seed ^ self.starts << 32).next();
        self.server = Some(SimServer::new(
            self.config.clone(),
            Arc::clone(&self.store) as Arc<dyn Store>,
            seed,
            timestamp(self.now),
        ));
        if self.starts == 1 {
            self.after(SECOND, Event::Tick);
        }
        Ok(())
    }

    fn check_bounds(&mut self) -> Result<(), String> {
        let Some(server) = &self.server else {
            return Ok(());
        };
        let figures = server.figures();
        let limits = &self.config.limits;
        for (what, size, bound) in [
            (
                "bytes in an outbox",
                figures.outbox_bytes,
                // Answers to its own requests may come on top of what others said.
                4 * limits.max_outbox_bytes + UNANSWERED * ANSWER_BYTES,
            ),
            ("staged writes", figures.staged_writes, STAGED_WRITES),
            (
                "bytes of recent changes",
                figures.recent_bytes,
                RECENT_BYTES,
            ),
            (
                "bytes that wait",
                figures.pending_bytes,
                // Read again from the disk they are one update, with gaps written out.
                limits.max_pending_bytes + limits.max_pending_bytes / 4,
            ),
        ] {
            if size > bound {
                return Err(format!("{size} {what}, and the bound is {bound}"));
            }
        }
        Ok(())
    }

    fn is_at_rest(&self) -> bool {
        let Some(server) = &self.server else {
            return false;
        };
        !server.has_batches()
            && !server.is_committing()
            && server.reads() == 0
            && server.lane() == 0
            && self.links.values().all(|link| {
                link.up.is_empty()
                    && link.down.is_empty()
                    && !link.is_silent
                    && link.conn.is_some_and(|conn| !server.has_output(conn))
            })
            // Nobody is left who takes a connection for alive that the server has given up.
            && self.connections.iter().flatten().all(|id| self.links.contains_key(id))
            && self.clients.iter().all(Client::is_done)
    }

    /// Lets go of replicas that hold what the server will never get. Returns whether there were any.
    fn start_over(&mut self) -> bool {
        let mut any = false;
        for index in 0..self.clients.len() {
            if !self.clients[index].is_off() {
                continue;
            }
            any = true;
            self.totals.add("replicas thrown away", 1);
            if let Some(id) = self.connections[index]
                && let Some(link) = self.links.remove(&id)
            {
                if let (Some(server), Some(conn)) = (&mut self.server, link.conn) {
                    server.disconnect(conn);
                }
                self.disconnect(index, id);
            }
            self.clients[index].start_over();
        }
        any
    }

    /// Everybody has the same, and it is what is stored.
    fn compare(&self) -> Result<(), String> {
        let disk = self.disk.as_ref().ok_or("there is no disk")?;
        let store = disk.store();
        self.record
            .check(store.as_ref())
            .map_err(|error| format!("in the end: {error}"))?;
        for client in &self.clients {
            for (place, replica) in client.replicas() {
                let stored = record::load(store.as_ref(), &place)?
                    .ok_or_else(|| format!("{place:?} is gone"))?;
                let (shown, expected) = (replica, stored.to_json(true));
                if shown != expected {
                    return Err(format!(
                        "{} ends up with another {place:?}\nshown  {shown}\nstored {expected}",
                        client.name
                    ));
                }
            }
        }
        Ok(())
    }

    /// Everybody goes, and the server keeps nothing of them.
    fn leave(&mut self, trace: &mut Trace) -> Result<(), String> {
        self.events
            .retain(|_, event| !matches!(event, Event::Act(_)));
        for index in 0..self.clients.len() {
            self.drop_link(index);
        }
        let deadline = self.now + 60 * SECOND;
        self.run_until(trace, |world| world.now > deadline)?;
        let Some(server) = &self.server else {
            return Err("the server has gone".to_owned());
        };
        let figures = server.figures();
        if figures.rooms > 0 {
            return Err(format!("a minute after everybody has left: {figures:?}"));
        }
        let disk = self.disk.as_ref().ok_or("there is no disk")?;
        self.record
            .check(disk.store().as_ref())
            .map_err(|error| format!("after the documents were let go: {error}"))
    }

    /// Adds up what the server has counted.
    fn note_metrics(&mut self) {
        let Some(server) = &self.server else {
            return;
        };
        for line in server.metrics().lines() {
            let Some((name, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let kind = match name {
                "meshagent_catch_ups_total" => "catch-ups",
                "meshagent_deliveries_total" => "changes delivered",
                "meshagent_commit_failures_total" => "commits that failed",
                r#"meshagent_updates_total{outcome="accepted"}"# => "updates accepted",
                r#"meshagent_updates_total{outcome="echo"}"# => "echoes",
                r#"meshagent_updates_total{outcome="gap"}"# => "gaps",
                r#"meshagent_updates_total{outcome="refused"}"# => "updates refused",
                r#"meshagent_updates_total{outcome="repaired"}"# => "updates repaired",
                _ => continue,
            };
            self.totals.add(kind, value.parse().unwrap_or_default());
        }
    }

    fn network_delay(&mut self) -> u64 {
        match self.random.below(30) {
            0 => self.random.below(500 * MILLISECOND),
            _ => self.random.below(15 * MILLISECOND),
        }
    }

    fn lane_delay(&mut self) -> u64 {
        match self.random.below(40) {
            0 => self.random.below(SECOND),
            _ => self.random.below(12 * MILLISECOND),
        }
    }

    fn disk_delay(&mut self) -> u64 {
        match self.random.below(40) {
            0 => self.random.below(2 * SECOND),
            _ => self.random.below(10 * MILLISECOND),
        }
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    fn at(&mut self, time: u64, event: Event) {
        self.scheduled += 1;
        self.events.insert((time, self.scheduled), event);
    }
}

/// Bounds and durations that are met in a short run.
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

/// The server's clock counts milliseconds, and does not begin at 0.
fn timestamp(time: u64) -> Timestamp {
    Timestamp(1_000_000 + i64::try_from(time / MILLISECOND).unwrap_or(i64::MAX / 2))
}
