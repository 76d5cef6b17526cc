//! `meshagent room storage rm`.

use clap::Args;

use super::place::in_room;
use crate::failure::{self, Failure, REFUSED};
use crate::output::Output;
use crate::room::entries;
use crate::room::session::RoomArgs;

/// Remove files, documents and folders
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent room storage rm --room my-room room://reports/march.csv
  meshagent room storage rm --room my-room 'reports/*.csv'
  meshagent room storage rm --room my-room -r reports")]
pub(super) struct RmArgs {
    /// What to remove; * and ? in its last part stand for any characters and for one, and then match no folders
    path: String,

    /// Remove folders with all that is in them
    #[arg(long, short)]
    recursive: bool,

    #[command(flatten)]
    room: RoomArgs,
}

pub(super) async fn run(args: &RmArgs, output: &Output) -> anyhow::Result<()> {
    let pattern = in_room(&args.path);
    let room = args.room.connect().await?;
    let mut found = entries::matching(&room, pattern).await?;
    let is_one = matches!(found.as_slice(), [one] if entries::normalized(pattern).is_ok_and(|path| path == one.path));
    if !is_one {
        found.retain(|found| !found.entry.is_folder);
    }
    if found.is_empty() {
        return Err(entries::missing(pattern).into());
    }
    for found in found {
        let path = &found.path;
        if found.entry.is_folder && !args.recursive {
            let failure = Failure::new(format!("{} is a folder", entries::named(path)))
                .with_exit_code(REFUSED)
                .with_hint("use -r to remove a folder with what is in it");
            return Err(failure.into());
        }
        let removed = room.storage().delete(path, args.recursive).await;
        removed.map_err(|error| {
            failure::of_call(format!("can't remove {}", entries::named(path)), error)
        })?;
        output.done(&format!("Removed '{path}'"))?;
    }
    room.close().await;
    Ok(())
}
