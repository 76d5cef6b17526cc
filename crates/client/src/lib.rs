//! A client of a room server: rooms, live documents and files.
//!
//! [`RoomClient`] is a room. It reconnects when its connection breaks. Edits of its documents
//! ([`LiveDocument`]) take effect locally without waiting for the server.
//!
//! While the program runs, no edit is lost silently: an edit that the server has not acknowledged
//! is sent again, and one that the server refuses is reported with its content. With
//! [`RoomBuilder::offline`], unsent edits also survive a restart of the program: they are kept in a
//! directory, and [`LiveDocument::journaled`] waits until an edit is on disk.
//!
//! [`Connection`] is the layer below: one connection with its calls and streams, for programs that
//! exchange updates themselves.
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
//! document.edit(|d| {
//!     d.append_child(Target::Root, json!({ "body": { "text": "hello world!" } }))
//! })??;
//! document.saved().await?;
//! room.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//!
//! - [`RoomClient`]: a room; it reconnects automatically. [`SyncClient`] and [`StorageClient`] are
//!   its toolkits.
//! - [`LiveDocument`]: an open document. [`Replica`]: a document with its unacknowledged edits,
//!   without I/O.
//! - [`Connection`]: a single connection. [`StreamHandle`]: a streamed call on it.

// Unit tests include the scripted peer from `tests`, which uses this crate by its public name.
#[cfg(test)]
extern crate self as meshagent_client;

mod accepted;
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
