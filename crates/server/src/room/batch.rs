//! Writes on their way to the disk, and what follows when they are there.
//!
//! A write's outcome is settled by the id of its document, wherever that has been moved meanwhile.
//!
//! What waits for the disk together becomes one write for each document, with everybody's contribution in it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use meshagent_document::merge_updates;
use meshagent_protocol::{Content, ErrorCode};
use meshagent_store::{
    Contribution, DocumentId, EntryKind, MovedEntry, Removed, StoreError, Timestamp, Write,
    WriteError, Written,
};

use super::compaction::Fold;
use super::documents::{Deferred, Document, StreamId, Version};
use super::opening::Waiter;
use super::uploads::Finishing;
use super::{Conn, Refusal, Request, Room};
use crate::committer::BatchResult;
use crate::ledger::{Held, Kind};
use crate::usage::DocumentPlace;

/// A longer update is a write of its own: merging costs more than it saves.
const MERGED_BYTES: usize = 256 << 10;

/// A write that is not with the committer yet.
#[derive(Debug)]
pub(super) struct Staged {
    write: Write,
    thens: Vec<Then>,
    /// What it costs until it is on disk.
    held: Held,
}

/// A write that the committer has, and what follows it.
#[derive(Debug)]
pub(super) struct Flight {
    /// Bytes that it brings, and whether they delete something.
    bytes: usize,
    deletes: bool,
    thens: Vec<Then>,
    /// What it costs, as long as it is here.
    _held: Vec<Held>,
}

/// What to do when a write is durable.
#[derive(Debug)]
pub(super) enum Then {
    Appended {
        document: DocumentId,
        version: Version,
        visible: Option<Vec<u8>>,
        known_to: Option<StreamId>,
        /// In which it was sent; `None` if the room itself, or a patch, made the change.
        sender: Option<StreamId>,
        /// Who is told what; nobody if the room itself made the change.
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

/// A change that has become durable, and who made it.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) version: Version,
    pub(super) visible: Option<Vec<u8>>,
    /// The stream that has it already.
    pub(super) known_to: Option<StreamId>,
}

/// Changes that are on disk and not shown yet, by document.
type Changes = BTreeMap<DocumentId, Vec<Change>>;

impl Then {
    /// Whose request it is, if that may touch many entries.
    fn toucher(&self) -> Option<Conn> {
        match self {
            Self::Deleted { request, .. } | Self::Moved { request, .. } => Some(request.conn),
            _ => None,
        }
    }

    /// The document whose log it is about.
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

    /// Stages a write that several things follow, in this order.
    pub(super) fn stage_all(&mut self, write: Write, thens: Vec<Then>) {
        self.staged_bytes += write_bytes(&write);
        if write.may_touch_many() {
            let conn = thens.iter().find_map(Then::toucher);
            let who = conn.and_then(|conn| self.participants.get(&conn));
            self.touches_many = Some(who.map_or_else(Arc::default, |who| who.name.as_str().into()));
        }
        let held = self.take_held().into_kind(Kind::Staged);
        self.staged.push(Staged { write, thens, held });
    }

    /// The next batch, unless one is under way.
    pub(super) fn next_batch(&mut self) -> Option<Vec<Write>> {
        if self.in_flight.is_some() || self.staged.is_empty() {
            return None;
        }
        let (staged, later) = split_snapshots(std::mem::take(&mut self.staged));
        self.staged = later;
        self.in_flight_touches_many = self.touches_many.take();
        let later_bytes = self.staged.iter().map(|staged| write_bytes(&staged.write));
        let later_bytes = later_bytes.sum();
        self.in_flight_bytes = std::mem::replace(&mut self.staged_bytes, later_bytes) - later_bytes;
        let count = staged.len();
        let (writes, flights): (Vec<Write>, Vec<Flight>) = gather(staged)
            .into_iter()
            .map(|(write, thens, held)| {
                let flight = Flight {
                    bytes: write_bytes(&write),
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
        Some(writes)
    }

    /// What is staged, for a room that ends: nobody asks what became of it, or of the batch under way.
    pub(crate) fn take_writes(&mut self) -> Vec<Write> {
        self.in_flight = None;
        self.next_batch().unwrap_or_default()
    }

    /// The batch is on stable storage, or nothing of it is.
    pub(crate) fn handle_committed(&mut self, result: BatchResult, now: Timestamp) {
        self.now = now;
        let mut batch = self.in_flight.take().unwrap_or_default();
        self.in_flight_touches_many = None;
        match result {
            Ok(results) => {
                self.count_documents(&mut batch, &results);
                let mut changed = BTreeMap::new();
                for (flight, result) in batch.into_iter().zip(results) {
                    self.count_append(&flight, &result);
                    let mut thens = flight.thens;
                    let last = thens.pop();
                    for then in thens {
                        self.settle(then, result.clone(), &mut changed);
                    }
                    // What may be long, followed by one thing, is not copied for it.
                    if let Some(last) = last {
                        self.settle(last, result, &mut changed);
                    }
                }
                self.publish_all(&mut changed);
            }
            Err(error) => self.fail_batch(batch, &error),
        }
        self.reload_waiting();
        self.load_parked();
        self.retry_waiting(None);
    }

    /// Counts what was created and deleted, whatever becomes of what follows it.
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

    /// What follows the batch under way.
    pub(super) fn in_flight_thens(&self) -> impl Iterator<Item = &Then> {
        let in_flight = self.in_flight.iter().flatten();
        in_flight.flat_map(|flight| &flight.thens)
    }

    /// Shows what is on disk of each document.
    fn publish_all(&mut self, changed: &mut Changes) {
        for (id, changes) in std::mem::take(changed) {
            self.publish(id, &changes);
        }
    }

    /// Documents of which something is on its way to the disk.
    pub(super) fn documents_under_way(&self) -> BTreeSet<DocumentId> {
        let staged = self.staged.iter().flat_map(|staged| &staged.thens);
        let in_flight = self.in_flight_thens();
        staged.chain(in_flight).filter_map(Then::document).collect()
    }

    /// Keeps account of a document's log.
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
                        // No store keeps what is behind something that it refused. If one does, it shows when the
                        // document has been read again; whoever sends it again then is told.
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
                // Readers see what was written before their document goes.
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

    /// An update did not get to the disk. Published clients hear of it at the close of the stream that sent it.
    fn refuse_append(
        &mut self,
        document: DocumentId,
        sender: Option<StreamId>,
        request: Option<Request>,
        refusal: &Refusal,
    ) {
        if let Some(stream) = sender {
            self.note_lost(document, stream, 1, || {
                format!("an update was refused: {}", refusal.text)
            });
        }
        if let Some(request) = request {
            self.refuse(request, refusal.clone());
        }
    }

    /// One write of a batch was refused; the others stand.
    fn refuse_write(&mut self, then: Then, error: &WriteError) {
        let refusal = |document: bool| {
            if let WriteError::Behind { .. } = error {
                return read_again();
            }
            let code = match error {
                WriteError::AlreadyExists { .. } if document => ErrorCode::AlreadyExists,
                WriteError::AlreadyExists { .. } => ErrorCode::StorageAlreadyExists,
                WriteError::NotFound { .. } | WriteError::NoSuchDocument { .. } if document => {
                    ErrorCode::NotFound
                }
                WriteError::NotFound { .. } => ErrorCode::StorageNotFound,
                WriteError::RecursiveRequired { .. } => ErrorCode::StorageRecursiveRequired,
                WriteError::IntoItself | WriteError::IsRoot | WriteError::PathTooLong { .. } => {
                    ErrorCode::StorageInvalidPath
                }
                WriteError::Damaged { .. } | WriteError::Full => ErrorCode::OperationFailed,
                WriteError::TooMany { .. } | WriteError::PathsTooLong { .. } => {
                    ErrorCode::InvalidRequest
                }
                _ => ErrorCode::Conflict,
            };
            Refusal::new(code, error.to_string())
        };
        match then {
            Then::Created { path, creator, .. } => {
                if let WriteError::AlreadyExists { .. } = error {
                    self.creation_overtaken(&path, *creator, refusal(true));
                } else {
                    self.creation_failed(&path, *creator, refusal(true));
                }
            }
            Then::Appended {
                document,
                version,
                sender,
                answer,
                ..
            } => {
                self.refuse_append(
                    document,
                    sender,
                    answer.map(|(request, _)| request),
                    &refusal(true),
                );
                if self.documents.contains(document) {
                    // The replica has it already, and so has all that came after it.
                    tracing::warn!(%error, document = document.0, "update refused by the store");
                    self.refuse_staged(|id| id == document, &read_again());
                    self.break_document(document, version, &read_again());
                }
            }
            Then::Deleted { request, path } => {
                let refusal = match error {
                    WriteError::OutOfReach { path: found } => {
                        self.out_of_reach(request.conn, &path, None, found)
                    }
                    _ => refusal(false),
                };
                self.refuse(request, refusal);
            }
            Then::Moved {
                request,
                source,
                destination,
            } => {
                let refusal = match error {
                    WriteError::OutOfReach { path: found } => {
                        self.out_of_reach(request.conn, &source, Some(&destination), found)
                    }
                    _ => refusal(false),
                };
                self.refuse(request, refusal);
            }
            Then::Put { upload, .. } => self.end_upload(&upload, Err(refusal(false))),
            Then::Snapshotted { .. } => {}
        }
    }

    /// Nothing of a batch is on disk. Its authors are told, and documents that ran ahead are read again.
    fn fail_batch(&mut self, batch: Vec<Flight>, error: &Arc<StoreError>) {
        let refusal = Refusal::storage(error);
        let mut broken = BTreeMap::<DocumentId, Version>::new();
        for then in batch.into_iter().flat_map(|flight| flight.thens) {
            match then {
                Then::Appended {
                    document,
                    version,
                    sender,
                    answer,
                    ..
                } => {
                    self.refuse_append(
                        document,
                        sender,
                        answer.map(|(request, _)| request),
                        &refusal,
                    );
                    let from = broken.entry(document).or_insert(version);
                    *from = version.min(*from);
                }
                Then::Created { path, creator, .. } => {
                    self.creation_failed(&path, *creator, refusal.clone());
                }
                Then::Deleted { request, .. } | Then::Moved { request, .. } => {
                    self.refuse(request, refusal.clone());
                }
                Then::Put { upload, .. } => self.end_upload(&upload, Err(refusal.clone())),
                Then::Snapshotted { document, .. } => {
                    if let Some(document) = self.documents.get_mut(document) {
                        document.stored.folded(None);
                    }
                }
            }
        }
        self.refuse_staged(|id| broken.contains_key(&id), &refusal);
        for (id, from) in broken {
            self.break_document(id, from, &refusal);
        }
    }

    /// What is staged of these documents builds on what is not going to be on disk.
    fn refuse_staged(&mut self, builds_on: impl Fn(DocumentId) -> bool, refusal: &Refusal) {
        let (dependent, independent): (Vec<_>, Vec<_>) = std::mem::take(&mut self.staged)
            .into_iter()
            .partition(|staged| {
                let mut documents = staged.thens.iter().filter_map(Then::document);
                documents.any(&builds_on)
            });
        self.staged_bytes = independent
            .iter()
            .map(|staged| write_bytes(&staged.write))
            .sum();
        self.staged = independent;
        for then in dependent.into_iter().flat_map(|staged| staged.thens) {
            match then {
                Then::Appended {
                    document,
                    sender,
                    answer,
                    ..
                } => self.refuse_append(
                    document,
                    sender,
                    answer.map(|(request, _)| request),
                    refusal,
                ),
                Then::Snapshotted { document, .. } => {
                    if let Some(document) = self.documents.get_mut(document) {
                        document.stored.folded(None);
                    }
                }
                _ => {}
            }
        }
    }

    /// From a version on the replica shows what is not going to be on disk: nobody is served from it until it was read
    /// again. What came before is on disk, or on its way there, and is answered as ever.
    pub(super) fn break_document(&mut self, id: DocumentId, from: Version, refusal: &Refusal) {
        let Some(document) = self.documents.get_mut(id) else {
            return;
        };
        document.set_broken(from);
        // A reader to catch up is still marked as behind and is served after the reload.
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
        // All leave before any arrives: within a folder one may take the place of another.
        let mut arriving = Vec::new();
        for entry in entries {
            self.load_again(&entry.source);
            if entry.document.is_some() {
                self.documents.note_left(&entry.source);
            }
            // One may have been read at its new place before this was known.
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

    /// Documents that were deleted or replaced.
    fn close_removed(&mut self, removed: &[Removed]) {
        for entry in removed {
            self.load_again(&entry.path);
            if let Some(id) = entry.document {
                self.documents.note_left(&entry.path);
                self.close_document(id);
            }
        }
    }

    /// The document is gone: its streams end with a close. What is staged of it the store will refuse. Who waits for it
    /// gets what is there instead.
    pub(super) fn close_document(&mut self, id: DocumentId) {
        let Some(mut document) = self.documents.remove(id) else {
            return;
        };
        self.metrics.documents.dec();
        self.end_streams(&mut document);
        let deferred = std::mem::take(&mut document.deferred);
        let others = self.ask_again(&document.path, deferred, &gone(&document.path));
        self.refuse_deferred(others, &gone(&document.path));
    }

    /// The document was moved: it stays in memory with all that is on its way to the disk. Its streams end, since
    /// clients name a document by its path; whoever waits for it at its new place gets it.
    fn arrive(&mut self, mut document: Box<Document>, destination: &str) {
        // Those that their clients have closed end when what they sent is on disk.
        let closing = document
            .streams
            .extract_if(.., |_, stream| stream.is_closing)
            .collect();
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

    /// Ends the streams of a document that was taken out.
    fn end_streams(&mut self, document: &mut Document) {
        for mut stream in std::mem::take(&mut document.streams).into_values() {
            let close = stream.take_close();
            self.end_call(stream.conn, &stream.tool_call_id, close);
        }
        document.idle_since = Some(self.now);
    }

    /// Tells those whose answers waited for a version that they won't get it.
    fn refuse_deferred(&mut self, deferred: VecDeque<(Version, Deferred)>, refusal: &Refusal) {
        for (_, deferred) in deferred {
            match deferred {
                Deferred::Answer { request, .. } | Deferred::Described { request, .. } => {
                    self.refuse(request, refusal.clone());
                }
                Deferred::State {
                    request,
                    tool_call_id,
                    number,
                    ..
                } => self.refuse_opening(request, &tool_call_id, number, refusal.clone()),
                Deferred::CatchUp { .. } => {}
                Deferred::Close {
                    request,
                    document,
                    stream,
                    // What was lost by it was noted when its updates were refused.
                } => self.end_closed(request, document, stream),
            }
        }
    }
}

/// Says that a document has to be read again first.
fn read_again() -> Refusal {
    let text = "storage failed and the document is being read again; send the update again";
    Refusal::new(ErrorCode::OperationFailed, text)
}

fn gone(path: &str) -> Refusal {
    let text = format!("{path:?} was deleted or moved meanwhile");
    Refusal::new(ErrorCode::NotFound, text)
}

fn write_bytes(write: &Write) -> usize {
    match write {
        Write::Append { update: bytes, .. }
        | Write::CreateDocument { state: bytes, .. }
        | Write::PutFile { data: bytes, .. }
        | Write::Snapshot { state: bytes, .. } => bytes.len(),
        Write::Delete { .. } | Write::Move { .. } => 0,
    }
}

/// What may be one batch, and the snapshots that have to wait for it: a snapshot has what was staged before it, and must
/// not bring that to the disk if the store refuses it.
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

/// One write for each document's short updates, and the others as they are.
fn gather(staged: Vec<Staged>) -> Vec<(Write, Vec<Then>, Vec<Held>)> {
    let mut groups: Vec<Vec<Staged>> = Vec::with_capacity(staged.len());
    // Where a document's updates are gathered.
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
            // An update stays behind what was asked for before it.
            _ => places.clear(),
        }
        groups.push(vec![one]);
    }
    groups.into_iter().flat_map(merge_group).collect()
}

/// One write for the updates of a document; or several, if they don't merge.
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

/// Adds a contribution to others, to the last one if it is by the same author.
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
