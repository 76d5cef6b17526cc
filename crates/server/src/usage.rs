//! Resources that the rooms of a server share within common bounds: documents, open calls, shared
//! frames and schemas.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use meshagent_ledger::{Account, Bounds, Charge, Kind, Ledger, OpenMemory};
use meshagent_protocol::{ServerToClient, SharedMessage};
use meshagent_store::{Removed, WriteError, Written};

use crate::config::Limits;
use crate::schemas::Schemas;

/// Counters that every room updates. Callers pass the bounds on documents and calls.
#[derive(Debug)]
pub(crate) struct Usage {
    documents: AtomicU64,
    streams: AtomicUsize,
    /// For bytes that connections share.
    common: Arc<Account>,
    /// For the heads of all HTTP requests.
    heads: Arc<Account>,
    ledger: Arc<Ledger>,
    schemas: Schemas,
    open: Arc<OpenMemory>,
}

impl Usage {
    pub(crate) fn new(documents: u64, limits: &Limits) -> Self {
        let ledger = Ledger::new(Bounds {
            server: limits.max_held_bytes,
            received: limits.max_receive_bytes,
        });
        Self {
            documents: AtomicU64::new(documents),
            streams: AtomicUsize::new(0),
            common: ledger.common(),
            heads: ledger.common(),
            ledger,
            schemas: Schemas::default(),
            open: Arc::default(),
        }
    }

    /// The ledger of memory held for all peers.
    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// The account of peers that are not identified yet.
    pub(crate) fn heads(&self) -> &Arc<Account> {
        &self.heads
    }

    /// Bytes that connections share, charged until the last of them is dropped.
    pub(crate) fn share(&self, data: Vec<u8>) -> Bytes {
        let charge = self.common.charge_anyway(Kind::Shared, data.len());
        share(data, charge)
    }

    /// Charges shared bytes before they are made. `None` if they don't fit: shared bytes have a
    /// bound, and beyond a quarter of it they respect the bound of everything held. Bytes that are
    /// alone always fit.
    pub(crate) fn reserve(&self, bytes: usize, limits: &Limits) -> Option<Charge> {
        // Charged before the check, so that two rooms never take the same space.
        let charge = self.common.charge_anyway(Kind::Shared, bytes);
        let (shared, max) = (self.shared_bytes(), limits.max_shared_bytes);
        let fits =
            shared <= max && (shared <= max / 4 || self.ledger.held() <= limits.max_held_bytes);
        (fits || shared <= bytes).then_some(charge)
    }

    /// The account of memory held for many peers together.
    pub(crate) fn common(&self) -> &Arc<Account> {
        &self.common
    }

    /// Charges the result of a read, which has bounds of its own.
    pub(crate) fn charge_read(&self, bytes: usize) -> Charge {
        self.common.charge_anyway(Kind::Read, bytes)
    }

    /// The schemas of the documents in memory.
    pub(crate) fn schemas(&self) -> &Schemas {
        &self.schemas
    }

    /// The memory of the documents in memory.
    pub(crate) fn open(&self) -> &Arc<OpenMemory> {
        &self.open
    }

    /// Bytes of the shared frames that are alive.
    pub(crate) fn shared_bytes(&self) -> usize {
        self.ledger.held_of(Kind::Shared)
    }

    /// Documents in the store, and those that are being created.
    pub(crate) fn documents(&self) -> u64 {
        self.documents.load(Ordering::Relaxed)
    }

    /// Takes a place for one more document, if there are fewer than `max`.
    pub(crate) fn take_document(self: &Arc<Self>, max: u64) -> Option<DocumentPlace> {
        let take = |count| (count < max).then_some(count + 1);
        let taken = self
            .documents
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.ok().map(|_| DocumentPlace {
            usage: Arc::clone(self),
            is_kept: false,
        })
    }

    /// Releases the places of documents that the store has removed.
    pub(crate) fn settle_removed(&self, written: &[Result<Written, WriteError>]) {
        let gone = written.iter().flatten().map(|written| match written {
            Written::Deleted { entries } => documents(entries),
            Written::Moved { replaced, .. } => documents(replaced),
            _ => 0,
        });
        self.release_documents(gone.sum());
    }

    /// Counts documents that the store has created for a room that panicked before it learned of
    /// them.
    pub(crate) fn settle_created(&self, written: &[Result<Written, WriteError>]) {
        let created = written.iter().flatten();
        let created = created.filter(|written| matches!(written, Written::Created { .. }));
        self.documents
            .fetch_add(created.count() as u64, Ordering::Relaxed);
    }

    fn release_documents(&self, gone: u64) {
        let release = |count: u64| Some(count.saturating_sub(gone));
        // The closure always returns `Some`.
        let _ = self
            .documents
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, release);
    }

    /// Open streamed calls.
    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Takes a place for one more call, if there are fewer than `max`.
    pub(crate) fn take_stream(&self, max: usize) -> bool {
        let take = |count| (count < max).then_some(count + 1);
        self.streams
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }

    /// Releases the place of a call that has ended.
    pub(crate) fn release_stream(&self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A document's place among those of the server, released on drop unless it is kept.
#[derive(Debug)]
pub(crate) struct DocumentPlace {
    usage: Arc<Usage>,
    is_kept: bool,
}

impl DocumentPlace {
    /// Keeps the place, because the document is stored.
    pub(crate) fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for DocumentPlace {
    fn drop(&mut self) {
        if !self.is_kept {
            self.usage.release_documents(1);
        }
    }
}

fn documents(removed: &[Removed]) -> u64 {
    let documents = removed.iter().filter(|entry| entry.document.is_some());
    documents.count() as u64
}

/// The cost of a shared message besides its bytes, until its last reader has read it.
const MESSAGE_BYTES: usize = 256;

/// Bytes whose last reader releases the charge.
pub(crate) fn share<T>(data: T, charge: Charge) -> Bytes
where
    T: AsRef<[u8]> + Send + 'static,
{
    if data.as_ref().is_empty() {
        return Bytes::new();
    }
    Bytes::from_owner(Frame {
        data,
        _charge: charge,
    })
}

/// A shared message to others, charged to the participant that caused it until all have read it.
pub(crate) fn share_news(news: &ServerToClient, account: &Arc<Account>) -> SharedMessage {
    let message = SharedMessage::of(news);
    let charge = account.charge_anyway(Kind::Shared, message.body_len() + MESSAGE_BYTES);
    message.held_by(|head| share(head, charge))
}

#[derive(Debug)]
struct Frame<T> {
    data: T,
    _charge: Charge,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Frame<T> {
    fn as_ref(&self) -> &[u8] {
        self.data.as_ref()
    }
}
