//! `meshagent room`: commands that act in a room.

mod connect;
mod entries;
pub(crate) mod input;
mod session;
mod storage;
mod sync;

use clap::Subcommand;

/// Work in a room
#[derive(Debug, Subcommand)]
pub(crate) enum RoomCommand {
    Connect(connect::ConnectArgs),
    Sync(sync::SyncArgs),
    Storage(storage::StorageArgs),
}

/// # Errors
/// As the command that was given.
pub(crate) fn run(command: &RoomCommand) -> anyhow::Result<()> {
    match command {
        RoomCommand::Connect(args) => connect::run(args),
        RoomCommand::Sync(args) => sync::run(args),
        RoomCommand::Storage(args) => storage::run(args),
    }
}
