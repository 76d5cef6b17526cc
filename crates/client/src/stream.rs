//! The handle of a streamed call.

use meshagent_protocol::{Content, InvalidRequest, StreamError, StreamId};
use tokio::sync::{mpsc, oneshot};

use crate::connection::{CallError, Commands};
use crate::driver::{Answer, Command};

/// A streamed call: chunks in both directions until either side closes.
///
/// Up to 1,024 chunks wait to be received. A stream that falls further behind is closed with
/// [`StreamEnd::Lagged`], so that it does not delay the connection's other streams and calls.
/// Dropping the handle closes the call.
#[derive(Debug)]
pub struct StreamHandle {
    sender: StreamSender,
    chunks: mpsc::Receiver<Content>,
    end: EndOfStream,
    answer: Content,
}

#[derive(Debug)]
enum EndOfStream {
    Known(Result<(), StreamEnd>),
    Unknown(oneshot::Receiver<Result<(), StreamEnd>>),
}

/// Why a stream ended other than by a close.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamEnd {
    /// The connection is gone.
    #[error("the connection is gone, connect again")]
    Disconnected,
    /// Too many chunks were waiting to be received.
    #[error("the stream fell too far behind and was closed, open it again")]
    Lagged,
    /// The server ended the call.
    #[error(transparent)]
    Refused(#[from] StreamError),
    /// The server sent a chunk that can't be read.
    #[error("what was sent can't be read: {0}")]
    Unreadable(InvalidRequest),
}

impl StreamHandle {
    pub(crate) fn new(
        stream: StreamId,
        commands: Commands,
        chunks: mpsc::Receiver<Content>,
        end: oneshot::Receiver<Result<(), StreamEnd>>,
        answer: Content,
    ) -> Self {
        Self {
            sender: StreamSender { stream, commands },
            chunks,
            end: EndOfStream::Unknown(end),
            answer,
        }
    }

    /// The server's answer to the first chunk: `empty`, or `json` with a notice.
    pub(crate) fn first_answer(&self) -> &Content {
        &self.answer
    }

    /// The next chunk from the server; `None` once the server has closed the call.
    ///
    /// # Errors
    ///
    /// If the stream ended in another way. Earlier chunks are returned first.
    ///
    /// # Cancel safety
    ///
    /// No chunk is lost.
    ///
    /// ```
    /// # use meshagent_protocol::Content;
    /// # use meshagent_protocol::DocPath;
    /// # use meshagent_protocol::SyncOpenStart;
    /// # meshagent_testing::in_room(async |room| {
    /// # let connection = room.connection().await?;
    /// # let start = SyncOpenStart::new(DocPath::parse("notes.document")?).to_content();
    /// let mut stream = connection.open_stream("sync", "open", start).await?;
    /// let state = stream.recv().await?;
    /// assert!(matches!(state, Some(Content::Binary { .. })));
    /// # Ok(())
    /// # });
    /// ```
    pub async fn recv(&mut self) -> Result<Option<Content>, StreamEnd> {
        if let Some(chunk) = self.chunks.recv().await {
            return Ok(Some(chunk));
        }
        if let EndOfStream::Unknown(end) = &mut self.end {
            let end = end.await.unwrap_or(Err(StreamEnd::Disconnected));
            self.end = EndOfStream::Known(end);
        }
        match &self.end {
            EndOfStream::Known(Err(end)) => Err(end.clone()),
            EndOfStream::Known(Ok(())) | EndOfStream::Unknown(_) => Ok(None),
        }
    }

    /// Sends a chunk and waits for its answer, as [`StreamSender::send`].
    ///
    /// # Errors
    ///
    /// If the server refuses the chunk, or the stream has ended.
    ///
    /// ```
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_document::Target;
    /// # use meshagent_protocol::Content;
    /// # use meshagent_protocol::DocPath;
    /// # use meshagent_protocol::SyncChunk;
    /// # use meshagent_protocol::SyncOpenStart;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let connection = room.connection().await?;
    /// # let start = SyncOpenStart::new(DocPath::parse("notes.document")?).to_content();
    /// # let schema = MeshSchema::builtin("document").ok_or("there is one")?;
    /// # let mut elsewhere = MeshDocument::new(schema, 7);
    /// # elsewhere.append_child(
    /// #     Target::Root,
    /// #     json!({ "body": { "text": "tea" } }),
    /// #     &mut || "id-1".to_owned(),
    /// # )?;
    /// # let update = SyncChunk::of_update(&elsewhere.encode_state());
    /// let stream = connection.open_stream("sync", "open", start).await?;
    /// let answer = stream.send(update).await?;
    /// assert_eq!(answer, Content::Empty);
    /// # Ok(())
    /// # });
    /// ```
    pub async fn send(&self, chunk: Content) -> Result<Content, CallError> {
        self.sender.send(chunk).await
    }

    /// A sender for use elsewhere while this handle receives.
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
    /// # let connection = room.connection().await?;
    /// # let start = SyncOpenStart::new(DocPath::parse("notes.document")?).to_content();
    /// # let schema = MeshSchema::builtin("document").ok_or("there is one")?;
    /// # let mut elsewhere = MeshDocument::new(schema, 7);
    /// # elsewhere.append_child(
    /// #     Target::Root,
    /// #     json!({ "body": { "text": "tea" } }),
    /// #     &mut || "id-1".to_owned(),
    /// # )?;
    /// # let update = SyncChunk::of_update(&elsewhere.encode_state());
    /// let mut stream = connection.open_stream("sync", "open", start).await?;
    /// let sender = stream.sender();
    /// let sending = tokio::spawn(async move { sender.send(update).await });
    /// assert!(stream.recv().await?.is_some());
    /// sending.await??;
    /// # Ok(())
    /// # });
    /// ```
    pub fn sender(&self) -> StreamSender {
        self.sender.clone()
    }

    /// Closes the call, and waits until the server has closed it, too. Chunks that arrive meanwhile
    /// are dropped.
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
    /// # let start = SyncOpenStart::new(DocPath::parse("notes.document")?).to_content();
    /// let stream = connection.open_stream("sync", "open", start).await?;
    /// stream.close().await?;
    /// # Ok(())
    /// # });
    /// ```
    pub async fn close(mut self) -> Result<(), StreamEnd> {
        self.sender.close().await;
        while self.recv().await?.is_some() {}
        Ok(())
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        let stream = self.sender.stream;
        // If the queue is full, the driver closes the call at the next chunk, which has no
        // receiver.
        let commands = &self.sender.commands;
        commands.try_send(Command::CloseStream { stream });
    }
}

/// The sending side of a streamed call; cheap to clone.
#[derive(Clone, Debug)]
pub struct StreamSender {
    stream: StreamId,
    commands: Commands,
}

impl StreamSender {
    /// Sends a chunk and waits for its answer. Several chunks may be in flight; they are sent in
    /// the order of the first polls.
    ///
    /// # Errors
    ///
    /// If the server refuses the chunk, or the stream has ended.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the chunk may have been sent.
    ///
    /// ```
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_document::Target;
    /// # use meshagent_protocol::Content;
    /// # use meshagent_protocol::DocPath;
    /// # use meshagent_protocol::SyncChunk;
    /// # use meshagent_protocol::SyncOpenStart;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let connection = room.connection().await?;
    /// # let start = SyncOpenStart::new(DocPath::parse("notes.document")?).to_content();
    /// # let schema = MeshSchema::builtin("document").ok_or("there is one")?;
    /// # let mut elsewhere = MeshDocument::new(schema, 7);
    /// # elsewhere.append_child(
    /// #     Target::Root,
    /// #     json!({ "body": { "text": "tea" } }),
    /// #     &mut || "id-1".to_owned(),
    /// # )?;
    /// # let update = SyncChunk::of_update(&elsewhere.encode_state());
    /// let stream = connection.open_stream("sync", "open", start).await?;
    /// let answer = stream.sender().send(update).await?;
    /// assert_eq!(answer, Content::Empty);
    /// # Ok(())
    /// # });
    /// ```
    pub async fn send(&self, chunk: Content) -> Result<Content, CallError> {
        self.begin(chunk).await?.wait().await
    }

    /// Sends a chunk, and returns a handle to wait for its answer.
    ///
    /// # Errors
    ///
    /// If the connection is gone.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the chunk may have been sent.
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
    /// # let connection = room.connection().await?;
    /// # let start = SyncOpenStart::new(DocPath::parse("notes.document")?).to_content();
    /// # let schema = MeshSchema::builtin("document").ok_or("there is one")?;
    /// # let mut elsewhere = MeshDocument::new(schema, 7);
    /// # elsewhere.append_child(
    /// #     Target::Root,
    /// #     json!({ "body": { "text": "tea" } }),
    /// #     &mut || "id-1".to_owned(),
    /// # )?;
    /// # let update = SyncChunk::of_update(&elsewhere.encode_state());
    /// let stream = connection.open_stream("sync", "open", start).await?;
    /// // Several can be under way.
    /// let mut first = stream.sender().begin(update.clone()).await?;
    /// let mut second = stream.sender().begin(update).await?;
    /// first.wait().await?;
    /// second.wait().await?;
    /// # Ok(())
    /// # });
    /// ```
    pub async fn begin(&self, chunk: Content) -> Result<PendingAnswer, CallError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::SendChunk {
            stream: self.stream,
            chunk,
            reply,
        };
        self.commands.send(command).await?;
        Ok(PendingAnswer { answer })
    }

    /// Closes the sending side: no more chunks will be sent.
    ///
    /// ```
    /// # use meshagent_protocol::DocPath;
    /// # use meshagent_protocol::SyncOpenStart;
    /// # meshagent_testing::in_room(async |room| {
    /// # let connection = room.connection().await?;
    /// # let start = SyncOpenStart::new(DocPath::parse("notes.document")?).to_content();
    /// let mut stream = connection.open_stream("sync", "open", start).await?;
    /// stream.sender().close().await;
    /// while stream.recv().await?.is_some() {}
    /// # Ok(())
    /// # });
    /// ```
    pub async fn close(&self) {
        let stream = self.stream;
        // An error means that the driver has ended, which closed everything.
        let _sent = self.commands.send(Command::CloseStream { stream }).await;
    }
}

/// The answer to a chunk in flight.
#[derive(Debug)]
pub struct PendingAnswer {
    answer: oneshot::Receiver<Answer>,
}

impl PendingAnswer {
    /// Waits for the answer. Call it once.
    ///
    /// # Errors
    ///
    /// If the server refuses the chunk, or the stream has ended.
    ///
    /// # Cancel safety
    ///
    /// The answer is not lost.
    ///
    /// ```
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_document::Target;
    /// # use meshagent_protocol::Content;
    /// # use meshagent_protocol::DocPath;
    /// # use meshagent_protocol::SyncChunk;
    /// # use meshagent_protocol::SyncOpenStart;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let connection = room.connection().await?;
    /// # let start = SyncOpenStart::new(DocPath::parse("notes.document")?).to_content();
    /// # let schema = MeshSchema::builtin("document").ok_or("there is one")?;
    /// # let mut elsewhere = MeshDocument::new(schema, 7);
    /// # elsewhere.append_child(
    /// #     Target::Root,
    /// #     json!({ "body": { "text": "tea" } }),
    /// #     &mut || "id-1".to_owned(),
    /// # )?;
    /// # let update = SyncChunk::of_update(&elsewhere.encode_state());
    /// let stream = connection.open_stream("sync", "open", start).await?;
    /// let mut pending = stream.sender().begin(update).await?;
    /// assert_eq!(pending.wait().await?, Content::Empty);
    /// # Ok(())
    /// # });
    /// ```
    pub async fn wait(&mut self) -> Result<Content, CallError> {
        self.answer().await?.content
    }

    /// Like [`wait`](Self::wait), for a chunk that is sent again on the next stream if this one
    /// ends. A refusal that arrives after the end of the stream counts as
    /// [`CallError::Disconnected`]: the server no longer knew the call, and did not judge the
    /// chunk.
    ///
    /// # Cancel safety
    ///
    /// The answer is not lost.
    pub(crate) async fn wait_in_stream(&mut self) -> Result<Content, CallError> {
        let answer = self.answer().await?;
        match answer.content {
            Err(_) if answer.is_late => Err(CallError::Disconnected),
            content => content,
        }
    }

    async fn answer(&mut self) -> Result<Answer, CallError> {
        (&mut self.answer)
            .await
            .map_err(|_driver_ended| CallError::Disconnected)
    }
}
