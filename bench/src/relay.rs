//! The limit: a bare WebSocket relay, made of the same libraries as the server. Each message of a connection goes to all
//! others at the same path, as the bytes that it is; nothing is understood, merged or stored.
//!
//! `bench-relay ADDRESS [FILE]`: with a file there, who connects is sent its content first, else a message of nothing.

#![expect(clippy::print_stderr, reason = "a server without a log")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use fastwebsockets::{Frame, OpCode, Payload, WebSocket, WebSocketError};
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::BufWriter;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Messages that may wait for one connection; beyond it that connection is dropped.
const QUEUE: usize = 1 << 16;
const WRITE_BUFFER_BYTES: usize = 8 << 10;
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Who is at a path, by number.
type Members = HashMap<u64, mpsc::Sender<Bytes>>;

#[derive(Default)]
struct Relay {
    state: Bytes,
    paths: Mutex<Paths>,
}

#[derive(Default)]
struct Paths {
    next: u64,
    members: HashMap<String, Members>,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address: SocketAddr = arguments
        .next()
        .context("usage: bench-relay ADDRESS [FILE]")?
        .parse()?;
    let state = arguments
        .next()
        .and_then(|path| std::fs::read(path).ok())
        .unwrap_or_default();
    let relay = Arc::new(Relay {
        state: state.into(),
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
            // Each ends with its socket; all end with the process.
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
    // Who goes away is gone.
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
            // Who goes away is gone.
            let _ = relay.run(socket, &path).await;
        }
    });
    response
}

impl Relay {
    async fn run(
        &self,
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
        let members = paths.members.entry(path.to_owned()).or_default();
        members.insert(number, sender);
        number
    }

    fn leave(&self, path: &str, number: u64) {
        let mut paths = self.lock();
        if let Some(members) = paths.members.get_mut(path) {
            members.remove(&number);
        }
    }

    fn pass_on(&self, path: &str, from: u64, message: &[u8]) {
        let message = Bytes::copy_from_slice(message);
        let mut paths = self.lock();
        if let Some(members) = paths.members.get_mut(path) {
            members.retain(|number, member| {
                *number == from || member.try_send(message.clone()).is_ok()
            });
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Paths> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
