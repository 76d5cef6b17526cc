//! Store: very many documents with one update each.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::servers::gauge::bytes_on_disk;
use crate::servers::link::Link;
use crate::servers::meter::{Meter, MeterListener};
use crate::servers::peers::Peer;
use crate::servers::stage::{ready, send_and_confirm};
use crate::servers::workload;

/// The limit of concurrent writes.
const WRITE_LIMIT: usize = 64;
/// The time without disk writes after which a server has stored everything.
const QUIET: Duration = Duration::from_secs(4);

/// The cost of storing.
#[derive(Clone, Copy, Debug)]
pub struct Store {
    /// The updates per second until the last one was on disk.
    pub updates_per_second: f64,
    /// The allocated bytes on disk for each byte of an update.
    pub bytes_per_byte: f64,
}

/// Writes other documents without a measurement, and waits until they are stored.
///
/// # Errors
/// When the server refuses an update.
pub async fn warm_up(peer: Peer, address: SocketAddr, documents: usize) -> Result<()> {
    write(peer, address, "warm-up", documents, &workload::base(1)?).await?;
    tokio::time::sleep(peer.storing()).await;
    Ok(())
}

async fn write(
    peer: Peer,
    address: SocketAddr,
    prefix: &'static str,
    documents: usize,
    update: &Bytes,
) -> Result<()> {
    let mut writing = JoinSet::new();
    for number in 0..documents {
        if writing.len() >= WRITE_LIMIT
            && let Some(written) = writing.join_next().await
        {
            written??;
        }
        let update = Bytes::clone(update);
        writing.spawn_local(async move {
            let meter = Meter::shared(0);
            let (listener, _) = MeterListener::new(&meter, 0..0, None);
            let protocol = peer.protocol(&format!("{prefix}-{number}"));
            let link = Link::open(address, protocol, listener).await?;
            ready(&meter, 1).await?;
            send_and_confirm(peer, &link, &meter, &update).await
        });
    }
    while let Some(written) = writing.join_next().await {
        written??;
    }
    Ok(())
}

/// Writes one update to each of `documents` documents.
///
/// # Errors
/// When the server refuses an update.
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
    write(peer, address, "stored", documents, &update).await?;
    // An answer may precede the disk write: storing ends when nothing has been written for a while.
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
