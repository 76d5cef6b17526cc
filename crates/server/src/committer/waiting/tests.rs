//! Commits and reads of a store that waits.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use meshagent_store::{
    Answer, DocumentId, Embedded, Entry, Epoch, FailingStore, Fault, FileHead, FileVersion,
    MemoryStore, ProvenanceRecord, RoomId, Seq, StoreStats, StoredDocument, StoredFile,
    StoredUpdate, Timestamp,
};
use tokio::sync::Semaphore;

use super::*;
use crate::committer::Committer;

/// A store whose commits and reads in the room `slow` wait until the test opens the gate.
#[derive(Debug)]
pub(crate) struct Gated {
    store: Arc<FailingStore<MemoryStore>>,
    pub(crate) gate: Semaphore,
    waiting: AtomicU64,
}

impl Gated {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            store: Arc::new(FailingStore::new(MemoryStore::new())),
            gate: Semaphore::new(0),
            waiting: AtomicU64::new(0),
        })
    }

    fn inner(&self) -> Embedded<Arc<FailingStore<MemoryStore>>> {
        Embedded(Arc::clone(&self.store))
    }

    async fn pass(&self, room: &RoomId) {
        if &*room.room == "slow" {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            self.gate.acquire().await.unwrap().forget();
        }
    }

    pub(crate) async fn wait_for(&self, waiting: u64) {
        while self.waiting.load(Ordering::SeqCst) < waiting {
            tokio::task::yield_now().await;
        }
    }
}

/// Forwards these calls without a wait.
macro_rules! forward {
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        $(fn $name<'a>(&'a self, $($argument: $type),*) -> Answer<'a, $answer> {
            Box::pin(async move { self.inner().$name($($argument),*).await })
        })*
    };
}

impl AsyncStore for Gated {
    fn blocks(&self) -> bool {
        false
    }

    fn commit_batches<'a>(
        &'a self,
        writes: &'a [Write],
        batches: &'a [Batch],
        staging: Option<&'a Staging>,
    ) -> Answer<'a, Vec<Result<Written, WriteError>>> {
        Box::pin(async move {
            self.pass(&batches[0].room).await;
            self.inner().commit_batches(writes, batches, staging).await
        })
    }

    fn stat<'a>(&'a self, room: &'a RoomId, path: &'a str) -> Answer<'a, Option<Entry>> {
        Box::pin(async move {
            self.pass(room).await;
            self.inner().stat(room, path).await
        })
    }

    forward! {
        take_over(room: &'a RoomId, from: Option<Epoch>) -> Epoch;
        list(room: &'a RoomId, folder: &'a str, max: usize) -> Option<Vec<Entry>>;
        load(room: &'a RoomId, path: &'a str) -> Option<StoredDocument>;
        read_file(room: &'a RoomId, path: &'a str) -> Option<StoredFile>;
        open_file(room: &'a RoomId, path: &'a str) -> Option<FileHead>;
        read_file_range(
            room: &'a RoomId, path: &'a str, version: FileVersion, start: u64, length: usize
        ) -> Option<Bytes>;
    }

    fn load_by_id(&self, document: DocumentId) -> Answer<'_, Option<StoredDocument>> {
        Box::pin(async move { self.inner().load_by_id(document).await })
    }

    fn follow(
        &self,
        document: DocumentId,
        after: Seq,
        limit: usize,
    ) -> Answer<'_, Vec<StoredUpdate>> {
        Box::pin(async move { self.inner().follow(document, after, limit).await })
    }

    fn provenance(&self, document: DocumentId) -> Answer<'_, Vec<ProvenanceRecord>> {
        Box::pin(async move { self.inner().provenance(document).await })
    }

    fn check(&self) -> Answer<'_, ()> {
        Box::pin(async move { self.inner().check().await })
    }

    fn stats(&self) -> Answer<'_, StoreStats> {
        Box::pin(async move { self.inner().stats().await })
    }
}

fn put(room: &str, path: &str) -> Vec<Write> {
    vec![Write::PutFile {
        room: RoomId::new("project", room),
        path: path.to_owned(),
        data: "größe".into(),
        mime_type: String::new(),
        overwrite: true,
        at: Timestamp(1),
    }]
}

fn owner(room: &str) -> Arc<Owner> {
    Owner::new(RoomId::new("project", room))
}

#[tokio::test]
async fn a_commit_that_waits_delays_no_other_room() {
    let store = Gated::new();
    let (committer, thread) =
        Committer::start(Arc::<Gated>::clone(&store), Arc::new(Metrics::new())).unwrap();
    let mut slow = committer.submit(&owner("slow"), put("slow", "a")).await;
    store.wait_for(1).await;
    for number in 0..20 {
        let room = format!("größe {number}");
        let other = committer.submit(&owner(&room), put(&room, "a")).await;
        assert!(other.await.unwrap().0.unwrap()[0].is_ok());
    }
    committer.ready().await.unwrap();
    assert!(slow.try_recv().is_err());
    store.gate.add_permits(1);
    assert!(slow.await.unwrap().0.unwrap()[0].is_ok());
    // A stop waits for what is in flight.
    let last = committer.submit(&owner("slow"), put("slow", "b")).await;
    store.wait_for(2).await;
    drop(committer);
    assert!(!thread.is_finished());
    store.gate.add_permits(1);
    assert!(last.await.unwrap().0.unwrap()[0].is_ok());
    thread.join().unwrap();
}

#[tokio::test]
async fn an_unknown_outcome_is_looked_up_here_as_well() {
    for (fault, is_stored) in [(Fault::Lost, true), (Fault::Late, false)] {
        let store = Gated::new();
        let (committer, thread) =
            Committer::start(Arc::<Gated>::clone(&store), Arc::new(Metrics::new())).unwrap();
        store.store.fail_commits(0..1, fault);
        let reads = store.store.reads();
        store.store.fail_reads(reads..reads + 1, Fault::Unavailable);
        let result = committer.submit(&owner("a"), put("a", "ä")).await;
        let results = result.await.unwrap().0.unwrap();
        assert_eq!(results[0].is_ok(), is_stored, "{fault:?}");
        let late = store.store.land().unwrap();
        assert!(late.iter().all(Result::is_err), "{late:?}");
        drop(committer);
        thread.join().unwrap();
    }
}

#[tokio::test]
async fn reads_that_wait_hold_no_thread() {
    const READS: u64 = 10_000;
    let store = Gated::new();
    let room = RoomId::new("project", "slow");
    let mut reads = JoinSet::new();
    for _ in 0..READS {
        let (store, room) = (Arc::clone(&store), room.clone());
        reads.spawn(async move { store.stat(&room, "").await.unwrap() });
    }
    store.wait_for(READS).await;
    assert!(reads.try_join_next().is_none());
    store.gate.add_permits(usize::try_from(READS).unwrap());
    while let Some(read) = reads.join_next().await {
        assert!(read.unwrap().is_some());
    }
}
