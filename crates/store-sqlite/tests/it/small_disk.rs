//! A disk that the database itself has filled: deletions succeed, also after a restart, and what
//! they free can be used again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use meshagent_store::{DocumentId, Reach, Store, StoreError, Write, Written};
use meshagent_store_sqlite::{DATABASE_FILE, RESERVE_FILE, SqliteStore};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::{append, assert_intact, create, open, put, room};

/// The directory in which a disk of this size is mounted, for the child process.
const CHILD_DIRECTORY: &str = "STORE_SMALL_DISK";
const DISK: &str = "size=20m";
/// The exit code of a shell that may not mount.
const NO_MOUNT: i32 = 97;

#[test]
fn deletions_free_a_disk_that_the_database_has_filled() {
    on_a_small_disk("child_fills_it");
}

#[test]
fn starts_and_large_deletions_succeed_on_a_full_disk() {
    on_a_small_disk("child_finds_it_full");
}

/// Runs a test of this module in a process that has a small disk of its own.
#[expect(clippy::print_stdout, reason = "what is left out is said")]
fn on_a_small_disk(child: &str) {
    let directory = tempfile::tempdir().unwrap();
    let script = format!(
        "mount -t tmpfs -o {DISK} tmpfs \"${CHILD_DIRECTORY}\" || exit {NO_MOUNT}; exec \"$0\" \"$@\""
    );
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .arg(env::current_exe().unwrap())
        .args(["--exact", &format!("small_disk::{child}"), "--nocapture"])
        .env(CHILD_DIRECTORY, directory.path())
        .output();
    let said = output.as_ref().map(|output| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        format!("{}{stderr}", String::from_utf8_lossy(&output.stdout))
    });
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output)
            if output.status.code() == Some(NO_MOUNT)
                || String::from_utf8_lossy(&output.stderr).starts_with("unshare:") =>
        {
            println!("left out: this user may not mount a file system");
        }
        Err(error) => println!("left out: unshare can't be run: {error}"),
        _ => panic!("{}", said.unwrap()),
    }
}

/// Fills a store in one way, until it is full.
type Mix = fn(&SqliteStore, &mut Filled);

/// A test above runs this in a process of its own; otherwise it does nothing.
#[test]
fn child_fills_it() {
    let Some(disk) = env::var_os(CHILD_DIRECTORY) else {
        return;
    };
    let disk = PathBuf::from(disk);
    let mixes: [(&str, Mix); 3] = [
        ("many small documents", fill_with_documents),
        ("large files", fill_with_files),
        ("a growing document", fill_with_updates),
    ];
    for (name, fill) in mixes {
        for (end, others) in [(End::Stopped, true), (End::Killed, false)] {
            let data = disk.join("data");
            let context = format!("{name}, {end:?}, others write: {others}");
            run(&data, fill, end, others, &context);
            fs::remove_dir_all(&data).unwrap();
        }
    }
}

/// A test above runs this in a process of its own; otherwise it does nothing.
#[test]
fn child_finds_it_full() {
    let Some(disk) = env::var_os(CHILD_DIRECTORY) else {
        return;
    };
    let data = PathBuf::from(disk).join("data");
    for check in [a_start_finds_space, a_folder_is_deleted] {
        check(&data);
        assert_intact(&data, "at the end");
        fs::remove_dir_all(&data).unwrap();
    }
}

/// The deletion itself adds a page to the database, as the entries move to other keys.
fn a_folder_is_deleted(data: &Path) {
    let store = open(data);
    let writes: Vec<_> = (0..500)
        .map(|number| put(&format!("f/{number}"), vec![1]))
        .collect();
    assert!(!is_full(store.commit(&writes)));
    let store = restarted(store, data, End::Stopped);
    fill_up(&data.join("of another program"));
    let delete = Write::Delete {
        room: room(),
        path: "f".to_owned(),
        recursive: true,
        reach: Reach::EVERYTHING,
    };
    store.commit(&[delete]).unwrap().remove(0).unwrap();
    assert!(store.stat(&room(), "f/1").unwrap().is_none());
    while !store.free_some().unwrap() {}
    store.commit(&[put("new", vec![7; 9_000])]).unwrap();
}

/// Other writes have used their part of the reserve, and the WAL's index needs space.
fn a_start_finds_space(data: &Path) {
    for reserve in [4 << 20, 100_000] {
        let store = open(data);
        store.commit(&[put("file", vec![1; 9_000])]).unwrap();
        drop(store);
        let file = fs::File::options()
            .write(true)
            .open(data.join(RESERVE_FILE))
            .unwrap();
        file.set_len(reserve).unwrap();
        let other = data.join("of another program");
        fill_up(&other);
        let store = open(data);
        delete(&store, "file", "after a start without space");
        drop(store);
        fs::remove_file(other).unwrap();
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Stopped,
    Killed,
}

/// The paths that exist, with the size of each.
#[derive(Default)]
struct Filled {
    paths: Vec<(String, usize)>,
    next: usize,
}

impl Filled {
    fn path(&mut self) -> String {
        self.next += 1;
        format!("é/{}", self.next)
    }
}

fn run(data: &Path, fill: fn(&SqliteStore, &mut Filled), end: End, others: bool, context: &str) {
    let mut store = open(data);
    let mut filled = Filled::default();
    for round in 0..3 {
        let context = format!("{context}, round {round}");
        fill(&store, &mut filled);
        if others {
            fill_up(&data.join("of another program"));
        }
        if round % 2 == 1 {
            store = restarted(store, data, end);
        }
        assert!(filled.paths.len() > 1, "{context}");
        // First the smallest, which frees little, and then the largest.
        filled.paths.sort_by_key(|(_, bytes)| *bytes);
        for at in [0, filled.paths.len() - 1] {
            let (path, bytes) = filled.paths.remove(at.min(filled.paths.len() - 1));
            delete(&store, &path, &context);
            while !store
                .free_some()
                .unwrap_or_else(|e| panic!("{context}: {e:?}"))
            {}
            let path = filled.path();
            if bytes > 100_000 {
                let again = store.commit(&[put(&path, vec![9; bytes / 2])]);
                again
                    .unwrap_or_else(|error| panic!("{context}, written again: {error:?}"))
                    .remove(0)
                    .unwrap();
                filled.paths.push((path, bytes / 2));
            }
        }
    }
    store = restarted(store, data, end);
    for (path, _) in &filled.paths {
        delete(&store, path, context);
    }
    while !store.free_some().unwrap() {}
    store.commit(&[put("large", vec![7; 2 << 20])]).unwrap();
    store.check().unwrap();
    drop(store);
    assert_intact(data, context);
}

fn delete(store: &SqliteStore, path: &str, context: &str) {
    let delete = Write::Delete {
        room: room(),
        path: path.to_owned(),
        recursive: false,
        reach: Reach::EVERYTHING,
    };
    let deleted = store.commit(&[delete]);
    deleted
        .unwrap_or_else(|error| panic!("{context}, {path}: {error:?}"))
        .remove(0)
        .unwrap_or_else(|error| panic!("{context}, {path}: {error:?}"));
    assert!(store.stat(&room(), path).unwrap().is_none());
}

/// Writes a file that takes the rest of the disk.
fn fill_up(path: &Path) {
    use std::io::Write as _;
    let mut file = fs::File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    while file.write_all(&[1; 512]).is_ok() {}
}

fn restarted(store: SqliteStore, data: &Path, end: End) -> SqliteStore {
    // Another connection keeps the log as the end of a killed process does.
    let other = (end == End::Killed).then(|| {
        let other = Connection::open(data.join(DATABASE_FILE)).unwrap();
        let _: i64 = other
            .query_row("SELECT count(*) FROM rooms", [], |row| row.get(0))
            .unwrap();
        other
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .unwrap();
        other
    });
    drop(store);
    drop(other);
    open(data)
}

fn is_full(result: Result<Vec<Result<Written, meshagent_store::WriteError>>, StoreError>) -> bool {
    match result {
        Ok(results) => {
            assert!(results.iter().all(Result::is_ok), "{results:?}");
            false
        }
        Err(StoreError::Full(_)) => true,
        Err(error) => panic!("{error:?}"),
    }
}

fn fill_with_documents(store: &SqliteStore, filled: &mut Filled) {
    loop {
        let path = filled.path();
        let mut writes = vec![create(&path)];
        writes.extend((0..20).map(|number| put(&format!("{path} {number}"), vec![3; 9_000])));
        if is_full(store.commit(&writes)) {
            break;
        }
        filled.paths.push((path.clone(), 0));
        filled
            .paths
            .extend((0..20).map(|number| (format!("{path} {number}"), 9_000)));
    }
}

fn fill_with_files(store: &SqliteStore, filled: &mut Filled) {
    for bytes in [3 << 20, 300_000, 20_000, 500] {
        loop {
            let path = filled.path();
            if is_full(store.commit(&[put(&path, vec![5; bytes])])) {
                break;
            }
            filled.paths.push((path, bytes));
        }
    }
}

fn fill_with_updates(store: &SqliteStore, filled: &mut Filled) {
    let mut documents: Vec<(String, usize, DocumentId)> = Vec::new();
    for _ in 0..2 {
        let path = filled.path();
        match store.commit(&[create(&path)]) {
            Ok(mut results) => match results.remove(0) {
                Ok(Written::Created { document, .. }) => documents.push((path, 0, document)),
                other => panic!("{other:?}"),
            },
            Err(StoreError::Full(_)) => break,
            Err(error) => panic!("{error:?}"),
        }
    }
    for size in [200_000, 2_000] {
        for (_, bytes, document) in &mut documents {
            while !is_full(store.commit(&[append(*document, &vec![8; size])])) {
                *bytes += size;
            }
        }
    }
    filled
        .paths
        .extend(documents.into_iter().map(|(path, bytes, _)| (path, bytes)));
}
