//! The handle of a connection to a room.

use std::sync::Arc;
use std::time::Duration;

use meshagent_protocol::{Content, InvalidPath, InvalidRequest};
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::connect::{ConnectError, Socket, open, upgrade};
use crate::driver::{Command, Driver, Welcome};
use crate::event::{EVENT_CAPACITY, EventReceiver, RoomEvent};
use crate::pulse::PING_INTERVAL;
use crate::room_client::RoomEnd;
use crate::storage_client::StorageClient;
use crate::stream::StreamHandle;
use crate::sync_calls::SyncCalls;
use crate::trust::Trust;

/// A connection to a room. Cheap to clone, and usable from many tasks concurrently.
///
/// One task owns the socket. The connection ends with a close frame when the last clone and the
/// last stream are dropped, or on [`close`](Self::close). Earlier requests are written first, for
/// at most two seconds.
#[derive(Clone, Debug)]
pub struct Connection {
    commands: Commands,
    events: broadcast::WeakSender<RoomEvent>,
    welcome: Arc<Welcome>,
    closing: CancellationToken,
    driver_ended: CancellationToken,
}

/// The command queue of the driver, held by connections and streams. Dropping the last one closes
/// the connection, even if the queue is full because the server does not read.
#[derive(Clone, Debug)]
pub(crate) struct Commands {
    sender: mpsc::Sender<Command>,
    _closing: Arc<DropGuard>,
}

impl Commands {
    fn new(sender: mpsc::Sender<Command>, closing: CancellationToken) -> Self {
        Self {
            sender,
            _closing: Arc::new(closing.drop_guard()),
        }
    }

    pub(crate) async fn send(&self, command: Command) -> Result<(), CallError> {
        self.sender
            .send(command)
            .await
            .map_err(|_driver_ended| CallError::Disconnected)
    }

    /// Sends the command unless the queue is full.
    pub(crate) fn try_send(&self, command: Command) {
        let _sent = self.sender.try_send(command);
    }
}

impl Connection {
    /// Connects to a room, for instance `ws://127.0.0.1:8080/rooms/my-room`, with a participant
    /// token. Waits until the room is ready. `wss://` uses TLS; this machine must trust the
    /// server's certificate.
    ///
    /// # Errors
    ///
    /// If the server can't be reached or refuses the connection.
    ///
    /// # Cancel safety
    ///
    /// If dropped, the connection is closed.
    ///
    /// ```
    /// # use meshagent_client::ConnectError;
    /// # use meshagent_client::Connection;
    /// # meshagent_testing::with_server(async |server| {
    /// let connection = Connection::connect(&server.room_url, &server.token).await?;
    /// assert_eq!(connection.room_name(), "my-room");
    ///
    /// let refused = Connection::connect(&server.room_url, "no token").await;
    /// assert!(matches!(refused, Err(ConnectError::Refused { status: 401 | 403, .. })));
    /// # Ok(())
    /// # });
    /// ```
    pub async fn connect(url: &str, token: &str) -> Result<Self, ConnectError> {
        Self::connect_trusting(url, token, Trust::of_this_machine(), PING_INTERVAL).await
    }

    pub(crate) async fn connect_trusting(
        url: &str,
        token: &str,
        trust: &Trust,
        ping_interval: Duration,
    ) -> Result<Self, ConnectError> {
        Self::begin(open(url, token, trust).await?, ping_interval).await
    }

    /// Connects over a stream to the server that the caller has opened, for instance through a
    /// tunnel.
    ///
    /// # Errors
    ///
    /// If the server refuses the connection, or the connection is lost before the room is ready.
    ///
    /// # Cancel safety
    ///
    /// If dropped, the connection is closed.
    ///
    /// ```
    /// # use meshagent_client::Connection;
    /// # meshagent_testing::with_server(async |server| {
    /// // Or what a tunnel gives.
    /// let host = server.api_url.trim_start_matches("http://");
    /// let stream = tokio::net::TcpStream::connect(host).await?;
    /// let connection = Connection::connect_over(stream, &server.room_url, &server.token).await?;
    /// assert!(!connection.is_closed());
    /// # Ok(())
    /// # });
    /// ```
    pub async fn connect_over<S>(stream: S, url: &str, token: &str) -> Result<Self, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self::begin(upgrade(stream, url, token).await?, PING_INTERVAL).await
    }

    async fn begin(socket: Socket, ping_interval: Duration) -> Result<Self, ConnectError> {
        let (sender, receiver) = mpsc::channel(COMMAND_CAPACITY);
        let (events, _) = broadcast::channel(EVENT_CAPACITY);
        let (ready, welcome) = oneshot::channel();
        // Only the driver owns the sender of events, so that subscriptions end with it.
        let subscriptions = events.downgrade();
        let (closing, driver_ended) = (CancellationToken::new(), CancellationToken::new());
        let commands = Commands::new(sender, closing.clone());
        let driver = Driver::new(
            receiver,
            events,
            ready,
            closing.clone(),
            driver_ended.clone(),
            ping_interval,
        );
        tokio::spawn(driver.run(socket));
        let welcome = welcome
            .await
            .map_err(|_driver_ended| ConnectError::Closed)?;
        Ok(Self {
            commands,
            events: subscriptions,
            welcome: Arc::new(welcome),
            closing,
            driver_ended,
        })
    }

    /// The room's name.
    ///
    /// ```
    /// # use meshagent_client::Connection;
    /// # meshagent_testing::with_server(async |server| {
    /// # let connection = Connection::connect(&server.room_url, &server.token).await?;
    /// assert_eq!(connection.room_name(), "my-room");
    /// # Ok(())
    /// # });
    /// ```
    pub fn room_name(&self) -> &str {
        &self.welcome.room_name
    }

    /// The room's URL, as the server knows it.
    ///
    /// ```
    /// # use meshagent_client::Connection;
    /// # meshagent_testing::with_server(async |server| {
    /// # let connection = Connection::connect(&server.room_url, &server.token).await?;
    /// assert!(connection.room_url().ends_with("/rooms/my-room"));
    /// # Ok(())
    /// # });
    /// ```
    pub fn room_url(&self) -> &str {
        &self.welcome.room_url
    }

    /// An id that all participants share while they are in the room together.
    ///
    /// ```
    /// # use meshagent_client::Connection;
    /// # meshagent_testing::with_server(async |server| {
    /// # let connection = Connection::connect(&server.room_url, &server.token).await?;
    /// let other = Connection::connect(&server.room_url, &server.token).await?;
    /// assert_eq!(connection.session_id(), other.session_id());
    /// # Ok(())
    /// # });
    /// ```
    pub fn session_id(&self) -> &str {
        &self.welcome.session_id
    }

    /// This client's participant id, unique per connection.
    ///
    /// ```
    /// # use meshagent_client::Connection;
    /// # meshagent_testing::with_server(async |server| {
    /// # let connection = Connection::connect(&server.room_url, &server.token).await?;
    /// let other = Connection::connect(&server.room_url, &server.token).await?;
    /// assert_ne!(connection.local_participant_id(), other.local_participant_id());
    /// # Ok(())
    /// # });
    /// ```
    pub fn local_participant_id(&self) -> &str {
        &self.welcome.participant_id
    }

    /// This client's attributes at the start of the connection.
    ///
    /// ```
    /// # use meshagent_client::Connection;
    /// # meshagent_testing::with_server(async |server| {
    /// # let connection = Connection::connect(&server.room_url, &server.token).await?;
    /// assert_eq!(connection.initial_attributes()["name"], "ann");
    /// # Ok(())
    /// # });
    /// ```
    pub fn initial_attributes(&self) -> &Map<String, Value> {
        &self.welcome.attributes
    }

    /// Calls a tool and waits for its answer.
    ///
    /// # Errors
    ///
    /// If the server refuses the call, or the connection is gone.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the call may be executed.
    ///
    /// ```
    /// # use meshagent_client::Connection;
    /// # use meshagent_protocol::Content;
    /// # use serde_json::json;
    /// # meshagent_testing::with_server(async |server| {
    /// # let connection = Connection::connect(&server.room_url, &server.token).await?;
    /// let input = Content::Json(json!({ "path": "notes.txt" }));
    /// let answer = connection.invoke("storage", "exists", input).await?;
    /// assert_eq!(answer, Content::Json(json!({ "exists": false })));
    /// # Ok(())
    /// # });
    /// ```
    pub async fn invoke(
        &self,
        toolkit: &str,
        tool: &str,
        arguments: Content,
    ) -> Result<Content, CallError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Invoke {
            toolkit: toolkit.to_owned(),
            tool: tool.to_owned(),
            arguments,
            reply,
        };
        self.commands.send(command).await?;
        let answer = answer
            .await
            .map_err(|_driver_ended| CallError::Disconnected)?;
        answer.content
    }

    /// Starts a streamed call with its first chunk, and waits until the server has accepted both.
    ///
    /// # Errors
    ///
    /// If the server refuses the call or the chunk, or the connection is gone.
    ///
    /// # Cancel safety
    ///
    /// If dropped, the call is closed.
    ///
    /// ```
    /// # use meshagent_client::Connection;
    /// # use meshagent_protocol::Content;
    /// # use meshagent_protocol::DocPath;
    /// # use meshagent_protocol::SyncOpenStart;
    /// # meshagent_testing::with_server(async |server| {
    /// # let connection = Connection::connect(&server.room_url, &server.token).await?;
    /// let start = SyncOpenStart::new(DocPath::parse("notes.document")?);
    /// let mut stream = connection.open_stream("sync", "open", start.to_content()).await?;
    /// let state = stream.recv().await?;
    /// assert!(matches!(state, Some(Content::Binary { .. })));
    /// # Ok(())
    /// # });
    /// ```
    pub async fn open_stream(
        &self,
        toolkit: &str,
        tool: &str,
        first: Content,
    ) -> Result<StreamHandle, CallError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::OpenStream {
            toolkit: toolkit.to_owned(),
            tool: tool.to_owned(),
            first,
            reply,
        };
        self.commands.send(command).await?;
        let opened = answer
            .await
            .map_err(|_driver_ended| CallError::Disconnected)??;
        Ok(StreamHandle::new(
            opened.stream,
            self.commands.clone(),
            opened.chunks,
            opened.end,
            opened.answer,
        ))
    }

    /// Changes this client's attributes. Participants that have enabled messaging receive the
    /// change.
    ///
    /// # Errors
    ///
    /// If the connection is gone. The server does not acknowledge this request.
    ///
    /// ```
    /// # use meshagent_client::Connection;
    /// # use serde_json::json;
    /// # meshagent_testing::with_server(async |server| {
    /// # let connection = Connection::connect(&server.room_url, &server.token).await?;
    /// let attributes = json!({ "colour": "blue" });
    /// connection.set_attributes(attributes.as_object().cloned().unwrap_or_default()).await?;
    /// # Ok(())
    /// # });
    /// ```
    pub async fn set_attributes(&self, attributes: Map<String, Value>) -> Result<(), CallError> {
        self.commands
            .send(Command::SetAttributes { attributes })
            .await
    }

    /// Subscribes to the room's events from now on.
    ///
    /// ```
    /// # use meshagent_client::Connection;
    /// # use meshagent_client::RoomEvent;
    /// # meshagent_testing::with_server(async |server| {
    /// # let connection = Connection::connect(&server.room_url, &server.token).await?;
    /// let mut events = connection.subscribe();
    /// connection.storage().upload("notes.txt", "tea", false).await?;
    /// let event = events.recv().await;
    /// assert!(matches!(event, Some(Ok(RoomEvent::FileUpdated { .. }))));
    /// # Ok(())
    /// # });
    /// ```
    pub fn subscribe(&self) -> EventReceiver {
        match self.events.upgrade() {
            Some(events) => EventReceiver::new(events.subscribe()),
            // The connection is gone, so the subscription has already ended.
            None => EventReceiver::new(broadcast::channel(1).1),
        }
    }

    /// The `sync` toolkit.
    ///
    /// ```
    /// # use meshagent_client::Connection;
    /// # use serde_json::json;
    /// # meshagent_testing::with_server(async |server| {
    /// # let connection = Connection::connect(&server.room_url, &server.token).await?;
    /// connection.sync().create("notes.document", None, None).await?;
    /// let json = connection.sync().describe("notes.document").await?;
    /// assert_eq!(json, json!({ "document": { "content": [] } }));
    /// # Ok(())
    /// # });
    /// ```
    pub fn sync(&self) -> SyncCalls {
        SyncCalls::new(self.clone())
    }

    /// The `storage` toolkit.
    ///
    /// ```
    /// # use meshagent_client::Connection;
    /// # meshagent_testing::with_server(async |server| {
    /// # let connection = Connection::connect(&server.room_url, &server.token).await?;
    /// assert!(connection.storage().list("").await?.is_empty());
    /// # Ok(())
    /// # });
    /// ```
    pub fn storage(&self) -> StorageClient {
        StorageClient::new(self.clone())
    }

    /// Closes the connection, including all clones and streams, and waits until it is closed.
    /// Earlier requests are written first, for at most two seconds. If the server does not read,
    /// this takes at most three seconds.
    ///
    /// ```
    /// # use meshagent_client::CallError;
    /// # use meshagent_client::Connection;
    /// # meshagent_testing::with_server(async |server| {
    /// # let connection = Connection::connect(&server.room_url, &server.token).await?;
    /// connection.close().await;
    /// let late = connection.storage().exists("notes.txt").await;
    /// assert_eq!(late, Err(CallError::Disconnected));
    /// # Ok(())
    /// # });
    /// ```
    pub async fn close(&self) {
        self.closing.cancel();
        self.driver_ended.cancelled().await;
    }

    /// Waits until the connection is gone.
    ///
    /// ```
    /// # use meshagent_client::Connection;
    /// # meshagent_testing::with_server(async |server| {
    /// # let connection = Connection::connect(&server.room_url, &server.token).await?;
    /// let clone = connection.clone();
    /// let watching = tokio::spawn(async move { clone.closed().await });
    /// connection.close().await;
    /// watching.await?;
    /// # Ok(())
    /// # });
    /// ```
    pub async fn closed(&self) {
        self.commands.sender.closed().await;
    }

    /// Whether the connection is gone.
    ///
    /// ```
    /// # use meshagent_client::Connection;
    /// # meshagent_testing::with_server(async |server| {
    /// # let connection = Connection::connect(&server.room_url, &server.token).await?;
    /// assert!(!connection.is_closed());
    /// connection.close().await;
    /// assert!(connection.is_closed());
    /// # Ok(())
    /// # });
    /// ```
    pub fn is_closed(&self) -> bool {
        self.commands.sender.is_closed()
    }
}

/// Why a call has no result.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The connection is gone. It is unknown whether the call was executed.
    #[error("the connection is gone, connect again")]
    Disconnected,
    /// The room has ended; its [`RoomClient`](crate::RoomClient) no longer connects.
    #[error("there is no way into the room any more")]
    Ended(#[source] RoomEnd),
    /// The path is not valid in a room.
    #[error("the path is invalid")]
    InvalidPath(#[from] InvalidPath),
    /// The server refuses the call.
    #[error("the server refuses: {text}")]
    Refused {
        /// One of the protocol's error codes; `None` if the server gave no code.
        code: Option<i64>,
        /// The server's explanation.
        text: String,
    },
    /// The server's answer does not match the call.
    #[error("the server's answer is not what the protocol says")]
    Unexpected(#[source] InvalidRequest),
}

impl CallError {
    pub(crate) fn unexpected(text: &str) -> Self {
        Self::Unexpected(InvalidRequest::new(text))
    }

    /// Turns an `error` content into an error.
    pub(crate) fn check(answer: Content) -> Result<Content, Self> {
        match answer {
            Content::Error { text, code } => Err(Self::Refused { code, text }),
            answer => Ok(answer),
        }
    }
}

impl From<InvalidRequest> for CallError {
    fn from(error: InvalidRequest) -> Self {
        Self::Unexpected(error)
    }
}

/// How many commands wait for the driver. While the server does not read, the driver takes none,
/// and callers wait when the queue is full.
const COMMAND_CAPACITY: usize = 64;
