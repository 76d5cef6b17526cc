//! The checks during a run and at its end.

use super::schedule::Event;
use super::{SECOND, World};
use crate::simulation::client::Client;
use crate::simulation::record;
use crate::simulation::trace::Trace;

/// The limit on unanswered requests of one connection.
const UNANSWERED: usize = 1024;

/// The approximate size of a small answer in an outbox.
const ANSWER_BYTES: usize = 512;

/// A room's bound on staged writes, with the batch of messages that its task takes in one step.
const STAGED_WRITES: usize = 1024 + 512;

/// A document's bound on recent changes.
const RECENT_BYTES: usize = 1 << 20;

impl World {
    /// Compares the server's sizes with their bounds.
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
                // Answers to the connection's own requests may add to the messages from others.
                4 * limits.max_outbox_bytes + UNANSWERED * ANSWER_BYTES,
            ),
            ("staged writes", figures.staged_writes, STAGED_WRITES),
            (
                "bytes of recent changes",
                figures.recent_bytes,
                RECENT_BYTES,
            ),
            (
                "bytes of pending updates",
                figures.pending_bytes,
                // After a reload, the pending updates are one update with explicit gaps.
                limits.max_pending_bytes + limits.max_pending_bytes / 4,
            ),
        ] {
            if size > bound {
                return Err(format!("{size} {what} exceed the bound of {bound}"));
            }
        }
        Ok(())
    }

    /// Whether nothing is in flight, and all clients are done.
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
            // No client uses a connection that the server has ended.
            && self.connections.iter().flatten().all(|id| self.links.contains_key(id))
            && self.clients.iter().all(Client::is_done)
    }

    /// Discards replicas with edits that the server will never receive. Returns false if there
    /// were none.
    pub(super) fn start_over(&mut self) -> bool {
        let mut any = false;
        for index in 0..self.clients.len() {
            if !self.clients[index].is_diverged() {
                continue;
            }
            any = true;
            self.totals.add("replicas discarded", 1);
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

    /// Checks that all replicas equal the stored documents.
    pub(super) fn compare(&self) -> Result<(), String> {
        let disk = self.disk.as_ref().ok_or("there is no disk")?;
        let store = disk.store();
        self.record
            .check(store.as_ref())
            .map_err(|error| format!("at the end: {error}"))?;
        for client in &self.clients {
            for (place, replica) in client.replicas() {
                let stored = record::load(store.as_ref(), &place)?
                    .ok_or_else(|| format!("{place:?} is gone"))?;
                let (shown, expected) = (replica, stored.to_json(true));
                if shown != expected {
                    return Err(format!(
                        "{}: {place:?} does not match the store\nshown  {shown}\nstored {expected}",
                        client.name
                    ));
                }
            }
        }
        Ok(())
    }

    /// Ends all connections, and checks that the server unloads everything.
    pub(super) fn leave(&mut self, trace: &mut Trace) -> Result<(), String> {
        self.events
            .retain(|_, event| !matches!(event, Event::Act(_)));
        for index in 0..self.clients.len() {
            self.drop_link(index);
        }
        let deadline = self.now + 60 * SECOND;
        self.run_until(trace, |world| world.now > deadline)?;
        let Some(server) = &self.server else {
            return Err("the server is down at the end".to_owned());
        };
        let figures = server.figures();
        if figures.rooms > 0 {
            return Err(format!(
                "a minute after the last client has left, rooms are in memory: {figures:?}"
            ));
        }
        let disk = self.disk.as_ref().ok_or("there is no disk")?;
        self.record
            .check(disk.store().as_ref())
            .map_err(|error| format!("after the documents were unloaded: {error}"))
    }

    /// Adds the server's metrics to the totals.
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
