//! Many documents: two participants each, who write once a second.

use std::net::SocketAddr;
use std::ops::Range;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use meshagent_client::{OpenOptions, RoomClient};
use tokio::task::JoinSet;

use crate::servers::gauge::Gauge;
use crate::servers::meter::{Meter, SharedMeter};
use crate::servers::peers::{Peer, Running};
use crate::servers::stage::{Stage, ready, until};
use crate::servers::workload;

/// Writers of each document.
const PARTICIPANTS: usize = 2;
/// Documents that are opened at the same time.
const AT_ONCE: usize = 32;
const DRAIN: Duration = Duration::from_secs(5);
/// What opening left behind is small after half of it.
const BRIEFLY: Duration = Duration::from_secs(3);
/// Allocators give memory back late.
pub(super) const SETTLE: Duration = Duration::from_secs(6);

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
    /// Memory of the server for each further document, with its connections.
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
    let meter = Meter::shared(documents * PARTICIPANTS);
    // Memory is counted for the second half: the first one fills what a server has once, such as the caches of its store.
    let half = documents / 2;
    let mut stages = open_all(&meter, peer, address, 0..half).await?;
    tokio::time::sleep(BRIEFLY).await;
    let before = gauge.memory()?.resident;
    stages.extend(open_all(&meter, peer, address, half..documents).await?);
    tokio::time::sleep(SETTLE).await;
    let memory = gauge.memory()?.resident.saturating_sub(before);

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
        bytes_per_document: memory as f64 / (documents - half) as f64,
    })
}

/// Memory of our server for each further document that one connection has open, in bytes: that of the document alone.
///
/// # Errors
/// When the server does not let us in, or refuses.
#[expect(clippy::cast_precision_loss, reason = "some megabytes")]
pub async fn bytes_alone(running: &Running, gauge: Gauge, documents: usize) -> Result<f64> {
    let room = RoomClient::builder()
        .room_url(running.room_url())
        .token(Running::token());
    let room = room.connect().await?;
    let options = OpenOptions {
        schema: Some(crate::documents::document(0).schema().clone()),
        initial_json: Some(workload::base_json(PARTICIPANTS)),
        ..OpenOptions::default()
    };
    let half = documents / 2;
    let mut held = Vec::with_capacity(documents);
    let mut before = 0;
    for number in 0..documents {
        if number == half {
            tokio::time::sleep(SETTLE).await;
            before = gauge.memory()?.resident;
        }
        let path = format!("alone-{number}.bench");
        held.push(room.sync().open_with(&path, &options).await?);
    }
    tokio::time::sleep(SETTLE).await;
    let memory = gauge.memory()?.resident.saturating_sub(before);
    drop(held);
    room.close().await;
    Ok(memory as f64 / (documents - half) as f64)
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
    documents: Range<usize>,
) -> Result<Vec<Stage>> {
    let all = documents.end;
    let mut stages = Vec::with_capacity(documents.len());
    let mut under_way = JoinSet::new();
    for number in documents {
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
    ready(meter, (all * PARTICIPANTS) as u64).await?;
    stages.sort_by_key(|(number, _)| *number);
    Ok(stages.into_iter().map(|(_, stage)| stage).collect())
}
