//! Packets: messages are split into WebSocket messages and reassembled.
//!
//! This layer does not interpret the messages.

use bytes::{BufMut, Bytes, BytesMut};

use crate::code::ErrorCode;

/// The id of a message, unique per sender for as long as the sender needs it.
///
/// A response has the id of its request, so the eight bytes are returned unchanged.
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

/// Limits on the memory of an incomplete message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PacketLimits {
    /// The maximal body of a message in bytes. Default: 64 MiB, eight times the largest update in
    /// the server's defaults.
    pub max_message_bytes: usize,
    /// The maximal length of a type name in bytes. Default: 256, ten times the longest one in use.
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

/// A complete message: its type and its unparsed body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The sender's id of the message.
    pub id: MessageId,
    /// The type, for example `room.invoke_tool`.
    pub kind: String,
    /// The input of [`Body::parse`](crate::message::Body::parse).
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

/// Reassembles the messages of one direction of one connection.
///
/// # Wire form
///
/// ```text
/// header packet   u64 message id | u32 0 | u32 total packets N | type, UTF-8
/// data packet     u64 message id | u32 i (1..=N) | bytes
/// ```
///
/// Memory is proportional to the received bytes, never to a declared number. After an error the
/// reader skips data packets until the next header packet: only the faulty message is lost, and it
/// is reported once.
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
    /// Creates a reader at the start of a connection.
    pub fn new(limits: PacketLimits) -> Self {
        Self {
            limits,
            state: State::Ready,
        }
    }

    /// Processes one packet, and returns the message that it completes, if any.
    ///
    /// # Errors
    ///
    /// If the packet is malformed, out of order or exceeds a limit. The message in assembly is then
    /// lost, and the reader continues with the next header packet. A header packet that interrupts
    /// a message is such an error, reported with the interrupted message's id. Its own message
    /// begins, unless it has no body; the protocol has no messages without one.
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

    /// The number of buffered bytes of an incomplete message.
    pub fn buffered_bytes(&self) -> usize {
        match &self.state {
            State::Assembling(assembly) => assembly.body.len(),
            State::Ready | State::Skipping => 0,
        }
    }

    /// The memory of an incomplete message in bytes: at most 1.5 times the received bytes.
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

    /// The estimated size of the incomplete message when it is complete, from its header and the
    /// packets so far; never above the limit. 0 between messages.
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

/// A faulty packet, and the message that is lost with it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{fault}")]
#[non_exhaustive]
pub struct PacketError {
    /// The lost message; absent if the packet was too short to contain an id.
    pub message_id: Option<MessageId>,
    /// The fault of the packet.
    pub fault: PacketFault,
}

impl PacketError {
    fn new(message_id: Option<MessageId>, fault: PacketFault) -> Self {
        Self { message_id, fault }
    }

    /// The error code of the answer.
    pub const fn code(&self) -> ErrorCode {
        ErrorCode::InvalidRequest
    }
}

/// The kinds of faults of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PacketFault {
    /// Another message began before this one was complete.
    #[error("another message began before this one was complete; send one message after the other")]
    Interrupted,
    /// The type name is not UTF-8.
    #[error("the message type is not UTF-8")]
    KindNotUtf8,
    /// The type name exceeds the limit.
    #[error("the message type is longer than {limit} bytes")]
    KindTooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// A data packet came without a header packet.
    #[error("a data packet came without a header packet")]
    NoHeader,
    /// A data packet is missing, repeated or misplaced.
    #[error("expected packet {expected}, found packet {found}; send packets in order")]
    OutOfOrder {
        /// The expected index.
        expected: u32,
        /// The received index.
        found: u32,
    },
    /// The message exceeds the limit.
    #[error("the message is larger than {limit} bytes; split it")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The packet ends within its own header.
    #[error("the packet is too short")]
    TooShort,
}

/// The maximal number of bytes in one data packet sent by this crate.
///
/// The published SDKs split at 1,024 bytes and accept any size. A writer holds one packet at a
/// time, so this is the memory that a message in transit takes besides its body.
pub const MAX_DATA_PACKET_BYTES: usize = 128 * 1024;

/// The packets of one message, created one at a time: a header packet, then data packets of at
/// most [`MAX_DATA_PACKET_BYTES`].
///
/// The body is `head` followed by `payload`, whose bytes may be shared by many messages.
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
    /// Creates an iterator over the packets of a message.
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

/// The bytes before the type in a header packet.
const HEADER_PACKET_BYTES: usize = 16;
/// The bytes before the content in a data packet.
const DATA_PACKET_BYTES: usize = 12;
