//! `meshagent room storage mv`.

use clap::Args;

use super::place::in_room;
use crate::output::Output;
use crate::room::session::RoomArgs;
use crate::room::{entries, failures};

/// Move a file, document or folder to another path in the room
///
/// Whoever has a moved document open is told that it is closed.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent room storage mv --room my-room draft.csv reports/march.csv
  meshagent room storage mv --room my-room draft.csv reports/")]
pub(super) struct MvArgs {
    /// What to move
    source: String,

    /// Where to; into a folder that is there, or whose name ends in /
    destination: String,

    /// Replace a file that is there
    #[arg(long)]
    overwrite: bool,

    #[command(flatten)]
    room: RoomArgs,
}

pub(super) async fn run(args: &MvArgs, output: &Output) -> anyhow::Result<()> {
    let source = entries::normalized(in_room(&args.source))?;
    let named = in_room(&args.destination);
    let mut destination = entries::normalized(named)?;
    let room = args.room.connect().await?;
    let is_folder = named.is_empty()
        || named.ends_with('/')
        || entries::stat(&room, &destination)
            .await?
            .is_some_and(|found| found.entry.is_folder);
    if is_folder {
        let name = source.rsplit('/').next().unwrap_or_default();
        destination = entries::join(&destination, name);
    }
    let moved = room
        .storage()
        .rename(&source, &destination, args.overwrite)
        .await;
    moved.map_err(|error| {
        failures::of_call(format!("can't move {source:?} to {destination:?}"), error)
    })?;
    room.close().await;
    output.done(&format!("Moved '{source}' to '{destination}'"))
}
