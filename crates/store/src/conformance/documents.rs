//! Checks of documents: their logs, snapshots, ids, and batches.

use bytes::Bytes;

use super::{
    Check, Subject, append, commit, commit_ok, contribution, create, created, delete, load, put,
    rename, room, snapshot,
};
use crate::{
    DocumentId, Seq, Store, StoreError, StoreStats, StoredUpdate, Timestamp, Write, WriteError,
    Written,
};

pub(super) const CHECKS: &[Check] = &[
    document_survives_reopening,
    load_by_id_follows_moves,
    state_at_creation_is_the_first_update,
    updates_are_numbered_without_gaps,
    follow_returns_at_most_the_limit,
    snapshot_replaces_merged_updates,
    numbering_continues_after_a_full_snapshot,
    snapshot_out_of_range_is_refused,
    ids_are_never_reused,
    refused_write_affects_only_itself,
    later_writes_of_a_batch_see_earlier_ones,
    any_bytes_are_stored,
    stats_count_everything,
];

fn document_survives_reopening(subject: &mut dyn Subject) {
    let document = created(subject.store(), "notes/a.thread", b"state");
    commit_ok(subject.store(), append(document, b"one"));
    let before = load(subject.store(), "notes/a.thread");
    subject.reopen();
    let after = load(subject.store(), "notes/a.thread");
    assert_eq!(after, before);
    assert_eq!(after.document, document);
    assert_eq!(after.schema, r#"{"root": "thread" }"#, "stored verbatim");
    assert_eq!(
        (after.created_at, after.updated_at),
        (Timestamp(1), Timestamp(2))
    );
    let first = StoredUpdate {
        seq: Seq(1),
        update: Bytes::from_static(b"state"),
        contributions: vec![contribution("ada", 1)],
        at: Timestamp(1),
    };
    let second = StoredUpdate {
        seq: Seq(2),
        update: Bytes::from_static(b"one"),
        contributions: vec![contribution("bob", 2)],
        at: Timestamp(2),
    };
    assert_eq!(after.updates, [first, second]);
    subject.store().check().expect("the store is ready");
}

fn load_by_id_follows_moves(subject: &mut dyn Subject) {
    let document = created(subject.store(), "notes/ä.thread", b"state");
    let other = created(subject.store(), "b.thread", b"other");
    commit_ok(subject.store(), append(document, b"one"));
    commit_ok(subject.store(), snapshot(document, 2, b"state and one"));
    commit_ok(subject.store(), append(document, b"two"));
    let by_id = |store: &dyn Store, document| store.load_by_id(document).expect("a read");
    assert_eq!(
        by_id(subject.store(), document),
        Some(load(subject.store(), "notes/ä.thread"))
    );
    commit_ok(subject.store(), rename("notes", "b.thread", true));
    commit_ok(subject.store(), append(document, b"three"));
    subject.reopen();
    let moved = by_id(subject.store(), document).expect("the move kept the document");
    assert_eq!(moved, load(subject.store(), "b.thread/ä.thread"));
    assert_eq!(moved.last_seq, Seq(4));
    assert!(by_id(subject.store(), other).is_some());
    commit_ok(
        subject.store(),
        rename("b.thread/ä.thread", "b.thread", true),
    );
    assert_eq!(by_id(subject.store(), other), None, "the move replaced it");
    commit_ok(subject.store(), delete("b.thread", false));
    for gone in [document, DocumentId(u64::MAX), DocumentId(0)] {
        assert_eq!(by_id(subject.store(), gone), None);
    }
    commit_ok(
        subject.store(),
        put("file", b"a file uses an id too", false),
    );
    let last = created(subject.store(), "last", b"");
    for id in 0..last.0 {
        assert_eq!(by_id(subject.store(), DocumentId(id)), None);
    }
}

fn state_at_creation_is_the_first_update(subject: &mut dyn Subject) {
    let store = subject.store();
    let seq = |written| match written {
        Written::Created { seq, .. } => seq,
        other => panic!("expected a document, got {other:?}"),
    };
    assert_eq!(seq(commit_ok(store, create("empty", b""))), Seq(0));
    assert_eq!(seq(commit_ok(store, create("full", b"state"))), Seq(1));
    let empty = load(store, "empty");
    assert_eq!(
        (empty.last_seq, empty.updates.len(), empty.snapshot),
        (Seq(0), 0, None)
    );
    assert_eq!(load(store, "full").last_seq, Seq(1));
    assert_eq!(
        commit_ok(store, append(empty.document, b"x")),
        Written::Appended { seq: Seq(1) }
    );
}

fn updates_are_numbered_without_gaps(subject: &mut dyn Subject) {
    let document = created(subject.store(), "a", b"");
    for expected in 1..=10 {
        if expected == 6 {
            subject.reopen();
        }
        let written = commit_ok(
            subject.store(),
            append(document, &[u8::try_from(expected).unwrap_or(0)]),
        );
        assert_eq!(written, Written::Appended { seq: Seq(expected) });
    }
    let loaded = load(subject.store(), "a");
    assert_eq!(loaded.last_seq, Seq(10));
    assert!(loaded.updates.iter().map(|update| update.seq.0).eq(1..=10));
    assert!(
        loaded
            .updates
            .iter()
            .map(|update| u64::from(update.update[0]))
            .eq(1..=10)
    );
}

fn follow_returns_at_most_the_limit(subject: &mut dyn Subject) {
    let store = subject.store();
    let document = created(store, "a", b"");
    let other = created(store, "b", b"");
    for _ in 0..5 {
        commit_ok(store, append(document, b"x"));
        commit_ok(store, append(other, b"y"));
    }
    let seqs = |updates: Vec<StoredUpdate>| {
        updates
            .iter()
            .map(|update| update.seq.0)
            .collect::<Vec<_>>()
    };
    let follow = |after, limit| {
        seqs(
            store
                .follow(document, Seq(after), limit)
                .expect("the document is there"),
        )
    };
    assert_eq!(follow(0, 2), [1, 2]);
    assert_eq!(follow(2, 2), [3, 4]);
    assert_eq!(follow(4, 2), [5]);
    assert_eq!(follow(5, 2), [0; 0]);
    assert_eq!(follow(u64::MAX, 2), [0; 0]);
    assert_eq!(follow(0, 0), [0; 0]);
    assert_eq!(
        seqs(
            store
                .load_since(document, Seq(3))
                .expect("the document is there")
        ),
        [4, 5]
    );
}

fn snapshot_replaces_merged_updates(subject: &mut dyn Subject) {
    let document = created(subject.store(), "a", b"");
    for update in [b"1", b"2", b"3", b"4"] {
        commit_ok(subject.store(), append(document, update));
    }
    assert_eq!(
        commit_ok(subject.store(), snapshot(document, 3, b"123")),
        Written::Snapshotted
    );
    subject.reopen();
    let store = subject.store();
    let loaded = load(store, "a");
    assert_eq!(loaded.snapshot.as_deref(), Some(&b"123"[..]));
    assert_eq!((loaded.snapshot_seq, loaded.last_seq), (Seq(3), Seq(4)));
    assert_eq!(loaded.updates.len(), 1);
    assert_eq!(loaded.updates[0].seq, Seq(4));
    assert_eq!(
        loaded.updated_at,
        Timestamp(2),
        "a snapshot is not a change of the document"
    );
    match store.load_since(document, Seq(2)) {
        Err(StoreError::Compacted {
            document: named,
            through: Seq(3),
        }) => assert_eq!(named, document),
        other => panic!("expected `Compacted`, found {other:?}"),
    }
    assert_eq!(
        store
            .load_since(document, Seq(3))
            .expect("the updates are in the log")
            .len(),
        1
    );
}

fn numbering_continues_after_a_full_snapshot(subject: &mut dyn Subject) {
    let document = created(subject.store(), "a", b"0");
    commit_ok(subject.store(), append(document, b"1"));
    commit_ok(subject.store(), snapshot(document, 2, b"01"));
    subject.reopen();
    assert_eq!(load(subject.store(), "a").last_seq, Seq(2));
    assert_eq!(
        commit_ok(subject.store(), append(document, b"2")),
        Written::Appended { seq: Seq(3) }
    );
    commit_ok(subject.store(), snapshot(document, 3, b"012"));
    let loaded = load(subject.store(), "a");
    assert_eq!(
        (loaded.snapshot.as_deref(), loaded.updates.len()),
        (Some(&b"012"[..]), 0)
    );
}

fn snapshot_out_of_range_is_refused(subject: &mut dyn Subject) {
    let store = subject.store();
    let document = created(store, "a", b"0");
    commit_ok(store, append(document, b"1"));
    commit_ok(store, snapshot(document, 1, b"0"));
    let before = load(store, "a");
    for through in [0, 3, u64::MAX] {
        assert_eq!(
            commit(store, snapshot(document, through, b"?")),
            Err(WriteError::SnapshotOutOfRange {
                document,
                through: Seq(through)
            })
        );
    }
    assert_eq!(load(store, "a"), before);
    commit_ok(store, snapshot(document, 1, b"0 again"));
}

fn ids_are_never_reused(subject: &mut dyn Subject) {
    let document = created(subject.store(), "a", b"0");
    commit_ok(subject.store(), delete("a", false));
    subject.reopen();
    let store = subject.store();
    let next = created(store, "a", b"1");
    assert_ne!(next, document);
    for gone in [document, DocumentId(u64::MAX)] {
        let error = Err(WriteError::NoSuchDocument { document: gone });
        assert_eq!(commit(store, append(gone, b"late")), error);
        assert_eq!(commit(store, snapshot(gone, 1, b"late")), error);
        assert!(matches!(
            store.load_since(gone, Seq(0)),
            Err(StoreError::NoSuchDocument { .. })
        ));
    }
    assert_eq!(load(store, "a").updates.len(), 1);
}

fn refused_write_affects_only_itself(subject: &mut dyn Subject) {
    let document = created(subject.store(), "a", b"");
    let batch = [
        append(document, b"1"),
        create("a", b"!"),
        put("f", b"data", false),
        delete("nowhere", true),
    ];
    let results = subject
        .store()
        .commit(&batch)
        .expect("the store is in order");
    assert_eq!(
        results,
        [
            Ok(Written::Appended { seq: Seq(1) }),
            Err(WriteError::AlreadyExists { path: "a".into() }),
            Ok(Written::Put { replaced: false }),
            Err(WriteError::NotFound {
                path: "nowhere".into()
            }),
        ]
    );
    subject.reopen();
    assert_eq!(load(subject.store(), "a").updates.len(), 1);
    assert!(
        subject
            .store()
            .read_file(&room(), "f")
            .expect("the store is in order")
            .is_some()
    );
    assert_eq!(
        subject
            .store()
            .commit(&[])
            .expect("an empty batch succeeds"),
        []
    );
}

fn later_writes_of_a_batch_see_earlier_ones(subject: &mut dyn Subject) {
    let store = subject.store();
    let document = created(store, "a", b"");
    let batch = [
        append(document, b"1"),
        append(document, b"2"),
        snapshot(document, 2, b"12"),
        delete("a", false),
    ];
    let mut results = store.commit(&batch).expect("the store is in order");
    results.extend(
        store
            .commit(&[create("a", b""), create("a", b"")])
            .expect("the store is in order"),
    );
    let succeeded: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(succeeded, [true, true, true, true, true, false]);
}

fn any_bytes_are_stored(subject: &mut dyn Subject) {
    let odd = "nul \0, quote ', percent %, ünïcode, \u{1F4DD}, \u{202e}";
    let large: Vec<u8> = (0..3_000_000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let write = Write::CreateDocument {
        room: room(),
        path: odd.to_owned(),
        schema: odd.to_owned(),
        state: Bytes::from(large.clone()),
        contributions: Vec::new(),
        at: Timestamp(i64::MIN),
    };
    let document = match commit_ok(subject.store(), write) {
        Written::Created { document, .. } => document,
        other => panic!("expected a document, got {other:?}"),
    };
    commit_ok(subject.store(), append(document, b""));
    subject.reopen();
    let loaded = load(subject.store(), odd);
    assert_eq!(loaded.schema, odd);
    assert!(
        loaded.updates[0].update == large,
        "the bytes differ from those that were written"
    );
    assert_eq!(loaded.updates[0].at, Timestamp(i64::MIN));
    assert!(loaded.updates[1].update.is_empty());
}

fn stats_count_everything(subject: &mut dyn Subject) {
    assert_eq!(
        subject.store().stats().expect("the store is in order"),
        StoreStats::default()
    );
    let document = created(subject.store(), "a", b"12345");
    commit_ok(subject.store(), append(document, b"678"));
    commit_ok(subject.store(), put("f", b"1234", false));
    let stats = |subject: &dyn Subject| subject.store().stats().expect("the store is in order");
    assert_eq!(
        stats(subject),
        StoreStats {
            documents: 1,
            files: 1,
            bytes: 12
        }
    );
    commit_ok(subject.store(), snapshot(document, 1, b"1"));
    commit_ok(subject.store(), put("f", b"12", true));
    assert_eq!(
        stats(subject),
        StoreStats {
            documents: 1,
            files: 1,
            bytes: 6
        }
    );
    subject.reopen();
    let size = subject
        .store()
        .stat(&room(), "a")
        .expect("the store is in order")
        .and_then(|entry| entry.size);
    assert_eq!(size, Some(4));
    commit_ok(subject.store(), delete("", true));
    assert_eq!(stats(subject), StoreStats::default());
}
