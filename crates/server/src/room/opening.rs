//! Loads or creates the document at a path, once for all requests that arrive meanwhile.

use std::ops::Range;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshagent_document::{InsertError, Limits, MeshDocument};
use meshagent_ledger::{Charge, Held};
use meshagent_protocol::sync::{SyncCreate, SyncDescribe, SyncOpenStart, SyncPatch};
use meshagent_protocol::{Content, ErrorCode};
use meshagent_store::{
    Author, Contribution, DocumentId, EntryKind, OperationRange, Seq, StoreError, StoredDocument,
    Timestamp, Write,
};
use serde_json::{Value, json};

use super::batch::{Then, append};
use super::compaction::Stored;
use super::documents::{Deferred, Document};
use super::downloads::DownloadId;
use super::files::{StatAnswer, is_file};
use super::sent::Sent;
use super::sync::told_vector;
use super::waiting::Full;
use super::{Conn, Fetch, FetchResult, Refusal, Request, Room, WholeFile};
use crate::schemas::InvalidSchema;

/// The maximum number of client ids that one update may bring into a document. Each becomes a
/// provenance record.
const NEW_CLIENTS: usize = 10_000;

/// The maximum number of runs of operations, and of deleted operations, in one update. Each takes
/// nearly 200 bytes while the update is inspected.
const UPDATE_OPERATIONS: usize = 1 << 21;

/// A request that waits for a document.
#[derive(Debug)]
pub(super) enum Waiter {
    Create {
        request: Request,
        create: SyncCreate,
        /// The charge of the request while it waits.
        _held: Held,
    },
    Describe {
        request: Request,
        describe: SyncDescribe,
        _held: Held,
    },
    Patch {
        request: Request,
        patch: SyncPatch,
        author: Author,
        held: Held,
    },
    Open {
        request: Request,
        tool_call_id: String,
        /// The number of the call. When the document is available, the id may belong to another
        /// call.
        number: u64,
        /// The author of the document, if the call creates it.
        author: Box<Author>,
        start: SyncOpenStart,
        /// Whether the call may create the document. This matters only if there is none: an
        /// existing document needs no schema.
        may_create: Result<(), Refusal>,
        /// Why the call could not create the document: something appeared at the path first. If
        /// that is not a document, this is the answer.
        overtaken: Option<Refusal>,
        _held: Held,
    },
}

impl Waiter {
    pub(super) fn conn(&self) -> Conn {
        self.request().conn
    }

    fn request(&self) -> Request {
        match self {
            Self::Create { request, .. }
            | Self::Describe { request, .. }
            | Self::Patch { request, .. }
            | Self::Open { request, .. } => *request,
        }
    }

    fn wants_to_create(&self) -> bool {
        match self {
            Self::Create { .. } => true,
            Self::Describe { .. } | Self::Patch { .. } => false,
            Self::Open {
                start,
                may_create,
                overtaken,
                ..
            } => start.create && may_create.is_ok() && overtaken.is_none(),
        }
    }

    pub(super) fn schema(&self) -> Option<&Value> {
        match self {
            Self::Create { create, .. } => create.schema.as_ref(),
            Self::Describe { .. } | Self::Patch { .. } => None,
            Self::Open { start, .. } => start.schema.as_ref(),
        }
    }

    pub(super) fn schema_path(&self) -> Option<&str> {
        match self {
            Self::Create { create, .. } => create.schema_path.as_ref().map(AsRef::as_ref),
            Self::Describe { .. } | Self::Patch { .. } => None,
            Self::Open { start, .. } => start.schema_path.as_ref().map(AsRef::as_ref),
        }
    }

    pub(super) fn json(&self) -> Option<&Value> {
        match self {
            Self::Create { create, .. } => create.json.as_ref(),
            Self::Describe { .. } | Self::Patch { .. } => None,
            Self::Open { start, .. } => start.initial_json.as_ref(),
        }
    }
}

/// The purpose of a read.
#[derive(Debug)]
pub(super) enum Fetched {
    Document {
        path: String,
    },
    Reload {
        document: DocumentId,
    },
    Schema {
        path: String,
        creator: Box<Waiter>,
        file: String,
        explicit: bool,
    },
    Stat {
        request: Request,
        path: String,
        answer: StatAnswer,
    },
    List {
        request: Request,
        path: String,
    },
    Download {
        download: DownloadId,
        request: Request,
        path: String,
    },
    DownloadPart {
        download: DownloadId,
    },
    /// There is no such file; the entry at the path, if any, decides the answer.
    DownloadMissing {
        download: DownloadId,
        request: Request,
        path: String,
    },
    DownloadUrl {
        request: Request,
        path: String,
        download: bool,
    },
}

impl Room {
    /// Serves `waiter` from the document at `path`, now or when it is available.
    pub(super) fn with_document(&mut self, path: &str, waiter: Waiter) {
        if let Some(id) = self.documents.id_at(path) {
            return self.serve(id, waiter);
        }
        if let Some(waiter) = self.documents.join(path, waiter) {
            self.load(path, vec![waiter]);
        }
    }

    /// Starts to load a document for all requests that wait for it.
    fn load(&mut self, path: &str, waiters: Vec<Waiter>) {
        let fetch = Fetch::Document {
            path: path.to_owned(),
        };
        let fetch = self.fetch(
            fetch,
            Fetched::Document {
                path: path.to_owned(),
            },
        );
        self.documents.set_loading(path, fetch, waiters);
    }

    /// Loads a path again because its entry has changed: a read in flight may return the previous
    /// one.
    pub(super) fn load_again(&mut self, path: &str) {
        if let Some(waiters) = self.documents.take_loading(path) {
            self.load(path, waiters);
        }
    }

    /// Reads the parked paths again, now that a batch is settled.
    pub(super) fn load_parked(&mut self) {
        for path in std::mem::take(&mut self.parked) {
            if self.documents.is_parked(&path) {
                self.load_again(&path);
            }
        }
    }

    /// Handles the result of a read.
    pub(crate) fn handle_fetched(
        &mut self,
        number: u64,
        result: Result<FetchResult, StoreError>,
        now: Timestamp,
    ) {
        self.now = now;
        // The charge of the request lasts until the read is handled.
        let Some((fetched, _held)) = self.fetches.remove(&number) else {
            return;
        };
        match fetched {
            Fetched::Document { path } => match result {
                _ if !self.documents.is_loading(&path, number) => {}
                Ok(FetchResult::Document(Some(stored))) => self.loaded(&path, &stored),
                Ok(_) => self.missing(&path),
                Err(error) => self.all_failed(&path, &Refusal::storage(&error)),
            },
            Fetched::Reload { document } => self.reloaded(document, result),
            Fetched::Schema {
                path,
                creator,
                file,
                explicit,
            } => match result {
                Ok(FetchResult::File(found)) => {
                    self.schema_fetched(&path, *creator, &file, explicit, found);
                }
                Ok(_) => {
                    self.schema_fetched(&path, *creator, &file, explicit, WholeFile::Missing);
                }
                Err(error) => self.creation_failed(&path, *creator, Refusal::storage(&error)),
            },
            Fetched::Stat {
                request,
                path,
                answer,
            } => match result {
                Ok(FetchResult::Stat(entry)) => self.stat_fetched(request, &path, answer, entry),
                Ok(_) => self.stat_fetched(request, &path, answer, None),
                Err(error) => self.refuse(request, Refusal::storage(&error)),
            },
            Fetched::List { request, path } => {
                if let Some(participant) = self.participants.get_mut(&request.conn) {
                    participant.listing = false;
                }
                match result {
                    Ok(FetchResult::List(entries)) => self.list_fetched(request, &path, entries),
                    Ok(_) => self.list_fetched(request, &path, None),
                    Err(error) => self.refuse(request, Refusal::storage(&error)),
                }
                self.retry_waiting(Some(request.conn));
            }
            Fetched::Download {
                download,
                request,
                path,
            } => {
                let file = match result {
                    Ok(FetchResult::OpenFile(file)) => Ok(file),
                    Ok(_) => Ok(None),
                    Err(error) => Err(Refusal::storage(&error)),
                };
                self.download_fetched(&download, request, &path, file);
            }
            Fetched::DownloadPart { download } => {
                let part = match result {
                    Ok(FetchResult::FilePart(part)) => Ok(part),
                    Ok(_) => Ok(None),
                    Err(error) => Err(Refusal::storage(&error)),
                };
                self.download_part_fetched(&download, part);
            }
            Fetched::DownloadMissing {
                download,
                request,
                path,
            } => {
                let open = self.documents.knows(&path);
                let kind = match result {
                    Ok(FetchResult::Stat(entry)) => Ok(entry.map(|entry| entry.kind)),
                    Ok(_) => Ok(None),
                    Err(error) => Err(Refusal::storage(&error)),
                };
                let refusal = kind
                    .map(|kind| kind.or_else(|| open.then_some(EntryKind::Document)))
                    .and_then(|kind| is_file(&path, kind))
                    // The path has a file now, but had none when it was requested.
                    .err()
                    .unwrap_or_else(|| Refusal::new(ErrorCode::StorageNotFound, "no such file"));
                self.refuse_download(&download, request, refusal);
            }
            Fetched::DownloadUrl {
                request,
                path,
                download,
            } => match result {
                Ok(FetchResult::Stat(entry)) => {
                    self.download_url_fetched(request, &path, download, entry.as_ref());
                }
                Ok(_) => self.download_url_fetched(request, &path, download, None),
                Err(error) => self.refuse(request, Refusal::storage(&error)),
            },
        }
    }

    fn loaded(&mut self, path: &str, stored: &StoredDocument) {
        if let Some(document) = self.documents.get(stored.document) {
            // A move on disk, which the room has not settled yet, brought the document here. It
            // will be served from memory, which also has what is staged or in flight: a document
            // has one replica, wherever it moves.
            if self.in_flight.is_some() {
                self.documents.park(path);
                return self.parked.push(path.to_owned());
            }
            tracing::error!(
                path,
                elsewhere = &*document.path,
                "the store has a document at another place than it said"
            );
            let text = format!("{path:?} was moved meanwhile, try again");
            return self.all_failed(path, &Refusal::new(ErrorCode::OperationFailed, text));
        }
        match self.replay(path, stored) {
            Ok(mut document) => match self.charge_open(path, &document) {
                Ok(charge) => {
                    document.charge = Some(charge);
                    self.opened(Box::new(document), None);
                }
                Err(refusal) => self.all_failed(path, &refusal),
            },
            Err(refusal) => self.all_failed(path, &refusal),
        }
    }

    /// Builds a document from its snapshot and the updates after it.
    fn replay(&mut self, path: &str, stored: &StoredDocument) -> Result<Document, Refusal> {
        let damaged = |what: &dyn std::fmt::Display| {
            tracing::error!(path, document = stored.document.0, %what, "stored document cannot be \
                                                                        read");
            Refusal::new(
                ErrorCode::OperationFailed,
                format!("the stored document {path:?} cannot be read: {what}"),
            )
        };
        let schemas = self.usage.schemas();
        let schema = schemas
            .read(&stored.schema, self.config.limits.max_schema_bytes)
            .map_err(|error| match error {
                InvalidSchema::TooMany(_) => {
                    Refusal::new(ErrorCode::OperationFailed, error.to_string())
                }
                _ => damaged(&error),
            })?;
        // What is stored was within the limits of its time.
        let client = self.ids.client_id();
        let mut replica = MeshDocument::with_limits(schema.parsed.clone(), client, Limits::NONE);
        let updates = stored.updates.iter().map(|stored| &stored.update);
        for update in stored
            .snapshot
            .iter()
            .chain(updates)
            .filter(|update| !update.is_empty())
        {
            replica
                .apply_update(update)
                .map_err(|error| damaged(&error))?;
        }
        replica.set_limits(self.document_limits());
        while replica.knows_client(replica.client_id()) {
            replica.set_client_id(self.ids.client_id());
        }
        let sent = Sent::new(self.ids.client_id());
        let mut document = Document::new(
            stored.document,
            path,
            schema,
            replica,
            stored.last_seq,
            sent,
        );
        document.created_at = stored.created_at;
        document.stored = Stored::of(stored, self.now);
        document.bytes = document.stored.bytes();
        document.idle_since = Some(self.now);
        Ok(document)
    }

    /// Serves all requests that wait for a document, the creator's first.
    pub(super) fn opened(&mut self, document: Box<Document>, creator: Option<Waiter>) {
        self.metrics.documents.inc();
        self.largest_document_bytes = self.largest_document_bytes.max(document.bytes);
        let id = document.id;
        let waiters = self.place(document);
        self.repair_stored(id);
        match creator {
            Some(Waiter::Create { request, .. }) => self.respond(request, Content::Empty),
            Some(creator) => self.serve(id, creator),
            None => {}
        }
        for waiter in waiters {
            self.serve(id, waiter);
        }
    }

    /// Puts a document at its path. Returns the requests that wait there.
    pub(super) fn place(&mut self, document: Box<Document>) -> Vec<Waiter> {
        if let Some(other) = self.documents.id_at(&document.path) {
            // The store has one document at a path, which is the new one.
            tracing::error!(path = &*document.path, "another document was open here");
            self.close_document(other);
        }
        self.documents.insert(document)
    }

    /// Repairs a document that was stored by a server with fewer checks. Answers that show the
    /// document wait until the repair is on disk.
    fn repair_stored(&mut self, id: DocumentId) {
        let contribution = self.by_server();
        let Some(document) = self.documents.get_mut(id) else {
            return;
        };
        let Some(repair) = document.replica.repair() else {
            return;
        };
        tracing::warn!(
            path = &*document.path,
            violations = repair.violations.total(),
            "stored document broke its schema; repaired"
        );
        document.head += 1;
        let write = append(id, repair.update.clone(), vec![contribution], self.now);
        let then = Then::Appended {
            document: id,
            version: document.head,
            visible: Some(repair.update),
            known_to: None,
            sender: None,
            answer: None,
        };
        self.stage(write, then);
    }

    pub(super) fn serve(&mut self, id: DocumentId, waiter: Waiter) {
        let Some(document) = self.documents.get(id) else {
            let gone = Refusal::new(ErrorCode::NotFound, "the document is gone");
            return self.refuse_waiter(waiter, gone);
        };
        // A broken document is being read again. Only the refusal of a creation needs no replica.
        let is_broken = document.is_broken() && !matches!(waiter, Waiter::Create { .. });
        let path = Arc::clone(&document.path);
        let room = if is_broken {
            Err(Full::Own)
        } else {
            self.has_room_for(id, &waiter)
        };
        let making = match room {
            Ok(making) => making,
            Err(full) => return self.wait(&path, waiter, full),
        };
        let Some(document) = self.documents.get_mut(id) else {
            return;
        };
        match waiter {
            Waiter::Create { request, .. } => {
                let path = &*document.path;
                let text = format!("a document exists at {path:?}; open it, or delete it first");
                self.refuse(request, Refusal::new(ErrorCode::AlreadyExists, text));
            }
            Waiter::Describe {
                request, describe, ..
            } => {
                if document.streams.is_empty() {
                    document.idle_since = Some(self.now);
                }
                // The work is charged until the end of this turn.
                let (text, _work) = making.map_or_else(
                    || (Charge::none(), Charge::none()),
                    |making| (making.text, making.work),
                );
                let max_bytes = self.config.limits.max_message_bytes;
                match document.described(&describe, max_bytes, text) {
                    Ok(answer) => {
                        let described = Deferred::Described {
                            request,
                            describe,
                            answer,
                        };
                        self.defer(id, described);
                    }
                    Err(refusal) => self.refuse(request, refusal),
                }
            }
            Waiter::Patch {
                request,
                patch,
                author,
                held,
            } => {
                self.held = held;
                if document.streams.is_empty() {
                    document.idle_since = Some(self.now);
                }
                self.apply_patch(request, id, patch, &author);
                self.held = Held::none();
            }
            Waiter::Open {
                request,
                tool_call_id,
                number,
                start,
                ..
            } => {
                let identity = document.identity();
                // What a client has of another document says nothing about this one.
                let expected = start.identity.as_deref().unwrap_or_default();
                let is_other = !expected.is_empty() && expected != identity;
                let vector = start.vector.as_ref().filter(|_| !is_other);
                let (version, payload) = match vector {
                    None => document.shared_state(self.now, &self.usage, &self.metrics),
                    Some(vector) => match document.replica.encode_diff(vector) {
                        Ok(difference) => {
                            let text = STANDARD.encode(difference).into_bytes();
                            (document.head, self.usage.share(text))
                        }
                        Err(error) => {
                            let refusal =
                                Refusal::invalid(format!("vector is not a state vector: {error}"));
                            return self.refuse_opening(request, &tool_call_id, number, refusal);
                        }
                    },
                };
                // The state charges its text itself now.
                drop(making);
                let ahead = vector.map_or(&[0][..], |vector| &vector[..]);
                let ahead = document.replica.count_missing(ahead).unwrap_or_default();
                let mut notice = json!({});
                if ahead > 0 {
                    notice["ahead"] = ahead.into();
                    notice["message"] = "the client has operations that are missing here".into();
                    told_vector(&mut notice, &document.replica);
                }
                if start.identity.is_some() {
                    notice["identity"] = identity.into();
                }
                let notice = match notice.as_object() {
                    Some(told) if !told.is_empty() => Content::Json(notice),
                    _ => Content::Empty,
                };
                let state = Deferred::State {
                    request,
                    tool_call_id,
                    number,
                    payload,
                    merges: start.merge,
                    notice,
                };
                document.defer_to(version, state);
                if ahead > 0 {
                    let path = Arc::clone(&document.path);
                    self.tell_ahead(request.conn, &path, Some(ahead));
                }
                self.release_deferred(id);
            }
        }
    }

    /// Handles a missing document: the first waiting request that may create it does so, and those
    /// before it are refused.
    fn missing(&mut self, path: &str) {
        let Some(waiters) = self.documents.take_waiters(path) else {
            return;
        };
        let mut rest = waiters.into_iter();
        for waiter in rest.by_ref() {
            if waiter.wants_to_create() {
                self.documents.set_creating(path, rest.collect());
                return self.resolve_schema(path, waiter);
            }
            let has_content = |vector: &Vec<u8>| vector.first().is_some_and(|clients| *clients > 0);
            if let Waiter::Open { request, start, .. } = &waiter
                && start.vector.as_ref().is_some_and(has_content)
                && !self.documents.has_left(path)
            {
                // This is the case after a restore from a backup that is older than the document.
                self.tell_ahead(request.conn, path, None);
            }
            let refusal = match &waiter {
                Waiter::Open {
                    overtaken: Some(refusal),
                    ..
                } => refusal.clone(),
                Waiter::Open {
                    start,
                    may_create: Err(refusal),
                    ..
                } if start.create => Refusal::denied(format!(
                    "there is no document at {path:?}, and it may not be created: {}",
                    refusal.text
                )),
                _ => Refusal::new(
                    ErrorCode::NotFound,
                    format!("there is no document at {path:?}; create it first"),
                ),
            };
            self.refuse_waiter(waiter, refusal);
        }
    }

    /// Creates the document with its schema and initial content, in one write.
    pub(super) fn begin_creation(
        &mut self,
        path: &str,
        creator: Waiter,
        parsed: meshagent_document::MeshSchema,
        json: Value,
    ) {
        if let Some(id) = self.documents.id_at(path) {
            // A document was moved here while the schema was read.
            return self.serve(id, creator);
        }
        let max = self.config.limits.max_schema_bytes;
        let schema = match self.usage.schemas().share(json, parsed, max) {
            Ok(schema) => schema,
            Err(error) => {
                let refusal = Refusal::new(ErrorCode::OperationFailed, error.to_string());
                return self.creation_failed(path, creator, refusal);
            }
        };
        let (limits, client) = (self.document_limits(), self.ids.client_id());
        let mut replica = MeshDocument::with_limits(schema.parsed.clone(), client, limits);
        if let Some(json) = creator.json() {
            let ids = &mut self.ids;
            if let Err(error) = replica.insert_json(json, &mut || ids.uuid()) {
                let text = match &error {
                    InsertError::TooLarge(cause) => format!("the initial JSON: {cause}"),
                    _ => format!("the initial JSON does not fit the schema: {error}"),
                };
                return self.creation_failed(path, creator, Refusal::invalid(text));
            }
        }
        let state = replica.encode_state();
        let max = self.config.limits.max_document_bytes;
        if state.len() > max {
            let text = format!("the initial JSON: a document may have {max} bytes at most");
            return self.creation_failed(path, creator, Refusal::invalid(text));
        }
        let sent = Sent::new(self.ids.client_id());
        // The commit assigns the id; nothing shows the document before that.
        let mut document = Document::new(
            DocumentId(0),
            path,
            Arc::clone(&schema),
            replica,
            Seq(0),
            sent,
        );
        document.created_at = self.now;
        document.bytes = state.len();
        match self.hold_open(creator.conn(), document.memory()) {
            Ok(charge) => document.charge = Some(charge),
            Err(refusal) => return self.creation_failed(path, creator, refusal),
        }
        let max = self.config.limits.max_documents;
        let Some(place) = self.usage.take_document(max) else {
            let text = format!(
                "there are {max} documents, which is all this server keeps; delete some first"
            );
            let refusal = Refusal::new(ErrorCode::OperationFailed, text);
            return self.creation_failed(path, creator, refusal);
        };
        let operations = document.replica.clocks();
        let contribution = Contribution {
            author: match &creator {
                Waiter::Open { author, .. } => (**author).clone(),
                Waiter::Patch { author, .. } => author.clone(),
                Waiter::Create { request, .. } | Waiter::Describe { request, .. } => {
                    self.author(request.conn, "")
                }
            },
            at: self.now,
            operations: operations_of(operations.map(|(client, end)| (client, 0..end))),
        };
        let write = Write::CreateDocument {
            room: self.id.clone(),
            path: path.to_owned(),
            schema: schema.text.clone(),
            state: state.into(),
            contributions: vec![contribution],
            at: self.now,
        };
        let document = Box::new(document);
        self.stage(
            write,
            Then::Created {
                path: path.to_owned(),
                document,
                creator: Box::new(creator),
                place,
            },
        );
    }

    /// The contribution for changes that the room makes itself.
    pub(super) fn by_server(&self) -> Contribution {
        Contribution {
            author: Author {
                participant: "server".to_owned(),
                role: "server".to_owned(),
                ..Author::default()
            },
            at: self.now,
            operations: Vec::new(),
        }
    }

    pub(super) fn document_limits(&self) -> Limits {
        let mut limits = Limits::default();
        limits.elements = self.config.limits.max_document_elements;
        limits.depth = self.config.limits.max_document_depth;
        limits.clients = self.config.limits.max_document_clients;
        limits.new_clients = NEW_CLIENTS;
        limits.update_operations = UPDATE_OPERATIONS;
        // The room has its own bounds for updates and for pending ones.
        limits.update_bytes = Limits::NONE.update_bytes;
        limits.pending_bytes = Limits::NONE.pending_bytes;
        limits
    }

    /// Refuses the creator. The next waiting request may create the document.
    pub(super) fn creation_failed(&mut self, path: &str, creator: Waiter, refusal: Refusal) {
        self.refuse_waiter(creator, refusal);
        if self.documents.is_creating(path) {
            self.missing(path);
        }
    }

    /// Handles that something appeared at the path first. Requests that accept an existing document
    /// are served from it, if it is a document.
    pub(super) fn creation_overtaken(&mut self, path: &str, mut creator: Waiter, refusal: Refusal) {
        let waiters = self.documents.take_waiters(path).unwrap_or_default();
        if let Waiter::Open { overtaken, .. } = &mut creator {
            *overtaken = Some(refusal);
            self.with_document(path, creator);
        } else {
            self.refuse_waiter(creator, refusal);
        }
        for waiter in waiters {
            self.with_document(path, waiter);
        }
    }

    fn all_failed(&mut self, path: &str, refusal: &Refusal) {
        let Some(waiters) = self.documents.take_waiters(path) else {
            return;
        };
        for waiter in waiters {
            self.refuse_waiter(waiter, refusal.clone());
        }
    }

    /// Reads a document again because its replica is ahead of the disk. It waits until all staged
    /// and in-flight writes of the document are settled: the result has to contain everything that
    /// was acknowledged.
    pub(super) fn reload(&mut self, id: DocumentId) {
        let is_reload = |(fetched, _): &(Fetched, Held)| matches!(fetched, Fetched::Reload { document } if *document == id);
        if self.fetches.values().any(is_reload) {
            return;
        }
        if self.documents_under_way().contains(&id) {
            self.to_reload.insert(id);
            return;
        }
        self.to_reload.remove(&id);
        let bytes = self
            .documents
            .get(id)
            .map_or(0, |document| document.stored.bytes());
        let fetch = Fetch::DocumentById {
            document: id,
            bytes,
        };
        self.fetch(fetch, Fetched::Reload { document: id });
    }

    /// Reads documents again that waited for the batch that is settled now.
    pub(super) fn reload_waiting(&mut self) {
        for id in std::mem::take(&mut self.to_reload) {
            self.reload(id);
        }
    }

    fn reloaded(&mut self, id: DocumentId, result: Result<FetchResult, StoreError>) {
        // If the document was deleted meanwhile, the read concerns no other document at its path.
        let Some(document) = self.documents.get(id).filter(|one| one.is_broken()) else {
            return;
        };
        let (path, last_seq) = (Arc::clone(&document.path), document.last_seq);
        let stored = match result {
            Ok(FetchResult::Document(Some(stored))) => stored,
            Ok(_) => {
                self.close_document(id);
                let text = format!("there is no document at {path:?} any more");
                return self.refuse_waiting(&path, &Refusal::new(ErrorCode::NotFound, text));
            }
            // The next timeout retries the read.
            Err(error) => {
                tracing::warn!(%error, path = &*path, "document not read again yet");
                return self.refuse_waiting(&path, &Refusal::storage(&error));
            }
        };
        if stored.document != id || stored.last_seq < last_seq {
            tracing::error!(path = &*path, "the store has forgotten what it said it had");
            let text = "the document is being read again; try again";
            let refusal = Refusal::new(ErrorCode::OperationFailed, text);
            return self.refuse_waiting(&path, &refusal);
        }
        let fresh = match self.replay(&path, &stored) {
            Ok(fresh) => fresh,
            Err(refusal) => return self.refuse_waiting(&path, &refusal),
        };
        let Some(document) = self.documents.get_mut(id) else {
            return;
        };
        document.reload(fresh);
        self.repair_stored(id);
        let Some(document) = self.documents.get_mut(id) else {
            return;
        };
        let behind: Vec<Conn> = document
            .streams
            .values()
            .filter(|stream| stream.lagging)
            .map(|stream| stream.conn)
            .collect();
        for conn in behind {
            self.catch_up(conn);
        }
        self.retry_waiting(None);
    }
}

/// Converts ranges of clients' clocks into those of the store.
pub(super) fn operations_of(
    operations: impl IntoIterator<Item = (u64, Range<u64>)>,
) -> Vec<OperationRange> {
    let range = |(client, clocks): (u64, Range<u64>)| OperationRange {
        client,
        start: clocks.start,
        end: clocks.end,
    };
    operations.into_iter().map(range).collect()
}
