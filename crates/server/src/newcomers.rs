//! Connections that have sent no request yet. When all places are taken, the oldest of them is
//! dropped, so that a crowd of silent connections does not keep others from being served.

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

/// Time that every connection has for its request, which includes its travel over the network.
const SILENCE: Duration = Duration::from_millis(250);

const SILENT: u8 = 0;
/// The head of a request has arrived.
const ASKED: u8 = 1;
const DROPPED: u8 = 2;

/// A connection, until it ends.
#[derive(Debug)]
pub(crate) struct Newcomer {
    came: Instant,
    /// The first change wins: the connection has sent a request, or is dropped.
    state: AtomicU8,
    /// Cancelled when its place is needed.
    pub(crate) dropped: CancellationToken,
}

/// The connections of one listener, the oldest first.
#[derive(Debug)]
pub(crate) struct Newcomers {
    queue: VecDeque<Weak<Newcomer>>,
    /// The largest number of connections.
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

    /// Drops the oldest silent connection, if its time is over.
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
    /// Changes the state from `from` to `to`; `false` if it was a different one.
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

/// A service that records that its connection has sent a request. While few places are free, it
/// ends the connection after the response, so that no place is kept for later requests.
#[derive(Debug)]
pub(crate) struct Asked<S> {
    pub(crate) inner: S,
    pub(crate) newcomer: Arc<Newcomer>,
    pub(crate) places: Arc<Semaphore>,
    /// If fewer places are free, they are few.
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
            // The response to a handshake has its own `Connection` header, and strict clients
            // refuse a second one.
            let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            if !switches && places.available_permits() < few {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok(response)
        })
    }
}
