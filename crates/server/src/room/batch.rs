//! Writes on their way to the disk, and what follows when they are there.
//!
//! What waits for the disk together becomes one write for each document, with everybody's contribution in it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use meshagent_document::merge_updates;
use meshagent_protocol::{Content, Control, ErrorCode, ServerToClient};
use meshagent_store::{
    Contribution, DocumentId, MovedEntry, Removed, StoreError, Timestamp, Write, WriteError,
    Written,
};

use super::compaction::Fold;
use super::documents::{Change, Deferred, Document, Slot, StreamId, Version};
use super::opening::Waiter;
use super::sync::SyncCall;
use super::{Call, Conn, Refusal, Request, Room};
use crate::committer::BatchResult;

/// A longer update is a write of its own: merging costs more than it saves.
const MERGED_BYTES: usize = 256 << 10;

/// A write that is not with the committer yet.
#[derive(Debug)]
pub(super) struct Staged {
    write: Write,
    then: Then,
}

/// A write that the committer has, and what follows it.
#[derive(Debug)]
pub(super) struct Flight {
    /// Bytes that it brings, and whether they delete something.
    bytes: usize,
    deletes: bool,
    thens: Vec<Then>,
}

/// What to do when a write is durable.
#[derive(Debug)]
pub(super) enum Then {
    Appended {
        path: String,
        document: DocumentId,
        version: Version,
        visible: Option<Vec<u8>>,
        known_to: Option<StreamId>,
        /// Who is told what; nobody if the room itself made the change.
        answer: Option<(Request, Content)>,
    },
    Created {
        path: String,
        document: Box<Document>,
        creator: Waiter,
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
        conn: Conn,
        tool_call_id: String,
        path: String,
    },
    Snapshotted {
        path: String,
        document: DocumentId,
        fold: Fold,
    },
}

impl Room {
    pub(super) fn stage(&mut self, write: Write, then: Then) {
        self.staged_bytes += write_bytes(&write);
        self.staged.push(Staged { write, then });
    }

    /// The next batch, unless one is under way.
    pub(super) fn next_batch(&mut self) -> Option<Vec<Write>> {
        if self.in_flight.is_some() || self.staged.is_empty() {
            return None;
        }
        let staged = std::mem::take(&mut self.staged);
        self.in_flight_bytes = std::mem::take(&mut self.staged_bytes);
        let count = staged.len();
        let (writes, flights): (Vec<Write>, Vec<Flight>) = gather(staged)
            .into_iter()
            .map(|(write, thens)| {
                let flight = Flight {
                    bytes: write_bytes(&write),
                    deletes: matches!(&write, Write::Append { update, .. } if update.last() != Some(&0)),
                    thens,
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

    /// The batch is on stable storage, or nothing of it is.
    pub(crate) fn handle_committed(&mut self, result: BatchResult, now: Timestamp) {
        self.now = now;
        let batch = self.in_flight.take().unwrap_or_default();
        match result {
            Ok(results) => {
                let mut changed = BTreeMap::<String, Vec<Change>>::new();
                for (flight, result) in batch.into_iter().zip(results) {
                    self.count_append(&flight, &result);
                    for then in flight.thens {
                        self.settle(then, result.clone(), &mut changed);
                    }
                }
                for (path, changes) in changed {
                    self.publish(&path, &changes);
                }
            }
            Err(error) => self.fail_batch(batch, &error),
        }
        self.retry_waiting(None);
    }

    /// Keeps account of a document's log.
    fn count_append(&mut self, flight: &Flight, result: &Result<Written, WriteError>) {
        let (
            Some(Then::Appended {
                path, document: id, ..
            }),
            Ok(Written::Appended { .. }),
        ) = (flight.thens.first(), result)
        else {
            return;
        };
        if let Some(Slot::Open(document)) = self.documents.get_mut(path)
            && document.id == *id
        {
            document.stored.appended(flight.bytes, flight.deletes);
            self.is_worn |= document.stored.is_worn(self.config.snapshot_every);
        }
    }

    fn settle(
        &mut self,
        then: Then,
        result: Result<Written, WriteError>,
        changed: &mut BTreeMap<String, Vec<Change>>,
    ) {
        match (then, result) {
            (
                Then::Appended {
                    path,
                    document: id,
                    version,
                    visible,
                    known_to,
                    answer,
                },
                Ok(Written::Appended { seq }),
            ) => {
                if let Some(Slot::Open(document)) = self.documents.get_mut(&path)
                    && document.id == id
                {
                    document.committed = document.committed.max(version);
                    document.last_seq = seq;
                    changed.entry(path).or_default().push(Change {
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
                },
                Ok(Written::Created { document: id, seq }),
            ) => {
                document.id = id;
                document.last_seq = seq;
                document.idle_since = Some(self.now);
                document.stored.appended(document.bytes, false);
                self.announce_updated(&path, creator.conn());
                self.opened(&path, document, Some(creator));
            }
            (Then::Deleted { request, path }, Ok(Written::Deleted { entries })) => {
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
                self.after_move(request, &source, &destination, &entries, &replaced);
            }
            (
                Then::Put {
                    conn,
                    tool_call_id,
                    path,
                },
                Ok(_),
            ) => {
                self.announce_updated(&path, conn);
                self.end_call(conn, &tool_call_id, Control::close());
            }
            (
                Then::Snapshotted {
                    path,
                    document: id,
                    fold,
                },
                result,
            ) => {
                if let Err(error) = &result {
                    tracing::warn!(%error, path, "snapshot refused");
                }
                if let Some(Slot::Open(document)) = self.documents.get_mut(&path)
                    && document.id == id
                {
                    document.stored.folded(result.is_ok().then_some(&fold));
                }
            }
            (then, Err(error)) => self.refuse_write(then, &error),
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

    /// One write of a batch was refused; the others stand.
    fn refuse_write(&mut self, then: Then, error: &WriteError) {
        let refusal = |document: bool| {
            let code = match error {
                WriteError::AlreadyExists { .. } if document => ErrorCode::AlreadyExists,
                WriteError::AlreadyExists { .. } => ErrorCode::StorageAlreadyExists,
                WriteError::NotFound { .. } | WriteError::NoSuchDocument { .. } if document => {
                    ErrorCode::NotFound
                }
                WriteError::NotFound { .. } => ErrorCode::StorageNotFound,
                WriteError::RecursiveRequired { .. } => ErrorCode::StorageRecursiveRequired,
                WriteError::IntoItself | WriteError::IsRoot => ErrorCode::StorageInvalidPath,
                _ => ErrorCode::Conflict,
            };
            Refusal::new(code, error.to_string())
        };
        match then {
            Then::Created { path, creator, .. } => {
                self.usage.release_documents(1);
                self.creation_failed(&path, creator, refusal(true));
            }
            Then::Appended { answer, .. } => {
                if let Some((request, _)) = answer {
                    self.refuse(request, refusal(true));
                }
            }
            Then::Deleted { request, .. } | Then::Moved { request, .. } => {
                self.refuse(request, refusal(false));
            }
            Then::Put {
                conn, tool_call_id, ..
            } => self.fail_call(None, conn, &tool_call_id, refusal(false)),
            Then::Snapshotted { .. } => {}
        }
    }

    /// Nothing of a batch is on disk. Its authors are told, and documents that ran ahead are read again.
    fn fail_batch(&mut self, batch: Vec<Flight>, error: &Arc<StoreError>) {
        let refusal = Refusal::storage(error);
        let mut broken = Vec::new();
        // What is staged behind the batch builds on what failed.
        let (dependent, independent): (Vec<_>, Vec<_>) = std::mem::take(&mut self.staged)
            .into_iter()
            .partition(|staged| {
                matches!(
                    staged.then,
                    Then::Appended { .. } | Then::Snapshotted { .. }
                )
            });
        self.staged_bytes = independent
            .iter()
            .map(|staged| write_bytes(&staged.write))
            .sum();
        self.staged = independent;
        let failed = batch.into_iter().flat_map(|flight| flight.thens);
        for then in failed.chain(dependent.into_iter().map(|staged| staged.then)) {
            match then {
                Then::Appended { path, answer, .. } => {
                    if let Some((request, _)) = answer {
                        self.refuse(request, refusal.clone());
                    }
                    broken.push(path);
                }
                Then::Created { path, creator, .. } => {
                    self.usage.release_documents(1);
                    self.creation_failed(&path, creator, refusal.clone());
                }
                Then::Deleted { request, .. } | Then::Moved { request, .. } => {
                    self.refuse(request, refusal.clone());
                }
                Then::Put {
                    conn, tool_call_id, ..
                } => {
                    self.fail_call(None, conn, &tool_call_id, refusal.clone());
                }
                Then::Snapshotted { path, .. } => {
                    if let Some(Slot::Open(document)) = self.documents.get_mut(&path) {
                        document.stored.folded(None);
                    }
                }
            }
        }
        broken.sort();
        broken.dedup();
        for path in broken {
            self.break_document(&path, &refusal);
        }
    }

    /// The replica shows what is not on disk: nobody is served from it until it was read again.
    pub(super) fn break_document(&mut self, path: &str, refusal: &Refusal) {
        let Some(Slot::Open(document)) = self.documents.get_mut(path) else {
            return;
        };
        document.broken = true;
        // A reader to catch up is still marked as behind and is served after the reload.
        let deferred = std::mem::take(&mut document.deferred);
        self.refuse_deferred(deferred, refusal);
        self.reload(path);
    }

    fn after_delete(&mut self, request: Request, path: &str, entries: &[Removed]) {
        for entry in entries {
            self.close_document(&entry.path);
        }
        self.release_documents(entries);
        self.respond(request, Content::Empty);
        let participant_id = self.participant_id(request.conn);
        for path in entries
            .iter()
            .map(|entry| entry.path.as_str())
            .chain(folder(
                path,
                entries.iter().map(|entry| entry.path.as_str()),
            ))
        {
            self.send_to_all(&ServerToClient::FileDeleted {
                path: path.to_owned(),
                participant_id: participant_id.clone(),
            });
        }
    }

    fn after_move(
        &mut self,
        request: Request,
        source: &str,
        destination: &str,
        entries: &[MovedEntry],
        replaced: &[Removed],
    ) {
        for path in entries
            .iter()
            .map(|entry| &entry.source)
            .chain(replaced.iter().map(|entry| &entry.path))
        {
            self.close_document(path);
        }
        self.release_documents(replaced);
        for entry in entries {
            self.load_again(&entry.destination);
        }
        self.respond(request, Content::Empty);
        let participant_id = self.participant_id(request.conn);
        let moved = entries
            .iter()
            .map(|entry| (entry.source.as_str(), entry.destination.as_str()));
        let of_folder = folder(source, entries.iter().map(|entry| entry.source.as_str()))
            .map(|source| (source, destination));
        for (source, destination) in moved.chain(of_folder) {
            self.send_to_all(&ServerToClient::FileMoved {
                source_path: source.to_owned(),
                destination_path: destination.to_owned(),
                participant_id: participant_id.clone(),
            });
        }
    }

    fn release_documents(&self, removed: &[Removed]) {
        let documents = removed.iter().filter(|entry| entry.document.is_some());
        self.usage.release_documents(documents.count() as u64);
    }

    /// The document is no longer at this path: its streams end with a close.
    fn close_document(&mut self, path: &str) {
        self.load_again(path);
        if !matches!(self.documents.get(path), Some(Slot::Open(_))) {
            return;
        }
        let Some(Slot::Open(document)) = self.documents.remove(path) else {
            return;
        };
        self.metrics.documents.dec();
        for stream in document.streams.into_values() {
            self.end_call(stream.conn, &stream.tool_call_id, Control::close());
        }
        let gone = Refusal::new(
            ErrorCode::NotFound,
            format!("{path:?} was deleted or moved meanwhile"),
        );
        self.refuse_deferred(document.deferred, &gone);
    }

    /// Tells those whose answers waited for a version that they won't get it.
    fn refuse_deferred(&mut self, deferred: VecDeque<(Version, Deferred)>, refusal: &Refusal) {
        for (_, deferred) in deferred {
            match deferred {
                Deferred::Answer { request, .. } => self.refuse(request, refusal.clone()),
                Deferred::State {
                    request,
                    tool_call_id,
                    ..
                } => self.fail_call(Some(request), request.conn, &tool_call_id, refusal.clone()),
                Deferred::CatchUp { .. } => {}
            }
        }
    }

    pub(super) fn announce_updated(&self, path: &str, conn: Conn) {
        self.send_to_all(&ServerToClient::FileUpdated {
            path: path.to_owned(),
            participant_id: self.participant_id(conn),
        });
    }

    /// Whether a call still waits to be opened.
    pub(super) fn is_opening(&self, conn: Conn, tool_call_id: &str) -> bool {
        self.participants
            .get(&conn)
            .and_then(|participant| participant.calls.get(tool_call_id))
            .is_some_and(|call| matches!(call, Call::Sync(SyncCall::Opening { .. })))
    }
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

/// One write for each document's short updates, and the others as they are.
fn gather(staged: Vec<Staged>) -> Vec<(Write, Vec<Then>)> {
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
fn merge_group(group: Vec<Staged>) -> Vec<(Write, Vec<Then>)> {
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
        let alone = |one: Staged| (one.write, vec![one.then]);
        return group.into_iter().map(alone).collect();
    };
    let mut group = group.into_iter();
    let Some(Staged { mut write, then }) = group.next() else {
        return Vec::new();
    };
    let mut thens = vec![then];
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
        thens.push(other.then);
    }
    if let Write::Append { update, .. } = &mut write {
        *update = merged.into();
    }
    vec![(write, thens)]
}

/// Adds a contribution to others, to the last one if it is by the same author.
fn add(contributions: &mut Vec<Contribution>, one: Contribution) {
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

/// The path itself, if it was a folder: none of the entries below it has that name.
fn folder<'a>(path: &'a str, mut entries: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    (!entries.any(|entry| entry == path)).then_some(path)
}
