//! The part of a replica that its journal does not have yet, without I/O.

use std::sync::Arc;

use serde_json::json;

use super::RoomKey;
use super::record::{self, BLANK, EDIT, HEAD, MAGIC, MERGED, SAVED, STATE};
use crate::replica::Replica;

/// By how much a journal may exceed twice its size after the last rewrite.
const SLACK_BYTES: u64 = if cfg!(test) { 1 << 10 } else { 16 << 10 };

/// Unwritten updates from the server are kept up to this size. Beyond it the next write is the
/// whole document.
const MAX_RECEIVED_BYTES: usize = 1 << 20;

/// How far a journal is behind its replica.
///
/// Edits wait in the replica, so only the written position is kept here.
#[derive(Debug)]
pub(crate) struct Pending {
    room: Arc<RoomKey>,
    path: String,
    /// Edits up to this number are on stable storage.
    written: u64,
    /// Edits up to this number are acknowledged according to the journal.
    saved: u64,
    /// Updates from the server that are not written yet.
    received: Vec<Vec<u8>>,
    received_bytes: usize,
    /// How many of `received` are in the batch that is being written.
    taken: usize,
    /// Whether the replica is the document. Before that, nothing is written.
    is_started: bool,
    /// Whether the next write must be the whole document.
    is_whole: bool,
    /// How often another document took the place of the journal's.
    replaced: u64,
    /// The number of these replacements whose old document the journal no longer has: its file was
    /// copied and rewritten since.
    copied: u64,
    /// Whether the journal has edits under names that have changed.
    is_renamed: bool,
    bytes: u64,
    base_bytes: u64,
    /// The error of the last write, until one succeeds.
    failure: Option<String>,
}

/// Records to write to a journal in one step.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(super) records: Vec<u8>,
    /// Whether it replaces the file.
    pub(super) is_whole: bool,
    /// Whether the file is copied before it is replaced.
    pub(super) keeps_old: bool,
    /// The number of replacements before it.
    replaced: u64,
    last: u64,
    saved: u64,
}

impl Pending {
    /// Starts with an empty journal.
    pub(crate) fn new(room: Arc<RoomKey>, path: &str) -> Self {
        Self {
            room,
            path: path.to_owned(),
            written: 0,
            saved: 0,
            received: Vec::new(),
            received_bytes: 0,
            taken: 0,
            is_started: false,
            is_whole: true,
            replaced: 0,
            copied: 0,
            is_renamed: false,
            bytes: 0,
            base_bytes: 0,
            failure: None,
        }
    }

    /// Records an update from the server.
    pub(crate) fn receive(&mut self, update: &[u8]) {
        if self.is_whole || update.is_empty() {
            return;
        }
        self.received_bytes += update.len();
        if self.received_bytes > MAX_RECEIVED_BYTES {
            self.start_over();
        } else {
            self.received.push(update.to_vec());
        }
    }

    /// The server has stored the update with this number, and the replica is about to remove it. An
    /// unwritten part of it would then be missing in the journal.
    pub(crate) fn answered(&mut self, replica: &Replica, number: u64) {
        if number > self.written {
            let mut edits = replica.edits_after(self.written);
            if let Some(one) = edits.find(|one| one.number == number) {
                self.receive(one.update);
            }
        }
    }

    /// Requests a rewrite: the journal does not describe the replica, even with the updates and
    /// edits since.
    pub(crate) fn start_over(&mut self) {
        self.is_started = true;
        self.is_whole = true;
        self.received.clear();
        self.received_bytes = 0;
        self.taken = 0;
    }

    /// The replica has started over, so its edits may have other names than in the journal. They
    /// must not be sent before the journal is rewritten: a program that ends in between would make
    /// and send them a second time.
    pub(crate) fn rename(&mut self, replica: &Replica) {
        self.is_renamed |= !replica.is_saved();
        self.start_over();
    }

    /// Whether nothing may be sent before the journal is rewritten. A failing disk does not hold
    /// edits back.
    pub(crate) fn holds_edits(&self) -> bool {
        self.is_renamed && self.failure.is_none()
    }

    /// The replica is another document. The journal of the old one is set aside.
    pub(crate) fn replace(&mut self) {
        self.replaced += 1;
        self.start_over();
    }

    /// Prepares the last batch. A journal of more than twice the necessary size is rewritten.
    pub(crate) fn finish(&mut self, replica: &Replica) {
        let needed = |pending: &mut Self| pending.whole(replica).records.len() as u64;
        if self.is_started && !self.is_whole && self.bytes > 2 * needed(self) {
            self.start_over();
        }
    }

    /// The next batch; `None` if there is nothing to write. Call [`wrote`](Self::wrote) or
    /// [`failed`](Self::failed) before the next call.
    pub(crate) fn take(&mut self, replica: &Replica) -> Option<Batch> {
        if !self.is_started {
            return None;
        }
        if self.is_whole || self.bytes > 2 * self.base_bytes + SLACK_BYTES {
            self.start_over();
            return Some(self.whole(replica));
        }
        let mut records = Vec::new();
        for update in &self.received {
            record::push(&mut records, STATE, update);
        }
        self.taken = self.received.len();
        push_edits(&mut records, replica, self.written);
        let saved = replica.saved_number();
        if saved > self.saved {
            record::push(&mut records, SAVED, &saved.to_le_bytes());
        }
        (!records.is_empty()).then(|| Batch {
            records,
            is_whole: false,
            keeps_old: false,
            replaced: self.replaced,
            last: replica.last_number(),
            saved,
        })
    }

    fn whole(&mut self, replica: &Replica) -> Batch {
        // Requests for a rewrite from here on concern the next one.
        self.is_whole = false;
        let document = replica.document();
        let mut base = Vec::new();
        record::push(&mut base, STATE, &document.encode_state());
        if let Some(waiting) = document.encode_pending() {
            record::push(&mut base, STATE, &waiting);
        }
        push_edits(&mut base, replica, 0);
        let head = json!({
            "project": self.room.project,
            "room": self.room.room,
            "path": self.path,
            "schema": document.schema().to_json(),
            "base_bytes": base.len(),
            "identity": replica.identity(),
        });
        let mut records = MAGIC.to_vec();
        record::push(&mut records, HEAD, head.to_string().as_bytes());
        records.append(&mut base);
        Batch {
            records,
            is_whole: true,
            keeps_old: self.replaced > self.copied,
            replaced: self.replaced,
            last: replica.last_number(),
            saved: replica.saved_number(),
        }
    }

    /// The batch is on stable storage.
    pub(crate) fn wrote(&mut self, batch: &Batch) {
        let length = batch.records.len() as u64;
        if batch.is_whole {
            // The document may have been replaced again while this was written.
            self.copied = batch.replaced;
            // The replica may have started over again while this was written.
            self.is_renamed &= self.is_whole;
            self.bytes = 0;
            self.base_bytes = length;
        }
        self.bytes += length;
        self.written = batch.last;
        self.saved = batch.saved;
        for update in self.received.drain(..self.taken) {
            self.received_bytes -= update.len();
        }
        self.taken = 0;
        self.failure = None;
    }

    /// The batch could not be written.
    pub(crate) fn failed(&mut self, batch: &Batch, needs_rewrite: bool, reason: String) {
        self.taken = 0;
        if batch.is_whole || needs_rewrite {
            self.start_over();
        }
        self.failure = Some(reason);
    }

    /// The number up to which edits are on stable storage.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// The error of the last write, until one succeeds.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }
}

fn push_edits(records: &mut Vec<u8>, replica: &Replica, after: u64) {
    for one in replica.edits_after(after) {
        if one.is_blank {
            // It precedes the update: a file that is cut between them has neither.
            record::push(records, BLANK, &one.number.to_le_bytes());
        }
        let mut payload = one.number.to_le_bytes().to_vec();
        payload.extend_from_slice(&one.count.to_le_bytes());
        payload.extend_from_slice(one.update);
        record::push(records, EDIT, &payload);
        if one.first <= after {
            // It follows the edit: a file that is cut between them has too much, never too little.
            let [first, last] = [one.first, one.number].map(u64::to_le_bytes);
            record::push(records, MERGED, &[first, last].concat());
        }
    }
}
