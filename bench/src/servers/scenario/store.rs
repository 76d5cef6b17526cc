//! Store: very many documents that get one update each.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::servers::gauge::bytes_on_disk;
use crate::servers::link::Link;
use crate::servers::meter::{Ear, Meter};
use crate::servers::peers::Peer;
use crate::servers::stage::{ready, say};
use crate::servers::workload;

/// Documents that are written at the same time.
const AT_ONCE: usize = 64;
/// How long nothing may have been written for a server to be through.
const QUIET: Duration = Duration::from_secs(4);

/// What storing took.
#[derive(Clone, Copy, Debug)]
pub struct Store {
    /// Updates per second until the last one was on disk.
    pub updates_per_second: f64,
    /// Allocated bytes on disk for each byte of an update.
    pub bytes_per_byte: f64,
}

/// Writes one update to each of so many documents.
///
/// # Errors
/// When the server does not take one.
#[expect(clippy::cast_precision_loss, reason = "some megabytes")]
pub async fn measure(
    peer: Peer,
    address: SocketAddr,
    data: &Path,
    documents: usize,
) -> Result<Store> {
    let before = bytes_on_disk(data)?;
    let update = workload::base(1)?;
    let began = Instant::now();
    let mut under_way = JoinSet::new();
    for number in 0..documents {
        if under_way.len() >= AT_ONCE
            && let Some(written) = under_way.join_next().await
        {
            written??;
        }
        let update = Bytes::clone(&update);
        under_way.spawn_local(async move {
            let meter = Meter::shared(0);
            let (ear, _) = Ear::new(&meter, 0..0, None);
            let speech = peer.speech(&format!("stored-{number}"));
            let link = Link::open(address, speech, ear).await?;
            ready(&meter, 1).await?;
            say(peer, &link, &meter, &update).await
        });
    }
    while let Some(written) = under_way.join_next().await {
        written??;
    }
    // An answer may come before the disk has it: it is done when the disk has had nothing to do for a while.
    let mut done = began.elapsed();
    let mut bytes = bytes_on_disk(data)?;
    let mut quiet_since = Instant::now();
    while quiet_since.elapsed() < QUIET {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = bytes_on_disk(data)?;
        if now != bytes {
            bytes = now;
            quiet_since = Instant::now();
            if !peer.acknowledges_durably() {
                done = began.elapsed();
            }
        }
    }
    let written = bytes.saturating_sub(before) as f64;
    Ok(Store {
        updates_per_second: documents as f64 / done.as_secs_f64(),
        bytes_per_byte: written / (update.len() * documents) as f64,
    })
}
