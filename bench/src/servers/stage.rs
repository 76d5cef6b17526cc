//! A running server with a document and its clients.

use std::fs;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use meshagent_document::merge_updates;

use super::gauge::Gauge;
use super::link::Link;
use super::meter::{Meter, MeterListener, Progress, SharedMeter};
use super::peers::{Peer, Running, Tools};
use super::workload::{self, Writer};

/// The core of the server; the generator has the other one.
pub const SERVER_CORE: usize = 1;
/// The limit of a wait.
pub const LIMIT: Duration = Duration::from_mins(2);

/// Starts a server on its core.
///
/// # Errors
/// When the server does not start.
pub fn start(tools: &Tools, peer: Peer, data: &Path) -> Result<(Running, Gauge)> {
    // `available_parallelism` would count only the core that the generator is pinned to.
    let cores = fs::read_to_string("/proc/cpuinfo")?
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let core = (cores > SERVER_CORE).then_some(SERVER_CORE);
    let running = peer
        .start(tools, data, core)
        .with_context(|| format!("starting {}", peer.name()))?;
    let gauge = Gauge::new(running.pid);
    if let Some(core) = core {
        let allowed = gauge.cores()?;
        anyhow::ensure!(
            allowed == core.to_string(),
            "{} runs on the cores {allowed}, expected {core}",
            peer.name()
        );
    }
    Ok((running, gauge))
}

/// The clients that have one document open.
#[derive(Debug)]
pub struct Stage {
    /// The meter of all clients.
    pub meter: SharedMeter,
    /// The clients that write.
    pub writers: Vec<(Link, Writer, Progress)>,
    /// The clients that only read.
    pub readers: Vec<(Link, Progress)>,
}

impl Stage {
    /// Opens a document for writers and readers, and creates it if it does not exist.
    ///
    /// # Errors
    /// When the server refuses a client.
    pub async fn open(
        peer: Peer,
        address: SocketAddr,
        document: &str,
        writers: usize,
        readers: usize,
    ) -> Result<Self> {
        let meter = Meter::shared(writers);
        let stage = Self::open_beside(&meter, peer, address, document, 0..writers, readers).await?;
        stage.all_are_ready().await?;
        Ok(stage)
    }

    /// Opens one of several documents whose writers have consecutive numbers.
    ///
    /// # Errors
    /// When the server refuses a client.
    pub async fn open_beside(
        meter: &SharedMeter,
        peer: Peer,
        address: SocketAddr,
        document: &str,
        writers: Range<usize>,
        readers: usize,
    ) -> Result<Self> {
        let base = workload::base(writers.len())?;
        let made = make(peer, address, document, base).await?;
        let mut stage = Self {
            meter: SharedMeter::clone(meter),
            writers: Vec::new(),
            readers: Vec::new(),
        };
        for _ in 0..readers {
            let (listener, progress) = MeterListener::new(meter, writers.clone(), None);
            let protocol = peer.protocol(document);
            let link = Link::open(address, protocol, listener).await?;
            stage.readers.push((link, progress));
        }
        for (number, writer) in writers.clone().enumerate() {
            let (listener, progress) = MeterListener::new(meter, writers.clone(), Some(writer));
            let link = Link::open(address, peer.protocol(document), listener).await?;
            let typing = Writer::new(writer, number, &made.state)?;
            stage.writers.push((link, typing, progress));
        }
        Ok(stage)
    }

    /// Waits until all clients have the document.
    ///
    /// # Errors
    /// When a client does not receive it in time.
    pub async fn all_are_ready(&self) -> Result<()> {
        let expected = (self.writers.len() + self.readers.len()) as u64;
        ready(&self.meter, expected).await
    }
}

/// Waits until `expected` clients have their document.
///
/// # Errors
/// When a client does not receive it in time.
pub async fn ready(meter: &SharedMeter, expected: u64) -> Result<()> {
    let are_ready = || Ok(meter.borrow().counts()?.ready >= expected);
    until(LIMIT, "all have opened the document", are_ready).await?;
    Ok(())
}

/// A created document.
#[derive(Debug)]
pub struct Made {
    /// The state of the document.
    pub state: Bytes,
    /// The connection that created the document, to be held until others have opened it.
    ///
    /// Some servers close a document when its last connection ends, and lose its content if
    /// another client opens it meanwhile.
    _maker: Option<Link>,
}

/// Creates a document from an update, unless the server has it.
///
/// # Errors
/// When the server does not accept the update.
pub async fn make(peer: Peer, address: SocketAddr, document: &str, base: Bytes) -> Result<Made> {
    if peer.is_relay() {
        // A relay has no documents.
        return Ok(Made {
            state: base,
            _maker: None,
        });
    }
    let meter = Meter::shared(0);
    let (listener, progress) = MeterListener::new(&meter, 0..0, None);
    let link = Link::open(address, peer.protocol(document), listener).await?;
    ready(&meter, 1).await?;
    let state = progress.take_state().context("the server sent no state")?;
    send_and_confirm(peer, &link, &meter, &base).await?;
    Ok(Made {
        state: merge_updates(&[&state, &base])?.into(),
        _maker: Some(link),
    })
}

/// Sends an update, and waits until the server has read it.
///
/// # Errors
/// When the server does not accept the update.
pub async fn send_and_confirm(
    peer: Peer,
    link: &Link,
    meter: &SharedMeter,
    update: &[u8],
) -> Result<()> {
    link.send_update(update).await?;
    if peer.acknowledges() {
        let is_taken = || Ok(meter.borrow().counts()?.acknowledged > 0);
        until(LIMIT, "the update is acknowledged", is_taken).await?;
    } else {
        // The server acknowledges no update, but it reads the update before a later ping.
        link.round_trip(LIMIT).await?;
    }
    Ok(())
}

/// Waits until a condition holds, and returns the time until then.
///
/// # Errors
/// When the condition does not hold in time.
pub async fn until(
    limit: Duration,
    what: &str,
    mut is_so: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let began = Instant::now();
    loop {
        if is_so()? {
            return Ok(began.elapsed());
        }
        if began.elapsed() > limit {
            bail!("timeout after {} s: expected that {what}", limit.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
