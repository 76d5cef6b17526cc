//! What the server holds for its peers, in bytes: charged before it is made, released when it is dropped.
//!
//! Three accounts pay for each charge: the connection's, its participant's, and the server's. A kind of charge may
//! have a bound of its own. Beyond a bound a charge is [refused](Account::try_charge), [waits](Account::charge), or is
//! only [counted](Account::charge_anyway) because the thing exists already; `docs/operations.md` says which, per kind.
//!
//! # Rules
//! - A waiting charge keeps its place: at each bound the charges that wait are served in the order they came.
//! - Connections that hold something while they wait for more could wait for each other for ever. One of them at a
//!   time, per participant and per server, therefore goes on beyond the bound.
//! - One charge larger than a bound passes when nothing else is held there.
//! - A connection that holds little may use a reserve, so that those who hold much never keep it waiting.
//! - The first [`FREE_BYTES`] of a connection count as part of the connection and are never waited for. Beyond that its
//!   participant and the server are asked for [`STEP_BYTES`] at a time: most messages touch only the connection's own account.
//! - A right to go beyond a bound is no good in the hands of one who waits for a peer to read: such a request
//!   [stands back](Charge::stand_back), and the peer has to take its answers in good time ([`pressure`]).

mod account;
mod bounds;
mod charge;
mod kind;
mod ledger;
mod level;
mod open_memory;
mod pressure;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use self::account::{Account, ChunkWaits, Speaker};
pub use self::bounds::{Bounds, OverBound, Scope};
pub use self::charge::{Charge, Held};
pub use self::kind::Kind;
pub use self::ledger::Ledger;
pub use self::open_memory::{OpenCharge, OpenMemory, TooMuchOpen};
pub use self::pressure::{Pace, Wanted};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Numbers and a map, which no panic leaves half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
