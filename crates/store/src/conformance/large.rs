//! Checks of staged content: it is invisible before its commit, and complete after it.

#![expect(
    clippy::unwrap_used,
    reason = "a step that fails is the result of the check"
)]

use bytes::Bytes;

use super::{
    Check, Subject, append, commit_in_steps, commit_ok, create, created, delete, load, names, put,
    rename, room, snapshot,
};
use crate::{DocumentId, Seq, Staging, Store, Write, WriteError, Written};

pub(super) const CHECKS: &[Check] = &[
    staged_batch_equals_unstaged_batch,
    large_content_needs_no_staging,
    staged_content_is_invisible_before_its_commit,
    staged_writes_are_refused_like_unstaged_ones,
    large_content_replaces_and_is_replaced,
    large_content_can_be_deleted_and_moved,
    conflict_after_staging_refuses_the_write,
];

/// Returns pseudo-random bytes of the size of a large file, which is not a multiple of a
/// part's size.
fn large(seed: u8) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    (0..1_500_007)
        .map(|_| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            state.to_be_bytes()[0]
        })
        .collect()
}

/// Stages a batch completely, as a server does before it commits it.
fn staged(store: &dyn Store, writes: &[Write]) -> Staging {
    let staging = Staging::default();
    while !store.stage(writes, &staging).expect("there is space") {}
    staging
}

fn commit_staged(store: &dyn Store, writes: &[Write]) -> Vec<Result<Written, WriteError>> {
    commit_in_steps(store, writes).expect("the store is in order")
}

#[track_caller]
fn assert_file(store: &dyn Store, path: &str, data: &[u8]) {
    let file = store.read_file(&room(), path).unwrap().unwrap();
    assert!(file.data == data, "{path:?} has other content");
    let head = store.open_file(&room(), path).unwrap().unwrap();
    assert_eq!(head.size, data.len() as u64, "{path:?}");
    for (start, length) in [
        (0, 10),
        (262_140, 9),
        (200_000, 700_000),
        (data.len() - 3, 100),
        (data.len() + 5, 1),
    ] {
        let part = store
            .read_file_range(&room(), path, head.version, start as u64, length)
            .unwrap()
            .unwrap();
        let end = data.len().min(start + length);
        assert!(part == data[start.min(end)..end], "{path:?} at {start}");
    }
    let size = store.stat(&room(), path).unwrap().unwrap().size;
    assert_eq!(size, Some(data.len() as u64), "{path:?}");
}

fn staged_batch_equals_unstaged_batch(subject: &mut dyn Subject) {
    let first = created(subject.store(), "first", b"state");
    let store = subject.store();
    let batch = [
        create("naïve", &large(1)),
        append(first, &large(2)),
        append(first, b"behind it"),
        put("file", &large(3), false),
        put("small", b"small", false),
    ];
    let results = commit_staged(store, &batch);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(results[1], Ok(Written::Appended { seq: Seq(2) }));
    for _ in 0..2 {
        let store = subject.store();
        let made = load(store, "naïve");
        assert_eq!(made.last_seq, Seq(1));
        assert!(made.updates[0].update == large(1));
        assert_eq!(made.updates[0].contributions.len(), 1);
        let loaded = store.load_by_id(first).unwrap().unwrap();
        let updates: Vec<&Bytes> = loaded.updates.iter().map(|update| &update.update).collect();
        assert!(updates == [&b"state"[..], &large(2), b"behind it"]);
        assert_eq!(store.follow(first, Seq(1), 1).unwrap()[0].update, large(2));
        assert_file(store, "file", &large(3));
        let size = store.stat(&room(), "first").unwrap().unwrap().size;
        assert_eq!(size, Some(5 + 1_500_007 + 9));
        assert_eq!(store.stats().unwrap().bytes, 3 * 1_500_007 + 5 + 9 + 5);
        subject.reopen();
    }

    // A snapshot replaces a large update, and a large snapshot.
    let store = subject.store();
    for (seed, through) in [(4, 2), (5, 3), (6, 3)] {
        let results = commit_staged(store, &[snapshot(first, through, &large(seed))]);
        assert_eq!(results, [Ok(Written::Snapshotted)]);
        let loaded = store.load_by_id(first).unwrap().unwrap();
        assert!(loaded.snapshot.unwrap() == large(seed));
        assert_eq!(loaded.snapshot_seq, Seq(through));
    }
    assert_eq!(
        store.stat(&room(), "first").unwrap().unwrap().size,
        Some(1_500_007)
    );
    assert_eq!(store.provenance(first).unwrap().len(), 2);
    commit_ok(store, snapshot(first, 3, b"short again"));
    subject.reopen();
    let loaded = subject.store().load_by_id(first).unwrap().unwrap();
    assert_eq!(loaded.snapshot.as_deref(), Some(&b"short again"[..]));
}

fn large_content_needs_no_staging(subject: &mut dyn Subject) {
    let store = subject.store();
    let document = created(store, "a", &large(1));
    commit_ok(store, append(document, &large(2)));
    commit_ok(store, put("f", &large(3), false));
    commit_ok(store, put("f", &large(4), true));
    commit_ok(store, create("empty", b""));
    commit_ok(store, put("empty file", b"", false));
    subject.reopen();
    let store = subject.store();
    let loaded = load(store, "a");
    assert!(loaded.updates[0].update == large(1) && loaded.updates[1].update == large(2));
    assert_file(store, "f", &large(4));
    let empty = store.read_file(&room(), "empty file").unwrap().unwrap();
    assert!(empty.data.is_empty());
    commit_ok(store, snapshot(document, 1, &large(5)));
    let loaded = load(store, "a");
    assert!(loaded.snapshot.unwrap() == large(5) && loaded.updates[0].update == large(2));
}

fn staged_content_is_invisible_before_its_commit(subject: &mut dyn Subject) {
    let document = created(subject.store(), "a", b"state");
    let before = load(subject.store(), "a");
    let batch = [
        create("new", &large(1)),
        put("file", &large(2), false),
        append(document, &large(3)),
        snapshot(document, 1, &large(4)),
    ];
    for calls in [1, 3, 1_000] {
        let store = subject.store();
        let staging = Staging::default();
        for _ in 0..calls {
            if store.stage(&batch, &staging).unwrap() {
                break;
            }
            // Other commits run in between.
            commit_ok(store, put("small", b"x", true));
            assert_eq!(names(store, "").unwrap(), ["a", "small"]);
            assert_eq!(load(store, "a"), before);
            assert_eq!(store.stats().unwrap().bytes, 6);
            let _ = store.free_some().unwrap();
        }
        // Reopens once without the staged content, otherwise with it.
        if calls == 3 {
            drop(staging);
            while !store.free_some().unwrap() {}
        }
        subject.reopen();
        let store = subject.store();
        while !store.free_some().unwrap() {}
        assert_eq!(load(store, "a"), before);
        assert!(store.stat(&room(), "new").unwrap().is_none());
        assert!(store.stat(&room(), "file").unwrap().is_none());
    }
    let store = subject.store();
    let results = commit_staged(store, &batch);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_file(store, "file", &large(2));
}

fn staged_writes_are_refused_like_unstaged_ones(subject: &mut dyn Subject) {
    let store = subject.store();
    let document = created(store, "a", b"state");
    commit_ok(store, put("f", b"x", false));
    let gone = DocumentId(1_000);
    let path = |path: &str| path.to_owned();
    let batch = [
        create("a", &large(1)),
        put("f", &large(2), false),
        put("a", &large(3), true),
        put("", &large(4), true),
        append(gone, &large(5)),
        append(DocumentId(u64::MAX), &large(5)),
        snapshot(document, 7, &large(6)),
        append(document, &large(7)),
        create("twice", &large(8)),
        create("twice", &large(9)),
    ];
    let results = commit_staged(store, &batch);
    let expected = [
        Err(WriteError::AlreadyExists { path: path("a") }),
        Err(WriteError::AlreadyExists { path: path("f") }),
        Err(WriteError::IsDocument { path: path("a") }),
        Err(WriteError::IsRoot),
        Err(WriteError::NoSuchDocument { document: gone }),
        Err(WriteError::NoSuchDocument {
            document: DocumentId(u64::MAX),
        }),
        Err(WriteError::SnapshotOutOfRange {
            document,
            through: Seq(7),
        }),
        Ok(Written::Appended { seq: Seq(2) }),
    ];
    assert_eq!(results[..8], expected);
    assert!(matches!(results[8], Ok(Written::Created { .. })));
    assert_eq!(
        results[9],
        Err(WriteError::AlreadyExists {
            path: path("twice")
        })
    );
    while !store.free_some().unwrap() {}
    subject.reopen();
    let store = subject.store();
    assert!(load(store, "a").updates[1].update == large(7));
    assert!(load(store, "twice").updates[0].update == large(8));
    assert_eq!(store.stats().unwrap().bytes, 2 * 1_500_007 + 5 + 1);
}

fn large_content_replaces_and_is_replaced(subject: &mut dyn Subject) {
    let store = subject.store();
    let contents = [large(1), b"short".to_vec(), large(2), large(3), Vec::new()];
    for (number, data) in contents.iter().enumerate() {
        let head = store.open_file(&room(), "ä").unwrap();
        let results = commit_staged(store, &[put("ä", data, true)]);
        let replaced = number > 0;
        assert_eq!(results, [Ok(Written::Put { replaced })]);
        let file = store.read_file(&room(), "ä").unwrap().unwrap();
        assert!(file.data == *data, "content {number}");
        assert_eq!(names(store, "").unwrap(), ["ä"]);
        if let Some(head) = head {
            let part = store.read_file_range(&room(), "ä", head.version, 0, 1);
            assert_eq!(part.unwrap(), None, "the version was replaced");
        }
        while !store.free_some().unwrap() {}
    }
    assert_eq!(store.stats().unwrap().files, 1);
}

fn large_content_can_be_deleted_and_moved(subject: &mut dyn Subject) {
    let store = subject.store();
    let batch = [
        create("folder/document", &large(1)),
        put("folder/file", &large(2), false),
    ];
    assert!(commit_staged(store, &batch).iter().all(Result::is_ok));
    commit_ok(store, rename("folder", "elsewhere", false));
    assert_file(store, "elsewhere/file", &large(2));
    let document = load(store, "elsewhere/document").document;
    commit_ok(store, append(document, &large(3)));
    commit_ok(store, snapshot(document, 1, &large(4)));
    commit_ok(store, delete("elsewhere", true));
    assert_eq!(store.stats().unwrap().bytes, 0);
    assert!(store.load_by_id(document).unwrap().is_none());
    while !store.free_some().unwrap() {}
    subject.reopen();
    let store = subject.store();
    while !store.free_some().unwrap() {}
    assert_eq!(names(store, "").unwrap(), [""; 0]);
    assert!(
        commit_staged(store, &batch).iter().all(Result::is_ok),
        "again"
    );
    assert!(load(store, "folder/document").updates[0].update == large(1));
}

fn conflict_after_staging_refuses_the_write(subject: &mut dyn Subject) {
    let store = subject.store();
    let document = created(store, "a", b"state");
    let batch = [
        create("new", &large(1)),
        append(document, &large(2)),
        put("file", &large(3), true),
    ];
    let staging = staged(store, &batch);
    commit_ok(store, put("new", b"x", false));
    commit_ok(store, put("file", b"x", false));
    commit_ok(store, delete("a", false));
    while !store.free_some().unwrap() {}
    let results = store.commit_staged(&batch, &staging).unwrap();
    assert_eq!(
        results,
        [
            Err(WriteError::AlreadyExists {
                path: "new".to_owned()
            }),
            Err(WriteError::NoSuchDocument { document }),
            Ok(Written::Put { replaced: true }),
        ]
    );
    drop(staging);
    while !store.free_some().unwrap() {}
    assert_file(store, "file", &large(3));
    assert_eq!(store.stats().unwrap().bytes, 1_500_007 + 1);
}
