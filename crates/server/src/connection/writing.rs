//! The writing half of a connection: the outbox to the socket.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use meshagent_ledger::{Account, Held, Pace};
use meshagent_protocol::MessageId;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;

use super::turn::{TURN_BYTES, Turn};
use crate::outbox::{Cost, Outbox, Outgoing};
use crate::room::Conn;
use crate::rooms::{Mailbox, RoomInput};
use crate::websocket::{Opcode, begin_frame, write_frame};

/// The payload of the answer to a client's close frame: code 1000.
const CLOSE_NORMAL: [u8; 2] = 1000_u16.to_be_bytes();

/// Writes what the outbox yields until it is closed and empty, or the peer no longer reads.
pub(super) async fn write_all<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut taking: Taking<'_>,
    conn: Conn,
    mailbox: &Mailbox,
    ping_interval: Duration,
) {
    let mut pings = tokio::time::interval_at(Instant::now() + ping_interval, ping_interval);
    let mut next_id = 0_u64;
    loop {
        let items = tokio::select! {
            biased;
            items = taking.outbox.take() => items,
            _ = pings.tick() => {
                let ping = write_and_flush(&mut writer, Opcode::Ping, b"");
                if !Box::pin(taking.in_time(0, ping)).await {
                    return;
                }
                continue;
            }
        };
        let Some(items) = items else { return };
        let writing = write_items(&mut writer, items, &mut next_id, &mut taking);
        // Boxed for the same reason as the future that handles received packets.
        match Box::pin(writing).await {
            Written::All { catch_up: false } => {}
            Written::All { catch_up: true } => {
                let drained = RoomInput::Drained(conn);
                let sent = mailbox.send(drained, 0, Held::none());
                if Box::pin(sent).await.is_err() {
                    return;
                }
            }
            Written::End => return,
        }
    }
}

/// What a peer has read, as far as the kernel reports it.
pub(super) struct Taken {
    state: Mutex<Progress>,
}

struct Progress {
    /// Bytes since the last query.
    bytes: usize,
    /// When the peer last read something.
    at: Instant,
}

impl Taken {
    pub(super) fn new() -> Self {
        let at = Instant::now();
        Self {
            state: Mutex::new(Progress { bytes: 0, at }),
        }
    }

    fn add(&self, bytes: usize) {
        let mut state = self.lock();
        state.bytes += bytes;
        state.at = Instant::now();
    }

    /// Bytes since the last call.
    fn bytes(&self) -> usize {
        std::mem::take(&mut self.lock().bytes)
    }

    fn at(&self) -> Instant {
        self.lock().at
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket's writer that counts what the peer reads.
pub(super) struct Counting<'a, W> {
    pub(super) inner: W,
    pub(super) taken: &'a Taken,
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Counting<'_, W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(context, bytes))?;
        self.taken.add(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// The state of a peer's reading.
pub(super) struct Taking<'a> {
    pub(super) outbox: &'a Outbox,
    pub(super) account: &'a Account,
    pub(super) taken: &'a Taken,
    /// How long the peer may read nothing.
    pub(super) patience: Duration,
    pub(super) pace: Pace,
    pub(super) turn: Turn,
    pub(super) unreported: Unreported,
}

/// Items that were written and that the outbox does not know of yet. It learns of several together,
/// because each report takes locks.
#[derive(Debug, Default)]
pub(super) struct Unreported {
    cost: Cost,
    /// Whether the reports so far said that a document that skipped this connection can catch up.
    catch_up: bool,
}

impl Taking<'_> {
    /// Counts an item as written. The outbox learns of it before the peer is waited for.
    fn item_written(&mut self, item: Cost) {
        if item.is_of_another() {
            self.unreported.catch_up |= self.outbox.written(item);
            return;
        }
        self.unreported.cost.add(item);
        if self.unreported.cost.total() >= TURN_BYTES {
            self.report();
        }
    }

    fn report(&mut self) {
        let cost = std::mem::take(&mut self.unreported.cost);
        if cost.total() > 0 {
            self.unreported.catch_up |= self.outbox.written(cost);
        }
    }

    /// When a peer that reads nothing more has read nothing for too long.
    fn deadline(&self, began: Instant) -> Instant {
        began.max(self.taken.at()) + self.patience
    }

    /// Waits for a write that belongs to an item of `item` bytes. Returns false if it fails, if the
    /// peer reads nothing for too long, or if it is too slow while others need the memory.
    async fn in_time(
        &mut self,
        item: usize,
        write: impl Future<Output = std::io::Result<()>>,
    ) -> bool {
        let mut write = std::pin::pin!(write);
        // Most writes complete immediately, which needs neither a clock nor a timer.
        let first = std::future::poll_fn(|context| Poll::Ready(write.as_mut().poll(context)));
        if let Poll::Ready(written) = first.await {
            return written.is_ok();
        }
        self.report();
        let began = Instant::now();
        loop {
            let until = self.deadline(began).min(self.pace.ends());
            if let Ok(written) = tokio::time::timeout_at(until, &mut write).await {
                return written.is_ok();
            }
            if self.deadline(began) <= Instant::now() {
                tracing::info!("a peer took nothing for too long; connection dropped");
                return false;
            }
            self.pace.add(self.taken.bytes());
            let queued = self.outbox.queued_bytes();
            if self
                .pace
                .is_in_the_way(self.account, queued, item, Instant::now())
            {
                tracing::info!(
                    "a peer does not take what others need the memory of; connection dropped"
                );
                return false;
            }
        }
    }
}

/// The result of writing several items.
enum Written {
    All {
        /// Whether a document that skipped this connection can catch up.
        catch_up: bool,
    },
    /// The peer no longer reads, or the close frame was sent.
    End,
}

async fn write_items<W: AsyncWrite + Unpin>(
    writer: &mut W,
    items: VecDeque<(Outgoing, Cost)>,
    next_id: &mut u64,
    taking: &mut Taking<'_>,
) -> Written {
    taking.taken.bytes();
    taking.pace.begin(taking.account);
    for (item, cost) in items {
        *next_id += 1;
        let written = match (item.packets(MessageId::from(*next_id)), item) {
            (Some(packets), _) => {
                let mut written = true;
                for packet in packets {
                    written = write_packet(writer, &packet, cost.total(), taking).await;
                    if !written {
                        break;
                    }
                }
                written
            }
            (None, Outgoing::Pong(payload)) => {
                taking
                    .in_time(cost.total(), write_frame(writer, Opcode::Pong, &payload))
                    .await
            }
            (None, _) => {
                let frame = write_and_flush(writer, Opcode::Close, &CLOSE_NORMAL);
                taking.in_time(cost.total(), frame).await;
                return Written::End;
            }
        };
        if !written {
            return Written::End;
        }
        taking.item_written(cost);
    }
    taking.report();
    if taking.in_time(0, writer.flush()).await {
        let catch_up = std::mem::take(&mut taking.unreported.catch_up);
        Written::All { catch_up }
    } else {
        Written::End
    }
}

/// Writes a packet of an item of `item` bytes, and yields to other connections after each piece.
async fn write_packet<W: AsyncWrite + Unpin>(
    writer: &mut W,
    packet: &[u8],
    item: usize,
    taking: &mut Taking<'_>,
) -> bool {
    let (first, rest) = packet.split_at(packet.len().min(TURN_BYTES));
    let begin = begin_frame(writer, Opcode::Binary, packet.len(), first);
    if !taking.in_time(item, begin).await {
        return false;
    }
    taking.turn.take(first.len()).await;
    for piece in rest.chunks(TURN_BYTES) {
        if !taking.in_time(item, writer.write_all(piece)).await {
            return false;
        }
        taking.turn.take(piece.len()).await;
    }
    true
}

async fn write_and_flush<W: AsyncWrite + Unpin>(
    writer: &mut W,
    opcode: Opcode,
    payload: &[u8],
) -> std::io::Result<()> {
    write_frame(writer, opcode, payload).await?;
    writer.flush().await
}

#[cfg(test)]
mod tests;
