//! Questions about deletions and moves.

use super::{
    Question, Subject, append, commit, created, delete, done, list, load, names, put, rename, room,
};
use crate::path::MAX_BYTES;
use crate::{DocumentId, MovedEntry, Removed, Timestamp, WriteError, Written};

pub(super) const QUESTIONS: &[Question] = &[
    delete_takes_what_it_is_told,
    document_moves_with_its_log,
    folder_moves_with_all_below,
    folder_moves_up_over_itself,
    move_respects_what_is_in_the_way,
    moves_that_make_no_sense_are_refused,
    move_that_makes_a_path_too_long_is_refused,
];

fn delete_takes_what_it_is_told(subject: &mut dyn Subject) {
    let store = subject.store();
    let a = created(store, "a", b"1");
    let b = created(store, "a/b", b"1");
    done(store, put("a/c/f", b"1", false));
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
        done(store, delete("a", false)),
        Written::Deleted {
            entries: vec![removed("a", Some(a))]
        }
    );
    assert_eq!(names(store, ""), list(&["a/", "a-b"]));
    assert_eq!(
        done(store, delete("a", true)),
        Written::Deleted {
            entries: vec![removed("a/b", Some(b)), removed("a/c/f", None)]
        }
    );
    assert_eq!(names(store, ""), list(&["a-b"]));
    let c = created(store, "c", b"");
    let d = created(store, "c/d", b"");
    assert_eq!(
        done(store, delete("c", true)),
        Written::Deleted {
            entries: vec![removed("c", Some(c)), removed("c/d", Some(d))]
        }
    );
}

fn document_moves_with_its_log(subject: &mut dyn Subject) {
    let document = created(subject.store(), "a", b"1");
    created(subject.store(), "a/below", b"");
    assert_eq!(
        done(subject.store(), rename("a", "b/c", false)),
        Written::Moved {
            entries: vec![moved("a", "b/c", Some(document))],
            replaced: vec![]
        }
    );
    done(subject.store(), append(document, b"2"));
    subject.reopen();
    let store = subject.store();
    let loaded = load(store, "b/c");
    assert_eq!((loaded.document, loaded.updates.len()), (document, 2));
    assert_eq!(
        names(store, ""),
        list(&["a/", "b/"]),
        "what lies below a document's path stays"
    );
    done(store, rename("b/c", "b", false));
    assert_eq!(names(store, ""), list(&["a/", "b"]));
    assert_eq!(load(store, "b").updated_at, Timestamp(4));
}

fn folder_moves_with_all_below(subject: &mut dyn Subject) {
    let store = subject.store();
    let document = created(store, "a/x/1", b"");
    done(store, put("a/y", b"data", false));
    created(store, "a-", b"");
    assert_eq!(
        done(store, rename("a", "b/c", false)),
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
        done(store, rename("b/c", "", false)),
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

fn folder_moves_up_over_itself(subject: &mut dyn Subject) {
    let store = subject.store();
    let outer = created(store, "a/b/z", b"");
    let inner = created(store, "a/b/b/z", b"");
    let stays = created(store, "a/y", b"");
    assert_eq!(
        done(store, rename("a/b", "a", false)),
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

fn move_respects_what_is_in_the_way(subject: &mut dyn Subject) {
    let store = subject.store();
    let source = created(store, "a/doc", b"");
    done(store, put("a/file", b"new", false));
    let target = created(store, "b/doc", b"");
    done(store, put("b/file", b"old", false));
    done(store, put("b/kept", b"", false));
    let exists = Err(WriteError::AlreadyExists {
        path: "b/doc".into(),
    });
    assert_eq!(commit(store, rename("a", "b", false)), exists);
    assert_eq!(commit(store, rename("a/doc", "b/doc", false)), exists);
    assert_eq!(
        load(store, "a/doc").document,
        source,
        "a refused move moves nothing"
    );
    assert_eq!(
        done(store, rename("a", "b", true)),
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
    // A file may take a document's place when it is moved there, since that says what becomes of the document.
    done(store, rename("b/file", "b/doc", true));
    assert!(
        store
            .read_file(&room(), "b/doc")
            .expect("the store is in order")
            .is_some()
    );
}

fn moves_that_make_no_sense_are_refused(subject: &mut dyn Subject) {
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
    // Not below itself, though the text begins alike; and below a document there may be another.
    done(store, rename("a", "ab", false));
    done(store, rename("ab/b", "ab/b/c", false));
    assert_eq!(names(store, "ab/b"), list(&["c"]));
}

fn move_that_makes_a_path_too_long_is_refused(subject: &mut dyn Subject) {
    let store = subject.store();
    // Below its folder it is as long as a path may be.
    let name = "ü".repeat((MAX_BYTES - 2) / 2);
    let path = format!("a/{name}");
    let document = created(store, &path, b"");
    done(store, put("a/kurz", b"", false));
    let too_long = |path: String| Err(WriteError::PathTooLong { path });
    assert_eq!(
        commit(store, rename("a", "bb", false)),
        too_long(format!("bb/{name}"))
    );
    assert_eq!(load(store, &path).document, document, "nothing is moved");
    assert_eq!(names(store, "bb"), None);
    done(store, rename("a", "b", false));
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
