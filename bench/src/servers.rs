//! Servers side by side: clients for each server's protocol, the same load for all, and a report.

pub mod batch;
pub mod gauge;
pub mod host;
pub mod link;
pub mod meter;
pub mod peers;
pub mod plot;
pub mod protocol;
pub mod report;
pub mod run;
pub mod scenario;
pub mod stage;
pub mod workload;
