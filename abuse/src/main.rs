//! The attack catalogue: `abuse [--short] [--check] [--out FILE] [NAME…]`.
//!
//! Each attack has a server of its own with default limits, under a bound on its address space, and two innocent
//! participants beside it. What it does to their edits and to the process is measured in one run with a baseline.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the table is what it is run for"
)]

mod attack;
mod attacks;
mod forge;
mod innocent;
mod report;
mod run;
mod server;
mod socket;
mod stage;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::stage::Pace;

const USAGE: &str = "\
usage: abuse [--short] [--check] [--list] [--out FILE] [NAME...]

  --short     those that run with all other checks, small; delays are shown and not held against their goals
  --check     end with 1 if a goal is missed
  --list      only say which attacks there are
  --out FILE  put the table in this file, between the lines that mark its place
  NAME        attacks, by their names or beginnings of them [default: all]";

fn main() -> Result<ExitCode> {
    let mut pace = Pace::FULL;
    let (mut is_check, mut is_list) = (false, false);
    let mut out = None;
    let mut names = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--short" => pace = Pace::SHORT,
            "--check" => is_check = true,
            "--list" => is_list = true,
            "--out" => {
                let file = arguments.next().context("--out takes a file")?;
                out = Some(PathBuf::from(file));
            }
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(ExitCode::SUCCESS);
            }
            option if option.starts_with('-') => bail!("unknown option {option:?}\n{USAGE}"),
            _ => names.push(argument),
        }
    }
    let mut attacks = attack::catalogue();
    if names.is_empty() {
        attacks.retain(|attack| attack.in_short || !pace.is_short);
    } else {
        attacks.retain(|attack| names.iter().any(|name| attack.name.starts_with(name)));
    }
    if attacks.is_empty() {
        bail!("no attack is named {names:?}; --list shows all");
    }
    if is_list {
        for attack in &attacks {
            let short = if attack.in_short { "short" } else { "" };
            println!("{:28} {short:5}  {}", attack.name, attack.what);
        }
        return Ok(ExitCode::SUCCESS);
    }

    let binary = server::binary()?;
    let mut results = Vec::new();
    for attack in &attacks {
        let result = run::run(attack, &binary, pace)?;
        eprintln!("{}", result.line());
        results.push(result);
    }
    let missed = results.iter().filter(|result| !result.missed.is_empty());
    let missed = missed.count();
    println!("{}", report::table(&results));
    if let Some(out) = out {
        report::write(&out, &results)?;
    }
    if missed > 0 {
        println!("{missed} of {} attacks missed a goal", results.len());
    }
    Ok(ExitCode::from(u8::from(is_check && missed > 0)))
}
