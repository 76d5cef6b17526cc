//! A running server with a document, and clients around it.

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
use super::meter::{Ear, Meter, SharedMeter, Sight};
use super::peers::{Peer, Running, Tools};
use super::workload::{self, Writer};

/// The server's core; the generator has the other one.
pub const SERVER_CORE: usize = 1;
/// How long anything may take that is waited for.
pub const LIMIT: Duration = Duration::from_mins(2);

/// A server on its core.
///
/// # Errors
/// When it doesn't start.
pub fn start(tools: &Tools, peer: Peer, data: &Path) -> Result<(Running, Gauge)> {
    // Not `available_parallelism`: the generator is pinned, and would find its own core only.
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
            "{} runs on the cores {allowed}, not on {core}",
            peer.name()
        );
    }
    Ok((running, gauge))
}

/// Those who have one document open.
#[derive(Debug)]
pub struct Stage {
    /// What they hear.
    pub meter: SharedMeter,
    /// Those who write.
    pub writers: Vec<(Link, Writer, Sight)>,
    /// Those who only read.
    pub readers: Vec<(Link, Sight)>,
}

impl Stage {
    /// Opens a document for so many writers and readers. Makes it, if it is not there.
    ///
    /// # Errors
    /// When the server does not let them in.
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

    /// Opens one of several documents, whose writers are numbered through.
    ///
    /// # Errors
    /// When the server does not let them in.
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
            let (ear, sight) = Ear::new(meter, writers.clone(), None);
            let speech = peer.speech(document);
            let link = Link::open(address, speech, ear).await?;
            stage.readers.push((link, sight));
        }
        for (number, writer) in writers.clone().enumerate() {
            let (ear, sight) = Ear::new(meter, writers.clone(), Some(writer));
            let link = Link::open(address, peer.speech(document), ear).await?;
            let typing = Writer::new(writer, number, &made.state)?;
            stage.writers.push((link, typing, sight));
        }
        Ok(stage)
    }

    /// Waits until all have the document.
    ///
    /// # Errors
    /// When they don't get it.
    pub async fn all_are_ready(&self) -> Result<()> {
        let expected = (self.writers.len() + self.readers.len()) as u64;
        ready(&self.meter, expected).await
    }
}

/// Waits until so many have their document.
///
/// # Errors
/// When they don't get it.
pub async fn ready(meter: &SharedMeter, expected: u64) -> Result<()> {
    let are_ready = || Ok(meter.borrow().counts()?.ready >= expected);
    until(LIMIT, "all have opened the document", are_ready).await?;
    Ok(())
}

/// A document that was made.
#[derive(Debug)]
pub struct Made {
    /// Its state.
    pub state: Bytes,
    /// Whoever made it. To be held until others have opened it: some servers close a document when the last one leaves,
    /// and lose what is in it when somebody else opens it meanwhile.
    _maker: Option<Link>,
}

/// Makes a document of an update, if the server has it not.
///
/// # Errors
/// When the server does not take it.
pub async fn make(peer: Peer, address: SocketAddr, document: &str, base: Bytes) -> Result<Made> {
    if peer == Peer::Relay {
        // It keeps none.
        return Ok(Made {
            state: base,
            _maker: None,
        });
    }
    let meter = Meter::shared(0);
    let (ear, sight) = Ear::new(&meter, 0..0, None);
    let link = Link::open(address, peer.speech(document), ear).await?;
    ready(&meter, 1).await?;
    let state = sight.take_state().context("there is a state")?;
    say(peer, &link, &meter, &base).await?;
    Ok(Made {
        state: merge_updates(&[&state, &base])?.into(),
        _maker: Some(link),
    })
}

/// Sends an update, and waits until the server has it.
///
/// # Errors
/// When it doesn't take it.
pub async fn say(peer: Peer, link: &Link, meter: &SharedMeter, update: &[u8]) -> Result<()> {
    link.send_update(update).await?;
    if peer.acknowledges() {
        let is_taken = || Ok(meter.borrow().counts()?.acknowledged > 0);
        until(LIMIT, "the update is taken", is_taken).await?;
    } else {
        // Nothing says when it is there, but what was sent before a ping is read before it.
        link.round_trip(LIMIT).await?;
    }
    Ok(())
}

/// Waits until something is so.
///
/// # Errors
/// When it isn't in time.
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
            bail!("not within {} s: {what}", limit.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
