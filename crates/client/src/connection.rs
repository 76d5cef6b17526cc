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

/// A connection to a room; cheap to clone, and usable from many tasks at once.
///
/// One task owns the socket. It ends, with a close frame, when the last clone and the last stream
/// are dropped, or at once by [`close`](Self::close). Requests made before are written first, for at
/// most two seconds.
#[derive(Clone, Debug)]
pub struct Connection {
    commands: Commands,
    events: broadcast::WeakSender<RoomEvent>,
    welcome: Arc<Welcome>,
    closing: CancellationToken,
    driver_ended: CancellationToken,
}

/// A connection's or a stream's way to the driver. The connection is closed when the last one is
/// dropped, also if the driver can take no command because the server does not read.
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

    /// Sends it if there is room.
    pub(crate) fn try_send(&self, command: Command) {
        let _sent = self.sender.try_send(command);
    }
}

impl Connection {
    /// Connects to a room, for instance `ws://127.0.0.1:8080/rooms/my-room`, with a participant
    /// token, and waits until the room is ready. `wss://` is TLS, to a server whose certificate this machine trusts.
    ///
    /// # Errors
    ///
    /// When the server can't be reached or refuses.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the connection is closed.
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

    /// Connects over a stream to the server that the caller has opened, through a tunnel for instance.
    ///
    /// # Errors
    ///
    /// When the server refuses.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the connection is closed.
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
        // Only the driver owns the sender of events, so they end with it.
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

    /// The room's address, as the server knows it.
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

    /// Equal for everyone who is in the room at the same time.
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

    /// Our id in the room, unique per connection.
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

    /// Our attributes as they were at the beginning.
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
    /// When the server refuses, or the connection is gone.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the call may be carried out.
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

    /// Begins a streamed call with its first chunk, and waits until the server has taken both.
    ///
    /// # Errors
    ///
    /// When the server refuses the call or the chunk, or the connection is gone.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the call is closed.
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

    /// Changes our attributes, which the others see if they have enabled messaging.
    ///
    /// # Errors
    ///
    /// When the connection is gone; otherwise the server does not answer.
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

    /// Subscribes to what happens in the room from now on.
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
            // The connection is gone: a subscription that has ended.
            None => EventReceiver::new(broadcast::channel(1).1),
        }
    }

    /// The toolkit `sync`.
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

    /// The toolkit `storage`.
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

    /// Closes the connection, for all clones and streams, and waits until it is closed. Requests made
    /// before are written first, for at most two seconds. A server that does not read is waited for
    /// at most three seconds.
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
    /// The connection is gone; whether the call was carried out is unknown.
    #[error("the connection is gone, connect again")]
    Disconnected,
    /// A [`RoomClient`](crate::RoomClient) makes no connection any more.
    #[error("there is no way into the room any more")]
    Ended(#[source] RoomEnd),
    /// The path can't name anything in a room.
    #[error("the path is invalid")]
    InvalidPath(#[from] InvalidPath),
    /// The server refuses.
    #[error("the server refuses: {text}")]
    Refused {
        /// One of the protocol's error codes.
        code: Option<i64>,
        /// The server's reason.
        text: String,
    },
    /// The server's answer is not one to this call.
    #[error("the server's answer is not what the protocol says")]
    Unexpected(#[source] InvalidRequest),
}

impl CallError {
    pub(crate) fn unexpected(text: &str) -> Self {
        Self::Unexpected(InvalidRequest::new(text))
    }

    /// The answer, unless it is a refusal.
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

/// How many commands wait for the driver. When it is full, callers wait: the driver takes no more
/// while the server does not read.
const COMMAND_CAPACITY: usize = 64;
