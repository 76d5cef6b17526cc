//! Opening a large document: its duration, and the memory of the open document.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use meshagent_bench::documents::{self, Shape};
use meshagent_bench::engine;
use meshagent_bench::harness::{Effort, compare, timed};

use crate::table::{Row, Section};

/// The allowed ratio to yrs' decoding and one walk, by which it would learn our index's content.
const TIME_GOAL: f64 = 1.3;

/// The allowed ratio to the memory of yrs alone.
const MEMORY_GOAL: f64 = 1.5;

pub(crate) fn measure(effort: Effort, elements: usize, shapes: &[Shape]) -> Section {
    let mut rows = Vec::new();
    for &shape in shapes {
        let state = shape.state(elements);
        let name = shape.name();
        let open_ours = || {
            let (time, document) = timed(|| documents::open(7, &state));
            assert_eq!(document.element_count(), elements);
            time
        };
        let open_yrs = || {
            let (time, (_doc, seen)) = timed(|| {
                let doc = engine::doc(7);
                engine::apply(&doc, &state);
                let seen = engine::walk(&doc);
                (doc, seen)
            });
            assert_eq!(seen, elements * ("item".len() + documents::id(1).len()));
            time
        };
        let found = compare(effort, open_ours, open_yrs);
        let what = format!("{name}: open {elements} elements");
        // The goal holds for lists and trees; the row of a chain is only information.
        let goal = (shape != Shape::Chain).then_some(TIME_GOAL);
        rows.push(Row::durations(what, found, goal));

        let document = documents::open(7, &state);
        let doc = engine::doc(7);
        engine::apply(&doc, &state);
        let found = compare(
            effort,
            || timed(|| document.encode_state()).0,
            || timed(|| engine::encode_state(&doc)).0,
        );
        let what = format!("{name}: encode its state");
        rows.push(Row::durations(what, found, None));
    }
    Section {
        title: "Opening a document: ours; yrs' decoding and one walk",
        columns: ["ours", "yrs"],
        rows,
    }
}

/// Measures memory with the program beside this one, which counts its allocations.
pub(crate) fn measure_memory(elements: usize, shapes: &[Shape]) -> Result<Section> {
    let name = format!("bench-memory{}", std::env::consts::EXE_SUFFIX);
    let program = std::env::current_exe()?.with_file_name(name);
    let mut rows = Vec::new();
    for &shape in shapes {
        let mut command = Command::new(&program);
        command.args([&elements.to_string(), shape.name()]);
        let output = command.output().with_context(|| {
            let program = program.display();
            format!("cannot start {program}: build both programs of the package")
        })?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{} failed: {errors}",
            program.display()
        );
        let output = String::from_utf8(output.stdout)?;
        let figures = output.trim().split_once('\t');
        let (ours, yrs) =
            figures.with_context(|| format!("expected two figures, found {output:?}"))?;
        let what = format!("{}: per element", shape.name());
        let bytes = [ours.parse()?, yrs.parse()?];
        rows.push(Row::bytes(what, bytes, elements, MEMORY_GOAL));
    }
    Ok(Section {
        title: "Memory of an open document",
        columns: ["ours", "yrs"],
        rows,
    })
}
