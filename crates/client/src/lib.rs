//! A client of a room server: a cheap handle, and one driver task that owns the socket.
//!
//! Carries updates as bytes and does not know what is in them; holds no documents, and does not
//! reconnect. When the connection is gone, every call says so and a new client is the remedy.
//!
//! ```no_run
//! use meshagent_client::Connection;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let room = Connection::connect("ws://127.0.0.1:8080/rooms/my-room", "<participant token>").await?;
//! println!("{} in {}", room.local_participant_id(), room.room_name());
//!
//! room.storage().upload("notes.txt", b"hello".to_vec(), true).await?;
//! for entry in room.storage().list("").await? {
//!     println!("{}", entry.name);
//! }
//! room.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//!
//! - [`Connection`]: the connection and its calls; [`StreamHandle`]: one streamed call.
//! - [`SyncCalls`], [`StorageClient`]: the toolkits, typed.
//! - `connect`: the way to an open WebSocket; `driver`: the task that owns it.

mod connect;
mod connection;
mod driver;
mod event;
mod storage_client;
mod stream;
mod sync_calls;

pub use connect::ConnectError;
pub use connection::{CallError, Connection};
pub use event::{EventReceiver, RoomEvent};
pub use storage_client::{DownloadedFile, StorageClient};
pub use stream::{StreamEnd, StreamHandle, StreamSender};
pub use sync_calls::{Acknowledgement, SyncCalls, SyncStream};
