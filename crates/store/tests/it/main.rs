//! The stores of this crate against the suite that every store passes.

use meshagent_store::conformance::{self, Subject};
use meshagent_store::{
    DocumentId, FailingStore, Fault, MemoryStore, RoomId, Seq, Store, StoreError, Timestamp, Write,
};

/// What a memory store keeps is the store itself, so there is nothing to close.
struct InMemory<S>(S);

impl<S: Store> Subject for InMemory<S> {
    fn store(&self) -> &dyn Store {
        &self.0
    }

    fn reopen(&mut self) {}
}

#[test]
fn memory_store_conforms() {
    conformance::run(|| InMemory(MemoryStore::new()));
}

#[test]
fn failing_store_conforms_while_it_does_not_fail() {
    conformance::run(|| InMemory(FailingStore::new(MemoryStore::new())));
    conformance::run_random(|| InMemory(FailingStore::new(MemoryStore::new())), 7, 300);
}

#[test]
fn nothing_is_lost_while_calls_fail() {
    for seed in 0..10 {
        conformance::run_faulty(|| InMemory(MemoryStore::new()), seed, 200);
    }
}

#[test]
fn failing_store_fails_where_it_is_told() {
    let store = FailingStore::new(MemoryStore::new());
    let room = RoomId::new("project", "room");
    let create = |path: &str| Write::CreateDocument {
        room: room.clone(),
        path: path.to_owned(),
        schema: "{}".to_owned(),
        state: Vec::new().into(),
        contributions: Vec::new(),
        at: Timestamp(0),
    };
    store.fail_commits(1..3, Fault::Full);
    store.fail_commits(3..4, Fault::Lost);
    store.fail_reads(0..1, Fault::Unavailable);

    assert!(store.commit(&[create("0")]).is_ok());
    assert!(matches!(
        store.commit(&[create("1")]),
        Err(StoreError::Full(_))
    ));
    assert!(matches!(store.check(), Err(StoreError::Full(_))));
    assert!(matches!(
        store.commit(&[create("3")]),
        Err(StoreError::Unavailable(_))
    ));
    assert!(matches!(
        store.load(&room, "0"),
        Err(StoreError::Unavailable(_))
    ));
    let there = |path| store.load(&room, path).unwrap().is_some();
    assert_eq!([there("0"), there("1"), there("3")], [true, false, true]);
    assert_eq!((store.commits(), store.reads()), (4, 4));

    store.fail_reads(0..u64::MAX, Fault::Unavailable);
    assert!(store.load_since(DocumentId(1), Seq(0)).is_err());
    store.recover();
    assert!(store.stats().is_ok());
}
