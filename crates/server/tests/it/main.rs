//! The server from outside: real sockets, used by our client and with raw bytes.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
#![expect(
    clippy::unused_self,
    reason = "tokens are asked for where they are used"
)]

mod cable;
mod cuts;
mod examples;
mod forged;
mod frames;
mod handshake;
mod harness;
mod http;
mod limits;
mod links;
mod live;
mod lost;
mod methods;
mod moving;
mod offline;
mod pace;
mod patching;
mod refresh;
mod replaced;
mod silence;
mod sockets;
mod stopping;
mod undo;
mod wire;
