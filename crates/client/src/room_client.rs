//! A room client: connects to a room and reconnects when the connection breaks.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use meshagent_protocol::{ApiKey, Content, InvalidApiKey, RoomName};
use serde_json::{Map, Value};
use tokio::sync::{broadcast, oneshot, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff::{self, Backoff};
use crate::connect::ConnectError;
use crate::connection::{CallError, Connection};
use crate::credentials::{Credentials, FetchToken, Tokens};
use crate::document_task::LINGER;
use crate::event::{EVENT_CAPACITY, EventReceiver, RoomEvent};
use crate::given_up::{GivenUp, GivenUpEdits};
use crate::journal::{JournalError, Journals, RoomKey, Unsent, Writer};
use crate::live_document::{JournalStatus, Shared};
use crate::panics::catch_panic;
use crate::pulse::PING_INTERVAL;
use crate::resend::resend;
use crate::storage_client::StorageClient;
use crate::sync_client::SyncClient;
use crate::trust::Trust;

/// A room: its documents, files and participants. Cheap to clone; the room is left when the last
/// clone and the last open document are dropped.
///
/// When the connection breaks, the client reconnects, and documents continue on the new connection.
/// The pauses between attempts are random and grow to ten seconds. They restart at the shortest
/// after a connection that lasted that long. Calls in flight fail with [`CallError::Disconnected`],
/// because it is unknown whether they were executed.
#[derive(Clone, Debug)]
pub struct RoomClient {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    room_name: String,
    link: watch::Receiver<Link>,
    events: broadcast::Sender<RoomEvent>,
    pub(crate) documents: Mutex<HashMap<String, Weak<Shared>>>,
    journals: Option<Journals>,
    given_up: GivenUpEdits,
    tasks: TaskTracker,
    closing: CancellationToken,
    ended: CancellationToken,
}

/// A reference to a room that does not keep it open.
#[derive(Clone, Debug)]
pub(crate) struct WeakRoom(Weak<Inner>);

impl WeakRoom {
    pub(crate) fn upgrade(&self) -> Option<RoomClient> {
        let inner = self.0.upgrade()?;
        Some(RoomClient { inner })
    }
}

/// The current connection, or why there is none.
#[derive(Clone, Debug)]
pub(crate) enum Link {
    Down,
    /// Not connected, because the token function failed; it is called again.
    NoToken(String),
    Up(Connection),
    /// The client will not connect again.
    Ended(RoomEnd),
}

/// Why a room's client no longer connects.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RoomEnd {
    /// The room was left with [`RoomClient::close`], or its last handle was dropped.
    #[error("the room was left")]
    Left,
    /// The server refuses the connection, and a retry does not help: the token is no longer valid,
    /// or the room does not exist.
    #[error("the server refuses the connection with status {status}: {text}")]
    Refused {
        /// The HTTP status code.
        status: u16,
        /// The server's explanation.
        text: String,
    },
    /// A setting is missing or invalid, or the token is missing.
    #[error("{0}")]
    Setting(String),
    /// The room's task panicked, or its runtime has shut down.
    #[error("the room's task has ended: {0}")]
    Failed(String),
}

impl From<&ConnectError> for RoomEnd {
    fn from(error: &ConnectError) -> Self {
        match error {
            ConnectError::Refused { status, text } => Self::Refused {
                status: *status,
                text: text.clone(),
            },
            ConnectError::InvalidToken
            | ConnectError::InvalidUrl
            | ConnectError::Setting(_)
            | ConnectError::Token(_) => Self::Setting(error.to_string()),
            // These errors end a room only during the first attempt. `connect` then returns the
            // error, and no handle of the room exists.
            ConnectError::Closed
            | ConnectError::Http(_)
            | ConnectError::Io(_)
            | ConnectError::Tls(_) => Self::Left,
        }
    }
}

/// The state of a room's connection.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RoomStatus {
    /// The room is connected.
    Connected,
    /// The room is not connected; the client tries to connect.
    Reconnecting,
    /// The room is not connected, because the function given to [`RoomBuilder::token_with`] failed
    /// or panicked. It is called again with back-off, after at most ten seconds.
    NoToken {
        /// The function's error with its causes, or the text of its panic.
        reason: String,
    },
    /// The room is not connected, and the client no longer tries to connect.
    Ended {
        /// Why the room has ended.
        reason: String,
    },
}

/// This client, as other participants see it. Each connection is a new participant.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct LocalParticipant {
    /// The participant's id, unique per connection.
    pub id: String,
    /// The participant's attributes at the start of the connection.
    pub attributes: Map<String, Value>,
}

/// The settings of a room client. [`connect`](Self::connect) enters the room.
#[derive(Clone, Debug)]
pub struct RoomBuilder {
    api_url: Option<String>,
    room_url: Option<String>,
    room: Option<String>,
    project: Option<String>,
    credentials: Option<Credentials>,
    offline: Option<PathBuf>,
    trust: Trust,
    ping_interval: Duration,
}

impl RoomClient {
    /// Returns a builder. It needs the server and the room's name, or the room's URL, and a token
    /// or a key.
    ///
    /// ```
    /// # use meshagent_client::RoomClient;
    /// # meshagent_testing::with_server(async |server| {
    /// let room = RoomClient::builder()
    ///     .api_url(&server.api_url)
    ///     .room("my-room")
    ///     .key(&server.key, "ann")?
    ///     .connect()
    ///     .await?;
    /// assert_eq!(room.room_name(), "my-room");
    /// # Ok(())
    /// # });
    /// ```
    pub fn builder() -> RoomBuilder {
        RoomBuilder {
            api_url: None,
            room_url: None,
            room: None,
            project: None,
            credentials: None,
            offline: None,
            trust: Trust::of_this_machine().clone(),
            ping_interval: PING_INTERVAL,
        }
    }

    /// Enters the room that the environment names, as set by `meshagent room connect`:
    /// `MESHAGENT_API_URL` (or `MESHAGENT_ROOM_URL`), `MESHAGENT_ROOM` and `MESHAGENT_TOKEN`.
    ///
    /// # Errors
    ///
    /// If a variable is missing, or as [`RoomBuilder::connect`].
    ///
    /// ```
    /// # use meshagent_client::ConnectError;
    /// # use meshagent_client::RoomClient;
    /// # meshagent_testing::with_server(async |server| {
    /// match RoomClient::from_env().await {
    ///     Ok(room) => println!("in {}", room.room_name()),
    ///     // What is missing, by its name.
    ///     Err(ConnectError::Setting(missing)) => assert!(missing.contains("MESHAGENT_")),
    ///     Err(other) => return Err(other.into()),
    /// }
    /// # let _ = server;
    /// # Ok(())
    /// # });
    /// ```
    pub async fn from_env() -> Result<Self, ConnectError> {
        RoomBuilder::from_env()?.connect().await
    }

    /// The room's name.
    ///
    /// ```
    /// # meshagent_testing::in_room(async |room| {
    /// assert_eq!(room.room_name(), "my-room");
    /// # Ok(())
    /// # });
    /// ```
    pub fn room_name(&self) -> &str {
        &self.inner.room_name
    }

    /// This client as a participant; `None` while there is no connection.
    ///
    /// ```
    /// # meshagent_testing::in_room(async |room| {
    /// let me = room.local_participant().ok_or("there is a connection")?;
    /// assert_eq!(me.attributes["name"], "ann");
    /// # Ok(())
    /// # });
    /// ```
    pub fn local_participant(&self) -> Option<LocalParticipant> {
        let connection = self.current()?;
        Some(LocalParticipant {
            id: connection.local_participant_id().to_owned(),
            attributes: connection.initial_attributes().clone(),
        })
    }

    /// The current state of the connection.
    ///
    /// ```
    /// # use meshagent_client::RoomStatus;
    /// # meshagent_testing::in_room(async |room| {
    /// assert_eq!(room.status(), RoomStatus::Connected);
    /// # Ok(())
    /// # });
    /// ```
    pub fn status(&self) -> RoomStatus {
        status(&self.inner.link.borrow())
    }

    /// Subscribes to changes of the status from now on.
    ///
    /// ```
    /// # use meshagent_client::RoomStatus;
    /// # meshagent_testing::in_room(async |room| {
    /// let mut changes = room.status_changes();
    /// room.close().await;
    /// assert!(matches!(changes.changed().await, Some(RoomStatus::Ended { .. })));
    /// # Ok(())
    /// # });
    /// ```
    pub fn status_changes(&self) -> StatusReceiver {
        let mut link = self.inner.link.clone();
        // This receiver has not seen the current value, which would otherwise count as a change.
        link.mark_unchanged();
        StatusReceiver {
            link: WatchStream::from_changes(link),
        }
    }

    /// Subscribes to the room's events from now on, across reconnects. Events between two
    /// connections are missed; [`RoomEvent::Disconnected`] marks each such gap.
    ///
    /// ```
    /// # use meshagent_client::RoomEvent;
    /// # meshagent_testing::in_room(async |room| {
    /// use tokio_stream::StreamExt as _;
    ///
    /// let mut events = room.subscribe();
    /// room.storage().upload("notes.txt", "tea", false).await?;
    /// while let Some(event) = events.next().await {
    ///     if let Ok(RoomEvent::FileUpdated { path, .. }) = event {
    ///         assert_eq!(path, "notes.txt");
    ///         break;
    ///     }
    /// }
    /// # Ok(())
    /// # });
    /// ```
    pub fn subscribe(&self) -> EventReceiver {
        EventReceiver::new(self.inner.events.subscribe())
    }

    /// The `sync` toolkit: live documents.
    ///
    /// ```
    /// # meshagent_testing::in_room(async |room| {
    /// let document = room.sync().open("notes.document").await?;
    /// assert_eq!(document.path(), "notes.document");
    /// # Ok(())
    /// # });
    /// ```
    pub fn sync(&self) -> SyncClient {
        SyncClient::new(self.clone())
    }

    /// The `storage` toolkit: files.
    ///
    /// ```
    /// # meshagent_testing::in_room(async |room| {
    /// room.storage().upload("notes.txt", "tea", false).await?;
    /// assert_eq!(room.storage().download("notes.txt").await?.data, "tea");
    /// # Ok(())
    /// # });
    /// ```
    pub fn storage(&self) -> StorageClient {
        StorageClient::over(self.clone())
    }

    /// Calls a tool and waits for its answer. Without a connection, waits for one first.
    ///
    /// # Errors
    ///
    /// If the server refuses the call, the connection breaks before the answer, or the room has
    /// ended.
    ///
    /// ```
    /// # use meshagent_protocol::Content;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// let input = Content::Json(json!({ "path": "notes.txt" }));
    /// let answer = room.invoke("storage", "exists", input).await?;
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
        self.connection()
            .await?
            .invoke(toolkit, tool, arguments)
            .await
    }

    /// The current connection. Without one, waits until the client is connected. A `Connection`
    /// ends with its socket.
    ///
    /// # Errors
    ///
    /// If the room has ended; the error says why.
    ///
    /// ```
    /// # meshagent_testing::in_room(async |room| {
    /// let connection = room.connection().await?;
    /// assert_eq!(connection.room_name(), room.room_name());
    /// # Ok(())
    /// # });
    /// ```
    pub async fn connection(&self) -> Result<Connection, CallError> {
        let mut link = self.inner.link.clone();
        loop {
            match &*link.borrow_and_update() {
                Link::Up(connection) if !connection.is_closed() => return Ok(connection.clone()),
                Link::Up(_) | Link::Down | Link::NoToken(_) => {}
                Link::Ended(end) => return Err(CallError::Ended(end.clone())),
            }
            if link.changed().await.is_err() {
                return Err(CallError::Disconnected);
            }
        }
    }

    /// Leaves the room. Waits up to ten seconds until all edits are saved, then ends the open
    /// documents and closes the connection. Without a connection, it waits only until the edits are
    /// in the journals, if there are any.
    ///
    /// Returns the documents that ended with unacknowledged edits, now or earlier. The list is
    /// empty if the server has acknowledged everything.
    ///
    /// # Cancel safety
    ///
    /// If dropped, the room is still left; another call waits for it.
    ///
    /// ```
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// let document = room.sync().open("notes.document").await?;
    /// document.edit(|d| d.append_child(Target::Root, json!({ "body": { "text": "tea" } })))??;
    /// let given_up = room.close().await;
    /// assert!(given_up.is_empty());
    /// assert!(document.is_saved());
    /// # Ok(())
    /// # });
    /// ```
    pub async fn close(&self) -> Vec<GivenUp> {
        self.inner.closing.cancel();
        self.inner.ended.cancelled().await;
        self.inner.given_up.list()
    }

    /// The edits that the server has not acknowledged: those of open documents, and those in this
    /// room's journals ([`RoomBuilder::offline`]), which this and earlier programs left in the
    /// directory. The client sends the latter automatically while it is in the room. An edit that
    /// the server refuses stays in its journal until the document is opened, which reports the
    /// refusal.
    ///
    /// # Errors
    ///
    /// If the directory or a journal can't be read, or a journal is damaged. A damaged journal is
    /// then set aside, and the next call ignores it.
    ///
    /// ```
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// let document = room.sync().open("notes.document").await?;
    /// document.edit(|d| d.append_child(Target::Root, json!({ "body": { "text": "tea" } })))??;
    /// let unsent = room.unsent().await?;
    /// assert_eq!((&unsent[0].path[..], unsent[0].edits), ("notes.document", 1));
    /// document.saved().await?;
    /// assert!(room.unsent().await?.is_empty());
    /// # Ok(())
    /// # });
    /// ```
    pub async fn unsent(&self) -> Result<Vec<Unsent>, JournalError> {
        let journaled = match &self.inner.journals {
            Some(journals) => journals.unsent().await?,
            None => Vec::new(),
        };
        let mut all: BTreeMap<String, Unsent> = journaled
            .into_iter()
            .map(|unsent| (unsent.path.clone(), unsent))
            .collect();
        // A document that is still loading has all its edits in its journal.
        let documents = self.live_documents();
        for shared in documents.iter().filter(|shared| shared.has_begun()) {
            all.remove(&shared.path);
            if let Some(unsent) = shared.unsent() {
                all.insert(shared.path.clone(), unsent);
            }
        }
        Ok(all.into_values().collect())
    }

    /// Whether edits in this room survive the program: [`Failing`](JournalStatus::Failing) if the
    /// journal of any open document can't be written.
    ///
    /// ```
    /// use meshagent_client::JournalStatus;
    ///
    /// # meshagent_testing::in_room(async |room| {
    /// assert_eq!(room.journal_status(), JournalStatus::Off);
    /// # Ok(())
    /// # });
    /// ```
    pub fn journal_status(&self) -> JournalStatus {
        if self.inner.journals.is_none() {
            return JournalStatus::Off;
        }
        let documents = self.live_documents();
        let mut statuses = documents
            .iter()
            .map(|shared| shared.lock().journal_status());
        let failing = statuses.find(|status| matches!(status, JournalStatus::Failing { .. }));
        failing.unwrap_or(JournalStatus::Kept)
    }

    fn live_documents(&self) -> Vec<Arc<Shared>> {
        let mut live: Vec<_> = {
            let documents = self.documents();
            let documents = documents.lock().unwrap_or_else(PoisonError::into_inner);
            documents.values().filter_map(Weak::upgrade).collect()
        };
        // Not under the map's lock: an edit closure holds its document's lock and may look up
        // another document.
        live.retain(|shared| !shared.is_ended());
        live
    }

    pub(crate) fn documents(&self) -> &Mutex<HashMap<String, Weak<Shared>>> {
        &self.inner.documents
    }

    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.inner.tasks
    }

    pub(crate) fn link(&self) -> watch::Receiver<Link> {
        self.inner.link.clone()
    }

    pub(crate) fn closing(&self) -> CancellationToken {
        self.inner.closing.clone()
    }

    /// The room's journals; `None` without a directory.
    pub(crate) fn journals(&self) -> Option<Journals> {
        self.inner.journals.clone()
    }

    pub(crate) fn given_up(&self) -> GivenUpEdits {
        self.inner.given_up.clone()
    }

    fn current(&self) -> Option<Connection> {
        match &*self.inner.link.borrow() {
            Link::Up(connection) if !connection.is_closed() => Some(connection.clone()),
            _ => None,
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

fn status(link: &Link) -> RoomStatus {
    match link {
        Link::Up(connection) if !connection.is_closed() => RoomStatus::Connected,
        Link::Up(_) | Link::Down => RoomStatus::Reconnecting,
        Link::NoToken(reason) => RoomStatus::NoToken {
            reason: reason.clone(),
        },
        Link::Ended(end) => RoomStatus::Ended {
            reason: end.to_string(),
        },
    }
}

/// A subscription to the status of a room, read with [`changed`](Self::changed) or as a `Stream`.
#[derive(Debug)]
pub struct StatusReceiver {
    link: WatchStream<Link>,
}

impl StatusReceiver {
    /// Waits for a change and returns the current status; `None` once the room has ended and its
    /// last status was returned.
    ///
    /// # Cancel safety
    ///
    /// No change is lost. Only the latest status is kept, so intermediate ones may be skipped.
    ///
    /// ```
    /// use meshagent_client::RoomStatus;
    ///
    /// # meshagent_testing::in_room(async |room| {
    /// let mut changes = room.status_changes();
    /// room.close().await;
    /// assert!(matches!(changes.changed().await, Some(RoomStatus::Ended { .. })));
    /// # Ok(())
    /// # });
    /// ```
    pub async fn changed(&mut self) -> Option<RoomStatus> {
        self.next().await
    }
}

impl Stream for StatusReceiver {
    type Item = RoomStatus;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<RoomStatus>> {
        let link = Pin::new(&mut self.link).poll_next(context);
        link.map(|link| link.map(|link| status(&link)))
    }
}

impl RoomBuilder {
    /// Reads the settings from the environment variables that [`RoomClient::from_env`] names. They
    /// can be changed before [`connect`](Self::connect).
    ///
    /// # Errors
    ///
    /// If a variable is not valid Unicode.
    ///
    /// ```
    /// # use meshagent_client::RoomBuilder;
    /// # meshagent_testing::with_server(async |server| {
    /// // The environment, with what the program knows better.
    /// let room = RoomBuilder::from_env()?
    ///     .room_url(&server.room_url)
    ///     .token(&server.token)
    ///     .connect()
    ///     .await?;
    /// # room.close().await;
    /// # Ok(())
    /// # });
    /// ```
    pub fn from_env() -> Result<Self, ConnectError> {
        let variable = |name: &str| match std::env::var(name) {
            Ok(value) if value.is_empty() => Ok(None),
            Ok(value) => Ok(Some(value)),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => {
                Err(ConnectError::Setting(format!("{name} is not text")))
            }
        };
        Ok(Self {
            api_url: variable("MESHAGENT_API_URL")?,
            room_url: variable("MESHAGENT_ROOM_URL")?,
            room: variable("MESHAGENT_ROOM")?,
            credentials: variable("MESHAGENT_TOKEN")?.map(Credentials::Token),
            ..RoomClient::builder()
        })
    }

    /// The server's URL, for instance `http://127.0.0.1:8080`.
    ///
    /// ```
    /// # use meshagent_client::RoomClient;
    /// # meshagent_testing::with_server(async |server| {
    /// let room = RoomClient::builder().api_url(&server.api_url).room("my-room");
    /// room.token(&server.token).connect().await?;
    /// # Ok(())
    /// # });
    /// ```
    #[must_use]
    pub fn api_url(mut self, url: impl Into<String>) -> Self {
        self.api_url = Some(url.into());
        self
    }

    /// The room's name.
    ///
    /// ```
    /// # use meshagent_client::RoomClient;
    /// # meshagent_testing::with_server(async |server| {
    /// let room = RoomClient::builder().api_url(&server.api_url).room("my-room");
    /// let room = room.token(&server.token).connect().await?;
    /// assert_eq!(room.room_name(), "my-room");
    /// # Ok(())
    /// # });
    /// ```
    #[must_use]
    pub fn room(mut self, name: impl Into<String>) -> Self {
        self.room = Some(name.into());
        self
    }

    /// The room's URL, for instance `ws://127.0.0.1:8080/rooms/my-room`, instead of server and
    /// name.
    ///
    /// ```
    /// # use meshagent_client::RoomClient;
    /// # meshagent_testing::with_server(async |server| {
    /// let room = RoomClient::builder().room_url(&server.room_url);
    /// let room = room.token(&server.token).connect().await?;
    /// assert_eq!(room.room_name(), "my-room");
    /// # Ok(())
    /// # });
    /// ```
    #[must_use]
    pub fn room_url(mut self, url: impl Into<String>) -> Self {
        self.room_url = Some(url.into());
        self
    }

    /// The participant token.
    ///
    /// ```
    /// # use meshagent_client::ConnectError;
    /// # use meshagent_client::RoomClient;
    /// # meshagent_testing::with_server(async |server| {
    /// let room = RoomClient::builder().room_url(&server.room_url);
    /// let refused = room.clone().token("no token").connect().await;
    /// assert!(matches!(refused, Err(ConnectError::Refused { .. })));
    /// room.token(&server.token).connect().await?;
    /// # Ok(())
    /// # });
    /// ```
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.credentials = Some(Credentials::Token(token.into()));
        self
    }

    /// Sets an async function that returns a participant token, for tokens that expire.
    ///
    /// The function is called before the first connection, and again whenever the last token has
    /// expired or was refused. It has 30 seconds. If it fails, panics or takes longer, it is called
    /// again with back-off, and meanwhile the status is [`RoomStatus::NoToken`]. The first call is
    /// different: its failure is the error of [`connect`](Self::connect), unless
    /// [`offline`](Self::offline) is set. The room ends when the server refuses three tokens in a
    /// row.
    ///
    /// ```
    /// # use meshagent_client::RoomClient;
    /// # meshagent_testing::with_server(async |server| {
    /// # let token = server.token.clone();
    /// let room = RoomClient::builder().room_url(&server.room_url);
    /// let room = room.token_with(move || {
    ///     // A program asks its own server here.
    ///     let token = token.clone();
    ///     async move { Ok(token) }
    /// });
    /// let room = room.connect().await?;
    /// # room.close().await;
    /// # Ok(())
    /// # });
    /// ```
    #[must_use]
    pub fn token_with<F, T>(mut self, fetch: F) -> Self
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: Future<Output = Result<String, Box<dyn std::error::Error + Send + Sync>>>
            + Send
            + 'static,
    {
        self.credentials = Some(Credentials::Fetch(FetchToken::new(fetch)));
        self
    }

    /// The project's id, which is part of the name of each journal ([`offline`](Self::offline)). A
    /// token or key contains it; with [`token_with`](Self::token_with), `offline` requires this
    /// setting.
    ///
    /// ```
    /// use meshagent_client::RoomClient;
    ///
    /// let room = RoomClient::builder().project("my-project").offline("journals");
    /// # drop(room);
    /// ```
    #[must_use]
    pub fn project(mut self, id: impl Into<String>) -> Self {
        self.project = Some(id.into());
        self
    }

    /// The project's key. Each connection signs a token for `identity` with all rights in the room.
    /// This is for the project's own programs: the key lets a program enter as any participant.
    ///
    /// # Errors
    ///
    /// If the text is not a valid key.
    ///
    /// ```
    /// # use meshagent_client::RoomClient;
    /// # meshagent_testing::with_server(async |server| {
    /// let room = RoomClient::builder().room_url(&server.room_url);
    /// let room = room.key(&server.key, "planner")?.connect().await?;
    /// let me = room.local_participant().ok_or("there is a connection")?;
    /// assert_eq!(me.attributes["name"], "planner");
    /// # Ok(())
    /// # });
    /// ```
    pub fn key(mut self, key: &str, identity: impl Into<String>) -> Result<Self, InvalidApiKey> {
        let key = ApiKey::parse(key)?;
        let identity = identity.into();
        self.credentials = Some(Credentials::Key { key, identity });
        Ok(self)
    }

    /// How often a silent server is pinged; 20 seconds by default. A connection on which nothing
    /// arrives for two and a half intervals counts as lost, and the client reconnects: a NAT may
    /// have dropped the connection, or the network may have disappeared. The same applies after
    /// this machine was suspended for that long.
    ///
    /// The shortest interval is four milliseconds; shorter values are rounded up.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use meshagent_client::RoomClient;
    ///
    /// // On a network that forgets idle connections soon.
    /// let room = RoomClient::builder().ping_interval(Duration::from_secs(5));
    /// # drop(room);
    /// ```
    #[must_use]
    pub fn ping_interval(mut self, interval: Duration) -> Self {
        self.ping_interval = interval;
        self
    }

    /// Also trusts the certificate authorities in this PEM file, for a server with a certificate
    /// from a private authority. By default, an `https://` or `wss://` server needs a certificate
    /// from an authority that this machine trusts.
    ///
    /// # Errors
    ///
    /// If a certificate can't be parsed, or there is none.
    ///
    /// ```
    /// use meshagent_client::RoomClient;
    ///
    /// let refused = RoomClient::builder().root_certificates(b"no certificate");
    /// assert!(refused.is_err());
    /// ```
    pub fn root_certificates(mut self, pem: &[u8]) -> Result<Self, ConnectError> {
        self.trust = self.trust.and(pem)?;
        Ok(self)
    }

    /// Stores a journal of each document in this directory. Documents can then be opened and edited
    /// without a connection, and edits that are unacknowledged when the program ends are sent when
    /// it runs again. A document in a directory can be open in one program at a time.
    ///
    /// A separate thread writes the journals, usually within milliseconds of an edit.
    /// [`LiveDocument::journaled`](crate::LiveDocument::journaled) waits until edits are on stable
    /// storage, and [`close`](RoomClient::close) until the thread has finished.
    ///
    /// ```
    /// # use meshagent_client::RoomClient;
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # meshagent_testing::with_server(async |server| {
    /// # let directory = meshagent_testing::TempDir::new()?;
    /// let room = RoomClient::builder()
    ///     .room_url(&server.room_url)
    ///     .token(&server.token)
    ///     .offline(directory.path())
    ///     .connect()
    ///     .await?;
    /// let document = room.sync().open("notes.document").await?;
    /// document.edit(|d| d.append_child(Target::Root, json!({ "body": { "text": "tea" } })))??;
    /// room.close().await;
    /// # Ok(())
    /// # });
    /// ```
    #[must_use]
    pub fn offline(mut self, directory: impl Into<PathBuf>) -> Self {
        self.offline = Some(directory.into());
        self
    }

    /// Enters the room. With [`offline`](Self::offline), this returns without waiting for the
    /// server, and the client connects in the background.
    ///
    /// # Errors
    ///
    /// If a setting is missing, or the server can't be reached or refuses the connection.
    ///
    /// # Cancel safety
    ///
    /// If dropped, the connection is closed.
    ///
    /// ```
    /// # use meshagent_client::RoomClient;
    /// # meshagent_testing::with_server(async |server| {
    /// let room = RoomClient::builder().room_url(&server.room_url).token(&server.token);
    /// let room = room.connect().await?;
    /// # room.close().await;
    /// # Ok(())
    /// # });
    /// ```
    pub async fn connect(self) -> Result<RoomClient, ConnectError> {
        let url = self.url()?;
        let credentials = self.credentials.ok_or_else(|| {
            ConnectError::Setting("there is no token: give one, or set MESHAGENT_TOKEN".to_owned())
        })?;
        let room_name = match (self.room, url.rsplit_once("/rooms/")) {
            (Some(room), _) => room,
            (None, Some((_, rest))) => rest.split(['/', '?']).next().unwrap_or(rest).to_owned(),
            (None, None) => return Err(ConnectError::InvalidUrl),
        };
        let project = self.project.or_else(|| credentials.project());
        if project.is_none() && self.offline.is_some() {
            let missing = "there is no project: give its id, by which journals are kept before \
                           there is a token";
            return Err(ConnectError::Setting(missing.to_owned()));
        }
        let journal_room = RoomKey {
            project: project.unwrap_or_default(),
            room: room_name.clone(),
            url: url.clone(),
        };
        let is_offline = self.offline.is_some();
        let writer = self
            .offline
            .map(|offline| Writer::start(offline, journal_room));
        let writer = writer.transpose().map_err(|error| {
            ConnectError::Setting(format!("the journals' thread can't be started: {error}"))
        })?;
        let journals = writer.as_ref().map(Writer::journals);
        let (link_sender, link) = watch::channel(Link::Down);
        let (events, _) = broadcast::channel(EVENT_CAPACITY);
        let (closing, ended) = (CancellationToken::new(), CancellationToken::new());
        let tasks = TaskTracker::new();
        let (first, connected) = oneshot::channel();
        let supervisor = Supervisor {
            tokens: Tokens::new(credentials, &room_name),
            link: link_sender,
            events: events.clone(),
            tasks: tasks.clone(),
            closing: closing.clone(),
            // Without a journal, nothing can be done before the first connection: `connect` waits
            // for it.
            first: (!is_offline).then_some(first),
            writer,
            url,
            trust: self.trust,
            ping_interval: self.ping_interval,
        };
        let done = ended.clone().drop_guard();
        // The task ends with the last handle, which cancels `closing`. `close` waits for its end.
        tokio::spawn(async move {
            let _done = done;
            supervisor.run().await;
        });
        let client = RoomClient {
            inner: Arc::new(Inner {
                room_name,
                link,
                events,
                documents: Mutex::default(),
                journals: journals.clone(),
                given_up: GivenUpEdits::default(),
                tasks,
                closing,
                ended,
            }),
        };
        if let Some(journals) = journals {
            let (room, tasks) = (WeakRoom(Arc::downgrade(&client.inner)), client.tasks());
            let resend = resend(room, journals, tasks.clone(), client.closing());
            tasks.spawn(resend);
        }
        if !is_offline {
            connected.await.map_err(|_ended| ConnectError::Closed)??;
        }
        Ok(client)
    }

    fn url(&self) -> Result<String, ConnectError> {
        if let Some(url) = &self.room_url {
            return Ok(url.clone());
        }
        let missing = |what: &str| ConnectError::Setting(what.to_owned());
        let api_url = self
            .api_url
            .as_ref()
            .ok_or_else(|| missing("there is no server: give its URL, or set MESHAGENT_API_URL"))?;
        let room = self
            .room
            .as_ref()
            .ok_or_else(|| missing("no room was given: give its name, or set MESHAGENT_ROOM"))?;
        let room = RoomName::parse(room)
            .map_err(|error| ConnectError::Setting(format!("the room's name: {error}")))?;
        let base = api_url.trim_end_matches('/');
        let base = base
            .strip_prefix("http")
            .map_or_else(|| base.to_owned(), |rest| format!("ws{rest}"));
        Ok(format!("{base}/rooms/{}", room.as_str()))
    }
}

/// Keeps a room connected.
struct Supervisor {
    url: String,
    tokens: Tokens,
    trust: Trust,
    ping_interval: Duration,
    link: watch::Sender<Link>,
    events: broadcast::Sender<RoomEvent>,
    tasks: TaskTracker,
    closing: CancellationToken,
    first: Option<oneshot::Sender<Result<(), ConnectError>>>,
    writer: Option<Writer>,
}

impl Supervisor {
    async fn run(mut self) {
        let mut backoff = Backoff::new();
        let closing = self.closing.clone();
        let end = tokio::select! {
            end = catch_panic(self.keep_connected(&mut backoff)) => end.unwrap_or_else(RoomEnd::Failed),
            () = closing.cancelled() => {
                // Documents use the current connection to save their remaining edits.
                self.tasks.close();
                let _in_time = tokio::time::timeout(LINGER, self.tasks.wait()).await;
                RoomEnd::Left
            }
        };
        // `connect`, which may still wait for the first connection, learns that there is none.
        self.first = None;
        let link = self.link.send_replace(Link::Ended(end));
        if let Link::Up(connection) = link {
            connection.close().await;
        }
        self.tasks.close();
        let _in_time = tokio::time::timeout(LINGER, self.tasks.wait()).await;
        // Dropping the writer blocks until everything is written. A runtime that shuts down waits
        // for the blocking thread, too.
        let writer = self.writer.take();
        let written = tokio::task::spawn_blocking(move || drop(writer));
        let _in_time = tokio::time::timeout(LINGER, written).await;
    }

    /// Connects and reconnects. Returns why there will be no further connection.
    async fn keep_connected(&mut self, backoff: &mut Backoff) -> RoomEnd {
        loop {
            let token = match self.tokens.next().await {
                Ok(token) => token,
                Err(error) => {
                    let reason = chain(&*error);
                    if let Some(first) = self.first.take() {
                        let error = ConnectError::Token(error);
                        let end = RoomEnd::from(&error);
                        let _waiting = first.send(Err(error));
                        return end;
                    }
                    self.link.send_replace(Link::NoToken(reason));
                    tokio::time::sleep(backoff.next(backoff::random())).await;
                    continue;
                }
            };
            if matches!(*self.link.borrow(), Link::NoToken(_)) {
                self.link.send_replace(Link::Down);
            }
            let connecting =
                Connection::connect_trusting(&self.url, &token, &self.trust, self.ping_interval);
            let connected = tokio::time::timeout(CONNECT_PATIENCE, connecting).await;
            match connected.unwrap_or(Err(ConnectError::Closed)) {
                Ok(connection) => {
                    let since = Instant::now();
                    self.tokens.taken();
                    self.link.send_replace(Link::Up(connection.clone()));
                    if let Some(first) = self.first.take() {
                        let _waiting = first.send(Ok(()));
                    }
                    self.forward_events(&connection).await;
                    self.link.send_replace(Link::Down);
                    backoff.connected(since.elapsed());
                }
                Err(ConnectError::Refused { status, .. }) if self.tokens.refused(status) => {}
                Err(error) if self.first.is_some() || !error.may_pass() => {
                    let end = RoomEnd::from(&error);
                    if let Some(first) = self.first.take() {
                        let _waiting = first.send(Err(error));
                    }
                    return end;
                }
                Err(_passing) => {}
            }
            tokio::time::sleep(backoff.next(backoff::random())).await;
        }
    }

    /// Forwards the connection's events to the room's subscribers until the connection ends.
    async fn forward_events(&self, connection: &Connection) {
        let mut events = connection.subscribe();
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(Ok(event)) => {
                        // An error only means that there are no subscribers.
                        let _listeners = self.events.send(event);
                    }
                    Some(Err(_missed)) => {}
                    None => return,
                },
                () = connection.closed() => {
                    // Events that arrived before the connection ended.
                    while let Some(Ok(event)) = events.recv().await {
                        let _listeners = self.events.send(event);
                    }
                    return;
                }
            }
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // The supervisor is dropped before its end only with its runtime or by a panic. There will
        // be no connection.
        self.link.send_if_modified(|link| {
            let has_ended = matches!(link, Link::Ended(_));
            if !has_ended {
                *link = Link::Ended(RoomEnd::Failed("its runtime has shut down".to_owned()));
            }
            !has_ended
        });
    }
}

/// The texts of an error and its causes, joined by colons.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let causes: Vec<String> = causes.map(ToString::to_string).collect();
    causes.join(": ")
}

/// How long the server may take to accept a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);
