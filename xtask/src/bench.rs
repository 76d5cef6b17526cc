//! Builds the benchmarks as a user would build the library, and runs them.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::process::{cargo, run};
use crate::{BUILD_LIMIT, target_dir};

const RUN_LIMIT: Duration = Duration::from_mins(15);

pub(crate) fn bench(arguments: &[&str]) -> Result<()> {
    let build = ["build", "--release", "-p", "meshagent-bench", "--bins"];
    run(cargo(&build), BUILD_LIMIT)?;
    measure("release", arguments)
}

/// What of it holds on any machine, among all other checks: how much memory documents take. That every other figure can
/// be taken is tested; times mean something in a release build only, and where nothing else runs.
pub(crate) fn check_shortly() -> Result<()> {
    let build = ["build", "-p", "meshagent-bench", "--bins"];
    run(cargo(&build), BUILD_LIMIT)?;
    measure("debug", &["--short", "--check", "memory"])
}

fn measure(profile: &str, arguments: &[&str]) -> Result<()> {
    let name = format!("bench{}", std::env::consts::EXE_SUFFIX);
    let mut bench = Command::new(target_dir().join(profile).join(name));
    bench.args(arguments);
    run(bench, RUN_LIMIT)
}
