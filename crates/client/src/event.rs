//! What happens in a room without anybody having asked for it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_stream::{Stream, StreamExt as _};

use meshagent_protocol::ServerToClient;

/// Something that happened in the room.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum RoomEvent {
    /// The connection is gone; nothing follows.
    Disconnected {
        /// Why, for people.
        reason: String,
    },
    /// A file or document is gone.
    FileDeleted {
        /// Where it was.
        path: String,
        /// By whom.
        participant_id: String,
    },
    /// A file or document has another path.
    FileMoved {
        /// Where it was.
        source_path: String,
        /// Where it is.
        destination_path: String,
        /// By whom.
        participant_id: String,
    },
    /// A file or document was created or written.
    FileUpdated {
        /// Where.
        path: String,
        /// By whom.
        participant_id: String,
    },
    /// A message of another participant, or about one.
    Message {
        /// Who sent it, or whom it is about.
        from_participant_id: String,
        /// What it is, for instance `participant.enabled`.
        kind: String,
        /// What it says.
        message: Value,
        /// What is attached; empty for nothing.
        attachment: Bytes,
    },
    /// The server says something about the room.
    Status {
        /// A word, for programs.
        status: String,
        /// A sentence, for people.
        message: String,
    },
}

impl RoomEvent {
    pub(crate) fn from_message(message: ServerToClient) -> Option<Self> {
        Some(match message {
            ServerToClient::FileDeleted {
                path,
                participant_id,
            } => Self::FileDeleted {
                path,
                participant_id,
            },
            ServerToClient::FileMoved {
                source_path,
                destination_path,
                participant_id,
            } => Self::FileMoved {
                source_path,
                destination_path,
                participant_id,
            },
            ServerToClient::FileUpdated {
                path,
                participant_id,
            } => Self::FileUpdated {
                path,
                participant_id,
            },
            ServerToClient::Messaging {
                from_participant_id,
                kind,
                message,
                attachment,
            } => Self::Message {
                from_participant_id,
                kind,
                message,
                attachment,
            },
            ServerToClient::RoomStatus { status, message } => Self::Status { status, message },
            _ => return None,
        })
    }
}

/// A subscription to the events of a room, from the moment of
/// [`RoomClient::subscribe`](crate::RoomClient::subscribe) on, by [`recv`](Self::recv) or as a `Stream`.
#[derive(Debug)]
pub struct EventReceiver {
    events: BroadcastStream<RoomEvent>,
}

impl EventReceiver {
    pub(crate) fn new(events: broadcast::Receiver<RoomEvent>) -> Self {
        Self {
            events: BroadcastStream::new(events),
        }
    }

    /// The next event; `None` when the connection is gone and all were read.
    ///
    /// The last 256 events wait for a slow subscriber. When there are more, the oldest are dropped
    /// for it, and `Some(Err(n))` says how many: whoever keeps a list of files or participants
    /// should ask for it anew.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    ///
    /// ```
    /// use meshagent_client::RoomEvent;
    ///
    /// # meshagent_testing::in_room(async |room| {
    /// let mut events = room.subscribe();
    /// room.sync().create("notes.document", None, None).await?;
    /// while let Some(event) = events.recv().await {
    ///     if let Ok(RoomEvent::FileUpdated { path, .. }) = event {
    ///         assert_eq!(path, "notes.document");
    ///         break;
    ///     }
    /// }
    /// # Ok(())
    /// # });
    /// ```
    pub async fn recv(&mut self) -> Option<Result<RoomEvent, u64>> {
        self.next().await
    }
}

impl Stream for EventReceiver {
    type Item = Result<RoomEvent, u64>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let event = Pin::new(&mut self.events).poll_next(context);
        event.map_err(|BroadcastStreamRecvError::Lagged(missed)| missed)
    }
}

/// How many events wait for the slowest subscriber: a folder full of uploads, not a memory leak.
pub(crate) const EVENT_CAPACITY: usize = 256;
