//! Connections that have not asked for anything yet: when all places are taken, the oldest of them gives its own up, so
//! that a crowd that connects and says nothing keeps nobody from an answer.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::Service;
use hyper::{Response, StatusCode};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Time to ask for something that everybody has. A request takes its way through the net, too.
const SILENCE: Duration = Duration::from_millis(250);

const SILENT: u8 = 0;
/// The head of a request has come.
const ASKED: u8 = 1;
const DROPPED: u8 = 2;

/// A connection, until it ends.
#[derive(Debug)]
pub(crate) struct Newcomer {
    came: Instant,
    /// It asks, or is dropped, whichever is first.
    state: AtomicU8,
    /// Set when its place is needed.
    pub(crate) dropped: CancellationToken,
}

/// Those of one listener, the oldest first.
#[derive(Debug)]
pub(crate) struct Newcomers {
    queue: VecDeque<Weak<Newcomer>>,
    /// As many of them as there may be.
    max: usize,
}

impl Newcomers {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            max,
        }
    }

    pub(crate) fn add(&mut self) -> Arc<Newcomer> {
        if self.queue.len() >= self.max.saturating_mul(2) {
            self.queue.retain(|newcomer| is_silent(newcomer).is_some());
        }
        let newcomer = Arc::new(Newcomer {
            came: Instant::now(),
            state: AtomicU8::new(SILENT),
            dropped: CancellationToken::new(),
        });
        self.queue.push_back(Arc::downgrade(&newcomer));
        newcomer
    }

    /// Has the oldest one end that is silent, if it had its time.
    pub(crate) fn drop_oldest(&mut self) {
        while let Some(newcomer) = self.queue.front() {
            if let Some(newcomer) = is_silent(newcomer) {
                if newcomer.came.elapsed() < SILENCE {
                    return;
                }
                self.queue.pop_front();
                if newcomer.leaves(SILENT, DROPPED) {
                    newcomer.dropped.cancel();
                    return;
                }
                continue;
            }
            self.queue.pop_front();
        }
    }
}

impl Newcomer {
    /// Goes from one state to another; `false` if it was not in that one.
    fn leaves(&self, from: u8, to: u8) -> bool {
        let changed = self
            .state
            .compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
        changed.is_ok()
    }
}

fn is_silent(newcomer: &Weak<Newcomer>) -> Option<Arc<Newcomer>> {
    newcomer
        .upgrade()
        .filter(|newcomer| newcomer.state.load(Ordering::Relaxed) == SILENT)
}

/// A service that notes that its connection has asked for something. While places are few, it ends the connection
/// after the response, so that nobody keeps a place for what may be asked later.
#[derive(Debug)]
pub(crate) struct Asked<S> {
    pub(crate) inner: S,
    pub(crate) newcomer: Arc<Newcomer>,
    pub(crate) places: Arc<Semaphore>,
    /// Fewer free places are few.
    pub(crate) few: usize,
}

impl<S, R, B> Service<R> for Asked<S>
where
    S: Service<R, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn call(&self, request: R) -> Self::Future {
        self.newcomer.leaves(SILENT, ASKED);
        let response = self.inner.call(request);
        let (places, few) = (Arc::clone(&self.places), self.few);
        Box::pin(async move {
            let mut response = response.await?;
            // A handshake's response has a `Connection` of its own, and strict clients refuse another one.
            let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            if !switches && places.available_permits() < few {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok(response)
        })
    }
}
