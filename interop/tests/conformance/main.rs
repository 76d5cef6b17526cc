//! Our document against Yjs and pycrdt: random scripts on one replica of each, from seeds. However what
//! they send is delayed, doubled, merged and put into another order, all three end up equal, and each reads
//! what the others wrote.
//!
//! `cargo xtask conformance` runs many seeds, or one again; `docs/conformance.md` says what is compared.

mod change;
mod differential;
mod replica;
mod script;
mod tree;
mod world;

use std::env::VarError;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use crate::script::{Random, Step};
use crate::world::{REPLICAS, Tally, World};

/// How many seeds the tests run that are part of every check.
const SEEDS: u64 = 50;

/// After this many seeds the other programs are started anew, whose logs grow.
const SEEDS_PER_START: u64 = 50;

/// How many scripts of the differential test.
const DIFFERENTIAL_SCRIPTS: u64 = 100;

/// How long a failing script is shortened.
const SHRINK_LIMIT: Duration = Duration::from_mins(1);

#[test]
fn random_scripts_end_equal() {
    if let Err(error) = run() {
        panic!("{error:#}");
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "what a long run did")]
fn our_engine_does_at_each_step_what_yjs_does() {
    let run = || {
        let from = number("DIFFERENTIAL_FROM", 0)?;
        differential::run(from, number("DIFFERENTIAL_SEEDS", DIFFERENTIAL_SCRIPTS)?)
    };
    match run() {
        Ok(summary) => println!("{summary}"),
        Err(error) => panic!("{error:#}"),
    }
}

/// Places are UTF-16 units in Yjs, which may be in the middle of a character. yrs 0.25, and so pycrdt, shows
/// another text then; we show that of Yjs.
#[test]
fn halves_of_characters_are_what_yjs_makes_of_them() -> Result<()> {
    let mut world = World::start()?;
    for changes in [
        json!([{ "do": "insert_text", "path": [0], "at": 2, "text": "x" }]),
        json!([{ "do": "delete_text", "path": [0], "from": 2, "to": 3 }]),
        json!([{ "do": "delete_text", "path": [0], "from": 1, "to": 2 }]),
        json!([{ "do": "delete_text", "path": [0], "from": 2, "to": 5 }]),
        json!([{ "do": "format_text", "path": [0], "from": 2, "to": 4, "attributes": { "bold": true } }]),
        json!([
            { "do": "insert_text", "path": [0], "at": 4, "text": "😀" },
            { "do": "delete_text", "path": [0], "from": 4, "to": 5 },
        ]),
    ] {
        let [yjs, by_updates, by_state] = world.edit_text_in_yjs("a😀b😀c", &changes)?;
        for ours in [by_updates, by_state] {
            let difference = yjs.difference(&ours);
            ensure!(difference.is_none(), "{changes}: {difference:?}");
        }
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the progress of a long run")]
fn run() -> Result<()> {
    let (from, count) = (
        number("CONFORMANCE_FROM", 0)?,
        number("CONFORMANCE_SEEDS", SEEDS)?,
    );
    let mut world = World::start()?;
    let mut all = Tally::default();
    for seed in from..from + count {
        let done = seed - from;
        if done > 0 && done.is_multiple_of(SEEDS_PER_START) {
            println!("{done} of {count} seeds");
            all.add(world.tally());
            world = World::start()?;
        }
        let mut random = Random(seed);
        let steps = script::steps(&mut random, REPLICAS);
        if let Err(error) = world.run(seed, &steps) {
            let original = format!("{error:#}");
            bail!(
                "seed {seed} fails; `cargo xtask conformance --from {seed}` repeats it\n\
                 {original}\n\nShortened:\n{}",
                shortened(seed, steps)?
            );
        }
    }
    all.add(world.tally());
    let Tally {
        changes,
        deliveries,
        gaps,
        broken,
    } = all;
    println!(
        "{count} seeds from {from} on: {changes} changes, {deliveries} deliveries, {gaps} of which left \
         something waiting in our replica; in {broken} scripts pycrdt wrote a state of itself that Yjs can't read"
    );
    Ok(())
}

/// A script with fewer steps that fails too, as what it does and how it fails.
fn shortened(seed: u64, mut steps: Vec<Step>) -> Result<String> {
    let deadline = Instant::now() + SHRINK_LIMIT;
    let mut world = World::start()?;
    let mut fails = |steps: &[Step]| -> Result<bool> {
        if world.run(seed, steps).is_ok() {
            return Ok(false);
        }
        // Whatever failed may have left its process in any state.
        world = World::start()?;
        Ok(true)
    };
    let mut chunk = steps.len() / 2;
    while chunk > 0 && Instant::now() < deadline {
        let mut at = 0;
        while at < steps.len() && Instant::now() < deadline {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + chunk).min(steps.len()));
            if fails(&fewer)? {
                steps = fewer;
            } else {
                at += chunk;
            }
        }
        chunk /= 2;
    }
    for at in 0..steps.len() {
        let mut change = 0;
        while let Step::Edit { changes, .. } = &steps[at]
            && changes.len() > 1
            && change < changes.len()
            && Instant::now() < deadline
        {
            let mut fewer = steps.clone();
            if let Step::Edit { changes, .. } = &mut fewer[at] {
                changes.remove(change);
            }
            if fails(&fewer)? {
                steps = fewer;
            } else {
                change += 1;
            }
        }
    }
    let error = match world.run(seed, &steps) {
        Ok(()) => "it fails only now and then".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    Ok(format!("{}\n{error}", world.log().join("\n")))
}

fn number(variable: &str, otherwise: u64) -> Result<u64> {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{variable} is {text:?}: give a number")),
        Err(VarError::NotPresent) => Ok(otherwise),
        Err(error) => Err(error).with_context(|| variable.to_owned()),
    }
}
