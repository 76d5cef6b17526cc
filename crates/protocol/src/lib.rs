//! The room wire protocol as state machines: bytes in, bytes and events out.
//!
//! Contains no networking code, starts no task, reads no clock and draws no random number. It has
//! never heard of the document engine: updates cross it as opaque bytes.
//!
//! ```text
//! WebSocket message ── PacketReader ──▶ Message ── Envelope::parse ──▶ ClientToServer
//! WebSocket message ◀── ServerToClient::encode ◀── ServerToClient
//! ```
//!
//! # Layout
//!
//! - [`packet`], [`message`], [`content`]: the layers of the wire, from the outside in.
//! - [`client_to_server`], [`server_to_client`]: the messages of the two directions.
//! - [`calls`]: the streamed calls of one connection.
//! - [`client_session`]: one connection as its client sees it.
//! - [`sync`], [`storage`], [`messaging`]: the inputs and outputs of the toolkits, typed.
//! - [`token`], [`grant`], [`key`]: who may do what, and how they prove it.
//! - [`path`], [`code`], [`request`], [`json`], [`trace`]: what all of them use.

pub mod calls;
pub mod client_session;
pub mod client_to_server;
pub mod code;
pub mod content;
mod field;
pub mod file_policy;
pub mod grant;
pub mod json;
pub mod key;
pub mod message;
pub mod messaging;
pub mod packet;
pub mod path;
pub mod request;
pub mod server_to_client;
mod shared_chunk;
pub mod storage;
pub mod sync;
pub mod token;
pub mod trace;

pub use calls::{Calls, DuplicateCall};
pub use client_session::{ClientSession, Event, RequestId, StreamError, StreamId, UnknownStream};
pub use client_to_server::{ClientToServer, Envelope, Invoke};
pub use code::ErrorCode;
pub use content::{Content, Control, InvalidContent};
pub use field::InvalidField;
pub use file_policy::{FileAction, FilePathRule, FilesPolicy};
pub use grant::{
    ApiScope, Grant, InvalidGrant, MessagingGrant, Role, StorageGrant, StoragePathGrant, SyncGrant,
    SyncPathGrant,
};
pub use json::{InvalidJson, MAX_JSON_DEPTH, parse_json, parse_json_object};
pub use key::{ApiKey, InvalidApiKey};
pub use message::{Body, InvalidBody, InvalidMessage};
pub use packet::{
    Message, MessageId, PacketError, PacketFault, PacketLimits, PacketReader, Packets,
};
pub use path::{DocPath, InvalidPath, InvalidRoomName, RoomName};
pub use request::{InvalidBase64, InvalidRequest, decode_base64, encode_base64};
pub use server_to_client::ServerToClient;
pub use shared_chunk::SharedChunk;
pub use sync::{
    SyncChunk, SyncCreate, SyncDescribe, SyncDescribed, SyncOpenStart, SyncOutput, SyncPatch,
    SyncPatched, SyncPatchedOperation,
};
pub use token::{MAX_TOKEN_BYTES, ParticipantToken, TokenError, TokenVerifier};
pub use trace::TraceParent;
