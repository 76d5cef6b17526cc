//! `meshagent room storage`: the files and folders of a room.

mod cp;
mod exists;
mod get;
mod ls;
mod mv;
mod place;
mod rm;

use clap::{Args, Subcommand};

use super::session::block_on;
use crate::failure::EXIT_CODES;
use crate::output::{Output, OutputArgs};

/// Read and write the files of a room
///
/// A path names something in the room, with room:// in front of it or without; but `cp` copies between the room and
/// this machine, so there only room://PATH is in the room.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct StorageArgs {
    #[command(flatten)]
    output: OutputArgs,

    #[command(subcommand)]
    command: StorageCommand,
}

#[derive(Debug, Subcommand)]
enum StorageCommand {
    Ls(ls::LsArgs),
    Cp(cp::CpArgs),
    Get(get::GetArgs),
    Rm(rm::RmArgs),
    Exists(exists::ExistsArgs),
    Mv(mv::MvArgs),
}

/// # Errors
/// As the command that was given.
pub(crate) fn run(args: &StorageArgs) -> anyhow::Result<()> {
    let output = Output::new(&args.output)?;
    match &args.command {
        StorageCommand::Ls(args) => block_on(ls::run(args, &output)),
        StorageCommand::Cp(args) => block_on(cp::run(args, &output)),
        StorageCommand::Get(args) => block_on(get::run(args, &output)),
        StorageCommand::Rm(args) => block_on(rm::run(args, &output)),
        StorageCommand::Exists(args) => block_on(exists::run(args, &output)),
        StorageCommand::Mv(args) => block_on(mv::run(args, &output)),
    }
}
