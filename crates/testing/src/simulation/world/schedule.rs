//! The events of a run, and when each happens.

use super::network::LinkId;
use super::{MILLISECOND, SECOND, World};

#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
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

/// How often the committer sees whether what was deleted is erased, if it waits for that.
const CLEAR_PAUSE: u64 = 2 * MILLISECOND;

impl World {
    /// What will go wrong, and when.
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

    /// Sees to it that what the server waits for happens.
    pub(super) fn settle(&mut self) {
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

    pub(super) fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    pub(super) fn at(&mut self, time: u64, event: Event) {
        self.scheduled += 1;
        self.events.insert((time, self.scheduled), event);
    }

    pub(super) fn network_delay(&mut self) -> u64 {
        match self.random.below(30) {
            0 => self.random.below(500 * MILLISECOND),
            _ => self.random.below(15 * MILLISECOND),
        }
    }

    pub(super) fn lane_delay(&mut self) -> u64 {
        match self.random.below(40) {
            0 => self.random.below(SECOND),
            _ => self.random.below(12 * MILLISECOND),
        }
    }

    pub(super) fn disk_delay(&mut self) -> u64 {
        match self.random.below(40) {
            0 => self.random.below(2 * SECOND),
            _ => self.random.below(10 * MILLISECOND),
        }
    }
}
