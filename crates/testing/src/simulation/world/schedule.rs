//! The events of a run, and when they occur.

use super::network::LinkId;
use super::{MILLISECOND, SECOND, World};

/// An event of a run. A client is named by its index.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// A client takes its next action.
    Act(usize),
    /// A packet of the client arrives at the server's socket.
    Arrive(LinkId),
    /// The server writes to a socket.
    Write(LinkId),
    /// A packet of the server arrives at the client.
    Deliver(LinkId),
    /// The server detects that the connection is broken.
    Notice(LinkId),
    /// The client detects that the connection is broken.
    Lost(LinkId),
    /// The client closes a connection on which nothing has arrived for a long time.
    GiveUp(usize, LinkId),
    /// A token expires, and the server ends the connection.
    Expire(LinkId),
    /// The committer writes the next batches to the store.
    BeginCommit,
    /// The rooms receive the results of the commit.
    EndCommit,
    /// The committer checks whether deleted content is erased.
    CheckErasure,
    /// Something starts to hold the store's log, as a backup does.
    HoldLog,
    /// Nothing holds the log any longer.
    ReleaseLog,
    /// A read of the store makes progress.
    Read,
    /// A room gets a place in the heavy-work pool.
    HeavyWork,
    /// The host becomes slower or faster.
    Pace,
    /// The server's timers fire, and bounds are checked.
    Tick,
    /// The disk starts to fail.
    Fault,
    /// Commits arrive that are late.
    Land,
    /// Another server takes over a room.
    TakeOver,
    /// The lease of the room of a client ends, as another server has it.
    EndLease(usize),
    /// The power is cut.
    PowerCut,
    /// The power will be cut during the next commit.
    PowerCutInCommit,
    /// An operator stops the server.
    Stop,
    /// The server starts.
    Start,
    /// A client makes more edits than a room takes in one batch.
    Storm(usize),
}

/// How often the committer checks whether deleted content is erased, while it waits for that.
const ERASURE_PAUSE: u64 = 2 * MILLISECOND;

impl World {
    /// Schedules the start, the first actions and the failures of the run.
    pub(super) fn plan(&mut self) {
        self.at(0, Event::Start);
        for client in 0..self.clients.len() {
            let time = self.random.below(SECOND);
            self.at(time, Event::Act(client));
        }
        for _ in 0..self.random.below(3) {
            let time = self.random.below(self.end);
            self.at(time, Event::Fault);
        }
        for _ in 0..self.random.below(3) {
            let time = self.random.below(self.end);
            self.at(time, Event::TakeOver);
        }
        for _ in 0..8 {
            let time = self.random.below(self.end);
            self.at(time, Event::Land);
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

    /// Schedules the events that the server waits for.
    pub(super) fn settle(&mut self) {
        let Some(server) = &self.server else {
            return;
        };
        let (has_batches, is_committing, is_clearing, reads, heavy_work) = (
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
        if is_clearing && !is_committing && !self.erasure_is_scheduled {
            self.erasure_is_scheduled = true;
            self.after(ERASURE_PAUSE, Event::CheckErasure);
        }
        while self.reads_scheduled < reads {
            self.reads_scheduled += 1;
            let delay = self.disk_delay();
            self.after(delay, Event::Read);
        }
        while self.heavy_work_scheduled < heavy_work {
            self.heavy_work_scheduled += 1;
            let delay = self.heavy_work_delay();
            self.after(delay, Event::HeavyWork);
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

    /// Schedules an event after a delay.
    pub(super) fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    /// Schedules an event at a time.
    pub(super) fn at(&mut self, time: u64, event: Event) {
        self.scheduled += 1;
        self.events.insert((time, self.scheduled), event);
    }

    /// How long a packet is in flight.
    pub(super) fn network_delay(&mut self) -> u64 {
        match self.random.below(30) {
            0 => self.random.below(500 * MILLISECOND),
            _ => self.random.below(15 * MILLISECOND),
        }
    }

    /// How long a room waits for a place in the heavy-work pool.
    pub(super) fn heavy_work_delay(&mut self) -> u64 {
        match self.random.below(40) {
            0 => self.random.below(SECOND),
            _ => self.random.below(12 * MILLISECOND),
        }
    }

    /// How long a read or a commit takes.
    pub(super) fn disk_delay(&mut self) -> u64 {
        match self.random.below(40) {
            0 => self.random.below(2 * SECOND),
            _ => self.random.below(10 * MILLISECOND),
        }
    }
}
