//! The unit tests of the pure crates on wasm32 under Node, with the runner of wasm-bindgen.
//!
//! The runner must have exactly the version that the tests were built with. It is installed into
//! `target/tools` once.

use std::env::consts::EXE_SUFFIX;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::process::{capture, cargo, run};
use crate::{BUILD_LIMIT, workspace_root};

const TARGET: &str = "wasm32-unknown-unknown";

/// Options that select the crates whose tests run there.
const CRATES: [&str; 6] = [
    "-p",
    "meshagent-document",
    "-p",
    "meshagent-protocol",
    "-p",
    "meshagent-rights",
];

const RUNNER: &str = "wasm-bindgen-test-runner";

/// The limit of the runner's installation, with downloads and builds of its dependencies.
const INSTALL_LIMIT: Duration = Duration::from_mins(20);

/// Runs the tests on wasm32.
pub(crate) fn test() -> Result<()> {
    ensure!(
        is_target_installed(),
        "{TARGET} is not installed: run `rustup target add {TARGET}`"
    );
    // Without dev-dependencies, which may enable more features than the crates request.
    let mut check = cargo(&["check", "--target", TARGET]);
    check.args(CRATES);
    run(check, BUILD_LIMIT)?;
    let runner = runner()?;
    let mut tests = cargo(&["test", "--target", TARGET]);
    tests
        .args(CRATES)
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER", runner);
    run(tests, BUILD_LIMIT)
}

pub(crate) fn is_target_installed() -> bool {
    let installed = capture("rustup", &["target", "list", "--installed"]).unwrap_or_default();
    installed.lines().any(|line| line.trim() == TARGET)
}

fn runner() -> Result<PathBuf> {
    let version = locked_version()?;
    let tools = workspace_root().join("target").join("tools");
    let ours = tools.join("bin").join(format!("{RUNNER}{EXE_SUFFIX}"));
    let is_right = |candidate: &Path| {
        capture(&candidate.to_string_lossy(), &["--version"])
            .is_ok_and(|printed| printed.split_whitespace().any(|word| word == version))
    };
    let candidates = [ours.clone(), PathBuf::from(RUNNER)];
    if let Some(found) = candidates.into_iter().find(|path| is_right(path)) {
        return Ok(found);
    }
    let install = |options: &[&str]| {
        // An optimised build would take minutes, and the runner only runs a few small tests.
        let mut install = cargo(&["install", "--quiet", "--force", "--debug"]);
        install
            .args(options)
            .args(["--bin", RUNNER])
            .arg("--root")
            .arg(&tools)
            .arg(format!("wasm-bindgen-cli@{version}"));
        run(install, INSTALL_LIMIT)
    };
    // A mirror of the registry may lack the newest versions of the lock file.
    install(&["--locked"]).or_else(|_| install(&[]))?;
    ensure!(is_right(&ours), "{RUNNER} {version} was not installed");
    Ok(ours)
}

/// Returns the version of wasm-bindgen in `Cargo.lock`.
fn locked_version() -> Result<String> {
    let path = workspace_root().join("Cargo.lock");
    let lock = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let mut lines = lock.lines();
    lines.find(|&line| line == "name = \"wasm-bindgen\"");
    let version = lines.next().and_then(|line| {
        line.strip_prefix("version = \"")?
            .strip_suffix('"')
            .map(str::to_owned)
    });
    version.context("Cargo.lock names no version of wasm-bindgen")
}
