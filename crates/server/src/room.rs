//! One room as a state machine without I/O: its participants, open documents and pending writes.
//!
//! It holds no socket, starts no task and reads no clock. `handle_*` takes inputs,
//! [`Room::poll_action`] yields work for the task around the room, which also calls
//! [`Room::handle_timeout`] regularly. Messages to participants go straight into their bounded
//! [`Outbox`].
//!
//! Durable before visible: a request that changes something is answered, and its change shown to
//! others, only after [`Room::handle_committed`] has reported that it is on stable storage. A room
//! has at most one batch of writes in flight. Later writes collect in the next batch, so a busy
//! disk causes larger batches instead of longer queues.

mod batch;
mod compaction;
mod documents;
mod downloads;
mod events;
mod files;
mod memory;
mod messaging;
mod opening;
mod patching;
mod registry;
mod rights;
mod schemas;
mod sent;
mod sync;
mod uploads;
mod version;
mod waiting;
mod weights;
mod writers;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use meshagent_ledger::{Account, Charge, Held, Kind, OverBound};
use meshagent_protocol::messaging::participant_disabled;
use meshagent_protocol::{
    ApiScope, Calls, ClientToServer, Content, Control, Envelope, ErrorCode, InvalidRequest, Invoke,
    MessageId, ServerToClient, SharedMessage, Sight, Tool, describe_tools,
};
use meshagent_store::{
    Author, DocumentId, FileHead, FileReading, RoomId, StoreError, StoredDocument, StoredFile,
    Timestamp, Write,
};
use serde_json::{Map, Value};

use self::batch::{Flight, Staged};
use self::downloads::Download;
use self::events::News;
pub(crate) use self::files::{ENTRY_BYTES, may_touch_many};
use self::opening::Fetched;
use self::registry::Documents;
use self::sync::SyncCall;
use self::uploads::{Upload, Uploads};
use self::waiting::Waiting;
use crate::config::Config;
use crate::health::refusal;
use crate::ids::Ids;
use crate::metrics::Metrics;
use crate::outbox::{Outbox, Outgoing};
use crate::signer::UrlSigner;
use crate::usage::Usage;

/// The number of writes in the next batch at which the room accepts no more requests until the
/// batch in flight is committed.
const MAX_STAGED_WRITES: usize = 1024;
/// The bytes of the next batch at which the same holds; one update may exceed it. Each byte is in
/// memory several times: as received, merged, sealed and in the log.
const MAX_STAGED_BYTES: usize = 2 << 20;
/// The maximum number of ended calls that a connection remembers, because the client's last chunks
/// of a call that the server ended may still be in flight.
const REMEMBERED_CALLS: usize = 64;
/// Bytes that an open call is charged in addition to its content.
const CALL_BYTES: usize = 1024;
/// The longest text of a refusal, in bytes.
const MAX_REFUSAL_BYTES: usize = 2048;
/// The longest id accepted in `on_behalf_of_id`, in bytes; a longer one is ignored.
const MAX_BEHALF_BYTES: usize = 256;

/// A connection of the room; the numbers follow the order of arrival.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Conn(pub(crate) u64);

/// A participant that joins, as the handshake established it.
#[derive(Debug)]
pub(crate) struct Joining {
    pub(crate) participant_id: String,
    pub(crate) name: String,
    pub(crate) role: String,
    pub(crate) scope: ApiScope,
    /// Scheme and authority that the client used, such as `http://127.0.0.1:8080`.
    pub(crate) origin: String,
    /// When the token expires, in seconds since 1970; `None` if it never does.
    pub(crate) expires: Option<u64>,
    pub(crate) outbox: Arc<Outbox>,
    /// The memory held for the connection is charged here.
    pub(crate) account: Arc<Account>,
}

/// A read that the room needs from the store.
#[derive(Clone, Debug)]
pub(crate) enum Fetch {
    Document {
        path: String,
    },
    /// The document with this id, at whatever path it is.
    DocumentById {
        document: DocumentId,
        /// The approximate bytes that the store keeps of the document.
        bytes: usize,
    },
    /// A whole file, unless it has more than `max` bytes.
    File {
        path: String,
        max: usize,
    },
    OpenFile {
        path: String,
    },
    FilePart {
        path: String,
        reading: FileReading,
        length: usize,
    },
    Stat {
        path: String,
    },
    List {
        path: String,
        /// The maximum number of entries to read.
        max: usize,
    },
}

/// The answer of the store to a [`Fetch`].
#[derive(Debug)]
pub(crate) enum FetchResult {
    Document(Option<StoredDocument>),
    File(WholeFile),
    OpenFile(Option<FileHead>),
    FilePart(Option<(Bytes, FileReading)>),
    Stat(Option<meshagent_store::Entry>),
    List(Option<Vec<meshagent_store::Entry>>),
}

/// The answer to a read of a whole file.
#[derive(Debug)]
pub(crate) enum WholeFile {
    Missing,
    Read(StoredFile),
    /// The file has this many bytes, more than the read allowed, and was not read.
    TooLarge(u64),
}

impl FetchResult {
    /// Returns the approximate bytes of the result. Parts of files count 0: their download is
    /// charged for them.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Document(Some(stored)) => {
                let updates = stored.updates.iter().map(|stored| stored.update.len());
                let snapshot = stored.snapshot.as_ref().map_or(0, Bytes::len);
                stored.schema.len() + snapshot + updates.sum::<usize>()
            }
            Self::File(WholeFile::Read(file)) => file.data.len(),
            Self::List(Some(entries)) => entries.len() * ENTRY_BYTES,
            _ => 0,
        }
    }
}

/// Work for the task around the room.
#[derive(Debug)]
pub(crate) enum Action {
    /// Commit these writes, then call [`Room::handle_committed`].
    Commit(Vec<Write>),
    /// Read this, then call [`Room::handle_fetched`] with the number.
    Fetch(u64, Fetch),
}

/// The state of a room; see the [module](self).
#[derive(Debug)]
pub(crate) struct Room {
    id: RoomId,
    session_id: String,
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    signer: UrlSigner,
    usage: Arc<Usage>,
    ids: Ids,
    now: Timestamp,
    participants: BTreeMap<Conn, Participant>,
    documents: Documents,
    /// Documents to be read again as soon as none of their writes is staged or in flight.
    to_reload: BTreeSet<DocumentId>,
    /// Paths to be read again when the batch in flight is settled.
    parked: Vec<String>,
    /// The next batch. It is bounded because the task hands in no requests while
    /// [`Self::accepts_requests`] is false.
    staged: Vec<Staged>,
    staged_bytes: usize,
    /// The participant whose move or recursive deletion is in `staged`. The number of entries that
    /// it touches is unknown, so no request is accepted behind it.
    touches_many: Option<Arc<str>>,
    in_flight_bytes: usize,
    /// The participant of such a write in the batch in flight.
    in_flight_touches_many: Option<Arc<str>>,
    largest_document_bytes: usize,
    /// The batch in flight, which the committer has.
    in_flight: Option<Vec<Flight>>,
    /// What is not settled yet of the batch whose result is being handled.
    settling: VecDeque<Flight>,
    /// Reads in flight: what each is for, and what its request is charged.
    fetches: HashMap<u64, (Fetched, Held)>,
    /// Requests that wait for queue space, for memory or for a reload. Each is one unanswered
    /// request of its connection, which bounds the queue.
    waiting: VecDeque<Waiting>,
    /// Bytes measured or encoded for single answers since waiting requests were last retried.
    made_bytes: usize,
    /// Bytes of all participants' attributes, as text.
    attributes_bytes: usize,
    /// Storage events that have not been sent yet.
    news: VecDeque<News>,
    /// The number of entries in `news` that have not been sent.
    untold: usize,
    /// Whether the log of a document needs compaction.
    is_worn: bool,
    next_number: u64,
    uploads: Uploads,
    /// Downloads that may be in progress. They end when their file changes, moves or is deleted.
    watched: downloads::Watched,
    /// The charge of the message being handled. It moves on to whatever the message causes.
    held: Held,
    actions: VecDeque<Action>,
}

#[derive(Debug)]
struct Participant {
    id: String,
    role: String,
    name: String,
    scope: ApiScope,
    /// An index of the scope, for checks of many paths.
    sight: Sight,
    _sight_charge: Charge,
    origin: String,
    expires: Option<u64>,
    outbox: Arc<Outbox>,
    account: Arc<Account>,
    attributes: Map<String, Value>,
    /// Bytes of the attributes as text.
    attributes_bytes: usize,
    /// Whether the log already reports that some attributes were ignored.
    is_ignored: bool,
    messaging: bool,
    /// Whether the store is listing a folder for this participant.
    listing: bool,
    openings: downloads::Openings,
    calls: Calls<Call>,
    /// By call id, the name on behalf of which the participant claims to make the call. The claim
    /// is not verified.
    behalf: HashMap<String, String>,
    ended_calls: VecDeque<String>,
    /// The charge of the open calls.
    calls_charge: Charge,
    attributes_charge: Charge,
}

impl Participant {
    /// Whether the token has expired. The connection ends then, and messages that are still in the
    /// mailbox have no rights any more.
    fn has_expired(&self, now: Timestamp) -> bool {
        let milliseconds = |seconds: u64| i64::try_from(seconds.saturating_mul(1000));
        self.expires
            .is_some_and(|at| milliseconds(at).is_ok_and(|at| at <= now.0))
    }
}

/// A streamed call that is open on a connection.
#[derive(Debug)]
enum Call {
    Sync(SyncCall),
    Upload(Upload),
    Download(Download),
}

/// The destination of an answer: one request of one connection.
#[derive(Clone, Copy, Debug)]
struct Request {
    conn: Conn,
    id: MessageId,
}

/// The code and text of a refusal, which becomes an `error` content.
#[derive(Clone, Debug)]
struct Refusal {
    code: ErrorCode,
    text: String,
}

impl Refusal {
    fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        let mut text = text.into();
        if text.len() > MAX_REFUSAL_BYTES {
            // The text quotes what the peer sent.
            text.truncate(text.floor_char_boundary(MAX_REFUSAL_BYTES));
            text.push('…');
            text.shrink_to_fit();
        }
        Self { code, text }
    }

    /// The memory held for the peer, or for all peers, is at its bound.
    fn over(error: OverBound) -> Self {
        Self::new(ErrorCode::OperationFailed, error.to_string())
    }

    /// The input of a tool is invalid; the error has the code.
    fn request(error: &InvalidRequest) -> Self {
        Self::new(error.code, error.text.clone())
    }

    fn invalid(error: impl std::fmt::Display) -> Self {
        Self::new(ErrorCode::InvalidRequest, error.to_string())
    }

    fn denied(text: impl Into<String>) -> Self {
        Self::new(ErrorCode::PermissionDenied, text)
    }

    fn storage(error: &StoreError) -> Self {
        Self::new(ErrorCode::OperationFailed, refusal(error))
    }

    fn into_content(self) -> Content {
        Content::error(self.code, self.text)
    }
}

impl Room {
    pub(crate) fn new(
        id: RoomId,
        config: Arc<Config>,
        metrics: Arc<Metrics>,
        signer: UrlSigner,
        usage: Arc<Usage>,
        mut ids: Ids,
    ) -> Self {
        Self {
            id,
            session_id: ids.uuid(),
            config,
            metrics,
            signer,
            usage,
            ids,
            now: Timestamp(0),
            participants: BTreeMap::new(),
            documents: Documents::default(),
            to_reload: BTreeSet::new(),
            parked: Vec::new(),
            staged: Vec::new(),
            staged_bytes: 0,
            touches_many: None,
            in_flight_bytes: 0,
            in_flight_touches_many: None,
            largest_document_bytes: 0,
            in_flight: None,
            settling: VecDeque::new(),
            fetches: HashMap::new(),
            waiting: VecDeque::new(),
            made_bytes: 0,
            attributes_bytes: 0,
            news: VecDeque::new(),
            untold: 0,
            is_worn: false,
            next_number: 0,
            uploads: Uploads::default(),
            watched: downloads::Watched::default(),
            held: Held::none(),
            actions: VecDeque::new(),
        }
    }

    /// Adds a participant, which receives its id and the name of the room.
    pub(crate) fn handle_join(&mut self, conn: Conn, joining: Joining, now: Timestamp) {
        self.now = now;
        let attributes = Map::from_iter([(
            messaging::TOKEN_ATTRIBUTE.to_owned(),
            Value::from(joining.name.clone()),
        )]);
        let room = &*self.id.room;
        joining.outbox.push(ServerToClient::RoomReady {
            room_name: room.to_owned(),
            room_url: format!("{}/rooms/{room}", websocket_origin(&joining.origin)),
            session_id: self.session_id.clone(),
        });
        joining.outbox.push(ServerToClient::Connected {
            participant_id: joining.participant_id.clone(),
            attributes: attributes.clone(),
        });
        tracing::info!(room, participant = ?joining.name, id = %joining.participant_id, "joined");
        let attributes_bytes = joining.name.len();
        self.attributes_bytes += attributes_bytes;
        let calls_charge = joining.account.empty(Kind::State);
        let sight = Sight::of(&joining.scope);
        let sight_charge = joining.account.charge_anyway(Kind::State, sight.bytes());
        self.participants.insert(
            conn,
            Participant {
                id: joining.participant_id,
                role: joining.role,
                name: joining.name,
                scope: joining.scope,
                sight,
                _sight_charge: sight_charge,
                origin: joining.origin,
                expires: joining.expires,
                outbox: joining.outbox,
                account: joining.account,
                attributes,
                attributes_bytes,
                is_ignored: false,
                messaging: false,
                listing: false,
                openings: downloads::Openings::default(),
                calls: Calls::new(),
                behalf: HashMap::new(),
                ended_calls: VecDeque::new(),
                calls_charge,
                attributes_charge: Charge::none(),
            },
        );
        self.metrics.participants.inc();
    }

    /// Removes the participant of a connection that ended, for whatever reason.
    pub(crate) fn handle_leave(&mut self, conn: Conn, now: Timestamp) {
        self.now = now;
        let Some(mut participant) = self.participants.remove(&conn) else {
            return;
        };
        self.attributes_bytes -= participant.attributes_bytes;
        self.metrics.participants.dec();
        tracing::info!(room = &*self.id.room, participant = ?participant.name, id = %participant.id, "left");
        self.waiting.retain(|waiting| waiting.conn() != conn);
        let calls: Vec<_> = participant.calls.drain().map(|(_, call)| call).collect();
        for call in calls {
            self.drop_call(call);
        }
        if participant.messaging {
            let news = participant_disabled(&participant.id);
            self.tell_of(conn, &participant.account, &news);
        }
    }

    /// Sets the charge of the next message.
    pub(crate) fn hold(&mut self, held: Held) {
        self.held = held;
    }

    /// Handles a message from a participant.
    pub(crate) fn handle_message(&mut self, conn: Conn, envelope: Envelope, now: Timestamp) {
        self.now = now;
        let Some(participant) = self.participants.get(&conn) else {
            return;
        };
        let span = request_span(&self.id, participant, &envelope);
        let _entered = span.enter();
        let request = Request {
            conn,
            id: envelope.id,
        };
        if participant.has_expired(now) {
            // Not 1001: the token of the next connection may allow as much as this one did. A
            // client that takes 1001 as final would give up edits that were never refused.
            let text = "the token has expired; connect again with a new one";
            if !matches!(envelope.message, ClientToServer::SetAttributes(_)) {
                self.refuse(request, Refusal::new(ErrorCode::InvalidState, text));
            }
            self.held = Held::none();
            return;
        }
        match envelope.message {
            ClientToServer::Invoke(invoke) => self.invoke(request, invoke),
            ClientToServer::RequestChunk {
                tool_call_id,
                chunk,
            } => {
                self.request_chunk(request, &tool_call_id, chunk);
            }
            ClientToServer::SetAttributes(attributes) => self.set_attributes(conn, attributes),
            ClientToServer::ListToolkits => {
                self.send_shared(request, list_of_toolkits());
            }
            ClientToServer::Unknown { kind } => self.refuse(
                request,
                Refusal::invalid(format!(
                    "unknown message type {kind:?}; send room.invoke_tool"
                )),
            ),
        }
        // Whatever the message caused has taken over its charge.
        self.held = Held::none();
    }

    /// Continues for a connection that had fallen behind and has read its queue.
    pub(crate) fn handle_drained(&mut self, conn: Conn) {
        self.catch_up(conn);
        self.retry_waiting(Some(conn));
    }

    /// Refuses a message that could not become an [`Envelope`].
    pub(crate) fn handle_invalid(
        &mut self,
        conn: Conn,
        id: MessageId,
        code: ErrorCode,
        text: String,
    ) {
        self.refuse(Request { conn, id }, Refusal::new(code, text));
    }

    /// Returns the next action, or `None` if there is nothing to do.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        self.next_batch().map(Action::Commit)
    }

    /// Whether the room accepts more requests. If not, the next batch is full, or ends with an
    /// operation on many entries.
    pub(crate) fn accepts_requests(&self) -> bool {
        self.staged.len() < MAX_STAGED_WRITES
            && self.staged_bytes < MAX_STAGED_BYTES
            && self.touches_many.is_none()
    }

    /// Whether the room can be unloaded: it has no participants, no open documents and no pending
    /// work.
    pub(crate) fn is_idle(&self) -> bool {
        self.participants.is_empty()
            && self.documents.is_empty()
            && self.staged.is_empty()
            && self.in_flight.is_none()
            && self.fetches.is_empty()
            && self.actions.is_empty()
    }

    /// Whether the store has answered all writes.
    pub(crate) fn is_flushed(&self) -> bool {
        self.staged.is_empty() && self.in_flight.is_none()
    }

    /// Whether [`Room::handle_timeout`] should be called soon because a log needs compaction.
    pub(crate) fn is_worn(&self) -> bool {
        self.is_worn
    }

    /// The participant whose move or recursive deletion is in the batch in flight.
    pub(crate) fn touches_many(&self) -> Option<&Arc<str>> {
        self.in_flight_touches_many.as_ref()
    }

    /// Bytes of the next batch.
    pub(crate) fn staged_bytes(&self) -> usize {
        self.staged_bytes
    }

    /// Adds the sizes that have bounds to `figures`.
    #[cfg(feature = "simulation")]
    pub(crate) fn add_figures(&self, figures: &mut crate::simulation::SimFigures) {
        figures.documents += self.documents.paths();
        figures.staged_writes = figures.staged_writes.max(self.staged.len());
        for document in self.documents.iter() {
            figures.recent_bytes = figures.recent_bytes.max(document.recent_bytes());
            figures.pending_bytes = figures.pending_bytes.max(document.replica.pending_bytes());
        }
    }

    fn invoke(&mut self, request: Request, invoke: Invoke) {
        if invoke
            .participant_id
            .as_ref()
            .is_some_and(|id| !id.is_empty())
        {
            let text = format!(
                "no participant has a toolkit {:?}; leave participant_id out for the room's own",
                invoke.toolkit
            );
            return self.refuse(request, Refusal::new(ErrorCode::NotFound, text));
        }
        let Some(tool) = Tool::find(&invoke.toolkit, &invoke.tool) else {
            return self.refuse(request, unknown_tool(&invoke));
        };
        if matches!(invoke.arguments, Content::Control(Control::Open)) {
            return self.open_call(request, tool, invoke);
        }
        match tool {
            Tool::SyncCreate => self.create(request, invoke.arguments),
            Tool::SyncDescribe => self.describe(request, &invoke.arguments),
            Tool::SyncPatch => self.patch(request, invoke.arguments, invoke.on_behalf_of_id),
            Tool::MessagingEnable
            | Tool::MessagingDisable
            | Tool::MessagingSend
            | Tool::MessagingBroadcast => self.messaging(request, tool, &invoke.arguments),
            Tool::StorageDelete => self.delete(request, &invoke.arguments),
            Tool::StorageMove => self.move_entry(request, &invoke.arguments),
            Tool::StorageExists => {
                self.stat(request, &invoke.arguments, files::StatAnswer::Exists);
            }
            Tool::StorageStat => self.stat(request, &invoke.arguments, files::StatAnswer::Full),
            Tool::StorageList => self.list(request, &invoke.arguments),
            Tool::StorageDownloadUrl => self.download_url(request, &invoke.arguments),
            Tool::SyncOpen | Tool::StorageUpload | Tool::StorageDownload => self.refuse(
                request,
                Refusal::invalid(format!(
                    "{}.{} is a streamed call; send control/open as its arguments",
                    invoke.toolkit, invoke.tool
                )),
            ),
        }
    }

    fn open_call(&mut self, request: Request, tool: Tool, invoke: Invoke) {
        let call = match tool {
            Tool::SyncOpen => Call::Sync(SyncCall::default()),
            Tool::StorageUpload => Call::Upload(Upload::default()),
            Tool::StorageDownload => Call::Download(Download::new()),
            _ => return self.refuse(request, unknown_tool(&invoke)),
        };
        let Some(tool_call_id) = invoke.tool_call_id.filter(|id| !id.is_empty()) else {
            return self.refuse(
                request,
                Refusal::invalid("a streamed call needs a tool_call_id"),
            );
        };
        let Some(participant) = self.participants.get_mut(&request.conn) else {
            return;
        };
        let max = self.config.limits.max_streams_per_connection;
        if participant.calls.len() >= max {
            let text = format!("{max} calls are open on this connection; close some first");
            return self.refuse(request, Refusal::invalid(text));
        }
        if !self.usage.take_stream(self.config.limits.max_streams) {
            let text =
                "the server has no place for another open call now; close some, or try again later";
            return self.refuse(request, Refusal::new(ErrorCode::OperationFailed, text));
        }
        if let Err(over) = participant.calls_charge.try_grow(CALL_BYTES) {
            self.usage.release_stream();
            return self.refuse(request, Refusal::over(over));
        }
        match participant.calls.open(tool_call_id.clone(), call) {
            Ok(()) => {
                self.note_behalf(request.conn, tool_call_id, invoke.on_behalf_of_id);
                self.respond(request, Content::Control(Control::Open));
            }
            Err(duplicate) => {
                participant.calls_charge.shrink(CALL_BYTES);
                self.usage.release_stream();
                self.refuse(request, Refusal::invalid(duplicate));
            }
        }
    }

    fn request_chunk(&mut self, request: Request, tool_call_id: &str, chunk: Content) {
        let Some(participant) = self.participants.get_mut(&request.conn) else {
            return;
        };
        let closes = matches!(chunk, Content::Control(Control::Close { .. }));
        let Some(call) = participant.calls.get_mut(tool_call_id) else {
            // The closes of both sides may cross. The client's is answered although the call has
            // ended.
            if closes
                && participant
                    .ended_calls
                    .iter()
                    .any(|ended| ended == tool_call_id)
            {
                return self.respond(request, Content::Empty);
            }
            // Not 1002: the server's close may have crossed the chunk, and a retry in a new call
            // helps. Whether an unknown call ended long ago or never began can't be decided.
            let text = format!("no call {tool_call_id:?} is open on this connection");
            return self.refuse(request, Refusal::new(ErrorCode::InvalidState, text));
        };
        match call {
            Call::Sync(_) if closes => self.close_sync(request, tool_call_id),
            Call::Sync(_) => self.sync_chunk(request, tool_call_id, chunk),
            Call::Upload(_) if closes => self.finish_upload(request, tool_call_id),
            Call::Upload(_) => self.upload_chunk(request, tool_call_id, &chunk),
            Call::Download(_) if closes => {
                self.respond(request, Content::Empty);
                self.close_download(request.conn, tool_call_id);
            }
            Call::Download(_) => self.download_chunk(request, tool_call_id, &chunk),
        }
    }

    /// Ends a call from the server's side, with a close chunk.
    fn end_call(&mut self, conn: Conn, tool_call_id: &str, close: Control) {
        let Some(participant) = self.participants.get_mut(&conn) else {
            return;
        };
        let Some(call) = participant.calls.remove(tool_call_id) else {
            return;
        };
        participant.calls_charge.shrink(CALL_BYTES);
        if participant.ended_calls.len() == REMEMBERED_CALLS {
            participant.ended_calls.pop_front();
        }
        participant.ended_calls.push_back(tool_call_id.to_owned());
        participant.behalf.remove(tool_call_id);
        self.send_chunk(conn, tool_call_id, Content::Control(close));
        self.drop_call(call);
    }

    /// Fails a call: an `error` chunk gives the reason, and nothing follows it.
    fn fail_call(
        &mut self,
        request: Option<Request>,
        conn: Conn,
        tool_call_id: &str,
        refusal: Refusal,
    ) {
        tracing::debug!(code = refusal.code.number(), text = %refusal.text, "call failed");
        self.metrics.refused_requests.inc();
        // The error chunk goes first: published clients report what they see first.
        self.send_chunk(conn, tool_call_id, refusal.clone().into_content());
        if let Some(request) = request {
            self.respond(request, refusal.into_content());
        }
        let Some(participant) = self.participants.get_mut(&conn) else {
            return;
        };
        participant.behalf.remove(tool_call_id);
        if let Some(call) = participant.calls.remove(tool_call_id) {
            participant.calls_charge.shrink(CALL_BYTES);
            if participant.ended_calls.len() == REMEMBERED_CALLS {
                participant.ended_calls.pop_front();
            }
            participant.ended_calls.push_back(tool_call_id.to_owned());
            self.drop_call(call);
        }
    }

    fn drop_call(&mut self, call: Call) {
        self.usage.release_stream();
        match call {
            Call::Sync(call) => self.drop_sync_call(call),
            Call::Upload(upload) => self.uploads.ended(&upload),
            Call::Download(_) => {}
        }
    }

    fn respond(&self, request: Request, content: Content) {
        self.send(
            request.conn,
            ServerToClient::Response {
                request: request.id,
                content,
            },
        );
    }

    /// Answers with bytes that other answers share, or that would take too much memory as values.
    fn send_shared(&self, request: Request, message: SharedMessage) {
        if let Some(participant) = self.participants.get(&request.conn) {
            participant.outbox.push_item(Outgoing::Shared {
                request: Some(request.id),
                message,
            });
        }
    }

    fn refuse(&self, request: Request, refusal: Refusal) {
        tracing::debug!(code = refusal.code.number(), text = %refusal.text, "request refused");
        self.metrics.refused_requests.inc();
        self.respond(request, refusal.into_content());
    }

    fn send_chunk(&self, conn: Conn, tool_call_id: &str, chunk: Content) {
        self.send(
            conn,
            ServerToClient::ResponseChunk {
                tool_call_id: tool_call_id.to_owned(),
                chunk,
            },
        );
    }

    fn send(&self, conn: Conn, message: ServerToClient) {
        if let Some(participant) = self.participants.get(&conn) {
            participant.outbox.push(message);
        }
    }

    /// Starts a read and returns its number.
    fn fetch(&mut self, fetch: Fetch, then: Fetched) -> u64 {
        let number = self.number();
        let held = self.take_held();
        self.fetches.insert(number, (then, held));
        self.actions.push_back(Action::Fetch(number, fetch));
        number
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Records on behalf of which participant a call is made.
    fn note_behalf(&mut self, conn: Conn, tool_call_id: String, id: Option<String>) {
        let Some(name) = self.behalf_name(id) else {
            return;
        };
        if let Some(participant) = self.participants.get_mut(&conn) {
            participant.behalf.insert(tool_call_id, name);
        }
    }

    /// The name of the participant with this id, on behalf of which a request is made. If that
    /// participant is not in the room, the id itself.
    fn behalf_name(&self, id: Option<String>) -> Option<String> {
        let id = id.filter(|id| !id.is_empty() && id.len() <= MAX_BEHALF_BYTES)?;
        let present = self.participants.values().find(|other| other.id == id);
        Some(present.map_or(id, |other| other.name.clone()))
    }

    /// The author of changes that a participant makes through a call.
    fn author(&self, conn: Conn, tool_call_id: &str) -> Author {
        let Some(participant) = self.participants.get(&conn) else {
            return Author::default();
        };
        Author {
            participant: participant.name.clone(),
            role: participant.role.clone(),
            on_behalf_of: participant.behalf.get(tool_call_id).cloned(),
            connection: participant.id.clone(),
        }
    }

    fn participant_id(&self, conn: Conn) -> String {
        self.participants
            .get(&conn)
            .map(|participant| participant.id.clone())
            .unwrap_or_default()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // At a stop, or after a panic, participants and documents may be left.
        let participants = i64::try_from(self.participants.len()).unwrap_or(i64::MAX);
        let documents = i64::try_from(self.documents.len()).unwrap_or(i64::MAX);
        for participant in self.participants.values() {
            for _ in participant.calls.iter() {
                self.usage.release_stream();
            }
        }
        self.metrics.participants.dec_by(participants);
        self.metrics.documents.dec_by(documents);
    }
}

fn unknown_tool(invoke: &Invoke) -> Refusal {
    Refusal::new(
        ErrorCode::NotFound,
        format!(
            "there is no {} tool {:?} in toolkit {:?}; ask room.list_toolkits for what there is",
            if matches!(invoke.arguments, Content::Control(Control::Open)) {
                "streamed"
            } else {
                "plain"
            },
            invoke.tool,
            invoke.toolkit
        ),
    )
}

/// The answer to `room.list_toolkits`, encoded once.
fn list_of_toolkits() -> SharedMessage {
    static ANSWER: LazyLock<SharedMessage> = LazyLock::new(|| {
        let head = SharedMessage::answer_head(&Content::Json(describe_tools()));
        SharedMessage::answer(head.into())
    });
    ANSWER.clone()
}

fn websocket_origin(origin: &str) -> String {
    // `http://` becomes `ws://`, `https://` becomes `wss://`.
    origin
        .strip_prefix("http")
        .map_or_else(|| origin.to_owned(), |rest| format!("ws{rest}"))
}

/// The span of one request. With the SDK's trace context in it, the logs of both sides share a
/// trace id.
fn request_span(room: &RoomId, participant: &Participant, envelope: &Envelope) -> tracing::Span {
    let span = tracing::info_span!(
        "request",
        room = &*room.room,
        participant = ?participant.name,
        trace_id = tracing::field::Empty,
        parent_id = tracing::field::Empty,
    );
    if let Some(trace) = &envelope.trace {
        let (trace_id, parent_id) = (
            u128::from_be_bytes(trace.trace_id),
            u64::from_be_bytes(trace.parent_id),
        );
        span.record("trace_id", format_args!("{trace_id:032x}").to_string());
        span.record("parent_id", format_args!("{parent_id:016x}").to_string());
    }
    span
}

#[cfg(test)]
mod tests;
