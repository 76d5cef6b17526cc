//! Servers side by side: `bench-servers [--short] [--check] [--runs N] [--peers LIST] [--rate N] [--out DIR] [SCENARIO…]`.
//!
//! Runs on one core with all its clients; the servers get the other one. What is compared was measured turn by turn in
//! the same run.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the tables are what it is run for"
)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use meshagent_bench::servers::peers::{Peer, Tools};
use meshagent_bench::servers::run::{self, Plan, SCENARIOS};

const USAGE: &str = "\
usage: bench-servers [--short] [--check] [--runs N] [--peers LIST] [--rate N] [--out DIR] [SCENARIO...]

  --short        small numbers, seconds each, one run: that everything works, not how fast it is
  --check        end with 1 if a goal is missed; with --short only counts and losses are goals
  --runs N       how often each is measured; the table shows the medians, the least and the most [default: 3]
  --peers LIST   of ours, hocuspocus, y-websocket, y-sweet, relay, separated by commas [default: all]
  --rate N       fan-out at N updates written per second for 10 s, and no search: for a profile
  --out DIR      write servers.md and the plots there
  SCENARIO       fan-out, documents, idle, join, durability, catch-up, store, start, published [default: all]";

fn main() -> Result<ExitCode> {
    let mut plan = Plan::default();
    let mut is_check = false;
    let mut out = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .with_context(|| format!("{argument} takes a value"))
        };
        match argument.as_str() {
            "--short" => plan.is_short = true,
            "--check" => is_check = true,
            "--runs" => plan.runs = value()?.parse().context("--runs takes a number")?,
            "--rate" => {
                plan.rate = Some(value()?.parse().context("--rate takes a number")?);
                plan.scenarios.push("fan-out".to_owned());
            }
            "--out" => out = Some(PathBuf::from(value()?)),
            "--peers" => {
                let peers = value()?;
                let peers = peers.split(',').map(|name| {
                    let found = Peer::ALL.into_iter().find(|peer| peer.id() == name);
                    found.with_context(|| format!("no such server: {name}\n{USAGE}"))
                });
                plan.peers = peers.collect::<Result<_>>()?;
            }
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(ExitCode::SUCCESS);
            }
            name if SCENARIOS.contains(&name) => plan.scenarios.push(argument),
            other => bail!("unknown argument {other:?}\n{USAGE}"),
        }
    }
    let tools = Tools::find()?;
    for peer in &plan.peers {
        eprintln!("installing {}", peer.name());
        peer.install(&tools)?;
    }
    // All clients share one core, so they share one thread.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    let result = local.block_on(&runtime, run::run(&plan, &tools, out.as_deref()))?;
    println!("{}", result.markdown());
    let missed = result.missed();
    if missed > 0 {
        println!("{missed} of {} goals are missed", result.goals.len());
    }
    Ok(ExitCode::from(u8::from(is_check && missed > 0)))
}
