//! Many documents: two participants each, who write once a second.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;

use crate::servers::gauge::Gauge;
use crate::servers::meter::{Meter, SharedMeter};
use crate::servers::peers::Peer;
use crate::servers::stage::{Stage, ready, until};

/// Writers of each document.
const PARTICIPANTS: usize = 2;
/// Documents that are opened at the same time.
const AT_ONCE: usize = 32;
const DRAIN: Duration = Duration::from_secs(5);

/// What many documents took.
#[derive(Clone, Copy, Debug)]
pub struct Documents {
    /// Milliseconds.
    pub p50: f64,
    /// Milliseconds.
    pub p99: f64,
    /// Delivered of what was to be delivered, 1 if all.
    pub share: f64,
    /// Share of its core that the server took.
    pub server: f64,
    /// Share of its core that the generator took.
    pub generator: f64,
    /// Memory of the server for each document, with its connections.
    pub bytes_per_document: f64,
}

/// Opens so many documents, and has each participant write once a second.
///
/// # Errors
/// When the server does not let them in, or something breaks.
#[expect(clippy::cast_precision_loss, reason = "counts of some seconds")]
pub async fn measure(
    peer: Peer,
    address: SocketAddr,
    gauge: Gauge,
    documents: usize,
    duration: Duration,
) -> Result<Documents> {
    let empty = gauge.memory()?.resident;
    let meter = Meter::shared(documents * PARTICIPANTS);
    let mut stages = open_all(&meter, peer, address, documents).await?;
    // What opening left behind has time to go.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let full = gauge.memory()?.resident;

    meter.borrow_mut().take_latencies();
    let before = meter.borrow().counts()?;
    let cpu_before = [gauge.cpu_seconds()?, Gauge::own().cpu_seconds()?];
    let began = Instant::now();
    let total = documents * PARTICIPANTS * usize::try_from(duration.as_secs())?;
    let interval = duration.div_f64(total as f64);
    for number in 0..total {
        let at = began + interval.mul_f64(number as f64);
        if at > Instant::now() {
            tokio::time::sleep_until(at.into()).await;
        }
        meter.borrow_mut().look_at_host();
        let participant = number % (documents * PARTICIPANTS);
        let stage = &mut stages[participant % documents];
        let (link, writer, _) = &mut stage.writers[participant / documents];
        let update = link.frames(&writer.write()?);
        let writer = participant % documents * PARTICIPANTS + participant / documents;
        meter.borrow_mut().due(writer, at);
        link.send(update)?;
    }
    let expected = (total * (PARTICIPANTS - 1)) as u64;
    let all_came = || Ok(meter.borrow().counts()?.delivered - before.delivered >= expected);
    let _late = until(DRAIN, "all have all", all_came).await;
    let wall = began.elapsed().as_secs_f64();
    let delivered = meter.borrow().counts()?.delivered - before.delivered;
    let [latencies, _] = meter.borrow_mut().take_latencies();
    let millis = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Documents {
        p50: millis(0.5),
        p99: millis(0.99),
        share: delivered as f64 / expected as f64,
        server: (gauge.cpu_seconds()? - cpu_before[0]) / wall,
        generator: (Gauge::own().cpu_seconds()? - cpu_before[1]) / wall,
        bytes_per_document: full.saturating_sub(empty) as f64 / documents as f64,
    })
}

/// What yrs by itself holds for such a document, in bytes.
///
/// # Errors
/// When the program that counts is not there.
pub fn bytes_in_yrs() -> Result<f64> {
    let program = std::env::current_exe()?.with_file_name("bench-memory");
    let output = Command::new(program)
        .args([&PARTICIPANTS.to_string(), "served"])
        .output()
        .context("bench-memory has to lie beside this program")?;
    let text = String::from_utf8(output.stdout)?;
    let yrs = text.split_whitespace().nth(1);
    Ok(yrs.context("bench-memory says nothing")?.parse()?)
}

async fn open_all(
    meter: &SharedMeter,
    peer: Peer,
    address: SocketAddr,
    documents: usize,
) -> Result<Vec<Stage>> {
    let mut stages = Vec::with_capacity(documents);
    let mut under_way = JoinSet::new();
    for number in 0..documents {
        if under_way.len() >= AT_ONCE
            && let Some(stage) = under_way.join_next().await
        {
            stages.push(stage??);
        }
        let meter = SharedMeter::clone(meter);
        under_way.spawn_local(async move {
            let document = format!("many-{number}");
            let writers = number * PARTICIPANTS..(number + 1) * PARTICIPANTS;
            let stage = Stage::open_beside(&meter, peer, address, &document, writers, 0).await?;
            anyhow::Ok((number, stage))
        });
    }
    while let Some(stage) = under_way.join_next().await {
        stages.push(stage??);
    }
    ready(meter, (documents * PARTICIPANTS) as u64).await?;
    stages.sort_by_key(|(number, _)| *number);
    Ok(stages.into_iter().map(|(_, stage)| stage).collect())
}
