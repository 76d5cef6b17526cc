//! What the benchmarks share: documents and editing histories, yrs as the measure, and the harness
//! that compares.

pub mod documents;
pub mod engine;
pub mod harness;
pub mod servers;
pub mod traces;
