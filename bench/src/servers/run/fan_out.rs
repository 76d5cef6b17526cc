//! Fan-out: its table, its curves and its goals.

use std::time::Duration;

use anyhow::Result;
use tempfile::TempDir;

use super::{BUSY, Outcome, Plan, bottleneck, log};
use crate::servers::peers::{Peer, Tools};
use crate::servers::report::{Figure, Goal, Unit};
use crate::servers::scenario::fan_out::{self, Phase};
use crate::servers::stage::{self, Stage};

const COMMIT: Figure = Figure::new("a commit, on average", Unit::Milliseconds);

pub(super) async fn fan_out(plan: &Plan, tools: &Tools, outcome: &mut Outcome) -> Result<()> {
    let (writers, readers) = plan.sized((10, 50), (3, 5));
    let duration = plan.sized(Duration::from_secs(2), Duration::from_millis(300));
    let warm_up = duration;
    let mut curves: Vec<(Peer, Vec<Phase>)> = Vec::new();
    let title = format!("Fan-out: one document, {writers} writers, {readers} readers");
    let table = outcome.table("fan-out", title);
    for run in 0..plan.runs() {
        for peer in plan.peers.iter().copied() {
            log(peer.name());
            let fresh = async || {
                let data = TempDir::new()?;
                let (running, gauge) = stage::start(tools, peer, data.path())?;
                let address = running.address;
                let mut stage = Stage::open(peer, address, "fan-out", writers, readers).await?;
                fan_out::warm_up(&mut stage, gauge, warm_up).await?;
                anyhow::Ok((stage, gauge, (running, data)))
            };
            if plan.is_short {
                // A short run checks that everything arrives, not how fast.
                let (mut stage, gauge, _held) = fresh().await?;
                let phase = fan_out::run(&mut stage, gauge, 100.0, duration).await?;
                table.add(
                    peer,
                    Figure::new("delivered share", Unit::Ratio),
                    phase.share,
                );
                continue;
            }
            if let Some(rate) = plan.rate {
                let (mut stage, gauge, (running, _data)) = fresh().await?;
                log(&format!("process {}", running.pid));
                let phase = fan_out::run(&mut stage, gauge, rate, duration * 5).await?;
                fan_out::log(&phase);
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
                    highest.latencies.net.p99,
                ),
                (
                    Figure::new("p99 at that rate, gross", Unit::Milliseconds),
                    highest.latencies.gross.p99,
                ),
                (
                    Figure::drawn("p50 at half of it", Unit::Milliseconds),
                    half.latencies.net.p50,
                ),
                (
                    Figure::new("p50 at half of it, gross", Unit::Milliseconds),
                    half.latencies.gross.p50,
                ),
                (
                    Figure::drawn("p99 at half of it", Unit::Milliseconds),
                    half.latencies.net.p99,
                ),
                (
                    Figure::new("p99 at half of it, gross", Unit::Milliseconds),
                    half.latencies.gross.p99,
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
            if let Some(share) = median("delivered share", peer) {
                let what = format!("fan-out: {} delivers everything", peer.name());
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
        if let (Some(ours), Some(limit)) = (rate(Peer::Ours), rate(Peer::BatchingRelay)) {
            let what = "fan-out: highest rate, of the batching relay's";
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
