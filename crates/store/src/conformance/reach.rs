//! Checks of reach: a deletion or a move that would touch entries out of its reach changes nothing.

use super::{Check, Subject, commit, commit_ok, created, delete, names, put, rename};
use crate::{Kinds, Reach, Store, Write, WriteError, Written};

pub(super) const CHECKS: &[Check] = &[
    delete_beyond_reach_is_refused,
    move_beyond_reach_is_refused,
    move_never_replaces_beyond_reach,
];

const NOTHING: Kinds = Kinds::Nothing;
const FILES: Kinds = Kinds::Files;
const EVERYTHING: Kinds = Kinds::Everything;

fn reach(at: Kinds, below: Kinds) -> Reach {
    Reach { at, below }
}

fn within(mut write: Write, limit: Reach) -> Write {
    if let Write::Delete { reach, .. } | Write::Move { reach, .. } = &mut write {
        *reach = limit;
    }
    write
}

fn replacing(mut write: Write, limit: Reach) -> Write {
    if let Write::Move { replaces, .. } = &mut write {
        *replaces = limit;
    }
    write
}

fn out_of_reach(path: &str) -> Result<Written, WriteError> {
    Err(WriteError::OutOfReach {
        path: path.to_owned(),
    })
}

/// Creates a document and a file at each level: `d`, `f`, `ä/d`, `ä/f`, `ä/o/f`, and a document
/// that shares its name with a folder.
fn fill(store: &dyn Store) {
    for path in ["d", "ä/d", "two"] {
        created(store, path, b"1");
    }
    for path in ["f", "ä/f", "ä/o/f", "two/f"] {
        commit_ok(store, put(path, b"1", false));
    }
}

fn delete_beyond_reach_is_refused(subject: &mut dyn Subject) {
    let store = subject.store();
    fill(store);
    let before = (names(store, ""), names(store, "ä"));
    for (path, recursive, limit, refused) in [
        ("d", false, reach(FILES, EVERYTHING), "d"),
        ("f", false, reach(NOTHING, EVERYTHING), "f"),
        ("d", true, reach(NOTHING, EVERYTHING), "d"),
        ("ä", true, reach(EVERYTHING, FILES), "ä/d"),
        ("ä", true, reach(EVERYTHING, NOTHING), "ä/d"),
        ("ä/o", true, reach(EVERYTHING, NOTHING), "ä/o/f"),
        ("two", true, reach(FILES, EVERYTHING), "two"),
        ("two", true, reach(EVERYTHING, NOTHING), "two/f"),
    ] {
        let refused = out_of_reach(refused);
        assert_eq!(
            commit(store, within(delete(path, recursive), limit)),
            refused
        );
        assert_eq!((names(store, ""), names(store, "ä")), before, "{path}");
    }
    // Entries that do not exist do not matter.
    for (path, recursive, limit) in [
        ("f", true, reach(FILES, NOTHING)),
        ("two", false, reach(EVERYTHING, NOTHING)),
        ("ä/o", true, reach(NOTHING, FILES)),
        ("ä", true, reach(NOTHING, EVERYTHING)),
    ] {
        commit_ok(store, within(delete(path, recursive), limit));
    }
}

fn move_beyond_reach_is_refused(subject: &mut dyn Subject) {
    let store = subject.store();
    fill(store);
    let before = (names(store, ""), names(store, "ä"));
    for (source, limit, refused) in [
        ("d", reach(FILES, EVERYTHING), "d"),
        ("f", reach(NOTHING, EVERYTHING), "f"),
        ("ä", reach(EVERYTHING, FILES), "ä/d"),
        ("ä", reach(EVERYTHING, NOTHING), "ä/d"),
        ("ä/o", reach(EVERYTHING, NOTHING), "ä/o/f"),
    ] {
        let refused = out_of_reach(refused);
        for overwrite in [false, true] {
            let rename = within(rename(source, "new", overwrite), limit);
            assert_eq!(commit(store, rename), refused);
        }
        assert_eq!((names(store, ""), names(store, "ä")), before, "{source}");
    }
    for (source, limit) in [
        ("f", reach(FILES, NOTHING)),
        // The folder of that name stays.
        ("two", reach(EVERYTHING, NOTHING)),
        ("ä/o", reach(NOTHING, FILES)),
        ("ä", reach(NOTHING, EVERYTHING)),
    ] {
        let rename = rename(source, &format!("new/{source}"), false);
        commit_ok(store, within(rename, limit));
    }
}

fn move_never_replaces_beyond_reach(subject: &mut dyn Subject) {
    let store = subject.store();
    fill(store);
    for path in ["in/d", "in/o/f", "in/f"] {
        commit_ok(store, put(path, b"2", false));
    }
    let before = (names(store, ""), names(store, "ä"), names(store, "in"));
    for (source, destination, limit, refused) in [
        ("f", "d", reach(FILES, EVERYTHING), "d"),
        ("in/f", "f", reach(NOTHING, EVERYTHING), "f"),
        ("in", "ä", reach(EVERYTHING, FILES), "ä/d"),
        ("in/o", "ä/o", reach(EVERYTHING, NOTHING), "ä/o/f"),
    ] {
        let refused = out_of_reach(refused);
        let rename = rename(source, destination, true);
        assert_eq!(commit(store, replacing(rename, limit)), refused);
        let now = (names(store, ""), names(store, "ä"), names(store, "in"));
        assert_eq!(now, before, "{source} to {destination}");
    }
    // Without `overwrite` the entry in the way is the reason, whatever may be replaced.
    let taken = replacing(rename("f", "d", false), reach(NOTHING, NOTHING));
    let exists = Err(WriteError::AlreadyExists { path: "d".into() });
    assert_eq!(commit(store, taken), exists);
    for (source, destination, limit) in [
        ("in/o", "ä/o", reach(NOTHING, FILES)),
        ("f", "d", reach(EVERYTHING, NOTHING)),
        ("in", "ä", reach(NOTHING, EVERYTHING)),
    ] {
        commit_ok(store, replacing(rename(source, destination, true), limit));
    }
}
