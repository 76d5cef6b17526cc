//! `meshagent room storage get`.

use clap::Args;

use super::place::in_room;
use crate::failure::{Failure, REFUSED};
use crate::output::Output;
use crate::room::entries;
use crate::room::session::RoomArgs;

/// Print a file
#[derive(Args, Debug)]
#[command(after_help = "Example:
  meshagent room storage get --room my-room reports/march.csv | head")]
pub(super) struct GetArgs {
    /// Path of the file
    path: String,

    #[command(flatten)]
    room: RoomArgs,
}

pub(super) async fn run(args: &GetArgs, output: &Output) -> anyhow::Result<()> {
    let path = entries::normalized(in_room(&args.path))?;
    let room = args.room.connect().await?;
    let is_folder = entries::stat_existing(&room, &path).await?.entry.is_folder;
    if is_folder {
        let failure = Failure::new(format!("{} is a folder", entries::named(&path)))
            .with_hint("`meshagent room storage ls` lists it");
        return Err(failure.with_exit_code(REFUSED).into());
    }
    match entries::download(&room, &path).await? {
        Some(data) => output.file(&data),
        None => Err(Failure::new(format!("{path:?} is a live document"))
            .with_exit_code(REFUSED)
            .with_hint("`meshagent room sync get` prints its content")
            .into()),
    }
}
