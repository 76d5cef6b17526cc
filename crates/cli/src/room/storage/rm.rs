//! `meshagent room storage rm`.

use clap::Args;
use meshagent_client::Connection;

use super::place::in_room;
use crate::failure::{self, Failure, REFUSED};
use crate::output::Output;
use crate::room::entries;
use crate::room::session::RoomArgs;

/// Remove files, documents and folders
///
/// A document or file and a folder may have the same path. Then `rm notes` removes only the
/// document or file, `rm -r notes/` only the folder with its content, and `rm -r notes` both.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent room storage rm --room my-room room://reports/march.csv
  meshagent room storage rm --room my-room 'reports/*.csv'
  meshagent room storage rm --room my-room -r reports")]
pub(super) struct RmArgs {
    /// Path to remove; in the last segment, * matches any characters and ? exactly one. Such a
    /// pattern never removes folders, not even with -r
    path: String,

    /// Remove folders with their content
    #[arg(long, short)]
    recursive: bool,

    #[command(flatten)]
    room: RoomArgs,
}

pub(super) async fn run(args: &RmArgs, output: &Output) -> anyhow::Result<()> {
    let path = in_room(&args.path);
    let room = args.room.connect().await?;
    if entries::is_pattern(path) {
        let mut found = entries::matching(&room, path).await?;
        found.retain(|found| !found.entry.is_folder);
        if found.is_empty() {
            return Err(entries::missing(path).into());
        }
        for found in found {
            remove(&room, &found.path, false).await?;
            output.done(&format!("Removed '{}'", found.path))?;
        }
    } else {
        one(&room, path, args.recursive, output).await?;
    }
    room.close().await;
    Ok(())
}

/// Removes what a path without a pattern names.
async fn one(
    room: &Connection,
    path: &str,
    is_recursive: bool,
    output: &Output,
) -> anyhow::Result<()> {
    let is_of_folder = entries::is_of_folder(path);
    let path = entries::normalized(path)?;
    let is_folder = entries::stat_existing(room, &path).await?.entry.is_folder;
    let must_be_recursive = || {
        Failure::new(format!("{} is a folder", entries::named(&path)))
            .with_exit_code(REFUSED)
            .with_hint("use -r to remove a folder with its content")
    };
    if is_folder && !is_recursive {
        return Err(must_be_recursive().into());
    }
    if is_folder || !is_recursive && !is_of_folder {
        remove(room, &path, is_recursive).await?;
        return output.done(&format!("Removed '{path}'"));
    }
    // A document or file has the path, and a folder may have it, too.
    let content = entries::content(room, &path).await?;
    if !is_of_folder {
        remove(room, &path, true).await?;
        output.done(&format!("Removed '{path}'"))?;
    } else if content.is_none() {
        return Err(entries::missing_folder(&path).into());
    } else if !is_recursive {
        return Err(must_be_recursive().into());
    } else {
        // The server would remove the document or file with the folder.
        let mut paths: Vec<&str> = content.iter().flatten().map(|f| f.path.as_str()).collect();
        paths.dedup();
        for path in paths {
            remove(room, path, true).await?;
        }
    }
    match content {
        Some(_) => output.done(&format!("Removed '{path}/'")),
        None => Ok(()),
    }
}

async fn remove(room: &Connection, path: &str, is_recursive: bool) -> anyhow::Result<()> {
    let removed = room.storage().delete(path, is_recursive).await;
    removed.map_err(|error| {
        failure::of_call(format!("can't remove {}", entries::named(path)), error)
    })?;
    Ok(())
}
