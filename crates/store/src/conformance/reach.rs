//! Questions about reach: what a deletion or a move may not touch stays, and so does everything else.

use super::{Question, Subject, commit, created, delete, done, names, put, rename};
use crate::{Kinds, Reach, Store, Write, WriteError, Written};

pub(super) const QUESTIONS: &[Question] = &[
    delete_spares_what_is_out_of_reach,
    move_leaves_what_is_out_of_reach,
    move_replaces_nothing_out_of_reach,
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

/// A document and a file at each level: `d`, `f`, `ä/d`, `ä/f`, `ä/o/f`, and a document that shares its name with a
/// folder.
fn fill(store: &dyn Store) {
    for path in ["d", "ä/d", "two"] {
        created(store, path, b"1");
    }
    for path in ["f", "ä/f", "ä/o/f", "two/f"] {
        done(store, put(path, b"1", false));
    }
}

fn delete_spares_what_is_out_of_reach(subject: &mut dyn Subject) {
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
    // What is not there is no obstacle.
    for (path, recursive, limit) in [
        ("f", true, reach(FILES, NOTHING)),
        ("two", false, reach(EVERYTHING, NOTHING)),
        ("ä/o", true, reach(NOTHING, FILES)),
        ("ä", true, reach(NOTHING, EVERYTHING)),
    ] {
        done(store, within(delete(path, recursive), limit));
    }
}

fn move_leaves_what_is_out_of_reach(subject: &mut dyn Subject) {
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
        done(store, within(rename, limit));
    }
}

fn move_replaces_nothing_out_of_reach(subject: &mut dyn Subject) {
    let store = subject.store();
    fill(store);
    for path in ["in/d", "in/o/f", "in/f"] {
        done(store, put(path, b"2", false));
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
    // Without `overwrite` what is in the way is the reason, whatever may be replaced.
    let taken = replacing(rename("f", "d", false), reach(NOTHING, NOTHING));
    let exists = Err(WriteError::AlreadyExists { path: "d".into() });
    assert_eq!(commit(store, taken), exists);
    for (source, destination, limit) in [
        ("in/o", "ä/o", reach(NOTHING, FILES)),
        ("f", "d", reach(EVERYTHING, NOTHING)),
        ("in", "ä", reach(NOTHING, EVERYTHING)),
    ] {
        done(store, replacing(rename(source, destination, true), limit));
    }
}
