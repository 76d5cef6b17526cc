//! The rows of authors that updates refer to: they exist as long as an update refers to them, and
//! match the disk even after failed writes.

use meshagent_store::{DocumentId, Reach, Seq, Store, StoreError, Write, WriteError};
use meshagent_store_sqlite::{DATABASE_FILE, Options, SqliteStore};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::{append, contribution, create, created, open, put, room, snapshot};

#[test]
fn author_row_exists_while_an_update_refers_to_it() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let [a, b] = ["a", "b"].map(|path| created(&store, path));
    let rows = || authors(&directory);
    for (document, participant) in [(a, "ada"), (a, "bob"), (a, "ada"), (a, "bob"), (b, "ada")] {
        done(&store, by(participant, document));
    }
    assert_eq!(rows(), [(a, "ada"), (a, "bob"), (b, "ada")].map(owned));

    done(&store, snapshot(a, 3, b"state"));
    assert_eq!(rows(), [(a, "bob"), (b, "ada")].map(owned));
    // The author whose row was removed gets another with the next write; the one whose row stayed
    // does not.
    for participant in ["ada", "bob"] {
        done(&store, by(participant, a));
    }
    assert_eq!(rows(), [(a, "ada"), (a, "bob"), (b, "ada")].map(owned));
    assert_names(&store, "a", &["bob", "ada", "bob"]);

    done(&store, snapshot(a, 6, b"state"));
    assert_eq!(rows(), [(b, "ada")].map(owned));
    done(
        &store,
        Write::Delete {
            room: room(),
            path: "b".into(),
            recursive: false,
            reach: Reach::EVERYTHING,
        },
    );
    assert_eq!(rows(), []);
}

#[test]
fn snapshot_removes_duplicate_rows_after_restarts() {
    let directory = TempDir::new().unwrap();
    let document = created(&open(directory.path()), "a");
    for _ in 0..3 {
        done(&open(directory.path()), by("ada", document));
    }
    let store = open(directory.path());
    assert_names(&store, "a", &["ada"; 3]);
    assert_eq!(store.provenance(document).unwrap().len(), 1);
    done(&store, snapshot(document, 3, b"state"));
    assert_eq!(authors(&directory), []);
    assert_eq!(store.provenance(document).unwrap().len(), 1);
}

#[test]
fn authors_of_a_failed_batch_are_inserted_again() {
    let directory = TempDir::new().unwrap();
    let mut options = Options::default();
    options.max_bytes = Some(1 << 20);
    let store = SqliteStore::open(directory.path(), options).unwrap();
    let [a, b] = ["a", "b"].map(|path| created(&store, path));
    done(&store, by("ada", a));
    // The batch is rolled back after the authors got rows, whose ids other authors get then.
    let batch = [
        by("bob", a),
        by("ada", b),
        snapshot(a, 2, b"state"),
        put("large", vec![2; 2_000_000]),
    ];
    assert!(matches!(store.commit(&batch), Err(StoreError::Full(_))));
    for (document, participant) in [(b, "eve"), (a, "bob"), (a, "ada"), (b, "ada")] {
        done(&store, by(participant, document));
    }
    assert_names(&store, "a", &["ada", "bob", "ada"]);
    assert_names(&store, "b", &["eve", "ada"]);
}

#[test]
fn refused_write_leaves_no_author() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let a = created(&store, "a");
    let with_state = |path: &str, participant: &str| {
        let mut write = create(path);
        if let Write::CreateDocument {
            state,
            contributions,
            ..
        } = &mut write
        {
            *state = b"state".to_vec().into();
            *contributions = vec![contribution(participant)];
        }
        write
    };
    let gone = DocumentId(a.0 + 7);
    let results = store
        .commit(&[
            by("bob", a),
            with_state("a", "eve"),
            by("eve", gone),
            snapshot(a, 9, b"state"),
            with_state("b", "eve"),
            by("eve", a),
            by("bob", a),
        ])
        .unwrap();
    let refused: Vec<&WriteError> = results
        .iter()
        .filter_map(|one| one.as_ref().err())
        .collect();
    assert_eq!(refused.len(), 3, "{refused:?}");
    assert_names(&store, "a", &["bob", "eve", "bob"]);
    assert_names(&store, "b", &["eve"]);
    let b = store.load(&room(), "b").unwrap().unwrap().document;
    assert_eq!(
        authors(&directory),
        [(a, "bob"), (a, "eve"), (b, "eve")].map(owned)
    );
}

#[test]
fn any_number_of_authors_is_distinguished() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let document = created(&store, "a");
    // More authors than the writer remembers.
    let names: Vec<String> = (0..10_500).map(|number| format!("p{number}")).collect();
    let writes: Vec<Write> = names.iter().map(|name| by(name, document)).collect();
    for _ in 0..2 {
        assert!(store.commit(&writes).unwrap().iter().all(Result::is_ok));
    }
    let loaded = store.load_since(document, Seq(0)).unwrap();
    assert_eq!(loaded.len(), 21_000);
    for (update, name) in loaded.iter().zip(names.iter().chain(&names)) {
        assert_eq!(update.contributions, [contribution(name)]);
    }
    done(&store, snapshot(document, 21_000, b"state"));
    assert_eq!(authors(&directory), []);
    assert_eq!(store.provenance(document).unwrap().len(), 10_500);
}

fn by(participant: &str, document: DocumentId) -> Write {
    let mut write = append(document, b"x");
    if let Write::Append { contributions, .. } = &mut write {
        *contributions = vec![contribution(participant)];
    }
    write
}

#[track_caller]
fn done(store: &dyn Store, write: Write) {
    store.commit(&[write]).unwrap().remove(0).unwrap();
}

/// Asserts who made each update of a document's log.
#[track_caller]
fn assert_names(store: &dyn Store, path: &str, expected: &[&str]) {
    let loaded = store.load(&room(), path).unwrap().unwrap();
    let names: Vec<&str> = loaded
        .updates
        .iter()
        .map(|update| &*update.contributions[0].author.participant)
        .collect();
    assert_eq!(names, expected, "{path}");
}

/// Returns the document and participant of each row, in this order.
fn authors(directory: &TempDir) -> Vec<(u64, String)> {
    let database = Connection::open(directory.path().join(DATABASE_FILE)).unwrap();
    let mut select = database
        .prepare("SELECT document, participant FROM authors ORDER BY document, participant")
        .unwrap();
    let rows = select.query_map([], |row| {
        Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get(1)?))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

fn owned((document, participant): (DocumentId, &str)) -> (u64, String) {
    (document.0, participant.to_owned())
}
