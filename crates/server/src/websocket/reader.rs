//! A reader of WebSocket frames from a client: as strict as RFC 6455 (sections 5 and 7), with
//! memory bounded by what has arrived.

use std::cell::RefCell;
use std::io::{Error, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

/// Bytes of one read when the kind of the next data is unknown.
const READ_BYTES: usize = 16 << 10;
/// Bytes of a large payload that are read in one step, directly into the message.
const STEP_BYTES: usize = 16 << 10;
/// The longest payload of a ping, pong or close frame.
const MAX_CONTROL_BYTES: usize = 125;

thread_local! {
    /// The buffer for reads from sockets, so that idle connections hold none.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// A complete item from a client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Event {
    /// A binary message.
    Message(Bytes),
    /// A data frame that completes no message. It may be empty, and any number of them may follow.
    Fragment,
    Ping(Bytes),
    Pong,
    Close,
}

/// Why a connection is dropped: its client violates RFC 6455, or uses a part that is not supported.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Error)]
pub(crate) enum Violation {
    #[error("a close frame whose payload is not a code and a text")]
    Close,
    #[error("a continuation of nothing")]
    Continuation,
    #[error("a control frame in fragments")]
    ControlFragmented,
    #[error("a control frame of more than {MAX_CONTROL_BYTES} bytes")]
    ControlTooLong,
    #[error("a new message within one that is not complete")]
    Interrupted,
    #[error("a length in more bytes than it needs")]
    Length,
    #[error("a frame or a bit that is reserved")]
    Reserved,
    #[error("a text message, where all messages are binary")]
    Text,
    #[error("a message that is too large")]
    TooLarge,
    #[error("a frame without a mask")]
    Unmasked,
}

/// Takes bytes as they arrive and yields the messages and control frames in them.
///
/// Between messages it holds at most an incomplete frame head or control frame. Within a message it
/// holds what has arrived, and room for at most half as much again or one step.
#[derive(Debug)]
pub(crate) struct FrameReader {
    max_message_bytes: usize,
    /// Received and not parsed yet.
    input: BytesMut,
    /// The received part of a message, unmasked, unless all of it is in `input`.
    message: Vec<u8>,
    /// The data frame whose payload is arriving.
    frame: Option<DataFrame>,
    /// Whether a fragmented message has begun and its last frame is missing.
    is_in_fragments: bool,
    /// If set, text messages are accepted too, for a conformance suite that sends little else;
    /// whether the last message was text.
    #[cfg(test)]
    pub(super) text: Option<bool>,
}

#[derive(Clone, Copy, Debug)]
struct DataFrame {
    is_last: bool,
    mask: [u8; 4],
    /// Bytes of the payload that have not arrived.
    left: usize,
}

impl FrameReader {
    /// Creates a reader for messages of at most `max_message_bytes`.
    pub(crate) fn new(max_message_bytes: usize) -> Self {
        Self {
            max_message_bytes,
            input: BytesMut::new(),
            message: Vec::new(),
            frame: None,
            is_in_fragments: false,
            #[cfg(test)]
            text: None,
        }
    }

    /// Adds received bytes.
    pub(crate) fn handle_bytes(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// Memory held for received data, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.input.len() + self.message.capacity()
    }

    /// Whether a message has begun to arrive and is not complete.
    pub(crate) fn is_within_message(&self) -> bool {
        self.is_in_fragments || self.frame.is_some()
    }

    /// Returns the next complete item.
    pub(crate) fn poll_event(&mut self) -> Result<Option<Event>, Violation> {
        loop {
            if let Some(frame) = self.frame {
                let arrived = frame.left.min(self.input.len());
                if frame.is_last && arrived == frame.left && self.message.is_empty() {
                    // The whole payload is in the buffer, and is passed on without a copy.
                    let mut payload = self.input.split_to(arrived);
                    unmask(&mut payload, frame.mask);
                    self.end_frame(true);
                    return Ok(Some(Event::Message(payload.freeze())));
                }
                self.make_room(arrived);
                self.message.extend_from_slice(&self.input[..arrived]);
                self.input.advance(arrived);
                if let Some(message) = self.handle_payload(arrived) {
                    return Ok(Some(Event::Message(message)));
                }
                if self.frame.is_some() {
                    return Ok(self.nothing_more());
                }
                return Ok(Some(Event::Fragment));
            }
            let Some(head) = Head::parse(&self.input)? else {
                return Ok(self.nothing_more());
            };
            if head.is_control() {
                let whole = head.length + head.payload;
                if self.input.len() < whole {
                    return Ok(self.nothing_more());
                }
                let mut payload = self.input.split_to(whole).split_off(head.length);
                unmask(&mut payload, head.mask);
                return control(head.opcode, &payload).map(Some);
            }
            match (head.opcode, self.is_in_fragments) {
                (0, false) => return Err(Violation::Continuation),
                (1 | 2, true) => return Err(Violation::Interrupted),
                #[cfg(test)]
                (1 | 2, false) if self.text.is_some() => self.text = Some(head.opcode == 1),
                (1, false) => return Err(Violation::Text),
                _ => {}
            }
            // The declared length is only checked: no memory is reserved for it.
            if head.payload > self.max_message_bytes - self.message.len() {
                return Err(Violation::TooLarge);
            }
            self.input.advance(head.length);
            self.is_in_fragments = true;
            self.frame = Some(DataFrame {
                is_last: head.is_last,
                mask: head.mask,
                left: head.payload,
            });
        }
    }

    /// Waits for the next bytes, adds them and returns their number. `UnexpectedEof` when the
    /// client sends no more.
    ///
    /// # Cancel safety
    /// Nothing is read before the future is ready.
    ///
    /// # Errors
    /// If the socket can't be read.
    pub(crate) async fn receive<R: AsyncRead + Unpin>(
        &mut self,
        stream: &mut R,
    ) -> Result<usize, Error> {
        std::future::poll_fn(|context| {
            let count = ready!(self.poll_receive(&mut *stream, context))?;
            if count == 0 {
                return Err(ErrorKind::UnexpectedEof.into()).into();
            }
            Ok(count).into()
        })
        .await
    }

    /// Uses `poll_read`, because tokio then remembers that a short read has emptied the socket.
    /// Otherwise each message would cost a second system call that finds nothing.
    fn poll_receive<R: AsyncRead + Unpin>(
        &mut self,
        stream: &mut R,
        context: &mut Context<'_>,
    ) -> Poll<Result<usize, Error>> {
        match self.frame {
            // The middle of a large payload is read directly into the message.
            Some(frame) if frame.left > READ_BYTES && self.input.is_empty() => {
                // Leaves at least the last byte, which `poll_event` must see.
                let wanted = (frame.left - 1).min(STEP_BYTES);
                self.make_room(wanted);
                let mut room = (&mut self.message).limit(wanted);
                let count = ready!(poll_read_buf(Pin::new(stream), context, &mut room))?;
                let _ = self.handle_payload(count);
                Ok(count).into()
            }
            _ => SCRATCH.with_borrow_mut(|scratch| {
                let mut read = ReadBuf::new(scratch);
                ready!(Pin::new(stream).poll_read(context, &mut read))?;
                self.handle_bytes(read.filled());
                Ok(read.filled().len()).into()
            }),
        }
    }

    /// Reserves room for `bytes` more bytes of the message, or for half of its present length if
    /// that is more and the frame still needs it.
    fn make_room(&mut self, bytes: usize) {
        if self.message.capacity() - self.message.len() >= bytes {
            return;
        }
        let ahead = self.frame.map_or(0, |frame| frame.left);
        let growth = bytes.max(ahead.min(self.message.len() / 2));
        self.message.reserve_exact(growth);
    }

    /// Handles the last `arrived` bytes of `message`, the next ones of the frame. Returns the
    /// message that they complete.
    fn handle_payload(&mut self, arrived: usize) -> Option<Bytes> {
        let frame = self.frame.as_mut()?;
        let start = self.message.len() - arrived;
        unmask(&mut self.message[start..], frame.mask);
        frame.mask.rotate_left(arrived % 4);
        frame.left -= arrived;
        if frame.left > 0 {
            return None;
        }
        let is_last = frame.is_last;
        self.end_frame(is_last);
        is_last.then(|| Bytes::from(std::mem::take(&mut self.message)))
    }

    fn end_frame(&mut self, is_last: bool) {
        self.frame = None;
        self.is_in_fragments = !is_last;
    }

    /// The rest is shorter than a frame head or control frame. It is kept without the buffer in
    /// which it arrived.
    fn nothing_more(&mut self) -> Option<Event> {
        self.input = if self.input.is_empty() {
            BytesMut::new()
        } else {
            BytesMut::from(&self.input[..])
        };
        None
    }
}

/// The head of a frame.
#[derive(Clone, Copy, Debug)]
struct Head {
    opcode: u8,
    is_last: bool,
    mask: [u8; 4],
    /// Bytes of the head itself.
    length: usize,
    /// Bytes of the payload.
    payload: usize,
}

impl Head {
    /// Returns `None` if bytes are missing. A violation is reported at the first byte that shows
    /// it.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Violation> {
        let Some((&first, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        let opcode = first & 0x0f;
        let is_last = first & 0x80 != 0;
        if first & 0x70 != 0 || !matches!(opcode, 0..=2 | 8..=10) {
            return Err(Violation::Reserved);
        }
        let is_control = opcode & 8 != 0;
        if is_control && !is_last {
            return Err(Violation::ControlFragmented);
        }
        let Some((&second, rest)) = rest.split_first() else {
            return Ok(None);
        };
        if second & 0x80 == 0 {
            return Err(Violation::Unmasked);
        }
        let short = second & 0x7f;
        if is_control && usize::from(short) > MAX_CONTROL_BYTES {
            return Err(Violation::ControlTooLong);
        }
        let (payload, length_bytes) = match short {
            126 => {
                let Some(bytes) = rest.first_chunk() else {
                    return Ok(None);
                };
                (u64::from(u16::from_be_bytes(*bytes)), 2)
            }
            127 => {
                let Some(bytes) = rest.first_chunk() else {
                    return Ok(None);
                };
                (u64::from_be_bytes(*bytes), 8)
            }
            short => (u64::from(short), 0),
        };
        let is_minimal = match length_bytes {
            2 => payload > 125,
            8 => payload > 0xffff,
            _ => true,
        };
        if !is_minimal {
            return Err(Violation::Length);
        }
        let Some(mask) = rest[length_bytes..].first_chunk() else {
            return Ok(None);
        };
        Ok(Some(Self {
            opcode,
            is_last,
            mask: *mask,
            length: 2 + length_bytes + mask.len(),
            // A payload beyond the address space is too large, too.
            payload: usize::try_from(payload).map_err(|_| Violation::TooLarge)?,
        }))
    }

    fn is_control(&self) -> bool {
        self.opcode & 8 != 0
    }
}

fn control(opcode: u8, payload: &[u8]) -> Result<Event, Violation> {
    match opcode {
        9 => Ok(Event::Ping(Bytes::copy_from_slice(payload))),
        10 => Ok(Event::Pong),
        _ if is_close(payload) => Ok(Event::Close),
        _ => Err(Violation::Close),
    }
}

/// Whether a close frame may have this payload: nothing, or a permitted code and a UTF-8 text.
fn is_close(payload: &[u8]) -> bool {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return payload.is_empty();
    };
    // Codes from RFC 6455, section 7.4, and those registered since.
    let is_code = matches!(
        u16::from_be_bytes(*code),
        1000..=1003 | 1007..=1014 | 3000..=4999
    );
    is_code && std::str::from_utf8(reason).is_ok()
}

fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let (chunks, rest) = bytes.as_chunks_mut::<8>();
    let mask = u32::from_ne_bytes(mask);
    let wide = u64::from(mask) << 32 | u64::from(mask);
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(wide.to_ne_bytes()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests;
