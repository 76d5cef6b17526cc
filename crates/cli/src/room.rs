//! `meshagent room`: commands for one room.

mod connect;
mod entries;
pub(crate) mod given_token;
pub(crate) mod input;
mod session;
mod storage;
mod sync;

use clap::Subcommand;

/// Commands for the documents and files of a room
#[derive(Debug, Subcommand)]
pub(crate) enum RoomCommand {
    Connect(connect::ConnectArgs),
    Sync(sync::SyncArgs),
    Storage(storage::StorageArgs),
}

/// # Errors
/// If the command fails.
pub(crate) fn run(command: &RoomCommand) -> anyhow::Result<()> {
    match command {
        RoomCommand::Connect(args) => connect::run(args),
        RoomCommand::Sync(args) => sync::run(args),
        RoomCommand::Storage(args) => storage::run(args),
    }
}
