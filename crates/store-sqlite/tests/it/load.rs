//! Load: many documents, many threads, other programs that use the file.

use std::thread;
use std::time::{Duration, Instant};

use meshagent_store::{Seq, Store, Written};
use meshagent_store_sqlite::DATABASE_FILE;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::{append, create, created, open, room};

#[test]
fn ten_thousand_documents_are_created_and_listed_quickly() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let started = Instant::now();
    let paths: Vec<String> = (0..10_000)
        .map(|i| format!("folder-{}/{i}.thread", i % 100))
        .collect();
    for paths in paths.chunks(500) {
        let writes: Vec<_> = paths.iter().map(|path| create(path)).collect();
        assert!(store.commit(&writes).unwrap().iter().all(Result::is_ok));
    }
    assert_eq!(
        store.list(&room(), "", usize::MAX).unwrap().unwrap().len(),
        100
    );
    for folder in 0..100 {
        assert_eq!(
            store
                .list(&room(), &format!("folder-{folder}"), usize::MAX)
                .unwrap()
                .unwrap()
                .len(),
            100
        );
    }
    // Seconds on an idle machine; many minutes if the cost of a document grew with their number.
    assert!(
        started.elapsed() < Duration::from_mins(2),
        "took {:?}",
        started.elapsed()
    );

    // The cost of listing the root depends on its folders, not on their content.
    let started = Instant::now();
    for _ in 0..100 {
        store.list(&room(), "", usize::MAX).unwrap();
    }
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "took {:?}",
        started.elapsed()
    );
}

#[test]
fn threads_write_and_read_concurrently() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let document = created(&store, "a");
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let seq = match store
                        .commit(&[append(document, b"x")])
                        .unwrap()
                        .remove(0)
                        .unwrap()
                    {
                        Written::Appended { seq } => seq,
                        other => panic!("{other:?}"),
                    };
                    // The next read sees a commit, whichever connection makes it.
                    assert!(store.load(&room(), "a").unwrap().unwrap().last_seq >= seq);
                }
            });
        }
        for _ in 0..12 {
            scope.spawn(|| {
                let mut last = 0;
                while last < 200 {
                    let seen = store.load_since(document, Seq(last)).unwrap();
                    assert!(
                        seen.iter()
                            .map(|update| update.seq.0)
                            .eq(last + 1..=last + seen.len() as u64)
                    );
                    last += seen.len() as u64;
                }
            });
        }
    });
}

#[test]
fn reads_continue_and_writes_wait_while_the_file_is_locked() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let document = created(&store, "a");
    let mut other = Connection::open(directory.path().join(DATABASE_FILE)).unwrap();
    let lock = other
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            store
                .commit(&[append(document, b"x")])
                .map(|mut results| results.remove(0))
        });
        thread::sleep(Duration::from_millis(200));
        assert!(!writer.is_finished());
        assert_eq!(store.load(&room(), "a").unwrap().unwrap().last_seq, Seq(0));
        drop(lock);
        assert_eq!(
            writer.join().unwrap().unwrap(),
            Ok(Written::Appended { seq: Seq(1) })
        );
    });
}
