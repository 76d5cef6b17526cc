//! The open documents of a room: the replica, who subscribes to it, and what each has seen.
//!
//! A subscriber is a cursor over the document's recent changes. While its connection keeps up, each change
//! is queued for it as shared bytes. When the connection's queue is full the cursor stays where it is, and
//! what it missed follows, merged, when there is room again.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use meshagent_document::{MeshDocument, merge_updates};
use meshagent_protocol::{Content, ErrorCode, ServerToClient, sync as wire};
use meshagent_store::{DocumentId, Seq, Timestamp};
use serde_json::Value;

use super::opening::Waiter;
use super::{Call, Conn, Refusal, Request, Room, SyncCall};

/// Recent changes kept for readers that fall behind. Beyond it they get the whole state instead.
const RECENT_BYTES: usize = 1 << 20;

/// Counts the changes of one document since it was loaded.
pub(super) type Version = u64;

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct StreamId(pub(super) u64);

/// What the room knows of a path.
#[derive(Debug)]
pub(super) enum Slot {
    /// Being read from the store, by the read with this number.
    Loading {
        fetch: u64,
        waiters: Vec<Waiter>,
    },
    /// Not in the store; one request is creating it.
    Creating(Vec<Waiter>),
    Open(Box<Document>),
}

#[derive(Debug)]
pub(super) struct Document {
    pub(super) id: DocumentId,
    pub(super) schema: Value,
    pub(super) replica: MeshDocument,
    /// The version of `replica`, which runs ahead of what is on disk.
    pub(super) head: Version,
    /// The version that is on disk, and may be seen.
    pub(super) committed: Version,
    pub(super) streams: BTreeMap<StreamId, Stream>,
    /// Answers that show a version which is not on disk yet, in order of that version.
    pub(super) deferred: VecDeque<(Version, Deferred)>,
    /// The encoded state of `head`, shared by all who open the document at that version.
    state: Option<(Version, Bytes)>,
    recent: VecDeque<(Version, Vec<u8>)>,
    recent_bytes: usize,
    /// The version before the oldest of `recent`.
    recent_floor: Version,
    pub(super) last_seq: Seq,
    /// Updates in the store that no snapshot covers.
    pub(super) loose_updates: usize,
    /// Bytes of updates that wait for something that never came.
    pub(super) pending_bytes: usize,
    pub(super) snapshot_under_way: bool,
    /// A commit failed: the replica shows what is not on disk, and is read again before it serves anybody.
    pub(super) broken: bool,
    pub(super) idle_since: Option<Timestamp>,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) conn: Conn,
    pub(super) tool_call_id: String,
    /// The last version that was queued for this reader.
    pub(super) cursor: Version,
    pub(super) lagging: bool,
}

/// An answer that waits for the disk.
#[derive(Debug)]
pub(super) enum Deferred {
    Answer {
        request: Request,
        content: Content,
        json_bytes: usize,
    },
    State {
        request: Request,
        tool_call_id: String,
        payload: Bytes,
    },
    CatchUp {
        stream: StreamId,
        payloads: Vec<Bytes>,
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

impl Document {
    pub(super) fn new(id: DocumentId, schema: Value, replica: MeshDocument, last_seq: Seq) -> Self {
        let pending_bytes = pending_bytes(&replica);
        Self {
            id,
            schema,
            replica,
            pending_bytes,
            head: 0,
            committed: 0,
            streams: BTreeMap::new(),
            deferred: VecDeque::new(),
            state: None,
            recent: VecDeque::new(),
            recent_bytes: 0,
            recent_floor: 0,
            last_seq,
            loose_updates: 0,
            snapshot_under_way: false,
            broken: false,
            idle_since: None,
        }
    }

    /// The state of `head` as base64 text, encoded once for each version.
    pub(super) fn encoded_state(&mut self) -> Bytes {
        if let Some((version, state)) = &self.state
            && *version == self.head
        {
            return state.clone();
        }
        let state = base64_text(&self.replica.encode_state());
        self.state = Some((self.head, state.clone()));
        state
    }

    /// Replaces the replica after a failed commit. Readers have seen nothing but what is on disk, so they stay.
    pub(super) fn reload(&mut self, replica: MeshDocument, last_seq: Seq) {
        self.pending_bytes = pending_bytes(&replica);
        self.replica = replica;
        self.head = self.committed;
        self.state = None;
        self.deferred.clear();
        self.last_seq = last_seq;
        self.snapshot_under_way = false;
        self.broken = false;
    }

    fn remember(&mut self, version: Version, update: Vec<u8>) {
        self.recent_bytes += update.len();
        self.recent.push_back((version, update));
        while self.recent_bytes > RECENT_BYTES {
            let Some((version, update)) = self.recent.pop_front() else {
                break;
            };
            self.recent_bytes -= update.len();
            self.recent_floor = version;
        }
    }

    /// What takes a reader from `cursor` to the newest version, and that version.
    fn difference(&mut self, cursor: Version) -> (Version, Vec<Bytes>) {
        if cursor >= self.recent_floor {
            let missed = self.recent.iter().filter(|(version, _)| *version > cursor);
            let missed = missed.map(|(version, update)| Frame::of(*version, update, None));
            let frames = merge_insertions(missed.collect());
            let payloads = frames.iter().map(|frame| base64_text(&frame.update));
            return (self.committed, payloads.collect());
        }
        (self.head, vec![self.encoded_state()])
    }
}

/// What readers are sent at once.
struct Frame<'a> {
    version: Version,
    update: Cow<'a, [u8]>,
    known_to: Option<StreamId>,
}

impl<'a> Frame<'a> {
    fn of(version: Version, update: &'a [u8], known_to: Option<StreamId>) -> Self {
        Self {
            version,
            update: Cow::Borrowed(update),
            known_to,
        }
    }

    /// Whether the update deletes or overwrites something: its delete set, which comes last, is not empty.
    ///
    /// Our replica wrote the bytes in their shortest form, where an empty set is a 0 and any other ends in a length.
    fn deletes(&self) -> bool {
        self.update.last() != Some(&0)
    }
}

/// Merges neighbours that only insert, so that what came while the disk was busy goes out as one change.
///
/// An update that deletes goes out alone: the published SDKs keep their view of a document by deltas and lose count
/// when one update deletes in two places of an element, or deletes and then changes something behind it.
fn merge_insertions(frames: Vec<Frame<'_>>) -> Vec<Frame<'_>> {
    let mut runs: Vec<Vec<Frame<'_>>> = Vec::new();
    for frame in frames {
        match runs.last_mut() {
            Some(run) if !frame.deletes() && !run[0].deletes() => run.push(frame),
            _ => runs.push(vec![frame]),
        }
    }
    let mut merged = Vec::with_capacity(runs.len());
    for run in runs {
        let updates: Vec<&[u8]> = run.iter().map(|frame| &*frame.update).collect();
        match (run.last(), merge_updates(&updates)) {
            (Some(last), Ok(update)) if run.len() > 1 => merged.push(Frame {
                version: last.version,
                update: Cow::Owned(update),
                // An author has its own changes already, unless others' are merged into them.
                known_to: last
                    .known_to
                    .filter(|author| run.iter().all(|frame| frame.known_to == Some(*author))),
            }),
            // One update, or updates that do not merge: they go out as they are.
            _ => merged.extend(run),
        }
    }
    merged
}

impl Room {
    /// Shows a document's durable changes to everybody who has it open.
    pub(super) fn publish(&mut self, path: &str, changes: &[Change]) {
        self.release_deferred(path);
        let Some(Slot::Open(document)) = self.documents.get_mut(path) else {
            return;
        };
        let visible = changes.iter().filter_map(|change| {
            let update = change.visible.as_deref()?;
            Some(Frame::of(change.version, update, change.known_to))
        });
        for frame in merge_insertions(visible.collect()) {
            self.metrics.broadcasts.inc();
            let chunk = wire::sync(path, base64_text(&frame.update));
            document.remember(frame.version, frame.update.into_owned());
            for (id, stream) in &mut document.streams {
                if stream.lagging || stream.cursor >= frame.version {
                    continue;
                }
                if Some(*id) == frame.known_to {
                    stream.cursor = frame.version;
                    continue;
                }
                let Some(participant) = self.participants.get(&stream.conn) else {
                    continue;
                };
                if participant.outbox.accepts_broadcast() {
                    participant.outbox.push(ServerToClient::ResponseChunk {
                        tool_call_id: stream.tool_call_id.clone(),
                        chunk: chunk.clone(),
                    });
                    self.metrics.deliveries.inc();
                    stream.cursor = frame.version;
                } else {
                    stream.lagging = true;
                }
            }
        }
    }

    /// Sends the answers whose version is on disk now.
    pub(super) fn release_deferred(&mut self, path: &str) {
        loop {
            let Some(Slot::Open(document)) = self.documents.get_mut(path) else {
                return;
            };
            let Some((version, _)) = document.deferred.front() else {
                return;
            };
            if *version > document.committed {
                return;
            }
            let Some((version, deferred)) = document.deferred.pop_front() else {
                return;
            };
            match deferred {
                Deferred::Answer {
                    request,
                    content,
                    json_bytes,
                } => {
                    self.respond_sized(request, content, json_bytes);
                }
                Deferred::State {
                    request,
                    tool_call_id,
                    payload,
                } => {
                    self.send_state(path, version, request, &tool_call_id, payload);
                }
                Deferred::CatchUp { stream, payloads } => {
                    self.send_catch_up(path, stream, version, payloads);
                }
            }
        }
    }

    /// Answers now if the document's newest version is on disk, else as soon as it is.
    pub(super) fn defer(&mut self, path: &str, deferred: Deferred) {
        let Some(Slot::Open(document)) = self.documents.get_mut(path) else {
            return;
        };
        document.deferred.push_back((document.head, deferred));
        self.release_deferred(path);
    }

    fn send_state(
        &mut self,
        path: &str,
        version: Version,
        request: Request,
        tool_call_id: &str,
        payload: Bytes,
    ) {
        let stream = StreamId(self.number());
        let Some(Slot::Open(document)) = self.documents.get_mut(path) else {
            return;
        };
        let Some(participant) = self.participants.get_mut(&request.conn) else {
            return;
        };
        let call = match participant.calls.get_mut(tool_call_id) {
            Some(Call::Sync(call)) if matches!(call, SyncCall::Opening { .. }) => call,
            // The client closed the call while the disk was busy.
            _ => return self.respond(request, Content::Empty),
        };
        let open = SyncCall::Open {
            path: path.to_owned(),
            stream,
        };
        let SyncCall::Opening { early } = std::mem::replace(call, open) else {
            return;
        };
        let conn = request.conn;
        document.idle_since = None;
        document.streams.insert(
            stream,
            Stream {
                conn,
                tool_call_id: tool_call_id.to_owned(),
                cursor: version,
                lagging: false,
            },
        );
        let chunk = wire::state(path, &document.schema, payload);
        self.send_chunk(conn, tool_call_id, chunk);
        self.respond(request, Content::Empty);
        for (request, chunk) in early {
            self.sync_chunk(request, tool_call_id, &chunk);
        }
    }

    /// Brings the readers of a connection up to date that had to be skipped.
    pub(super) fn catch_up(&mut self, conn: Conn) {
        let Some(participant) = self.participants.get(&conn) else {
            return;
        };
        let open: Vec<(String, StreamId)> = participant
            .calls
            .iter()
            .filter_map(|(_, call)| match call {
                Call::Sync(SyncCall::Open { path, stream }) => Some((path.clone(), *stream)),
                _ => None,
            })
            .collect();
        for (path, id) in open {
            let Some(Slot::Open(document)) = self.documents.get_mut(&path) else {
                continue;
            };
            let Some(cursor) = document
                .streams
                .get(&id)
                .filter(|stream| stream.lagging)
                .map(|stream| stream.cursor)
            else {
                continue;
            };
            let (version, payloads) = document.difference(cursor);
            let catch_up = Deferred::CatchUp {
                stream: id,
                payloads,
            };
            document.deferred.push_back((version, catch_up));
            self.release_deferred(&path);
        }
    }

    fn send_catch_up(&mut self, path: &str, id: StreamId, version: Version, payloads: Vec<Bytes>) {
        let Some(Slot::Open(document)) = self.documents.get_mut(path) else {
            return;
        };
        let Some(stream) = document.streams.get_mut(&id) else {
            return;
        };
        let (conn, tool_call_id) = (stream.conn, stream.tool_call_id.clone());
        stream.cursor = version;
        stream.lagging = false;
        if !payloads.is_empty() {
            self.metrics.catch_ups.inc();
        }
        for payload in payloads {
            self.metrics.deliveries.inc();
            self.send_chunk(conn, &tool_call_id, wire::sync(path, payload));
        }
        // What was committed between the look at the difference and now went past this reader.
        let Some(Slot::Open(document)) = self.documents.get_mut(path) else {
            return;
        };
        if document.committed > version
            && let Some(stream) = document.streams.get_mut(&id)
        {
            stream.lagging = true;
            let (version, payloads) = document.difference(version);
            let catch_up = Deferred::CatchUp {
                stream: id,
                payloads,
            };
            document.deferred.push_front((version, catch_up));
        }
    }

    /// Takes a reader out of its document, which may become idle by it.
    pub(super) fn drop_sync_call(&mut self, call: SyncCall) {
        let (path, stream) = match call {
            SyncCall::AwaitingStart => return,
            SyncCall::Opening { early } => {
                for (request, _) in early {
                    let text = "the call ended before the document was open";
                    self.refuse(request, Refusal::new(ErrorCode::InvalidState, text));
                }
                return;
            }
            SyncCall::Open { path, stream } => (path, stream),
        };
        let Some(Slot::Open(document)) = self.documents.get_mut(&path) else {
            return;
        };
        document.streams.remove(&stream);
        if document.streams.is_empty() {
            document.idle_since = Some(self.now);
        }
    }

    /// Lets documents go that nobody has had open for a while, and folds long logs into snapshots.
    pub(crate) fn handle_timeout(&mut self, now: Timestamp) {
        self.now = now;
        let unload_after = i64::try_from(self.config.unload_after.as_millis()).unwrap_or(i64::MAX);
        let mut gone = Vec::new();
        let mut worn = Vec::new();
        let mut broken = Vec::new();
        for (path, slot) in &self.documents {
            let Slot::Open(document) = slot else { continue };
            if document.broken {
                broken.push(path.clone());
                continue;
            }
            let idle = document.streams.is_empty()
                && document.deferred.is_empty()
                && document
                    .idle_since
                    .is_some_and(|since| now.0.saturating_sub(since.0) >= unload_after);
            let settled = document.head == document.committed && !document.snapshot_under_way;
            if !settled {
                continue;
            }
            // Reading one snapshot beats replaying a log, so a document is folded before it goes.
            if document.loose_updates >= self.config.snapshot_every
                || idle && document.loose_updates > 16
            {
                worn.push(path.clone());
            } else if idle {
                gone.push(path.clone());
            }
        }
        for path in worn {
            self.snapshot(&path);
        }
        for path in gone {
            self.documents.remove(&path);
            self.metrics.documents.dec();
            tracing::debug!(room = %self.id.room, path, "document let go");
        }
        for path in broken {
            self.reload(&path);
        }
    }
}

/// Bytes of what waits in a replica for operations that never came.
pub(super) fn pending_bytes(replica: &MeshDocument) -> usize {
    replica.encode_pending().map_or(0, |pending| pending.len())
}

/// The wire's form of an update. Bytes, so that all readers share them.
pub(super) fn base64_text(update: &[u8]) -> Bytes {
    Bytes::from(STANDARD.encode(update))
}
