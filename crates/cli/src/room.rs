//! `meshagent room`: commands that act in a room.

mod connect;

use clap::Subcommand;

/// Work in a room
#[derive(Debug, Subcommand)]
pub(crate) enum RoomCommand {
    Connect(connect::ConnectArgs),
}

/// # Errors
/// As the command that was given.
pub(crate) fn run(command: &RoomCommand) -> anyhow::Result<()> {
    match command {
        RoomCommand::Connect(args) => connect::run(args),
    }
}
