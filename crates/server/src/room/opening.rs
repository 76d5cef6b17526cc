//! From a path to an open document: read it, or create it, once for all who ask meanwhile.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshagent_document::{InsertError, Limits, MeshDocument};
use meshagent_protocol::sync::{SyncCreate, SyncDescribe, SyncDescribed, SyncOpenStart, SyncPatch};
use meshagent_protocol::{Content, ErrorCode};
use meshagent_store::{
    Author, Contribution, DocumentId, EntryKind, OperationRange, Seq, StoreError, StoredDocument,
    Timestamp, Write,
};
use serde_json::Value;

use super::batch::Then;
use super::compaction::Stored;
use super::documents::{Deferred, Document, Slot};
use super::files::{StatAnswer, is_file};
use super::sent::Sent;
use super::{Conn, Fetch, FetchResult, Refusal, Request, Room};
use crate::schemas::Schema;

/// Somebody who waits for a document.
#[derive(Debug)]
pub(super) enum Waiter {
    Create {
        request: Request,
        create: SyncCreate,
    },
    Describe {
        request: Request,
        describe: SyncDescribe,
    },
    Patch {
        request: Request,
        patch: SyncPatch,
        author: Author,
    },
    Open {
        request: Request,
        tool_call_id: String,
        start: SyncOpenStart,
        may_write: bool,
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

    /// The streamed call that it belongs to; a plain request has none.
    fn call(&self) -> &str {
        match self {
            Self::Open { tool_call_id, .. } => tool_call_id,
            Self::Create { .. } | Self::Describe { .. } | Self::Patch { .. } => "",
        }
    }

    fn wants_to_create(&self) -> bool {
        match self {
            Self::Create { .. } => true,
            Self::Describe { .. } | Self::Patch { .. } => false,
            Self::Open {
                start, may_write, ..
            } => start.create && *may_write,
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

/// What a read was for.
#[derive(Debug)]
pub(super) enum Fetched {
    Document {
        path: String,
    },
    Reload {
        path: String,
    },
    Schema {
        path: String,
        creator: Box<Waiter>,
        file: String,
        explicit: bool,
    },
    Stat {
        request: Request,
        answer: StatAnswer,
    },
    List {
        request: Request,
        path: String,
    },
    Download {
        conn: Conn,
        tool_call_id: String,
        request: Request,
        path: String,
    },
    /// There is no such file; what stands there instead decides about the answer.
    DownloadMissing {
        conn: Conn,
        tool_call_id: String,
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
    /// Serves `waiter` from the document at `path`, now or when it is there.
    pub(super) fn with_document(&mut self, path: &str, waiter: Waiter) {
        match self.documents.get_mut(path) {
            Some(Slot::Loading { waiters, .. } | Slot::Creating(waiters)) => waiters.push(waiter),
            Some(Slot::Open(_)) => self.serve(path, waiter),
            None => self.load(path, vec![waiter]),
        }
    }

    /// Starts to read a document for all who wait for it.
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
        self.documents
            .insert(path.to_owned(), Slot::Loading { fetch, waiters });
    }

    /// What stands at the path has changed: a read that is under way may answer with what stood there before.
    pub(super) fn load_again(&mut self, path: &str) {
        if let Some(Slot::Loading { .. }) = self.documents.get(path)
            && let Some(Slot::Loading { waiters, .. }) = self.documents.remove(path)
        {
            self.load(path, waiters);
        }
    }

    /// A read came back.
    pub(crate) fn handle_fetched(
        &mut self,
        number: u64,
        result: Result<FetchResult, StoreError>,
        now: Timestamp,
    ) {
        self.now = now;
        let Some(fetched) = self.fetches.remove(&number) else {
            return;
        };
        match fetched {
            Fetched::Document { path } => match result {
                _ if !self.is_loading(&path, number) => {}
                Ok(FetchResult::Document(Some(stored))) => self.loaded(&path, &stored),
                Ok(_) => self.missing(&path),
                Err(error) => self.all_failed(&path, &Refusal::storage(&error)),
            },
            Fetched::Reload { path } => self.reloaded(&path, result),
            Fetched::Schema {
                path,
                creator,
                file,
                explicit,
            } => match result {
                Ok(FetchResult::File(found)) => {
                    self.schema_fetched(&path, *creator, &file, explicit, found);
                }
                Ok(_) => self.schema_fetched(&path, *creator, &file, explicit, None),
                Err(error) => self.creation_failed(&path, *creator, Refusal::storage(&error)),
            },
            Fetched::Stat { request, answer } => match result {
                Ok(FetchResult::Stat(entry)) => self.stat_fetched(request, answer, entry),
                Ok(_) => self.stat_fetched(request, answer, None),
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
                conn,
                tool_call_id,
                request,
                path,
            } => {
                let file = match result {
                    Ok(FetchResult::File(file)) => Ok(file),
                    Ok(_) => Ok(None),
                    Err(error) => Err(Refusal::storage(&error)),
                };
                self.download_fetched(conn, &tool_call_id, request, &path, file);
            }
            Fetched::DownloadMissing {
                conn,
                tool_call_id,
                request,
                path,
            } => {
                let open = self.documents.contains_key(&path);
                let kind = match result {
                    Ok(FetchResult::Stat(entry)) => Ok(entry.map(|entry| entry.kind)),
                    Ok(_) => Ok(None),
                    Err(error) => Err(Refusal::storage(&error)),
                };
                let refusal = kind
                    .map(|kind| kind.or_else(|| open.then_some(EntryKind::Document)))
                    .and_then(|kind| is_file(&path, kind))
                    // What is a file by now was none when it was asked for.
                    .err()
                    .unwrap_or_else(|| Refusal::new(ErrorCode::StorageNotFound, "no such file"));
                self.fail_call(Some(request), conn, &tool_call_id, refusal);
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

    fn is_loading(&self, path: &str, number: u64) -> bool {
        matches!(self.documents.get(path), Some(Slot::Loading { fetch, .. }) if *fetch == number)
    }

    fn loaded(&mut self, path: &str, stored: &StoredDocument) {
        match self.replay(path, stored) {
            Ok(document) => self.opened(path, Box::new(document), None),
            Err(refusal) => self.all_failed(path, &refusal),
        }
    }

    /// Builds a document from its snapshot and the updates after it.
    fn replay(&mut self, path: &str, stored: &StoredDocument) -> Result<Document, Refusal> {
        let damaged = |what: &dyn std::fmt::Display| {
            tracing::error!(path, document = stored.document.0, %what, "stored document cannot be read");
            Refusal::new(
                ErrorCode::OperationFailed,
                format!("the stored document {path:?} cannot be read: {what}"),
            )
        };
        let schemas = self.usage.schemas();
        let schema = schemas
            .read(&stored.schema)
            .map_err(|error| damaged(&error))?;
        // What is stored was within the bounds of its time.
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
        let sent = Sent::new(self.ids.client_id());
        let mut document = Document::new(stored.document, schema, replica, stored.last_seq, sent);
        document.stored = Stored::of(stored, self.now);
        document.bytes = document.stored.bytes();
        document.idle_since = Some(self.now);
        Ok(document)
    }

    /// A document is there: everybody who waited is served, the creator first.
    pub(super) fn opened(&mut self, path: &str, document: Box<Document>, creator: Option<Waiter>) {
        self.metrics.documents.inc();
        self.largest_document_bytes = self.largest_document_bytes.max(document.bytes);
        let waiters = match self.documents.insert(path.to_owned(), Slot::Open(document)) {
            Some(Slot::Loading { waiters, .. } | Slot::Creating(waiters)) => waiters,
            _ => Vec::new(),
        };
        self.repair_stored(path);
        match creator {
            Some(Waiter::Create { request, .. }) => self.respond(request, Content::Empty),
            Some(creator) => self.serve(path, creator),
            None => {}
        }
        for waiter in waiters {
            self.serve(path, waiter);
        }
    }

    /// Repairs a document that was stored by a server that checked less. Whoever opens it is answered when
    /// the repair is on disk.
    fn repair_stored(&mut self, path: &str) {
        let contribution = self.by_server();
        let Some(Slot::Open(document)) = self.documents.get_mut(path) else {
            return;
        };
        let Some(repair) = document.replica.repair() else {
            return;
        };
        tracing::warn!(
            path,
            violations = repair.violations.len(),
            "stored document broke its schema; repaired"
        );
        document.head += 1;
        let write = Write::Append {
            document: document.id,
            update: repair.update.clone().into(),
            contributions: vec![contribution],
            at: self.now,
        };
        let then = Then::Appended {
            path: path.to_owned(),
            document: document.id,
            version: document.head,
            visible: Some(repair.update),
            known_to: None,
            answer: None,
        };
        self.stage(write, then);
    }

    fn serve(&mut self, path: &str, waiter: Waiter) {
        let Some(Slot::Open(document)) = self.documents.get_mut(path) else {
            return;
        };
        // It is being read again.
        if document.broken && !matches!(waiter, Waiter::Create { .. }) {
            return self.wait(path, waiter);
        }
        if !self.has_room_for(path, &waiter) {
            return self.wait(path, waiter);
        }
        let Some(Slot::Open(document)) = self.documents.get_mut(path) else {
            return;
        };
        match waiter {
            Waiter::Create { request, .. } => {
                let text = format!("a document exists at {path:?}; open it, or delete it first");
                self.refuse(request, Refusal::new(ErrorCode::AlreadyExists, text));
            }
            Waiter::Describe { request, describe } => {
                let json = document.replica.to_json(describe.include_ids);
                let version = describe.with_version.then(|| document.version());
                let schema = describe.with_schema.then(|| document.schema.json.clone());
                if document.streams.is_empty() {
                    document.idle_since = Some(self.now);
                }
                let content = SyncDescribed::new(json, version, schema).into_content();
                self.defer(path, Deferred::Answer { request, content });
            }
            Waiter::Patch {
                request,
                patch,
                author,
            } => {
                if document.streams.is_empty() {
                    document.idle_since = Some(self.now);
                }
                self.apply_patch(request, path, &patch, &author);
            }
            Waiter::Open {
                request,
                tool_call_id,
                start,
                ..
            } => {
                let (version, payload) = match &start.vector {
                    None => document.shared_state(self.now, &self.usage, &self.metrics),
                    Some(vector) => match document.replica.encode_diff(vector) {
                        Ok(difference) => {
                            let text = STANDARD.encode(difference).into_bytes();
                            (document.head, self.usage.share(text))
                        }
                        Err(error) => {
                            let refusal =
                                Refusal::invalid(format!("vector is not a state vector: {error}"));
                            return self.fail_call(
                                Some(request),
                                request.conn,
                                &tool_call_id,
                                refusal,
                            );
                        }
                    },
                };
                let state = Deferred::State {
                    request,
                    tool_call_id,
                    payload,
                    merges: start.merge,
                };
                document.defer_to(version, state);
                self.release_deferred(path);
            }
        }
    }

    /// There is no such document: one of those who wait may create it.
    fn missing(&mut self, path: &str) {
        let Some(Slot::Loading { waiters, .. } | Slot::Creating(waiters)) =
            self.documents.remove(path)
        else {
            return;
        };
        let mut rest = waiters.into_iter();
        for waiter in rest.by_ref() {
            if waiter.wants_to_create() {
                self.documents
                    .insert(path.to_owned(), Slot::Creating(rest.collect()));
                return self.resolve_schema(path, waiter);
            }
            let refusal = match &waiter {
                Waiter::Open {
                    start,
                    may_write: false,
                    ..
                } if start.create => Refusal::denied(format!(
                    "there is no document at {path:?}, and the sync grant does not allow to create it"
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
        let text = json.to_string();
        let schema = self.usage.schemas().share(Schema { text, json, parsed });
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
        let max = self.config.limits.max_documents;
        if !self.usage.take_document(max) {
            let text = format!(
                "there are {max} documents, which is all this server keeps; delete some first"
            );
            let refusal = Refusal::new(ErrorCode::OperationFailed, text);
            return self.creation_failed(path, creator, refusal);
        }
        let operations = replica.clocks();
        let contribution = Contribution {
            author: self.author(creator.conn(), creator.call()),
            at: self.now,
            operations: operations_of(operations.map(|(client, end)| (client, 0..end))),
        };
        let bytes = state.len();
        let write = Write::CreateDocument {
            room: self.id.clone(),
            path: path.to_owned(),
            schema: schema.text.clone(),
            state: state.into(),
            contributions: vec![contribution],
            at: self.now,
        };
        let sent = Sent::new(self.ids.client_id());
        // The id comes with the commit; nobody sees the document before.
        let mut document = Document::new(DocumentId(0), schema, replica, Seq(0), sent);
        document.bytes = bytes;
        let document = Box::new(document);
        self.stage(
            write,
            Then::Created {
                path: path.to_owned(),
                document,
                creator,
            },
        );
    }

    /// What the room changes by itself.
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
        // Updates and what waits have bounds of the room's own.
        limits.update_bytes = Limits::NONE.update_bytes;
        limits.pending_bytes = Limits::NONE.pending_bytes;
        limits
    }

    /// The creator is told; the next one who waits may try.
    pub(super) fn creation_failed(&mut self, path: &str, creator: Waiter, refusal: Refusal) {
        self.refuse_waiter(creator, refusal);
        self.missing(path);
    }

    fn all_failed(&mut self, path: &str, refusal: &Refusal) {
        let Some(Slot::Loading { waiters, .. } | Slot::Creating(waiters)) =
            self.documents.remove(path)
        else {
            return;
        };
        for waiter in waiters {
            self.refuse_waiter(waiter, refusal.clone());
        }
    }

    pub(super) fn refuse_waiter(&mut self, waiter: Waiter, refusal: Refusal) {
        match waiter {
            Waiter::Open {
                request,
                tool_call_id,
                ..
            } => {
                if self.is_opening(request.conn, &tool_call_id) {
                    self.fail_call(Some(request), request.conn, &tool_call_id, refusal);
                } else {
                    self.refuse(request, refusal);
                }
            }
            Waiter::Create { request, .. }
            | Waiter::Describe { request, .. }
            | Waiter::Patch { request, .. } => {
                self.refuse(request, refusal);
            }
        }
    }

    /// Reads a document again whose replica ran ahead of a failed commit.
    pub(super) fn reload(&mut self, path: &str) {
        let under_way = self.fetches.values().any(
            |fetched| matches!(fetched, Fetched::Reload { path: reloading } if reloading == path),
        );
        if !under_way {
            let fetch = Fetch::Document {
                path: path.to_owned(),
            };
            self.fetch(
                fetch,
                Fetched::Reload {
                    path: path.to_owned(),
                },
            );
        }
    }

    fn reloaded(&mut self, path: &str, result: Result<FetchResult, StoreError>) {
        let stored = match result {
            Ok(FetchResult::Document(Some(stored))) => stored,
            Ok(_) => {
                let text = format!("there is no document at {path:?} any more");
                let gone = Refusal::new(ErrorCode::NotFound, text);
                return self.refuse_waiting(path, &gone);
            }
            // The next timeout tries again.
            Err(error) => {
                tracing::warn!(%error, path, "document not read again yet");
                return self.refuse_waiting(path, &Refusal::storage(&error));
            }
        };
        let fresh = match self.replay(path, &stored) {
            Ok(fresh) => fresh,
            Err(refusal) => return self.refuse_waiting(path, &refusal),
        };
        let Some(Slot::Open(document)) = self.documents.get_mut(path) else {
            return;
        };
        document.reload(fresh);
        self.repair_stored(path);
        let Some(Slot::Open(document)) = self.documents.get_mut(path) else {
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

/// Clients' clocks as the store names them.
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
