//! The server from outside: real sockets, spoken to by our client and by bare bytes.

mod handshake;
mod harness;
mod limits;
mod links;
mod stopping;
mod wire;
