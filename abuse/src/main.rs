//! The attack catalogue: `abuse [--short] [--check] [--out FILE] [NAME…]`.
//!
//! Each attack gets a server of its own, with default limits and a bound on its address space, and
//! two innocent participants beside it. One run measures the effect on their edits and on the
//! process, with a baseline before the attack.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the table is the program's output"
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

  --short     run only the attacks that CI runs, with small amounts; delays have no goals
  --check     exit with 1 if a goal is missed
  --list      list the attacks and exit
  --out FILE  write the table into this file, between the two comments that mark its place
  NAME        run the attacks whose names begin with this [default: all]";

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
                let file = arguments.next().context("--out needs a file")?;
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
        bail!("no attack has a name that begins with one of {names:?}; --list shows all attacks");
    }
    if is_list {
        for attack in &attacks {
            let short = if attack.in_short { "short" } else { "" };
            println!("{:28} {short:5}  {}", attack.name, attack.description);
        }
        return Ok(ExitCode::SUCCESS);
    }

    let binary = server::binary()?;
    let mut outcomes = Vec::new();
    for attack in &attacks {
        let outcome = run::run(attack, &binary, pace)?;
        eprintln!("{}", outcome.line());
        outcomes.push(outcome);
    }
    let missed = outcomes.iter().filter(|outcome| !outcome.missed.is_empty());
    let missed = missed.count();
    println!("{}", report::table(&outcomes));
    if let Some(out) = out {
        report::write(&out, &outcomes)?;
    }
    if missed > 0 {
        println!("{missed} of {} attacks missed a goal", outcomes.len());
    }
    Ok(ExitCode::from(u8::from(is_check && missed > 0)))
}
