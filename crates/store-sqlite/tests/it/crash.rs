//! Recovery after a process is killed, or from a copy that was taken while it writes.

use std::io::{BufRead, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::{env, fs};

use meshagent_store::{DocumentId, Seq, Store};
use meshagent_store_sqlite::{DATABASE_FILE, Options, SqliteStore};
use tempfile::TempDir;

use crate::history::{History, Random, batches_in};
use crate::{append, assert_intact, created, open, room};

const CHILD_DIRECTORY: &str = "STORE_CHILD_DIRECTORY";
const CHILD_SEED: &str = "STORE_CHILD_SEED";

#[test]
fn killed_process_loses_no_durable_write() {
    let number = |name| env::var(name).ok().and_then(|text| text.parse().ok());
    let seed: u64 = number("STORE_SEED").unwrap_or(1);
    let kills: u64 = number("STORE_KILLS").unwrap_or(12);
    let directory = TempDir::new().unwrap();
    let mut random = Random(seed);
    let mut history = History::new(seed);
    for kill in 0..kills {
        let kill_after = match kill {
            0..=2 => kill + 1,
            _ => 1 + random.below(200),
        };
        let mut child = Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "crash::child_writes_until_it_is_killed",
                "--nocapture",
            ])
            .env(CHILD_DIRECTORY, directory.path())
            .env(CHILD_SEED, seed.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut committed = 0;
        let mut seen = 0;
        for line in stdout.lines() {
            let Ok(line) = line else { break };
            let Some((_, batches)) = line.split_once("committed ") else {
                continue;
            };
            committed = batches.parse().unwrap();
            seen += 1;
            if seen == kill_after {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();

        // Immediately, as a supervisor would: the lock of the dead process must not be in the way.
        let store = open(directory.path());
        let context = format!("STORE_SEED={seed}, kill {kill}");
        let batches = batches_in(&store);
        assert!(seen >= kill_after, "{context}: the child ended by itself");
        assert!(
            batches >= committed,
            "{context}: {batches} batches are left of {committed}"
        );
        history.replay(batches);
        history.assert_kept(&store, &context);
        assert_intact(directory.path(), &context);
        store.check().unwrap();
    }
}

/// The test above runs this in a process of its own; otherwise it does nothing.
#[test]
fn child_writes_until_it_is_killed() {
    let Some(directory) = env::var_os(CHILD_DIRECTORY) else {
        return;
    };
    let seed = env::var(CHILD_SEED).unwrap().parse().unwrap();
    // The default options: a commit that has returned is durable.
    let store = SqliteStore::open(directory.as_ref(), Options::default()).unwrap();
    let mut history = History::new(seed);
    history.replay(batches_in(&store));
    loop {
        let writes = history.batch();
        store.commit(&writes).unwrap();
        history.done(&writes);
        writeln!(std::io::stdout(), "committed {}", history.batches()).unwrap();
    }
}

#[test]
fn torn_copy_contains_complete_transactions() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let document = created(&store, "a");
    for seq in 1..=40 {
        store
            .commit(&[append(document, &seq.to_string().repeat(50).into_bytes())])
            .unwrap();
    }
    let database = fs::read(directory.path().join(DATABASE_FILE)).unwrap();
    let wal = fs::read(directory.path().join(format!("{DATABASE_FILE}-wal"))).unwrap();
    assert!(wal.len() > 100_000, "the writes are in the WAL");

    let updates_in_copy = |wal: &[u8]| {
        let copy = TempDir::new().unwrap();
        fs::write(copy.path().join(DATABASE_FILE), &database).unwrap();
        fs::write(copy.path().join(format!("{DATABASE_FILE}-wal")), wal).unwrap();
        let store = open(copy.path());
        let updates = store
            .load(&room(), "a")
            .unwrap()
            .map_or(0, |document| document.last_seq.0);
        // The copy can be written to.
        if updates > 0 {
            store
                .commit(&[append(document, b"more")])
                .unwrap()
                .remove(0)
                .unwrap();
        } else {
            created(&store, "a2");
        }
        updates
    };
    let mut before = 0;
    for cut in (0..wal.len()).step_by(5_003) {
        let updates = updates_in_copy(&wal[..cut]);
        assert!(
            updates >= before,
            "cut at {cut}: {updates} updates, {before} with less of the file"
        );
        before = updates;
    }
    assert_eq!(updates_in_copy(&wal), 40);
    assert_eq!(updates_in_copy(&[]), 0);

    let mut flipped = wal.clone();
    flipped[wal.len() / 2] ^= 0x10;
    let updates = updates_in_copy(&flipped);
    assert!(
        (1..40).contains(&updates),
        "{updates} updates with a flipped bit in the middle"
    );
    assert_eq!(
        store
            .load_since(DocumentId(document.0), Seq(0))
            .unwrap()
            .len(),
        40,
        "the original is unchanged"
    );
}
