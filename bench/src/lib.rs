//! The common parts of the benchmarks: documents, editing histories, yrs, and the harness.

pub mod documents;
pub mod engine;
pub mod harness;
pub mod servers;
pub mod traces;
