//! The driver: the task that owns a connection's socket.
//!
//! The task consists of three futures: one reads, one writes, and a loop between them owns the
//! session and waits for neither.

use std::collections::HashMap;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fastwebsockets::{Frame, OpCode, Payload, WebSocketError, WebSocketRead, WebSocketWrite};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use meshagent_protocol::{
    ClientSession, Content, Event, PacketLimits, RequestId, StreamError, StreamId,
};
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::connect::Socket;
use crate::connection::CallError;
use crate::event::RoomEvent;
use crate::pulse::{Beat, Moment, Pulse, Traffic};
use crate::stream::StreamEnd;

/// The commands of the handles.
#[derive(Debug)]
pub(crate) enum Command {
    CloseStream {
        stream: StreamId,
    },
    Invoke {
        toolkit: String,
        tool: String,
        arguments: Content,
        reply: oneshot::Sender<Answer>,
    },
    OpenStream {
        toolkit: String,
        tool: String,
        first: Content,
        reply: Reply<OpenedStream>,
    },
    SendChunk {
        stream: StreamId,
        chunk: Content,
        reply: oneshot::Sender<Answer>,
    },
    SetAttributes {
        attributes: Map<String, Value>,
    },
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T, CallError>>;

/// The server's answer to one request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) content: Result<Content, CallError>,
    /// Whether the chunk's stream had ended before. A refusal then does not concern the chunk.
    pub(crate) is_late: bool,
}

/// A streamed call that the server has accepted.
#[derive(Debug)]
pub(crate) struct OpenedStream {
    pub(crate) stream: StreamId,
    pub(crate) chunks: mpsc::Receiver<Content>,
    pub(crate) end: oneshot::Receiver<Result<(), StreamEnd>>,
    /// The answer to the first chunk.
    pub(crate) answer: Content,
}

/// The server's messages at the start of a connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Welcome {
    pub(crate) room_name: String,
    pub(crate) room_url: String,
    pub(crate) session_id: String,
    pub(crate) participant_id: String,
    pub(crate) attributes: Map<String, Value>,
}

#[derive(Debug)]
pub(crate) struct Driver {
    session: ClientSession,
    commands: mpsc::Receiver<Command>,
    events: broadcast::Sender<RoomEvent>,
    welcome: Welcome,
    ready: Option<oneshot::Sender<Welcome>>,
    replies: HashMap<RequestId, oneshot::Sender<Answer>>,
    streams: HashMap<StreamId, Stream>,
    /// Cancelled to close the connection. It is separate from the commands, which wait while the
    /// server does not read.
    closing: CancellationToken,
    ping_interval: Duration,
    /// Reports the end of the driver, however it ends. It is the last field, so it is dropped last.
    _driver_ended: DropGuard,
}

#[derive(Debug)]
struct Stream {
    chunks: mpsc::Sender<Content>,
    end: oneshot::Sender<Result<(), StreamEnd>>,
    opening: Option<Opening>,
}

/// A stream whose caller waits for the server to accept it.
#[derive(Debug)]
struct Opening {
    opened: OpenedStream,
    reply: Reply<OpenedStream>,
    first: RequestId,
    is_opened: bool,
    is_first_taken: bool,
}

#[derive(Debug)]
enum Received {
    Closed,
    Packet(Bytes),
    Ping(Bytes),
}

#[derive(Debug)]
enum Outgoing {
    Close,
    Packet(Bytes),
    Ping,
    Pong(Bytes),
}

type Reader = WebSocketRead<Counted<ReadHalf<TokioIo<Upgraded>>>>;
type Writer = WebSocketWrite<Counted<WriteHalf<TokioIo<Upgraded>>>>;

/// Half of a socket, with counted bytes.
#[derive(Debug)]
struct Counted<S> {
    half: S,
    counts: Arc<Counts>,
}

/// [`Traffic`] in the process of counting. One task reads and writes, so relaxed ordering is
/// enough.
#[derive(Debug, Default)]
struct Counts {
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    pings_written: AtomicU64,
}

impl Counts {
    fn traffic(&self) -> Traffic {
        Traffic {
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            bytes_written: self.bytes_written.load(Ordering::Relaxed),
            pings_written: self.pings_written.load(Ordering::Relaxed),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.half).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        let counted = &self.counts.bytes_read;
        counted.fetch_add(read as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Counted<S> {
    fn count(&self, written: std::io::Result<usize>) -> Poll<std::io::Result<usize>> {
        if let Ok(written) = written {
            let counted = &self.counts.bytes_written;
            counted.fetch_add(written as u64, Ordering::Relaxed);
        }
        Poll::Ready(written)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.half).poll_write(context, bytes));
        self.count(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.half).poll_write_vectored(context, slices));
        self.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.half.is_write_vectored()
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.half).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.half).poll_shutdown(context)
    }
}

/// Why a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reason {
    Closed,
    ClosedByServer,
    Lost,
    Silent,
    Suspended,
}

impl Reason {
    fn text(self) -> &'static str {
        match self {
            Self::Closed => "the client closed the connection",
            Self::ClosedByServer => "the server closed the connection",
            Self::Lost => "the connection was lost",
            Self::Silent => "the server did not answer any more",
            Self::Suspended => "this machine or program was suspended",
        }
    }

    /// Whether a close frame may reach the server.
    fn has_peer(self) -> bool {
        !matches!(self, Self::Silent | Self::Suspended)
    }
}

impl Driver {
    pub(crate) fn new(
        commands: mpsc::Receiver<Command>,
        events: broadcast::Sender<RoomEvent>,
        ready: oneshot::Sender<Welcome>,
        closing: CancellationToken,
        driver_ended: CancellationToken,
        ping_interval: Duration,
    ) -> Self {
        Self {
            ping_interval,
            session: ClientSession::new(PacketLimits::default()),
            commands,
            events,
            welcome: Welcome::default(),
            ready: Some(ready),
            replies: HashMap::new(),
            streams: HashMap::new(),
            closing,
            _driver_ended: driver_ended.drop_guard(),
        }
    }

    /// Drives the connection until it ends.
    pub(crate) async fn run(mut self, socket: Socket) {
        let counts = Arc::new(Counts::default());
        let (mut reader, writer) = socket.split(|socket| {
            let (reader, writer) = tokio::io::split(socket);
            let (half, counts) = (reader, Arc::clone(&counts));
            let reader = Counted { half, counts };
            let (half, counts) = (writer, Arc::clone(&reader.counts));
            (reader, Counted { half, counts })
        });
        reader.set_auto_close(false);
        reader.set_auto_pong(false);
        reader.set_max_message_size(MAX_FRAME_BYTES);
        let (incoming, received) = mpsc::channel(SOCKET_CAPACITY);
        let (outgoing, to_write) = mpsc::channel(SOCKET_CAPACITY);
        let mut reading = pin!(read_all(reader, incoming));
        let mut writing = pin!(write_all(writer, to_write, &counts));
        let mut read_end = None;
        let mut is_writing = true;

        // The loop ends last, so that frames read before the connection broke are still delivered.
        let reason = {
            let mut serving = pin!(self.serve(received, &outgoing, &counts));
            loop {
                tokio::select! {
                    reason = &mut serving => break reason,
                    reason = &mut reading, if read_end.is_none() => read_end = Some(reason),
                    () = &mut writing, if is_writing => is_writing = false,
                }
            }
        };
        // No further commands are accepted. Dropping the driver answers the waiting callers.
        self.commands.close();
        if is_writing && reason.has_peer() {
            let farewell = async {
                let say_it = async move {
                    // A writer that has failed accepts nothing.
                    let _queued = outgoing.send(Outgoing::Close).await;
                };
                tokio::join!(say_it, writing);
                if read_end.is_none() {
                    // Wait for the server's close frame, or the end of the connection.
                    reading.await;
                }
            };
            let _in_time = tokio::time::timeout(CLOSE_GRACE, farewell).await;
        }
        // An error only means that there are no subscribers.
        let _listeners = self.events.send(RoomEvent::Disconnected {
            reason: reason.text().to_owned(),
        });
    }

    /// Moves data between handles, session and socket until the connection ends.
    async fn serve(
        &mut self,
        mut received: mpsc::Receiver<Received>,
        outgoing: &mpsc::Sender<Outgoing>,
        counts: &Counts,
    ) -> Reason {
        let mut next = None;
        let mut deadline: Option<Instant> = None;
        let mut pulse = Pulse::new(self.ping_interval, Moment::now());
        let mut ticks = tokio::time::interval(pulse.step());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            next = next.or_else(|| self.session.poll_transmit().map(Outgoing::Packet));
            let has_next = next.is_some();
            tokio::select! {
                permit = outgoing.reserve(), if has_next => match permit {
                    Ok(permit) => {
                        if let Some(next) = next.take() {
                            permit.send(next);
                        }
                    }
                    Err(_writer_ended) => return Reason::Lost,
                },
                input = received.recv() => match input {
                    Some(Received::Packet(packet)) => self.handle_packet(&packet),
                    Some(Received::Ping(payload)) => {
                        // A full queue contains packets, which also show that this client is alive.
                        let _queued = outgoing.try_send(Outgoing::Pong(payload));
                    }
                    Some(Received::Closed) => return Reason::ClosedByServer,
                    None => return Reason::Lost,
                },
                // Data that waits to be written comes before new commands, which bounds the memory.
                command = self.commands.recv(), if !has_next => match command {
                    Some(command) => self.handle_command(command),
                    None => return Reason::Closed,
                },
                () = self.closing.cancelled(), if deadline.is_none() => {
                    // Earlier commands are still written, as long as the server reads.
                    self.commands.close();
                    deadline = Some(Instant::now() + DRAIN_GRACE);
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    return Reason::Closed;
                }
                () = closed(self.ready.as_mut()) => return Reason::Closed,
                _ = ticks.tick() => match pulse.tick(Moment::now(), counts.traffic()) {
                    Beat::Rest => {}
                    Beat::Ping => match outgoing.try_send(Outgoing::Ping) {
                        Ok(()) => {}
                        // The queue is full of data that is written first. The ping is sent at a
                        // later tick.
                        Err(mpsc::error::TrySendError::Full(_)) => pulse.unsent(),
                        Err(mpsc::error::TrySendError::Closed(_)) => return Reason::Lost,
                    },
                    Beat::Silent => return Reason::Silent,
                    Beat::Suspended => return Reason::Suspended,
                },
            }
        }
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Invoke {
                toolkit,
                tool,
                arguments,
                reply,
            } => {
                let request = self.session.invoke(&toolkit, &tool, arguments);
                self.replies.insert(request, reply);
            }
            Command::OpenStream {
                toolkit,
                tool,
                first,
                reply,
            } => self.open_stream(&toolkit, &tool, first, reply),
            Command::SendChunk {
                stream,
                chunk,
                reply,
            } => match self.session.send_chunk(stream, chunk) {
                Ok(request) => {
                    self.replies.insert(request, reply);
                }
                Err(error) => {
                    let refusal = CallError::Refused {
                        code: None,
                        text: error.to_string(),
                    };
                    let _waiting = reply.send(Answer {
                        content: Err(refusal),
                        is_late: true,
                    });
                }
            },
            Command::CloseStream { stream } => self.session.close_stream(stream),
            Command::SetAttributes { attributes } => self.session.set_attributes(attributes),
        }
    }

    fn open_stream(
        &mut self,
        toolkit: &str,
        tool: &str,
        first: Content,
        reply: Reply<OpenedStream>,
    ) {
        let stream = self.session.open_stream(toolkit, tool);
        let Ok(first) = self.session.send_chunk(stream, first) else {
            return;
        };
        let (chunks, chunks_receiver) = mpsc::channel(STREAM_CAPACITY);
        let (end, end_receiver) = oneshot::channel();
        let opened = OpenedStream {
            stream,
            chunks: chunks_receiver,
            end: end_receiver,
            answer: Content::Empty,
        };
        let opening = Opening {
            opened,
            reply,
            first,
            is_opened: false,
            is_first_taken: false,
        };
        let state = Stream {
            chunks,
            end,
            opening: Some(opening),
        };
        self.streams.insert(stream, state);
    }

    fn handle_packet(&mut self, packet: &[u8]) {
        self.session.handle_packet(packet);
        while let Some(event) = self.session.poll_event() {
            self.handle_event(event);
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Ready {
                room_name,
                room_url,
                session_id,
            } => {
                self.welcome.room_name = room_name;
                self.welcome.room_url = room_url;
                self.welcome.session_id = session_id;
                self.welcome_if_connected();
            }
            Event::Connected {
                participant_id,
                attributes,
            } => {
                self.welcome.participant_id = participant_id;
                self.welcome.attributes = attributes;
                self.welcome_if_connected();
            }
            Event::Response { request, content } => self.answer(request, content, false),
            Event::StreamOpened { stream } => {
                self.advance_opening(stream, |opening| opening.is_opened = true);
            }
            Event::StreamRefused { stream, content } => {
                let (code, text) = match content {
                    Content::Error { text, code } => (code, text),
                    _ => (None, "the tool is not a streamed one".to_owned()),
                };
                self.end_stream(stream, Err(CallError::Refused { code, text }));
            }
            Event::ChunkAnswered {
                stream,
                request,
                content,
            } => self.handle_chunk_answer(stream, request, content),
            Event::Chunk { stream, chunk } => self.handle_chunk(stream, chunk),
            Event::StreamClosed { stream, error } => {
                let end = match error {
                    None => Ok(()),
                    Some(StreamError { code, text, .. }) => Err(CallError::Refused { code, text }),
                };
                self.end_stream(stream, end);
            }
            Event::Message(message) => {
                if let Some(event) = RoomEvent::from_message(message) {
                    // An error only means that there are no subscribers.
                    let _listeners = self.events.send(event);
                }
            }
            // A faulty message is dropped. Its request is unknown, so a caller that waits for it
            // learns from the server or by a timeout.
            _ => {}
        }
    }

    fn welcome_if_connected(&mut self) {
        if !self.session.is_connected() {
            return;
        }
        if let Some(ready) = self.ready.take() {
            // If the caller has gone, the commands are closed, too.
            let _waiting = ready.send(self.welcome.clone());
        }
    }

    fn answer(&mut self, request: RequestId, content: Content, is_late: bool) {
        if let Some(reply) = self.replies.remove(&request) {
            let content = CallError::check(content);
            // The caller may have gone.
            let _waiting = reply.send(Answer { content, is_late });
        }
    }

    fn handle_chunk_answer(&mut self, stream: StreamId, request: RequestId, content: Content) {
        let is_first = self
            .streams
            .get(&stream)
            .and_then(|stream| stream.opening.as_ref())
            .is_some_and(|opening| opening.first == request);
        if !is_first {
            let is_late = !self.streams.contains_key(&stream);
            self.answer(request, content, is_late);
            return;
        }
        match CallError::check(content) {
            Ok(answer) => self.advance_opening(stream, |opening| {
                opening.opened.answer = answer;
                opening.is_first_taken = true;
            }),
            Err(error) => {
                self.session.close_stream(stream);
                self.end_stream(stream, Err(error));
            }
        }
    }

    /// Returns a stream to its caller once the server has accepted both the call and its first
    /// chunk.
    fn advance_opening(&mut self, stream: StreamId, advance: impl FnOnce(&mut Opening)) {
        let Some(state) = self.streams.get_mut(&stream) else {
            return;
        };
        if let Some(opening) = &mut state.opening {
            advance(opening);
        }
        let opening = state
            .opening
            .take_if(|opening| opening.is_opened && opening.is_first_taken);
        if let Some(opening) = opening {
            let is_wanted = opening.reply.send(Ok(opening.opened)).is_ok();
            if !is_wanted {
                self.session.close_stream(stream);
                self.streams.remove(&stream);
            }
        }
    }

    fn handle_chunk(&mut self, stream: StreamId, chunk: Content) {
        let Some(state) = self.streams.get(&stream) else {
            return;
        };
        let end = match state.chunks.try_send(chunk) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(_)) => StreamEnd::Lagged,
            // The handle was dropped while the command queue was full.
            Err(mpsc::error::TrySendError::Closed(_)) => StreamEnd::Disconnected,
        };
        self.session.close_stream(stream);
        if let Some(state) = self.streams.remove(&stream) {
            let _waiting = state.end.send(Err(end));
        }
    }

    fn end_stream(&mut self, stream: StreamId, end: Result<(), CallError>) {
        let Some(state) = self.streams.remove(&stream) else {
            return;
        };
        if let Some(opening) = state.opening {
            let result = end.map(|()| opening.opened);
            let _waiting = opening.reply.send(result);
            let _waiting = state.end.send(Ok(()));
            return;
        }
        let end = end.map_err(|error| match error {
            CallError::Refused { code, text } => StreamEnd::Refused(StreamError::new(code, text)),
            _ => StreamEnd::Disconnected,
        });
        let _waiting = state.end.send(end);
    }
}

/// Waits until no caller waits for the start of the connection. Pending forever once it has
/// started.
async fn closed(ready: Option<&mut oneshot::Sender<Welcome>>) {
    match ready {
        Some(ready) => ready.closed().await,
        None => std::future::pending().await,
    }
}

/// Reads until the connection ends. When the loop falls behind, reads pause, and the server's queue
/// fills (back-pressure).
async fn read_all(mut reader: Reader, incoming: mpsc::Sender<Received>) {
    let mut fragments = BytesMut::new();
    loop {
        let frame = reader
            .read_frame(&mut |_never| async { Ok::<_, WebSocketError>(()) })
            .await;
        let Ok(frame) = frame else {
            return;
        };
        let received = match frame.opcode {
            OpCode::Binary if frame.fin => Received::Packet(to_bytes(frame.payload)),
            OpCode::Binary | OpCode::Continuation => {
                if fragments.len() + frame.payload.len() > MAX_FRAME_BYTES {
                    return;
                }
                fragments.extend_from_slice(&frame.payload);
                if !frame.fin {
                    continue;
                }
                Received::Packet(fragments.split().freeze())
            }
            OpCode::Ping => Received::Ping(to_bytes(frame.payload)),
            OpCode::Close => Received::Closed,
            // A pong counts as traffic, which is all that matters. The protocol has no text
            // messages.
            OpCode::Pong | OpCode::Text => continue,
        };
        let is_last = matches!(received, Received::Closed);
        if incoming.send(received).await.is_err() || is_last {
            return;
        }
    }
}

/// Writes until a close frame is written, or the connection fails.
async fn write_all(mut writer: Writer, mut to_write: mpsc::Receiver<Outgoing>, counts: &Counts) {
    while let Some(outgoing) = to_write.recv().await {
        let is_close = matches!(outgoing, Outgoing::Close);
        let is_ping = matches!(outgoing, Outgoing::Ping);
        let frame = match outgoing {
            Outgoing::Close => Frame::close(1000, b""),
            Outgoing::Packet(packet) => Frame::binary(Payload::Owned(packet.into())),
            Outgoing::Ping => Frame::new(true, OpCode::Ping, None, Payload::Borrowed(b"")),
            Outgoing::Pong(payload) => Frame::pong(Payload::Owned(payload.into())),
        };
        let written = async {
            writer.write_frame(frame).await?;
            writer.flush().await
        };
        if written.await.is_err() || is_close {
            return;
        }
        let pings = &counts.pings_written;
        pings.fetch_add(u64::from(is_ping), Ordering::Relaxed);
    }
}

fn to_bytes(payload: Payload<'_>) -> Bytes {
    match payload {
        Payload::Bytes(bytes) => bytes.freeze(),
        other => Bytes::from(other.to_vec()),
    }
}

/// The largest WebSocket message that is read. The server sends at most 1 MiB plus headers.
const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;
/// How many frames wait between the socket and the loop. When the queue is full, the socket waits.
const SOCKET_CAPACITY: usize = 32;
/// How many chunks wait for the user of a stream. Beyond that the stream is closed.
const STREAM_CAPACITY: usize = 1024;
/// How long a close waits until earlier requests are written.
const DRAIN_GRACE: Duration = Duration::from_secs(2);
/// How long the closing handshake may take.
const CLOSE_GRACE: Duration = Duration::from_secs(1);
