//! Durability: a server is killed during writes, and must then have everything that others saw.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::servers::meter::Meter;
use crate::servers::peers::{Peer, Tools};
use crate::servers::stage::{Stage, ready, start};
use crate::servers::{link::Link, meter::MeterListener};

const WRITERS: usize = 4;
const READERS: usize = 4;
/// The rate of all writers together, in updates per second, which all servers can sustain.
const RATE: f64 = 100.0;

/// The losses of a server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Durability {
    /// The updates that a client other than the author had received.
    pub seen: u64,
    /// The lost updates among them.
    pub lost: u64,
    /// The acknowledged updates.
    pub acknowledged: u64,
    /// The lost updates among them.
    pub lost_acknowledged: u64,
}

/// Writes for some time, kills the server, restarts it, and counts the lost updates.
///
/// # Errors
/// When the server does not restart, or a connection fails.
pub async fn measure(
    tools: &Tools,
    peer: Peer,
    data: &Path,
    writing: Duration,
) -> Result<Durability> {
    const DOCUMENT: &str = "kept";
    let (mut running, _) = start(tools, peer, data)?;
    let mut stage = Stage::open(peer, running.address, DOCUMENT, WRITERS, READERS).await?;
    let before = stage.meter.borrow().counts()?.acknowledged;
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / RATE));
    let end = tokio::time::Instant::now() + writing;
    let mut number = 0;
    while tokio::time::Instant::now() < end {
        let at = ticks.tick().await;
        let (link, writer, _) = &mut stage.writers[number % WRITERS];
        let frames = link.frames(&writer.write()?);
        stage.meter.borrow_mut().due(number % WRITERS, at.into());
        link.send(frames)?;
        number += 1;
    }
    running.kill_now()?;
    // Updates that the server sent before its end count as seen.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let readers = stage.readers.iter().map(|(_, progress)| progress);
    let writers = stage.writers.iter().map(|(_, _, progress)| progress);
    let mut seen = [0; WRITERS];
    for progress in readers.chain(writers) {
        for (most, clock) in seen.iter_mut().zip(progress.clocks()) {
            *most = clock.max(*most);
        }
    }
    let acknowledged = stage.meter.borrow().counts()?.acknowledged - before;
    drop(stage);
    drop(running);

    let (running, _) = start(tools, peer, data)?;
    let meter = Meter::shared(WRITERS);
    let (listener, progress) = MeterListener::new(&meter, 0..WRITERS, None);
    let _link = Link::open(running.address, peer.protocol(DOCUMENT), listener).await?;
    ready(&meter, 1).await?;
    // Some servers send the content from disk after their greeting.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let kept = progress.clocks();
    let lost = seen.iter().zip(&kept);
    let lost: u32 = lost.map(|(seen, kept)| seen.saturating_sub(*kept)).sum();
    let there: u64 = kept.iter().map(|clock| u64::from(*clock)).sum();
    Ok(Durability {
        seen: seen.iter().map(|clock| u64::from(*clock)).sum(),
        lost: lost.into(),
        acknowledged,
        lost_acknowledged: acknowledged.saturating_sub(there),
    })
}
