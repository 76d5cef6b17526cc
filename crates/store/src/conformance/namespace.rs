//! Checks of paths: files, folders, listing.

use bytes::Bytes;

use super::{
    Check, Subject, commit, commit_ok, create, created, delete, list, load, names, put, rename,
    room,
};
use crate::{Entry, EntryKind, Reach, RoomId, Store, Timestamp, Write, WriteError, Written};

pub(super) const CHECKS: &[Check] = &[
    file_survives_reopening,
    file_is_read_by_range,
    documents_and_files_share_one_namespace,
    folder_exists_while_it_has_entries,
    list_sorts_direct_children_by_name,
    special_characters_are_literal,
    rooms_are_separate,
    root_is_always_a_folder,
];

fn file_survives_reopening(subject: &mut dyn Subject) {
    assert_eq!(
        commit_ok(subject.store(), put("a/f.txt", b"one", false)),
        Written::Put { replaced: false }
    );
    assert_eq!(
        commit(subject.store(), put("a/f.txt", b"two", false)),
        Err(WriteError::AlreadyExists {
            path: "a/f.txt".into()
        })
    );
    let replace = Write::PutFile {
        room: room(),
        path: "a/f.txt".to_owned(),
        data: Bytes::new(),
        mime_type: "image/png".to_owned(),
        overwrite: true,
        at: Timestamp(9),
    };
    assert_eq!(
        commit_ok(subject.store(), replace),
        Written::Put { replaced: true }
    );
    subject.reopen();
    let file = subject
        .store()
        .read_file(&room(), "a/f.txt")
        .expect("the store is in order")
        .expect("it is there");
    assert_eq!((file.data.len(), file.mime_type.as_str()), (0, "image/png"));
    assert_eq!(
        (file.created_at, file.updated_at),
        (Timestamp(3), Timestamp(9))
    );
    for nothing in ["a", "a/f", "a/f.txt/", ""] {
        assert_eq!(
            subject
                .store()
                .read_file(&room(), nothing)
                .expect("the store is in order"),
            None
        );
    }
}

fn file_is_read_by_range(subject: &mut dyn Subject) {
    let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_be_bytes).collect();
    commit_ok(subject.store(), put("ä/f", &content, false));
    commit_ok(subject.store(), put("ä/none", b"", false));
    subject.reopen();
    let store = subject.store();
    let open = |path| {
        store
            .open_file(&room(), path)
            .expect("the store is in order")
    };
    let read = |path, version, start, length| {
        store
            .read_file_range(&room(), path, version, start, length)
            .expect("the store is in order")
    };
    let head = open("ä/f").expect("it is there");
    assert_eq!(head.size, content.len() as u64);
    for (start, length) in [
        (0, 1),
        (0, 0),
        (5, 100_000),
        (1_199_999, 10),
        (1_200_000, 10),
        (u64::MAX, 10),
        (0, usize::MAX),
    ] {
        let from = usize::try_from(start)
            .unwrap_or(usize::MAX)
            .min(content.len());
        let to = content.len().min(from.saturating_add(length));
        let part = read("ä/f", head.version, start, length);
        assert!(
            part.as_deref() == Some(&content[from..to]),
            "{length} bytes from {start}"
        );
    }
    let nothing = open("ä/none").expect("it is there");
    assert_eq!(nothing.size, 0);
    assert_eq!(read("ä/none", nothing.version, 0, 10), Some(Bytes::new()));
    // A version does not match another file, other content, or no file.
    assert_eq!(read("ä/none", head.version, 0, 10), None);
    let mut other = content.clone();
    other[700_000] ^= 1;
    commit_ok(store, put("ä/f", &other, true));
    assert_eq!(read("ä/f", head.version, 0, 10), None);
    let head = open("ä/f").expect("it is there");
    let part = read("ä/f", head.version, 699_999, 3);
    assert_eq!(part.as_deref(), Some(&other[699_999..700_002]));
    commit_ok(store, rename("ä/f", "ä/g", false));
    assert_eq!(read("ä/f", head.version, 0, 10), None);
    commit_ok(store, delete("ä/g", false));
    assert_eq!(read("ä/g", head.version, 0, 10), None);
    created(store, "doc", b"");
    for nothing in ["ä", "ä/f", "doc", ""] {
        assert_eq!(open(nothing), None, "{nothing:?}");
    }
}

fn documents_and_files_share_one_namespace(subject: &mut dyn Subject) {
    let store = subject.store();
    created(store, "doc", b"");
    commit_ok(store, put("file", b"", false));
    let exists = |path: &str| Err(WriteError::AlreadyExists { path: path.into() });
    assert_eq!(commit(store, create("doc", b"")), exists("doc"));
    assert_eq!(commit(store, create("file", b"")), exists("file"));
    assert_eq!(commit(store, put("doc", b"", false)), exists("doc"));
    assert_eq!(
        commit(store, put("doc", b"", true)),
        Err(WriteError::IsDocument { path: "doc".into() })
    );
    assert_eq!(
        store
            .read_file(&room(), "doc")
            .expect("the store is in order"),
        None
    );
    assert_eq!(
        store.load(&room(), "file").expect("the store is in order"),
        None
    );
}

fn folder_exists_while_it_has_entries(subject: &mut dyn Subject) {
    let kind = |store: &dyn Store, path: &str| {
        store
            .stat(&room(), path)
            .expect("the store is in order")
            .map(|entry| (entry.name, entry.kind))
    };
    assert_eq!(
        kind(subject.store(), ""),
        Some((String::new(), EntryKind::Folder)),
        "the root always exists"
    );
    assert_eq!(names(subject.store(), ""), Some(vec![]));
    created(subject.store(), "a/b/doc", b"xy");
    subject.reopen();
    let store = subject.store();
    assert_eq!(kind(store, "a"), Some(("a".into(), EntryKind::Folder)));
    assert_eq!(kind(store, "a/b"), Some(("b".into(), EntryKind::Folder)));
    for nothing in ["b", "a/b/d", "a/", "a/b/doc/x", "A"] {
        assert_eq!(kind(store, nothing), None, "{nothing}");
        assert_eq!(names(store, nothing), None, "{nothing}");
    }
    let entry = Entry {
        name: "doc".into(),
        kind: EntryKind::Document,
        size: Some(2),
        created_at: Some(Timestamp(1)),
        updated_at: Some(Timestamp(1)),
    };
    assert_eq!(
        store
            .stat(&room(), "a/b/doc")
            .expect("the store is in order"),
        Some(entry.clone())
    );
    assert_eq!(
        store
            .list(&room(), "a/b", usize::MAX)
            .expect("the store is in order"),
        Some(vec![entry])
    );
    assert_eq!(names(store, "a/b/doc"), None, "a document is not a folder");
    commit_ok(store, delete("a/b/doc", false));
    assert_eq!(kind(store, "a"), None);
    assert_eq!(names(store, "a"), None);
}

fn list_sorts_direct_children_by_name(subject: &mut dyn Subject) {
    let store = subject.store();
    for path in [
        "a/z",
        "a/b/1",
        "a/b/2",
        "a/b",
        "a/b-c",
        "a/b.c/x/y",
        "a/b0",
        "a/Z",
        "a/ä",
        "ab",
        "a0/x",
    ] {
        created(store, path, b"");
    }
    commit_ok(store, put("a", b"", false));
    assert_eq!(names(store, ""), list(&["a", "a/", "a0/", "ab"]));
    assert_eq!(
        names(store, "a"),
        list(&["Z", "b", "b/", "b-c", "b.c/", "b0", "z", "ä"])
    );
    assert_eq!(names(store, "a/b"), list(&["1", "2"]));
    let some = store
        .list(&room(), "a/b", 1)
        .expect("the store is in order");
    assert_eq!(
        some.map(|some| some.len()),
        Some(1),
        "at most `max` entries"
    );
    assert_eq!(names(store, "a/b.c"), list(&["x/"]));
    let kind = store
        .stat(&room(), "a/b")
        .expect("the store is in order")
        .map(|entry| entry.kind);
    assert_eq!(
        kind,
        Some(EntryKind::Document),
        "a document takes precedence over a folder of the same name"
    );
}

fn special_characters_are_literal(subject: &mut dyn Subject) {
    let store = subject.store();
    for path in [
        "a%/x",
        "aXY/x",
        "a_/x",
        "ab/x",
        "A_/x",
        "a_/X",
        "[a]/x",
        "a*/x",
        "a\\/x",
        "é/x",
        "e\u{301}/x",
    ] {
        created(store, path, b"");
    }
    for (folder, expected) in [
        ("a%", &["x"][..]),
        ("a_", &["X", "x"]),
        ("A_", &["x"]),
        ("[a]", &["x"]),
        ("a*", &["x"]),
        ("é", &["x"]),
    ] {
        assert_eq!(names(store, folder), list(expected), "{folder}");
    }
    commit_ok(store, delete("a%", true));
    commit_ok(store, delete("a_", true));
    commit_ok(store, rename("a*", "moved", false));
    let rest = [
        "A_/",
        "[a]/",
        "aXY/",
        "a\\/",
        "ab/",
        "e\u{301}/",
        "moved/",
        "é/",
    ];
    assert_eq!(names(store, ""), list(&rest));
}

fn rooms_are_separate(subject: &mut dyn Subject) {
    let store = subject.store();
    let document = created(store, "a/b", b"");
    let room = room();
    let others = [
        RoomId::new(room.project.as_ref(), "lobb"),
        RoomId::new("another", room.room.as_ref()),
    ];
    for other in others {
        assert_eq!(
            store.stat(&other, "a/b").expect("the store is in order"),
            None
        );
        assert_eq!(
            store.load(&other, "a/b").expect("the store is in order"),
            None
        );
        assert_eq!(
            store
                .list(&other, "", usize::MAX)
                .expect("the store is in order"),
            Some(vec![])
        );
        assert_eq!(
            store
                .list(&other, "a", usize::MAX)
                .expect("the store is in order"),
            None
        );
        let not_found = Err(WriteError::NotFound { path: "a".into() });
        let delete = Write::Delete {
            room: other.clone(),
            path: "a".into(),
            recursive: true,
            reach: Reach::EVERYTHING,
        };
        assert_eq!(commit(store, delete), not_found);
        let rename = Write::Move {
            room: other.clone(),
            source: "a".into(),
            destination: "c".into(),
            overwrite: true,
            reach: Reach::EVERYTHING,
            replaces: Reach::EVERYTHING,
            at: Timestamp(5),
        };
        assert_eq!(commit(store, rename), not_found);
        let mut twin = create("a/b", b"");
        if let Write::CreateDocument { room, .. } = &mut twin {
            *room = other.clone();
        }
        let written = commit_ok(store, twin);
        assert!(matches!(written, Written::Created { document: twin, .. } if twin != document));
        assert!(
            store
                .load(&other, "a/b")
                .expect("the store is in order")
                .is_some()
        );
    }
    assert_eq!(load(store, "a/b").document, document);
}

fn root_is_always_a_folder(subject: &mut dyn Subject) {
    let store = subject.store();
    assert_eq!(commit(store, create("", b"")), Err(WriteError::IsRoot));
    assert_eq!(commit(store, put("", b"", true)), Err(WriteError::IsRoot));
    assert_eq!(
        commit(store, delete("", true)),
        Err(WriteError::NotFound {
            path: String::new()
        })
    );
    assert_eq!(
        store.load(&room(), "").expect("the store is in order"),
        None
    );
    created(store, "a/b", b"");
    commit_ok(store, delete("", true));
    assert_eq!(names(store, ""), Some(vec![]));
}
