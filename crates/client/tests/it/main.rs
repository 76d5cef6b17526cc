//! Tests of the client against a scripted server, in memory.
#![allow(clippy::unwrap_used, reason = "a failing helper fails the test")]

mod abandoned;
mod calls;
mod conflicts;
mod connecting;
mod damaged;
mod ending;
mod locking;
mod peer;
mod reconnecting;
mod refusing;
mod reopening;
mod replica;
mod resending;
mod restored;
mod streams;
mod toolkits;
mod undo;
