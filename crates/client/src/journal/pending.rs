//! What of a replica is not in its journal yet, without any I/O.

use std::sync::Arc;

use serde_json::json;

use super::RoomKey;
use super::record::{self, BLANK, EDIT, HEAD, MAGIC, MERGED, SAVED, STATE};
use crate::replica::Replica;

/// How much longer than twice what it was right after it was rewritten a journal may become.
const SLACK_BYTES: u64 = if cfg!(test) { 1 << 10 } else { 16 << 10 };

/// What was received waits up to this size; beyond it the next write is the whole document.
const MAX_RECEIVED_BYTES: usize = 1 << 20;

/// How far a journal is behind its replica.
///
/// Edits wait in the replica, so nothing of them is kept here but how far they are written.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts about one file"
)]
#[derive(Debug)]
pub(crate) struct Pending {
    room: Arc<RoomKey>,
    path: String,
    /// Edits up to this number are on stable storage.
    written: u64,
    /// Edits up to this number are known there to be acknowledged.
    saved: u64,
    /// Updates from the server that are not written yet.
    received: Vec<Vec<u8>>,
    received_bytes: usize,
    /// How many of `received` are in the batch that is being written.
    taken: usize,
    /// Whether the replica is the document. Before that there is nothing to be written.
    is_started: bool,
    /// Whether only the whole document can be written next.
    is_whole: bool,
    /// Whether what is on the disk is kept beside the next whole document.
    keeps_old: bool,
    /// Whether the journal holds edits under names that they don't have any more.
    is_renamed: bool,
    bytes: u64,
    base_bytes: u64,
    /// Why the last write failed, until one succeeds.
    failure: Option<String>,
}

/// What is to be written to a journal in one step.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(super) records: Vec<u8>,
    /// Whether it takes the place of what is there.
    pub(super) is_whole: bool,
    /// Whether what is there is kept beside it.
    pub(super) keeps_old: bool,
    last: u64,
    saved: u64,
}

impl Pending {
    /// Nothing is written yet.
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
            keeps_old: false,
            is_renamed: false,
            bytes: 0,
            base_bytes: 0,
            failure: None,
        }
    }

    /// An update came from the server.
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

    /// The server has what was sent with this number, and the replica is about to forget it. What of it is not written yet
    /// would be found nowhere then.
    pub(crate) fn answered(&mut self, replica: &Replica, number: u64) {
        if number > self.written {
            let mut edits = replica.edits_after(self.written);
            if let Some(one) = edits.find(|one| one.number == number) {
                self.receive(one.update);
            }
        }
    }

    /// The replica is not what the journal says, even with everything that was received and edited since.
    pub(crate) fn start_over(&mut self) {
        self.is_started = true;
        self.is_whole = true;
        self.received.clear();
        self.received_bytes = 0;
        self.taken = 0;
    }

    /// The replica has started over, so its edits may have other names than in the journal. If they were sent before the
    /// journal is rewritten, a program that ends in between would make and send them a second time.
    pub(crate) fn rename(&mut self, replica: &Replica) {
        self.is_renamed |= !replica.is_saved();
        self.start_over();
    }

    /// Whether nothing may be sent before the journal was rewritten. A disk that fails does not keep edits from the server.
    pub(crate) fn holds_edits(&self) -> bool {
        self.is_renamed && self.failure.is_none()
    }

    /// The replica is another document. What is on the disk of the old one is set aside.
    pub(crate) fn replace(&mut self) {
        self.keeps_old = true;
        self.start_over();
    }

    /// The next batch is the last one. A journal that is more than twice as long as it has to be is rewritten.
    pub(crate) fn finish(&mut self, replica: &Replica) {
        let needed = |pending: &mut Self| pending.whole(replica).records.len() as u64;
        if self.is_started && !self.is_whole && self.bytes > 2 * needed(self) {
            self.start_over();
        }
    }

    /// What is to be written now; `None` if that is nothing. Then one of [`wrote`](Self::wrote) and [`failed`](Self::failed)
    /// has to be called before the next.
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
            last: replica.last_number(),
            saved,
        })
    }

    fn whole(&mut self, replica: &Replica) -> Batch {
        // What is asked for a rewrite from here on comes after this one.
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
            keeps_old: self.keeps_old,
            last: replica.last_number(),
            saved: replica.saved_number(),
        }
    }

    /// A batch is on stable storage.
    pub(crate) fn wrote(&mut self, batch: &Batch) {
        let length = batch.records.len() as u64;
        if batch.is_whole {
            self.keeps_old &= !batch.keeps_old;
            // It may have been made again while this was written.
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

    /// A batch could not be written.
    pub(crate) fn failed(&mut self, batch: &Batch, needs_rewrite: bool, reason: String) {
        self.taken = 0;
        if batch.is_whole || needs_rewrite {
            self.start_over();
        }
        self.failure = Some(reason);
    }

    /// Up to which number edits are on stable storage.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Why the last write failed, until one succeeds.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }
}

fn push_edits(records: &mut Vec<u8>, replica: &Replica, after: u64) {
    for one in replica.edits_after(after) {
        if one.is_blank {
            // It comes before the update: a file that is cut between them has neither.
            record::push(records, BLANK, &one.number.to_le_bytes());
        }
        let mut payload = one.number.to_le_bytes().to_vec();
        payload.extend_from_slice(&one.count.to_le_bytes());
        payload.extend_from_slice(one.update);
        record::push(records, EDIT, &payload);
        if one.first <= after {
            // It comes after the edit: a file that is cut between them has too much, never too little.
            let [first, last] = [one.first, one.number].map(u64::to_le_bytes);
            record::push(records, MERGED, &[first, last].concat());
        }
    }
}
