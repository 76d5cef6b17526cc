//! The room server: rooms as state machines, the gate for inbound updates, HTTP and WebSocket around them.
//!
//! It prints nothing, reads no environment and picks no database: [`Server::new`] is given a store, a key and a
//! [`Config`], and [`Server::run`] serves a listener until it is told to stop.
//!
//! # Layout
//! - `http`: the routes, the handshake and its refusals, signed downloads
//! - `connection`: one WebSocket, bytes to messages and back
//! - `websocket`: the WebSocket protocol, read strictly
//! - `gather`: small writes gathered, without a buffer while nothing is written
//! - `rooms`: the rooms in memory and the task that drives each
//! - `admission`: what a message has to show before its body is read
//! - `room`: one room as a plain state machine
//! - `schemas`: what documents with the same schema share
//! - `budget`: how fast each connection, and all together, may be
//! - `ledger`: what is held for each connection, each participant and all together
//! - `lane`: where work that takes long is done
//! - `committer`: the one thread that writes to the store
//! - `outbox`: what waits to be written to one connection
//! - `simulation`: all this without sockets, tasks and clock, for tests (feature `simulation`)

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may fail loudly"))]

mod admission;
mod budget;
mod committer;
mod config;
mod connection;
mod gather;
mod health;
mod http;
mod ids;
mod lane;
mod ledger;
mod metrics;
mod newcomers;
mod open_memory;
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
