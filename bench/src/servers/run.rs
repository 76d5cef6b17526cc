//! A whole run: each scenario with each server, several times, in turns.

#![expect(clippy::cast_precision_loss, reason = "what is shown has three digits")]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::gauge::Gauge;
use super::peers::{Peer, Tools};
use super::plot;
use super::report::{self, Figure, Goal, Table, Unit};
use super::scenario::fan_out::Phase;
use super::scenario::{
    catch_up, documents, durability, fan_out, idle, join, published, start, store,
};
use super::stage::{self, Stage, make};
use super::workload;

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

const COMMIT: Figure = Figure::new("a commit, on average", Unit::Milliseconds);

const CONNECTION: Figure = Figure::drawn("memory of a connection", Unit::Bytes);
const ALONE: Figure = Figure::new("memory of a document alone", Unit::Bytes);
const IN_YRS: Figure = Figure::new("of it what yrs by itself takes", Unit::Bytes);

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
            "fan-out" => fan_out(plan, tools, &mut outcome).await,
            "documents" => documents(plan, tools, &mut outcome).await,
            "idle" => idle(plan, tools, &mut outcome).await,
            "join" => join(plan, tools, &mut outcome).await,
            "durability" => durability(plan, tools, &mut outcome).await,
            "catch-up" => catch_up(plan, tools, &mut outcome).await,
            "store" => store(plan, tools, &mut outcome).await,
            "start" => start(plan, tools, &mut outcome),
            _ => published(plan, tools, &mut outcome),
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

async fn fan_out(plan: &Plan, tools: &Tools, outcome: &mut Outcome) -> Result<()> {
    let (writers, readers) = plan.sized((10, 50), (3, 5));
    let duration = plan.sized(Duration::from_secs(2), Duration::from_millis(300));
    let mut curves: Vec<(Peer, Vec<Phase>)> = Vec::new();
    let title = format!("Fan-out: one document, {writers} who write, {readers} who read");
    let table = outcome.table("fan-out", title);
    for run in 0..plan.runs() {
        for peer in plan.peers.iter().copied() {
            tell(peer.name());
            let fresh = async || {
                let data = TempDir::new()?;
                let (running, gauge) = stage::start(tools, peer, data.path())?;
                let stage = Stage::open(peer, running.address, "fan-out", writers, readers).await?;
                anyhow::Ok((stage, gauge, (running, data)))
            };
            if plan.is_short {
                // That nothing is lost; how fast is another matter.
                let (mut stage, gauge, _held) = fresh().await?;
                let phase = fan_out::run(&mut stage, gauge, 100.0, duration).await?;
                table.add(
                    peer,
                    Figure::new("delivered of what was sent", Unit::Ratio),
                    phase.share,
                );
                continue;
            }
            if let Some(rate) = plan.rate {
                let (mut stage, gauge, (running, _data)) = fresh().await?;
                tell(&format!("process {}", running.pid));
                let phase = fan_out::run(&mut stage, gauge, rate, duration * 5).await?;
                fan_out::tell(&phase);
                continue;
            }
            let (found, (running, _data)) = fan_out::measure(fresh, duration, 512.0).await?;
            let [highest, half] = [found.highest, found.half];
            for (figure, value) in [
                (
                    Figure::drawn("delivered per second", Unit::PerSecond),
                    highest.delivered,
                ),
                (
                    Figure::new("updates written per second", Unit::PerSecond),
                    highest.rate,
                ),
                (
                    Figure::new("p99 at that rate", Unit::Milliseconds),
                    highest.p99,
                ),
                (
                    Figure::new("… with what the host took", Unit::Milliseconds),
                    highest.gross_p99,
                ),
                (
                    Figure::drawn("p50 at half of it", Unit::Milliseconds),
                    half.p50,
                ),
                (
                    Figure::drawn("p99 at half of it", Unit::Milliseconds),
                    half.p99,
                ),
                (
                    Figure::drawn("CPU seconds per million delivered", Unit::Seconds),
                    highest.cpu_per_million,
                ),
                (
                    Figure::new("updates in a message", Unit::Ratio),
                    highest.merged,
                ),
                (
                    Figure::new("server's share of its core", Unit::Ratio),
                    highest.server,
                ),
                (
                    Figure::new("generator's share of its core", Unit::Ratio),
                    highest.generator,
                ),
            ] {
                table.add(peer, figure, value);
            }
            if peer == Peer::Ours {
                let [count, seconds] = running.commits()?;
                table.add(peer, COMMIT, seconds / count.max(1.0) * 1e3);
            }
            if highest.generator >= BUSY {
                table.note(bottleneck(peer));
            }
            if run == 0 {
                curves.push((peer, found.phases));
            }
        }
    }
    let median = |figure, peer| table.median(figure, peer);
    let mut goals = Vec::new();
    if plan.is_short {
        for peer in plan.peers.iter().copied() {
            if let Some(share) = median("delivered of what was sent", peer) {
                let what = format!("fan-out: {} delivers all", peer.name());
                goals.push(Goal::at_least(what, Unit::Ratio, share, 1.0));
            }
        }
    } else {
        let rate = |peer| median("delivered per second", peer);
        if let (Some(ours), Some(theirs)) = (rate(Peer::Ours), rate(Peer::Hocuspocus)) {
            let what = "fan-out: highest rate, of Hocuspocus'";
            goals.push(Goal::at_least(what, Unit::Ratio, ours / theirs, 3.0));
        }
        if let (Some(ours), Some(limit)) = (rate(Peer::Ours), rate(Peer::Relay)) {
            let what = "fan-out: highest rate, of the relay's";
            goals.push(Goal::at_least(what, Unit::Ratio, ours / limit, 0.6));
        }
        let p50 = |peer| median("p50 at half of it", peer);
        let commit = median(COMMIT.name, Peer::Ours);
        if let (Some(ours), Some(limit), Some(commit)) = (p50(Peer::Ours), p50(Peer::Relay), commit)
        {
            let what = "fan-out: p50 at half load above the relay's, bound: one commit";
            goals.push(Goal::at_most(
                what,
                Unit::Milliseconds,
                ours - limit,
                commit,
            ));
        }
        let cpu = |peer| median("CPU seconds per million delivered", peer);
        if let (Some(ours), Some(theirs)) = (cpu(Peer::Ours), cpu(Peer::Hocuspocus)) {
            let what = "fan-out: CPU per million delivered, of Hocuspocus'";
            goals.push(Goal::at_most(what, Unit::Ratio, ours / theirs, 0.5));
        }
    }
    outcome.goals.extend(goals);
    outcome.curves = curves;
    Ok(())
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

async fn documents(plan: &Plan, tools: &Tools, outcome: &mut Outcome) -> Result<()> {
    let count = plan.sized(2000, 20);
    let duration = plan.sized(Duration::from_secs(10), Duration::from_secs(2));
    let title =
        format!("Many documents: {count}, two participants each, one update a second of each");
    let table = outcome.table("documents", title);
    for _ in 0..plan.runs() {
        for peer in plan.peers.iter().copied() {
            if table.has_given_up(peer) {
                continue;
            }
            let turn = async {
                tell(peer.name());
                let data = TempDir::new()?;
                let (running, gauge) = stage::start(tools, peer, data.path())?;
                let found =
                    documents::measure(peer, running.address, gauge, count, duration).await?;
                for (figure, value) in [
                    (Figure::drawn("p50", Unit::Milliseconds), found.p50),
                    (Figure::drawn("p99", Unit::Milliseconds), found.p99),
                    (
                        Figure::new("delivered of what was sent", Unit::Ratio),
                        found.share,
                    ),
                    (
                        Figure::drawn("server's share of its core", Unit::Ratio),
                        found.server,
                    ),
                    (
                        Figure::new("generator's share of its core", Unit::Ratio),
                        found.generator,
                    ),
                    (
                        Figure::drawn("memory of a document with its two connections", Unit::Bytes),
                        found.bytes_per_document,
                    ),
                ] {
                    table.add(peer, figure, value);
                }
                if found.generator >= BUSY {
                    table.note(bottleneck(peer));
                }
                if peer == Peer::Ours {
                    let data = TempDir::new()?;
                    let (running, gauge) = stage::start(tools, peer, data.path())?;
                    let alone = documents::bytes_alone(&running, gauge, count).await?;
                    table.add(peer, ALONE, alone);
                    table.add(peer, IN_YRS, documents::bytes_in_yrs()?);
                }
                anyhow::Ok(())
            };
            let turn = turn.await;
            settle(plan, table, peer, turn)?;
        }
    }
    let memory = [ALONE, IN_YRS].map(|figure| table.median(figure.name, Peer::Ours));
    let share = table.median("delivered of what was sent", Peer::Ours);
    if let [Some(alone), Some(yrs)] = memory
        && !plan.is_short
    {
        let what = "documents: memory of an open one above its yrs state";
        let above = Goal::at_most(what, Unit::Bytes, alone - yrs, 8.0 * 1024.0);
        outcome.goals.push(above);
    }
    if let Some(share) = share {
        let what = "documents: ours delivers all";
        outcome
            .goals
            .push(Goal::at_least(what, Unit::Ratio, share, 1.0));
    }
    Ok(())
}

async fn idle(plan: &Plan, tools: &Tools, outcome: &mut Outcome) -> Result<()> {
    let count = plan.sized(10_000, 100);
    let title = format!("Idle: {count} connections with a document open");
    let table = outcome.table("idle", title);
    let memory = CONNECTION;
    for _ in 0..plan.runs() {
        for peer in plan.peers.iter().copied() {
            if table.has_given_up(peer) {
                continue;
            }
            let turn = async {
                tell(peer.name());
                let data = TempDir::new()?;
                let (running, gauge) = stage::start(tools, peer, data.path())?;
                let found = idle::measure(peer, running.address, gauge, count).await?;
                table.add(peer, memory, found.bytes_per_connection);
                let connects = Figure::drawn("connects per second", Unit::PerSecond);
                table.add(peer, connects, found.connects_per_second);
                if found.generator >= BUSY {
                    table.note(bottleneck(peer));
                }
                anyhow::Ok(())
            };
            let turn = turn.await;
            settle(plan, table, peer, turn)?;
        }
    }
    if let Some(bytes) = table.median(memory.name, Peer::Ours)
        && !plan.is_short
    {
        let what = "idle: memory of a connection";
        outcome
            .goals
            .push(Goal::at_most(what, Unit::Bytes, bytes, 16.0 * 1024.0));
    }
    Ok(())
}

async fn join(plan: &Plan, tools: &Tools, outcome: &mut Outcome) -> Result<()> {
    const DOCUMENT: &str = "large";
    let bytes = plan.sized(10_000_000, 200_000);
    let many = plan.sized(200, 10);
    let state = workload::large(bytes)?;
    let least = state.len() / 10 * 9;
    let title = format!("Join: a state of {bytes} bytes, 1 and {many} who open it");
    let table = outcome.table("join", title);
    for _ in 0..plan.runs() {
        for peer in plan.peers.iter().copied() {
            if table.has_given_up(peer) {
                continue;
            }
            let turn = async {
                tell(peer.name());
                let data = TempDir::new()?;
                if peer == Peer::Relay {
                    // It keeps no documents: it sends what ours sends, without knowing what it is.
                    fs::write(data.path().join("state"), base64_of(&state))?;
                }
                let (running, _) = stage::start(tools, peer, data.path())?;
                if peer != Peer::Relay {
                    let _made = make(peer, running.address, DOCUMENT, state.clone()).await?;
                    // So that those that store late have stored.
                    tokio::time::sleep(peer.storing()).await;
                }
                drop(running);
                for joiners in [1, many] {
                    let (running, gauge) = stage::start(tools, peer, data.path())?;
                    let address = running.address;
                    let cold =
                        join::measure(peer, address, gauge, DOCUMENT, joiners, least).await?;
                    let warm =
                        join::measure(peer, address, gauge, DOCUMENT, joiners, least).await?;
                    for (what, found) in [("cold", &cold), ("warm", &warm)] {
                        let (time, peak) = join_figures(what, joiners > 1);
                        table.add(peer, time, found.took.as_secs_f64() * 1e3);
                        table.add(peer, peak, found.peak as f64);
                        if joiners > 1 && found.generator >= BUSY {
                            table.note(bottleneck(peer));
                        }
                    }
                }
                anyhow::Ok(())
            };
            let turn = turn.await;
            settle(plan, table, peer, turn)?;
        }
    }
    let (time, peak) = join_figures("warm", true);
    if !plan.is_short {
        let ours = table.median(time.name, Peer::Ours);
        let limit = table.median(time.name, Peer::Relay);
        let peak = table.median(peak.name, Peer::Ours);
        if let (Some(ours), Some(limit)) = (ours, limit) {
            let what = "join: time of 200, of the relay's for the same bytes";
            outcome
                .goals
                .push(Goal::at_most(what, Unit::Ratio, ours / limit, 1.5));
        }
        if let Some(peak) = peak {
            let what = "join: peak memory of 200, in states";
            let states = peak / state.len() as f64;
            outcome
                .goals
                .push(Goal::at_most(what, Unit::Ratio, states, 4.0));
        }
    }
    Ok(())
}

fn join_figures(what: &str, many: bool) -> (Figure, Figure) {
    let names = match (what, many) {
        ("cold", false) => ["1, cold: time", "1, cold: peak memory"],
        ("cold", true) => ["200, cold: time", "200, cold: peak memory"],
        (_, false) => ["1, warm: time", "1, warm: peak memory"],
        (_, true) => ["200, warm: time", "200, warm: peak memory"],
    };
    let [time, peak] = names;
    let is_drawn = many && what == "warm";
    let figure = if is_drawn { Figure::drawn } else { Figure::new };
    (figure(time, Unit::Milliseconds), figure(peak, Unit::Bytes))
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

async fn durability(plan: &Plan, tools: &Tools, outcome: &mut Outcome) -> Result<()> {
    let kills = plan.sized(3, 1);
    let title = "Durability: killed while four write and four read".to_owned();
    let table = outcome.table("durability", title);
    let mut lost_of_ours = 0.0;
    for _ in 0..plan.runs() {
        for peer in plan
            .peers
            .iter()
            .copied()
            .filter(|peer| *peer != Peer::Relay)
        {
            if table.has_given_up(peer) {
                continue;
            }
            let turn = async {
                let mut sum = durability::Durability::default();
                for kill in 0..kills {
                    let data = TempDir::new()?;
                    // Not always at the same distance from what a server does by the clock.
                    let writing = Duration::from_millis(1500 + 370 * kill);
                    let found = durability::measure(tools, peer, data.path(), writing).await?;
                    sum.seen += found.seen;
                    sum.lost += found.lost;
                    sum.acknowledged += found.acknowledged;
                    sum.lost_acknowledged += found.lost_acknowledged;
                }
                if peer == Peer::Ours {
                    lost_of_ours += (sum.lost + sum.lost_acknowledged) as f64;
                }
                table.add(
                    peer,
                    Figure::new("seen by others", Unit::Count),
                    sum.seen as f64,
                );
                table.add(
                    peer,
                    Figure::drawn("seen, and lost", Unit::Count),
                    sum.lost as f64,
                );
                if peer.acknowledges() {
                    let figure = Figure::new("acknowledged", Unit::Count);
                    table.add(peer, figure, sum.acknowledged as f64);
                    let figure = Figure::new("acknowledged, and lost", Unit::Count);
                    table.add(peer, figure, sum.lost_acknowledged as f64);
                }
                anyhow::Ok(())
            };
            let turn = turn.await;
            settle(plan, table, peer, turn)?;
        }
    }
    if plan.peers.contains(&Peer::Ours) {
        let what = "durability: lost";
        outcome
            .goals
            .push(Goal::at_most(what, Unit::Count, lost_of_ours, 0.0));
    }
    Ok(())
}

async fn catch_up(plan: &Plan, tools: &Tools, outcome: &mut Outcome) -> Result<()> {
    let updates = plan.sized(10_000, 200);
    let title = format!("Catch-up: a reader asleep for {updates} updates");
    let table = outcome.table("catch-up", title);
    for _ in 0..plan.runs() {
        for peer in plan.peers.iter().copied() {
            if table.has_given_up(peer) {
                continue;
            }
            let turn = async {
                tell(peer.name());
                let data = TempDir::new()?;
                let (running, gauge) = stage::start(tools, peer, data.path())?;
                let mut stage = Stage::open(peer, running.address, "asleep", 1, 2).await?;
                let found = catch_up::measure(&mut stage, gauge, updates).await?;
                let took = found.took.as_secs_f64() * 1e3;
                table.add(peer, Figure::drawn("time", Unit::Milliseconds), took);
                table.add(
                    peer,
                    Figure::drawn("received", Unit::Bytes),
                    found.bytes as f64,
                );
                table.add(
                    peer,
                    Figure::new("server's memory", Unit::Bytes),
                    found.memory as f64,
                );
                anyhow::Ok(())
            };
            let turn = turn.await;
            settle(plan, table, peer, turn)?;
        }
    }
    Ok(())
}

async fn store(plan: &Plan, tools: &Tools, outcome: &mut Outcome) -> Result<()> {
    let count = plan.sized(10_000, 50);
    let title = format!("Store: {count} documents, one update each");
    let table = outcome.table("store", title);
    for _ in 0..plan.runs() {
        for peer in plan
            .peers
            .iter()
            .copied()
            .filter(|peer| *peer != Peer::Relay)
        {
            if table.has_given_up(peer) {
                continue;
            }
            let turn = async {
                let data = TempDir::new()?;
                let (running, _) = stage::start(tools, peer, data.path())?;
                let found = store::measure(peer, running.address, data.path(), count).await?;
                let figure = Figure::drawn("updates stored per second", Unit::PerSecond);
                table.add(peer, figure, found.updates_per_second);
                if peer == Peer::Ours {
                    let [commits, _] = running.commits()?;
                    table.add(
                        peer,
                        Figure::new("commits, each an fsync", Unit::Count),
                        commits,
                    );
                }
                let figure = Figure::drawn("bytes on disk for each byte", Unit::Ratio);
                table.add(peer, figure, found.bytes_per_byte);
                anyhow::Ok(())
            };
            let turn = turn.await;
            settle(plan, table, peer, turn)?;
        }
    }
    Ok(())
}

fn start(plan: &Plan, tools: &Tools, outcome: &mut Outcome) -> Result<()> {
    let count = plan.sized(100_000, 500);
    let table = outcome.table(
        "start",
        "Start: from the command to the first answer".to_owned(),
    );
    let full = TempDir::new()?;
    start::fill(full.path(), count)?;
    let stored = Figure::drawn("with 100,000 documents stored", Unit::Milliseconds);
    for _ in 0..plan.runs() {
        for peer in plan.peers.iter().copied() {
            tell(peer.name());
            let data = TempDir::new()?;
            let took = start::measure(tools, peer, data.path())?;
            let figure = Figure::drawn("empty", Unit::Milliseconds);
            table.add(peer, figure, took.as_secs_f64() * 1e3);
            if peer == Peer::Ours {
                let took = start::measure(tools, peer, full.path())?;
                table.add(peer, stored, took.as_secs_f64() * 1e3);
            }
        }
    }
    if let Some(took) = table.median(stored.name, Peer::Ours)
        && !plan.is_short
    {
        let what = "start: ready with 100,000 documents stored";
        outcome
            .goals
            .push(Goal::at_most(what, Unit::Milliseconds, took, 100.0));
    }
    Ok(())
}

fn published(plan: &Plan, tools: &Tools, outcome: &mut Outcome) -> Result<()> {
    let (clients, seconds) = plan.sized((10, 5), (2, 1));
    if !plan.peers.contains(&Peer::Ours) {
        return Ok(());
    }
    // They run on the same Node as the others.
    Peer::Hocuspocus.install(tools)?;
    let title = format!("Published: {clients} clients of the npm SDK on one document");
    let table = outcome.table("published", title);
    for _ in 0..plan.runs() {
        let data = TempDir::new()?;
        let (running, _) = stage::start(tools, Peer::Ours, data.path())?;
        let found = published::measure(tools, &running, clients, seconds)?;
        for (name, unit, value) in [
            (
                "updates seen per second",
                Unit::PerSecond,
                found.updates_per_second,
            ),
            (
                "p50 until a neighbour shows it",
                Unit::Milliseconds,
                found.p50,
            ),
            ("p99", Unit::Milliseconds, found.p99),
        ] {
            table.add(Peer::Ours, Figure::new(name, unit), value);
        }
    }
    Ok(())
}
