//! The scenarios, one file each.

pub mod catch_up;
pub mod documents;
pub mod durability;
pub mod fan_out;
pub mod idle;
pub mod join;
pub mod published;
pub mod start;
pub mod store;
