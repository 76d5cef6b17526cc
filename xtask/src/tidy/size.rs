//! The sizes of sources: a Rust file has at most 600 lines.

use std::collections::BTreeMap;

use super::{read, tracked_files};

const MAX_LINES: usize = 600;

/// Longer files, with their number of lines when they were listed. This list only becomes shorter.
const LONG_FILES: [(&str, usize); 20] = [
    ("crates/client/src/driver.rs", 715),
    ("crates/client/src/journal.rs", 710),
    ("crates/client/src/journal/restarts.rs", 618),
    ("crates/client/src/live_document.rs", 692),
    ("crates/client/src/replica.rs", 975),
    ("crates/client/src/room_client.rs", 1110),
    ("crates/document/src/document/apply.rs", 695),
    ("crates/document/src/document/edit.rs", 638),
    ("crates/document/src/document/tests/edits.rs", 657),
    ("crates/document/src/document/undo.rs", 721),
    ("crates/document/tests/allocations.rs", 790),
    ("crates/server/src/room.rs", 926),
    ("crates/server/src/room/documents.rs", 755),
    ("crates/server/src/room/opening.rs", 873),
    ("crates/server/src/room/sync.rs", 774),
    ("crates/server/src/room_loop/tests.rs", 677),
    ("crates/server/tests/it/live.rs", 719),
    ("crates/server/tests/it/methods.rs", 743),
    ("crates/server/tests/it/offline.rs", 624),
    ("interop/tests/conformance/differential.rs", 796),
];

#[test]
fn rust_files_have_at_most_600_lines() {
    let files: BTreeMap<String, usize> = tracked_files(&["*.rs"])
        .into_iter()
        .map(|path| {
            let lines = read(&path).lines().count();
            (path, lines)
        })
        .collect();
    let wrong = wrong_sizes(&files, &LONG_FILES);
    assert!(wrong.is_empty(), "split these by subject: {wrong:#?}");
}

/// Files that are too long, and entries of the list that are out of date.
fn wrong_sizes(files: &BTreeMap<String, usize>, long_files: &[(&str, usize)]) -> Vec<String> {
    let listed: BTreeMap<&str, usize> = long_files.iter().copied().collect();
    let too_long = files.iter().filter_map(|(path, &lines)| {
        let limit = listed.get(path.as_str()).copied().unwrap_or(MAX_LINES);
        (lines > limit).then(|| format!("{path} has {lines} lines, expected at most {limit}"))
    });
    let outdated = long_files.iter().filter_map(|&(path, _)| {
        let lines = files.get(path).copied().unwrap_or_default();
        (lines <= MAX_LINES)
            .then(|| format!("{path} has {lines} lines: remove it from `LONG_FILES`"))
    });
    too_long.chain(outdated).collect()
}

#[test]
fn listed_files_may_only_shrink() {
    let files = |sizes: &[(&str, usize)]| {
        let files = sizes
            .iter()
            .map(|(path, lines)| ((*path).to_owned(), *lines));
        files.collect::<BTreeMap<String, usize>>()
    };
    let listed = [("long.rs", 700)];
    for sizes in [
        &[("long.rs", 700), ("short.rs", 600)][..],
        &[("long.rs", 601)],
    ] {
        assert_eq!(wrong_sizes(&files(sizes), &listed), [""; 0], "{sizes:?}");
    }
    for sizes in [
        &[("long.rs", 701)][..],
        &[("long.rs", 600)],
        &[("moved.rs", 1)],
        &[("long.rs", 700), ("new.rs", 601)],
    ] {
        assert_eq!(wrong_sizes(&files(sizes), &listed).len(), 1, "{sizes:?}");
    }
}
