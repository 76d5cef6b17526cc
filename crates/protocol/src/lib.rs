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
//! - [`sync`], [`storage`], [`messaging`]: the inputs and outputs of the toolkits, typed.
//! - [`token`], [`grant`], [`key`]: who may do what, and how they prove it.
//! - [`path`], [`code`], [`json`], [`trace`]: what all of them use.

pub mod calls;
pub mod client_to_server;
pub mod code;
pub mod content;
mod field;
pub mod json;
pub mod message;
pub mod packet;
pub mod server_to_client;
pub mod trace;

pub use calls::{Calls, DuplicateCall};
pub use client_to_server::{ClientToServer, Envelope, Invoke};
pub use code::ErrorCode;
pub use content::{Content, Control, InvalidContent};
pub use field::InvalidField;
pub use message::{Body, InvalidBody, InvalidMessage};
pub use packet::{Message, MessageId, PacketError, PacketFault, PacketLimits, PacketReader};
pub use server_to_client::ServerToClient;
pub use trace::TraceParent;
