//! Real editing histories, applied update by update.

use std::hint::black_box;

use anyhow::{Context, Result, ensure};
use meshagent_bench::harness::{Effort, compare, timed};
use meshagent_bench::traces::{self, TEXT_ID, Trace};
use meshagent_bench::{documents, engine};

use crate::table::{Row, Section};

/// The allowed ratio to yrs alone, with events and the index on.
const GOAL: f64 = 1.15;

/// The number of steps of the long history in a short run.
const SHORT_STEPS: usize = 60_000;

pub(crate) fn measure(effort: Effort, is_short: bool) -> Result<Section> {
    let steps = if is_short { SHORT_STEPS } else { usize::MAX };
    measure_histories(effort, steps, &["friendsforever", "clownschool"])
}

pub(crate) fn measure_histories(
    effort: Effort,
    steps: usize,
    concurrent: &[&str],
) -> Result<Section> {
    let trace = traces::sequential("automerge-paper", steps)?;
    let mut rows = Vec::new();
    rows.push(apply("automerge-paper", effort, &trace, Some(GOAL))?);
    rows.push(encode("automerge-paper", effort, &trace)?);
    for name in concurrent {
        let trace = traces::concurrent(name)?;
        rows.push(apply(name, effort, &trace, None)?);
        rows.push(encode(name, effort, &trace)?);
    }
    Ok(Section {
        title: "Real editing histories, one update per step, events on",
        columns: ["ours", "yrs"],
        rows,
    })
}

fn apply(name: &str, effort: Effort, trace: &Trace, goal: Option<f64>) -> Result<Row> {
    let mut last = None;
    let ours = || {
        let mut document = documents::open(99, &trace.start);
        document.watch(true);
        let (time, ()) = timed(|| {
            for update in &trace.updates {
                document.apply_update(update).expect("the update is valid");
                while let Some(event) = document.poll_event() {
                    black_box(event);
                }
            }
        });
        last = Some(document);
        time
    };
    let yrs = || {
        let doc = engine::doc(99);
        engine::apply(&doc, &trace.start);
        let apply = || {
            trace
                .updates
                .iter()
                .for_each(|update| engine::apply(&doc, update));
        };
        timed(apply).0
    };
    let found = compare(effort, ours, yrs);
    let document = last.context("no round was measured")?;
    let text = document.node(TEXT_ID).and_then(|element| element.text());
    let text = text.map(|text| text.to_plain());
    ensure!(
        text.as_ref() == Some(&trace.end),
        "the final text of {name} does not match"
    );
    let what = format!("{name}: apply {} updates", trace.updates.len());
    Ok(Row::durations(what, found, goal))
}

fn encode(name: &str, effort: Effort, trace: &Trace) -> Result<Row> {
    let mut document = documents::open(99, &trace.start);
    let doc = engine::doc(99);
    engine::apply(&doc, &trace.start);
    for update in &trace.updates {
        document.apply_update(update)?;
        engine::apply(&doc, update);
    }
    let found = compare(
        effort,
        || timed(|| document.encode_state()).0,
        || timed(|| engine::encode_state(&doc)).0,
    );
    Ok(Row::durations(
        format!("{name}: encode the state"),
        found,
        None,
    ))
}
