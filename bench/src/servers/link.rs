//! One WebSocket of the load generator: a task that reads, a task that writes, frames that are ready to send in between.

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

use super::speech::{Heard, Speech};

/// Frames that may wait to be written. A server that does not read so many is overloaded, and the phase ends.
const QUEUED_FRAMES: usize = 1 << 16;
const WRITE_BUFFER_BYTES: usize = 64 << 10;
const HANDSHAKE_LIMIT: Duration = Duration::from_mins(1);
/// The largest message: a state of 10 MB as base64, and more.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

type Stream = TokioIo<Upgraded>;

#[derive(Debug)]
enum Outgoing {
    Message(Bytes),
    Ping,
    Pong(Bytes),
}

/// What a link's reader tells whoever opened it.
pub trait Listener: 'static {
    /// A frame of so many bytes came, which meant this.
    fn hear(&mut self, at: Instant, frame_bytes: usize, heard: &[Heard], speech: &dyn Speech);
}

/// The writing side of a connection; its tasks end with it.
#[derive(Debug)]
pub struct Link {
    speech: Rc<RefCell<Box<dyn Speech>>>,
    frames: mpsc::Sender<Outgoing>,
    is_asleep: watch::Sender<bool>,
    pongs: Rc<Notify>,
    tasks: [AbortHandle; 2],
}

impl Link {
    /// Connects, greets, and from then on tells `listener` what comes. Needs a `LocalSet`.
    ///
    /// # Errors
    /// When the server refuses the connection, or is silent.
    pub async fn open(
        address: SocketAddr,
        mut speech: Box<dyn Speech>,
        listener: impl Listener,
    ) -> Result<Self> {
        let socket = tokio::time::timeout(HANDSHAKE_LIMIT, connect(address, &speech.target()))
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
        for frame in speech.greet() {
            send(&frames, Outgoing::Message(frame)).await?;
        }
        let writer = tokio::task::spawn_local(write_all(write, queue));
        let speech = Rc::new(RefCell::new(speech));
        let (is_asleep, asleep) = watch::channel(false);
        let replies = frames.clone();
        let ours = Rc::clone(&speech);
        let pongs = Rc::new(Notify::new());
        let came = Rc::clone(&pongs);
        let reader = tokio::task::spawn_local(async move {
            // A lost connection shows as what was not delivered.
            let ended = read_all(read, &ours, listener, replies, asleep, &came).await;
            if let Err(error) = ended
                && std::env::var_os("BENCH_DEBUG").is_some()
            {
                report(&error);
            }
        });
        Ok(Self {
            speech,
            frames,
            is_asleep,
            pongs,
            tasks: [writer.abort_handle(), reader.abort_handle()],
        })
    }

    /// The frames that carry an update; they are to be sent in the order in which they were made.
    pub fn frames(&self, update: &[u8]) -> Vec<Bytes> {
        self.speech.borrow_mut().say(update)
    }

    /// Queues frames.
    ///
    /// # Errors
    /// When the server takes nothing any more.
    pub fn send(&self, frames: Vec<Bytes>) -> Result<()> {
        for frame in frames {
            if self.frames.try_send(Outgoing::Message(frame)).is_err() {
                bail!("the server does not read what it is sent");
            }
        }
        Ok(())
    }

    /// Queues an update, and waits for room.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send_update(&self, update: &[u8]) -> Result<()> {
        let frames = self.frames(update);
        for frame in frames {
            send(&self.frames, Outgoing::Message(frame)).await?;
        }
        Ok(())
    }

    /// Sends a ping and waits for its pong.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn round_trip(&self, limit: Duration) -> Result<()> {
        send(&self.frames, Outgoing::Ping).await?;
        let came = tokio::time::timeout(limit, self.pongs.notified()).await;
        came.context("the server answered no ping")
    }

    /// Stops reading from the socket, or goes on.
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

#[expect(
    clippy::print_stderr,
    reason = "asked for by a variable of the environment"
)]
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
    speech: &RefCell<Box<dyn Speech>>,
    mut listener: impl Listener,
    frames: mpsc::Sender<Outgoing>,
    mut asleep: watch::Receiver<bool>,
    pongs: &Notify,
) -> Result<()> {
    let mut heard = Vec::new();
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
            let mut speech = speech.borrow_mut();
            speech.hear(&message, &mut heard, &mut replies)?;
            listener.hear(Instant::now(), message.len(), &heard, speech.as_ref());
        }
        heard.clear();
        for reply in replies.drain(..) {
            send(&frames, Outgoing::Message(reply)).await?;
        }
    }
}

async fn send(frames: &mpsc::Sender<Outgoing>, frame: Outgoing) -> Result<()> {
    let sent = frames.send(frame).await;
    sent.ok().context("the connection is gone")
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
