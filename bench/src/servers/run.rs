//! A whole run: each scenario with each server, several times, in turns.

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

/// What can be asked for.
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

/// A generator that takes so much of its core may be what the figure measures.
const BUSY: f64 = 0.9;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whether small numbers will do.
    pub is_short: bool,
    /// How often.
    pub runs: usize,
    /// Which servers.
    pub peers: Vec<Peer>,
    /// Which scenarios; none: all.
    pub scenarios: Vec<String>,
    /// The one rate of the fan-out, in place of a search.
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

    fn runs(&self) -> usize {
        if self.is_short { 1 } else { self.runs.max(1) }
    }

    fn sized<T>(&self, long: T, short: T) -> T {
        if self.is_short { short } else { long }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    peers: Vec<Peer>,
    about: Vec<String>,
    tables: Vec<Table>,
    curves: Vec<(Peer, Vec<Phase>)>,
    /// What was to be reached.
    pub goals: Vec<Goal>,
}

impl Outcome {
    /// How many goals were missed.
    pub fn missed(&self) -> usize {
        self.goals.iter().filter(|goal| !goal.is_met()).count()
    }

    /// All tables in Markdown.
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
    /// When the folder can't be written.
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
             Written by `cargo xtask bench servers`; [`docs/benchmarks.md`](../benchmarks.md) says what is measured and what it \
             means.\n\n{}\n## Plots\n\n{plots}",
            self.markdown()
        );
        fs::write(folder.join("servers.md"), text)?;
        Ok(())
    }

    fn table(&mut self, name: &'static str, title: String) -> &mut Table {
        self.tables.push(Table::new(name, title));
        self.tables.last_mut().expect("it was just put there")
    }
}

/// Measures what the plan says, and writes it to a folder as it comes.
///
/// # Errors
/// When a server can't be measured.
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
        tell(&format!(
            "{scenario}: {:.0} s",
            began.elapsed().as_secs_f64()
        ));
        // What was measured is kept, whatever becomes of the rest.
        if let Some(folder) = out {
            outcome.write(folder)?;
        }
    }
    Ok(outcome)
}

#[expect(clippy::print_stderr, reason = "a run takes minutes")]
fn tell(text: &str) {
    eprintln!("{text}");
}

/// What another server does not manage is said below the table. Ours has to manage everything, and so do all when the
/// question is whether this program works.
fn settle(plan: &Plan, table: &mut Table, peer: Peer, turn: Result<()>) -> Result<()> {
    match turn {
        Err(error) if peer != Peer::Ours && !plan.is_short => {
            tell(&format!("{error:#}"));
            table.give_up(peer, &format!("{error:#}"));
            Ok(())
        }
        turn => turn,
    }
}

fn bottleneck(peer: Peer) -> String {
    format!(
        "{}: the generator took {BUSY} of its core or more, so the figure may be the generator's.",
        peer.name()
    )
}
