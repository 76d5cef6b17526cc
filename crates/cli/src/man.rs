//! `meshagent man`: writes the help texts as man pages, for packages.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

/// Write a man page for each command
#[derive(Args, Debug)]
#[command(hide = true)]
pub(crate) struct ManArgs {
    /// Directory for the pages; created if it does not exist
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
}

/// # Errors
/// If the pages can't be written.
pub(crate) fn run(args: &ManArgs, command: clap::Command) -> anyhow::Result<()> {
    let directory = args.output.as_path();
    let written =
        fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(command, directory));
    written.with_context(|| format!("can't write to {}", directory.display()))
}
