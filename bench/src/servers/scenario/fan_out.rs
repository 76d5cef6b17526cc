//! Fan-out: one document, some writers, many readers; throughput, latency and cost.

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;

use crate::servers::gauge::Gauge;
use crate::servers::meter::{Counts, Latencies};
use crate::servers::stage::{Stage, until};

/// The limit of the p99 at a sustainable rate.
const P99_LIMIT: Duration = Duration::from_millis(100);
/// The time for updates that are in flight at the end of a phase.
const DRAIN: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(1);
/// The rate of a warm-up, in updates per second, which every server sustains.
const WARM_UP_RATE: f64 = 256.0;

/// The figures of one phase at one rate.
#[derive(Clone, Copy, Debug)]
pub struct Phase {
    /// The updates per second of all writers together.
    pub rate: f64,
    /// The deliveries per second, counted once for each receiver.
    pub delivered: f64,
    /// The delivered share of the expected deliveries.
    pub share: f64,
    /// The latencies of all deliveries.
    pub latencies: Latencies,
    /// The server's processor seconds for a million deliveries.
    pub cpu_per_million: f64,
    /// The average number of updates in a message.
    pub merged: f64,
    /// The generator's share of its core.
    pub generator: f64,
    /// The server's share of its core.
    pub server: f64,
}

impl Phase {
    /// Whether the server kept up.
    pub fn holds(&self) -> bool {
        self.share >= 0.999 && self.latencies.net.p99 <= P99_LIMIT.as_secs_f64() * 1e3
    }
}

/// The result of a search.
#[derive(Clone, Debug)]
pub struct FanOut {
    /// All phases, in the order of their rates.
    pub phases: Vec<Phase>,
    /// The phase with the highest sustained rate.
    pub highest: Phase,
    /// A phase at half of that rate.
    pub half: Phase,
}

/// Searches for the highest sustained rate, and measures at half of it.
///
/// A server that did not keep up is replaced by a fresh one, because its backlog would count
/// against it. Returns the last server as well, which had half of the load.
///
/// # Errors
/// When the server does not sustain the lowest rate, or a connection fails.
///
/// # Panics
/// Never: the search ends with a sustained rate.
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
            // The old server must end first.
            drop(server);
            server = fresh().await?;
        }
        let Some(held) = &held else {
            anyhow::ensure!(
                rate > 1.0,
                "the server does not sustain {rate} updates per second"
            );
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
    let highest = held.expect("the loop ends with a sustained rate");
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

/// Writes at a low rate without a measurement, and waits until no update is in flight.
///
/// A new server has compiled its code and filled its caches afterwards.
///
/// # Errors
/// When the server closes a connection, or violates the protocol.
pub async fn warm_up(stage: &mut Stage, gauge: Gauge, duration: Duration) -> Result<()> {
    run(stage, gauge, WARM_UP_RATE, duration).await?;
    settle(stage).await
}

/// Measures a rate up to three times, because a shared machine sometimes stops for some hundred
/// milliseconds.
async fn best_of(stage: &mut Stage, gauge: Gauge, rate: f64, duration: Duration) -> Result<Phase> {
    const TRIES: usize = 3;
    let mut best: Option<Phase> = None;
    for _ in 0..TRIES {
        let phase = run(stage, gauge, rate, duration).await?;
        log(&phase);
        if phase.holds() {
            return Ok(phase);
        }
        settle(stage).await?;
        if best.is_none_or(|best| phase.share > best.share) {
            best = Some(phase);
        }
        // A rate that is far too high needs no second try.
        if phase.share < 0.5 {
            break;
        }
    }
    Ok(best.expect("there was at least one try"))
}

/// Prints the figures of a phase.
#[expect(clippy::print_stderr, reason = "the search takes a minute")]
pub fn log(phase: &Phase) {
    eprintln!(
        "  {:.0}/s written, {:.0}/s delivered, {:.4} of all, p50 {:.2} ms ({:.2} gross), \
         p99 {:.1} ms ({:.1} gross), {:.1} in a message, server {:.2}, generator {:.2}",
        phase.rate,
        phase.delivered,
        phase.share,
        phase.latencies.net.p50,
        phase.latencies.gross.p50,
        phase.latencies.net.p99,
        phase.latencies.gross.p99,
        phase.merged,
        phase.server,
        phase.generator
    );
}

/// Waits until no update is in flight, so that the next phase starts without a backlog.
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

/// Runs one phase at one rate.
///
/// # Errors
/// When the server closes a connection, or violates the protocol.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of some seconds"
)]
pub async fn run(stage: &mut Stage, gauge: Gauge, rate: f64, duration: Duration) -> Result<Phase> {
    let writers = stage.writers.len();
    let total = ((rate * duration.as_secs_f64()) as usize).max(1);
    // All frames are encoded before the clock starts; the writers take turns.
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
            // The latency counts from the due time, even if the generator itself was late.
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
    // Missing deliveries show in the share.
    let _late = until(DRAIN, "all clients have all updates", all_came).await;
    let wall = began.elapsed().as_secs_f64();
    let after = counts(stage)?;
    let cpu = [
        gauge.cpu_seconds()? - cpu_before[0],
        Gauge::own().cpu_seconds()? - cpu_before[1],
    ];
    let delivered = (after.delivered - before.delivered) as f64;
    let latencies = stage.meter.borrow_mut().take_latencies();
    Ok(Phase {
        rate,
        delivered: delivered / wall.max(duration.as_secs_f64()),
        share: delivered / expected as f64,
        latencies,
        cpu_per_million: cpu[0] / delivered.max(1.0) * 1e6,
        merged: delivered / (after.messages - before.messages).max(1) as f64,
        generator: cpu[1] / wall,
        server: cpu[0] / wall,
    })
}
