//! Tests of all sources: headers, the purity of the pure crates, sizes, documents.

mod prose;
mod size;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::process::capture;
use crate::workspace_root;

/// Crates that open no socket and start no task.
const PURE: [&str; 4] = ["document", "protocol", "rights", "store"];

/// The dependencies among pure crates: the first one uses the second.
const BETWEEN_PURE: [(&str, &str); 1] = [("protocol", "rights")];

/// Dependencies of crates with I/O.
const RUNTIMES: [&str; 5] = ["tokio", "mio", "socket2", "async-std", "smol"];

/// Text that a pure crate's sources do not contain: sockets, files, threads, clocks.
const IMPURE: [&str; 7] = [
    "std::net",
    "std::fs",
    "std::process",
    "thread::spawn",
    "Instant::now",
    "SystemTime::now",
    "getrandom::",
];

const MAX_FILE_BYTES: u64 = 1 << 20;

#[test]
fn every_module_begins_with_a_header() {
    let bare: Vec<String> = tracked_files(&["*.rs"])
        .into_iter()
        .filter(|path| !read(path).starts_with("//!"))
        .collect();
    assert!(
        bare.is_empty(),
        "these begin without a `//!` line: {bare:#?}"
    );
}

#[test]
fn pure_crates_depend_on_no_runtime() {
    for krate in PURE {
        let package = format!("meshagent-{krate}");
        let arguments = [
            "tree", "--locked", "-p", &package, "-e", "normal", "--prefix", "none",
        ];
        let tree = capture("cargo", &arguments).unwrap();
        let names: BTreeSet<&str> = tree
            .lines()
            .filter_map(|line| line.split(' ').next())
            .collect();
        let runtimes: Vec<_> = RUNTIMES
            .iter()
            .filter(|name| names.contains(**name))
            .collect();
        assert!(runtimes.is_empty(), "{package} depends on {runtimes:?}");
        let siblings: Vec<_> = names
            .iter()
            .filter_map(|name| name.strip_prefix("meshagent-"))
            .filter(|name| *name != krate && !BETWEEN_PURE.contains(&(krate, *name)))
            .collect();
        assert!(siblings.is_empty(), "{package} depends on {siblings:?}");
    }
}

#[test]
fn pure_crates_mention_no_world() {
    let mut found = Vec::new();
    for krate in PURE {
        for path in tracked_files(&[&format!("crates/{krate}/src/*.rs")]) {
            let is_test = path.ends_with("/tests.rs") || path.contains("/tests/");
            if is_test {
                continue;
            }
            // An unindented `#[cfg(test)]` begins the module of tests, at the end of a file.
            let text = read(&path);
            let code = text.split("\n#[cfg(test)]").next().unwrap_or_default();
            for line in code
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
            {
                found.extend(
                    IMPURE
                        .iter()
                        .filter(|word| line.contains(**word))
                        .map(|word| format!("{path}: {word}")),
                );
            }
        }
    }
    assert!(
        found.is_empty(),
        "pure crates take the world as arguments: {found:#?}"
    );
}

/// The runner of wasm-bindgen skips the standard library's tests.
#[test]
fn tests_of_wasm_crates_run_on_wasm() {
    let tested = tracked_files(&[
        "crates/document/src/*.rs",
        "crates/protocol/tests/*.rs",
        "crates/rights/tests/*.rs",
    ]);
    let left_out: Vec<String> = tested
        .into_iter()
        .filter(|path| {
            let text = read(path);
            let not_for_wasm = text.contains("#![cfg(not(target_arch = \"wasm32\"))]");
            text.contains("#[test]") && !text.contains("use crate::test;") && !not_for_wasm
        })
        .collect();
    assert!(
        left_out.is_empty(),
        "these lack `use crate::test;`: {left_out:#?}"
    );
}

/// Each public method has an example, which is run as a test.
#[test]
fn every_public_method_of_the_client_has_an_example() {
    let mut without = Vec::new();
    // Only the simulation uses its own entry points.
    let mut files = tracked_files(&["crates/client/src/*.rs"]);
    files.retain(|path| path != "crates/client/src/simulation.rs");
    for path in files {
        let text = read(&path);
        let mut is_shown = false;
        for line in text.lines().map(str::trim_start) {
            if line.starts_with("pub fn ") || line.starts_with("pub async fn ") {
                if !is_shown {
                    without.push(format!("{path}: {line}"));
                }
                is_shown = false;
            } else if line == "/// ```" {
                is_shown = true;
            } else if !line.starts_with("///") && !line.starts_with("#[") {
                is_shown = false;
            }
        }
    }
    assert!(without.is_empty(), "these have none: {without:#?}");
}

#[test]
fn no_large_file_is_in_git() {
    let large: Vec<String> = tracked_files(&["*"])
        .into_iter()
        .filter(|path| fs::metadata(absolute(path)).is_ok_and(|file| file.len() > MAX_FILE_BYTES))
        .collect();
    assert!(
        large.is_empty(),
        "larger than {MAX_FILE_BYTES} bytes: {large:?}"
    );
}

#[test]
fn the_protocol_is_documented() {
    assert!(
        absolute("docs/protocol.md").is_file(),
        "docs/protocol.md is missing"
    );
}

/// The interop tests pin versions, not the host of a developer's registry settings.
#[test]
fn the_lock_file_of_the_published_sdk_names_no_host() {
    assert!(!read("interop/package-lock.json").contains("\"resolved\""));
    assert!(!read("bench/peers/package-lock.json").contains("\"resolved\""));
    assert!(!read("interop/constraints.txt").contains("://"));
}

/// Returns the existing files that git tracks, relative to the root.
fn tracked_files(patterns: &[&str]) -> Vec<String> {
    let listing = capture("git", &[&["ls-files", "--"], patterns].concat()).unwrap();
    listing
        .lines()
        .map(ToOwned::to_owned)
        .filter(|path| absolute(path).is_file())
        .collect()
}

fn absolute(path: &str) -> PathBuf {
    workspace_root().join(Path::new(path))
}

fn read(path: &str) -> String {
    let bytes = fs::read(absolute(path)).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
