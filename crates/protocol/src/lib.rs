//! The room wire protocol as state machines: bytes in, bytes and events out.
//!
//! The crate contains no networking code, starts no task, reads no clock and draws no random
//! numbers. It does not depend on the document engine: updates are opaque bytes.
//!
//! ```text
//! WebSocket message ── PacketReader ──▶ Message ── Envelope::parse ──▶ ClientToServer
//! WebSocket message ◀── ServerToClient::encode ◀── ServerToClient
//! ```
//!
//! # Layout
//!
//! - [`packet`], [`message`], [`content`]: the layers of the wire format, outermost first.
//! - [`client_to_server`], [`server_to_client`]: the messages of the two directions.
//! - [`calls`]: the streamed calls of one connection.
//! - [`client_session`]: the client's side of one connection.
//! - [`sync`], [`storage`], [`messaging`]: the typed inputs and outputs of the toolkits.
//! - [`token`], [`key`]: authentication. Grants and paths come from `meshagent-rights`.
//! - [`code`], [`request`], [`json`], [`trace`]: shared parts.

pub mod calls;
pub mod client_session;
pub mod client_to_server;
pub mod code;
pub mod content;
mod field;
pub mod json;
pub mod key;
pub mod message;
pub mod messaging;
pub mod outline;
pub mod packet;
mod plain_chunk;
pub mod request;
pub mod server_to_client;
mod shared_chunk;
mod shared_message;
pub mod storage;
pub mod sync;
pub mod token;
mod tool;
pub mod trace;

pub use calls::{Calls, DuplicateCall};
pub use client_session::{ClientSession, Event, RequestId, StreamError, StreamId, UnknownStream};
pub use client_to_server::{ClientToServer, Envelope, Invoke};
pub use code::ErrorCode;
pub use content::{Content, Control, InvalidContent};
pub use field::InvalidField;
pub use json::{InvalidJson, MAX_JSON_DEPTH, parse_json, parse_json_object, weigh_json};
pub use key::{ApiKey, InvalidApiKey};
pub use meshagent_rights::{
    ApiScope, DocPath, FileAction, FilePathRule, FilesPolicy, Grant, InvalidGrant,
    InvalidGrantPath, InvalidPath, InvalidRoomName, MessagingGrant, Role, RoomName, SCHEMAS, Sight,
    StorageGrant, StoragePathGrant, SyncGrant, SyncPathGrant, is_reserved_name, is_schema_path,
};
pub use message::{Body, InvalidBody, InvalidMessage};
pub use outline::{Asks, Outline};
pub use packet::{
    Message, MessageId, PacketError, PacketFault, PacketLimits, PacketReader, Packets,
};
pub use request::{InvalidBase64, InvalidRequest, decode_base64, encode_base64};
pub use server_to_client::ServerToClient;
pub use shared_chunk::SharedChunk;
pub use shared_message::SharedMessage;
pub use sync::{
    SyncChunk, SyncCreate, SyncDescribe, SyncDescribed, SyncOpenStart, SyncOutput, SyncPatch,
    SyncPatched, SyncPatchedOperation,
};
pub use token::{MAX_TOKEN_BYTES, ParticipantToken, TokenError, TokenVerifier};
pub use tool::{Tool, Toolkit, describe_tools};
pub use trace::TraceParent;
