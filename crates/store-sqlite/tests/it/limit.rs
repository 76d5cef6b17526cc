//! Writes that fail in the middle, because the operating system limits the size of
//! files (`RLIMIT_FSIZE`).

use std::io::Write as _;
use std::process::Command;
use std::{env, fs};

use meshagent_store::{Store, StoreError};
use meshagent_store_sqlite::DATABASE_FILE;
use rlimit::Resource;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::history::{History, Random};
use crate::{assert_intact, open};

const CHILD_SEED: &str = "STORE_LIMITED_SEED";
/// The least limit: the WAL index, which has a fixed size, needs it.
const LEAST: u64 = 64 << 10;

#[test]
fn store_recovers_from_partial_writes() {
    let number = |name| env::var(name).ok().and_then(|text| text.parse().ok());
    let seed: u64 = number("STORE_SEED").unwrap_or(1);
    // The limit applies to a process, and exceeding it sends a signal that ends the process unless
    // it is ignored.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(env::current_exe().unwrap())
        .args([
            "--exact",
            "limit::child_writes_below_a_limit",
            "--nocapture",
        ])
        .env(CHILD_SEED, seed.to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let counts: Vec<u64> = said
        .lines()
        .find_map(|line| line.split_once("failures: "))
        .map(|(_, counts)| counts.split(' ').map(|n| n.parse().unwrap()).collect())
        .unwrap();
    assert!(
        counts.iter().all(|count| *count >= 10),
        "STORE_SEED={seed}: expected at least 10 failed commits and checkpoints, found {counts:?}"
    );
}

/// The test above runs this in a process of its own; otherwise it does nothing.
#[test]
fn child_writes_below_a_limit() {
    let Ok(seed) = env::var(CHILD_SEED) else {
        return;
    };
    let seed = seed.parse().unwrap();
    let directory = TempDir::new().unwrap();
    let path = directory.path().join(DATABASE_FILE);
    let store = open(directory.path());
    // Prevents the removal of the WAL while the store's own connections are being replaced.
    let other = Connection::open(&path).unwrap();
    let mut history = History::new(seed);
    let mut random = Random(seed);
    let (mut failed_commits, mut failed_checkpoints) = (0, 0);
    while history.batches() < 400 {
        let context = format!("STORE_SEED={seed}, batch {}", history.batches());
        let writes = history.batch();
        if history.batches() == 0 {
            store.commit(&writes).unwrap();
            history.done(&writes);
            continue;
        }

        let size = |suffix: &str| {
            let mut path = path.as_os_str().to_owned();
            path.push(suffix);
            fs::metadata(path).map_or(0, |file| file.len())
        };
        let limit = match random.below(4) {
            0 => size("-wal") + random.below(40_000),
            1 => size("") + random.below(40_000),
            2 => random.below(size("-wal").max(1)),
            _ => random.below(size("").max(1)),
        };
        limit_files(limit.max(LEAST));
        let result = store.commit(&writes);
        let checkpoint = (random.below(3) == 0).then(|| {
            other.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
                row.get::<_, i64>(0)
            })
        });
        failed_checkpoints += u32::from(matches!(checkpoint, Some(Err(_))));
        match result {
            Ok(results) => {
                assert_eq!(results.len(), writes.len());
                history.done(&writes);
                history.assert_kept(&store, &context);
            }
            Err(StoreError::Full(_) | StoreError::Unavailable(_)) => {
                failed_commits += 1;
                history.assert_kept(&store, &format!("{context}, while it fails"));
                limit_files(rlimit::INFINITY);
                if failed_commits % 4 == 0 {
                    // As if the process were killed now.
                    let crashed = TempDir::new().unwrap();
                    for file in [DATABASE_FILE.to_owned(), format!("{DATABASE_FILE}-wal")] {
                        let from = directory.path().join(&file);
                        if from.exists() {
                            fs::copy(from, crashed.path().join(&file)).unwrap();
                        }
                    }
                    let context = format!("{context}, reopened after it failed");
                    history.assert_kept(&open(crashed.path()), &context);
                    assert_intact(crashed.path(), &context);
                }
                history.assert_kept(&store, &format!("{context}, after it failed"));
                assert_intact(directory.path(), &context);
                store.check().unwrap();
                store.commit(&writes).unwrap();
                history.done(&writes);
                history.assert_kept(&store, &format!("{context}, retried"));
            }
            Err(error) => panic!("{context}: {error:?}"),
        }
        limit_files(rlimit::INFINITY);
    }
    assert_intact(directory.path(), "at the end");
    drop(store);
    drop(other);
    history.assert_kept(&open(directory.path()), "reopened");
    writeln!(
        std::io::stdout(),
        "\nfailures: {failed_commits} {failed_checkpoints}"
    )
    .unwrap();
}

/// Sets the soft limit only, so that it can be raised again.
fn limit_files(bytes: u64) {
    Resource::FSIZE.set(bytes, rlimit::INFINITY).unwrap();
}
