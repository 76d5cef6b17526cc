//! The memory that a server holds for its peers, in bytes: charged before it is allocated, released
//! when it is dropped.
//!
//! Each charge counts for three accounts: that of the connection, of its participant, and of the
//! server. A [`Kind`] may have a bound of its own. Beyond a bound a charge is refused
//! ([`Account::try_charge`]), waits ([`Account::charge`]), or is only counted
//! ([`Account::charge_anyway`]), because the bytes exist already. `docs/operations.md` has a table
//! of the kinds and of what happens beyond their bounds.
//!
//! The memory of documents belongs to no connection. [`OpenMemory`] counts it.
//!
//! # Rules
//!
//! - Charges that wait at a bound are served in the order of their arrival.
//! - Connections that hold memory while they wait for more could block each other forever.
//!   Therefore one message at a time, for each participant and for the server, may exceed the
//!   bound. The charges of a message share that right ([`Charge::beside`]); those of the
//!   connection's other messages don't have it.
//! - A charge that is larger than a bound passes when nothing else is held there.
//! - A participant that holds little may use a reserve of the server's bounds, so participants that
//!   hold much never block it. It waits only behind others that may use the reserve, and does so
//!   as soon as it holds little again. A connection that holds little may use a half of the
//!   reserve, whatever its participant holds.
//! - The charge that may exceed a bound uses nothing of the reserve.
//! - The first 4 KiB of a connection count as part of the connection and never wait. Beyond them it
//!   takes bytes from its participant and the server in steps of 16 KiB, so most messages touch
//!   only the connection's own account.
//! - A request that waits for its peer to read must not exceed a bound meanwhile. It gives up that
//!   right ([`Charge::stand_back`]) or is refused ([`Held::try_stand_back`]), and the peer has to
//!   read its answers in good time ([`Pace`]).
//!
//! # Layout
//!
//! - `kind`, `bounds`: what memory is held for, and how much of it.
//! - `ledger`, `account`: the accounts of the server, its participants and their connections.
//! - `charge`: held bytes as values.
//! - `level`: one bound, and the charges that wait at it.
//! - `pressure`: the peers that block others.
//! - `open_memory`: the memory of documents.

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
    // The content is numbers and a map, which no panic leaves half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
