//! `meshagent man`: the help pages as man pages, for whoever packages the command.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

/// Write a man page for each command
#[derive(Args, Debug)]
#[command(hide = true)]
pub(crate) struct ManArgs {
    /// Directory to write them to; made if it is not there
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
}

/// # Errors
/// If the pages can't be written.
pub(crate) fn run(args: &ManArgs, command: clap::Command) -> anyhow::Result<()> {
    let directory = args.output.as_path();
    let written =
        fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(command, directory));
    written.with_context(|| format!("writing to {}", directory.display()))
}
