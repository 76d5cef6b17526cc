//! Catch-up: a connected reader that pauses while others write.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::servers::gauge::Gauge;
use crate::servers::stage::{Stage, until};

const LIMIT: Duration = Duration::from_mins(2);

/// The cost of catching up.
#[derive(Clone, Copy, Debug)]
pub struct CatchUp {
    /// The time from the end of the pause to the last update.
    pub took: Duration,
    /// The bytes received after the pause.
    pub bytes: u64,
    /// The server's additional memory for the paused reader and the new content.
    pub memory: u64,
}

/// Writes `updates` updates while one of two readers pauses; the stage has one writer.
///
/// # Errors
/// When an update does not arrive.
pub async fn measure(stage: &mut Stage, gauge: Gauge, updates: usize) -> Result<CatchUp> {
    /// The limit of updates in flight, so that no server is overloaded.
    const WINDOW: usize = 64;
    stage.readers[0].0.sleep(true);
    let before = gauge.memory()?.resident;
    let awake = stage.readers[1].1.clone();
    let earlier = awake.clocks()[0] as usize;
    for number in 0..updates {
        let (link, writer, _) = &mut stage.writers[0];
        stage.meter.borrow_mut().due(0, Instant::now());
        link.send_update(&writer.write()?).await?;
        if number % WINDOW == WINDOW - 1 || number == updates - 1 {
            let has_all = || Ok(awake.clocks()[0] as usize > earlier + number);
            until(LIMIT, "the other reader has all updates", has_all).await?;
        }
    }
    let memory = gauge.memory()?.resident.saturating_sub(before);
    let (link, progress) = &stage.readers[0];
    let bytes = progress.bytes();
    let began = Instant::now();
    link.sleep(false);
    let has_all = || Ok(progress.clocks()[0] as usize >= earlier + updates);
    until(LIMIT, "the paused reader has all updates", has_all).await?;
    Ok(CatchUp {
        took: began.elapsed(),
        bytes: progress.bytes() - bytes,
        memory,
    })
}
