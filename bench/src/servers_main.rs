//! The benchmark of servers side by side: `bench-servers [OPTIONS] [SCENARIO…]`.
//!
//! The program runs on one core with all its clients; the servers get the other one. The servers
//! take turns within the same run.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the tables are the program's output"
)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use meshagent_bench::servers::peers::{Peer, Tools};
use meshagent_bench::servers::run::{self, Plan, SCENARIOS};

const USAGE: &str = "\
usage: bench-servers [--short] [--check] [--runs N] [--peers LIST] [--rate N] [--out DIR]
                     [SCENARIO...]

  --short        small numbers, seconds each, one run: checks that everything works
  --check        exit with 1 if a goal is missed; with --short only counts and losses are goals
  --runs N       number of turns of each server; the tables show median, least and most
                 [default: 3]
  --peers LIST   servers, separated by commas: ours, hocuspocus, y-websocket, y-sweet, relay,
                 batching-relay [default: all]
  --rate N       fan-out at N updates written per second for 10 s, without a search, for a profile
  --out DIR      write servers.md and the plots into this folder
  SCENARIO       fan-out, documents, idle, join, durability, catch-up, store, start, published
                 [default: all]";

fn main() -> Result<ExitCode> {
    let mut plan = Plan::default();
    let mut is_check = false;
    let mut out = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .with_context(|| format!("{argument} needs a value"))
        };
        match argument.as_str() {
            "--short" => plan.is_short = true,
            "--check" => is_check = true,
            "--runs" => plan.runs = value()?.parse().context("--runs needs a number")?,
            "--rate" => {
                plan.rate = Some(value()?.parse().context("--rate needs a number")?);
                plan.scenarios.push("fan-out".to_owned());
            }
            "--out" => out = Some(PathBuf::from(value()?)),
            "--peers" => {
                let peers = value()?;
                let peers = peers.split(',').map(|name| {
                    let found = Peer::ALL.into_iter().find(|peer| peer.id() == name);
                    found.with_context(|| format!("unknown server {name:?}\n{USAGE}"))
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
        println!("{missed} of {} goals missed", result.goals.len());
    }
    Ok(ExitCode::from(u8::from(is_check && missed > 0)))
}
