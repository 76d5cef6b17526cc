//! Checks of deletions and moves.

use super::{
    Check, Subject, append, commit, commit_ok, created, delete, list, load, names, put, rename,
    room,
};
use crate::path::MAX_BYTES;
use crate::{
    DocumentId, MAX_TOUCHED_PATH_BYTES, MovedEntry, Removed, Timestamp, Write, WriteError, Written,
};

pub(super) const CHECKS: &[Check] = &[
    delete_removes_the_named_entries,
    document_moves_with_its_log,
    folder_moves_with_its_entries,
    folder_moves_onto_its_parent,
    move_replaces_only_with_overwrite,
    invalid_moves_are_refused,
    move_to_a_too_long_path_is_refused,
    folders_with_too_long_paths_are_refused,
];

fn folders_with_too_long_paths_are_refused(subject: &mut dyn Subject) {
    // Just below the limit in one folder, just above it in a folder with a longer name.
    const NAME: usize = 900;
    let store = subject.store();
    let name = "ö".repeat(NAME / 2 - 8);
    let short = "s".to_owned();
    let long = "l".repeat(120);
    let count = MAX_TOUCHED_PATH_BYTES / NAME;
    let puts: Vec<Write> = (0..count)
        .map(|number| put(&format!("{short}/{name}{number:08}"), b"", false))
        .collect();
    let results = store.commit(&puts).expect("the store takes the batch");
    assert!(results.iter().all(Result::is_ok), "a file was refused");
    let too_long = |path: &str| {
        Err(WriteError::PathsTooLong {
            path: path.to_owned(),
            max_bytes: MAX_TOUCHED_PATH_BYTES,
        })
    };
    assert_eq!(
        commit(store, rename(&short, &long, false)),
        too_long(&short)
    );
    let moved = commit_ok(store, rename(&short, "t", false));
    assert!(matches!(moved, Written::Moved { entries, .. } if entries.len() == count));
    let more: Vec<Write> = (0..40)
        .map(|number| put(&format!("t/{name}{number:09}"), b"", false))
        .collect();
    let results = store.commit(&more).expect("the store takes the batch");
    assert!(results.iter().all(Result::is_ok), "a file was refused");
    assert_eq!(commit(store, rename("t", "u", false)), too_long("t"));
    assert_eq!(commit(store, delete("t", true)), too_long("t"));
    // Its parts are moved and deleted one by one.
    for write in more {
        let Write::PutFile { path, .. } = write else {
            continue;
        };
        commit_ok(store, delete(&path, false));
    }
    commit_ok(store, delete("t", true));
    assert_eq!(names(store, ""), list(&[]));
}

fn delete_removes_the_named_entries(subject: &mut dyn Subject) {
    let store = subject.store();
    let a = created(store, "a", b"1");
    let b = created(store, "a/b", b"1");
    commit_ok(store, put("a/c/f", b"1", false));
    created(store, "a-b", b"1");
    assert_eq!(
        commit(store, delete("x", false)),
        Err(WriteError::NotFound { path: "x".into() })
    );
    assert_eq!(
        commit(store, delete("x", true)),
        Err(WriteError::NotFound { path: "x".into() })
    );
    assert_eq!(
        commit(store, delete("a/c", false)),
        Err(WriteError::RecursiveRequired { path: "a/c".into() })
    );
    assert_eq!(
        commit(store, delete("", false)),
        Err(WriteError::RecursiveRequired {
            path: String::new()
        })
    );
    assert_eq!(
        commit_ok(store, delete("a", false)),
        Written::Deleted {
            entries: vec![removed("a", Some(a))]
        }
    );
    assert_eq!(names(store, ""), list(&["a/", "a-b"]));
    assert_eq!(
        commit_ok(store, delete("a", true)),
        Written::Deleted {
            entries: vec![removed("a/b", Some(b)), removed("a/c/f", None)]
        }
    );
    assert_eq!(names(store, ""), list(&["a-b"]));
    let c = created(store, "c", b"");
    let d = created(store, "c/d", b"");
    assert_eq!(
        commit_ok(store, delete("c", true)),
        Written::Deleted {
            entries: vec![removed("c", Some(c)), removed("c/d", Some(d))]
        }
    );
}

fn document_moves_with_its_log(subject: &mut dyn Subject) {
    let document = created(subject.store(), "a", b"1");
    created(subject.store(), "a/below", b"");
    assert_eq!(
        commit_ok(subject.store(), rename("a", "b/c", false)),
        Written::Moved {
            entries: vec![moved("a", "b/c", Some(document))],
            replaced: vec![]
        }
    );
    commit_ok(subject.store(), append(document, b"2"));
    subject.reopen();
    let store = subject.store();
    let loaded = load(store, "b/c");
    assert_eq!((loaded.document, loaded.updates.len()), (document, 2));
    assert_eq!(
        names(store, ""),
        list(&["a/", "b/"]),
        "entries below a document's path stay"
    );
    commit_ok(store, rename("b/c", "b", false));
    assert_eq!(names(store, ""), list(&["a/", "b"]));
    assert_eq!(load(store, "b").updated_at, Timestamp(4));
}

fn folder_moves_with_its_entries(subject: &mut dyn Subject) {
    let store = subject.store();
    let document = created(store, "a/x/1", b"");
    commit_ok(store, put("a/y", b"data", false));
    created(store, "a-", b"");
    assert_eq!(
        commit_ok(store, rename("a", "b/c", false)),
        Written::Moved {
            entries: vec![
                moved("a/x/1", "b/c/x/1", Some(document)),
                moved("a/y", "b/c/y", None)
            ],
            replaced: vec![],
        }
    );
    assert_eq!(names(store, ""), list(&["a-", "b/"]));
    assert_eq!(names(store, "b/c"), list(&["x/", "y"]));
    assert_eq!(
        commit_ok(store, rename("b/c", "", false)),
        Written::Moved {
            entries: vec![
                moved("b/c/x/1", "x/1", Some(document)),
                moved("b/c/y", "y", None)
            ],
            replaced: vec![],
        }
    );
    assert_eq!(names(store, ""), list(&["a-", "x/", "y"]));
    let file = store
        .read_file(&room(), "y")
        .expect("the store is in order")
        .expect("it is there");
    assert_eq!(
        (file.data.as_ref(), file.updated_at),
        (&b"data"[..], Timestamp(4))
    );
}

fn folder_moves_onto_its_parent(subject: &mut dyn Subject) {
    let store = subject.store();
    let outer = created(store, "a/b/z", b"");
    let inner = created(store, "a/b/b/z", b"");
    let stays = created(store, "a/y", b"");
    assert_eq!(
        commit_ok(store, rename("a/b", "a", false)),
        Written::Moved {
            entries: vec![
                moved("a/b/b/z", "a/b/z", Some(inner)),
                moved("a/b/z", "a/z", Some(outer))
            ],
            replaced: vec![],
        }
    );
    assert_eq!(load(store, "a/z").document, outer);
    assert_eq!(load(store, "a/b/z").document, inner);
    assert_eq!(load(store, "a/y").document, stays);
}

fn move_replaces_only_with_overwrite(subject: &mut dyn Subject) {
    let store = subject.store();
    let source = created(store, "a/doc", b"");
    commit_ok(store, put("a/file", b"new", false));
    let target = created(store, "b/doc", b"");
    commit_ok(store, put("b/file", b"old", false));
    commit_ok(store, put("b/kept", b"", false));
    let exists = Err(WriteError::AlreadyExists {
        path: "b/doc".into(),
    });
    assert_eq!(commit(store, rename("a", "b", false)), exists);
    assert_eq!(commit(store, rename("a/doc", "b/doc", false)), exists);
    assert_eq!(
        load(store, "a/doc").document,
        source,
        "a refused move has no effect"
    );
    assert_eq!(
        commit_ok(store, rename("a", "b", true)),
        Written::Moved {
            entries: vec![
                moved("a/doc", "b/doc", Some(source)),
                moved("a/file", "b/file", None)
            ],
            replaced: vec![removed("b/doc", Some(target)), removed("b/file", None)],
        }
    );
    assert_eq!(names(store, "b"), list(&["doc", "file", "kept"]));
    assert_eq!(names(store, ""), list(&["b/"]));
    let gone = commit(store, append(target, b"late"));
    assert_eq!(gone, Err(WriteError::NoSuchDocument { document: target }));
    // A move, unlike a put, may replace a document by a file, since it reports the fate of
    // the document.
    commit_ok(store, rename("b/file", "b/doc", true));
    assert!(
        store
            .read_file(&room(), "b/doc")
            .expect("the store is in order")
            .is_some()
    );
}

fn invalid_moves_are_refused(subject: &mut dyn Subject) {
    let store = subject.store();
    created(store, "a/b", b"");
    for (source, destination) in [
        ("a", "a"),
        ("a", "a/c"),
        ("a/b", "a/b"),
        ("", "x"),
        ("", ""),
    ] {
        assert_eq!(
            commit(store, rename(source, destination, true)),
            Err(WriteError::IntoItself),
            "{source:?} to {destination:?}"
        );
    }
    assert_eq!(
        commit(store, rename("c", "d", true)),
        Err(WriteError::NotFound { path: "c".into() })
    );
    assert_eq!(
        commit(store, rename("c", "c", true)),
        Err(WriteError::NotFound { path: "c".into() })
    );
    assert_eq!(
        commit(store, rename("a/b", "", true)),
        Err(WriteError::IsRoot)
    );
    // The destination is not below the source although the texts share a prefix; and another
    // document may exist below a document.
    commit_ok(store, rename("a", "ab", false));
    commit_ok(store, rename("ab/b", "ab/b/c", false));
    assert_eq!(names(store, "ab/b"), list(&["c"]));
}

fn move_to_a_too_long_path_is_refused(subject: &mut dyn Subject) {
    let store = subject.store();
    // Below its folder, the document has the longest path that is allowed.
    let name = "ü".repeat((MAX_BYTES - 2) / 2);
    let path = format!("a/{name}");
    let document = created(store, &path, b"");
    commit_ok(store, put("a/short", b"", false));
    let too_long = |path: String| Err(WriteError::PathTooLong { path });
    assert_eq!(
        commit(store, rename("a", "bb", false)),
        too_long(format!("bb/{name}"))
    );
    assert_eq!(
        load(store, &path).document,
        document,
        "the refused move has no effect"
    );
    assert_eq!(names(store, "bb"), None);
    commit_ok(store, rename("a", "b", false));
    assert_eq!(load(store, &format!("b/{name}")).document, document);
}

fn removed(path: &str, document: Option<DocumentId>) -> Removed {
    Removed {
        path: path.to_owned(),
        document,
    }
}

fn moved(source: &str, destination: &str, document: Option<DocumentId>) -> MovedEntry {
    MovedEntry {
        source: source.to_owned(),
        destination: destination.to_owned(),
        document,
    }
}
