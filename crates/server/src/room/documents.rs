//! The open documents of a room: the replica, who subscribes to it, and what each has seen.
//!
//! A subscriber is a cursor over the document's recent changes. While its connection keeps up, each change
//! is queued for it as shared bytes. When the connection's queue is full the cursor stays where it is, and
//! what it missed follows, merged, when there is room again.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use meshagent_document::{MeshDocument, merge_updates};
use meshagent_protocol::{Content, ErrorCode, SharedChunk, sync as wire};
use meshagent_store::{DocumentId, Seq, Timestamp};

use super::compaction::Stored;
use super::opening::Waiter;
use super::sent::Sent;
use super::{Call, Conn, Refusal, Request, Room, SyncCall};
use crate::metrics::Metrics;
use crate::schemas::Schema;
use crate::usage::Usage;

/// Recent changes kept for readers that fall behind. Beyond it they get the whole state instead.
const RECENT_BYTES: usize = 1 << 20;
/// What is merged to one change is not longer than this; a single update may be.
const MERGED_BYTES: usize = 1 << 20;
/// Descriptions of a large document that may wait for the disk; more are made later.
const WAITING_DESCRIPTIONS: usize = 4;
/// How long an encoded state is kept that nobody asks for.
const STATE_KEPT_MILLIS: i64 = 10_000;

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
    pub(super) schema: Arc<Schema>,
    pub(super) replica: MeshDocument,
    /// The version of `replica`, which runs ahead of what is on disk.
    pub(super) head: Version,
    /// The version that is on disk, and may be seen.
    pub(super) committed: Version,
    pub(super) streams: BTreeMap<StreamId, Stream>,
    /// Answers that show a version which is not on disk yet, in order of that version.
    pub(super) deferred: VecDeque<(Version, Deferred)>,
    /// An encoded state, shared by all who open the document.
    state: Option<State>,
    /// What names the replica's state, and which one that was.
    pub(super) named: Option<(Version, String)>,
    /// What was sent last.
    pub(super) sent: Sent,
    recent: VecDeque<(Version, Vec<u8>)>,
    recent_bytes: usize,
    /// The version before the oldest of `recent`.
    recent_floor: Version,
    pub(super) last_seq: Seq,
    /// What the store keeps of it.
    pub(super) stored: Stored,
    /// Bytes of the merged state, or a little more.
    pub(super) bytes: usize,
    /// The version whose size was measured because it seemed too large.
    measured_at: Option<Version>,
    /// Bytes of updates that wait for something that never came, at most.
    pub(super) pending_bytes: usize,
    /// A commit failed: the replica shows what is not on disk, and is read again before it serves anybody.
    pub(super) broken: bool,
    pub(super) idle_since: Option<Timestamp>,
}

#[derive(Debug)]
struct State {
    version: Version,
    text: Bytes,
    used: Timestamp,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) conn: Conn,
    pub(super) tool_call_id: Arc<str>,
    /// The last version that was queued for this reader.
    pub(super) cursor: Version,
    /// It is passed over until its connection has room again.
    pub(super) lagging: bool,
    /// It is due a state that waits for the disk.
    catching_up: bool,
    /// It takes all that became durable together as one update.
    merges: bool,
}

/// An answer that waits for the disk.
#[derive(Debug)]
pub(super) enum Deferred {
    Answer {
        request: Request,
        content: Content,
    },
    State {
        request: Request,
        tool_call_id: String,
        payload: Bytes,
        merges: bool,
    },
    CatchUp {
        stream: StreamId,
        payload: Bytes,
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
    pub(super) fn new(
        id: DocumentId,
        schema: Arc<Schema>,
        replica: MeshDocument,
        last_seq: Seq,
        sent: Sent,
    ) -> Self {
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
            named: None,
            sent,
            recent: VecDeque::new(),
            recent_bytes: 0,
            recent_floor: 0,
            last_seq,
            stored: Stored::default(),
            bytes: 0,
            measured_at: None,
            broken: false,
            idle_since: None,
        }
    }

    /// A state that has all that is on disk, as base64 text.
    ///
    /// What lacks only what is not on disk yet will do: that follows when it is. But whoever opens a document finds all
    /// that was acknowledged before.
    pub(super) fn shared_state(
        &mut self,
        now: Timestamp,
        usage: &Arc<Usage>,
        metrics: &Metrics,
    ) -> (Version, Bytes) {
        if let Some(state) = &mut self.state
            && state.version >= self.committed
        {
            state.used = now;
            return (state.version, state.text.clone());
        }
        metrics.state_encodings.inc();
        let state = self.replica.encode_state();
        self.bytes = state.len();
        let text = usage.share(STANDARD.encode(state).into_bytes());
        self.state = Some(State {
            version: self.head,
            text: text.clone(),
            used: now,
        });
        (self.head, text)
    }

    /// Whether an encoded state is there that has all that is on disk.
    pub(super) fn has_current_state(&self) -> bool {
        let state = self.state.as_ref();
        state.is_some_and(|state| state.version >= self.committed)
    }

    /// Whether it may grow by so many bytes. The size is known only roughly, so at the bound it is measured.
    pub(super) fn takes(&mut self, bytes: usize, max_bytes: usize) -> bool {
        if self.bytes.saturating_add(bytes) <= max_bytes {
            return true;
        }
        if self.measured_at != Some(self.head) {
            self.measured_at = Some(self.head);
            self.bytes = self.replica.encode_state().len();
        }
        self.bytes.saturating_add(bytes) <= max_bytes
    }

    /// Lets go of the encoded state if nobody asked for it lately.
    pub(super) fn tidy(&mut self, now: Timestamp) {
        let unused = |state: &mut State| now.0.saturating_sub(state.used.0) >= STATE_KEPT_MILLIS;
        self.state.take_if(unused);
    }

    /// Replaces the replica after a failed commit. Readers have seen nothing but what is on disk, so they stay.
    pub(super) fn reload(&mut self, fresh: Self) {
        self.pending_bytes = fresh.pending_bytes;
        self.replica = fresh.replica;
        self.bytes = fresh.bytes;
        self.stored = fresh.stored;
        self.last_seq = fresh.last_seq;
        self.head = self.committed;
        self.state = None;
        self.named = None;
        self.sent.clear();
        self.deferred.clear();
        for stream in self.streams.values_mut() {
            stream.lagging |= std::mem::take(&mut stream.catching_up);
        }
        self.broken = false;
    }

    /// Whether another description may wait for the disk: each is a copy of the whole document.
    pub(super) fn takes_description(&self) -> bool {
        let describes = |deferred: &&(Version, Deferred)| {
            matches!(
                deferred.1,
                Deferred::Answer {
                    content: Content::Json(_),
                    ..
                }
            )
        };
        self.deferred.iter().filter(describes).count() < WAITING_DESCRIPTIONS
    }

    /// Keeps an answer until its version is on disk.
    pub(super) fn defer_to(&mut self, version: Version, deferred: Deferred) {
        let behind = self
            .deferred
            .partition_point(|(other, _)| *other <= version);
        self.deferred.insert(behind, (version, deferred));
    }

    /// Bytes of the changes that are kept for readers that fall behind.
    #[cfg(feature = "simulation")]
    pub(super) fn recent_bytes(&self) -> usize {
        self.recent_bytes
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

    /// What a reader at `cursor` lacks of what is on disk, if that is still kept.
    fn missed(&self, cursor: Version, merges: bool) -> Option<Vec<Frame<'_>>> {
        if cursor < self.recent_floor {
            return None;
        }
        let missed = self.recent.iter().filter(|(version, _)| *version > cursor);
        let missed = missed.map(|(version, update)| Frame::of(*version, update, None));
        Some(merge(missed.collect(), merges))
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

/// Merges neighbours that may be sent as one change, so that what came while the disk was busy goes out as such.
///
/// For a reader that takes it that is everything. Else an update that deletes goes out alone: the published SDKs keep
/// their view of a document by deltas and lose count when one update deletes in two places of an element, or deletes and
/// then changes something behind it.
fn merge(frames: Vec<Frame<'_>>, merges: bool) -> Vec<Frame<'_>> {
    let mut runs: Vec<Vec<Frame<'_>>> = Vec::new();
    let mut run_bytes = 0;
    for frame in frames {
        let bytes = frame.update.len();
        let joins = |run: &Vec<Frame<'_>>| {
            run_bytes + bytes <= MERGED_BYTES && (merges || !frame.deletes() && !run[0].deletes())
        };
        match runs.last_mut() {
            Some(run) if joins(run) => {
                run.push(frame);
                run_bytes += bytes;
            }
            _ => {
                runs.push(vec![frame]);
                run_bytes = bytes;
            }
        }
    }
    runs.into_iter().flat_map(merge_run).collect()
}

/// Merges all of a run to one frame. If they don't merge, or there is but one, they stay as they are.
fn merge_run(run: Vec<Frame<'_>>) -> Vec<Frame<'_>> {
    if run.len() < 2 {
        return run;
    }
    let updates: Vec<&[u8]> = run.iter().map(|frame| &*frame.update).collect();
    match (run.last(), merge_updates(&updates)) {
        (Some(last), Ok(update)) => vec![Frame {
            version: last.version,
            update: Cow::Owned(update),
            // An author has its own changes already, unless others' are merged into them.
            known_to: last
                .known_to
                .filter(|author| run.iter().all(|frame| frame.known_to == Some(*author))),
        }],
        _ => run,
    }
}

impl Room {
    /// Shows a document's durable changes to everybody who has it open.
    pub(super) fn publish(&mut self, path: &str, changes: &[Change]) {
        let Some(Slot::Open(document)) = self.documents.get_mut(path) else {
            return;
        };
        let frames = |merges| {
            let visible = changes.iter().filter_map(|change| {
                let update = change.visible.as_deref()?;
                Some(Frame::of(change.version, update, change.known_to))
            });
            merge(visible.collect(), merges)
        };
        let one_by_one = frames(false);
        // Before any answer is released: who is brought up to date by it is not sent these again.
        for frame in &one_by_one {
            document.remember(frame.version, frame.update.to_vec());
        }
        self.release_deferred(path);
        self.deliver(path, &one_by_one, false);
        let takes_all = |stream: &Stream| stream.merges && !stream.lagging;
        if let Some(Slot::Open(document)) = self.documents.get(path)
            && document.streams.values().any(takes_all)
        {
            self.deliver(path, &frames(true), true);
        }
    }

    /// Queues changes for the readers that take them in this form.
    fn deliver(&mut self, path: &str, frames: &[Frame<'_>], merged: bool) {
        let Some(Slot::Open(document)) = self.documents.get_mut(path) else {
            return;
        };
        let is_scarce = self.usage.shared_bytes() > self.config.limits.max_shared_bytes;
        for frame in frames {
            let mut shared: Option<SharedChunk> = None;
            for (id, stream) in &mut document.streams {
                if stream.merges != merged || stream.lagging || stream.cursor >= frame.version {
                    continue;
                }
                if Some(*id) == frame.known_to {
                    stream.cursor = frame.version;
                    continue;
                }
                let Some(participant) = self.participants.get(&stream.conn) else {
                    continue;
                };
                if !participant.outbox.accepts_broadcast(is_scarce) {
                    stream.lagging = true;
                    continue;
                }
                let chunk = shared.get_or_insert_with(|| {
                    self.metrics.broadcasts.inc();
                    let text = STANDARD.encode(&frame.update).into_bytes();
                    let payload = self.usage.share(text);
                    document.sent.remember(&payload);
                    SharedChunk::new(wire::sync(path, payload))
                });
                participant.outbox.push_chunk(&stream.tool_call_id, chunk);
                self.metrics.deliveries.inc();
                stream.cursor = frame.version;
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
                Deferred::Answer { request, content } => self.respond(request, content),
                Deferred::State {
                    request,
                    tool_call_id,
                    payload,
                    merges,
                } => {
                    self.send_state(path, version, request, &tool_call_id, payload, merges);
                }
                Deferred::CatchUp { stream, payload } => {
                    self.send_catch_up(path, stream, version, payload);
                }
            }
        }
    }

    /// Answers now if the document's newest version is on disk, else as soon as it is.
    pub(super) fn defer(&mut self, path: &str, deferred: Deferred) {
        let Some(Slot::Open(document)) = self.documents.get_mut(path) else {
            return;
        };
        document.defer_to(document.head, deferred);
        self.release_deferred(path);
    }

    fn send_state(
        &mut self,
        path: &str,
        version: Version,
        request: Request,
        tool_call_id: &str,
        payload: Bytes,
        merges: bool,
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
                tool_call_id: tool_call_id.into(),
                cursor: version,
                lagging: false,
                catching_up: false,
                merges,
            },
        );
        document.sent.remember(&payload);
        let chunk = wire::state(path, &document.schema.json, payload);
        self.send_chunk(conn, tool_call_id, chunk);
        self.respond(request, Content::Empty);
        self.bring_up(path, stream);
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
            if let Some(Slot::Open(document)) = self.documents.get(&path)
                && document
                    .streams
                    .get(&id)
                    .is_some_and(|stream| stream.lagging)
            {
                self.bring_up(&path, id);
            }
        }
    }

    /// Sends a reader what it lacks of what is on disk, unless its connection is full.
    fn bring_up(&mut self, path: &str, id: StreamId) {
        let Some(Slot::Open(document)) = self.documents.get_mut(path) else {
            return;
        };
        let Some(stream) = document.streams.get_mut(&id) else {
            return;
        };
        if stream.catching_up {
            return;
        }
        stream.lagging = stream.cursor < document.committed;
        if !stream.lagging || document.broken {
            return;
        }
        let Some(participant) = self.participants.get(&stream.conn) else {
            return;
        };
        let is_scarce = self.usage.shared_bytes() > self.config.limits.max_shared_bytes;
        let outbox = &participant.outbox;
        if !outbox.accepts_broadcast(is_scarce) {
            return;
        }
        let (cursor, merges) = (stream.cursor, stream.merges);
        let tool_call_id = Arc::clone(&stream.tool_call_id);
        let Some(missed) = document.missed(cursor, merges) else {
            return self.bring_up_by_state(path, id);
        };
        let (mut cursor, mut payloads, mut is_complete) = (cursor, Vec::new(), true);
        for frame in missed {
            if !outbox.accepts_broadcast(is_scarce) {
                is_complete = false;
                break;
            }
            let payload = self
                .usage
                .share(STANDARD.encode(&frame.update).into_bytes());
            let chunk = SharedChunk::new(wire::sync(path, payload.clone()));
            outbox.push_chunk(&tool_call_id, &chunk);
            payloads.push(payload);
            cursor = frame.version;
        }
        if is_complete && !payloads.is_empty() {
            self.metrics.catch_ups.inc();
        }
        self.metrics.deliveries.inc_by(payloads.len() as u64);
        for payload in payloads {
            document.sent.remember(&payload);
        }
        let committed = document.committed;
        if let Some(stream) = document.streams.get_mut(&id) {
            stream.lagging = !is_complete;
            stream.cursor = if is_complete { committed } else { cursor };
        }
    }

    /// Sends a reader a whole state, because what it lacks is no longer kept.
    fn bring_up_by_state(&mut self, path: &str, id: StreamId) {
        let Some(Slot::Open(document)) = self.documents.get_mut(path) else {
            return;
        };
        let (version, payload) = document.shared_state(self.now, &self.usage, &self.metrics);
        if let Some(stream) = document.streams.get_mut(&id) {
            stream.catching_up = true;
        }
        document.defer_to(
            version,
            Deferred::CatchUp {
                stream: id,
                payload,
            },
        );
        self.release_deferred(path);
    }

    fn send_catch_up(&mut self, path: &str, id: StreamId, version: Version, payload: Bytes) {
        let Some(Slot::Open(document)) = self.documents.get_mut(path) else {
            return;
        };
        let Some(stream) = document.streams.get_mut(&id) else {
            return;
        };
        document.sent.remember(&payload);
        stream.cursor = version;
        stream.catching_up = false;
        let (conn, tool_call_id) = (stream.conn, stream.tool_call_id.clone());
        self.metrics.catch_ups.inc();
        self.metrics.deliveries.inc();
        self.send_chunk(conn, &tool_call_id, wire::sync(path, payload));
        self.bring_up(path, id);
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
}

/// Bytes of what waits in a replica for operations that never came.
pub(super) fn pending_bytes(replica: &MeshDocument) -> usize {
    replica.encode_pending().map_or(0, |pending| pending.len())
}
