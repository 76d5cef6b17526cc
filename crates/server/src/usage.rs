//! What the rooms of a server use together, where the whole has a bound: documents, open calls, shared frames;
//! and the schemas that they have in common.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use meshagent_protocol::{ServerToClient, SharedMessage};

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
    pub(crate) fn take_document(&self, max: u64) -> bool {
        let take = |count| (count < max).then_some(count + 1);
        self.documents
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }

    /// So many documents are gone, or were not created after all.
    pub(crate) fn release_documents(&self, gone: u64) {
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
