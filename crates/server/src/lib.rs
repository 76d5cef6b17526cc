//! The room server: rooms as state machines, the gate for inbound updates, HTTP and WebSocket
//! around them.
//!
//! The crate prints nothing, reads no environment and picks no database. [`Server::new`] takes a
//! store, a key and a [`Config`], and [`Server::run`] serves a listener until it is stopped.
//!
//! # Layout
//! - `http`: the routes, the handshake and its refusals, signed downloads
//! - `connection`: one WebSocket connection, from bytes to messages and back
//! - `websocket`: a strict implementation of the WebSocket protocol
//! - `gather`: the write coalescer
//! - `rooms`: the rooms in memory and the task that drives each
//! - `admission`: checks of a message before its body is parsed
//! - `room`: one room as a plain state machine
//! - `schemas`: the state that documents with the same schema share
//! - `budget`: rates of each connection and of all together
//! - `lane`: the heavy-work pool
//! - `committer`: the one thread that writes to the store
//! - `outbox`: the queue of messages to one connection
//! - `simulation`: all this without sockets, tasks and clock, for tests (feature `simulation`)

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may fail loudly"))]

mod admission;
mod budget;
mod committer;
mod config;
mod connection;
mod fair;
mod gather;
mod health;
mod http;
mod ids;
mod lane;
mod metrics;
mod newcomers;
mod outbox;
mod reads;
mod room;
mod room_loop;
mod rooms;
mod schemas;
mod server;
mod signer;
#[cfg(feature = "simulation")]
pub mod simulation;
mod usage;
mod wall_clock;
mod websocket;

pub use self::config::{Config, Limits};
pub use self::server::{Server, StartError};
