//! Builds the benchmarks as a user would build the library, and runs them.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::process::{cargo, run};
use crate::{BUILD_LIMIT, interop, target_dir};

const RUN_LIMIT: Duration = Duration::from_mins(15);
/// The limit for nine scenarios with six servers, three times each, and for their installation.
const SERVERS_LIMIT: Duration = Duration::from_hours(2);

pub(crate) fn bench(arguments: &[&str]) -> Result<()> {
    if let ["servers", arguments @ ..] = arguments {
        return servers(arguments);
    }
    let build = ["build", "--release", "-p", "meshagent-bench", "--bins"];
    run(cargo(&build), BUILD_LIMIT)?;
    measure("release", arguments)
}

/// Checks the memory of documents, for CI.
///
/// Memory is the only goal that holds on any machine: times mean something only in a release build
/// on a machine without other load. A unit test checks that every other section runs.
pub(crate) fn check_shortly() -> Result<()> {
    let build = ["build", "-p", "meshagent-bench", "--bins"];
    run(cargo(&build), BUILD_LIMIT)?;
    measure("debug", &["--short", "--check", "memory"])
}

/// Measures the servers, each on a core of its own, with the generator on the other core.
fn servers(arguments: &[&str]) -> Result<()> {
    let build = [
        "build",
        "--release",
        "-p",
        "meshagent-bench",
        "-p",
        "meshagent-cli",
        "--bins",
    ];
    run(cargo(&build), BUILD_LIMIT)?;
    let generator = target_dir().join("release/bench-servers");
    let mut pinned = Command::new("taskset");
    pinned.args(["-c", "0"]).arg(generator).args(arguments);
    run(pinned, SERVERS_LIMIT)
}

/// Runs each scenario with small numbers, for CI.
///
/// Counts must match what was sent; times have no goals. Y-Sweet is excluded, because its build
/// takes longer than everything else.
pub(crate) fn check_servers() -> Result<()> {
    let build = [
        "build",
        "-p",
        "meshagent-bench",
        "-p",
        "meshagent-cli",
        "--bins",
    ];
    run(cargo(&build), BUILD_LIMIT)?;
    let mut generator = Command::new(target_dir().join("debug/bench-servers"));
    generator.args([
        "--short",
        "--check",
        "--peers",
        "ours,hocuspocus,y-websocket,relay,batching-relay",
    ]);
    run(generator, RUN_LIMIT)
}

/// Settings of jemalloc for measurements of the library: keep what is freed.
const KEPT_HEAP: &str = "oversize_threshold:0,dirty_decay_ms:-1,muzzy_decay_ms:-1";

fn measure(profile: &str, arguments: &[&str]) -> Result<()> {
    let name = format!("bench{}", std::env::consts::EXE_SUFFIX);
    let mut bench = Command::new(target_dir().join(profile).join(name));
    bench.args(arguments);
    // Otherwise each repetition pays for the page faults of its memory.
    bench.env("MALLOC_CONF", KEPT_HEAP);
    if arguments.contains(&"shapes") {
        interop::prepare()?;
        bench.env("NODE_PATH", interop::node_modules());
    }
    run(bench, RUN_LIMIT)
}
