//! How long small commits wait beside large ones: a report for whoever changes that, with bounds that only a step too
//! many exceeds.

use std::time::{Duration, Instant};

use meshagent_store::{Staging, Store, Write};
use meshagent_store_sqlite::{Options, SqliteStore};
use tempfile::TempDir;

use crate::{append, created, put};

/// As the committer does: small batches in turns with steps of a large one.
#[test]
fn small_commits_beside_large_ones() {
    let directory = TempDir::new().unwrap();
    let store = SqliteStore::open(directory.path(), Options::default()).unwrap();
    let document = created(&store, "ä");
    let mut small = Vec::new();
    let mut steps = Vec::new();
    let mut log = 0;
    for round in 0..6 {
        let data = vec![round; 12 << 20];
        let writes: [Write; 1] = [put(&format!("groß {}", round % 3), data)];
        let staging = Staging::default();
        let mut is_done = false;
        while !is_done {
            let started = Instant::now();
            store.commit(&[append(document, "é".as_bytes())]).unwrap();
            small.push(started.elapsed());
            let started = Instant::now();
            if store.stage(&writes, &staging).unwrap() {
                let results = store.commit_staged(&writes, &staging).unwrap();
                assert!(results.iter().all(Result::is_ok));
                is_done = true;
            }
            steps.push(started.elapsed());
            let _ = store.free_some().unwrap();
            log = log.max(store.log_bytes());
        }
    }
    println!("small {}, steps {}, log {log}", figures(small), figures(steps));
    assert!(log < 64 << 20, "the log does not begin again: {log}");
}

fn figures(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    format!("{}: p50 {:?} p99 {:?} max {:?}", times.len(), at(50), at(99), at(100))
}
