//! Writes of a room: from staging to the commit, and what follows it.
//!
//! The result of a write is settled by the id of its document, even if the document has been moved.
//!
//! Updates that wait for the disk together become one write for each document, with the
//! contributions of all authors.

mod positions;
mod refusals;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use meshagent_document::merge_updates;
use meshagent_ledger::{Held, Kind};
use meshagent_protocol::Content;
use meshagent_store::{
    Contribution, DocumentId, EntryKind, MovedEntry, Removed, Timestamp, Write, WriteError, Written,
};

pub(super) use self::positions::append;
use self::refusals::{gone, read_again};
use super::compaction::Fold;
use super::documents::{Deferred, Document, StreamId, Version};
use super::opening::Waiter;
use super::uploads::Finishing;
use super::{Conn, Refusal, Request, Room};
use crate::committer::BatchResult;
use crate::usage::DocumentPlace;

/// The longest update, in bytes, that is merged with others. For a longer one, merging costs more
/// than it saves.
const MERGED_BYTES: usize = 256 << 10;

/// A write that has not been handed to the committer.
#[derive(Debug)]
pub(super) struct Staged {
    write: Write,
    thens: Vec<Then>,
    /// The charge of the write until it is on disk.
    held: Held,
}

/// A write in flight, and what follows it.
#[derive(Debug)]
pub(super) struct Flight {
    /// Bytes of the write's content, and whether it deletes something.
    bytes: usize,
    deletes: bool,
    thens: Vec<Then>,
    /// The charges of the merged writes; released when this is dropped.
    _held: Vec<Held>,
}

/// What follows the commit of a write.
#[derive(Debug)]
pub(super) enum Then {
    Appended {
        document: DocumentId,
        version: Version,
        visible: Option<Vec<u8>>,
        known_to: Option<StreamId>,
        /// The stream in which the update was sent; `None` if the room or a patch made the change.
        sender: Option<StreamId>,
        /// The request to answer and the answer; `None` if the room itself made the change.
        answer: Option<(Request, Content)>,
    },
    Created {
        path: String,
        document: Box<Document>,
        creator: Box<Waiter>,
        place: DocumentPlace,
    },
    Deleted {
        request: Request,
        path: String,
    },
    Moved {
        request: Request,
        source: String,
        destination: String,
    },
    Put {
        upload: Finishing,
        path: String,
    },
    Snapshotted {
        document: DocumentId,
        fold: Fold,
    },
}

/// A durable change for the readers.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) version: Version,
    pub(super) visible: Option<Vec<u8>>,
    /// The stream that has the change already, because its client made it.
    pub(super) known_to: Option<StreamId>,
}

/// Durable changes that have not been shown yet, by document.
type Changes = BTreeMap<DocumentId, Vec<Change>>;

impl Then {
    /// The connection whose request this is, if the request may touch many entries.
    fn toucher(&self) -> Option<Conn> {
        match self {
            Self::Deleted { request, .. } | Self::Moved { request, .. } => Some(request.conn),
            _ => None,
        }
    }

    /// The document to whose log the write belongs.
    fn document(&self) -> Option<DocumentId> {
        match self {
            Self::Appended { document, .. } | Self::Snapshotted { document, .. } => Some(*document),
            Self::Created { .. } | Self::Deleted { .. } | Self::Moved { .. } | Self::Put { .. } => {
                None
            }
        }
    }
}

impl Room {
    pub(super) fn stage(&mut self, write: Write, then: Then) {
        self.stage_all(write, vec![then]);
    }

    /// Stages a write that has several consequences, which follow in this order.
    pub(super) fn stage_all(&mut self, write: Write, thens: Vec<Then>) {
        self.staged_bytes += write.bytes();
        if write.may_touch_many() {
            let conn = thens.iter().find_map(Then::toucher);
            let who = conn.and_then(|conn| self.participants.get(&conn));
            self.touches_many = Some(who.map_or_else(Arc::default, |who| who.name.as_str().into()));
        }
        let held = self.take_held().into_kind(Kind::Staged);
        self.staged.push(Staged { write, thens, held });
    }

    /// Returns the next batch, unless one is in flight.
    pub(super) fn next_batch(&mut self) -> Option<Vec<Write>> {
        if self.in_flight.is_some() || self.staged.is_empty() {
            return None;
        }
        let (staged, later) = split_snapshots(std::mem::take(&mut self.staged));
        self.staged = later;
        self.in_flight_touches_many = self.touches_many.take();
        let later_bytes = self.staged.iter().map(|staged| staged.write.bytes());
        let later_bytes = later_bytes.sum();
        self.in_flight_bytes = std::mem::replace(&mut self.staged_bytes, later_bytes) - later_bytes;
        let count = staged.len();
        let (mut writes, flights): (Vec<Write>, Vec<Flight>) = gather(staged)
            .into_iter()
            .map(|(write, thens, held)| {
                let flight = Flight {
                    bytes: write.bytes(),
                    deletes: matches!(&write, Write::Append { update, .. } if update.last() != Some(&0)),
                    thens,
                    _held: held,
                };
                (write, flight)
            })
            .unzip();
        self.metrics
            .merged_updates
            .inc_by((count - writes.len()) as u64);
        self.in_flight = Some(flights);
        self.expect_ends(&mut writes);
        Some(writes)
    }

    /// Returns the staged writes of a room that ends. The outcome of the batch in flight no longer
    /// matters.
    pub(crate) fn take_writes(&mut self) -> Vec<Write> {
        self.in_flight = None;
        self.next_batch().unwrap_or_default()
    }

    /// Handles the result of the batch in flight: it is on stable storage, except for writes that
    /// were refused, or nothing of it is.
    pub(crate) fn handle_committed(&mut self, result: BatchResult, now: Timestamp) {
        self.now = now;
        let mut batch = self.in_flight.take().unwrap_or_default();
        self.in_flight_touches_many = None;
        match result {
            Ok(results) => {
                self.count_documents(&mut batch, &results);
                let mut changed = BTreeMap::new();
                self.settling = batch.into();
                for result in results {
                    let Some(flight) = self.settling.pop_front() else {
                        break;
                    };
                    self.count_append(&flight, &result);
                    let mut thens = flight.thens;
                    let last = thens.pop();
                    for then in thens {
                        self.settle(then, result.clone(), &mut changed);
                    }
                    // The result may be large, so the last consequence takes it without a copy.
                    if let Some(last) = last {
                        self.settle(last, result, &mut changed);
                    }
                }
                self.settling = VecDeque::new();
                self.publish_all(&mut changed);
            }
            Err(error) => self.fail_batch(batch, &error),
        }
        self.reload_waiting();
        self.load_parked();
        self.retry_waiting(None);
    }

    /// Counts the created and the deleted documents, whatever follows.
    fn count_documents(&self, batch: &mut [Flight], results: &[Result<Written, WriteError>]) {
        self.usage.settle_removed(results);
        for (flight, result) in batch.iter_mut().zip(results) {
            for then in &mut flight.thens {
                if let (Then::Created { place, .. }, Ok(Written::Created { .. })) = (then, result) {
                    place.keep();
                }
            }
        }
    }

    /// What follows the batch in flight.
    pub(super) fn in_flight_thens(&self) -> impl Iterator<Item = &Then> {
        let in_flight = self.in_flight.iter().flatten();
        in_flight.flat_map(|flight| &flight.thens)
    }

    /// Shows the durable changes of each document.
    fn publish_all(&mut self, changed: &mut Changes) {
        for (id, changes) in std::mem::take(changed) {
            self.publish(id, &changes);
        }
    }

    /// The documents that have writes staged or in flight.
    pub(super) fn documents_under_way(&self) -> BTreeSet<DocumentId> {
        let staged = self.staged.iter().flat_map(|staged| &staged.thens);
        let in_flight = self.in_flight_thens();
        staged.chain(in_flight).filter_map(Then::document).collect()
    }

    /// Updates the account of a document's log.
    fn count_append(&mut self, flight: &Flight, result: &Result<Written, WriteError>) {
        let (Some(Then::Appended { document: id, .. }), Ok(Written::Appended { .. })) =
            (flight.thens.first(), result)
        else {
            return;
        };
        if let Some(document) = self.documents.get_mut(*id) {
            document.stored.appended(flight.bytes, flight.deletes);
            self.is_worn |= document.stored.is_worn(self.config.snapshot_every);
        }
    }

    fn settle(&mut self, then: Then, result: Result<Written, WriteError>, changed: &mut Changes) {
        match (then, result) {
            (
                Then::Appended {
                    document: id,
                    version,
                    visible,
                    known_to,
                    sender,
                    answer,
                },
                Ok(Written::Appended { seq }),
            ) => {
                if let Some(document) = self.documents.get_mut(id) {
                    if !document.appended(version, seq) {
                        // Stores keep nothing behind an update that they refused. If one does, the
                        // reload shows the update, and a client that sends it again receives an
                        // acknowledgement.
                        tracing::error!(
                            document = id.0,
                            "the store kept what is behind a refused update"
                        );
                        self.refuse_append(
                            id,
                            sender,
                            answer.map(|(request, _)| request),
                            &read_again(),
                        );
                        return;
                    }
                    changed.entry(id).or_default().push(Change {
                        version,
                        visible,
                        known_to,
                    });
                }
                if let Some((request, content)) = answer {
                    self.respond(request, content);
                }
            }
            (
                Then::Created {
                    path,
                    mut document,
                    creator,
                    ..
                },
                Ok(Written::Created { document: id, seq }),
            ) => {
                document.id = id;
                document.last_seq = seq;
                document.stored.set_log_end(seq);
                document.idle_since = Some(self.now);
                document.stored.appended(document.bytes, false);
                self.announce_updated(&path, EntryKind::Document, creator.conn());
                self.opened(document, Some(*creator));
            }
            (Then::Deleted { request, path }, Ok(Written::Deleted { entries })) => {
                self.publish_all(changed);
                self.after_delete(request, &path, &entries);
            }
            (
                Then::Moved {
                    request,
                    source,
                    destination,
                },
                Ok(Written::Moved { entries, replaced }),
            ) => {
                // Readers receive what was written before their document goes.
                self.publish_all(changed);
                self.after_move(request, &source, &destination, &entries, &replaced);
            }
            (Then::Put { upload, path }, Ok(_)) => {
                self.end_downloads([&*path]);
                self.announce_updated(&path, EntryKind::File, upload.conn);
                self.end_upload(&upload, Ok(()));
            }
            (Then::Snapshotted { document: id, fold }, result) => {
                if let Err(error) = &result {
                    tracing::warn!(%error, document = id.0, "snapshot refused");
                }
                if let Some(document) = self.documents.get_mut(id) {
                    document.stored.folded(result.is_ok().then_some(&fold));
                }
            }
            (then, Err(error)) => {
                self.publish_all(changed);
                self.refuse_write(then, &error);
            }
            (then, Ok(written)) => {
                tracing::error!(?written, "the store answered another question");
                self.refuse_write(
                    then,
                    &WriteError::NotFound {
                        path: String::new(),
                    },
                );
            }
        }
    }

    /// Marks a document as broken: from version `from` on, its replica contains what will never be
    /// on disk, and serves nothing until it has been read again. Earlier versions are on disk or in
    /// flight, and are answered as usual.
    pub(super) fn break_document(&mut self, id: DocumentId, from: Version, refusal: &Refusal) {
        let Some(document) = self.documents.get_mut(id) else {
            return;
        };
        document.set_broken(from);
        // A reader whose catch-up is dropped is still marked as behind and is served after the
        // reload.
        let first = document
            .deferred
            .partition_point(|(version, _)| *version < from);
        let deferred = document.deferred.split_off(first);
        self.refuse_deferred(deferred, refusal);
        self.reload(id);
    }

    fn after_delete(&mut self, request: Request, path: &str, entries: &[Removed]) {
        self.close_removed(entries);
        self.end_downloads(entries.iter().map(|entry| &*entry.path));
        self.respond(request, Content::Empty);
        self.announce_deleted(path, entries, request.conn);
    }

    fn after_move(
        &mut self,
        request: Request,
        source: &str,
        destination: &str,
        entries: &[MovedEntry],
        replaced: &[Removed],
    ) {
        self.close_removed(replaced);
        let left = entries.iter().map(|entry| &*entry.source);
        self.end_downloads(left.chain(replaced.iter().map(|entry| &*entry.path)));
        // All leave before any arrives: within a folder, one may take the path of another.
        let mut arriving = Vec::new();
        for entry in entries {
            self.load_again(&entry.source);
            if entry.document.is_some() {
                self.documents.note_left(&entry.source);
            }
            // A document may have been read at its new path before the room settled the move.
            let has_come = |id: &_| self.documents.path_of(*id) == Some(&*entry.destination);
            let coming = entry.document.filter(|id| !has_come(id));
            let document = coming.and_then(|id| self.documents.remove(id));
            arriving.extend(document.map(|document| (document, &entry.destination)));
        }
        for (document, destination) in arriving {
            self.arrive(document, destination);
        }
        for entry in entries {
            self.load_again(&entry.destination);
        }
        self.respond(request, Content::Empty);
        self.announce_moved(source, destination, entries, request.conn);
    }

    /// Closes documents that were deleted or replaced.
    fn close_removed(&mut self, removed: &[Removed]) {
        for entry in removed {
            self.load_again(&entry.path);
            if let Some(id) = entry.document {
                self.documents.note_left(&entry.path);
                self.close_document(id);
            }
        }
    }

    /// Ends the streams of a document that is gone, each with a close, after refusing the updates
    /// that are not on disk. Requests that wait for the document are served from what is now at its
    /// path.
    pub(super) fn close_document(&mut self, id: DocumentId) {
        if let Some(path) = self.documents.path_of(id) {
            let refusal = gone(path);
            self.refuse_under_way(id, &refusal);
        }
        let Some(mut document) = self.documents.remove(id) else {
            return;
        };
        self.metrics.documents.dec();
        self.end_streams(&mut document);
        let deferred = std::mem::take(&mut document.deferred);
        let others = self.ask_again(&document.path, deferred, &gone(&document.path));
        self.refuse_deferred(others, &gone(&document.path));
    }

    /// Places a document at its new path. It keeps its staged and in-flight writes. Its streams
    /// end, because clients address documents by path; requests that wait at the new path are
    /// served.
    fn arrive(&mut self, mut document: Box<Document>, destination: &str) {
        // Streams that their clients have closed end when what they sent is on disk.
        let closing = document.streams.take_closing();
        self.end_streams(&mut document);
        document.streams = closing;
        let is_of_path = |deferred: &Deferred| {
            !matches!(deferred, Deferred::Answer { .. } | Deferred::Close { .. })
        };
        let (of_path, others) = std::mem::take(&mut document.deferred)
            .into_iter()
            .partition(|(_, deferred)| is_of_path(deferred));
        document.deferred = others;
        self.refuse_deferred(of_path, &gone(&document.path));
        document.path = destination.into();
        let id = document.id;
        for waiter in self.place(document) {
            self.serve(id, waiter);
        }
    }

    /// Ends the streams of a document that was removed.
    fn end_streams(&mut self, document: &mut Document) {
        for mut stream in std::mem::take(&mut document.streams).into_values() {
            let close = stream.take_close();
            self.end_call(stream.conn, &stream.tool_call_id, close);
        }
        document.idle_since = Some(self.now);
    }
}

/// Separates the next batch from the snapshots that have to wait for it. A snapshot contains what
/// was staged before it, and must not bring that to the disk if the store refuses it.
fn split_snapshots(staged: Vec<Staged>) -> (Vec<Staged>, Vec<Staged>) {
    let mut appended = BTreeSet::new();
    staged.into_iter().partition(|one| match &one.write {
        Write::Append { document, .. } => {
            appended.insert(*document);
            true
        }
        Write::Snapshot { document, .. } => !appended.contains(document),
        _ => true,
    })
}

/// Merges the short updates of each document into one write, and keeps the other writes as they
/// are.
fn gather(staged: Vec<Staged>) -> Vec<(Write, Vec<Then>, Vec<Held>)> {
    let mut groups: Vec<Vec<Staged>> = Vec::with_capacity(staged.len());
    // The group that collects a document's updates.
    let mut places: HashMap<DocumentId, usize> = HashMap::new();
    for one in staged {
        match &one.write {
            Write::Append {
                document, update, ..
            } if update.len() <= MERGED_BYTES => {
                let place = *places.entry(*document).or_insert(groups.len());
                if let Some(group) = groups.get_mut(place) {
                    group.push(one);
                    continue;
                }
            }
            // What follows a large update may build on it, and stays behind it.
            Write::Append { document, .. } => {
                places.remove(document);
            }
            Write::Snapshot { .. } => {}
            // An update stays behind what was requested before it.
            _ => places.clear(),
        }
        groups.push(vec![one]);
    }
    groups.into_iter().flat_map(merge_group).collect()
}

/// Merges updates of a document into one write; into several if they do not merge.
fn merge_group(group: Vec<Staged>) -> Vec<(Write, Vec<Then>, Vec<Held>)> {
    let updates = group.iter().filter_map(|one| match &one.write {
        Write::Append { update, .. } => Some(&update[..]),
        _ => None,
    });
    let merged = match updates.collect::<Vec<_>>()[..] {
        [] | [_] => None,
        ref updates => merge_updates(updates)
            .inspect_err(|error| tracing::warn!(%error, "updates of a batch do not merge"))
            .ok(),
    };
    let Some(merged) = merged else {
        let alone = |one: Staged| (one.write, one.thens, vec![one.held]);
        return group.into_iter().map(alone).collect();
    };
    let mut group = group.into_iter();
    let Some(Staged {
        mut write,
        mut thens,
        held,
    }) = group.next()
    else {
        return Vec::new();
    };
    let mut all_held = vec![held];
    for other in group {
        if let (
            Write::Append { contributions, .. },
            Write::Append {
                contributions: more,
                ..
            },
        ) = (&mut write, other.write)
        {
            for one in more {
                add(contributions, one);
            }
        }
        thens.extend(other.thens);
        all_held.push(other.held);
    }
    if let Write::Append { update, .. } = &mut write {
        *update = merged.into();
    }
    vec![(write, thens, all_held)]
}

/// Adds a contribution, to the last one if both have the same author.
pub(super) fn add(contributions: &mut Vec<Contribution>, one: Contribution) {
    let Some(last) = contributions
        .last_mut()
        .filter(|last| last.author == one.author)
    else {
        return contributions.push(one);
    };
    for range in one.operations {
        match last.operations.last_mut() {
            Some(before) if before.client == range.client && before.end == range.start => {
                before.end = range.end;
            }
            _ => last.operations.push(range),
        }
    }
}
