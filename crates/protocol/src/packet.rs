//! Packets: how one message is cut into WebSocket messages and put together again.
//!
//! Knows nothing of what a message says.

use bytes::{BufMut, Bytes, BytesMut};

use crate::code::ErrorCode;

/// The id of a message, unique per sender for as long as the sender cares.
///
/// A response carries the id of its request, so the eight bytes are echoed as they came.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MessageId(pub [u8; 8]);

impl From<u64> for MessageId {
    fn from(number: u64) -> Self {
        Self(number.to_be_bytes())
    }
}

impl std::fmt::Display for MessageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", u64::from_be_bytes(self.0))
    }
}

/// How much a peer may make us hold before its message is complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PacketLimits {
    /// The largest body of one message; the default is 64 MiB, eight times the largest update that
    /// the defaults of the server admit.
    pub max_message_bytes: usize,
    /// The longest type name; the default is 256, ten times the longest one in use.
    pub max_kind_bytes: usize,
}

impl Default for PacketLimits {
    fn default() -> Self {
        Self {
            max_message_bytes: 64 * 1024 * 1024,
            max_kind_bytes: 256,
        }
    }
}

/// A complete message: its type and its body, not yet looked into.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The sender's id of the message.
    pub id: MessageId,
    /// The type, for instance `room.invoke_tool`.
    pub kind: String,
    /// What [`Body::parse`](crate::message::Body::parse) reads.
    pub body: Bytes,
}

impl Message {
    /// Appends the packets of this message to `out`: a header packet, then data packets of at
    /// most [`MAX_DATA_PACKET_BYTES`].
    pub fn encode(&self, out: &mut Vec<Bytes>) {
        out.extend(Packets::new(
            self.id,
            &self.kind,
            Bytes::new(),
            self.body.clone(),
        ));
    }
}

/// Puts the packets of one direction of one connection together.
///
/// # Wire form
///
/// ```text
/// header packet   u64 message id | u32 0 | u32 total packets N | type, UTF-8
/// data packet     u64 message id | u32 i (1..=N) | bytes
/// ```
///
/// Memory follows the bytes that arrived, never a declared number. After an error the reader skips
/// data packets until the next header packet: only the faulty message is lost, and it is reported
/// once.
#[derive(Debug)]
pub struct PacketReader {
    limits: PacketLimits,
    state: State,
}

#[derive(Debug)]
enum State {
    Assembling(Assembly),
    Ready,
    Skipping,
}

#[derive(Debug)]
struct Assembly {
    id: MessageId,
    kind: String,
    total: u32,
    // Invariant: 1..=total.
    next: u32,
    // Invariant: never longer than the limit.
    body: Vec<u8>,
}

impl PacketReader {
    /// A reader that has seen nothing yet.
    pub fn new(limits: PacketLimits) -> Self {
        Self {
            limits,
            state: State::Ready,
        }
    }

    /// Takes one packet and returns the message that it completes.
    ///
    /// # Errors
    ///
    /// When the packet is malformed, out of order or over a limit. The message in assembly is then
    /// gone, and the reader goes on with the next header packet. A header packet that interrupts a
    /// message is such an error, reported under the interrupted id; its own message is begun,
    /// unless it has no body, which no message of this protocol has.
    pub fn handle_packet(&mut self, packet: &[u8]) -> Result<Option<Message>, PacketError> {
        let interrupted = match &self.state {
            State::Assembling(assembly) => Some(assembly.id),
            State::Ready | State::Skipping => None,
        };
        let Some((id, rest)) = packet.split_first_chunk::<8>() else {
            self.state = State::Skipping;
            return Err(PacketError::new(interrupted, PacketFault::TooShort));
        };
        let id = MessageId(*id);
        let Some((index, rest)) = rest.split_first_chunk::<4>() else {
            self.state = State::Skipping;
            return Err(PacketError::new(
                interrupted.or(Some(id)),
                PacketFault::TooShort,
            ));
        };
        match u32::from_be_bytes(*index) {
            0 => self.handle_header(id, rest, interrupted),
            index => self.handle_data(id, index, rest),
        }
    }

    /// How many bytes of an incomplete message are held.
    pub fn buffered_bytes(&self) -> usize {
        match &self.state {
            State::Assembling(assembly) => assembly.body.len(),
            State::Ready | State::Skipping => 0,
        }
    }

    /// Memory that is held for an incomplete message, in bytes: at most half as much again as what arrived of it.
    pub fn held_bytes(&self) -> usize {
        match &self.state {
            State::Assembling(assembly) => assembly.body.capacity() + assembly.kind.len(),
            State::Ready | State::Skipping => 0,
        }
    }

    /// Whether a message has begun and is not complete.
    pub fn is_assembling(&self) -> bool {
        matches!(self.state, State::Assembling(_))
    }

    /// How many bytes the incomplete message will have when it is complete, judged by what its header declares and by
    /// its packets so far; never above the limit. 0 between messages.
    pub fn expected_bytes(&self) -> usize {
        match &self.state {
            State::Assembling(assembly) if assembly.next > 1 => {
                let done = assembly.next - 1;
                let packet = assembly.body.len().div_ceil(done as usize);
                packet
                    .saturating_mul(assembly.total as usize)
                    .min(self.limits.max_message_bytes)
            }
            _ => 0,
        }
    }

    fn handle_header(
        &mut self,
        id: MessageId,
        rest: &[u8],
        interrupted: Option<MessageId>,
    ) -> Result<Option<Message>, PacketError> {
        self.state = State::Skipping;
        let Some((total, kind)) = rest.split_first_chunk::<4>() else {
            return Err(PacketError::new(Some(id), PacketFault::TooShort));
        };
        if kind.len() > self.limits.max_kind_bytes {
            let fault = PacketFault::KindTooLong {
                limit: self.limits.max_kind_bytes,
            };
            return Err(PacketError::new(Some(id), fault));
        }
        let Ok(kind) = std::str::from_utf8(kind) else {
            return Err(PacketError::new(Some(id), PacketFault::KindNotUtf8));
        };
        let total = u32::from_be_bytes(*total);
        if total > 0 {
            self.state = State::Assembling(Assembly {
                id,
                kind: kind.to_owned(),
                total,
                next: 1,
                body: Vec::new(),
            });
        } else {
            self.state = State::Ready;
        }
        if let Some(interrupted) = interrupted {
            return Err(PacketError::new(
                Some(interrupted),
                PacketFault::Interrupted,
            ));
        }
        if total > 0 {
            return Ok(None);
        }
        Ok(Some(Message {
            id,
            kind: kind.to_owned(),
            body: Bytes::new(),
        }))
    }

    fn handle_data(
        &mut self,
        id: MessageId,
        index: u32,
        data: &[u8],
    ) -> Result<Option<Message>, PacketError> {
        let assembly = match &mut self.state {
            State::Skipping => return Ok(None),
            State::Ready => {
                self.state = State::Skipping;
                return Err(PacketError::new(Some(id), PacketFault::NoHeader));
            }
            State::Assembling(assembly) => assembly,
        };
        let lost = assembly.id;
        let fault = if id != lost {
            Some(PacketFault::Interrupted)
        } else if index != assembly.next {
            Some(PacketFault::OutOfOrder {
                expected: assembly.next,
                found: index,
            })
        } else if data.len() > self.limits.max_message_bytes - assembly.body.len() {
            Some(PacketFault::TooLarge {
                limit: self.limits.max_message_bytes,
            })
        } else {
            None
        };
        if let Some(fault) = fault {
            self.state = State::Skipping;
            return Err(PacketError::new(Some(lost), fault));
        }
        let room = assembly.body.capacity() - assembly.body.len();
        if data.len() > room {
            let growth = data.len().max(assembly.body.len() / 2);
            assembly.body.reserve_exact(growth);
        }
        assembly.body.extend_from_slice(data);
        if assembly.next < assembly.total {
            assembly.next += 1;
            return Ok(None);
        }
        let State::Assembling(assembly) = std::mem::replace(&mut self.state, State::Ready) else {
            return Ok(None);
        };
        Ok(Some(Message {
            id: assembly.id,
            kind: assembly.kind,
            body: Bytes::from(assembly.body),
        }))
    }
}

/// A packet that can't be used, and the message that is lost with it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{fault}")]
#[non_exhaustive]
pub struct PacketError {
    /// The lost message; absent if the packet was too short to name one.
    pub message_id: Option<MessageId>,
    /// What is wrong with the packet.
    pub fault: PacketFault,
}

impl PacketError {
    fn new(message_id: Option<MessageId>, fault: PacketFault) -> Self {
        Self { message_id, fault }
    }

    /// The code under which the fault is answered.
    pub const fn code(&self) -> ErrorCode {
        ErrorCode::InvalidRequest
    }
}

/// What can be wrong with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PacketFault {
    /// Another message began before this one was complete.
    #[error("another message began before this one was complete, send them one after the other")]
    Interrupted,
    /// The type name is not UTF-8.
    #[error("the message type is not UTF-8")]
    KindNotUtf8,
    /// The type name is over the limit.
    #[error("the message type is longer than {limit} bytes")]
    KindTooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// A data packet came without a header packet.
    #[error("a data packet came without a header packet")]
    NoHeader,
    /// A data packet is missing, repeated or misplaced.
    #[error("expected packet {expected}, found packet {found}, send packets in order")]
    OutOfOrder {
        /// The index that was due.
        expected: u32,
        /// The index that came.
        found: u32,
    },
    /// The message is over the limit.
    #[error("the message is larger than {limit} bytes, send less at once")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The packet ends within its own header.
    #[error("the packet is too short")]
    TooShort,
}

/// The most bytes that one data packet of ours carries.
///
/// The published SDKs cut at 1,024 bytes and accept any size. A writer holds one packet at a time, so this is what
/// a message under way costs besides its body.
pub const MAX_DATA_PACKET_BYTES: usize = 128 * 1024;

/// The packets of one message, made one at a time: a header packet, then data packets of at most
/// [`MAX_DATA_PACKET_BYTES`].
///
/// The body is `head` and then `payload`, whose bytes may be shared by many messages.
#[derive(Debug)]
pub struct Packets<'a> {
    id: MessageId,
    kind: &'a str,
    head: Bytes,
    payload: Bytes,
    /// The next packet's number; the header packet is 0.
    index: u32,
}

impl<'a> Packets<'a> {
    /// The packets of a message that no packet was made of yet.
    pub fn new(id: MessageId, kind: &'a str, head: Bytes, payload: Bytes) -> Self {
        Self {
            id,
            kind,
            head,
            payload,
            index: 0,
        }
    }

    fn header(&self) -> Bytes {
        let total = (self.head.len() + self.payload.len()).div_ceil(MAX_DATA_PACKET_BYTES);
        let mut packet = BytesMut::with_capacity(HEADER_PACKET_BYTES + self.kind.len());
        packet.put_slice(&self.id.0);
        packet.put_u32(0);
        // A body of 2^32 packets does not fit into memory.
        packet.put_u32(u32::try_from(total).unwrap_or(u32::MAX));
        packet.put_slice(self.kind.as_bytes());
        packet.freeze()
    }
}

impl Iterator for Packets<'_> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let index = self.index;
        if index > 0 && self.head.is_empty() && self.payload.is_empty() {
            return None;
        }
        self.index += 1;
        if index == 0 {
            return Some(self.header());
        }
        let of_head = self.head.len().min(MAX_DATA_PACKET_BYTES);
        let of_payload = self.payload.len().min(MAX_DATA_PACKET_BYTES - of_head);
        let mut packet = BytesMut::with_capacity(DATA_PACKET_BYTES + of_head + of_payload);
        packet.put_slice(&self.id.0);
        packet.put_u32(index);
        packet.put_slice(&self.head.split_to(of_head));
        packet.put_slice(&self.payload.split_to(of_payload));
        Some(packet.freeze())
    }
}

/// What stands before the type of a header packet.
const HEADER_PACKET_BYTES: usize = 16;
/// What stands before the bytes of a data packet.
const DATA_PACKET_BYTES: usize = 12;
