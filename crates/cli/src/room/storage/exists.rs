//! `meshagent room storage exists`.

use clap::Args;

use super::place::in_room;
use crate::failure::{self, Failure, NOT_FOUND};
use crate::output::Output;
use crate::room::entries;
use crate::room::session::RoomArgs;

/// Say whether there is a file, document or folder
///
/// The exit code says it, too: 0 or 3.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  meshagent room storage exists --room my-room reports --quiet && echo there")]
pub(super) struct ExistsArgs {
    /// The path
    path: String,

    #[command(flatten)]
    room: RoomArgs,
}

pub(super) async fn run(args: &ExistsArgs, output: &Output) -> anyhow::Result<()> {
    let path = entries::normalized(in_room(&args.path))?;
    let room = args.room.connect().await?;
    let exists = room.storage().exists(&path).await;
    let exists = exists.map_err(|error| {
        failure::of_call(format!("can't look at {}", entries::named(&path)), error)
    })?;
    if exists {
        return output.done(&format!("'{}' exists in remote storage.", args.path));
    }
    let text = format!("'{}' does NOT exist in remote storage.", args.path);
    output.done(&text)?;
    Err(Failure::silent(NOT_FOUND).into())
}
