//! Copies taken by SQLite's own means while the server writes.

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
fn vacuumed_copies_hold_all_that_was_acknowledged() {
    copies_hold_all(|from, to| {
        from.execute("VACUUM INTO ?1", [to.to_str().unwrap()])
            .unwrap();
    });
}

#[test]
fn backups_hold_all_that_was_acknowledged() {
    copies_hold_all(|from, to| {
        let mut to = Connection::open(to).unwrap();
        let backup = Backup::new(from, &mut to).unwrap();
        // All pages in one step: a commit between two steps would make it begin again.
        backup
            .run_to_completion(i32::MAX, Duration::ZERO, None)
            .unwrap();
    });
}

fn copies_hold_all(copy: fn(&Connection, &Path)) {
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
        // As another program would: it can't write.
        let source = directory.path().join(DATABASE_FILE);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let mut copies = Vec::new();
        while copies.len() < 5 {
            let before = copies.last().map_or(0, |(at_least, _)| *at_least);
            // However busy the machine is.
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
        "nothing was written meanwhile"
    );

    let mut history = History::new(seed);
    for (at_least, directory) in &copies {
        let context = format!("STORE_SEED={seed}, copied after batch {at_least}");
        let copy = open(directory.path());
        let batches = batches_in(&copy);
        assert!(batches >= *at_least, "{context}: it ends at {batches}");
        history.replay(batches);
        history.assert_kept(&copy, &context);
        assert_intact(directory.path(), &context);
    }
    // A restored copy gives no id again, not even those of documents that were gone when it
    // was taken.
    let (_, last) = &copies[4];
    let given: u64 = Connection::open(last.path().join(DATABASE_FILE))
        .unwrap()
        .query_row("SELECT seq FROM sqlite_sequence", [], |row| row.get(0))
        .map(i64::cast_unsigned)
        .unwrap();
    let next = created(&open(last.path()), "new");
    assert!(next > DocumentId(given), "{next} after {given}");
}
