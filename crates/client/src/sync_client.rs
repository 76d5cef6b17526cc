//! The `sync` toolkit of a room: live documents.

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use meshagent_document::{ElementType, MeshDocument, MeshSchema};
use meshagent_protocol::{
    DocPath, SyncDescribe, SyncDescribed, SyncOpenStart, SyncPatch, SyncPatched,
};
use serde_json::Value;

use crate::connection::CallError;
use crate::document_task::{CONFLICT_PATIENCE, ClientIds, Conflicts, DocumentTask, new_client_id};
use crate::journal::JournalError;
use crate::live_document::{DocumentEnd, EndWithTask, LiveDocument, SaveError, Shared, Told};
use crate::panics::catch_panic;
use crate::replica::Replica;
use crate::resend::PATIENCE;
use crate::room_client::RoomClient;

/// Creates, describes, patches and opens documents.
#[derive(Clone, Debug)]
pub struct SyncClient {
    room: RoomClient,
}

/// The options for opening a document.
#[derive(Clone, PartialEq, Debug)]
pub struct OpenOptions {
    /// Whether to create the document if it does not exist; true by default.
    pub create: bool,
    /// The schema of a new document.
    pub schema: Option<MeshSchema>,
    /// The path of a schema file in the room's storage, for a new document.
    pub schema_path: Option<String>,
    /// The content of a new document, `{root tag: {…}}`.
    pub initial_json: Option<Value>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            create: true,
            schema: None,
            schema_path: None,
            initial_json: None,
        }
    }
}

/// Why a document can't be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The path can't be that of a document.
    #[error("the path is invalid")]
    InvalidPath(#[from] meshagent_protocol::InvalidPath),
    /// The server refuses, the room has ended, or the content can't be read.
    #[error(transparent)]
    Ended(DocumentEnd),
    /// The document's journal can't be read or written, another program has it open, or it is
    /// damaged.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl From<DocumentEnd> for OpenError {
    fn from(end: DocumentEnd) -> Self {
        match end {
            DocumentEnd::Journal(error) => Self::Journal(error),
            end => Self::Ended(end),
        }
    }
}

impl SyncClient {
    pub(crate) fn new(room: RoomClient) -> Self {
        Self { room }
    }

    /// Creates a document. The server chooses the content and the schema if they are `None`.
    ///
    /// # Errors
    ///
    /// If the path is invalid, the server refuses, for instance because the path exists (code
    /// 1004), or there will be no connection.
    ///
    /// ```
    /// # use meshagent_client::CallError;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// let json = json!({ "document": { "content": [{ "body": { "text": "tea" } }] } });
    /// room.sync().create("notes.document", Some(json), None).await?;
    /// let again = room.sync().create("notes.document", None, None).await;
    /// assert!(matches!(again, Err(CallError::Refused { code: Some(1004), .. })));
    /// # Ok(())
    /// # });
    /// ```
    pub async fn create(
        &self,
        path: &str,
        json: Option<Value>,
        schema: Option<&MeshSchema>,
    ) -> Result<(), CallError> {
        let connection = self.room.connection().await?;
        let schema = schema.map(MeshSchema::to_json);
        connection.sync().create(path, json, schema).await
    }

    /// The content of a document as JSON, `{root tag: {…}}`, without opening it.
    ///
    /// # Errors
    ///
    /// If the path is invalid, if the server refuses the request, for instance with code 1003
    /// because the document does not exist, or if the room has ended.
    ///
    /// ```
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// room.sync().create("notes.document", None, None).await?;
    /// let json = room.sync().describe("notes.document").await?;
    /// assert_eq!(json, json!({ "document": { "content": [] } }));
    /// # Ok(())
    /// # });
    /// ```
    pub async fn describe(&self, path: &str) -> Result<Value, CallError> {
        self.room.connection().await?.sync().describe(path).await
    }

    /// The content of a document, plus the requested parts: `$id`s, the version, the schema.
    ///
    /// Servers that do not support these parts omit them.
    ///
    /// # Errors
    ///
    /// As [`describe`](Self::describe).
    ///
    /// ```
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_protocol::DocPath;
    /// # use meshagent_protocol::SyncDescribe;
    /// # meshagent_testing::in_room(async |room| {
    /// room.sync().create("notes.document", None, None).await?;
    /// let mut input = SyncDescribe::new(DocPath::parse("notes.document")?);
    /// input.with_version = true;
    /// input.with_schema = true;
    /// let described = room.sync().describe_with(&input).await?;
    /// assert!(described.version.is_some());
    /// let schema = MeshSchema::from_json(&described.schema.ok_or("it was asked for")?)?;
    /// assert_eq!(schema, MeshSchema::builtin("document").ok_or("there is one")?);
    /// # Ok(())
    /// # });
    /// ```
    pub async fn describe_with(&self, input: &SyncDescribe) -> Result<SyncDescribed, CallError> {
        let connection = self.room.connection().await?;
        connection.sync().describe_with(input).await
    }

    /// Has the server apply a JSON Patch in one transaction, without opening the document here.
    /// Returns once the change is on stable storage. Participants with the document open receive
    /// the change.
    ///
    /// # Errors
    ///
    /// If the server refuses the patch: with code 1002 if it is malformed or violates the schema,
    /// 1005 if a `test` failed or the document has another version, 1003 if the document does not
    /// exist or the server lacks this tool.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the patch may be applied.
    ///
    /// ```
    /// # use meshagent_client::CallError;
    /// # use meshagent_protocol::DocPath;
    /// # use meshagent_protocol::SyncDescribe;
    /// # use meshagent_protocol::SyncPatch;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let path = DocPath::parse("notes.document")?;
    /// room.sync().create("notes.document", None, None).await?;
    /// let mut input = SyncDescribe::new(path.clone());
    /// input.with_version = true;
    /// let seen = room.sync().describe_with(&input).await?;
    ///
    /// let tea = json!({ "body": { "text": "tea" } });
    /// let add = json!({ "op": "add", "path": "/document/content/-", "value": tea });
    /// let mut patch = SyncPatch::new(path, vec![add]);
    /// // Nothing is overwritten that was not seen.
    /// patch.if_version = seen.version.clone();
    /// patch.dry_run = true;
    /// assert!(room.sync().patch(&patch).await?.operations[0].changed);
    /// assert_eq!(room.sync().describe("notes.document").await?, seen.json);
    ///
    /// patch.dry_run = false;
    /// let patched = room.sync().patch(&patch).await?;
    /// assert_ne!(Some(patched.version), seen.version);
    /// let again = room.sync().patch(&patch).await;
    /// assert!(matches!(again, Err(CallError::Refused { code: Some(1005), .. })));
    /// # Ok(())
    /// # });
    /// ```
    pub async fn patch(&self, input: &SyncPatch) -> Result<SyncPatched, CallError> {
        self.room.connection().await?.sync().patch(input).await
    }

    /// Opens a document, and creates it if it does not exist. All handles of one path share one
    /// document.
    ///
    /// Waits until the server's state has arrived. If the journal holds the document, this returns
    /// without waiting for the server.
    ///
    /// # Errors
    ///
    /// If the path is invalid, the server refuses, the room has ended, or the journal can't be
    /// used.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the document is not opened.
    ///
    /// ```
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// let document = room.sync().open("notes.document").await?;
    /// let again = room.sync().open("notes.document").await?;
    /// document.edit(|d| d.append_child(Target::Root, json!({ "body": { "text": "tea" } })))??;
    /// assert_eq!(again.to_json(), document.to_json());
    /// # Ok(())
    /// # });
    /// ```
    pub async fn open(&self, path: &str) -> Result<LiveDocument, OpenError> {
        self.open_with(path, &OpenOptions::default()).await
    }

    /// Opens a document with options. They only matter to the first opening; later ones join that
    /// document.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    ///
    /// # Cancel safety
    ///
    /// When dropped, the document is not opened.
    ///
    /// ```
    /// # use meshagent_client::OpenError;
    /// # use meshagent_client::OpenOptions;
    /// # meshagent_testing::in_room(async |room| {
    /// let options = OpenOptions {
    ///     create: false,
    ///     ..OpenOptions::default()
    /// };
    /// let missing = room.sync().open_with("notes.document", &options).await;
    /// assert!(matches!(missing, Err(OpenError::Ended(_))));
    /// # Ok(())
    /// # });
    /// ```
    pub async fn open_with(
        &self,
        path: &str,
        options: &OpenOptions,
    ) -> Result<LiveDocument, OpenError> {
        let path = DocPath::parse(path)?;
        let document = self.join_or_begin(&path, options)?;
        let ready = document.ready().await;
        if let (Err(DocumentEnd::Journal(error)), Some(journals)) = (&ready, self.room.journals()) {
            journals.reported(error);
        }
        ready?;
        Ok(document)
    }

    /// Closes the newest opening of a document, and waits until all edits are saved. The stream
    /// ends with the last opening. Remaining handles can read the document, but not edit it.
    ///
    /// # Errors
    ///
    /// As [`LiveDocument::saved`] of that opening. The opening ends nevertheless.
    ///
    /// # Cancel safety
    ///
    /// If dropped, the opening ends without waiting.
    ///
    /// ```
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// let document = room.sync().open("notes.document").await?;
    /// document.edit(|d| d.append_child(Target::Root, json!({ "body": { "text": "tea" } })))??;
    /// room.sync().close("notes.document").await?;
    /// assert!(document.is_saved());
    /// # Ok(())
    /// # });
    /// ```
    pub async fn close(&self, path: &str) -> Result<(), SaveError> {
        let Some(shared) = self.find(path) else {
            return Ok(());
        };
        let claim = shared.claim_newest();
        let told = match &claim {
            Some(claim) => Told::clone(&claim.told),
            None if shared.is_ended() => return Ok(()),
            // All handles were dropped or have a pending close. Refusals that they have not
            // reported are not reported here; edits in flight are still awaited.
            None => Told::new(shared.lock().replica.saved_number().into()),
        };
        shared.saved(&told).await
    }

    /// Applies an encoded update to an open document, as if it had been edited here.
    ///
    /// # Errors
    ///
    /// If the document is not open, [`open`](Self::open) has not returned yet, or the bytes are not
    /// an update.
    ///
    /// ```
    /// # use meshagent_client::SyncError;
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let schema = MeshSchema::builtin("document").ok_or("there is one")?;
    /// # let mut elsewhere = MeshDocument::new(schema, 7);
    /// # elsewhere.append_child(
    /// #     Target::Root,
    /// #     json!({ "body": { "text": "tea" } }),
    /// #     &mut || "id-1".to_owned(),
    /// # )?;
    /// # let update = elsewhere.encode_state();
    /// assert!(matches!(room.sync().sync("notes.document", &update), Err(SyncError::NotOpen)));
    /// let document = room.sync().open("notes.document").await?;
    /// room.sync().sync("notes.document", &update)?;
    /// assert_eq!(document.read(|d| d.root().child_count()), 1);
    /// room.sync().close("notes.document").await?;
    /// assert!(matches!(room.sync().sync("notes.document", &update), Err(SyncError::NotOpen)));
    /// # Ok(())
    /// # });
    /// ```
    pub fn sync(&self, path: &str, data: &[u8]) -> Result<(), SyncError> {
        let shared = self.shared(path).filter(|shared| !shared.is_abandoned());
        let shared = shared.ok_or(SyncError::NotOpen)?;
        if shared.adopt(data.to_vec())? {
            Ok(())
        } else {
            Err(SyncError::NotOpen)
        }
    }

    /// The document, unless it has ended.
    fn shared(&self, path: &str) -> Option<Arc<Shared>> {
        self.find(path).filter(|shared| !shared.is_ended())
    }

    /// The document, while anything refers to it.
    fn find(&self, path: &str) -> Option<Arc<Shared>> {
        self.find_other(&DocPath::parse(path).ok()?, None)
    }

    /// Joins the open document, or begins to open it. The content may not be available yet.
    fn join_or_begin(
        &self,
        path: &DocPath,
        options: &OpenOptions,
    ) -> Result<LiveDocument, OpenError> {
        let mut ended = None;
        loop {
            if let Some(shared) = self.find_other(path, ended.as_ref()) {
                if let Some(document) = LiveDocument::join(&shared, self.room.clone()) {
                    return Ok(document);
                }
                ended = Some(shared);
            }
            let mut start = SyncOpenStart::new(path.clone());
            start.create = options.create;
            start.schema = options.schema.as_ref().map(MeshSchema::to_json);
            start.schema_path = options
                .schema_path
                .as_deref()
                .map(DocPath::parse)
                .transpose()?;
            start.initial_json.clone_from(&options.initial_json);

            let shared = self.new_shared(path)?;
            let document = LiveDocument::new(Arc::clone(&shared), self.room.clone());
            if self.enter(path, &shared, ended.as_ref()) {
                self.spawn(shared, start, PATIENCE);
                return Ok(document);
            }
        }
    }

    /// Begins to send the edits in a document's journal; `None` if the document is open already.
    /// The server has `patience` for each answer.
    pub(crate) fn resend(&self, path: &DocPath, patience: Duration) -> Option<Arc<Shared>> {
        let ended = self.find_other(path, None);
        if ended.as_ref().is_some_and(|shared| !shared.is_ended()) {
            return None;
        }
        let shared = self.new_shared(path).ok()?;
        shared.begin_to_resend();
        if !self.enter(path, &shared, ended.as_ref()) {
            return None;
        }
        let start = SyncOpenStart::new(path.clone());
        self.spawn(Arc::clone(&shared), start, patience);
        Some(shared)
    }

    /// The document at a path, unless it is `ended`.
    ///
    /// The map's lock is never held together with a document's: an edit closure may look up another
    /// document, and an edit may take long.
    fn find_other(&self, path: &DocPath, ended: Option<&Arc<Shared>>) -> Option<Arc<Shared>> {
        let documents = self.room.documents();
        let documents = documents.lock().unwrap_or_else(PoisonError::into_inner);
        let found = documents.get(path.as_str()).and_then(Weak::upgrade)?;
        let is_ended = ended.is_some_and(|ended| Arc::ptr_eq(ended, &found));
        (!is_ended).then_some(found)
    }

    /// Inserts a document at its path, or replaces the one that has `ended`. Returns false if there
    /// is another one.
    fn enter(&self, path: &DocPath, shared: &Arc<Shared>, ended: Option<&Arc<Shared>>) -> bool {
        let documents = self.room.documents();
        let mut documents = documents.lock().unwrap_or_else(PoisonError::into_inner);
        documents.retain(|_, shared| shared.strong_count() > 0);
        let found = documents.get(path.as_str()).and_then(Weak::upgrade);
        let is_free = match (&found, ended) {
            (None, _) => true,
            (Some(found), Some(ended)) => Arc::ptr_eq(found, ended),
            (Some(_), None) => false,
        };
        if is_free {
            documents.insert(path.as_str().to_owned(), Arc::downgrade(shared));
        }
        is_free
    }

    /// An empty document. It is not visible: handles are returned once the journal's or the
    /// server's state has replaced it.
    fn new_shared(&self, path: &DocPath) -> Result<Arc<Shared>, DocumentEnd> {
        let replica = Replica::new(MeshDocument::new(nothing()?, new_client_id()));
        Ok(Shared::new(path.as_str(), replica, self.room.journals()))
    }

    fn spawn(&self, shared: Arc<Shared>, start: SyncOpenStart, patience: Duration) {
        let ends = EndWithTask(Arc::clone(&shared));
        let given_up = self.room.given_up();
        let journals = self.room.journals();
        let task = DocumentTask {
            shared,
            journals: journals.clone(),
            given_up: given_up.clone(),
            link: self.room.link(),
            closing: self.room.closing(),
            start,
            patience,
            is_fresh: true,
            was_open: false,
            conflicts: Conflicts::new(CONFLICT_PATIENCE),
            mismatches: 0,
            client_ids: ClientIds::Random,
        };
        self.room.tasks().spawn(async move {
            let ended = catch_panic(task.run()).await;
            let has_left = given_up.settle(&ends.0, ended).await;
            // A worker that opened the document for its journal schedules the retry itself.
            if has_left
                && let Some(journals) = journals
                && !ends.0.is_resending()
            {
                journals.resends.left(&ends.0.path);
            }
        });
    }
}

/// The schema of an empty document.
pub(crate) fn nothing() -> Result<MeshSchema, DocumentEnd> {
    MeshSchema::new("nothing", vec![ElementType::new("nothing")])
        .map_err(|error| DocumentEnd::Unreadable(error.to_string()))
}

/// Why an encoded update was not applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SyncError {
    /// The document is not open.
    #[error("the document is not open; open it first")]
    NotOpen,
    /// The bytes are not an update.
    #[error("the data is no update")]
    Invalid(#[from] meshagent_document::DecodeError),
}
