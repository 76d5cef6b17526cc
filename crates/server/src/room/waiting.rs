//! Requests that wait: for room in the asker's queue, for memory that others' answers have now, or for a document
//! that is being read again.

use super::documents::Slot;
use super::opening::Waiter;
use super::{Conn, Refusal, Request, Room};

/// Below this a document's state is no large answer.
const SMALL_BYTES: usize = 64 << 10;

/// What waits.
#[derive(Debug)]
pub(super) enum Waiting {
    Document { path: String, waiter: Box<Waiter> },
    List { request: Request, path: String },
}

impl Waiting {
    pub(super) fn conn(&self) -> Conn {
        match self {
            Self::Document { waiter, .. } => waiter.conn(),
            Self::List { request, .. } => request.conn,
        }
    }
}

impl Room {
    /// Whether what `waiter` asks for may be made and queued now.
    pub(super) fn has_room_for(&self, path: &str, waiter: &Waiter) -> bool {
        let Some(participant) = self.participants.get(&waiter.conn()) else {
            return true;
        };
        let Some(Slot::Open(document)) = self.documents.get(path) else {
            return true;
        };
        let is_description = match waiter {
            Waiter::Create { .. } | Waiter::Patch { .. } => return true,
            Waiter::Describe { .. } => true,
            Waiter::Open { .. } => false,
        };
        if document.bytes < SMALL_BYTES {
            return true;
        }
        if !participant.outbox.accepts_broadcast(false) {
            return false;
        }
        let asks_for_state = matches!(waiter, Waiter::Open { start, .. } if start.vector.is_none());
        if asks_for_state && document.has_current_state() {
            return true;
        }
        if is_description && !document.takes_description() {
            return false;
        }
        let in_use = if is_description {
            usize::try_from(self.metrics.queued_bytes.get()).unwrap_or(0)
        } else {
            self.usage.shared_bytes()
        };
        // What is larger than all there may be gets it when nobody else has any.
        let text_bytes = document.bytes / 3 * 4;
        in_use == 0 || in_use.saturating_add(text_bytes) <= self.config.limits.max_shared_bytes
    }

    /// Keeps a request for later.
    pub(super) fn wait(&mut self, path: &str, waiter: Waiter) {
        self.waiting.push_back(Waiting::Document {
            path: path.to_owned(),
            waiter: Box::new(waiter),
        });
    }

    /// Those who wait for a document are told that they won't get it.
    pub(super) fn refuse_waiting(&mut self, path: &str, refusal: &Refusal) {
        for waiting in std::mem::take(&mut self.waiting) {
            match waiting {
                Waiting::Document {
                    path: waits_for,
                    waiter,
                } if waits_for == path => self.refuse_waiter(*waiter, refusal.clone()),
                other => self.waiting.push_back(other),
            }
        }
    }

    /// Tries those again that wait, of one connection or of all.
    pub(super) fn retry_waiting(&mut self, conn: Option<Conn>) {
        if self.waiting.is_empty() {
            return;
        }
        for waiting in std::mem::take(&mut self.waiting) {
            if conn.is_some_and(|conn| waiting.conn() != conn) {
                self.waiting.push_back(waiting);
                continue;
            }
            match waiting {
                Waiting::Document { path, waiter } => self.with_document(&path, *waiter),
                Waiting::List { request, path } => self.list_when_there_is_room(request, path),
            }
        }
    }
}
