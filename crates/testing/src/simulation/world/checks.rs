//! What has to hold during a run, and at its end.

use super::schedule::Event;
use super::{SECOND, World};
use crate::simulation::client::Client;
use crate::simulation::record;
use crate::simulation::trace::Trace;

/// Requests of one connection that may be unanswered, and about what a small answer takes in its outbox.
const UNANSWERED: usize = 1024;

const ANSWER_BYTES: usize = 512;

/// A room's own bound, with the batch of messages that its task takes at once.
const STAGED_WRITES: usize = 1024 + 512;

const RECENT_BYTES: usize = 1 << 20;

impl World {
    pub(super) fn check_bounds(&mut self) -> Result<(), String> {
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

    pub(super) fn is_at_rest(&self) -> bool {
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
    pub(super) fn start_over(&mut self) -> bool {
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
    pub(super) fn compare(&self) -> Result<(), String> {
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
    pub(super) fn leave(&mut self, trace: &mut Trace) -> Result<(), String> {
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
    pub(super) fn note_metrics(&mut self) {
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
}
