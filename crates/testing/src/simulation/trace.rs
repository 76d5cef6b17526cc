//! The trace of a run, and the counts of what happened.
//!
//! The trace is a hash of every step: two runs of the same seed have the same hash.

use std::collections::BTreeMap;
use std::fmt;

/// How many steps are kept as text.
const KEPT_STEPS: usize = 100_000;

/// Every step of a run, as a hash and, on request, as text.
#[derive(Debug)]
pub(super) struct Trace {
    hash: u64,
    steps: Option<Vec<String>>,
}

impl Trace {
    pub(super) fn new(verbose: bool) -> Self {
        Self {
            // FNV-1a, 64 bits.
            hash: 0xcbf2_9ce4_8422_2325,
            steps: verbose.then(Vec::new),
        }
    }

    /// Adds a step.
    pub(super) fn step(&mut self, step: fmt::Arguments<'_>) {
        // Writing into a hash can't fail.
        let _ = fmt::Write::write_fmt(self, step);
        if let Some(steps) = &mut self.steps
            && steps.len() < KEPT_STEPS
        {
            steps.push(step.to_string());
        }
    }

    /// Adds bytes to the hash.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn into_steps(self) -> Vec<String> {
        self.steps.unwrap_or_default()
    }
}

impl fmt::Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes(text.as_bytes());
        Ok(())
    }
}

/// How often each kind of event occurred, in one run or in many.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    counts: BTreeMap<String, u64>,
}

impl Totals {
    pub(super) fn add(&mut self, kind: &str, count: u64) {
        match self.counts.get_mut(kind) {
            Some(found) => *found += count,
            None => {
                self.counts.insert(kind.to_owned(), count);
            }
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (kind, count) in &other.counts {
            self.add(kind, *count);
        }
    }

    /// How often a kind of event occurred.
    pub fn count(&self, kind: &str) -> u64 {
        self.counts.get(kind).copied().unwrap_or_default()
    }

    /// All kinds of events with their counts, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.counts
            .iter()
            .map(|(kind, count)| (kind.as_str(), *count))
    }
}
