//! The bytes that an open document holds, in our library and in yrs.
//!
//! This is a program of its own because a counting allocator would be part of every duration. It
//! prints both numbers, separated by a tab. The shape `served` is the document of the servers side
//! by side.

#![expect(clippy::print_stdout, reason = "the figures are the program's output")]

use std::hint::black_box;

use anyhow::{Context, Result, bail};
use meshagent_bench::documents::{self, Shape};
use meshagent_bench::engine;
use meshagent_bench::servers::workload;
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [elements, shape] = arguments.as_slice() else {
        bail!("usage: bench-memory ELEMENTS SHAPE");
    };
    let elements: usize = elements
        .parse()
        .with_context(|| format!("ELEMENTS is {elements:?}, expected a number"))?;
    // Small documents set up what a process sets up once.
    let (small, state) = if shape == "served" {
        (workload::base(1)?, workload::base(elements)?)
    } else {
        let known = Shape::ALL.into_iter().find(|known| known.name() == shape);
        let shape = known.with_context(|| {
            format!("SHAPE is {shape:?}, expected one of wide, tree, deep, served")
        })?;
        (shape.state(1).into(), shape.state(elements).into())
    };
    drop((documents::open(7, &small), open_bare(&small)));
    let ours = held(|| documents::open(7, &state));
    let yrs = held(|| open_bare(&state));
    println!("{ours}\t{yrs}");
    Ok(())
}

fn open_bare(state: &[u8]) -> yrs::Doc {
    let doc = engine::doc(7);
    engine::apply(&doc, state);
    doc
}

/// Returns the bytes that a value keeps on the heap.
fn held<T>(make: impl FnOnce() -> T) -> usize {
    let before = ALLOCATOR.current_usage();
    let value = black_box(make());
    let after = ALLOCATOR.current_usage();
    drop(value);
    after.saturating_sub(before)
}
