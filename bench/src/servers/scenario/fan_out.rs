//! Fan-out: one document, some who write, many who read. How much gets through, how fast, for how much.

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;

use crate::servers::gauge::Gauge;
use crate::servers::meter::Counts;
use crate::servers::stage::{Stage, until};

/// The latest that an update may come, in 99 of 100 cases.
const PATIENCE: Duration = Duration::from_millis(100);
/// Time that a phase gets for what is still under way at its end.
const DRAIN: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(1);

/// What one phase at one rate came to.
#[derive(Clone, Copy, Debug)]
pub struct Phase {
    /// Updates per second of all writers together.
    pub rate: f64,
    /// Updates delivered per second, at all who got them.
    pub delivered: f64,
    /// Delivered of what was to be delivered, 1 if all.
    pub share: f64,
    /// Milliseconds.
    pub p50: f64,
    /// Milliseconds, without what the host took.
    pub p99: f64,
    /// Milliseconds, with it.
    pub gross_p99: f64,
    /// Processor seconds of the server for a million delivered.
    pub cpu_per_million: f64,
    /// Updates in a message.
    pub merged: f64,
    /// Share of its core that the generator took.
    pub generator: f64,
    /// Share of its core that the server took.
    pub server: f64,
}

impl Phase {
    /// Whether the server kept up.
    pub fn holds(&self) -> bool {
        self.share >= 0.999 && self.p99 <= PATIENCE.as_secs_f64() * 1e3
    }
}

/// What a server reached.
#[derive(Clone, Debug)]
pub struct FanOut {
    /// All phases, in order of their rates.
    pub phases: Vec<Phase>,
    /// The one with the highest rate that held.
    pub highest: Phase,
    /// One at half of that rate.
    pub half: Phase,
}

/// Looks for the highest rate, and measures at half of it. A server that could not keep up is given up for a fresh one:
/// what it still has to do would be held against it. The last one, which had half of the load, is handed back.
///
/// # Errors
/// When not even the lowest rate holds, or something breaks.
///
/// # Panics
/// Never: the search ends with a rate that held.
pub async fn measure<H>(
    mut fresh: impl AsyncFnMut() -> Result<(Stage, Gauge, H)>,
    duration: Duration,
    lowest_rate: f64,
) -> Result<(FanOut, H)> {
    let mut server = fresh().await?;
    let mut phases: Vec<Phase> = Vec::new();
    let mut held = None;
    let mut failed = f64::INFINITY;
    let mut rate = lowest_rate;
    loop {
        let phase = best_of(&mut server.0, server.1, rate, duration).await?;
        phases.push(phase);
        if phase.holds() {
            held = Some(phase);
        } else {
            failed = rate;
            // The one before has to be gone first.
            drop(server);
            server = fresh().await?;
        }
        let Some(held) = &held else {
            anyhow::ensure!(rate > 1.0, "not even {rate} updates a second get through");
            rate /= 4.0;
            continue;
        };
        rate = if failed.is_infinite() {
            held.rate * 2.0
        } else if failed / held.rate > 1.2 {
            (failed * held.rate).sqrt()
        } else {
            break;
        };
    }
    let highest = held.expect("the loop ends with one");
    let half = best_of(&mut server.0, server.1, highest.rate / 2.0, duration).await?;
    phases.push(half);
    phases.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let found = FanOut {
        phases,
        highest,
        half,
    };
    Ok((found, server.2))
}

/// A machine that has others to serve stops for some hundred milliseconds now and then, so a rate has three tries.
async fn best_of(stage: &mut Stage, gauge: Gauge, rate: f64, duration: Duration) -> Result<Phase> {
    const TRIES: usize = 3;
    let mut best: Option<Phase> = None;
    for _ in 0..TRIES {
        let phase = run(stage, gauge, rate, duration).await?;
        tell(&phase);
        if phase.holds() {
            return Ok(phase);
        }
        settle(stage).await?;
        if best.is_none_or(|best| phase.share > best.share) {
            best = Some(phase);
        }
        // What is far from holding needs no second look.
        if phase.share < 0.5 {
            break;
        }
    }
    Ok(best.expect("there was a try"))
}

/// Says what a phase came to.
#[expect(clippy::print_stderr, reason = "the search takes a minute")]
pub fn tell(phase: &Phase) {
    eprintln!(
        "  {:.0}/s written, {:.0}/s delivered, {:.4} of all, p50 {:.2} ms, p99 {:.1} ms ({:.1}), {:.1} in a message, server {:.2}, \
         generator {:.2}",
        phase.rate,
        phase.delivered,
        phase.share,
        phase.p50,
        phase.p99,
        phase.gross_p99,
        phase.merged,
        phase.server,
        phase.generator
    );
}

/// Waits until all that was written has come, so that the next phase begins with nothing under way.
async fn settle(stage: &Stage) -> Result<()> {
    let mut before = counts(stage)?;
    loop {
        tokio::time::sleep(DRAIN).await;
        let now = counts(stage)?;
        if now.delivered == before.delivered {
            return Ok(());
        }
        before = now;
    }
}

fn counts(stage: &Stage) -> Result<Counts> {
    stage.meter.borrow().counts()
}

/// One phase at one rate.
///
/// # Errors
/// When the server closes a connection, or sends what nobody understands.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of some seconds"
)]
pub async fn run(stage: &mut Stage, gauge: Gauge, rate: f64, duration: Duration) -> Result<Phase> {
    let writers = stage.writers.len();
    let total = ((rate * duration.as_secs_f64()) as usize).max(1);
    // Made before the clock starts; writer after writer has its turn.
    let mut frames: Vec<Vec<Bytes>> = Vec::with_capacity(total);
    for number in 0..total {
        let (link, writer, _) = &mut stage.writers[number % writers];
        frames.push(link.frames(&writer.write()?));
    }
    stage.meter.borrow_mut().take_latencies();
    let before = counts(stage)?;
    let cpu_before = [gauge.cpu_seconds()?, Gauge::own().cpu_seconds()?];
    let began = Instant::now();
    let interval = duration.as_secs_f64() / total as f64;
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut sent = 0;
    while sent < total {
        ticks.tick().await;
        stage.meter.borrow_mut().look_at_host();
        let due = ((began.elapsed().as_secs_f64() / interval) as usize + 1).min(total);
        while sent < due {
            let writer = sent % writers;
            // Late is late, also if it was the generator that was late.
            let at = began + Duration::from_secs_f64(interval * sent as f64);
            stage.meter.borrow_mut().due(writer, at);
            stage.writers[writer]
                .0
                .send(std::mem::take(&mut frames[sent]))?;
            sent += 1;
        }
    }
    let receivers = stage.readers.len() + writers - 1;
    let expected = (total * receivers) as u64;
    let all_came = || Ok(counts(stage)?.delivered - before.delivered >= expected);
    // What has not come by then shows in the share.
    let _late = until(DRAIN, "all have all", all_came).await;
    let wall = began.elapsed().as_secs_f64();
    let after = counts(stage)?;
    let cpu = [
        gauge.cpu_seconds()? - cpu_before[0],
        Gauge::own().cpu_seconds()? - cpu_before[1],
    ];
    let delivered = (after.delivered - before.delivered) as f64;
    let [latencies, gross] = stage.meter.borrow_mut().take_latencies();
    let millis = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Phase {
        rate,
        delivered: delivered / wall.max(duration.as_secs_f64()),
        share: delivered / expected as f64,
        p50: millis(0.5),
        p99: millis(0.99),
        gross_p99: gross.value_at_quantile(0.99) as f64 / 1e3,
        cpu_per_million: cpu[0] / delivered.max(1.0) * 1e6,
        merged: delivered / (after.messages - before.messages).max(1) as f64,
        generator: cpu[1] / wall,
        server: cpu[0] / wall,
    })
}
