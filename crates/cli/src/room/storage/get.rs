//! `meshagent room storage get`.

use clap::Args;

use super::place::in_room;
use crate::output::Output;
use crate::room::session::RoomArgs;
use crate::room::{entries, failures};

/// Print a file
#[derive(Args, Debug)]
#[command(after_help = "Example:
  meshagent room storage get --room my-room reports/march.csv | head")]
pub(super) struct GetArgs {
    /// The file
    path: String,

    #[command(flatten)]
    room: RoomArgs,
}

pub(super) async fn run(args: &GetArgs, output: &Output) -> anyhow::Result<()> {
    let path = entries::normalized(in_room(&args.path))?;
    let room = args.room.connect().await?;
    let file = room.storage().download(&path).await;
    let file = file.map_err(|error| failures::of_call(format!("can't get {path:?}"), error))?;
    output.bytes(&file.data)
}
