//! Durability: a server is killed while people write. What they had seen of each other has to be there afterwards.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::servers::meter::Meter;
use crate::servers::peers::{Peer, Tools};
use crate::servers::stage::{Stage, ready, start};
use crate::servers::{link::Link, meter::Ear};

const WRITERS: usize = 4;
const READERS: usize = 4;
/// Updates per second of all writers together, which each of the servers can do.
const RATE: f64 = 100.0;

/// What was lost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Durability {
    /// Updates that somebody besides the author had seen.
    pub seen: u64,
    /// Of these, those that are not there any more.
    pub lost: u64,
    /// Updates whose author was told that they have arrived.
    pub acknowledged: u64,
    /// Of these, those that are not there any more.
    pub lost_acknowledged: u64,
}

/// Writes for some time, kills the server, starts it again and looks.
///
/// # Errors
/// When the server does not come back, or something breaks.
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
    // What was on its way out of the server before it died is seen, too.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let sights = stage.readers.iter().map(|(_, sight)| sight);
    let mut seen = [0; WRITERS];
    for sight in sights.chain(stage.writers.iter().map(|(_, _, sight)| sight)) {
        for (most, clock) in seen.iter_mut().zip(sight.clocks()) {
            *most = clock.max(*most);
        }
    }
    let acknowledged = stage.meter.borrow().counts()?.acknowledged - before;
    drop(stage);
    drop(running);

    let (running, _) = start(tools, peer, data)?;
    let meter = Meter::shared(WRITERS);
    let (ear, sight) = Ear::new(&meter, 0..WRITERS, None);
    let _link = Link::open(running.address, peer.speech(DOCUMENT), ear).await?;
    ready(&meter, 1).await?;
    // Some send what they read from disk after they have greeted.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let kept = sight.clocks();
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
