//! The `sync` toolkit on one connection: documents as streams of updates.
//!
//! There is no replica: updates are opaque bytes here.

use meshagent_protocol::{
    Content, DocPath, SyncChunk, SyncCreate, SyncDescribe, SyncDescribed, SyncOpenStart,
    SyncOutput, SyncPatch, SyncPatched, decode_base64,
};
use serde_json::Value;

use crate::connection::{CallError, Connection};
use crate::stream::{StreamEnd, StreamHandle, StreamSender};

/// Creates, describes, patches and opens documents.
#[derive(Clone, Debug)]
pub struct SyncCalls {
    room: Connection,
}

impl SyncCalls {
    pub(crate) fn new(room: Connection) -> Self {
        Self { room }
    }

    /// Creates a document.
    ///
    /// # Errors
    ///
    /// If the path is invalid, or the server refuses, for instance because the path exists (code
    /// 1004).
    ///
    /// ```
    /// # use meshagent_client::CallError;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let connection = room.connection().await?;
    /// let json = json!({ "document": { "content": [{ "body": { "text": "tea" } }] } });
    /// connection.sync().create("notes.document", Some(json), None).await?;
    /// let again = connection.sync().create("notes.document", None, None).await;
    /// assert!(matches!(again, Err(CallError::Refused { code: Some(1004), .. })));
    /// # Ok(())
    /// # });
    /// ```
    pub async fn create(
        &self,
        path: &str,
        json: Option<Value>,
        schema: Option<Value>,
    ) -> Result<(), CallError> {
        let input = SyncCreate {
            path: DocPath::parse(path)?,
            json,
            schema,
            schema_path: None,
        };
        self.room
            .invoke("sync", "create", input.to_content())
            .await?;
        Ok(())
    }

    /// The content of a document as JSON: `{tag: {attributes…, children: […]}}`.
    ///
    /// # Errors
    ///
    /// If the path is invalid, or the server refuses the request, for instance with code 1003
    /// because the document does not exist.
    ///
    /// ```
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let connection = room.connection().await?;
    /// connection.sync().create("notes.document", None, None).await?;
    /// let json = connection.sync().describe("notes.document").await?;
    /// assert_eq!(json, json!({ "document": { "content": [] } }));
    /// # Ok(())
    /// # });
    /// ```
    pub async fn describe(&self, path: &str) -> Result<Value, CallError> {
        let input = SyncDescribe::new(DocPath::parse(path)?);
        Ok(self.describe_with(&input).await?.json)
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
    /// # use meshagent_protocol::DocPath;
    /// # use meshagent_protocol::SyncDescribe;
    /// # meshagent_testing::in_room(async |room| {
    /// # let connection = room.connection().await?;
    /// connection.sync().create("notes.document", None, None).await?;
    /// let mut input = SyncDescribe::new(DocPath::parse("notes.document")?);
    /// input.with_version = true;
    /// let described = connection.sync().describe_with(&input).await?;
    /// assert!(described.version.is_some() && described.schema.is_none());
    /// # Ok(())
    /// # });
    /// ```
    pub async fn describe_with(&self, input: &SyncDescribe) -> Result<SyncDescribed, CallError> {
        let answer = self
            .room
            .invoke("sync", "describe", input.to_content())
            .await?;
        Ok(SyncDescribed::parse(&answer)?)
    }

    /// Has the server apply a JSON Patch in one transaction. Returns once the change is on stable
    /// storage.
    ///
    /// # Errors
    ///
    /// If the server refuses the patch: with code 1002 if it is malformed or violates the schema,
    /// 1005 if a `test` failed or the document has another version, 1003 if the document does not
    /// exist or the server lacks this tool.
    ///
    /// ```
    /// # use meshagent_client::CallError;
    /// # use meshagent_protocol::DocPath;
    /// # use meshagent_protocol::SyncPatch;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let connection = room.connection().await?;
    /// connection.sync().create("notes.document", None, None).await?;
    /// let tea = json!({ "body": { "text": "tea" } });
    /// let add = json!({ "op": "add", "path": "/document/content/-", "value": tea });
    /// let mut input = SyncPatch::new(DocPath::parse("notes.document")?, vec![add]);
    /// let patched = connection.sync().patch(&input).await?;
    /// assert!(patched.operations[0].changed);
    /// // For a version other than the present one.
    /// input.if_version = Some("another".to_owned());
    /// let refused = connection.sync().patch(&input).await;
    /// assert!(matches!(refused, Err(CallError::Refused { code: Some(1005), .. })));
    /// # Ok(())
    /// # });
    /// ```
    pub async fn patch(&self, input: &SyncPatch) -> Result<SyncPatched, CallError> {
        let answer = self
            .room
            .invoke("sync", "patch", input.to_content())
            .await?;
        Ok(SyncPatched::parse(&answer)?)
    }

    /// Opens a document, and waits for its state.
    ///
    /// # Errors
    ///
    /// If the server refuses, or the connection is gone.
    ///
    /// ```
    /// # use meshagent_protocol::DocPath;
    /// # use meshagent_protocol::SyncOpenStart;
    /// # meshagent_testing::in_room(async |room| {
    /// # let connection = room.connection().await?;
    /// let start = SyncOpenStart::new(DocPath::parse("notes.document")?);
    /// let stream = connection.sync().open(&start).await?;
    /// assert_eq!(stream.path(), "notes.document");
    /// # Ok(())
    /// # });
    /// ```
    pub async fn open(&self, start: &SyncOpenStart) -> Result<SyncStream, CallError> {
        let mut handle = self
            .room
            .open_stream("sync", "open", start.to_content())
            .await?;
        let first = handle.recv().await.map_err(|end| match end {
            StreamEnd::Refused(error) => CallError::Refused {
                code: error.code,
                text: error.text,
            },
            StreamEnd::Unreadable(error) => CallError::Unexpected(error),
            StreamEnd::Disconnected | StreamEnd::Lagged => CallError::Disconnected,
        })?;
        // A server that shuts down closes the call without a state.
        let first = first.ok_or(CallError::Disconnected)?;
        match SyncOutput::parse(&first)? {
            SyncOutput::State {
                path,
                schema,
                update,
            } => Ok(SyncStream {
                path,
                schema,
                state: update,
                server_vector: server_vector(handle.first_answer()),
                identity: identity(handle.first_answer()),
                handle,
            }),
            SyncOutput::Sync { .. } => Err(CallError::unexpected("the first chunk is no state")),
        }
    }
}

/// An open document as a stream of updates in both directions. Dropping it closes the document.
#[derive(Debug)]
pub struct SyncStream {
    path: String,
    schema: Value,
    state: Vec<u8>,
    server_vector: Option<Vec<u8>>,
    identity: Option<String>,
    handle: StreamHandle,
}

impl SyncStream {
    /// The document's normalized path.
    ///
    /// ```
    /// # use meshagent_protocol::DocPath;
    /// # use meshagent_protocol::SyncOpenStart;
    /// # meshagent_testing::in_room(async |room| {
    /// # let connection = room.connection().await?;
    /// # let start = SyncOpenStart::new(DocPath::parse("/notes.document")?);
    /// let stream = connection.sync().open(&start).await?;
    /// assert_eq!(stream.path(), "notes.document");
    /// # Ok(())
    /// # });
    /// ```
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The document's schema as JSON.
    ///
    /// ```
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_protocol::DocPath;
    /// # use meshagent_protocol::SyncOpenStart;
    /// # meshagent_testing::in_room(async |room| {
    /// # let connection = room.connection().await?;
    /// # let start = SyncOpenStart::new(DocPath::parse("/notes.document")?);
    /// let stream = connection.sync().open(&start).await?;
    /// let schema = MeshSchema::from_json(stream.schema())?;
    /// assert_eq!(schema, MeshSchema::builtin("document").ok_or("there is one")?);
    /// # Ok(())
    /// # });
    /// ```
    pub fn schema(&self) -> &Value {
        &self.schema
    }

    /// The v1 update with the operations that the state vector given to [`SyncCalls::open`] lacks;
    /// empty if it lacks none.
    ///
    /// ```
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_protocol::DocPath;
    /// # use meshagent_protocol::SyncOpenStart;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let connection = room.connection().await?;
    /// # let start = SyncOpenStart::new(DocPath::parse("/notes.document")?);
    /// let stream = connection.sync().open(&start).await?;
    /// let mut document = MeshDocument::new(MeshSchema::from_json(stream.schema())?, 7);
    /// document.apply_update(stream.state())?;
    /// assert_eq!(document.to_json(false), json!({ "document": { "content": [] } }));
    /// # Ok(())
    /// # });
    /// ```
    pub fn state(&self) -> &[u8] {
        &self.state
    }

    /// Distinguishes this document from earlier ones at its path. `None` if it was not requested
    /// ([`SyncOpenStart::identity`]) or the server does not support it.
    ///
    /// ```
    /// # use meshagent_protocol::DocPath;
    /// # use meshagent_protocol::SyncOpenStart;
    /// # meshagent_testing::in_room(async |room| {
    /// # let connection = room.connection().await?;
    /// let mut start = SyncOpenStart::new(DocPath::parse("notes.document")?);
    /// start.identity = Some(String::new());
    /// let stream = connection.sync().open(&start).await?;
    /// assert!(stream.identity().is_some());
    /// # Ok(())
    /// # });
    /// ```
    pub fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }

    /// The server's state vector, if the server lacks operations of the vector that the document
    /// was opened with, for instance after a restore from an older copy.
    pub(crate) fn server_vector(&self) -> Option<&[u8]> {
        self.server_vector.as_deref()
    }

    /// The next update from another participant; `None` once the document is closed.
    ///
    /// # Errors
    ///
    /// If the stream ended in another way. The replica then misses updates: open the document again
    /// with its state vector.
    ///
    /// # Cancel safety
    ///
    /// No update is lost.
    ///
    /// ```
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_document::Target;
    /// # use meshagent_protocol::DocPath;
    /// # use meshagent_protocol::SyncOpenStart;
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
    /// # let connection = room.connection().await?;
    /// # let start = SyncOpenStart::new(DocPath::parse("/notes.document")?);
    /// let mut stream = connection.sync().open(&start).await?;
    /// let other = connection.sync().open(&start).await?;
    /// other.send(&update).await?;
    /// assert!(stream.recv().await?.is_some());
    /// # Ok(())
    /// # });
    /// ```
    pub async fn recv(&mut self) -> Result<Option<Vec<u8>>, StreamEnd> {
        while let Some(chunk) = self.handle.recv().await? {
            match SyncOutput::parse(&chunk) {
                Ok(SyncOutput::State { update, .. } | SyncOutput::Sync { update, .. }) => {
                    return Ok(Some(update));
                }
                Err(error) if is_of_document(&chunk) => return Err(StreamEnd::Unreadable(error)),
                // An unknown kind of chunk, from a later server.
                Err(_) => {}
            }
        }
        Ok(None)
    }

    /// Sends a v1 update, and waits until the server has stored it.
    ///
    /// # Errors
    ///
    /// If the server refuses the update, or the document is closed.
    ///
    /// ```
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_document::Target;
    /// # use meshagent_protocol::DocPath;
    /// # use meshagent_protocol::SyncOpenStart;
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
    /// # let connection = room.connection().await?;
    /// # let start = SyncOpenStart::new(DocPath::parse("/notes.document")?);
    /// let stream = connection.sync().open(&start).await?;
    /// let acknowledged = stream.send(&update).await?;
    /// assert_eq!(acknowledged.notice, None);
    /// # Ok(())
    /// # });
    /// ```
    pub async fn send(&self, update: &[u8]) -> Result<Acknowledgement, CallError> {
        let notice = match self.handle.send(SyncChunk::of_update(update)).await? {
            Content::Json(notice) => Some(notice),
            _ => None,
        };
        Ok(Acknowledgement { notice })
    }

    /// A sender for use elsewhere while this stream receives. Its chunks are those of
    /// [`SyncChunk::of_update`].
    ///
    /// ```
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_document::Target;
    /// # use meshagent_protocol::DocPath;
    /// # use meshagent_protocol::SyncChunk;
    /// # use meshagent_protocol::SyncOpenStart;
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
    /// # let connection = room.connection().await?;
    /// # let start = SyncOpenStart::new(DocPath::parse("/notes.document")?);
    /// let stream = connection.sync().open(&start).await?;
    /// let sender = stream.sender();
    /// sender.send(SyncChunk::of_update(&update)).await?;
    /// # Ok(())
    /// # });
    /// ```
    pub fn sender(&self) -> StreamSender {
        self.handle.sender()
    }

    /// Closes the document, and waits until the server has closed it, too.
    ///
    /// # Errors
    ///
    /// If the stream ended in another way.
    ///
    /// ```
    /// # use meshagent_protocol::DocPath;
    /// # use meshagent_protocol::SyncOpenStart;
    /// # meshagent_testing::in_room(async |room| {
    /// # let connection = room.connection().await?;
    /// # let start = SyncOpenStart::new(DocPath::parse("/notes.document")?);
    /// let stream = connection.sync().open(&start).await?;
    /// stream.close().await?;
    /// # Ok(())
    /// # });
    /// ```
    pub async fn close(self) -> Result<(), StreamEnd> {
        self.handle.close().await
    }
}

/// The server has stored an update.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Acknowledgement {
    /// The server's notice: what it repaired, or what is missing. `None` if there is none.
    pub notice: Option<Value>,
}

/// The empty state vector in base64.
pub(crate) const NOTHING: &str = "AA==";

pub(crate) fn identity(answer: &Content) -> Option<String> {
    let Content::Json(notice) = answer else {
        return None;
    };
    notice.get("identity")?.as_str().map(str::to_owned)
}

/// The server's state vector, if the answer says that the server lacks operations.
pub(crate) fn server_vector(answer: &Content) -> Option<Vec<u8>> {
    let Content::Json(notice) = answer else {
        return None;
    };
    notice.get("ahead")?;
    let vector = notice.get("state_vector").and_then(Value::as_str);
    // For a document with very many clients the server omits its vector. It then receives
    // everything.
    decode_base64(vector.unwrap_or(NOTHING).as_bytes()).ok()
}

/// Whether a chunk is of a kind that carries document content.
fn is_of_document(chunk: &Content) -> bool {
    let Content::Binary { headers, .. } = chunk else {
        return false;
    };
    let kind = headers.get("kind").and_then(Value::as_str);
    matches!(kind, Some("state" | "sync"))
}
