//! The server and its disk: commits, faults, power cuts, stops and starts.

use std::sync::Arc;

use meshagent_server::simulation::SimServer;
use meshagent_store::{FailingStore, Fault, Store};

use super::network::LinkId;
use super::schedule::Event;
use super::{MILLISECOND, SECOND, World, timestamp};
use crate::simulation::random::Random;
use crate::simulation::record;

impl World {
    /// Compares the store with the record, and starts the server.
    pub(super) fn start(&mut self) -> Result<(), String> {
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

    /// Writes the next batches to the store, or cuts the power during that.
    pub(super) fn begin_commit(&mut self) -> Result<(), String> {
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
        let leaves_batches = server.has_batches();
        self.totals.add("commits", 1);
        self.totals
            .add("commits of several rooms", u64::from(batches > 1));
        self.totals.add(
            "batches left for the next commit",
            u64::from(leaves_batches),
        );
        for (document, update) in self.store.take_refused() {
            self.totals.add("appends refused", 1);
            record::check_absent(self.store.inner().as_ref(), document, &update)?;
        }
        let delay = self.disk_delay();
        self.after(delay, Event::EndCommit);
        Ok(())
    }

    /// Plans failures of the next reads or commits.
    pub(super) fn fault(&mut self) {
        self.totals.add("faults of the disk", 1);
        let faults = [Fault::Full, Fault::Unavailable];
        let fault = faults[self.random.index(2)];
        let calls = self.random.between(1, 5);
        if self.random.one_in(4) {
            // As for an update that is too large: the rest of the batch is stored.
            let from = self.store.appends() + self.random.below(3);
            self.store.refuse_appends(from..from + calls);
        } else if self.random.one_in(3) {
            let from = self.store.reads() + self.random.below(3);
            self.store.fail_reads(from..from + calls, fault);
        } else {
            let from = self.store.commits() + self.random.below(3);
            self.store.fail_commits(from..from + calls, fault);
            let from = self.store.stages();
            self.store.fail_stages(from..from + 1, fault);
        }
    }

    /// Cuts the power: only what is on the disk is left. What the server has sent still arrives.
    pub(super) fn cut_power(&mut self) -> Result<(), String> {
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

    /// Stops the server in an orderly way: it answers what it has received, then it
    /// ends all connections.
    pub(super) fn stop(&mut self) {
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

    /// Ends all connections after the server has stopped, and schedules its next start.
    pub(super) fn lose_links(&mut self) {
        self.commit_is_scheduled = false;
        self.erasure_is_scheduled = false;
        self.cut_in_commit = false;
        self.events.retain(|_, event| {
            !matches!(
                event,
                Event::BeginCommit
                    | Event::EndCommit
                    | Event::CheckErasure
                    | Event::Read
                    | Event::HeavyWork
            )
        });
        self.reads_scheduled = 0;
        self.heavy_work_scheduled = 0;
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

    /// Starts or ends the hold of the store's log.
    pub(super) fn hold_log(&mut self, is_held: bool) {
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
}
