//! `meshagent room sync`: documents on the command line.

mod create;
mod delete;
mod edit;
mod export;
mod get;
mod grep;
mod import;
mod inspect;
mod live;
mod ls;
mod open;
mod removed;
mod update;
mod validate;
mod watch;

use clap::{Args, Subcommand};

use super::session::block_on;
use crate::failure::EXIT_CODES;
use crate::output::{Output, OutputArgs};

/// Read and write live documents of a room
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct SyncArgs {
    #[command(flatten)]
    output: OutputArgs,

    #[command(subcommand)]
    command: SyncCommand,
}

#[derive(Debug, Subcommand)]
enum SyncCommand {
    Create(create::CreateArgs),
    Get(get::GetArgs),
    Grep(grep::GrepArgs),
    Inspect(inspect::InspectArgs),
    Update(update::UpdateArgs),
    Edit(edit::EditArgs),
    Watch(watch::WatchArgs),
    Import(import::ImportArgs),
    Ls(ls::LsArgs),
    Export(export::ExportArgs),
    Delete(delete::DeleteArgs),
    Validate(validate::ValidateArgs),
}

/// # Errors
/// As the command that was given.
pub(crate) fn run(args: &SyncArgs) -> anyhow::Result<()> {
    let output = Output::new(&args.output)?;
    match &args.command {
        SyncCommand::Create(args) => block_on(create::run(args, &output)),
        SyncCommand::Get(args) => block_on(get::run(args, &output)),
        SyncCommand::Grep(args) => block_on(grep::run(args, &output)),
        SyncCommand::Inspect(args) => block_on(inspect::run(args, &output)),
        SyncCommand::Update(args) => block_on(update::run(args, &output)),
        SyncCommand::Edit(args) => block_on(edit::run(args, &output)),
        SyncCommand::Watch(args) => block_on(watch::run(args, &output)),
        SyncCommand::Import(args) => block_on(import::run(args, &output)),
        SyncCommand::Ls(args) => block_on(ls::run(args, &output)),
        SyncCommand::Export(args) => block_on(export::run(args, &output)),
        SyncCommand::Delete(args) => block_on(delete::run(args, &output)),
        SyncCommand::Validate(args) => validate::run(args, &output),
    }
}
