//! A whole run: each scenario with each server, several times, in turn.

mod connections;
mod fan_out;
mod published;
mod storage;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::gauge::Gauge;
use super::peers::{Peer, Tools};
use super::plot;
use super::report::{self, Goal, Table};
use super::scenario::fan_out::Phase;
use super::stage;

/// The names of all scenarios.
pub const SCENARIOS: [&str; 9] = [
    "fan-out",
    "documents",
    "idle",
    "join",
    "durability",
    "catch-up",
    "store",
    "start",
    "published",
];

/// The share of its core from which on the generator may be the bottleneck.
const BUSY: f64 = 0.9;

/// The plan of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whether the run uses small numbers.
    pub is_short: bool,
    /// The number of turns of each server in each scenario.
    pub runs: usize,
    /// The servers to measure.
    pub peers: Vec<Peer>,
    /// The scenarios to measure; if empty, all.
    pub scenarios: Vec<String>,
    /// The only rate of the fan-out, instead of a search.
    pub rate: Option<f64>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            is_short: false,
            runs: 3,
            peers: Peer::ALL.to_vec(),
            scenarios: Vec::new(),
            rate: None,
        }
    }
}

impl Plan {
    fn wants(&self, scenario: &str) -> bool {
        self.scenarios.is_empty() || self.scenarios.iter().any(|wanted| wanted == scenario)
    }

    /// Returns the servers for scenarios without updates, in which the batching relay equals the
    /// other one.
    fn without_updates(&self) -> impl Iterator<Item = Peer> + '_ {
        let peers = self.peers.iter().copied();
        peers.filter(|peer| *peer != Peer::BatchingRelay)
    }

    /// Returns the servers that store documents.
    fn storing(&self) -> impl Iterator<Item = Peer> + '_ {
        self.peers.iter().copied().filter(|peer| !peer.is_relay())
    }

    fn runs(&self) -> usize {
        if self.is_short { 1 } else { self.runs.max(1) }
    }

    fn sized<T>(&self, long: T, short: T) -> T {
        if self.is_short { short } else { long }
    }
}

/// The result of a run.
#[derive(Debug)]
pub struct Outcome {
    peers: Vec<Peer>,
    about: Vec<String>,
    tables: Vec<Table>,
    curves: Vec<(Peer, Vec<Phase>)>,
    /// The goals, with the values found.
    pub goals: Vec<Goal>,
}

impl Outcome {
    /// Returns the number of missed goals.
    pub fn missed(&self) -> usize {
        self.goals.iter().filter(|goal| !goal.is_met()).count()
    }

    /// Returns all tables in Markdown.
    pub fn markdown(&self) -> String {
        let mut text = self.about.join("\n");
        text.push_str("\n\n");
        for table in &self.tables {
            text.push_str(&table.markdown(&self.peers));
            text.push('\n');
        }
        if !self.goals.is_empty() {
            text.push_str("### Goals\n\n");
            text.push_str(&report::goals(&self.goals));
        }
        text
    }

    /// Writes the tables and the plots.
    ///
    /// # Errors
    /// When the folder is not writable.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        let mut plots = String::new();
        let mut show = |file: &str, what: &str| {
            let _infallible = writeln!(plots, "![{what}]({file})");
        };
        if !self.curves.is_empty() {
            let title = "fan-out: p99 over the rate of delivered updates";
            plot::curves(&folder.join("fan-out-latency.svg"), title, &self.curves)?;
            show("fan-out-latency.svg", title);
        }
        for table in &self.tables {
            for (number, (figure, values)) in table.drawn().enumerate() {
                let file = format!("{}-{number}.svg", table.name);
                plot::bars(&folder.join(&file), table.name, figure, &values)?;
                show(&file, &format!("{}: {}", table.name, figure.name));
            }
        }
        let text = format!(
            "# Servers side by side: one run\n\n\
             Written by `cargo xtask bench servers`; [`docs/benchmarks.md`](../benchmarks.md) \
             describes the method and discusses the results.\n\n{}\n## Plots\n\n{plots}",
            self.markdown()
        );
        fs::write(folder.join("servers.md"), text)?;
        Ok(())
    }

    fn table(&mut self, name: &'static str, title: String) -> &mut Table {
        self.tables.push(Table::new(name, title));
        self.tables.last_mut().expect("the table was just added")
    }
}

/// Runs the plan, and writes the results to a folder after each scenario.
///
/// # Errors
/// When our server fails, or a server does not start.
pub async fn run(plan: &Plan, tools: &Tools, out: Option<&Path>) -> Result<Outcome> {
    let mut outcome = Outcome {
        peers: plan.peers.clone(),
        about: Vec::new(),
        tables: Vec::new(),
        curves: Vec::new(),
        goals: Vec::new(),
    };
    for peer in &plan.peers {
        let line = format!("- {}: {}", peer.version(tools)?, peer.flags());
        outcome.about.push(line);
    }
    outcome.about.push(format!(
        "- the generator on core {}, each server on core {}",
        Gauge::own().cores()?,
        stage::SERVER_CORE
    ));
    for scenario in SCENARIOS {
        if !plan.wants(scenario) {
            continue;
        }
        let began = std::time::Instant::now();
        match scenario {
            "fan-out" => fan_out::fan_out(plan, tools, &mut outcome).await,
            "documents" => connections::documents(plan, tools, &mut outcome).await,
            "idle" => connections::idle(plan, tools, &mut outcome).await,
            "join" => connections::join(plan, tools, &mut outcome).await,
            "durability" => storage::durability(plan, tools, &mut outcome).await,
            "catch-up" => storage::catch_up(plan, tools, &mut outcome).await,
            "store" => storage::store(plan, tools, &mut outcome).await,
            "start" => storage::start(plan, tools, &mut outcome),
            _ => published::published(plan, tools, &mut outcome),
        }
        .with_context(|| format!("scenario {scenario}"))?;
        log(&format!(
            "{scenario}: {:.0} s",
            began.elapsed().as_secs_f64()
        ));
        // If a later scenario fails, the results so far are on disk.
        if let Some(folder) = out {
            outcome.write(folder)?;
        }
    }
    Ok(outcome)
}

#[expect(clippy::print_stderr, reason = "a run takes minutes")]
fn log(text: &str) {
    eprintln!("{text}");
}

/// Notes another server's failure below the table; a failure of ours ends the run.
///
/// In a short run, which checks this program, any failure ends the run.
fn settle(plan: &Plan, table: &mut Table, peer: Peer, turn: Result<()>) -> Result<()> {
    match turn {
        Err(error) if peer != Peer::Ours && !plan.is_short => {
            log(&format!("{error:#}"));
            table.exclude(peer, &format!("{error:#}"));
            Ok(())
        }
        turn => turn,
    }
}

fn bottleneck(peer: Peer) -> String {
    format!(
        "{}: the generator used at least {BUSY} of its core and may be the bottleneck.",
        peer.name()
    )
}
