//! Idle: very many connections, each with a document open, and nobody who writes.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::Result;
use tokio::task::JoinSet;

use super::documents::SETTLE;
use crate::servers::gauge::Gauge;
use crate::servers::link::Link;
use crate::servers::meter::{Ear, Meter, SharedMeter};
use crate::servers::peers::Peer;
use crate::servers::stage::{make, ready};
use crate::servers::workload;

/// Connections that are opened at the same time.
const AT_ONCE: usize = 64;

/// What a connection takes.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    /// Resident memory of the server for each.
    pub bytes_per_connection: f64,
    /// Connections, each with its document, per second.
    pub connects_per_second: f64,
    /// Share of its core that the generator took.
    pub generator: f64,
}

/// Opens so many connections to one document.
///
/// # Errors
/// When the server does not let them in.
#[expect(clippy::cast_precision_loss, reason = "some thousands")]
pub async fn measure(
    peer: Peer,
    address: SocketAddr,
    gauge: Gauge,
    connections: usize,
) -> Result<Idle> {
    const DOCUMENT: &str = "idle";
    let _made = make(peer, address, DOCUMENT, workload::base(1)?).await?;
    let meter = Meter::shared(1);
    let before = gauge.memory()?.resident;
    let cpu = Gauge::own().cpu_seconds()?;
    let began = Instant::now();
    let mut links = Vec::with_capacity(connections);
    let mut under_way = JoinSet::new();
    for _ in 0..connections {
        if under_way.len() >= AT_ONCE
            && let Some(link) = under_way.join_next().await
        {
            links.push(link??);
        }
        let meter = SharedMeter::clone(&meter);
        under_way.spawn_local(async move {
            let (ear, _) = Ear::new(&meter, 0..1, None);
            Link::open(address, peer.speech(DOCUMENT), ear).await
        });
    }
    while let Some(link) = under_way.join_next().await {
        links.push(link??);
    }
    ready(&meter, connections as u64).await?;
    let took = began.elapsed().as_secs_f64();
    let generator = (Gauge::own().cpu_seconds()? - cpu) / took;
    // What the handshakes left behind has time to go.
    tokio::time::sleep(SETTLE).await;
    let after = gauge.memory()?.resident;
    anyhow::ensure!(
        links.iter().all(Link::is_alive),
        "{} dropped an idle connection",
        peer.name()
    );
    Ok(Idle {
        bytes_per_connection: after.saturating_sub(before) as f64 / connections as f64,
        connects_per_second: connections as f64 / took,
        generator,
    })
}
