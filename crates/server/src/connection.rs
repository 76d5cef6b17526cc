//! One WebSocket connection: parses bytes into messages for the room, and encodes the room's
//! answers.
//!
//! Reading and writing are two futures of one task. The server never sends a close frame of its own
//! accord, because published clients do not reconnect after one. A client's close frame is answered
//! with code 1000. A client that violates the WebSocket protocol is disconnected without a close
//! frame.

mod turn;
mod unread;
mod writing;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meshagent_ledger::{Account, Charge, Held, Kind, Pace};
use meshagent_protocol::{ApiScope, Envelope, Message, PacketLimits, PacketReader};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::turn::Turn;
use self::unread::peer_closes;
use self::writing::{Counting, Taken, Taking, Unreported, write_all};
use crate::admission::{self, Admission};
use crate::budget::Rate;
use crate::config::Config;
use crate::gather::Gather;
use crate::metrics::{Counted, Metrics};
use crate::outbox::{Outbox, Outgoing};
use crate::room::{Conn, Joining};
use crate::rooms::{Joined, Mailbox, RoomInput, Rooms};
use crate::wall_clock::WallClock;
use crate::websocket::{Event, FrameReader};

/// The largest WebSocket message; a protocol message may span many.
const MAX_FRAME_BYTES: usize = 4 << 20;
/// Bytes that a frame costs against the byte rate, in addition to its content; below, the cost of a
/// ping or pong.
const FRAME_BYTES: usize = 64;
const CONTROL_FRAME_BYTES: usize = 1 << 10;
/// Bytes of an incomplete message that may stay uncharged until everything that arrived is handled.
const SMALL_PART_BYTES: usize = 16 << 10;
/// Bytes that the kernel buffers for a peer beyond its receive window. The socket becomes writable
/// when half of this is free. By default the kernel buffers megabytes and reports progress only
/// when a third is free.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 32 << 10;
/// Time over which unused message and byte rates accumulate, which bounds a burst.
pub(crate) const BURST: Duration = Duration::from_secs(2);
/// Time to answer a client's close frame before the connection is dropped anyway.
const CLOSE_GRACE: Duration = Duration::from_secs(5);

/// State that all connections of the server share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) rooms: Arc<Rooms>,
    pub(crate) config: Arc<Config>,
    pub(crate) metrics: Arc<Metrics>,
    /// Measures when tokens expire.
    pub(crate) clock: Arc<WallClock>,
    /// The message rate of all connections together.
    pub(crate) total_rate: Arc<Rate>,
    /// Set when the server stops: connections read nothing more.
    pub(crate) stopping: CancellationToken,
    /// Set when the grace period is over: connections end, whatever they are doing.
    pub(crate) killed: CancellationToken,
}

impl Shared {
    /// Updates the gauges that are not maintained continuously.
    pub(crate) fn measure(&self) {
        let gauge = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let usage = self.rooms.usage();
        let metrics = &self.metrics;
        let held = |kind| gauge(usage.ledger().held_of(kind) as u64);
        metrics.received_bytes.set(held(Kind::Received));
        metrics.queued_bytes.set(held(Kind::Queued));
        metrics.shared_bytes.set(held(Kind::Shared));
        for kind in Kind::ALL {
            metrics.set_held(kind.label(), held(kind));
        }
        metrics
            .schema_bytes
            .set(gauge(usage.schemas().held_bytes() as u64));
        metrics.open_bytes.set(gauge(usage.open().bytes() as u64));
        metrics.stored_documents.set(gauge(usage.documents()));
        metrics.streams.set(gauge(usage.streams() as u64));
    }
}

/// Drives a connection to its end. `early` are bytes that arrived after the handshake. The token
/// expires at `expires`, in seconds since 1970.
///
/// This may outlive the socket: a room that takes no input at the moment must still learn that the
/// connection has ended.
pub(crate) async fn run(
    stream: TcpStream,
    early: Bytes,
    room: &str,
    joining: Joining,
    expires: Option<u64>,
    shared: &Shared,
) {
    let outbox = Arc::clone(&joining.outbox);
    let account = Arc::clone(&joining.account);
    let scope = joining.scope.clone();
    let mut expiry = expires.map(|at| Box::pin(shared.clock.reaches(at)));
    let mut expired = std::pin::pin!(async {
        match &mut expiry {
            Some(expiry) => expiry.await,
            None => std::future::pending().await,
        }
    });
    let gone = async {
        tokio::select! {
            () = &mut expired => {}
            () = peer_closes(&stream) => {}
        }
    };
    let (conn, mailbox) = match shared.rooms.join(room, joining, gone).await {
        Joined::In(conn, mailbox) => (conn, mailbox),
        Joined::Late(conn, mailbox) => {
            drop(stream);
            return leave(&mailbox, conn).await;
        }
        Joined::Not => return,
    };
    let way = (conn, &mailbox);
    let of = (&account, &scope);
    let talk = talk(stream, early, way, &outbox, of, (shared, room), expired);
    // Everything that only a connection with a socket needs is dropped with this future.
    let rest = Box::pin(talk).await;
    if let Some(rest) = rest {
        rest.await;
    }
}

/// Work that remains after the socket is closed.
type Rest<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Reads and writes until the connection ends, then drops the socket.
async fn talk<'a>(
    mut stream: TcpStream,
    early: Bytes,
    (conn, mailbox): (Conn, &'a Mailbox),
    outbox: &Outbox,
    (account, scope): (&Arc<Account>, &ApiScope),
    (shared, room): (&Shared, &str),
    expired: Pin<&mut impl Future<Output = ()>>,
) -> Option<Rest<'a>> {
    let _counted = Counted::new(&shared.metrics.connections);

    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES) {
        tracing::debug!(%error, "the system tells of progress in large steps");
    }
    let (mut read, write) = stream.split();
    let mut intake = Intake {
        frames: FrameReader::new(MAX_FRAME_BYTES),
        packets: PacketReader::new(PacketLimits {
            max_message_bytes: shared.config.limits.max_message_bytes,
            ..PacketLimits::default()
        }),
        conn,
        mailbox,
        outbox,
        shared,
        message_rate: Rate::new(shared.config.limits.max_messages_per_second, BURST),
        byte_rate: Rate::new(shared.config.limits.max_bytes_per_second, BURST),
        frame_bytes: 0,
        charge: account.empty(Kind::Received),
        account,
        scope,
        deadline: None,
        pace: Pace::of_sender(shared.config.pace_window, account),
        kept_waiting: Duration::ZERO,
        turn: Turn::default(),
    };
    intake.frames.handle_bytes(&early);
    // Whether the peer must wait is decided with the next bytes.
    let _ = intake.byte_rate.take(early.len(), Instant::now());
    drop(early);
    let silence = shared.config.ping_interval.mul_f32(2.5);
    let taken = Taken::new();
    let mut writing = std::pin::pin!(write_all(
        Gather::new(Counting {
            inner: write,
            taken: &taken
        }),
        Taking {
            outbox,
            account,
            taken: &taken,
            patience: silence,
            pace: Pace::new(shared.config.pace_window, account),
            turn: Turn::default(),
            unreported: Unreported::default(),
        },
        conn,
        mailbox,
        shared.config.ping_interval
    ));

    let ended = tokio::select! {
        ended = read_all(&mut read, &mut intake, silence) => Some(ended),
        () = shared.stopping.cancelled() => Some(End::Stopping),
        () = expired => Some(End::Expired),
        () = &mut writing => None,
    };
    let mut rest: Rest<'a> = Box::pin(leave(mailbox, conn));
    match ended {
        Some(End::Closed) => {
            // Usually the room takes this input immediately.
            let mut has_left = tokio::select! {
                biased;
                () = &mut rest => true,
                () = std::future::ready(()) => false,
            };
            outbox.push_item(Outgoing::Close);
            outbox.finish();
            let mut closing = std::pin::pin!(tokio::time::timeout(CLOSE_GRACE, writing));
            loop {
                tokio::select! {
                    biased;
                    () = &mut rest, if !has_left => has_left = true,
                    _ = &mut closing => break,
                }
            }
            (!has_left).then_some(rest)
        }
        // The room finishes the outbox when everything received is durable and answered.
        Some(End::Stopping) => {
            writing.await;
            None
        }
        Some(End::Expired) => {
            tracing::info!(
                room,
                "a participant's token has expired; connection dropped"
            );
            Some(rest)
        }
        Some(End::Lost) | None => Some(rest),
    }
}

async fn leave(mailbox: &Mailbox, conn: Conn) {
    // Sending fails only if the room, and with it every connection in it, has ended.
    let _ = mailbox.send(RoomInput::Leave(conn), 0, Held::none()).await;
}

/// Why reading ended.
enum End {
    /// The client sent a close frame.
    Closed,
    /// The token has expired. No close frame is sent, so that the client fetches a new token and
    /// reconnects.
    Expired,
    /// The connection broke, was silent for too long, or violated the protocol.
    Lost,
    /// The server is stopping.
    Stopping,
}

/// Reads until the connection ends, handing each packet to the intake.
async fn read_all(stream: &mut ReadHalf<'_>, intake: &mut Intake<'_>, silence: Duration) -> End {
    // All reads share one timer, which may only fire too early, never too late. A timer for each
    // read would cost more than most reads.
    let mut timer = std::pin::pin!(tokio::time::sleep(silence));
    let mut came = Instant::now();
    loop {
        // The future that handles packets exists only while there are some: most connections are
        // idle most of the time.
        if let Some(end) = Box::pin(intake.handle_received()).await {
            return end;
        }
        let heard = Instant::now();
        // Time spent waiting for other connections is not counted against the peer.
        intake.pace.pause(heard - came);
        intake.kept_waiting = intake.account.kept_waiting();
        loop {
            let until = intake.next_check(heard + silence);
            if until < timer.deadline() || timer.is_elapsed() {
                timer.as_mut().reset(until);
            }
            let received = tokio::select! {
                biased;
                received = intake.frames.receive(stream) => Some(received),
                () = &mut timer => None,
            };
            match received {
                Some(Ok(bytes)) => {
                    came = intake.arrived(bytes).await;
                    break;
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "connection ended");
                    return End::Lost;
                }
                None if heard.elapsed() >= silence => {
                    tracing::info!("a peer was silent for too long; connection dropped");
                    return End::Lost;
                }
                None => {
                    if let Some(end) = intake.late() {
                        return end;
                    }
                    // The peer may hold memory that others wait for.
                    if intake.is_in_the_way(Instant::now()) {
                        tracing::info!(
                            "a peer holds memory that others wait for; connection dropped"
                        );
                        return End::Lost;
                    }
                }
            }
        }
        if intake.is_in_the_way(came) {
            tracing::info!("a peer holds memory that others wait for; connection dropped");
            return End::Lost;
        }
    }
}

/// Turns bytes into inputs for the room's mailbox, within the limits on rate and memory.
struct Intake<'a> {
    frames: FrameReader,
    packets: PacketReader,
    conn: Conn,
    mailbox: &'a Mailbox,
    outbox: &'a Outbox,
    shared: &'a Shared,
    message_rate: Rate,
    byte_rate: Rate,
    /// Cost of the frames since the last read. It is charged with the next read, because one read
    /// yields a bounded number of frames.
    frame_bytes: usize,
    account: &'a Arc<Account>,
    /// The rights that the token grants.
    scope: &'a ApiScope,
    /// Memory charged for the message in progress.
    charge: Charge,
    /// When the message in progress must be complete.
    deadline: Option<Instant>,
    pace: Pace,
    /// The account's total time of waiting for the server, as last seen.
    kept_waiting: Duration,
    turn: Turn,
}

impl Intake<'_> {
    /// When to check on the peer if nothing has arrived by then; never later than `latest`.
    fn next_check(&self, latest: Instant) -> Instant {
        let mut next = latest;
        if let Some(deadline) = self.deadline {
            next = next.min(deadline);
        }
        if self.holds() {
            next = next.min(self.pace.ends());
        }
        next
    }

    /// Why reading ends, if the message in progress should be complete by now.
    fn late(&self) -> Option<End> {
        if self.deadline? > Instant::now() {
            return None;
        }
        tracing::info!("a peer's message was incomplete for too long; connection dropped");
        Some(End::Lost)
    }

    /// Extends the message's deadline by the time since `since`, because the server made the peer
    /// wait.
    fn excuse(&mut self, since: Instant) {
        if let Some(deadline) = &mut self.deadline {
            *deadline += since.elapsed();
        }
    }

    /// Accounts for `bytes` received bytes of any kind. Delays a peer that exceeds its byte rate,
    /// and yields to other connections. Returns the time at which the peer was free to send again.
    async fn arrived(&mut self, bytes: usize) -> Instant {
        let came = Instant::now();
        self.pace.add(bytes);
        let frame_bytes = std::mem::take(&mut self.frame_bytes);
        let wait = self.byte_rate.take(bytes + frame_bytes, came);
        let has_waited = !wait.is_zero();
        if has_waited {
            self.shared.metrics.delays.inc();
            tokio::time::sleep(wait).await;
        }
        if self.turn.take(bytes).await || has_waited {
            let now = Instant::now();
            self.pace.pause(now - came);
            self.excuse(came);
            return now;
        }
        came
    }

    /// Whether the server holds a part of a message or upload and waits for the rest.
    fn holds(&self) -> bool {
        self.charge.bytes() > 0 || self.account.is_uploading()
    }

    /// Whether the held part keeps others waiting while the peer has sent little for a while.
    fn is_in_the_way(&mut self, now: Instant) -> bool {
        let holds = self.holds();
        // Time that chunks waited in the room's mailbox is not counted against the peer either.
        let kept_waiting = self.account.kept_waiting();
        let more = kept_waiting.saturating_sub(self.kept_waiting);
        self.kept_waiting = kept_waiting;
        self.pace.pause(more);
        self.pace.is_in_the_way(self.account, 0, 0, now) && holds
    }

    /// Handles everything that arrived. Returns why reading ends, if it does.
    async fn handle_received(&mut self) -> Option<End> {
        loop {
            match self.frames.poll_event() {
                Ok(Some(Event::Message(packet))) => {
                    if self.packet(&packet).await.is_err() {
                        return Some(End::Lost);
                    }
                }
                Ok(Some(Event::Fragment)) => {
                    self.begin();
                    self.keep_pace(FRAME_BYTES).await;
                }
                Ok(Some(Event::Ping(payload))) => {
                    self.keep_pace(CONTROL_FRAME_BYTES).await;
                    let came = Instant::now();
                    self.turn.take(CONTROL_FRAME_BYTES).await;
                    self.outbox.wait_for_room().await;
                    self.excuse(came);
                    self.outbox.push_item(Outgoing::Pong(payload));
                }
                Ok(Some(Event::Pong)) => self.keep_pace(CONTROL_FRAME_BYTES).await,
                Ok(Some(Event::Close)) => return Some(End::Closed),
                Ok(None) => break,
                Err(violation) => {
                    tracing::info!(%violation, "a client sent what no WebSocket may; connection \
                                                dropped");
                    return Some(End::Lost);
                }
            }
            // The deadline also holds for a peer that keeps the loop busy.
            if let Some(end) = self.late() {
                return Some(end);
            }
        }
        if self.frames.is_within_message() {
            self.begin_or_go_on(self.frames.held_bytes()).await;
        } else if self.packets.is_assembling() {
            self.begin_or_go_on(0).await;
        }
        self.late()
    }

    /// Handles one packet. `Err` if the room has ended.
    async fn packet(&mut self, packet: &[u8]) -> Result<(), ()> {
        self.frame_bytes += FRAME_BYTES;
        let (input, bytes, parsed) = match self.packets.handle_packet(packet) {
            Ok(None) if self.packets.is_assembling() => {
                // A small part is charged after everything that arrived is handled: usually the
                // rest is there as well.
                if self.packets.held_bytes() > self.charge.bytes() + SMALL_PART_BYTES {
                    self.begin_or_go_on(0).await;
                }
                return Ok(());
            }
            Ok(None) => {
                // The packet was skipped, because its message was refused.
                self.deadline = None;
                self.charge = self.account.empty(Kind::Received);
                return Ok(());
            }
            Ok(Some(message)) => {
                let Some(read) = self.read(message).await else {
                    self.deadline = None;
                    self.charge = self.account.empty(Kind::Received);
                    return Ok(());
                };
                read
            }
            Err(error) => {
                let Some(id) = error.message_id else {
                    // Without a message id there is nothing to answer. The next header packet
                    // starts a new message.
                    self.deadline = None;
                    self.charge = self.account.empty(Kind::Received);
                    return Ok(());
                };
                let code = error.code();
                let invalid = RoomInput::Invalid(self.conn, id, code, error.to_string());
                (invalid, 0, Charge::none())
            }
        };
        self.deadline = None;
        let next = self.account.empty(Kind::Received);
        let received = std::mem::replace(&mut self.charge, next);
        // Back-pressure: while the peer does not read its answers, its messages wait here.
        self.outbox.wait_for_room().await;
        if input.is_answered() {
            self.outbox.expect_answer();
        }
        let held = Held::new(received, parsed);
        self.mailbox.send(input, bytes, held).await.map_err(drop)
    }

    /// Delays a peer that exceeds its byte rate. The delay counts towards the message's deadline,
    /// because the peer chose to send these frames.
    async fn keep_pace(&self, bytes: usize) {
        let now = Instant::now();
        let wait = self.byte_rate.take(bytes, now);
        if !wait.is_zero() {
            self.shared.metrics.delays.inc();
            tokio::time::sleep(wait).await;
        }
    }

    /// Starts the time limit of the message in progress with its first bytes.
    fn begin(&mut self) {
        let timeout = self.shared.config.message_timeout;
        self.deadline
            .get_or_insert_with(|| Instant::now() + timeout);
    }

    /// Handles a packet that completes no message, or `fragments` bytes of a frame: it may start a
    /// message, or make it larger than charged so far.
    async fn begin_or_go_on(&mut self, fragments: usize) {
        self.begin();
        let asked = Instant::now();
        self.charge
            .cover(self.packets.held_bytes() + fragments)
            .await;
        self.excuse(asked);
    }

    /// Parses a message in three steps: check the rights, charge the memory, then parse the values.
    /// `None` if the message is dropped without an answer.
    async fn read(&mut self, message: Message) -> Option<(RoomInput, usize, Charge)> {
        let Shared {
            metrics,
            total_rate,
            rooms,
            ..
        } = self.shared;
        metrics.messages_received.inc();
        let bytes = message.body.len();
        // The header of a plain chunk is small, and the room checks the rights of a chunk.
        let plain = Envelope::parse_plain_chunk(&message);
        let parsed_bytes = plain.as_ref().map_or(0, |(_, bytes)| *bytes);
        self.charge.cover(bytes.saturating_add(parsed_bytes)).await;
        let now = Instant::now();
        let wait = self.message_rate.take(1, now).max(total_rate.take(1, now));
        if !wait.is_zero() {
            metrics.delays.inc();
            tokio::time::sleep(wait).await;
        }
        if let Some((envelope, _)) = plain {
            let input = RoomInput::Message(self.conn, envelope);
            return Some((input, bytes, Charge::none()));
        }
        let (lane, id) = (rooms.lane(), message.id);
        let limits = &self.shared.config.limits;
        let look = || admission::admit(&message, self.scope, limits);
        let parsed_bytes = match lane.run(bytes, metrics, look).await {
            Admission::Read { parsed_bytes } => parsed_bytes,
            Admission::Refused { code, text } => {
                let invalid = RoomInput::Invalid(self.conn, id, code, text);
                return Some((invalid, 0, Charge::none()));
            }
            Admission::Ignored => {
                tracing::debug!(bytes, "attributes of a participant are too large; ignored");
                return None;
            }
        };
        let charge = self.charge.beside(Kind::Parsed, parsed_bytes).await;
        let parsed = lane.run(bytes, metrics, || Envelope::parse(message)).await;
        let input = match parsed {
            Ok(envelope) => RoomInput::Message(self.conn, envelope),
            Err(error) => RoomInput::Invalid(self.conn, error.id, error.code(), error.to_string()),
        };
        Some((input, bytes, charge))
    }
}
