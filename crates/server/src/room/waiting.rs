//! Large answers that wait: for room in the asker's queue, or for memory that others' answers have now.

use super::documents::Slot;
use super::opening::Waiter;
use super::{Conn, Room};

/// Below this a document's state is no large answer.
const SMALL_BYTES: usize = 64 << 10;

impl Room {
    /// Whether what `waiter` asks for may be made and queued now.
    pub(super) fn has_room_for(&self, path: &str, waiter: &Waiter) -> bool {
        let Some(participant) = self.participants.get(&waiter.conn()) else {
            return true;
        };
        let Some(Slot::Open(document)) = self.documents.get(path) else {
            return true;
        };
        let asks_for_state = match waiter {
            Waiter::Create { .. } => return true,
            Waiter::Describe { .. } => false,
            Waiter::Open { start, .. } => start.vector.is_none(),
        };
        if document.bytes < SMALL_BYTES {
            return true;
        }
        if !participant.outbox.accepts_broadcast(false) {
            return false;
        }
        if asks_for_state && document.has_near_state() {
            return true;
        }
        let (shared, max) = (
            self.usage.shared_bytes(),
            self.config.limits.max_shared_bytes,
        );
        // What is larger than all there may be gets it when nobody else has any.
        let text_bytes = document.bytes / 3 * 4;
        shared == 0 || shared.saturating_add(text_bytes) <= max
    }

    /// Tries those again that wait, of one connection or of all.
    pub(super) fn retry_waiting(&mut self, conn: Option<Conn>) {
        if self.waiting.is_empty() {
            return;
        }
        for (path, waiter) in std::mem::take(&mut self.waiting) {
            if conn.is_none_or(|conn| waiter.conn() == conn) {
                self.with_document(&path, waiter);
            } else {
                self.waiting.push_back((path, waiter));
            }
        }
    }
}
