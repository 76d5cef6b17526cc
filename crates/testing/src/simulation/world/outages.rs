//! The server and its disk: commits, faults, power cuts, stops and starts.

use std::sync::Arc;

use meshagent_server::simulation::SimServer;
use meshagent_store::{Batch, FailingStore, Fault, Seq, Store, Write, WriteError};

use super::network::LinkId;
use super::schedule::Event;
use super::{MILLISECOND, SECOND, SMALL_DOCUMENT, World, timestamp};
use crate::simulation::random::Random;
use crate::simulation::{board, record};

/// The client ids of other servers begin here.
const OTHER_CLIENTS: u64 = 0x0070_0000;

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
        if self.random.one_in(3) {
            return self.lose_answers();
        }
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

    /// Plans commits whose outcome the server does not learn.
    fn lose_answers(&mut self) {
        let faults = [Fault::Dropped, Fault::Late, Fault::Lost];
        let fault = faults[self.random.index(3)];
        let from = self.store.commits() + self.random.below(3);
        let calls = self.random.between(1, 3);
        self.store.fail_commits(from..from + calls, fault);
        let kind = match fault {
            Fault::Late => "commits planned to arrive late",
            Fault::Lost => "commits planned to lose their answers",
            _ => "commits planned to get lost",
        };
        self.totals.add(kind, calls);
        if self.random.one_in(2) {
            // The server can't look immediately.
            let from = self.store.reads() + self.random.below(3);
            let calls = self.random.between(1, 8);
            self.store
                .fail_reads(from..from + calls, Fault::Unavailable);
        }
    }

    /// Makes the commits arrive that are late, if there are any.
    pub(super) fn land(&mut self) -> Result<(), String> {
        let late = self.store.land().map_err(|error| error.to_string())?;
        let is_fenced = |result: &&_| matches!(result, Err(WriteError::Fenced { .. }));
        let fenced = late.iter().filter(is_fenced).count();
        self.totals
            .add("late writes that were fenced", fenced as u64);
        let stored = (late.len() - fenced) as u64;
        self.totals.add("late writes that were stored", stored);
        Ok(())
    }

    /// Another server takes over the room of a client, and makes an edit there. The lease of the
    /// first server ends a moment later.
    pub(super) fn take_over(&mut self) -> Result<(), String> {
        // The other server would have to know the bounds of small documents.
        if self.server.is_none() || self.config.limits.max_document_bytes < SMALL_DOCUMENT {
            return Ok(());
        }
        let disk = self.disk.as_ref().ok_or("there is no disk")?;
        let store = disk.store();
        let client = self.random.index(self.clients.len());
        let name = self.clients[client].room.clone();
        let room = SimServer::room_id(&name);
        let failed = |error: &dyn std::fmt::Display| format!("another server: {error}");
        let epoch = store
            .take_over(&room, None)
            .map_err(|error| failed(&error))?;
        self.totals.add("rooms taken over", 1);
        let places = self.record.places(&name);
        if let Some(place) = self.random.pick(&places)
            && let Some(stored) = store
                .load(&room, &place.1)
                .map_err(|error| failed(&error))?
            && let Some(mut replica) = record::load(store.as_ref(), place)?
        {
            self.takeovers += 1;
            let takeover = self.takeovers;
            replica.set_client_id(OTHER_CLIENTS + takeover);
            let mut number = 0;
            let mut next_id = || {
                number += 1;
                format!("other-{takeover}-{number}")
            };
            let updates = board::edit(&mut replica, &mut self.random, &mut next_id);
            let mut writes = Vec::new();
            for (update, end) in updates.into_iter().zip(stored.last_seq.0..) {
                // Until then, the first server may show what was stored before.
                self.unseen.push((place.clone(), update.clone()));
                writes.push(Write::Append {
                    document: stored.document,
                    end: Some(Seq(end)),
                    update: update.into(),
                    contributions: Vec::new(),
                    at: timestamp(self.now),
                });
            }
            let batch = Batch {
                room,
                epoch,
                writes: writes.len(),
            };
            let results = store.commit_batches(&writes, &[batch], None);
            let results = results.map_err(|error| failed(&error))?;
            if let Some(error) = results.iter().find_map(|result| result.as_ref().err()) {
                return Err(failed(error));
            }
            self.totals
                .add("edits of another server", results.len() as u64);
        }
        let delay = self.random.below(2 * SECOND);
        self.after(delay, Event::EndLease(client));
        Ok(())
    }

    /// Ends the lease of the first server.
    pub(super) fn end_lease(&mut self, client: usize) -> Result<(), String> {
        let room = &self.clients[client].room;
        if let Some(server) = &mut self.server {
            server.end_lease(room);
        }
        for (place, update) in self.unseen.extract_if(.., |(place, _)| place.0 == *room) {
            self.record.promise(&place, &update)?;
        }
        Ok(())
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
