//! The form of a store whose calls may wait without blocking a thread, and the way from one form
//! to the other.
//!
//! [`Store`] is the form of embedded stores: a call returns when the disk has answered.
//! [`Embedded`] makes an [`AsyncStore`] of each, whose answers are ready when they are first
//! polled. [`Blocking`] makes a [`Store`] of an [`AsyncStore`], for tests and tools.

use std::fmt::Debug;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use bytes::Bytes;

use crate::{
    Batch, DocumentId, Entry, Epoch, FileHead, FileVersion, ProvenanceRecord, RoomId, Seq, Staging,
    Store, StoreError, StoreStats, StoredDocument, StoredFile, StoredUpdate, Write, WriteError,
    Written,
};

/// The answer of an [`AsyncStore`]. The call begins when it is polled first. Poll it to its end: a
/// dropped answer has an unknown outcome.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A [`Store`] whose calls may wait; the methods have the same meaning there.
///
/// It needs no particular runtime. A store over a network may require one of its callers, and says
/// so.
#[expect(missing_docs, reason = "`Store` documents each method")]
pub trait AsyncStore: Send + Sync + Debug {
    /// Returns whether the first poll of an answer may take as long as the disk. Then callers poll
    /// on threads that may block, and one commit follows another. Otherwise, callers poll
    /// anywhere, and the commits of different rooms run at the same time.
    fn blocks(&self) -> bool;

    fn commit_batches<'a>(
        &'a self,
        writes: &'a [Write],
        batches: &'a [Batch],
        staging: Option<&'a Staging>,
    ) -> Answer<'a, Vec<Result<Written, WriteError>>>;

    fn take_over<'a>(&'a self, room: &'a RoomId, from: Option<Epoch>) -> Answer<'a, Epoch>;

    fn release<'a>(&'a self, room: &'a RoomId, epoch: Epoch) -> Answer<'a, ()> {
        let _ = (room, epoch);
        ready(())
    }

    fn stage<'a>(&'a self, writes: &'a [Write], staging: &'a Staging) -> Answer<'a, bool> {
        let _ = (writes, staging);
        ready(true)
    }

    fn stat<'a>(&'a self, room: &'a RoomId, path: &'a str) -> Answer<'a, Option<Entry>>;

    fn list<'a>(
        &'a self,
        room: &'a RoomId,
        folder: &'a str,
        max: usize,
    ) -> Answer<'a, Option<Vec<Entry>>>;

    fn load<'a>(&'a self, room: &'a RoomId, path: &'a str) -> Answer<'a, Option<StoredDocument>>;

    fn load_by_id(&self, document: DocumentId) -> Answer<'_, Option<StoredDocument>>;

    fn follow(
        &self,
        document: DocumentId,
        after: Seq,
        limit: usize,
    ) -> Answer<'_, Vec<StoredUpdate>>;

    fn provenance(&self, document: DocumentId) -> Answer<'_, Vec<ProvenanceRecord>>;

    fn read_file<'a>(&'a self, room: &'a RoomId, path: &'a str) -> Answer<'a, Option<StoredFile>>;

    fn open_file<'a>(&'a self, room: &'a RoomId, path: &'a str) -> Answer<'a, Option<FileHead>>;

    fn read_file_range<'a>(
        &'a self,
        room: &'a RoomId,
        path: &'a str,
        version: FileVersion,
        start: u64,
        length: usize,
    ) -> Answer<'a, Option<Bytes>>;

    fn check(&self) -> Answer<'_, ()>;

    fn stats(&self) -> Answer<'_, StoreStats>;

    fn tend(&self) -> Answer<'_, ()> {
        ready(())
    }

    fn free_some(&self) -> Answer<'_, bool> {
        ready(true)
    }

    fn erase(&self) -> Answer<'_, bool> {
        ready(true)
    }

    fn log_bytes(&self) -> u64 {
        0
    }
}

fn ready<T: Send + 'static>(answer: T) -> Answer<'static, T> {
    Box::pin(std::future::ready(Ok(answer)))
}

/// A store whose calls may wait, over one whose calls block.
#[derive(Clone, Debug)]
pub struct Embedded<S>(pub S);

impl<S: Store> AsyncStore for Embedded<S> {
    fn blocks(&self) -> bool {
        true
    }

    fn commit_batches<'a>(
        &'a self,
        writes: &'a [Write],
        batches: &'a [Batch],
        staging: Option<&'a Staging>,
    ) -> Answer<'a, Vec<Result<Written, WriteError>>> {
        Box::pin(async move { self.0.commit_batches(writes, batches, staging) })
    }

    fn take_over<'a>(&'a self, room: &'a RoomId, from: Option<Epoch>) -> Answer<'a, Epoch> {
        Box::pin(async move { self.0.take_over(room, from) })
    }

    fn release<'a>(&'a self, room: &'a RoomId, epoch: Epoch) -> Answer<'a, ()> {
        Box::pin(async move {
            self.0.release(room, epoch);
            Ok(())
        })
    }

    fn stage<'a>(&'a self, writes: &'a [Write], staging: &'a Staging) -> Answer<'a, bool> {
        Box::pin(async move { self.0.stage(writes, staging) })
    }

    fn stat<'a>(&'a self, room: &'a RoomId, path: &'a str) -> Answer<'a, Option<Entry>> {
        Box::pin(async move { self.0.stat(room, path) })
    }

    fn list<'a>(
        &'a self,
        room: &'a RoomId,
        folder: &'a str,
        max: usize,
    ) -> Answer<'a, Option<Vec<Entry>>> {
        Box::pin(async move { self.0.list(room, folder, max) })
    }

    fn load<'a>(&'a self, room: &'a RoomId, path: &'a str) -> Answer<'a, Option<StoredDocument>> {
        Box::pin(async move { self.0.load(room, path) })
    }

    fn load_by_id(&self, document: DocumentId) -> Answer<'_, Option<StoredDocument>> {
        Box::pin(async move { self.0.load_by_id(document) })
    }

    fn follow(
        &self,
        document: DocumentId,
        after: Seq,
        limit: usize,
    ) -> Answer<'_, Vec<StoredUpdate>> {
        Box::pin(async move { self.0.follow(document, after, limit) })
    }

    fn provenance(&self, document: DocumentId) -> Answer<'_, Vec<ProvenanceRecord>> {
        Box::pin(async move { self.0.provenance(document) })
    }

    fn read_file<'a>(&'a self, room: &'a RoomId, path: &'a str) -> Answer<'a, Option<StoredFile>> {
        Box::pin(async move { self.0.read_file(room, path) })
    }

    fn open_file<'a>(&'a self, room: &'a RoomId, path: &'a str) -> Answer<'a, Option<FileHead>> {
        Box::pin(async move { self.0.open_file(room, path) })
    }

    fn read_file_range<'a>(
        &'a self,
        room: &'a RoomId,
        path: &'a str,
        version: FileVersion,
        start: u64,
        length: usize,
    ) -> Answer<'a, Option<Bytes>> {
        Box::pin(async move { self.0.read_file_range(room, path, version, start, length) })
    }

    fn check(&self) -> Answer<'_, ()> {
        Box::pin(async move { self.0.check() })
    }

    fn stats(&self) -> Answer<'_, StoreStats> {
        Box::pin(async move { self.0.stats() })
    }

    fn tend(&self) -> Answer<'_, ()> {
        Box::pin(async move { self.0.tend() })
    }

    fn free_some(&self) -> Answer<'_, bool> {
        Box::pin(async move { self.0.free_some() })
    }

    fn erase(&self) -> Answer<'_, bool> {
        Box::pin(async move { self.0.erase() })
    }

    fn log_bytes(&self) -> u64 {
        self.0.log_bytes()
    }
}

/// Waits on this thread until a future is ready.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let mut future = pin!(future);
    // An embedded store is ready at the first poll, and needs no waker.
    let mut context = Context::from_waker(Waker::noop());
    if let Poll::Ready(answer) = future.as_mut().poll(&mut context) {
        return answer;
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(answer) = future.as_mut().poll(&mut context) {
            return answer;
        }
        thread::park();
    }
}

/// A store whose calls block, over one whose calls wait: for the conformance suite, and for tools.
#[derive(Debug)]
pub struct Blocking<A>(pub A);

impl<A: AsyncStore> Store for Blocking<A> {
    fn commit_batches(
        &self,
        writes: &[Write],
        batches: &[Batch],
        staging: Option<&Staging>,
    ) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
        block_on(self.0.commit_batches(writes, batches, staging))
    }

    fn take_over(&self, room: &RoomId, from: Option<Epoch>) -> Result<Epoch, StoreError> {
        block_on(self.0.take_over(room, from))
    }

    fn release(&self, room: &RoomId, epoch: Epoch) {
        // The next owner does not depend on it.
        let _ = block_on(self.0.release(room, epoch));
    }

    fn stage(&self, writes: &[Write], staging: &Staging) -> Result<bool, StoreError> {
        block_on(self.0.stage(writes, staging))
    }

    fn stat(&self, room: &RoomId, path: &str) -> Result<Option<Entry>, StoreError> {
        block_on(self.0.stat(room, path))
    }

    fn list(
        &self,
        room: &RoomId,
        folder: &str,
        max: usize,
    ) -> Result<Option<Vec<Entry>>, StoreError> {
        block_on(self.0.list(room, folder, max))
    }

    fn load(&self, room: &RoomId, path: &str) -> Result<Option<StoredDocument>, StoreError> {
        block_on(self.0.load(room, path))
    }

    fn load_by_id(&self, document: DocumentId) -> Result<Option<StoredDocument>, StoreError> {
        block_on(self.0.load_by_id(document))
    }

    fn follow(
        &self,
        document: DocumentId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<StoredUpdate>, StoreError> {
        block_on(self.0.follow(document, after, limit))
    }

    fn provenance(&self, document: DocumentId) -> Result<Vec<ProvenanceRecord>, StoreError> {
        block_on(self.0.provenance(document))
    }

    fn read_file(&self, room: &RoomId, path: &str) -> Result<Option<StoredFile>, StoreError> {
        block_on(self.0.read_file(room, path))
    }

    fn open_file(&self, room: &RoomId, path: &str) -> Result<Option<FileHead>, StoreError> {
        block_on(self.0.open_file(room, path))
    }

    fn read_file_range(
        &self,
        room: &RoomId,
        path: &str,
        version: FileVersion,
        start: u64,
        length: usize,
    ) -> Result<Option<Bytes>, StoreError> {
        block_on(self.0.read_file_range(room, path, version, start, length))
    }

    fn check(&self) -> Result<(), StoreError> {
        block_on(self.0.check())
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        block_on(self.0.stats())
    }

    fn tend(&self) -> Result<(), StoreError> {
        block_on(self.0.tend())
    }

    fn free_some(&self) -> Result<bool, StoreError> {
        block_on(self.0.free_some())
    }

    fn erase(&self) -> Result<bool, StoreError> {
        block_on(self.0.erase())
    }

    fn log_bytes(&self) -> u64 {
        self.0.log_bytes()
    }
}
