//! The limit: a bare WebSocket relay, built from the same libraries as the server.
//!
//! The relay sends each message of a connection to all others at the same path, unchanged. It does
//! not interpret, merge or store anything. With `--batch`, it sends all messages of a path that
//! arrived within a millisecond as one message, to all connections there, including the senders.
//!
//! `bench-relay [--batch] ADDRESS [FILE]`: a new connection first receives the content of the file,
//! or an empty message without a file.

#![expect(clippy::print_stderr, reason = "the relay has no log")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use fastwebsockets::{Frame, OpCode, Payload, WebSocket, WebSocketError};
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use meshagent_bench::servers::batch;
use tokio::io::BufWriter;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The limit of queued messages of a connection; beyond it the relay drops the connection.
const QUEUE: usize = 1 << 16;
const WRITE_BUFFER_BYTES: usize = 8 << 10;
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// The time in which messages become one batch: about two commits of our server.
const BATCH_TIME: Duration = Duration::from_millis(1);
const USAGE: &str = "usage: bench-relay [--batch] ADDRESS [FILE]";

struct Relay {
    state: Bytes,
    is_batching: bool,
    paths: Mutex<Paths>,
}

#[derive(Default)]
struct Paths {
    next: u64,
    by_name: HashMap<String, Path>,
}

#[derive(Default)]
struct Path {
    /// The queues of the connections, by number.
    members: HashMap<u64, mpsc::Sender<Bytes>>,
    /// The messages of the next batch.
    batch: BytesMut,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    let is_batching = arguments
        .next_if(|argument| argument == "--batch")
        .is_some();
    let address: SocketAddr = arguments.next().context(USAGE)?.parse()?;
    let state = arguments
        .next()
        .and_then(|path| std::fs::read(path).ok())
        .unwrap_or_default();
    let relay = Arc::new(Relay {
        state: state.into(),
        is_batching,
        paths: Mutex::default(),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await?;
        eprintln!("relaying on {address}");
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            // A connection's task ends with its socket, or with the process.
            tokio::spawn(serve(stream, Arc::clone(&relay)));
        }
    })
}

async fn serve(stream: TcpStream, relay: Arc<Relay>) {
    let service = service_fn(move |request| {
        std::future::ready(Ok::<_, Infallible>(answer(request, Arc::clone(&relay))))
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // The end of a connection needs no report.
    let _ = connection.with_upgrades().await;
}

fn answer(mut request: Request<Incoming>, relay: Arc<Relay>) -> Response<Empty<Bytes>> {
    let path = request.uri().path().to_owned();
    let upgraded = fastwebsockets::upgrade::upgrade(&mut request);
    let Ok((response, upgraded)) = upgraded else {
        let mut response = Response::new(Empty::new());
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    };
    tokio::spawn(async move {
        if let Ok(socket) = upgraded.await {
            // The end of a connection needs no report.
            let _ = relay.run(socket, &path).await;
        }
    });
    response
}

impl Relay {
    async fn run(
        self: &Arc<Self>,
        socket: WebSocket<TokioIo<Upgraded>>,
        path: &str,
    ) -> Result<(), WebSocketError> {
        let (mut read, mut write) = socket.split(|stream| {
            let (read, write) = tokio::io::split(stream);
            (read, BufWriter::with_capacity(WRITE_BUFFER_BYTES, write))
        });
        read.set_auto_close(false);
        read.set_auto_pong(false);
        read.set_max_message_size(MAX_MESSAGE_BYTES);
        let (sender, mut queue) = mpsc::channel::<Bytes>(QUEUE);
        let _ = sender.try_send(self.state.clone());
        let number = self.enter(path, sender);
        let writing = async {
            let mut taken = Vec::new();
            while queue.recv_many(&mut taken, 1024).await > 0 {
                for message in taken.drain(..) {
                    let frame = Frame::binary(Payload::Borrowed(&message));
                    write.write_frame(frame).await?;
                }
                write.flush().await?;
            }
            Ok(())
        };
        let reading = async {
            loop {
                let frame = read
                    .read_frame(&mut |_| async { Ok::<(), WebSocketError>(()) })
                    .await?;
                match frame.opcode {
                    OpCode::Close => return Ok(()),
                    OpCode::Binary if self.is_batching => self.add_to_batch(path, &frame.payload),
                    OpCode::Binary => self.pass_on(path, number, &frame.payload),
                    _ => {}
                }
            }
        };
        let ended = tokio::select! {
            ended = reading => ended,
            ended = writing => ended,
        };
        self.leave(path, number);
        ended
    }

    fn enter(&self, path: &str, sender: mpsc::Sender<Bytes>) -> u64 {
        let mut paths = self.lock();
        paths.next += 1;
        let number = paths.next;
        let path = paths.by_name.entry(path.to_owned()).or_default();
        path.members.insert(number, sender);
        number
    }

    fn leave(&self, path: &str, number: u64) {
        let mut paths = self.lock();
        if let Some(path) = paths.by_name.get_mut(path) {
            path.members.remove(&number);
        }
    }

    fn pass_on(&self, path: &str, from: u64, message: &[u8]) {
        let message = Bytes::copy_from_slice(message);
        let mut paths = self.lock();
        if let Some(path) = paths.by_name.get_mut(path) {
            path.members.retain(|number, member| {
                *number == from || member.try_send(message.clone()).is_ok()
            });
        }
    }

    /// Adds a message to the batch of a path; the first one starts the time of the batch.
    fn add_to_batch(self: &Arc<Self>, path: &str, message: &[u8]) {
        let mut paths = self.lock();
        let Some(entry) = paths.by_name.get_mut(path) else {
            return;
        };
        let is_first = entry.batch.is_empty();
        batch::append(&mut entry.batch, message);
        if is_first {
            let (relay, path) = (Arc::clone(self), path.to_owned());
            // The task ends after the batch's time.
            tokio::spawn(async move {
                tokio::time::sleep(BATCH_TIME).await;
                relay.send_batch(&path);
            });
        }
    }

    fn send_batch(&self, path: &str) {
        let mut paths = self.lock();
        if let Some(path) = paths.by_name.get_mut(path) {
            let batch = path.batch.split().freeze();
            path.members
                .retain(|_, member| member.try_send(batch.clone()).is_ok());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Paths> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
