//! Copies by SQLite's own means while the server writes.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, thread};

use meshagent_store::{DocumentId, Store};
use meshagent_store_sqlite::DATABASE_FILE;
use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;

use crate::history::{History, batches_in};
use crate::{StopOnDrop, assert_intact, created, open};

#[test]
fn vacuumed_copy_contains_all_acknowledged_writes() {
    assert_copies_are_complete(|from, to| {
        from.execute("VACUUM INTO ?1", [to.to_str().unwrap()])
            .unwrap();
    });
}

#[test]
fn backup_contains_all_acknowledged_writes() {
    assert_copies_are_complete(|from, to| {
        let mut to = Connection::open(to).unwrap();
        let backup = Backup::new(from, &mut to).unwrap();
        // All pages in one step: a commit between two steps would restart the backup.
        backup
            .run_to_completion(i32::MAX, Duration::ZERO, None)
            .unwrap();
    });
}

fn assert_copies_are_complete(copy: fn(&Connection, &Path)) {
    let seed = env::var("STORE_SEED").map_or(1, |text| text.parse().unwrap());
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let acknowledged = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let copies = thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        scope.spawn(|| {
            let mut history = History::new(seed);
            while !stop.load(Ordering::Relaxed) {
                let writes = history.batch();
                store.commit(&writes).unwrap();
                history.done(&writes);
                acknowledged.store(history.batches(), Ordering::Release);
            }
        });
        // The connection of another program, which can't write.
        let source = directory.path().join(DATABASE_FILE);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let mut copies = Vec::new();
        while copies.len() < 5 {
            let before = copies.last().map_or(0, |(at_least, _)| *at_least);
            // A deadline for any busy machine.
            let deadline = Instant::now() + Duration::from_mins(2);
            let at_least = loop {
                thread::sleep(Duration::from_millis(60));
                let batches = acknowledged.load(Ordering::Acquire);
                if batches > before || Instant::now() > deadline {
                    break batches;
                }
            };
            let target = TempDir::new().unwrap();
            let source = Connection::open_with_flags(&source, flags).unwrap();
            copy(&source, &target.path().join(DATABASE_FILE));
            copies.push((at_least, target));
        }
        copies
    });
    assert!(
        copies[0].0 > 0 && copies[0].0 < copies[4].0,
        "the copies were taken without writes in between"
    );

    let mut history = History::new(seed);
    for (at_least, directory) in &copies {
        let context = format!("STORE_SEED={seed}, copied after batch {at_least}");
        let copy = open(directory.path());
        let batches = batches_in(&copy);
        assert!(
            batches >= *at_least,
            "{context}: the copy ends at {batches}"
        );
        history.replay(batches);
        history.assert_kept(&copy, &context);
        assert_intact(directory.path(), &context);
    }
    // A restored copy does not reuse ids, not even those of documents that were deleted before
    // the copy.
    let (_, last) = &copies[4];
    let given: u64 = Connection::open(last.path().join(DATABASE_FILE))
        .unwrap()
        .query_row("SELECT seq FROM sqlite_sequence", [], |row| row.get(0))
        .map(i64::cast_unsigned)
        .unwrap();
    let next = created(&open(last.path()), "new");
    assert!(next > DocumentId(given), "{next} after {given}");
}
