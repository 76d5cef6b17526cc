//! The server from outside: real sockets, spoken to by our client and by bare bytes.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
#![expect(
    clippy::unused_self,
    reason = "tokens are asked for where they are used"
)]

mod cable;
mod cuts;
mod examples;
mod handshake;
mod harness;
mod limits;
mod links;
mod live;
mod methods;
mod patching;
mod sockets;
mod stopping;
mod wire;
