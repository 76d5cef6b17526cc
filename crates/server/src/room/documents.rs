//! The open documents of a room: their replicas, their readers, and what each reader has received.
//!
//! A reader is a cursor over the document's recent changes. While its connection keeps up, each
//! change is queued for it as shared bytes. When the connection's queue is full, the cursor stays.
//! The missed changes follow, merged, when the queue has space again.

mod description;
mod frames;
mod growth;
mod streams;

use std::collections::VecDeque;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use meshagent_document::{JsonSize, MeshDocument};
use meshagent_ledger::{Charge, Held, Kind, OpenCharge};
use meshagent_protocol::sync::SyncDescribe;
use meshagent_protocol::{Content, ErrorCode, SharedChunk, SharedMessage, sync as wire};
use meshagent_store::{DocumentId, Seq, Timestamp};

use self::frames::{Frame, merge};
pub(super) use self::growth::Growth;
use self::growth::Tried;
use self::streams::Streams;
use super::batch::Change;
use super::compaction::Stored;
use super::sent::Sent;
use super::sync::Lost;
use super::writers::Writers;
use super::{Call, Conn, Refusal, Request, Room, SyncCall};
use crate::metrics::Metrics;
use crate::outbox::{Outgoing, answer_bytes};
use crate::schemas::Schema;
use crate::usage::Usage;

/// Bytes of recent changes kept for readers that fall behind. A reader that is further behind
/// receives the full state.
const RECENT_BYTES: usize = 1 << 20;
/// How long an encoded state is kept after its last use.
const STATE_KEPT_MILLIS: i64 = 10_000;

/// The number of changes of a document since it was loaded.
pub(super) type Version = u64;

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct StreamId(pub(super) u64);

#[derive(Debug)]
pub(super) struct Document {
    pub(super) id: DocumentId,
    /// When the document was created.
    pub(super) created_at: Timestamp,
    /// The current path.
    pub(super) path: Arc<str>,
    pub(super) schema: Arc<Schema>,
    pub(super) replica: MeshDocument,
    /// The version of `replica`, which may be ahead of the disk.
    pub(super) head: Version,
    /// The newest version that is on disk and may be shown.
    pub(super) committed: Version,
    pub(super) streams: Streams,
    /// Answers that show a version which is not on disk yet, ordered by version.
    pub(super) deferred: VecDeque<(Version, Deferred)>,
    /// The encoded state that all opens of the document share.
    state: Option<State>,
    /// The version whose description was measured last: the bounds of its text and its values.
    described_size: Option<(Version, Option<JsonSize>)>,
    /// The last description: its version, the options of the request, and the answer.
    description: Option<(Version, [bool; 3], SharedMessage)>,
    /// The version whose state was named last, and that name.
    pub(super) named: Option<(Version, String)>,
    /// The owners of client ids.
    pub(super) writers: Writers,
    /// The payloads that were sent last.
    pub(super) sent: Sent,
    recent: VecDeque<(Version, Vec<u8>)>,
    recent_bytes: usize,
    /// `recent` has every visible change after this version.
    recent_floor: Version,
    pub(super) last_seq: Seq,
    /// The sizes of the snapshot and the log in the store.
    pub(super) stored: Stored,
    /// Bytes of the merged state: an upper bound.
    pub(super) bytes: usize,
    /// The last measurement of the size, made because the document seemed too large.
    measured: Option<Measured>,
    /// The first version that will never be on disk, because a commit failed or the store refused a
    /// write. The replica contains it, and must be read again before it serves anything.
    broken_from: Option<Version>,
    pub(super) idle_since: Option<Timestamp>,
    /// The charge for the memory of the document.
    pub(super) charge: Option<OpenCharge>,
    /// Refused patches.
    tried: Option<Box<Tried>>,
}

#[derive(Debug)]
struct Measured {
    at: Timestamp,
    version: Version,
    bytes: usize,
}

#[derive(Debug)]
struct State {
    version: Version,
    text: Bytes,
    used: Timestamp,
}

#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts about one reader"
)]
pub(super) struct Stream {
    pub(super) conn: Conn,
    pub(super) tool_call_id: Arc<str>,
    /// The last version that was queued for this reader.
    pub(super) cursor: Version,
    /// The reader is skipped until its connection's queue has space again.
    pub(super) lagging: bool,
    /// The reader awaits the full state, which waits for the disk.
    catching_up: bool,
    /// The reader receives all that became durable together as one update.
    pub(super) merges: bool,
    /// Updates of this reader's client, or parts of them, that were not kept.
    pub(super) lost: Option<Lost>,
    /// The client is known to have operations that the server lacks.
    pub(super) is_ahead: bool,
    /// The client has closed the call and waits for the server's close.
    pub(super) is_closing: bool,
}

/// An answer that waits for the disk.
#[derive(Debug)]
pub(super) enum Deferred {
    Answer {
        request: Request,
        content: Content,
        /// The charge of the content, until it is sent.
        _charge: Charge,
    },
    Described {
        request: Request,
        describe: SyncDescribe,
        answer: SharedMessage,
    },
    State {
        request: Request,
        tool_call_id: String,
        number: u64,
        payload: Bytes,
        merges: bool,
        /// What the answer reports in addition to the state.
        notice: Content,
    },
    CatchUp {
        stream: StreamId,
        payload: Bytes,
    },
    /// The end of a call that its client has closed. By then, what the client sent before is on
    /// disk or refused.
    Close {
        request: Request,
        document: DocumentId,
        stream: StreamId,
    },
}

impl Document {
    pub(super) fn new(
        id: DocumentId,
        path: &str,
        schema: Arc<Schema>,
        replica: MeshDocument,
        last_seq: Seq,
        sent: Sent,
    ) -> Self {
        Self {
            id,
            created_at: Timestamp(0),
            path: path.into(),
            schema,
            replica,
            head: 0,
            committed: 0,
            streams: Streams::default(),
            deferred: VecDeque::new(),
            state: None,
            described_size: None,
            description: None,
            named: None,
            writers: Writers::default(),
            sent,
            recent: VecDeque::new(),
            recent_bytes: 0,
            recent_floor: 0,
            last_seq,
            stored: Stored::default(),
            bytes: 0,
            measured: None,
            broken_from: None,
            idle_since: None,
            charge: None,
            tried: None,
        }
    }

    /// The identity of the document, which no other document ever has. The id alone is not enough:
    /// after a restore it may be assigned again.
    pub(super) fn identity(&self) -> String {
        format!("{}-{:x}", self.id, self.created_at.0)
    }

    /// Returns a state, as base64 text, that contains everything on disk.
    ///
    /// It may lack what is only staged or in flight, which follows as a change. But it contains all
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

    /// Whether an encoded state exists that contains everything on disk.
    pub(super) fn has_current_state(&self) -> bool {
        let state = self.state.as_ref();
        state.is_some_and(|state| state.version >= self.committed)
    }

    /// The bytes that a turn goes through to bring a reader up to date.
    pub(super) fn catch_up_weight(&self, stream: StreamId) -> usize {
        let Some(stream) = self.streams.get(stream).filter(|one| one.lagging) else {
            return 0;
        };
        if stream.cursor >= self.recent_floor {
            self.recent_bytes
        } else if self.has_current_state() {
            0
        } else {
            self.bytes
        }
    }

    /// The bytes that a turn goes through to release what waits for the disk, after a batch of this
    /// many bytes.
    pub(super) fn release_weight(&self, in_flight: usize) -> usize {
        let streams = self.deferred.iter().map(|(_, deferred)| deferred);
        let streams = streams
            .filter(|deferred| deferred.begins_a_stream())
            .count();
        let recent = self.recent_bytes.saturating_add(in_flight);
        recent.min(RECENT_BYTES).saturating_mul(streams)
    }

    /// Drops the encoded state if it was not used lately; immediately if its memory `is_wanted`.
    /// Drops the description with it, or if it is outdated.
    pub(super) fn tidy(&mut self, now: Timestamp, is_wanted: bool) {
        let unused = |state: &mut State| {
            is_wanted || now.0.saturating_sub(state.used.0) >= STATE_KEPT_MILLIS
        };
        self.state.take_if(unused);
        let is_stale = |known: &mut (Version, [bool; 3], SharedMessage)| known.0 != self.head;
        if self.state.is_none() || self.description.as_mut().is_some_and(is_stale) {
            self.description = None;
        }
    }

    /// Whether the replica contains a version that will never be on disk, and so may serve nothing.
    pub(super) fn is_broken(&self) -> bool {
        self.broken_from.is_some()
    }

    /// Marks the replica as broken from this version on: that version will never be on disk.
    pub(super) fn set_broken(&mut self, from: Version) {
        self.broken_from = Some(self.broken_from.map_or(from, |before| before.min(from)));
    }

    /// Records that a version is on disk. Returns whether it may be shown: not if it builds on a
    /// version that will never be on disk.
    pub(super) fn appended(&mut self, version: Version, seq: Seq) -> bool {
        if self.broken_from.is_some_and(|from| version >= from) {
            return false;
        }
        self.last_seq = self.last_seq.max(seq);
        self.committed = self.committed.max(version);
        true
    }

    /// Replaces the replica after a failed commit. Readers stay, because they have seen only
    /// durable versions.
    pub(super) fn reload(&mut self, fresh: Self) {
        // The reload may apply pending operations.
        let had_gap = self.replica.has_gap();
        self.replica = fresh.replica;
        self.bytes = fresh.bytes;
        self.stored = fresh.stored;
        // A commit that was reported as failed may have reached the disk.
        let is_more = fresh.last_seq > self.last_seq;
        self.last_seq = fresh.last_seq;
        let is_missed = is_more || had_gap;
        if is_missed {
            // No change in `recent` has this, so readers receive the full state.
            self.committed += 1;
            self.recent.clear();
            self.recent_bytes = 0;
            self.recent_floor = self.committed;
        }
        self.head = self.committed;
        self.state = None;
        self.description = None;
        self.described_size = None;
        self.named = None;
        self.measured = None;
        self.sent.clear();
        self.deferred.clear();
        for stream in self.streams.values_mut() {
            stream.lagging |= std::mem::take(&mut stream.catching_up) || is_missed;
        }
        self.broken_from = None;
    }

    /// Keeps an answer until its version is on disk.
    pub(super) fn defer_to(&mut self, version: Version, deferred: Deferred) {
        let behind = self
            .deferred
            .partition_point(|(other, _)| *other <= version);
        self.deferred.insert(behind, (version, deferred));
    }

    /// Bytes of the changes that are kept for readers that fall behind.
    pub(super) fn recent_bytes(&self) -> usize {
        self.recent_bytes
    }

    /// Drops the recent changes if no reader is behind, or in any case if their memory `is_wanted`:
    /// a reader that is behind then receives the full state.
    pub(super) fn forget_recent(&mut self, is_wanted: bool) {
        if is_wanted || self.streams.values().all(|stream| !stream.lagging) {
            if let Some((version, _)) = self.recent.back() {
                self.recent_floor = *version;
            }
            self.recent = VecDeque::new();
            self.recent_bytes = 0;
        }
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

    /// The durable changes that a reader at `cursor` lacks; `None` if some of them are no longer
    /// kept.
    fn missed(&self, cursor: Version, merges: bool) -> Option<Vec<Frame<'_>>> {
        if cursor < self.recent_floor {
            return None;
        }
        let missed = self.recent.iter().filter(|(version, _)| *version > cursor);
        let missed = missed.map(|(version, update)| Frame::of(*version, update, None));
        Some(merge(missed.collect(), merges))
    }
}

impl Room {
    /// Sends durable changes of a document to its readers.
    pub(super) fn publish(&mut self, id: DocumentId, changes: &[Change]) {
        let Some(document) = self.documents.get_mut(id) else {
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
        // Before any answer is released: the reader that an answer brings up to date takes these
        // changes from `recent`, and is not sent them again.
        for frame in &one_by_one {
            document.remember(frame.version, frame.update.to_vec());
        }
        self.release_deferred(id);
        self.deliver(id, &one_by_one, false);
        let takes_all = |stream: &Stream| stream.merges && !stream.lagging;
        if let Some(document) = self.documents.get(id)
            && document.streams.values().any(takes_all)
        {
            self.deliver(id, &frames(true), true);
        }
        if let Some(document) = self.documents.get_mut(id) {
            document.forget_recent(false);
        }
    }

    /// Queues changes for the readers that take them in this form.
    fn deliver(&mut self, document: DocumentId, frames: &[Frame<'_>], merged: bool) {
        let Some(document) = self.documents.get_mut(document) else {
            return;
        };
        let is_scarce = self.usage.shared_bytes() > self.config.limits.max_shared_bytes;
        for frame in frames {
            let mut shared: Option<SharedChunk> = None;
            for (id, stream) in document.streams.iter_mut() {
                if stream.merges != merged || stream.lagging || stream.cursor >= frame.version {
                    continue;
                }
                if Some(id) == frame.known_to {
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
                    SharedChunk::new(&wire::sync(&document.path, payload))
                });
                participant.outbox.push_chunk(&stream.tool_call_id, chunk);
                self.metrics.deliveries.inc();
                stream.cursor = frame.version;
            }
        }
    }

    /// Sends the answers whose version is on disk now.
    pub(super) fn release_deferred(&mut self, id: DocumentId) {
        loop {
            let Some(document) = self.documents.get_mut(id) else {
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
            if document.deferred.is_empty() {
                // Most documents rarely have one, and there are many documents.
                document.deferred = VecDeque::new();
            }
            match deferred {
                Deferred::Answer {
                    request, content, ..
                } => self.respond(request, content),
                Deferred::Described {
                    request, answer, ..
                } => {
                    if let Some(participant) = self.participants.get(&request.conn) {
                        let head = answer.body().0.clone();
                        let head = participant.account.take_over(head);
                        participant.outbox.push_item(Outgoing::Shared {
                            request: Some(request.id),
                            message: SharedMessage::answer(head),
                        });
                    }
                }
                Deferred::State {
                    request,
                    tool_call_id,
                    number,
                    payload,
                    merges,
                    notice,
                } => {
                    let call = (&*tool_call_id, number);
                    self.send_state(id, version, request, call, payload, merges, notice);
                }
                Deferred::Close {
                    request, stream, ..
                } => self.end_closed(request, id, stream),
                Deferred::CatchUp { stream, payload } => {
                    self.send_catch_up(id, stream, version, payload);
                }
            }
        }
    }

    /// Answers a request with this content when the document's newest version is on disk.
    pub(super) fn answer_later(&mut self, id: DocumentId, request: Request, content: Content) {
        let participant = self.participants.get(&request.conn);
        let charge = participant.map_or_else(Charge::none, |participant| {
            let bytes = answer_bytes(&content);
            participant.account.charge_anyway(Kind::Queued, bytes)
        });
        let answer = Deferred::Answer {
            request,
            content,
            _charge: charge,
        };
        self.defer(id, answer);
    }

    /// Sends the answer when the document's newest version is on disk, which may be now.
    pub(super) fn defer(&mut self, id: DocumentId, deferred: Deferred) {
        let Some(document) = self.documents.get_mut(id) else {
            return;
        };
        document.defer_to(document.head, deferred);
        self.release_deferred(id);
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one deferred answer, named at the one place that calls this"
    )]
    fn send_state(
        &mut self,
        id: DocumentId,
        version: Version,
        request: Request,
        (tool_call_id, number): (&str, u64),
        payload: Bytes,
        merges: bool,
        notice: Content,
    ) {
        let stream = StreamId(self.number());
        let Some(document) = self.documents.get_mut(id) else {
            return;
        };
        let Some(participant) = self.participants.get_mut(&request.conn) else {
            return;
        };
        let call = match participant.calls.get_mut(tool_call_id) {
            Some(Call::Sync(call)) if call.is_opening(number) => call,
            // The client closed the call while the answer waited for the disk.
            _ => return self.respond(request, Content::Empty),
        };
        let open = SyncCall::Open {
            document: id,
            stream,
        };
        let SyncCall::Opening { early, .. } = std::mem::replace(call, open) else {
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
                lost: None,
                is_closing: false,
                is_ahead: matches!(&notice, Content::Json(told) if told.get("ahead").is_some()),
            },
        );
        document.sent.remember(&payload);
        let schema = document.schema.shared_text();
        let payload = participant.account.take_over(payload);
        let chunk = SharedChunk::state(&document.path, schema, payload);
        participant.outbox.push_chunk(&tool_call_id.into(), &chunk);
        self.respond(request, notice);
        self.bring_up(id, stream);
        for (request, chunk, held) in early {
            self.held = held;
            self.sync_chunk(request, tool_call_id, chunk);
            self.held = Held::none();
        }
    }

    /// Brings the readers of a connection up to date that were skipped.
    pub(super) fn catch_up(&mut self, conn: Conn) {
        let Some(participant) = self.participants.get(&conn) else {
            return;
        };
        let open: Vec<(DocumentId, StreamId)> = participant
            .calls
            .iter()
            .filter_map(|(_, call)| match call {
                Call::Sync(SyncCall::Open { document, stream }) => Some((*document, *stream)),
                _ => None,
            })
            .collect();
        for (document, stream) in open {
            if let Some(found) = self.documents.get(document)
                && found
                    .streams
                    .get(stream)
                    .is_some_and(|stream| stream.lagging)
            {
                self.bring_up(document, stream);
            }
        }
    }

    /// Sends a reader the durable changes that it lacks, unless its connection's queue is full.
    fn bring_up(&mut self, id: DocumentId, stream_id: StreamId) {
        let Some(document) = self.documents.get_mut(id) else {
            return;
        };
        let Some(stream) = document.streams.get_mut(stream_id) else {
            return;
        };
        if stream.catching_up {
            return;
        }
        stream.lagging = stream.cursor < document.committed;
        if !stream.lagging || document.broken_from.is_some() {
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
            return self.bring_up_by_state(id, stream_id);
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
            let chunk = SharedChunk::new(&wire::sync(&document.path, payload.clone()));
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
        if let Some(stream) = document.streams.get_mut(stream_id) {
            stream.lagging = !is_complete;
            stream.cursor = if is_complete { committed } else { cursor };
        }
    }

    /// Sends a reader the full state, because the changes that it lacks are no longer kept.
    fn bring_up_by_state(&mut self, id: DocumentId, stream_id: StreamId) {
        let Some(document) = self.documents.get_mut(id) else {
            return;
        };
        let (version, payload) = document.shared_state(self.now, &self.usage, &self.metrics);
        if let Some(stream) = document.streams.get_mut(stream_id) {
            stream.catching_up = true;
        }
        document.defer_to(
            version,
            Deferred::CatchUp {
                stream: stream_id,
                payload,
            },
        );
        self.release_deferred(id);
    }

    fn send_catch_up(
        &mut self,
        id: DocumentId,
        stream_id: StreamId,
        version: Version,
        payload: Bytes,
    ) {
        let Some(document) = self.documents.get_mut(id) else {
            return;
        };
        let Some(stream) = document.streams.get_mut(stream_id) else {
            return;
        };
        document.sent.remember(&payload);
        stream.cursor = version;
        stream.catching_up = false;
        let (conn, tool_call_id) = (stream.conn, stream.tool_call_id.clone());
        self.metrics.catch_ups.inc();
        self.metrics.deliveries.inc();
        let payload = match self.participants.get(&conn) {
            Some(participant) => participant.account.take_over(payload),
            None => payload,
        };
        let chunk = wire::sync(&document.path, payload);
        self.send_chunk(conn, &tool_call_id, chunk);
        self.bring_up(id, stream_id);
    }

    /// Removes a reader from its document, which may become idle.
    pub(super) fn drop_sync_call(&mut self, call: SyncCall) {
        let (document, stream) = match call {
            SyncCall::AwaitingStart => return,
            SyncCall::Opening { early, .. } => {
                for (request, _, _held) in early {
                    let text = "the call ended before the document was open";
                    self.refuse(request, Refusal::new(ErrorCode::InvalidState, text));
                }
                return;
            }
            SyncCall::Open { document, stream } => (document, stream),
        };
        let Some(document) = self.documents.get_mut(document) else {
            return;
        };
        document.streams.remove(stream);
        if document.streams.is_empty() {
            document.idle_since = Some(self.now);
        }
    }
}
