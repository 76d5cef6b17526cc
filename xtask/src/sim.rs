//! Builds the simulation of the whole server for speed, with its assertions left in, and runs it.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::process::{cargo, run};
use crate::{BUILD_LIMIT, target_dir};

/// The limit of a run: a hundred thousand seeds of some hundredths of a second.
const RUN_LIMIT: Duration = Duration::from_hours(2);

pub(crate) fn sim(arguments: &[&str]) -> Result<()> {
    let build = [
        "build",
        "--profile",
        "sim",
        "-p",
        "meshagent-testing",
        "--bin",
        "sim",
    ];
    run(cargo(&build), BUILD_LIMIT)?;
    let name = format!("sim{}", std::env::consts::EXE_SUFFIX);
    let mut sim = Command::new(target_dir().join("sim").join(name));
    sim.args(arguments);
    run(sim, RUN_LIMIT)
}
