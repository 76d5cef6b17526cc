//! The life of a whole server: start, accept, stop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use meshagent_protocol::{ApiKey, TokenVerifier};
use meshagent_store::{AsyncStore, Embedded, Store, StoreError, block_on};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::budget::Rate;
use crate::committer::Committer;
use crate::config::Config;
use crate::connection::{BURST, Shared};
use crate::fair::FairTurns;
use crate::http::{App, FILE_PARTS, FIRST_PARTS, HttpStream, router};
use crate::ids::Ids;
use crate::metrics::{Counted, Metrics};
use crate::newcomers::{Asked, Newcomers};
use crate::rooms::{Rooms, now};
use crate::signer::UrlSigner;
use crate::usage::Usage;
use crate::wall_clock::WallClock;

/// The longest head of an HTTP request, which may contain a token.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Time after the grace period for the disk and other work that can't be interrupted.
const LAST_MOMENTS: Duration = Duration::from_secs(3);
/// Pause after a failed accept.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// How long to wait for a place before a connection without a request loses its own.
const MAKE_ROOM: Duration = Duration::from_millis(5);
/// The shortest interval between log lines about failed accepts.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Interval of the store's maintenance, which also detects a lost store while nothing is written.
const TEND_EVERY: Duration = Duration::from_secs(1);

/// Why a server could not be created.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The operating system provided no randomness.
    #[error("no randomness from the operating system: {0}")]
    Randomness(String),
    /// The store could not be read.
    #[error("the store could not be read")]
    Store(#[source] StoreError),
    /// The committer's thread could not be started.
    #[error("the committer's thread could not be started")]
    Thread(#[source] std::io::Error),
}

/// A room server for one project.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    committer: std::thread::JoinHandle<()>,
}

impl Server {
    /// Creates a server for a store. It admits tokens signed by `key`.
    ///
    /// # Errors
    /// If the operating system provides no randomness or no thread, or the store can't be read.
    pub fn new(config: Config, store: Arc<dyn Store>, key: ApiKey) -> Result<Self, StartError> {
        // The store blocks, so this is ready at the first poll.
        block_on(Self::with_async_store(
            config,
            Arc::new(Embedded(store)),
            key,
        ))
    }

    /// Creates a server for a store whose calls may wait.
    ///
    /// # Errors
    /// As [`Server::new`].
    pub async fn with_async_store(
        config: Config,
        store: Arc<dyn AsyncStore>,
        key: ApiKey,
    ) -> Result<Self, StartError> {
        let ids = Ids::from_os().map_err(|error| StartError::Randomness(error.to_string()))?;
        let stats = store.stats().await.map_err(StartError::Store)?;
        let documents = stats.documents;
        let config = Arc::new(config);
        let metrics = Arc::new(Metrics::new());
        let (handle, committer) = Committer::start(Arc::clone(&store), Arc::clone(&metrics))
            .map_err(StartError::Thread)?;
        let (stopping, killed) = (CancellationToken::new(), CancellationToken::new());
        let signer = UrlSigner::new(&key.secret);
        let rooms = Rooms::new(
            key.project_id.as_str(),
            Arc::clone(&config),
            Arc::clone(&metrics),
            store,
            handle.clone(),
            signer.clone(),
            ids,
            stopping.clone(),
            killed.clone(),
            Usage::new(documents, &config.limits),
        );
        let limits = &config.limits;
        let shared = Shared {
            rooms: Arc::new(rooms),
            total_rate: Arc::new(Rate::new(limits.max_total_messages_per_second, BURST)),
            config,
            metrics,
            clock: Arc::new(WallClock::new(now)),
            stopping,
            killed,
        };
        let sockets = Arc::new(Semaphore::new(shared.config.limits.max_connections));
        let verifier = TokenVerifier::new(key.project_id.clone(), [key.clone()]);
        let app = App {
            shared,
            committer: handle,
            key,
            verifier,
            signer,
            connections: TaskTracker::new(),
            sockets,
            parts: Arc::new(FairTurns::new(FILE_PARTS)),
            first_parts: Arc::new(FairTurns::new(FIRST_PARTS)),
        };
        Ok(Self {
            app: Arc::new(app),
            committer,
        })
    }

    /// Serves until `shutdown` is ready, then stops: it accepts no new connections, makes received
    /// messages durable, answers them, and ends connections without a close frame, so that clients
    /// reconnect to the next server. When the grace period is over, work that rooms have not begun
    /// is dropped; none of it was acknowledged.
    ///
    /// # Errors
    /// If the listener fails permanently, or work continues some seconds after the grace period.
    pub async fn run(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> std::io::Result<()> {
        let Shared {
            config,
            metrics,
            clock,
            stopping,
            killed,
            rooms,
            ..
        } = self.app.shared.clone();
        let router = router(Arc::clone(&self.app));
        self.app
            .connections
            .spawn(tend(self.app.committer.clone(), clock, stopping.clone()));
        let places = Arc::new(Semaphore::new(config.limits.max_http_connections));
        let mut newcomers = Newcomers::new(config.limits.max_http_connections);
        let mut failures = AcceptFailures::default();
        let mut shutdown = std::pin::pin!(shutdown);

        let outcome = loop {
            let permit = tokio::select! {
                biased;
                () = &mut shutdown => break Ok(()),
                permit = Arc::clone(&places).acquire_owned() => permit,
                () = tokio::time::sleep(MAKE_ROOM) => {
                    newcomers.drop_oldest();
                    continue;
                }
            };
            let accepted = tokio::select! {
                () = &mut shutdown => break Ok(()),
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) if is_transient(&error) => {
                    failures.note(&error);
                    tokio::select! {
                        () = &mut shutdown => break Ok(()),
                        () = tokio::time::sleep(ACCEPT_AGAIN) => continue,
                    }
                }
                Err(error) => break Err(error),
            };
            let service = Asked {
                inner: TowerToHyperService::new(router.clone()),
                newcomer: newcomers.add(),
                places: Arc::clone(&places),
                few: config.limits.max_http_connections / 2,
            };
            let connection = serve_connection(stream, service, self.app.shared.clone());
            // The WebSocket that results from it has a permit of its own.
            self.app.spawn(async move {
                let _place = permit;
                connection.await;
            });
        };

        drop(listener);
        tracing::info!(connections = metrics.connections.get(), "stopping");
        stopping.cancel();
        self.app.connections.close();
        let drained = async {
            rooms.wait().await;
            self.app.connections.wait().await;
        };
        if tokio::time::timeout(config.shutdown_grace, drained)
            .await
            .is_err()
        {
            tracing::warn!("some connections did not drain in time and are dropped");
            killed.cancel();
        }
        let ended = async {
            // Rooms wait for their writes in flight, and begin nothing more.
            rooms.wait().await;
            self.app.connections.wait().await;
            let Self { app, committer } = self;
            drop((app, rooms, router));
            // The thread ends when its last handle is dropped.
            let _ = tokio::task::spawn_blocking(move || committer.join()).await;
        };
        if tokio::time::timeout(LAST_MOMENTS, ended).await.is_err() {
            let text =
                "the disk, or a room's work, did not end in time; what was acknowledged is on disk";
            tracing::error!("{text}");
            return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, text));
        }
        tracing::info!("stopped");
        outcome
    }
}

/// Logs that connections can't be accepted, at a bounded rate.
#[derive(Debug, Default)]
struct AcceptFailures {
    told_at: Option<Instant>,
    untold: u64,
}

impl AcceptFailures {
    fn note(&mut self, error: &std::io::Error) {
        self.untold += 1;
        if self.told_at.is_some_and(|at| at.elapsed() < TELL_EVERY) {
            return;
        }
        tracing::warn!(
            %error,
            times = self.untold,
            "no connection accepted; trying again"
        );
        (self.told_at, self.untold) = (Some(Instant::now()), 0);
    }
}

/// Runs the store's maintenance and checks the wall clock until the server stops.
async fn tend(committer: Committer, clock: Arc<WallClock>, stopping: CancellationToken) {
    let mut checked = clock.start();
    let mut ticks = tokio::time::interval(TEND_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ended = stopping.cancelled();
    let mut ended = std::pin::pin!(ended);
    loop {
        tokio::select! {
            () = &mut ended => break,
            _ = ticks.tick() => {
                committer.tend();
                clock.check(&mut checked, Instant::now());
            }
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    service: Asked<TowerToHyperService<axum::Router>>,
    shared: Shared,
) {
    let newcomer = Arc::clone(&service.newcomer);
    let config = &shared.config;
    let _counted = Counted::new(&shared.metrics.http_connections);
    // Messages are small and must not be delayed.
    let _ = stream.set_nodelay(true);
    let stream = HttpStream::new(
        stream,
        config.http_timeout,
        config.pace_window,
        shared.rooms.usage().heads(),
    );
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.handshake_timeout)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        // Checked first, so that a request which arrives after the place was given away has no
        // effect.
        biased;
        () = newcomer.dropped.cancelled() => {
            tracing::debug!("a connection that asked for nothing gave its place to another");
            return;
        }
        ended = &mut connection => ended,
        () = shared.stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP connection ended");
    }
}

/// Whether accepting may soon work again: a peer has disconnected, or no file descriptors are left.
fn is_transient(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{
        ConnectionAborted, ConnectionReset, Interrupted, TimedOut, WouldBlock,
    };
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted | TimedOut | WouldBlock
    ) || matches!(error.raw_os_error(), Some(23 | 24 | 105 | 12))
}
