//! A store that blocks its callers as a test wants.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use bytes::Bytes;
use meshagent_store::{
    Batch, DocumentId, Entry, Epoch, FileHead, FileSum, FileVersion, MemoryStore, Seq, Staging,
    Store, StoreStats, StoredDocument, StoredFile, StoredUpdate, Write, WriteError, Written,
};

use super::super::*;

/// A store in which each commit waits for a message, and reads of files and documents for a lock.
/// Commits no longer wait after the sender of the messages is gone.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) inner: MemoryStore,
    go_on: Mutex<mpsc::Receiver<()>>,
    pub(super) files: tokio::sync::RwLock<()>,
    pub(super) documents: tokio::sync::RwLock<()>,
    /// How many documents were loaded.
    pub(super) loads: AtomicUsize,
    /// The path of each file that was opened.
    pub(super) opened: Mutex<Vec<String>>,
    /// Whether no file has the content that its checksum says.
    pub(super) is_damaged: AtomicBool,
    /// The path and length of each part of a file that was read.
    pub(super) parts: Mutex<Vec<(String, usize)>>,
    /// How many entries were looked up; below, how many folders were listed.
    pub(super) stats: AtomicUsize,
    pub(super) lists: AtomicUsize,
    /// Milliseconds that a commit takes; below, a staging step.
    pub(super) commit_takes: AtomicU64,
    pub(super) step_takes: AtomicU64,
}

impl Held {
    pub(super) fn new(go_on: mpsc::Receiver<()>) -> Self {
        Self {
            inner: MemoryStore::new(),
            go_on: Mutex::new(go_on),
            files: tokio::sync::RwLock::default(),
            documents: tokio::sync::RwLock::default(),
            loads: AtomicUsize::new(0),
            opened: Mutex::default(),
            is_damaged: AtomicBool::new(false),
            parts: Mutex::default(),
            stats: AtomicUsize::new(0),
            lists: AtomicUsize::new(0),
            commit_takes: AtomicU64::new(0),
            step_takes: AtomicU64::new(0),
        }
    }
}

impl Store for Held {
    fn take_over(&self, room: &RoomId, from: Option<Epoch>) -> Result<Epoch, StoreError> {
        self.inner.take_over(room, from)
    }

    fn commit_batches(
        &self,
        writes: &[Write],
        batches: &[Batch],
        _staging: Option<&Staging>,
    ) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
        let _ = self.go_on.lock().unwrap().recv();
        sleep(&self.commit_takes);
        self.inner.commit_batches(writes, batches, None)
    }

    fn stage(&self, writes: &[Write], staging: &Staging) -> Result<bool, StoreError> {
        if writes.iter().any(|write| write.bytes() > 0) {
            sleep(&self.step_takes);
        }
        self.inner.stage(writes, staging)
    }

    fn stat(&self, room: &RoomId, path: &str) -> Result<Option<Entry>, StoreError> {
        self.stats.fetch_add(1, Ordering::SeqCst);
        self.inner.stat(room, path)
    }

    fn list(
        &self,
        room: &RoomId,
        folder: &str,
        max: usize,
    ) -> Result<Option<Vec<Entry>>, StoreError> {
        self.lists.fetch_add(1, Ordering::SeqCst);
        self.inner.list(room, folder, max)
    }

    fn load(&self, room: &RoomId, path: &str) -> Result<Option<StoredDocument>, StoreError> {
        let _word = self.documents.blocking_read();
        self.loads.fetch_add(1, Ordering::SeqCst);
        self.inner.load(room, path)
    }

    fn load_by_id(&self, document: DocumentId) -> Result<Option<StoredDocument>, StoreError> {
        self.inner.load_by_id(document)
    }

    fn follow(
        &self,
        document: DocumentId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<StoredUpdate>, StoreError> {
        self.inner.follow(document, after, limit)
    }

    fn provenance(
        &self,
        document: DocumentId,
    ) -> Result<Vec<meshagent_store::ProvenanceRecord>, StoreError> {
        self.inner.provenance(document)
    }

    fn read_file(&self, room: &RoomId, path: &str) -> Result<Option<StoredFile>, StoreError> {
        self.inner.read_file(room, path)
    }

    fn open_file(&self, room: &RoomId, path: &str) -> Result<Option<FileHead>, StoreError> {
        let _word = self.files.blocking_read();
        self.opened.lock().unwrap().push(path.to_owned());
        let mut head = self.inner.open_file(room, path)?;
        if let Some(head) = &mut head
            && self.is_damaged.load(Ordering::SeqCst)
        {
            head.sum = Some(FileSum {
                so_far: 0,
                expected: 1,
            });
        }
        Ok(head)
    }

    fn read_file_range(
        &self,
        room: &RoomId,
        path: &str,
        version: FileVersion,
        start: u64,
        length: usize,
    ) -> Result<Option<Bytes>, StoreError> {
        let part = self
            .inner
            .read_file_range(room, path, version, start, length)?;
        if let Some(part) = &part {
            let read = (path.to_owned(), part.len());
            self.parts.lock().unwrap().push(read);
        }
        Ok(part)
    }

    fn check(&self) -> Result<(), StoreError> {
        self.inner.check()
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        self.inner.stats()
    }
}

fn sleep(millis: &AtomicU64) {
    std::thread::sleep(Duration::from_millis(millis.load(Ordering::SeqCst)));
}
