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
    /// Path to remove; in the last segment, * matches any characters and ? exactly one. Such a
    /// pattern does not match folders
    path: String,

    /// Remove folders with their content
    #[arg(long, short)]
    recursive: bool,

    #[command(flatten)]
    room: RoomArgs,
}

pub(super) async fn run(args: &RmArgs, output: &Output) -> anyhow::Result<()> {
    let pattern = in_room(&args.path);
    let room = args.room.connect().await?;
    let mut found = entries::matching(&room, pattern).await?;
    let is_exact = match found.as_slice() {
        [one] => entries::normalized(pattern).is_ok_and(|path| path == one.path),
        _ => false,
    };
    if !is_exact {
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
                .with_hint("use -r to remove a folder with its content");
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
