//! Catch-up: a reader that was asleep while others wrote, connected all the time.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::servers::gauge::Gauge;
use crate::servers::stage::{Stage, until};

const LIMIT: Duration = Duration::from_mins(2);

/// What it took to be brought up to date.
#[derive(Clone, Copy, Debug)]
pub struct CatchUp {
    /// From waking up to having all.
    pub took: Duration,
    /// Bytes that came after waking up.
    pub bytes: u64,
    /// Memory of the server that was there because of the one who slept, and of what was written.
    pub memory: u64,
}

/// Writes so many updates while one of two readers is asleep; the stage has one writer.
///
/// # Errors
/// When they don't arrive.
pub async fn measure(stage: &mut Stage, gauge: Gauge, updates: usize) -> Result<CatchUp> {
    /// Updates under way at the same time, so that none of the servers is overrun.
    const WINDOW: usize = 64;
    stage.readers[0].0.sleep(true);
    let before = gauge.memory()?.resident;
    let awake = stage.readers[1].1.clone();
    for number in 0..updates {
        let (link, writer, _) = &mut stage.writers[0];
        stage.meter.borrow_mut().due(0, Instant::now());
        link.send_update(&writer.write()?).await?;
        if number % WINDOW == WINDOW - 1 || number == updates - 1 {
            let has_all = || Ok(awake.clocks()[0] as usize > number);
            until(LIMIT, "the reader that is awake has all", has_all).await?;
        }
    }
    let memory = gauge.memory()?.resident.saturating_sub(before);
    let (link, sight) = &stage.readers[0];
    let bytes = sight.bytes();
    let began = Instant::now();
    link.sleep(false);
    let has_all = || Ok(sight.clocks()[0] as usize >= updates);
    until(LIMIT, "the reader that was asleep has all", has_all).await?;
    Ok(CatchUp {
        took: began.elapsed(),
        bytes: sight.bytes() - bytes,
        memory,
    })
}
