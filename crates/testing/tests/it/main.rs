//! Tests of the simulation: many seeds, one seed twice, and stores with known bugs.

mod our_client;

use meshagent_testing::simulation::{Outcome, StoreBug, Summary, run, run_many};

/// `cargo xtask sim` runs more.
const SEEDS: u64 = 200;

#[test]
fn promises_hold_despite_failures() {
    let Summary { totals, failed, .. } = run_many(0, SEEDS, StoreBug::None);
    assert!(failed.is_empty(), "{}", report(&failed));
    // Each kind of event has to occur, or its promises are not tested.
    for kind in [
        "appends refused",
        "batches answered after an erasure",
        "batches left for the next commit",
        "catch-ups",
        "commits of several rooms",
        "commits that failed",
        "connections that died in silence",
        "lost messages reported",
        "echoes",
        "cut journals read",
        "damaged journals reported",
        "documents replaced",
        "edits given up",
        "edits handed over with a replaced document",
        "edits kept beside a refused one",
        "edits of another server",
        "edits that panicked",
        "late writes that were fenced",
        "late writes that were stored",
        "edits under a client id of ours",
        "gaps filled",
        "journals read",
        "moves and deletions",
        "answers after a document had gone",
        "turns in the heavy-work pool",
        "power cuts in a commit",
        "rooms taken over",
        "stops",
        "times reads paused",
        "tokens expired",
        "updates made fit for all readers",
        "updates refused with 1001",
        "updates refused with 1002",
        "updates refused with 1005",
        "updates refused with 1008",
        "updates repaired",
    ] {
        assert!(totals.count(kind) > 0, "no {kind} in {totals:#?}");
    }
}

#[test]
fn a_seed_determines_the_run() {
    // Both runs at the same time, so that shared state would show.
    for seed in 0..6 {
        let [once, again] = std::thread::scope(|scope| {
            let runs = [(); 2].map(|()| scope.spawn(|| run(seed, StoreBug::None, true)));
            runs.map(|run| run.join().expect("a run catches its panics"))
        });
        let differs = once
            .steps
            .iter()
            .zip(&again.steps)
            .find(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(once.hash, again.hash, "seed {seed}");
        assert_eq!(once.totals, again.totals, "seed {seed}");
    }
    let [one, other] = [0, 1].map(|seed| run(seed, StoreBug::None, false).hash);
    assert_ne!(one, other);
}

/// Checks that never fail prove nothing. These stores break their promises.
#[test]
fn bugs_of_a_store_are_found() {
    for bug in [
        StoreBug::EarlyAnswer,
        StoreBug::LostWrite,
        StoreBug::FalseFailure,
    ] {
        let summary = run_many(0, 10, bug);
        assert!(!summary.failed.is_empty(), "{bug:?} was not found");
    }
}

fn report(failed: &[Outcome]) -> String {
    let lines = failed.iter().map(|outcome| {
        let failure = outcome.failure.as_deref().unwrap_or_default();
        format!("seed {}: {failure}\n{}\n", outcome.seed, outcome.repeat())
    });
    lines.collect()
}
