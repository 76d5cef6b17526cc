//! Idle: very many connections, each with a document open, without writes.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::Result;
use tokio::task::JoinSet;

use super::documents::SETTLE;
use crate::servers::gauge::Gauge;
use crate::servers::link::Link;
use crate::servers::meter::{Meter, MeterListener, SharedMeter};
use crate::servers::peers::Peer;
use crate::servers::stage::{make, ready};
use crate::servers::workload;

/// The limit of concurrent opens.
const OPEN_LIMIT: usize = 64;

/// The cost of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    /// The server's resident memory for each connection.
    pub bytes_per_connection: f64,
    /// The connections per second, each with its open document.
    pub connects_per_second: f64,
    /// The generator's share of its core.
    pub generator: f64,
}

/// Opens the connections to one document.
///
/// # Errors
/// When the server refuses a connection.
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
    let mut opening = JoinSet::new();
    for _ in 0..connections {
        if opening.len() >= OPEN_LIMIT
            && let Some(link) = opening.join_next().await
        {
            links.push(link??);
        }
        let meter = SharedMeter::clone(&meter);
        opening.spawn_local(async move {
            let (listener, _) = MeterListener::new(&meter, 0..1, None);
            Link::open(address, peer.protocol(DOCUMENT), listener).await
        });
    }
    while let Some(link) = opening.join_next().await {
        links.push(link??);
    }
    ready(&meter, connections as u64).await?;
    let took = began.elapsed().as_secs_f64();
    let generator = (Gauge::own().cpu_seconds()? - cpu) / took;
    // The temporary memory of the handshakes becomes free meanwhile.
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
