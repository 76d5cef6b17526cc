//! The outbox of one connection: a bounded queue between the room and the socket's writer.
//!
//! The room pushes and never waits. The bound works in three places:
//! - The connection's reads pause while the queue is over the mark or too many of its requests are
//!   unanswered.
//! - Documents stop queueing changes. The reader becomes a cursor, which catches up later.
//! - Messages of other participants are lost for this connection while more than four times the
//!   mark of them is queued, or twice the mark of the same speaker. A notice reports the number of
//!   lost messages when the connection reads again.
//!
//! No speaker waits for a slow reader. What others say does not count towards the mark, so it does
//! not delay a connection's own requests and documents.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use meshagent_ledger::{Account, Charge, Kind, Speaker};
use meshagent_protocol::{Content, MessageId, Packets, ServerToClient, SharedChunk, SharedMessage};
use serde_json::Value;
use tokio::sync::Notify;

/// Bytes that a queued message costs in addition to its payload: the enum, its header and the
/// packet framing.
const MESSAGE_OVERHEAD_BYTES: usize = 256;

/// Requests of one connection that may be unanswered. Beyond it reads pause.
const MAX_UNANSWERED: usize = 1024;

/// One item for the writer.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Message(ServerToClient),
    /// A chunk of a stream whose payload other connections share.
    Chunk {
        tool_call_id: Arc<str>,
        chunk: SharedChunk,
    },
    /// A message that is shared with other connections, or the answer to `request`.
    Shared {
        request: Option<MessageId>,
        message: SharedMessage,
    },
    /// The answer to a WebSocket ping.
    Pong(Bytes),
    /// The answer to the client's close frame; nothing follows it.
    Close,
}

impl Outgoing {
    /// Encodes an item that is a message as packets.
    pub(crate) fn packets(&self, id: MessageId) -> Option<Packets<'static>> {
        match self {
            Self::Message(message) => Some(message.packets(id)),
            Self::Chunk {
                tool_call_id,
                chunk,
            } => Some(chunk.packets(tool_call_id, id)),
            Self::Shared { request, message } => Some(message.packets(request.unwrap_or(id))),
            Self::Pong(_) | Self::Close => None,
        }
    }

    /// Decodes an item that is a message into the form that tests read.
    #[cfg(test)]
    pub(crate) fn into_message(self) -> Option<ServerToClient> {
        match self {
            Self::Message(message) => Some(message),
            Self::Chunk {
                tool_call_id,
                chunk,
            } => Some(ServerToClient::ResponseChunk {
                tool_call_id: tool_call_id.as_ref().to_owned(),
                chunk: chunk.content(),
            }),
            Self::Shared { request, message } => {
                let (head, payload) = message.body();
                let message = meshagent_protocol::Message {
                    id: request.unwrap_or_else(|| MessageId::from(0)),
                    kind: message.kind().to_owned(),
                    body: [&head[..], &payload[..]].concat().into(),
                };
                ServerToClient::parse(&message).unwrap()
            }
            Self::Pong(_) | Self::Close => None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    /// Wakes the writer.
    filled: Notify,
    /// Wakes the reader, which pauses while the queue is over the mark.
    drained: Notify,
    mark_bytes: usize,
}

#[derive(Debug)]
struct State {
    queue: VecDeque<(Outgoing, Cost)>,
    queued: Cost,
    /// Queued bytes that other participants caused, in total and for each of them.
    said_bytes: usize,
    said: HashMap<Speaker, usize>,
    /// The charge of the queued messages.
    charge: Charge,
    /// Messages of others that were lost because the queue was full.
    lost: u64,
    closed: bool,
    /// Requests that were read and are not answered yet.
    unanswered: usize,
    /// A document skipped this connection, so the room must learn when the queue has drained.
    lagging: bool,
}

impl Outbox {
    pub(crate) fn new(mark_bytes: usize, account: &Arc<Account>) -> Self {
        let state = State {
            queue: VecDeque::new(),
            queued: Cost::default(),
            said_bytes: 0,
            said: HashMap::new(),
            charge: account.empty(Kind::Queued),
            lost: 0,
            closed: false,
            unanswered: 0,
            lagging: false,
        };
        Self {
            state: Mutex::new(state),
            filled: Notify::new(),
            drained: Notify::new(),
            mark_bytes,
        }
    }

    pub(crate) fn push(&self, message: ServerToClient) {
        self.push_item(Outgoing::Message(message));
    }

    /// Queues a chunk that is shared with other connections.
    pub(crate) fn push_chunk(&self, tool_call_id: &Arc<str>, chunk: &SharedChunk) {
        self.push_item(Outgoing::Chunk {
            tool_call_id: Arc::clone(tool_call_id),
            chunk: chunk.clone(),
        });
    }

    /// Queues a message that another participant caused. If too much of others' messages, or of
    /// this speaker's, is queued already, the message is lost, and the result is false.
    pub(crate) fn push_from_others(&self, speaker: Speaker, message: &SharedMessage) -> bool {
        let mut state = self.lock();
        let said = state.said.get(&speaker).copied().unwrap_or_default();
        if state.said_bytes > self.mark_bytes.saturating_mul(4)
            || said > self.mark_bytes.saturating_mul(2)
        {
            state.lost += 1;
            return false;
        }
        if state.closed {
            return true;
        }
        let item = Outgoing::Shared {
            request: None,
            message: message.clone(),
        };
        state.push(item, Some(speaker));
        drop(state);
        self.filled.notify_one();
        true
    }

    pub(crate) fn push_item(&self, item: Outgoing) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        state.push(item, None);
        drop(state);
        self.filled.notify_one();
    }

    /// Whether a broadcast or a large answer may be queued; while memory `is_scarce`, only to an
    /// empty queue. If not, a later [`Outbox::written`] returns true.
    pub(crate) fn accepts_broadcast(&self, is_scarce: bool) -> bool {
        let mut state = self.lock();
        let accepts = if is_scarce {
            state.asked_for() == 0
        } else {
            state.asked_for() < self.mark_bytes
        };
        state.lagging |= !accepts;
        accepts
    }

    /// Ends the connection without a close frame after the queued messages are written.
    pub(crate) fn finish(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
        self.drained.notify_waiters();
    }

    /// Takes everything that is queued, after waiting for the first item. `None` once closed and
    /// empty. The queue's buffer is taken as well, so that an idle connection does not keep it.
    ///
    /// # Cancel safety
    /// Nothing is taken before the future is ready.
    pub(crate) async fn take(&self) -> Option<VecDeque<(Outgoing, Cost)>> {
        loop {
            {
                let mut state = self.lock();
                if !state.queue.is_empty() {
                    return Some(std::mem::take(&mut state.queue));
                }
                if state.closed {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }

    /// Records that an item was written, or several that no other participant caused. Returns true
    /// if a document that skipped this connection can catch up now.
    pub(crate) fn written(&self, cost: Cost) -> bool {
        let mut state = self.lock();
        state.queued.subtract(cost);
        state.forget(cost);
        state.charge.shrink(cost.own);
        let has_room = state.admits(self.mark_bytes / 2);
        let has_heard = state.said_bytes < self.mark_bytes / 2;
        if has_room && has_heard && state.lost > 0 && !state.closed {
            let lost = std::mem::take(&mut state.lost);
            let told = ServerToClient::RoomStatus {
                status: "messages_lost".to_owned(),
                message: format!(
                    "{lost} messages of others were dropped while this connection did not read"
                ),
            };
            state.push(Outgoing::Message(told), None);
            self.filled.notify_one();
        }
        let catch_up = has_room && std::mem::take(&mut state.lagging);
        drop(state);
        if has_room {
            self.drained.notify_waiters();
        }
        catch_up
    }

    /// Counts a request that the room is about to receive, until its answer is queued.
    pub(crate) fn expect_answer(&self) {
        self.lock().unanswered += 1;
    }

    /// Waits until the queue is below the mark: back-pressure for a peer that does not read.
    pub(crate) async fn wait_for_room(&self) {
        loop {
            let drained = self.drained.notified();
            tokio::pin!(drained);
            // Registered before the check, so that a drain in between is not missed.
            drained.as_mut().enable();
            {
                let state = self.lock();
                if state.closed || state.admits(self.mark_bytes) {
                    return;
                }
            }
            drained.await;
        }
    }

    /// Takes what is queued without waiting, for a driver without a runtime.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn try_take(&self) -> VecDeque<(Outgoing, Cost)> {
        std::mem::take(&mut self.lock().queue)
    }

    /// Queued bytes, including shared ones.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.lock().queued.total()
    }

    /// Queued bytes, and whether a document skipped this connection.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn queued(&self) -> (usize, bool) {
        let state = self.lock();
        (state.queued.total(), state.lagging)
    }

    /// Queued bytes of this connection alone, and those of the largest item in the queue.
    #[cfg(feature = "simulation")]
    pub(crate) fn own_bytes(&self) -> (usize, usize) {
        let state = self.lock();
        let largest = state.queue.iter().map(|(_, cost)| cost.own).max();
        (state.queued.own, largest.unwrap_or_default())
    }

    /// Whether [`Outbox::wait_for_room`] would return immediately.
    #[cfg(feature = "simulation")]
    pub(crate) fn has_room(&self) -> bool {
        let state = self.lock();
        state.closed || state.admits(self.mark_bytes)
    }

    /// Whether the outbox accepts no more items.
    #[cfg(feature = "simulation")]
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is plain data, which no panic can leave half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, item: Outgoing, speaker: Option<Speaker>) {
        let is_answer = matches!(
            item,
            Outgoing::Message(ServerToClient::Response { .. })
                | Outgoing::Shared {
                    request: Some(_),
                    ..
                }
        );
        if is_answer {
            self.unanswered = self.unanswered.saturating_sub(1);
        }
        let cost = Cost {
            speaker,
            ..Cost::of(&item)
        };
        self.queued.add(cost);
        if let Some(speaker) = speaker {
            self.said_bytes += cost.total();
            *self.said.entry(speaker).or_default() += cost.total();
        }
        // An answer may exceed the bound: it is already in memory, and a large one was admitted
        // before it was made.
        self.charge.grow_anyway(cost.own);
        self.queue.push_back((item, cost));
    }

    /// Subtracts a message of another participant that is no longer queued.
    fn forget(&mut self, cost: Cost) {
        let Some(speaker) = cost.speaker else { return };
        self.said_bytes = self.said_bytes.saturating_sub(cost.total());
        if let Some(said) = self.said.get_mut(&speaker) {
            *said = said.saturating_sub(cost.total());
            if *said == 0 {
                self.said.remove(&speaker);
            }
        }
        if self.said.is_empty() {
            // A connection that received much once does not keep the memory.
            self.said = HashMap::new();
        }
    }

    /// Whether another request may be read.
    fn admits(&self, mark_bytes: usize) -> bool {
        self.asked_for() < mark_bytes && self.unanswered < MAX_UNANSWERED
    }

    /// Queued bytes that the connection itself caused: answers and documents.
    fn asked_for(&self) -> usize {
        self.queued.total().saturating_sub(self.said_bytes)
    }
}

/// The cost of an item, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// Memory of this connection alone.
    pub(crate) own: usize,
    /// Bytes that connections share.
    shared: usize,
    /// The other participant that caused the message.
    speaker: Option<Speaker>,
}

impl Cost {
    fn of(item: &Outgoing) -> Self {
        let mut cost = Self {
            own: MESSAGE_OVERHEAD_BYTES,
            ..Self::default()
        };
        match item {
            Outgoing::Message(
                ServerToClient::Response { content, .. }
                | ServerToClient::ResponseChunk { chunk: content, .. },
            ) => match content {
                Content::Binary { data, .. } | Content::File { data, .. } => {
                    cost.shared = data.len();
                }
                Content::Text(text) | Content::Error { text, .. } => cost.own += text.len(),
                Content::Json(value) => cost.own += json_bytes(value),
                _ => {}
            },
            Outgoing::Chunk { chunk, .. } => cost.shared = chunk.payload_len() + chunk.header_len(),
            Outgoing::Shared { message, .. } => cost.shared = message.body_len(),
            Outgoing::Message(ServerToClient::Messaging {
                message,
                attachment,
                ..
            }) => cost.own += json_bytes(message) + attachment.len(),
            Outgoing::Message(ServerToClient::RoomStatus { message, .. }) => {
                cost.own += message.len();
            }
            Outgoing::Pong(bytes) => cost.own += bytes.len(),
            Outgoing::Message(_) | Outgoing::Close => {}
        }
        cost
    }

    /// Whether another participant caused the item.
    pub(crate) fn is_of_another(self) -> bool {
        self.speaker.is_some()
    }

    /// Adds the bytes of an item.
    pub(crate) fn add(&mut self, other: Self) {
        self.own += other.own;
        self.shared += other.shared;
    }

    fn subtract(&mut self, other: Self) {
        self.own = self.own.saturating_sub(other.own);
        self.shared = self.shared.saturating_sub(other.shared);
    }

    pub(crate) fn total(self) -> usize {
        self.own + self.shared
    }
}

/// The approximate memory of an answer, in bytes.
pub(crate) fn answer_bytes(content: &Content) -> usize {
    MESSAGE_OVERHEAD_BYTES
        + match content {
            Content::Binary { data, .. } | Content::File { data, .. } => data.len(),
            Content::Text(text) | Content::Error { text, .. } => text.len(),
            Content::Json(value) => json_bytes(value),
            _ => 0,
        }
}

/// The approximate memory of a JSON value, in bytes. The recursion is safe: values that are sent
/// have at most some hundred levels.
fn json_bytes(value: &Value) -> usize {
    /// The cost of a key besides its text, in a map that preserves order.
    const KEY_BYTES: usize = 48;
    let own = size_of::<Value>();
    match value {
        Value::String(text) => own + text.len(),
        Value::Array(values) => own + values.iter().map(json_bytes).sum::<usize>(),
        Value::Object(fields) => {
            let field = |(key, value): (&String, &Value)| KEY_BYTES + key.len() + json_bytes(value);
            own + fields.iter().map(field).sum::<usize>()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => own,
    }
}
