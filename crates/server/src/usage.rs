//! What the rooms of a server use together, where the whole has a bound: documents, open calls, shared frames;
//! and the schemas that they have in common.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use meshagent_protocol::{ServerToClient, SharedMessage};
use meshagent_store::{Removed, WriteError, Written};

use crate::config::Limits;
use crate::ledger::{Account, Bounds, Charge, Kind, Ledger};
use crate::open_memory::OpenMemory;
use crate::schemas::Schemas;

/// Counted by every room; only the bounds are somebody else's.
#[derive(Debug)]
pub(crate) struct Usage {
    documents: AtomicU64,
    streams: AtomicUsize,
    /// Of what the connections share.
    common: Arc<Account>,
    /// Of the heads of all HTTP requests.
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

    /// What is held for all peers.
    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// The account of those who are not known yet.
    pub(crate) fn heads(&self) -> &Arc<Account> {
        &self.heads
    }

    /// Bytes that connections share, counted until the last of them lets go.
    pub(crate) fn share(&self, data: Vec<u8>) -> Bytes {
        let charge = self.common.charge_anyway(Kind::Shared, data.len());
        share(data, charge)
    }

    /// The account of what is held for many, or for nobody in particular.
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

    /// What the documents in memory take.
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

    /// The store has done what a room asked it for: documents that were deleted have no place any more.
    pub(crate) fn settle_removed(&self, written: &[Result<Written, WriteError>]) {
        let gone = written.iter().flatten().map(|written| match written {
            Written::Deleted { entries } => documents(entries),
            Written::Moved { replaced, .. } => documents(replaced),
            _ => 0,
        });
        self.release_documents(gone.sum());
    }

    /// The store has made documents of which their room does not know, as it panicked.
    pub(crate) fn settle_created(&self, written: &[Result<Written, WriteError>]) {
        let created = written.iter().flatten();
        let created = created.filter(|written| matches!(written, Written::Created { .. }));
        self.documents
            .fetch_add(created.count() as u64, Ordering::Relaxed);
    }

    fn release_documents(&self, gone: u64) {
        let release = |count: u64| Some(count.saturating_sub(gone));
        // Never refused.
        let _ = self
            .documents
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, release);
    }

    /// Streamed calls that are open.
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

    /// A call ended.
    pub(crate) fn release_stream(&self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A document's place among all of the server. Unless it is kept, it is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct DocumentPlace {
    usage: Arc<Usage>,
    is_kept: bool,
}

impl DocumentPlace {
    /// The document is stored.
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

/// What a message of others counts for, besides its bytes, until the last of them has read it.
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

/// News for others, which whoever caused them pays until the last of them has read it.
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
