//! Servers side by side: clients that speak as each server's do, the same load for all, and what came of it.

pub mod gauge;
pub mod host;
pub mod link;
pub mod meter;
pub mod peers;
pub mod plot;
pub mod report;
pub mod run;
pub mod scenario;
pub mod speech;
pub mod stage;
pub mod workload;
