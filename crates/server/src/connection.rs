//! One WebSocket: bytes to messages for the room, and the room's answers back to bytes.
//!
//! Reading and writing are two futures of one task. The server never sends a close frame of its own, because
//! published clients do not come back after one; a client's close frame is answered with code 1000.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fastwebsockets::{
    Frame, OpCode, Payload, WebSocket, WebSocketError, WebSocketRead, WebSocketWrite,
};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use meshagent_protocol::{Envelope, Message, MessageId, PacketLimits, PacketReader};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::budget::{Charge, Rate, ReceiveBudget};
use crate::config::Config;
use crate::gather::Gather;
use crate::metrics::Metrics;
use crate::outbox::{Cost, Outbox, Outgoing};
use crate::room::{Conn, Joining};
use crate::rooms::{Mailbox, RoomInput, Rooms};

/// The largest WebSocket message; a protocol message may span many.
///
/// The library makes room for what a frame declares, so this is also what a peer can make it reserve.
const MAX_FRAME_BYTES: usize = 4 << 20;
/// How many seconds' worth of messages and bytes may come at once.
pub(crate) const BURST: Duration = Duration::from_secs(2);
/// Time to answer a client's close frame before the connection is dropped anyway.
const CLOSE_GRACE: Duration = Duration::from_secs(5);

/// What every connection of the server shares.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) rooms: Arc<Rooms>,
    pub(crate) config: Arc<Config>,
    pub(crate) metrics: Arc<Metrics>,
    /// What all connections may hold of messages under way.
    pub(crate) receiving: ReceiveBudget,
    /// How many messages all connections may send.
    pub(crate) total_rate: Arc<Rate>,
    /// Set when the server stops: nothing more is read.
    pub(crate) stopping: CancellationToken,
    /// Set when the grace is over: connections end whatever they are doing.
    pub(crate) killed: CancellationToken,
}

impl Shared {
    /// Brings those gauges up to date that nobody keeps.
    pub(crate) fn measure(&self) {
        let gauge = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let usage = self.rooms.usage();
        let metrics = &self.metrics;
        metrics
            .received_bytes
            .set(gauge(self.receiving.used_bytes()));
        metrics.shared_bytes.set(gauge(usage.shared_bytes() as u64));
        metrics.stored_documents.set(gauge(usage.documents()));
        metrics.streams.set(gauge(usage.streams() as u64));
    }
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
        (read, Gather::new(write))
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
        shared,
        message_rate: Rate::new(shared.config.limits.max_messages_per_second, BURST),
        byte_rate: Rate::new(shared.config.limits.max_bytes_per_second, BURST),
        charge: Charge::default(),
        deadline: None,
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
            outbox.push_item(Outgoing::Close);
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
    let _ = mailbox
        .send(RoomInput::Leave(conn), 0, Charge::default())
        .await;
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
        let patience = intake.patience().map_or(silence, |left| left.min(silence));
        let frame = match tokio::time::timeout(patience, read_frame(socket)).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(error)) => {
                tracing::debug!(%error, "connection ended");
                return End::Lost;
            }
            Err(_) => {
                tracing::info!(
                    "a peer was silent, or its message incomplete, for too long; connection dropped"
                );
                return End::Lost;
            }
        };
        match frame.opcode {
            OpCode::Binary if frame.fin && fragments.is_empty() => {
                // What a packet takes is taken while there is one: most connections are idle most of the time.
                if Box::pin(intake.packet(&frame.payload)).await.is_err() {
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
                    if Box::pin(intake.packet(&whole)).await.is_err() {
                        return End::Lost;
                    }
                } else {
                    Box::pin(intake.begin_or_go_on(fragments.len())).await;
                }
            }
            OpCode::Ping => {
                let pong = Outgoing::Pong(Bytes::copy_from_slice(&frame.payload));
                intake.outbox.push_item(pong);
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

/// From packets to the room's mailbox, no faster and with no more memory than agreed.
struct Intake<'a> {
    packets: PacketReader,
    conn: Conn,
    mailbox: &'a Mailbox,
    outbox: &'a Outbox,
    shared: &'a Shared,
    message_rate: Rate,
    byte_rate: Rate,
    /// What the message under way costs of the common budget.
    charge: Charge,
    /// When the message under way has to be complete.
    deadline: Option<Instant>,
}

impl Intake<'_> {
    /// Time that is left for the message under way.
    fn patience(&self) -> Option<Duration> {
        self.deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Takes one packet. `Err` when the room is gone.
    async fn packet(&mut self, packet: &[u8]) -> Result<(), ()> {
        self.keep_pace(packet.len()).await;
        let (input, bytes) = match self.packets.handle_packet(packet) {
            Ok(None) => {
                self.begin_or_go_on(0).await;
                return Ok(());
            }
            Ok(Some(message)) => self.parse(message).await,
            Err(error) => {
                let Some(id) = error.message_id else {
                    // There is nobody to answer; the next header packet starts anew.
                    self.deadline = None;
                    self.charge = Charge::default();
                    return Ok(());
                };
                (RoomInput::Invalid(self.conn, id, error.to_string()), 0)
            }
        };
        self.deadline = None;
        let charge = std::mem::take(&mut self.charge);
        // A peer that does not read its answers is not read from.
        self.outbox.wait_for_room().await;
        if input.is_answered() {
            self.outbox.expect_answer();
        }
        self.mailbox.send(input, bytes, charge).await.map_err(drop)
    }

    /// Makes a peer wait that sends faster than agreed.
    async fn keep_pace(&self, bytes: usize) {
        let now = Instant::now();
        let wait = self.byte_rate.take(bytes, now);
        if !wait.is_zero() {
            self.shared.metrics.delays.inc();
            tokio::time::sleep(wait).await;
        }
    }

    /// A packet that completes no message, or `fragments` bytes of one: it may be a message's first, or make it larger
    /// than expected.
    async fn begin_or_go_on(&mut self, fragments: usize) {
        if fragments == 0 && !self.packets.is_assembling() {
            // A packet that was passed over, of a message that was refused.
            self.deadline = None;
            return;
        }
        let now = Instant::now();
        self.deadline
            .get_or_insert(now + self.shared.config.message_timeout);
        let expected = self
            .packets
            .expected_bytes()
            .max(self.packets.buffered_bytes() + fragments);
        self.shared
            .receiving
            .cover(&mut self.charge, expected)
            .await;
        // The time that it waited for others is not the peer's.
        if let Some(deadline) = &mut self.deadline {
            *deadline += now.elapsed();
        }
    }

    async fn parse(&mut self, message: Message) -> (RoomInput, usize) {
        let Shared {
            metrics,
            total_rate,
            rooms,
            ..
        } = self.shared;
        metrics.messages_received.inc();
        let now = Instant::now();
        let wait = self.message_rate.take(1, now).max(total_rate.take(1, now));
        if !wait.is_zero() {
            metrics.delays.inc();
            tokio::time::sleep(wait).await;
        }
        let bytes = message.body.len();
        let parsed = rooms
            .lane()
            .run(bytes, metrics, || Envelope::parse(message))
            .await;
        let input = match parsed {
            Ok(envelope) => RoomInput::Message(self.conn, envelope),
            Err(error) => RoomInput::Invalid(self.conn, error.id, error.to_string()),
        };
        (input, bytes)
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
    let mut pings = tokio::time::interval_at(Instant::now() + ping_interval, ping_interval);
    let mut next_id = 0_u64;
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
        let writing = write_items(&mut socket, items, &mut next_id, outbox, patience);
        // In a box for the same reason as a packet that is read.
        match Box::pin(writing).await {
            Written::All { catch_up: false } => {}
            Written::All { catch_up: true } => {
                let drained = RoomInput::Drained(conn);
                let sent = mailbox.send(drained, 0, Charge::default());
                if Box::pin(sent).await.is_err() {
                    return;
                }
            }
            Written::End => return,
        }
    }
}

/// What became of a batch of items.
enum Written {
    All {
        /// Whether a document wants to send what it held back.
        catch_up: bool,
    },
    /// The peer takes nothing any more, or was told to close.
    End,
}

async fn write_items<S: AsyncWrite + Unpin>(
    socket: &mut WebSocketWrite<S>,
    items: VecDeque<(Outgoing, Cost)>,
    next_id: &mut u64,
    outbox: &Outbox,
    patience: Duration,
) -> Written {
    let mut catch_up = false;
    for (item, cost) in items {
        *next_id += 1;
        let written = match (item.packets(MessageId::from(*next_id)), item) {
            (Some(packets), _) => {
                let mut written = true;
                for packet in packets {
                    let frame = Frame::binary(Payload::Borrowed(&packet));
                    written = in_time(patience, socket.write_frame(frame)).await;
                    if !written {
                        break;
                    }
                }
                written
            }
            (None, Outgoing::Pong(payload)) => {
                let frame = Frame::pong(Payload::Borrowed(&payload));
                in_time(patience, socket.write_frame(frame)).await
            }
            (None, _) => {
                let frame = Frame::close(1000, b"");
                in_time(patience, write_and_flush(socket, frame)).await;
                return Written::End;
            }
        };
        if !written {
            return Written::End;
        }
        catch_up |= outbox.written(cost);
    }
    if in_time(patience, socket.flush()).await {
        Written::All { catch_up }
    } else {
        Written::End
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
