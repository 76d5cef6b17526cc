//! The stores of this crate, checked by the conformance suite.

use meshagent_store::conformance::{self, Subject};
use meshagent_store::{
    Batch, Blocking, DocumentId, Embedded, FailingStore, Fault, MemoryStore, RoomId, Seq, Store,
    StoreError, Timestamp, Write, WriteError,
};

/// A store in memory keeps its data only while it exists, so closing it has no meaning.
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
fn failing_store_conforms_without_failures() {
    conformance::run(|| InMemory(FailingStore::new(MemoryStore::new())));
    conformance::run_random(|| InMemory(FailingStore::new(MemoryStore::new())), 7, 300);
}

#[test]
fn memory_store_loses_nothing_while_calls_fail() {
    for seed in 0..10 {
        conformance::run_faulty(|| InMemory(MemoryStore::new()), seed, 200);
    }
}

#[test]
fn failing_store_fails_as_planned() {
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
        Err(StoreError::Unknown(_))
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

#[test]
fn failing_store_refuses_writes_behind_a_refused_update() {
    let store = FailingStore::new(MemoryStore::new());
    let create = |path: &str| Write::CreateDocument {
        room: RoomId::new("project", "room"),
        path: path.to_owned(),
        schema: "{}".to_owned(),
        state: Vec::new().into(),
        contributions: Vec::new(),
        at: Timestamp(0),
    };
    store.commit(&[create("a"), create("ä")]).unwrap();
    let append = |document, update: &'static str| Write::Append {
        document: DocumentId(document),
        end: None,
        update: update.into(),
        contributions: Vec::new(),
        at: Timestamp(0),
    };
    let snapshot = |document| Write::Snapshot {
        document: DocumentId(document),
        end: None,
        through: Seq(1),
        state: "state".into(),
        fold_before: Timestamp(0),
    };
    store.refuse_appends(1..2);
    let batch = [
        append(1, "before"),
        append(1, "refused"),
        append(2, "other"),
        append(1, "behind"),
        snapshot(1),
        snapshot(2),
    ];
    let results = store.commit(&batch).unwrap();
    let behind = Err(WriteError::Behind {
        document: DocumentId(1),
    });
    assert!(matches!(results[1], Err(WriteError::TooLarge { .. })));
    assert_eq!(results[3..5], [behind.clone(), behind]);
    assert!([0, 2, 5].iter().all(|index| results[*index].is_ok()));
    let refused = store.take_refused();
    let refused: Vec<&[u8]> = refused.iter().map(|(_, update)| &update[..]).collect();
    assert_eq!(refused, [&b"refused"[..], b"behind"]);
    let left = store.load_since(DocumentId(1), Seq(0)).unwrap();
    assert_eq!(left.len(), 1);
}

#[test]
fn failing_store_plays_unknown_outcomes() {
    let room = RoomId::new("project", "größe");
    let create = |path: &str| Write::CreateDocument {
        room: room.clone(),
        path: path.to_owned(),
        schema: "{}".to_owned(),
        state: Vec::new().into(),
        contributions: Vec::new(),
        at: Timestamp(0),
    };
    let store = FailingStore::new(MemoryStore::new());
    let epoch = store.take_over(&room, None).unwrap();
    let commit = |epoch, path: &str| {
        let batch = Batch {
            room: room.clone(),
            epoch,
            writes: 1,
        };
        store.commit_batches(&[create(path)], &[batch], None)
    };
    let is_there = |path| store.load(&room, path).unwrap().is_some();
    store.fail_commits(0..1, Fault::Lost);
    store.fail_commits(1..2, Fault::Dropped);
    store.fail_commits(2..4, Fault::Late);
    for path in ["lost", "dropped", "late"] {
        assert!(matches!(commit(epoch, path), Err(StoreError::Unknown(_))));
    }
    assert_eq!(
        ["lost", "dropped", "late"].map(is_there),
        [true, false, false]
    );
    assert!(store.land().unwrap().iter().all(Result::is_ok));
    assert!(is_there("late"));
    // What arrives after a renewal is refused.
    assert!(matches!(
        commit(epoch, "fenced"),
        Err(StoreError::Unknown(_))
    ));
    store.take_over(&room, Some(epoch)).unwrap();
    let late = store.land().unwrap();
    assert!(
        matches!(late[..], [Err(WriteError::Fenced { .. })]),
        "{late:?}"
    );
    assert!(!is_there("fenced"));
    assert_eq!(store.land().unwrap(), []);
}

#[test]
fn store_whose_calls_wait_conforms() {
    let make = || InMemory(Blocking(Embedded(MemoryStore::new())));
    conformance::run(make);
    conformance::run_random(make, 3, 100);
}
