//! One WebSocket: bytes to messages for the room, and the room's answers back to bytes.
//!
//! Reading and writing are two futures of one task. The server never sends a close frame of its own, because
//! published clients do not come back after one; a client's close frame is answered with code 1000. A client that
//! breaks the rules of the WebSocket protocol is dropped.

mod unread;
mod writing;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meshagent_protocol::{ApiScope, Envelope, Message, PacketLimits, PacketReader};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::unread::peer_closes;
use self::writing::{Counting, Taken, Taking, write_all};
use crate::admission::{self, Admission};
use crate::budget::Rate;
use crate::config::Config;
use crate::gather::Gather;
use crate::ledger::{Account, Charge, Held, Kind, Pace};
use crate::metrics::{Counted, Metrics};
use crate::outbox::{Outbox, Outgoing};
use crate::room::{Conn, Joining};
use crate::rooms::{Joined, Mailbox, RoomInput, Rooms};
use crate::wall_clock::WallClock;
use crate::websocket::{Event, FrameReader};

/// The largest WebSocket message; a protocol message may span many.
const MAX_FRAME_BYTES: usize = 4 << 20;
/// What a frame counts for besides its bytes, and what a ping or a pong counts for, towards the bytes per second.
const FRAME_BYTES: usize = 64;
const CONTROL_FRAME_BYTES: usize = 1 << 10;
/// The most of an incomplete message that stays uncharged until everything that arrived is handled.
const SMALL_PART_BYTES: usize = 16 << 10;
/// Bytes that a connection reads, or writes, before others have a turn on its thread.
const TURN_BYTES: usize = 16 << 10;
/// What the system keeps of what a peer is sent and its window has no room for. It tells of progress in steps of half of
/// this; by itself it keeps megabytes, and tells when a third was taken.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 32 << 10;
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
    /// When tokens end.
    pub(crate) clock: Arc<WallClock>,
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

/// Drives a connection to its end. `early` arrived behind the handshake; the token is good until `expires`, in seconds
/// since 1970.
///
/// The socket may end before this does: its room, which may take nothing at the time, has to be told.
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
    // With it goes all that only a connection with a socket needs.
    let rest = Box::pin(talk).await;
    if let Some(rest) = rest {
        rest.await;
    }
}

/// What is to be done when there is no socket any more.
type Rest<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Reads and writes until the connection ends, and drops the socket.
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
        pace: Pace::new(shared.config.pace_window, account),
        kept_waiting: Duration::ZERO,
        turn: Turn::default(),
    };
    intake.frames.handle_bytes(&early);
    // Whether to wait shows with what comes next.
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
            // Mostly the room hears of it first.
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
        // The room finishes the outbox when everything that was received is durable and answered.
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
    // The room only refuses when it has ended, and everybody with it.
    let _ = mailbox.send(RoomInput::Leave(conn), 0, Held::none()).await;
}

/// Why reading ended.
enum End {
    /// The client sent a close frame.
    Closed,
    /// The token is no longer good. Without a close frame, so that the client asks for a new one and comes back.
    Expired,
    /// The connection broke, was silent for too long, or spoke something else.
    Lost,
    /// The server stops.
    Stopping,
}

/// How much a connection has read, or written, since others had a turn. A socket may have megabytes, or take them, at
/// once, and there may be hundreds.
#[derive(Default)]
struct Turn {
    bytes: usize,
}

impl Turn {
    /// Counts some, and lets others go first after each [`TURN_BYTES`]. Returns whether it did.
    async fn take(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        let is_over = self.bytes >= TURN_BYTES;
        if is_over {
            self.bytes = 0;
            tokio::task::yield_now().await;
        }
        is_over
    }
}

/// Reads until the connection ends, handing each packet to the intake.
async fn read_all(stream: &mut ReadHalf<'_>, intake: &mut Intake<'_>, silence: Duration) -> End {
    // One timer for all reads. It only has to be early enough: a timer of its own for each read would cost more than
    // most reads.
    let mut timer = std::pin::pin!(tokio::time::sleep(silence));
    let mut came = Instant::now();
    loop {
        // What a packet takes is taken while there is one: most connections are idle most of the time.
        if let Some(end) = Box::pin(intake.handle_received()).await {
            return end;
        }
        let heard = Instant::now();
        // The time that it waited for others is not the peer's.
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
                    // The peer may hold what others wait for.
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

/// From bytes to the room's mailbox, no faster and with no more memory than agreed.
struct Intake<'a> {
    frames: FrameReader,
    packets: PacketReader,
    conn: Conn,
    mailbox: &'a Mailbox,
    outbox: &'a Outbox,
    shared: &'a Shared,
    message_rate: Rate,
    byte_rate: Rate,
    /// What the frames since the last read count for. It is charged with the next read, because one read holds a
    /// bounded number of frames.
    frame_bytes: usize,
    account: &'a Arc<Account>,
    /// What its token allows.
    scope: &'a ApiScope,
    /// What the message under way costs.
    charge: Charge,
    /// When the message under way has to be complete.
    deadline: Option<Instant>,
    pace: Pace,
    /// For how long the server had kept the peer waiting when that was last looked at.
    kept_waiting: Duration,
    turn: Turn,
}

impl Intake<'_> {
    /// When to check what the peer does if nothing has arrived by then: at `latest` in any case.
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

    /// Why reading ends, if the message under way should be complete by now.
    fn late(&self) -> Option<End> {
        if self.deadline? > Instant::now() {
            return None;
        }
        tracing::info!("a peer's message was incomplete for too long; connection dropped");
        Some(End::Lost)
    }

    /// The server made the peer wait: the time since then is not the peer's, nor its message's.
    fn excuse(&mut self, since: Instant) {
        if let Some(deadline) = &mut self.deadline {
            *deadline += since.elapsed();
        }
    }

    /// So many bytes came, whatever they are. Makes a peer wait that sends faster than agreed, and lets others have
    /// their turn. Returns the time after that.
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

    /// Whether the server holds a part of something for the peer, and waits for the rest.
    fn holds(&self) -> bool {
        self.charge.bytes() > 0 || self.account.is_uploading()
    }

    /// Whether that keeps others waiting, and the peer sent little for a while.
    fn is_in_the_way(&mut self, now: Instant) -> bool {
        let holds = self.holds();
        // Nor is the time for which its room had what came and did not handle it.
        let kept_waiting = self.account.kept_waiting();
        let more = kept_waiting.saturating_sub(self.kept_waiting);
        self.kept_waiting = kept_waiting;
        self.pace.pause(more);
        self.pace.is_in_the_way(self.account, 0, 0, now) && holds
    }

    /// Takes all that arrived. Returns why reading ends, if it does.
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
                    tracing::info!(%violation, "a client sent what no WebSocket may; connection dropped");
                    return Some(End::Lost);
                }
            }
            // Also while there is always more to take.
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

    /// Takes one packet. `Err` when the room is gone.
    async fn packet(&mut self, packet: &[u8]) -> Result<(), ()> {
        self.frame_bytes += FRAME_BYTES;
        let (input, bytes, parsed) = match self.packets.handle_packet(packet) {
            Ok(None) if self.packets.is_assembling() => {
                // A small part is charged when all that arrived is handled: mostly the rest is there as well.
                if self.packets.held_bytes() > self.charge.bytes() + SMALL_PART_BYTES {
                    self.begin_or_go_on(0).await;
                }
                return Ok(());
            }
            Ok(None) => {
                // It was passed over, as its message was refused.
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
                    // There is nobody to answer; the next header packet starts anew.
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
        // A peer that does not read its answers is not read from.
        self.outbox.wait_for_room().await;
        if input.is_answered() {
            self.outbox.expect_answer();
        }
        let held = Held::new(received, parsed);
        self.mailbox.send(input, bytes, held).await.map_err(drop)
    }

    /// Makes a peer wait that sends faster than agreed. What it has to wait for besides its bytes, it chose to send.
    async fn keep_pace(&self, bytes: usize) {
        let now = Instant::now();
        let wait = self.byte_rate.take(bytes, now);
        if !wait.is_zero() {
            self.shared.metrics.delays.inc();
            tokio::time::sleep(wait).await;
        }
    }

    /// The message under way has its time from its first bytes on.
    fn begin(&mut self) {
        let timeout = self.shared.config.message_timeout;
        self.deadline
            .get_or_insert_with(|| Instant::now() + timeout);
    }

    /// A packet that completes no message, or `fragments` bytes of one: it may be a message's first, or make it larger
    /// than expected.
    async fn begin_or_go_on(&mut self, fragments: usize) {
        self.begin();
        let asked = Instant::now();
        self.charge
            .cover(self.packets.held_bytes() + fragments)
            .await;
        self.excuse(asked);
    }

    /// Parses a message, if its sender may have it parsed: first come the rights, then the memory, then the values.
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
        // The header of this form is small, and the room checks the rights of a chunk.
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
        let charge = self.account.charge(Kind::Parsed, parsed_bytes).await;
        let parsed = lane.run(bytes, metrics, || Envelope::parse(message)).await;
        let input = match parsed {
            Ok(envelope) => RoomInput::Message(self.conn, envelope),
            Err(error) => RoomInput::Invalid(self.conn, error.id, error.code(), error.to_string()),
        };
        Some((input, bytes, charge))
    }
}
