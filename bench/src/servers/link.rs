//! One WebSocket of the load generator: a reading task, a writing task, and a queue of frames.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use fastwebsockets::{
    Frame, OpCode, Payload, Role, WebSocket, WebSocketError, WebSocketRead, WebSocketWrite,
};
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWrite, BufWriter, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;

use super::protocol::{Meaning, Protocol};

/// The limit of queued frames: a server that leaves more of them unread is overloaded.
const QUEUED_FRAMES: usize = 1 << 16;
const WRITE_BUFFER_BYTES: usize = 64 << 10;
const HANDSHAKE_LIMIT: Duration = Duration::from_mins(1);
/// The limit of a message; the largest one is a state of 10 MB in base64.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

type Stream = TokioIo<Upgraded>;

#[derive(Debug)]
enum Outgoing {
    Message(Bytes),
    Ping,
    Pong(Bytes),
}

/// The receiver of a link's input.
pub trait Listener: 'static {
    /// Handles a frame of this size, with its meanings.
    fn handle(
        &mut self,
        at: Instant,
        frame_bytes: usize,
        meanings: &[Meaning],
        protocol: &dyn Protocol,
    );
}

/// The writing side of a connection, whose tasks end on drop.
#[derive(Debug)]
pub struct Link {
    protocol: Rc<RefCell<Box<dyn Protocol>>>,
    frames: mpsc::Sender<Outgoing>,
    is_asleep: watch::Sender<bool>,
    pongs: Rc<Notify>,
    tasks: [AbortHandle; 2],
}

impl Link {
    /// Connects, greets, and passes all later input to `listener`. Needs a `LocalSet`.
    ///
    /// # Errors
    /// When the server refuses the connection, or does not answer.
    pub async fn open(
        address: SocketAddr,
        mut protocol: Box<dyn Protocol>,
        listener: impl Listener,
    ) -> Result<Self> {
        let socket = tokio::time::timeout(HANDSHAKE_LIMIT, connect(address, &protocol.target()))
            .await
            .context("the server did not answer the handshake")??;
        let (mut read, write) = socket.split(|stream| {
            let (read, write): (ReadHalf<Stream>, WriteHalf<Stream>) = tokio::io::split(stream);
            (read, BufWriter::with_capacity(WRITE_BUFFER_BYTES, write))
        });
        read.set_auto_close(false);
        read.set_auto_pong(false);
        read.set_max_message_size(MAX_MESSAGE_BYTES);
        let (frames, queue) = mpsc::channel(QUEUED_FRAMES);
        for frame in protocol.greet() {
            send(&frames, Outgoing::Message(frame)).await?;
        }
        let writer = tokio::task::spawn_local(write_all(write, queue));
        let protocol = Rc::new(RefCell::new(protocol));
        let (is_asleep, asleep) = watch::channel(false);
        let replies = frames.clone();
        let ours = Rc::clone(&protocol);
        let pongs = Rc::new(Notify::new());
        let came = Rc::clone(&pongs);
        let reader = tokio::task::spawn_local(async move {
            // A lost connection shows as missing deliveries.
            let ended = read_all(read, &ours, listener, replies, asleep, &came).await;
            if let Err(error) = ended
                && std::env::var_os("BENCH_DEBUG").is_some()
            {
                report(&error);
            }
        });
        Ok(Self {
            protocol,
            frames,
            is_asleep,
            pongs,
            tasks: [writer.abort_handle(), reader.abort_handle()],
        })
    }

    /// Returns the frames that carry an update. Send them in the order of these calls.
    pub fn frames(&self, update: &[u8]) -> Vec<Bytes> {
        self.protocol.borrow_mut().encode_update(update)
    }

    /// Queues frames without waiting.
    ///
    /// # Errors
    /// When the queue is full because the server does not read.
    pub fn send(&self, frames: Vec<Bytes>) -> Result<()> {
        for frame in frames {
            if self.frames.try_send(Outgoing::Message(frame)).is_err() {
                bail!("the server is overloaded: {QUEUED_FRAMES} frames wait to be read");
            }
        }
        Ok(())
    }

    /// Queues an update, and waits for space in the queue.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn send_update(&self, update: &[u8]) -> Result<()> {
        let frames = self.frames(update);
        for frame in frames {
            send(&self.frames, Outgoing::Message(frame)).await?;
        }
        Ok(())
    }

    /// Sends a ping, and waits for its pong.
    ///
    /// # Errors
    /// When no pong arrives in time.
    pub async fn round_trip(&self, limit: Duration) -> Result<()> {
        send(&self.frames, Outgoing::Ping).await?;
        let came = tokio::time::timeout(limit, self.pongs.notified()).await;
        came.with_context(|| format!("no pong arrived within {} s", limit.as_secs()))
    }

    /// Pauses reads from the socket, or resumes them.
    pub fn sleep(&self, is_asleep: bool) {
        self.is_asleep.send_replace(is_asleep);
    }

    /// Whether the reader still has its connection.
    pub fn is_alive(&self) -> bool {
        !self.tasks[1].is_finished()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

#[expect(clippy::print_stderr, reason = "BENCH_DEBUG asks for these lines")]
fn report(error: &anyhow::Error) {
    eprintln!("link: {error:#}");
}

async fn connect(address: SocketAddr, target: &str) -> Result<WebSocket<Stream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let request = Request::builder()
        .uri(target)
        .header(HOST, address.to_string())
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, "websocket")
        .header("sec-websocket-version", "13")
        .header(
            "sec-websocket-key",
            fastwebsockets::handshake::generate_key(),
        )
        .body(Empty::<Bytes>::new())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut connection = std::pin::pin!(connection.with_upgrades());
    let exchange = async {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            bail!("the server answered {} to {target}", response.status());
        }
        Ok(hyper::upgrade::on(response).await?)
    };
    let mut exchange = std::pin::pin!(exchange);
    let upgraded = tokio::select! {
        upgraded = &mut exchange => upgraded?,
        ended = &mut connection => {
            ended?;
            exchange.await?
        }
    };
    Ok(WebSocket::after_handshake(
        TokioIo::new(upgraded),
        Role::Client,
    ))
}

async fn read_all(
    mut socket: WebSocketRead<ReadHalf<Stream>>,
    protocol: &RefCell<Box<dyn Protocol>>,
    mut listener: impl Listener,
    frames: mpsc::Sender<Outgoing>,
    mut asleep: watch::Receiver<bool>,
    pongs: &Notify,
) -> Result<()> {
    let mut meanings = Vec::new();
    let mut replies = Vec::new();
    let mut fragments: Vec<u8> = Vec::new();
    loop {
        asleep.wait_for(|is_asleep| !is_asleep).await?;
        let frame = socket
            .read_frame(&mut |_| async { Ok::<(), WebSocketError>(()) })
            .await?;
        let message = match frame.opcode {
            OpCode::Close => bail!("the server closed the connection"),
            OpCode::Pong => {
                pongs.notify_one();
                continue;
            }
            OpCode::Ping => {
                let pong = Outgoing::Pong(Bytes::copy_from_slice(&frame.payload));
                send(&frames, pong).await?;
                continue;
            }
            OpCode::Binary | OpCode::Text if frame.fin => Bytes::copy_from_slice(&frame.payload),
            OpCode::Binary | OpCode::Text | OpCode::Continuation => {
                fragments.extend_from_slice(&frame.payload);
                if !frame.fin {
                    continue;
                }
                std::mem::take(&mut fragments).into()
            }
        };
        {
            let mut protocol = protocol.borrow_mut();
            protocol.handle_frame(&message, &mut meanings, &mut replies)?;
            listener.handle(Instant::now(), message.len(), &meanings, protocol.as_ref());
        }
        meanings.clear();
        for reply in replies.drain(..) {
            send(&frames, Outgoing::Message(reply)).await?;
        }
    }
}

async fn send(frames: &mpsc::Sender<Outgoing>, frame: Outgoing) -> Result<()> {
    let sent = frames.send(frame).await;
    sent.ok().context("the connection has ended")
}

async fn write_all<S: AsyncWrite + Unpin>(
    mut socket: WebSocketWrite<S>,
    mut frames: mpsc::Receiver<Outgoing>,
) -> Result<()> {
    let mut taken = Vec::new();
    while frames.recv_many(&mut taken, 1024).await > 0 {
        for frame in taken.drain(..) {
            let frame = match &frame {
                Outgoing::Message(bytes) => Frame::binary(Payload::Borrowed(bytes)),
                Outgoing::Ping => Frame::new(true, OpCode::Ping, None, Payload::Borrowed(b"")),
                Outgoing::Pong(bytes) => Frame::pong(Payload::Borrowed(bytes)),
            };
            socket.write_frame(frame).await?;
        }
        socket.flush().await?;
    }
    Ok(())
}
