//! The figures of the document library and the store, each as a ratio within one run.
//!
//! On a shared machine, the ratio of two figures that were measured one after the other depends
//! more on the minutes in between than on the subjects. Neither criterion nor divan lets two
//! subjects take turns, so this is a plain program: `bench [--short] [--check] [SECTION…]`.

#![expect(clippy::print_stdout, reason = "the table is the program's output")]

mod edits;
mod open;
mod provenance;
mod shapes;
mod table;
mod trace;

use std::process::ExitCode;

use anyhow::{Result, bail};
use meshagent_bench::documents::Shape;
use meshagent_bench::harness::Effort;

use crate::table::Section;

/// As in the server. glibc returns large blocks to the system, and each repetition would measure
/// the page faults of new ones; `xtask` sets this allocator to keep them.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const USAGE: &str = "\
usage: bench [--short] [--check] [SECTION...]

  --short   fewer repetitions, shapes and steps: less than a minute
  --check   exit with 1 if a goal is missed
  SECTION   trace, open, memory, edits, provenance, or shapes, which needs Yjs on Node (NODE_PATH
            names its folder) [default: all except shapes]";

const ELEMENTS: usize = 100_000;

type Measure = fn(Effort, bool) -> Result<Section>;

const SECTIONS: [(&str, Measure); 6] = [
    ("trace", trace::measure),
    ("open", |effort, is_short| {
        let shapes = &Shape::ALL[..if is_short { 2 } else { 3 }];
        Ok(open::measure(effort, ELEMENTS, shapes))
    }),
    ("memory", |_, is_short| {
        let shapes = &Shape::ALL[..if is_short { 1 } else { 3 }];
        open::measure_memory(ELEMENTS, shapes)
    }),
    ("edits", |effort, _| edits::measure(effort, ELEMENTS)),
    ("provenance", |effort, _| provenance::measure(effort)),
    ("shapes", shapes::measure),
];

fn main() -> Result<ExitCode> {
    let (mut is_short, mut is_check) = (false, false);
    let mut wanted = Vec::new();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--short" => is_short = true,
            "--check" => is_check = true,
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(ExitCode::SUCCESS);
            }
            name if SECTIONS.iter().any(|(section, _)| *section == name) => {
                wanted.push(name.to_owned());
            }
            other => bail!("unknown argument {other:?}\n{USAGE}"),
        }
    }
    let effort = if is_short {
        Effort::SHORT
    } else {
        Effort::LONG
    };
    let mut missed = 0;
    for (name, measure) in SECTIONS {
        // Only this section needs another program.
        let is_default = wanted.is_empty() && name != "shapes";
        if is_default || wanted.iter().any(|wanted| wanted == name) {
            let section = measure(effort, is_short)?;
            println!("{section}");
            missed += section.missed();
        }
    }
    match missed {
        0 => println!("all goals are met"),
        1 => println!("1 goal is missed"),
        _ => println!("{missed} goals are missed"),
    }
    let is_failure = is_check && missed > 0;
    Ok(ExitCode::from(u8::from(is_failure)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_measures_rows() {
        let applied = trace::measure_histories(Effort::TEST, 500, &[]).unwrap();
        assert!(!applied.rows.is_empty());
        let opened = open::measure(Effort::TEST, 200, &Shape::ALL);
        assert!(!opened.rows.is_empty());
        assert!(!edits::measure(Effort::TEST, 200).unwrap().rows.is_empty());
        assert!(!provenance::measure(Effort::TEST).unwrap().rows.is_empty());
    }
}
