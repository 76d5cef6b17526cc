//! Start, accept, stop: the life of a whole server.

use std::sync::Arc;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use meshagent_protocol::{ApiKey, TokenVerifier};
use meshagent_store::{Store, StoreError};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::budget::{Rate, ReceiveBudget};
use crate::committer::Committer;
use crate::config::Config;
use crate::connection::{BURST, Shared};
use crate::http::{App, router};
use crate::ids::Ids;
use crate::metrics::Metrics;
use crate::rooms::Rooms;
use crate::signer::UrlSigner;
use crate::usage::Usage;

/// Why a server could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The operating system gave no randomness.
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
    /// Makes a server over a store that admits tokens signed by `key`.
    ///
    /// # Errors
    /// If the operating system gives no randomness or no thread, or the store can't be read.
    pub fn new(config: Config, store: Arc<dyn Store>, key: ApiKey) -> Result<Self, StartError> {
        let ids = Ids::from_os().map_err(|error| StartError::Randomness(error.to_string()))?;
        let documents = store.stats().map_err(StartError::Store)?.documents;
        let config = Arc::new(config);
        let metrics = Arc::new(Metrics::new());
        let (handle, committer) = Committer::start(Arc::clone(&store), Arc::clone(&metrics))
            .map_err(StartError::Thread)?;
        let stopping = CancellationToken::new();
        let signer = UrlSigner::new(&key.secret);
        let rooms = Rooms::new(
            key.project_id.as_str(),
            Arc::clone(&config),
            Arc::clone(&metrics),
            Arc::clone(&store),
            handle,
            signer.clone(),
            ids,
            stopping.clone(),
            Usage::new(documents),
        );
        let limits = &config.limits;
        let shared = Shared {
            rooms: Arc::new(rooms),
            receiving: ReceiveBudget::new(limits.max_receive_bytes),
            total_rate: Arc::new(Rate::new(limits.max_total_messages_per_second, BURST)),
            config,
            metrics,
            stopping,
            killed: CancellationToken::new(),
        };
        let sockets = Arc::new(Semaphore::new(shared.config.limits.max_connections));
        let verifier = TokenVerifier::new(key.project_id.clone(), [key.clone()]);
        let app = App {
            shared,
            store,
            key,
            verifier,
            signer,
            connections: TaskTracker::new(),
            sockets,
        };
        Ok(Self {
            app: Arc::new(app),
            committer,
        })
    }

    /// Serves until `shutdown` is ready, then stops: no new connections, what was received is made durable and
    /// answered, and connections end without a close frame, so that clients come back to the next server.
    ///
    /// # Errors
    /// If the listener fails for good.
    pub async fn run(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> std::io::Result<()> {
        let Shared {
            config,
            metrics,
            stopping,
            killed,
            rooms,
            ..
        } = self.app.shared.clone();
        let router = router(Arc::clone(&self.app));
        let places = Arc::new(Semaphore::new(config.limits.max_connections));
        let mut shutdown = std::pin::pin!(shutdown);

        let outcome = loop {
            let permit = tokio::select! {
                () = &mut shutdown => break Ok(()),
                permit = Arc::clone(&places).acquire_owned() => permit,
            };
            let accepted = tokio::select! {
                () = &mut shutdown => break Ok(()),
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) if is_transient(&error) => {
                    tracing::warn!(%error, "no connection accepted; trying again");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
                Err(error) => break Err(error),
            };
            let service = TowerToHyperService::new(router.clone());
            let connection = serve_connection(stream, service, Arc::clone(&self.app));
            // The WebSocket that comes out of it has a permit of its own.
            self.app.connections.spawn(async move {
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
            // Rooms still flush: what was accepted is made durable whatever it takes.
            rooms.wait().await;
        }
        let Self { app, committer } = self;
        drop((app, rooms, router));
        // The thread ends when the last handle to it is gone.
        let _ = tokio::task::spawn_blocking(move || committer.join()).await;
        tracing::info!("stopped");
        outcome
    }
}

async fn serve_connection(
    stream: TcpStream,
    service: TowerToHyperService<axum::Router>,
    app: Arc<App>,
) {
    // Messages are small and wait for nobody.
    let _ = stream.set_nodelay(true);
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(app.shared.config.handshake_timeout)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = app.shared.stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP connection ended");
    }
}

/// Whether accepting may work again in a moment: a peer that went away, or no file descriptors left.
fn is_transient(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{
        ConnectionAborted, ConnectionReset, Interrupted, TimedOut, WouldBlock,
    };
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted | TimedOut | WouldBlock
    ) || matches!(error.raw_os_error(), Some(23 | 24 | 105 | 12))
}
