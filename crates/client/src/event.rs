//! The events of a room.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_stream::{Stream, StreamExt as _};

use meshagent_protocol::ServerToClient;

/// An event of a room.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum RoomEvent {
    /// The connection is gone. A [`RoomClient`](crate::RoomClient) reconnects, and its events
    /// continue; those of a [`Connection`](crate::Connection) end here.
    Disconnected {
        /// Why the connection ended, for people to read.
        reason: String,
    },
    /// A file or document was deleted.
    FileDeleted {
        /// The file's path.
        path: String,
        /// The participant that deleted it.
        participant_id: String,
    },
    /// A file or document was moved.
    FileMoved {
        /// The old path.
        source_path: String,
        /// The new path.
        destination_path: String,
        /// The participant that moved it.
        participant_id: String,
    },
    /// A file or document was created or written.
    FileUpdated {
        /// The file's path.
        path: String,
        /// The participant that wrote it.
        participant_id: String,
    },
    /// A message from another participant, or about one.
    Message {
        /// The participant that sent it, or that it is about.
        from_participant_id: String,
        /// The type of the message, for instance `participant.enabled`.
        kind: String,
        /// The content of the message.
        message: Value,
        /// The attachment's bytes; empty if there is none.
        attachment: Bytes,
    },
    /// The server reports a status of the room.
    Status {
        /// The status as one word, for programs.
        status: String,
        /// The status as a sentence, for people.
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

/// A subscription to a room's events since [`RoomClient::subscribe`](crate::RoomClient::subscribe)
/// or [`Connection::subscribe`](crate::Connection::subscribe), read with [`recv`](Self::recv) or as
/// a `Stream`.
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

    /// The next event. `None` once all events were read and the connection has ended. A
    /// subscription of a [`RoomClient`](crate::RoomClient) ends when the room's clones and open
    /// documents are dropped.
    ///
    /// The last 256 events wait for a slow subscriber. Beyond that the oldest are dropped, and
    /// `Some(Err(n))` reports their number. A program that keeps a list of files or participants
    /// should then read it again.
    ///
    /// # Cancel safety
    ///
    /// No event is lost.
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

/// How many events a subscriber may leave unread: enough for an upload of a folder, and still a
/// bound.
pub(crate) const EVENT_CAPACITY: usize = 256;
