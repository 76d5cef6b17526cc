//! Many documents, idle connections and joins: their tables and goals.

#![expect(clippy::cast_precision_loss, reason = "the tables show three digits")]

use std::fs;
use std::time::Duration;

use anyhow::Result;
use tempfile::TempDir;

use super::{BUSY, Outcome, Plan, bottleneck, log, settle};
use crate::servers::meter::Latencies;
use crate::servers::peers::{Peer, Tools};
use crate::servers::report::{Figure, Goal, Unit};
use crate::servers::scenario::{documents, idle, join};
use crate::servers::stage::{self, make};
use crate::servers::workload;

const CONNECTION: Figure = Figure::drawn("memory of a connection", Unit::Bytes);
const ALONE: Figure = Figure::new("memory of a document alone", Unit::Bytes);
const IN_YRS: Figure = Figure::new("memory of the same content in yrs alone", Unit::Bytes);

pub(super) async fn documents(plan: &Plan, tools: &Tools, outcome: &mut Outcome) -> Result<()> {
    let count = plan.sized(2000, 20);
    let duration = plan.sized(Duration::from_secs(10), Duration::from_secs(2));
    let title =
        format!("Many documents: {count}, two participants each, one update per second of each");
    let table = outcome.table("documents", title);
    for _ in 0..plan.runs() {
        for peer in plan.peers.iter().copied() {
            if table.is_excluded(peer) {
                continue;
            }
            let turn = async {
                log(peer.name());
                let data = TempDir::new()?;
                let (running, gauge) = stage::start(tools, peer, data.path())?;
                let found =
                    documents::measure(peer, running.address, gauge, count, duration).await?;
                let Latencies { net, gross } = found.latencies;
                for (figure, value) in [
                    (Figure::drawn("p50", Unit::Milliseconds), net.p50),
                    (Figure::new("p50, gross", Unit::Milliseconds), gross.p50),
                    (Figure::drawn("p99", Unit::Milliseconds), net.p99),
                    (Figure::new("p99, gross", Unit::Milliseconds), gross.p99),
                    (Figure::new("delivered share", Unit::Ratio), found.share),
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
    let share = table.median("delivered share", Peer::Ours);
    if let [Some(alone), Some(yrs)] = memory
        && !plan.is_short
    {
        let what = "documents: memory of a document alone above the same in yrs";
        let above = Goal::at_most(what, Unit::Bytes, alone - yrs, 8.0 * 1024.0);
        outcome.goals.push(above);
    }
    if let Some(share) = share {
        let what = "documents: ours delivers everything";
        outcome
            .goals
            .push(Goal::at_least(what, Unit::Ratio, share, 1.0));
    }
    Ok(())
}

pub(super) async fn idle(plan: &Plan, tools: &Tools, outcome: &mut Outcome) -> Result<()> {
    let count = plan.sized(10_000, 100);
    let title = format!("Idle: {count} connections with a document open");
    let table = outcome.table("idle", title);
    let memory = CONNECTION;
    for _ in 0..plan.runs() {
        for peer in plan.without_updates() {
            if table.is_excluded(peer) {
                continue;
            }
            let turn = async {
                log(peer.name());
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

pub(super) async fn join(plan: &Plan, tools: &Tools, outcome: &mut Outcome) -> Result<()> {
    const DOCUMENT: &str = "large";
    let bytes = plan.sized(10_000_000, 200_000);
    let many = plan.sized(200, 10);
    let state = workload::large(bytes)?;
    let least = state.len() / 10 * 9;
    let title = format!("Join: a state of {bytes} bytes, opened by 1 and by {many}");
    let table = outcome.table("join", title);
    for _ in 0..plan.runs() {
        for peer in plan.without_updates() {
            if table.is_excluded(peer) {
                continue;
            }
            let turn = async {
                log(peer.name());
                let data = TempDir::new()?;
                if peer == Peer::Relay {
                    // The relay has no documents: it sends the same bytes as ours from a file.
                    fs::write(data.path().join("state"), base64_of(&state))?;
                }
                let (running, _) = stage::start(tools, peer, data.path())?;
                if peer != Peer::Relay {
                    let _made = make(peer, running.address, DOCUMENT, state.clone()).await?;
                    // Some servers store late.
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
