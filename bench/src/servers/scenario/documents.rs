//! Many documents with two participants each, which write once a second.

use std::net::SocketAddr;
use std::ops::Range;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use meshagent_client::{OpenOptions, RoomClient};
use tokio::task::JoinSet;

use crate::servers::gauge::Gauge;
use crate::servers::meter::{Latencies, Meter, SharedMeter};
use crate::servers::peers::{Peer, Running};
use crate::servers::stage::{Stage, ready, until};
use crate::servers::workload;

/// The number of writers of each document.
const PARTICIPANTS: usize = 2;
/// The limit of concurrent opens.
const OPEN_LIMIT: usize = 32;
const DRAIN: Duration = Duration::from_secs(5);
/// The duration of the writes before the measurement.
const WARM_UP: Duration = Duration::from_secs(2);
/// The wait after half of the opens, until most temporary memory is free.
const HALF_SETTLE: Duration = Duration::from_secs(3);
/// The wait before memory is measured: allocators free memory late.
pub(super) const SETTLE: Duration = Duration::from_secs(6);

/// The figures of many documents.
#[derive(Clone, Copy, Debug)]
pub struct Documents {
    /// The latencies of all deliveries.
    pub latencies: Latencies,
    /// The delivered share of the expected deliveries.
    pub share: f64,
    /// The server's share of its core.
    pub server: f64,
    /// The generator's share of its core.
    pub generator: f64,
    /// The server's memory for each further document with its connections.
    pub bytes_per_document: f64,
}

/// Opens the documents, and lets each participant write once a second.
///
/// # Errors
/// When the server refuses a client, or a connection fails.
#[expect(clippy::cast_precision_loss, reason = "counts of some seconds")]
pub async fn measure(
    peer: Peer,
    address: SocketAddr,
    gauge: Gauge,
    documents: usize,
    duration: Duration,
) -> Result<Documents> {
    let meter = Meter::shared(documents * PARTICIPANTS);
    // Memory is measured for the second half: the first half fills the server's caches.
    let half = documents / 2;
    let mut stages = open_all(&meter, peer, address, 0..half).await?;
    tokio::time::sleep(HALF_SETTLE).await;
    let before = gauge.memory()?.resident;
    stages.extend(open_all(&meter, peer, address, half..documents).await?);
    tokio::time::sleep(SETTLE).await;
    let memory = gauge.memory()?.resident.saturating_sub(before);

    write(&mut stages, &meter, WARM_UP).await?;
    meter.borrow_mut().take_latencies();
    let cpu_before = [gauge.cpu_seconds()?, Gauge::own().cpu_seconds()?];
    let began = Instant::now();
    let share = write(&mut stages, &meter, duration).await?;
    let wall = began.elapsed().as_secs_f64();
    let latencies = meter.borrow_mut().take_latencies();
    Ok(Documents {
        latencies,
        share,
        server: (gauge.cpu_seconds()? - cpu_before[0]) / wall,
        generator: (Gauge::own().cpu_seconds()? - cpu_before[1]) / wall,
        bytes_per_document: memory as f64 / (documents - half) as f64,
    })
}

/// Lets each participant write once a second, and returns the delivered share.
#[expect(clippy::cast_precision_loss, reason = "counts of some seconds")]
async fn write(stages: &mut [Stage], meter: &SharedMeter, duration: Duration) -> Result<f64> {
    let before = meter.borrow().counts()?;
    let documents = stages.len();
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
    let delivered = || anyhow::Ok(meter.borrow().counts()?.delivered - before.delivered);
    let all_came = || Ok(delivered()? >= expected);
    let _late = until(DRAIN, "all clients have all updates", all_came).await;
    Ok(delivered()? as f64 / expected as f64)
}

/// Measures our server's memory for a document alone, in bytes: one connection has them all open.
///
/// # Errors
/// When the server refuses the connection or an open.
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

/// Measures the memory of such a document in yrs alone, in bytes.
///
/// # Errors
/// When the program that counts allocations does not run.
pub fn bytes_in_yrs() -> Result<f64> {
    let program = std::env::current_exe()?.with_file_name("bench-memory");
    let output = Command::new(program)
        .args([&PARTICIPANTS.to_string(), "served"])
        .output()
        .context("cannot run bench-memory: build it beside this program")?;
    let text = String::from_utf8(output.stdout)?;
    let yrs = text.split_whitespace().nth(1);
    let yrs = yrs.with_context(|| format!("expected two numbers, found {text:?}"))?;
    Ok(yrs.parse()?)
}

async fn open_all(
    meter: &SharedMeter,
    peer: Peer,
    address: SocketAddr,
    documents: Range<usize>,
) -> Result<Vec<Stage>> {
    let all = documents.end;
    let mut stages = Vec::with_capacity(documents.len());
    let mut opening = JoinSet::new();
    for number in documents {
        if opening.len() >= OPEN_LIMIT
            && let Some(stage) = opening.join_next().await
        {
            stages.push(stage??);
        }
        let meter = SharedMeter::clone(meter);
        opening.spawn_local(async move {
            let document = format!("many-{number}");
            let writers = number * PARTICIPANTS..(number + 1) * PARTICIPANTS;
            let stage = Stage::open_beside(&meter, peer, address, &document, writers, 0).await?;
            anyhow::Ok((number, stage))
        });
    }
    while let Some(stage) = opening.join_next().await {
        stages.push(stage??);
    }
    ready(meter, (all * PARTICIPANTS) as u64).await?;
    stages.sort_by_key(|(number, _)| *number);
    Ok(stages.into_iter().map(|(_, stage)| stage).collect())
}
