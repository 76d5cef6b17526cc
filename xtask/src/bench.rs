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
    let name = format!("bench{}", std::env::consts::EXE_SUFFIX);
    let mut bench = Command::new(target_dir().join("release").join(name));
    bench.args(arguments);
    run(bench, RUN_LIMIT)
}

/// The short form, among all other checks. What hangs on the size of a cache is shown, but not held
/// against a machine that others use as well.
pub(crate) fn check_shortly() -> Result<()> {
    bench(&["--short", "--check", "trace", "open", "memory"])?;
    bench(&["--short", "edits", "provenance"])
}
