//! What the rooms of a server use together, where the whole has a bound: documents, open calls, shared frames;
//! and the schemas that they have in common.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;

use crate::schemas::Schemas;

/// Counted by every room; only the bounds are somebody else's.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    documents: AtomicU64,
    streams: AtomicUsize,
    shared_bytes: AtomicUsize,
    schemas: Schemas,
}

impl Usage {
    pub(crate) fn new(documents: u64) -> Self {
        Self {
            documents: AtomicU64::new(documents),
            ..Self::default()
        }
    }

    /// Bytes that connections share, counted until the last of them lets go.
    pub(crate) fn share(self: &Arc<Self>, data: Vec<u8>) -> Bytes {
        self.shared_bytes.fetch_add(data.len(), Ordering::Relaxed);
        Bytes::from_owner(Frame {
            data,
            usage: Arc::clone(self),
        })
    }

    /// The schemas of the documents in memory.
    pub(crate) fn schemas(&self) -> &Schemas {
        &self.schemas
    }

    /// Bytes of the shared frames that are alive.
    pub(crate) fn shared_bytes(&self) -> usize {
        self.shared_bytes.load(Ordering::Relaxed)
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

#[derive(Debug)]
struct Frame {
    data: Vec<u8>,
    usage: Arc<Usage>,
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.usage
            .shared_bytes
            .fetch_sub(self.data.len(), Ordering::Relaxed);
    }
}
