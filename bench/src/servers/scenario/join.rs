//! Join: a large document that several clients open at the same time.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;

use crate::servers::gauge::Gauge;
use crate::servers::link::{Link, Listener};
use crate::servers::peers::Peer;
use crate::servers::protocol::{Meaning, Protocol};
use crate::servers::stage::until;

const LIMIT: Duration = Duration::from_mins(2);

/// The cost until all clients have the document.
#[derive(Debug)]
pub struct Join {
    /// The time until the last client had the document.
    pub took: Duration,
    /// The largest increase of the server's memory meanwhile.
    pub peak: u64,
    /// The bytes received by all clients.
    pub bytes: u64,
    /// The generator's share of its core.
    pub generator: f64,
    /// The connections, which keep the document in the server's memory.
    pub links: Vec<Link>,
}

#[derive(Debug, Default)]
struct Tally {
    arrived: usize,
    last: Option<Instant>,
    bytes: u64,
}

/// A listener that waits for a state, without decoding it.
struct StateListener {
    tally: Rc<RefCell<Tally>>,
    has_it: bool,
    state_bytes: usize,
}

impl Listener for StateListener {
    fn handle(&mut self, at: Instant, frame_bytes: usize, meanings: &[Meaning], _: &dyn Protocol) {
        let mut tally = self.tally.borrow_mut();
        tally.bytes += frame_bytes as u64;
        for meaning in meanings {
            // Some servers greet with an empty state, and send the content from disk as an update.
            if let Meaning::State(state) | Meaning::Update(state) = meaning
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

/// Lets `joiners` clients open a document together; each must receive `state_bytes` bytes.
///
/// # Errors
/// When a client does not receive the document.
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
        let listener = StateListener {
            tally: Rc::clone(&tally),
            has_it: false,
            state_bytes,
        };
        joining.spawn_local(Link::open(address, peer.protocol(document), listener));
    }
    let mut links = Vec::new();
    while let Some(link) = joining.join_next().await {
        links.push(link??);
    }
    until(LIMIT, "all clients have the document", || {
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
