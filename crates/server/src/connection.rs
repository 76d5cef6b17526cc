//! One WebSocket: bytes to messages for the room, and the room's answers back to bytes.
//!
//! Reading and writing are two futures of one task. The server never sends a close frame of its own, because
//! published clients do not come back after one; a client's close frame is answered with code 1000.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fastwebsockets::{
    Frame, OpCode, Payload, WebSocket, WebSocketError, WebSocketRead, WebSocketWrite,
};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use meshagent_protocol::{Envelope, MessageId, PacketLimits, PacketReader};
use tokio::io::{AsyncRead, AsyncWrite, BufWriter};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::outbox::{Outbox, Outgoing};
use crate::room::{Conn, Joining};
use crate::rooms::{Mailbox, RoomInput, Rooms};

/// The largest WebSocket message; a protocol message may span many.
const MAX_FRAME_BYTES: usize = 16 << 20;
/// Small frames are gathered to one write of about this size.
const WRITE_BUFFER_BYTES: usize = 8 << 10;
/// Time to answer a client's close frame before the connection is dropped anyway.
const CLOSE_GRACE: Duration = Duration::from_secs(5);

/// What every connection of the server shares.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) rooms: Arc<Rooms>,
    pub(crate) config: Arc<Config>,
    pub(crate) metrics: Arc<Metrics>,
    /// Set when the server stops: nothing more is read.
    pub(crate) stopping: CancellationToken,
    /// Set when the grace is over: connections end whatever they are doing.
    pub(crate) killed: CancellationToken,
}

/// Drives a connection to its end.
pub(crate) async fn run(
    socket: WebSocket<TokioIo<Upgraded>>,
    room: &str,
    joining: Joining,
    shared: &Shared,
) {
    let outbox = Arc::clone(&joining.outbox);
    let Some((conn, mailbox)) = shared.rooms.join(room, joining).await else {
        return;
    };
    shared.metrics.connections.inc();

    let (mut read, write) = socket.split(|stream| {
        let (read, write) = tokio::io::split(stream);
        (read, BufWriter::with_capacity(WRITE_BUFFER_BYTES, write))
    });
    read.set_auto_close(false);
    read.set_auto_pong(false);
    read.set_max_message_size(MAX_FRAME_BYTES);
    let mut intake = Intake {
        packets: PacketReader::new(PacketLimits {
            max_message_bytes: shared.config.limits.max_message_bytes,
            ..PacketLimits::default()
        }),
        conn,
        mailbox: &mailbox,
        outbox: &outbox,
        metrics: &shared.metrics,
    };
    let silence = shared.config.ping_interval.mul_f32(2.5);
    let mut writing = std::pin::pin!(write_all(
        write,
        conn,
        &mailbox,
        &outbox,
        shared.config.ping_interval
    ));

    let ended = tokio::select! {
        ended = read_all(&mut read, &mut intake, silence) => Some(ended),
        () = shared.stopping.cancelled() => Some(End::Stopping),
        () = &mut writing => None,
        () = shared.killed.cancelled() => None,
    };
    match ended {
        Some(End::Closed) => {
            leave(&mailbox, conn).await;
            outbox.push_item(Outgoing::Close, 0);
            outbox.finish();
            let _ = tokio::time::timeout(CLOSE_GRACE, writing).await;
        }
        // The room finishes the outbox when everything that was received is durable and answered.
        Some(End::Stopping) => tokio::select! {
            () = &mut writing => {}
            () = shared.killed.cancelled() => {}
        },
        Some(End::Lost) | None => leave(&mailbox, conn).await,
    }
    shared.metrics.connections.dec();
}

async fn leave(mailbox: &Mailbox, conn: Conn) {
    // The room only refuses when it has ended, and everybody with it.
    let _ = mailbox.send(RoomInput::Leave(conn), 0).await;
}

/// Why reading ended.
enum End {
    /// The client sent a close frame.
    Closed,
    /// The connection broke, was silent for too long, or spoke something else.
    Lost,
    /// The server stops.
    Stopping,
}

/// Reads until the connection ends, handing each packet to the intake.
async fn read_all<S: AsyncRead + Unpin>(
    socket: &mut WebSocketRead<S>,
    intake: &mut Intake<'_>,
    silence: Duration,
) -> End {
    let mut fragments = BytesMut::new();
    loop {
        let frame = match tokio::time::timeout(silence, read_frame(socket)).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(error)) => {
                tracing::debug!(%error, "connection ended");
                return End::Lost;
            }
            Err(_) => {
                tracing::info!("a peer was silent for too long; connection dropped");
                return End::Lost;
            }
        };
        match frame.opcode {
            OpCode::Binary if frame.fin && fragments.is_empty() => {
                if intake.packet(&frame.payload).await.is_err() {
                    return End::Lost;
                }
            }
            OpCode::Binary | OpCode::Continuation => {
                if fragments.len() + frame.payload.len() > MAX_FRAME_BYTES {
                    return End::Lost;
                }
                fragments.extend_from_slice(&frame.payload);
                if frame.fin {
                    let whole = fragments.split();
                    if intake.packet(&whole).await.is_err() {
                        return End::Lost;
                    }
                }
            }
            OpCode::Ping => {
                let pong = Outgoing::Pong(Bytes::copy_from_slice(&frame.payload));
                intake.outbox.push_item(pong, 0);
            }
            OpCode::Pong => {}
            OpCode::Close => return End::Closed,
            OpCode::Text => {
                tracing::debug!("a text message on a binary protocol; connection dropped");
                return End::Lost;
            }
        }
    }
}

/// From packets to the room's mailbox.
struct Intake<'a> {
    packets: PacketReader,
    conn: Conn,
    mailbox: &'a Mailbox,
    outbox: &'a Outbox,
    metrics: &'a Metrics,
}

impl Intake<'_> {
    /// Takes one packet. `Err` when the room is gone.
    async fn packet(&mut self, packet: &[u8]) -> Result<(), ()> {
        let mut bytes = 0;
        let input = match self.packets.handle_packet(packet) {
            Ok(None) => return Ok(()),
            Ok(Some(message)) => {
                bytes = message.body.len();
                self.metrics.messages_received.inc();
                match Envelope::parse(message) {
                    Ok(envelope) => RoomInput::Message(self.conn, envelope),
                    Err(error) => RoomInput::Invalid(self.conn, error.id, error.to_string()),
                }
            }
            Err(error) => match error.message_id {
                Some(id) => RoomInput::Invalid(self.conn, id, error.to_string()),
                // Without an id there is nobody to answer; the next header packet starts anew.
                None => return Ok(()),
            },
        };
        // A peer that does not read its answers is not read from.
        self.outbox.wait_for_room().await;
        if input.is_answered() {
            self.outbox.expect_answer();
        }
        self.mailbox.send(input, bytes).await.map_err(drop)
    }
}

async fn read_frame<S: AsyncRead + Unpin>(
    socket: &mut WebSocketRead<S>,
) -> Result<Frame<'_>, WebSocketError> {
    // Pings and closes are answered by the writer, so the library owes nothing.
    socket
        .read_frame(&mut |_| async { Ok::<(), std::io::Error>(()) })
        .await
}

/// Writes what the outbox yields until it is closed and empty, or the peer takes nothing any more.
async fn write_all<S: AsyncWrite + Unpin>(
    mut socket: WebSocketWrite<S>,
    conn: Conn,
    mailbox: &Mailbox,
    outbox: &Outbox,
    ping_interval: Duration,
) {
    let patience = ping_interval.mul_f32(2.5);
    let mut pings =
        tokio::time::interval_at(tokio::time::Instant::now() + ping_interval, ping_interval);
    let mut next_id = 0_u64;
    let mut packets = Vec::new();
    loop {
        let items = tokio::select! {
            biased;
            items = outbox.take() => items,
            _ = pings.tick() => {
                let ping = Frame::new(true, OpCode::Ping, None, Payload::Borrowed(b""));
                if !in_time(patience, write_and_flush(&mut socket, ping)).await {
                    return;
                }
                continue;
            }
        };
        let Some(items) = items else { return };
        for (item, cost) in items {
            let written = match item {
                Outgoing::Message(message) => {
                    next_id += 1;
                    packets.clear();
                    message.encode(MessageId::from(next_id), &mut packets);
                    let mut written = true;
                    for packet in &packets {
                        let frame = Frame::binary(Payload::Borrowed(packet));
                        written = in_time(patience, socket.write_frame(frame)).await;
                        if !written {
                            break;
                        }
                    }
                    written
                }
                Outgoing::Pong(payload) => {
                    in_time(
                        patience,
                        socket.write_frame(Frame::pong(Payload::Borrowed(&payload))),
                    )
                    .await
                }
                Outgoing::Close => {
                    in_time(
                        patience,
                        write_and_flush(&mut socket, Frame::close(1000, b"")),
                    )
                    .await;
                    return;
                }
            };
            if !written {
                return;
            }
            if outbox.written(cost) && mailbox.send(RoomInput::Drained(conn), 0).await.is_err() {
                return;
            }
        }
        if !in_time(patience, socket.flush()).await {
            return;
        }
    }
}

async fn write_and_flush<S: AsyncWrite + Unpin>(
    socket: &mut WebSocketWrite<S>,
    frame: Frame<'_>,
) -> Result<(), WebSocketError> {
    socket.write_frame(frame).await?;
    socket.flush().await
}

/// Whether a write came through in time.
async fn in_time(
    patience: Duration,
    write: impl Future<Output = Result<(), WebSocketError>>,
) -> bool {
    matches!(tokio::time::timeout(patience, write).await, Ok(Ok(())))
}
