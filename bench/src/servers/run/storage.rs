//! Durability, catch-up, storage and start: their tables and goals.

#![expect(clippy::cast_precision_loss, reason = "the tables show three digits")]

use std::time::Duration;

use anyhow::Result;
use tempfile::TempDir;

use super::{Outcome, Plan, log, settle};
use crate::servers::peers::{Peer, Tools};
use crate::servers::report::{Figure, Goal, Unit};
use crate::servers::scenario::{catch_up, durability, fan_out, start, store};
use crate::servers::stage::{self, Stage};

pub(super) async fn durability(plan: &Plan, tools: &Tools, outcome: &mut Outcome) -> Result<()> {
    let kills = plan.sized(3, 1);
    let title = "Durability: killed during the work of four writers and four readers".to_owned();
    let table = outcome.table("durability", title);
    let mut lost_of_ours = 0.0;
    for _ in 0..plan.runs() {
        for peer in plan.storing() {
            if table.is_excluded(peer) {
                continue;
            }
            let turn = async {
                let mut sum = durability::Durability::default();
                for kill in 0..kills {
                    let data = TempDir::new()?;
                    // Different durations, as some servers store on a timer.
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
                    Figure::drawn("seen by others, and lost", Unit::Count),
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

pub(super) async fn catch_up(plan: &Plan, tools: &Tools, outcome: &mut Outcome) -> Result<()> {
    let updates = plan.sized(10_000, 200);
    let warm_up = plan.sized(Duration::from_secs(2), Duration::from_millis(300));
    let title = format!("Catch-up: a reader that pauses for {updates} updates");
    let table = outcome.table("catch-up", title);
    for _ in 0..plan.runs() {
        for peer in plan.peers.iter().copied() {
            if table.is_excluded(peer) {
                continue;
            }
            let turn = async {
                log(peer.name());
                let data = TempDir::new()?;
                let (running, gauge) = stage::start(tools, peer, data.path())?;
                let mut stage = Stage::open(peer, running.address, "asleep", 1, 2).await?;
                fan_out::warm_up(&mut stage, gauge, warm_up).await?;
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

pub(super) async fn store(plan: &Plan, tools: &Tools, outcome: &mut Outcome) -> Result<()> {
    let count = plan.sized(10_000, 50);
    let title = format!("Store: {count} documents, one update each");
    let table = outcome.table("store", title);
    for _ in 0..plan.runs() {
        for peer in plan.storing() {
            if table.is_excluded(peer) {
                continue;
            }
            let turn = async {
                let data = TempDir::new()?;
                let (running, _) = stage::start(tools, peer, data.path())?;
                store::warm_up(peer, running.address, count / 20).await?;
                let commits_before = match peer {
                    Peer::Ours => running.commits()?[0],
                    _ => 0.0,
                };
                let found = store::measure(peer, running.address, data.path(), count).await?;
                let figure = Figure::drawn("updates stored per second", Unit::PerSecond);
                table.add(peer, figure, found.updates_per_second);
                if peer == Peer::Ours {
                    let [commits, _] = running.commits()?;
                    table.add(
                        peer,
                        Figure::new("commits, each an fsync", Unit::Count),
                        commits - commits_before,
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

pub(super) fn start(plan: &Plan, tools: &Tools, outcome: &mut Outcome) -> Result<()> {
    let count = plan.sized(100_000, 500);
    let table = outcome.table(
        "start",
        "Start: from the command to the first answer".to_owned(),
    );
    let full = TempDir::new()?;
    start::fill(full.path(), count)?;
    let stored = Figure::drawn("with 100,000 documents stored", Unit::Milliseconds);
    for _ in 0..plan.runs() {
        for peer in plan.without_updates() {
            log(peer.name());
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
