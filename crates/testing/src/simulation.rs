//! The simulation of the whole server in virtual time: rooms, gate, committer and a failing disk,
//! with clients that behave like programs.
//!
//! One queue of events drives a run, and one number, the seed, determines everything that happens.
//! [`run`] makes one run, [`run_many`] makes many on all cores. `docs/simulation.md` lists what is
//! simulated and checked.

mod board;
mod client;
mod disk;
mod random;
mod record;
mod roaming;
mod session;
mod trace;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

pub use self::disk::StoreBug;
pub use self::trace::Totals;
use self::trace::Trace;
use self::world::World;

/// The result of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The seed of the run.
    pub seed: u64,
    /// The promise that was broken; `None` if all held.
    pub failure: Option<String>,
    /// How often each kind of event occurred.
    pub totals: Totals,
    /// A hash of all steps.
    pub hash: u64,
    /// All steps as text, if the run was verbose.
    pub steps: Vec<String>,
}

impl Outcome {
    /// The command that repeats the run.
    pub fn repeat(&self) -> String {
        format!(
            "repeat with: cargo xtask sim --from {} --seeds 1",
            self.seed
        )
    }
}

/// Runs one seed.
pub fn run(seed: u64, bug: StoreBug, verbose: bool) -> Outcome {
    let mut trace = Trace::new(verbose);
    let mut totals = Totals::default();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, bug)?;
        let result = world.run(&mut trace);
        totals = std::mem::take(&mut world.totals);
        result
    }));
    let failure = match result {
        Ok(result) => result.err(),
        Err(panic) => Some(format!("panicked: {}", panic_text(&*panic))),
    };
    totals.add("runs", 1);
    Outcome {
        seed,
        failure,
        totals,
        hash: trace.hash(),
        steps: trace.into_steps(),
    }
}

/// The results of [`run_many`].
#[derive(Debug, Default)]
pub struct Summary {
    /// How often each kind of event occurred in all runs.
    pub totals: Totals,
    /// The runs that failed, by seed.
    pub failed: Vec<Outcome>,
    /// The hash of each run, by its seed.
    pub hashes: BTreeMap<u64, u64>,
}

/// Runs each of the seeds, on all cores.
pub fn run_many(from: u64, seeds: u64, bug: StoreBug) -> Summary {
    let next = AtomicU64::new(from);
    let summary = Mutex::new(Summary::default());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed - from >= seeds {
                        return;
                    }
                    let outcome = run(seed, bug, false);
                    let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
                    summary.add(outcome);
                }
            });
        }
    });
    let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.failed.sort_by_key(|outcome| outcome.seed);
    summary
}

impl Summary {
    /// Adds the result of a run.
    pub fn add(&mut self, outcome: Outcome) {
        self.totals.merge(&outcome.totals);
        self.hashes.insert(outcome.seed, outcome.hash);
        if outcome.failure.is_some() {
            self.failed.push(outcome);
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}
