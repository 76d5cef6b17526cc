//! Builds the server and the attack catalogue, and runs them against each other.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::process::{cargo, run};
use crate::{BUILD_LIMIT, target_dir};

/// The limit for some ninety attacks, each with its baseline and its aftermath.
const RUN_LIMIT: Duration = Duration::from_hours(2);

pub(crate) fn abuse(arguments: &[&str]) -> Result<()> {
    let (profile, arguments) = match arguments {
        ["--profile", profile, rest @ ..] => (*profile, rest),
        all => ("release", all),
    };
    build_and_run(profile, arguments)
}

/// Runs the short form, for CI.
///
/// It checks what holds on any machine: the process stays within its memory bound, and loses no
/// acknowledged edit of the innocent participants. Delays mean something only in a release build.
pub(crate) fn check_shortly() -> Result<()> {
    build_and_run("dev", &["--short", "--check"])
}

fn build_and_run(profile: &str, arguments: &[&str]) -> Result<()> {
    let mut build = cargo(&["build", "--profile", profile, "-p", "meshagent-abuse"]);
    if std::env::var_os("MESHAGENT_BIN").is_none() {
        build.args(["-p", "meshagent-cli"]);
    }
    run(build, BUILD_LIMIT)?;
    let folder = if profile == "dev" { "debug" } else { profile };
    let name = format!("abuse{}", std::env::consts::EXE_SUFFIX);
    let mut abuse = Command::new(target_dir().join(folder).join(name));
    abuse.args(arguments);
    run(abuse, RUN_LIMIT)
}
