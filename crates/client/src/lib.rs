//! A client of a room server.
//!
//! [`RoomClient`] is a room, over as many connections as it takes; its documents ([`LiveDocument`]) are edited at once.
//! While the program runs, no edit is lost silently: what the server has not acknowledged is sent again, and what it refuses is
//! reported with its content. To keep unsent edits over a restart of the program as well, give the room a directory with
//! [`RoomBuilder::offline`]; [`LiveDocument::journaled`] waits until an edit is on the disk there. [`Connection`], below it, is
//! one connection with its calls and streams, for programs that carry updates themselves.
//!
//! ```no_run
//! use meshagent_client::RoomClient;
//! use meshagent_document::Target;
//! use serde_json::json;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // Run with: meshagent room connect --room my-room --identity me -- cargo run
//! let room = RoomClient::from_env().await?;
//! println!("connected to room: {}", room.room_name());
//!
//! let document = room.sync().open("hello-world.document").await?;
//! document.edit(|d| d.append_child(Target::Root, json!({ "body": { "text": "hello world!" } })))??;
//! document.saved().await?;
//! room.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//!
//! - [`RoomClient`] is a room and reconnects by itself. [`SyncClient`] and [`StorageClient`] are its toolkits.
//! - [`LiveDocument`] is an open document. [`Replica`] is a document with its unacknowledged edits, without I/O.
//! - [`Connection`] is a single connection, [`StreamHandle`] a streamed call on it.

// A test of this crate shares its peer with those in `tests`.
#[cfg(test)]
extern crate self as meshagent_client;

mod backoff;
mod connect;
mod connection;
mod credentials;
mod document_task;
mod driver;
mod editor;
mod event;
mod given_up;
mod journal;
mod live_document;
mod panics;
mod pulse;
mod refusals;
mod replica;
mod resend;
mod room_client;
#[cfg(feature = "simulation")]
pub mod simulation;
mod storage_client;
mod stream;
mod sync_calls;
mod sync_client;
mod trust;

pub use connect::ConnectError;
pub use connection::{CallError, Connection};
pub use editor::Editor;
pub use event::{EventReceiver, RoomEvent};
pub use given_up::GivenUp;
pub use journal::{JournalError, Unsent};
pub use live_document::{
    Changes, DocumentEnd, DocumentEvent, JournalStatus, LiveDocument, Refusal, ReplacedDocument,
    SaveError,
};
pub use replica::{LostEdit, Outgoing, Replica};
pub use room_client::{
    LocalParticipant, RoomBuilder, RoomClient, RoomEnd, RoomStatus, StatusReceiver,
};
pub use storage_client::{DownloadedFile, StorageClient};
pub use stream::{PendingAnswer, StreamEnd, StreamHandle, StreamSender};
pub use sync_calls::{Acknowledgement, SyncCalls, SyncStream};
pub use sync_client::{OpenError, OpenOptions, SyncClient, SyncError};
