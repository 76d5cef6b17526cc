//! Join: a large document, and some who open it at the same time.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;

use crate::servers::gauge::Gauge;
use crate::servers::link::{Link, Listener};
use crate::servers::peers::Peer;
use crate::servers::speech::{Heard, Speech};
use crate::servers::stage::until;

const LIMIT: Duration = Duration::from_mins(2);

/// What it took until all had the document.
#[derive(Debug)]
pub struct Join {
    /// Until the last one had it.
    pub took: Duration,
    /// The most memory that the server took meanwhile, beyond what it took before.
    pub peak: u64,
    /// Bytes that came at all of them.
    pub bytes: u64,
    /// Share of its core that the generator took.
    pub generator: f64,
    /// They stay, so that the server has the document in memory.
    pub links: Vec<Link>,
}

#[derive(Debug, Default)]
struct Tally {
    arrived: usize,
    last: Option<Instant>,
    bytes: u64,
}

/// Waits for a state; what it contains is another's business.
struct Ear {
    tally: Rc<RefCell<Tally>>,
    has_it: bool,
    state_bytes: usize,
}

impl Listener for Ear {
    fn hear(&mut self, at: Instant, frame_bytes: usize, heard: &[Heard], _: &dyn Speech) {
        let mut tally = self.tally.borrow_mut();
        tally.bytes += frame_bytes as u64;
        for heard in heard {
            // Some greet with what they have in memory, and send what they read from disk as an update.
            if let Heard::State(state) | Heard::Update(state) = heard
                && state.len() >= self.state_bytes
                && !self.has_it
            {
                self.has_it = true;
                tally.arrived += 1;
                tally.last = Some(at);
            }
        }
    }
}

/// Has so many open a document at once, of which each must get so many bytes.
///
/// # Errors
/// When one does not get it.
pub async fn measure(
    peer: Peer,
    address: SocketAddr,
    gauge: Gauge,
    document: &'static str,
    joiners: usize,
    state_bytes: usize,
) -> Result<Join> {
    let tally = Rc::new(RefCell::new(Tally::default()));
    let before = gauge.memory()?.resident;
    gauge.forget_peak()?;
    let cpu = Gauge::own().cpu_seconds()?;
    let began = Instant::now();
    let mut joining = JoinSet::new();
    for _ in 0..joiners {
        let ear = Ear {
            tally: Rc::clone(&tally),
            has_it: false,
            state_bytes,
        };
        joining.spawn_local(Link::open(address, peer.speech(document), ear));
    }
    let mut links = Vec::new();
    while let Some(link) = joining.join_next().await {
        links.push(link??);
    }
    until(LIMIT, "all have the document", || {
        Ok(tally.borrow().arrived >= joiners)
    })
    .await?;
    let tally = tally.borrow();
    let took = tally
        .last
        .map_or_else(|| began.elapsed(), |last| last - began);
    Ok(Join {
        took,
        peak: gauge.memory()?.peak.saturating_sub(before),
        bytes: tally.bytes,
        generator: (Gauge::own().cpu_seconds()? - cpu) / took.as_secs_f64(),
        links,
    })
}
