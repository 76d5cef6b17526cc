//! Runs the simulation of the server for a range of seeds:
//! `sim [--seeds N] [--from N] [--verbose] [--digest]`.

#![expect(clippy::print_stdout, reason = "the command prints its results")]

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use meshagent_testing::simulation::{StoreBug, Summary, run, run_many};

/// The number of seeds without `--seeds` and `--from`.
const SEEDS: u64 = 10_000;

/// How many failures are printed in full.
const SHOWN_FAILURES: usize = 10;

fn main() -> Result<ExitCode> {
    let (mut seeds, mut from, mut verbose, mut digest) = (None, None, false, false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match (arg.as_str(), args.len()) {
            ("--verbose", _) => verbose = true,
            ("--digest", _) => digest = true,
            ("--seeds", 1..) => seeds = Some(args.next().unwrap_or_default().parse()?),
            ("--from", 1..) => from = Some(args.next().unwrap_or_default().parse()?),
            _ => bail!("unknown option {arg:?}: use --seeds N, --from N, --verbose, --digest"),
        }
    }
    let otherwise = if from.is_some() { 1 } else { SEEDS };
    let seeds = seeds.unwrap_or(otherwise);
    let from = from.unwrap_or(0);
    let started = Instant::now();
    let mut summary = Summary::default();
    if verbose && seeds == 1 {
        let outcome = run(from, StoreBug::None, true);
        for step in &outcome.steps {
            println!("{step}");
        }
        summary.add(outcome);
    } else {
        summary = run_many(from, seeds, StoreBug::None);
    }
    if digest {
        for (seed, hash) in &summary.hashes {
            println!("seed {seed}: {hash:016x}");
        }
    }
    let Summary { totals, failed, .. } = summary;
    for (kind, count) in totals.iter() {
        println!("{count:>12}  {kind}");
    }
    println!(
        "{seeds} seeds from {from} in {:.1} s",
        started.elapsed().as_secs_f64()
    );
    for outcome in failed.iter().take(SHOWN_FAILURES) {
        let failure = outcome.failure.as_deref().unwrap_or_default();
        println!(
            "seed {} failed: {failure}\n{}",
            outcome.seed,
            outcome.repeat()
        );
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} of {seeds} seeds failed", failed.len());
    Ok(ExitCode::FAILURE)
}
