//! The toolkit `sync`: documents as streams of updates.
//!
//! Holds no replica: what an update means is for the document crate to say.

use meshagent_protocol::{
    Content, DocPath, InvalidRequest, SyncChunk, SyncCreate, SyncDescribe, SyncDescribed,
    SyncOpenStart, SyncOutput, SyncPatch, SyncPatched,
};
use serde_json::Value;

use crate::connection::{CallError, Connection};
use crate::stream::{StreamEnd, StreamHandle, StreamSender};

/// Creates, describes and opens documents.
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
    /// When the server refuses, for instance because the path is taken (code 1004).
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
    /// When the server refuses, for instance because there is no document (code 1003).
    pub async fn describe(&self, path: &str) -> Result<Value, CallError> {
        let input = SyncDescribe::new(DocPath::parse(path)?);
        Ok(self.describe_with(&input).await?.json)
    }

    /// The content of a document, with what else is asked for: `$id`s, the version, the schema.
    ///
    /// A server that doesn't know these fields leaves them out.
    ///
    /// # Errors
    ///
    /// As [`describe`](Self::describe).
    pub async fn describe_with(&self, input: &SyncDescribe) -> Result<SyncDescribed, CallError> {
        let answer = self
            .room
            .invoke("sync", "describe", input.to_content())
            .await?;
        Ok(SyncDescribed::parse(&answer)?)
    }

    /// Has the server apply a JSON Patch, all of it or nothing; the answer comes when it is on stable storage.
    ///
    /// # Errors
    ///
    /// When the server refuses the patch: 1002 if it is malformed or breaks the schema, 1005 if a `test` failed
    /// or the document has another version, 1003 if there is no document, or the server has no such tool.
    pub async fn patch(&self, input: &SyncPatch) -> Result<SyncPatched, CallError> {
        let answer = self
            .room
            .invoke("sync", "patch", input.to_content())
            .await?;
        Ok(SyncPatched::parse(&answer)?)
    }

    /// Opens a document and waits for its state.
    ///
    /// # Errors
    ///
    /// When the server refuses.
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
            StreamEnd::Disconnected | StreamEnd::Lagged => CallError::Disconnected,
        })?;
        let first =
            first.ok_or_else(|| CallError::unexpected("the stream ended before its state"))?;
        match SyncOutput::parse(&first)? {
            SyncOutput::State {
                path,
                schema,
                update,
            } => Ok(SyncStream {
                path,
                schema,
                state: update,
                handle,
            }),
            SyncOutput::Sync { .. } => Err(CallError::unexpected("the first chunk is no state")),
        }
    }
}

/// An open document: updates in both directions. Dropping it closes the document.
#[derive(Debug)]
pub struct SyncStream {
    path: String,
    schema: Value,
    state: Vec<u8>,
    handle: StreamHandle,
}

impl SyncStream {
    /// The document's path, normalised.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The document's schema.
    pub fn schema(&self) -> &Value {
        &self.schema
    }

    /// The update that brings the replica up to date whose state vector was given to
    /// [`SyncCalls::open`]; empty if there is nothing to bring.
    pub fn state(&self) -> &[u8] {
        &self.state
    }

    /// The next update of somebody else; `None` once the document is closed.
    ///
    /// # Errors
    ///
    /// When the stream ended in another way. Its replica is then out of date: open the document
    /// again with the replica's state vector.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn recv(&mut self) -> Result<Option<Vec<u8>>, StreamEnd> {
        while let Some(chunk) = self.handle.recv().await? {
            match SyncOutput::parse(&chunk) {
                Ok(SyncOutput::State { update, .. } | SyncOutput::Sync { update, .. }) => {
                    return Ok(Some(update));
                }
                // A kind of chunk that this version does not know.
                Err(InvalidRequest { .. }) => {}
            }
        }
        Ok(None)
    }

    /// Sends an update and waits until the server has stored it.
    ///
    /// # Errors
    ///
    /// When the server refuses the update, or the document is closed.
    pub async fn send(&self, update: &[u8]) -> Result<Acknowledgement, CallError> {
        let notice = match self.handle.send(SyncChunk::of_update(update)).await? {
            Content::Json(notice) => Some(notice),
            _ => None,
        };
        Ok(Acknowledgement { notice })
    }

    /// A way to send from elsewhere while this stream receives; the chunks are those of
    /// [`SyncChunk::of_update`].
    pub fn sender(&self) -> StreamSender {
        self.handle.sender()
    }

    /// Closes the document and waits until the server has, too.
    ///
    /// # Errors
    ///
    /// When the stream ended in another way.
    pub async fn close(self) -> Result<(), StreamEnd> {
        self.handle.close().await
    }
}

/// The server has stored an update, and everybody will see it.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Acknowledgement {
    /// What the server has to say about it: what it repaired, or what is missing.
    pub notice: Option<Value>,
}
