//! `meshagent room storage ls`.

use clap::Args;
use meshagent_client::Connection;

use super::place::in_room;
use crate::output::{Layout, Output};
use crate::room::entries::{self, Found};
use crate::room::session::RoomArgs;

/// List a folder
///
/// The names of folders end in /. Live documents are listed like files. A document or file and a
/// folder may have the same path: `ls notes` then lists the document notes and, below notes/, the
/// content of the folder; `ls notes/` lists only the content of the folder.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent room storage ls --room my-room
  meshagent room storage ls --room my-room room://reports -r --long
  meshagent room storage ls --room my-room 'reports/*.csv'")]
pub(super) struct LsArgs {
    /// Folder or file; in the last segment, * matches any characters and ? exactly one
    /// [default: the whole room]
    #[arg(default_value = "", hide_default_value = true)]
    path: String,

    /// List the content of folders, too, indented
    #[arg(long, short)]
    recursive: bool,

    /// Show the size in bytes and the time of the last change
    #[arg(long, short)]
    long: bool,

    /// Print one line of JSON per entry
    #[arg(long, conflicts_with = "long")]
    json: bool,

    #[command(flatten)]
    room: RoomArgs,
}

pub(super) async fn run(args: &LsArgs, output: &Output) -> anyhow::Result<()> {
    let room = args.room.connect().await?;
    let (found, depth) = listed(&room, in_room(&args.path), args.recursive).await?;
    for found in found {
        let slash = if found.entry.is_folder { "/" } else { "" };
        if args.json {
            output.json(&found.to_json(), Layout::Compact)?;
            continue;
        }
        let levels = found.path.matches('/').count().saturating_sub(depth);
        let name = format!("{}{}{slash}", "  ".repeat(levels), found.entry.name);
        if args.long {
            output.line(&format!("{}  {name}", found.columns()))?;
        } else {
            output.line(&name)?;
        }
    }
    Ok(())
}

/// The entries to print, and the number of slashes in paths that are not indented.
async fn listed(
    room: &Connection,
    path: &str,
    is_recursive: bool,
) -> anyhow::Result<(Vec<Found>, usize)> {
    let found = if entries::is_pattern(path) {
        entries::matching(room, path).await?
    } else {
        let is_of_folder = entries::is_of_folder(path);
        let path = entries::normalized(path)?;
        let named = if path.is_empty() {
            entries::folder_at(&path)
        } else {
            entries::stat_existing(room, &path).await?
        };
        if named.entry.is_folder {
            entries::list(room, &path).await?
        } else {
            match entries::content(room, &path).await? {
                Some(content) if is_of_folder => content,
                Some(content) => return beside(room, named, content, is_recursive).await,
                None if is_of_folder => return Err(entries::missing_folder(&path).into()),
                None => vec![named],
            }
        }
    };
    let depth = found
        .first()
        .map_or(0, |found| found.path.matches('/').count());
    if !is_recursive {
        return Ok((found, depth));
    }
    Ok((with_content(room, found).await?, depth))
}

/// A document or file, and the content of the folder with the same path.
async fn beside(
    room: &Connection,
    leaf: Found,
    mut content: Vec<Found>,
    is_recursive: bool,
) -> anyhow::Result<(Vec<Found>, usize)> {
    if is_recursive {
        content = with_content(room, content).await?;
    }
    let depth = leaf.path.matches('/').count();
    let folder = entries::folder_at(&leaf.path);
    let found = [leaf, folder].into_iter().chain(content);
    Ok((found.collect(), depth))
}

/// The entries, and everything below the folders among them.
async fn with_content(room: &Connection, found: Vec<Found>) -> anyhow::Result<Vec<Found>> {
    let mut all = Vec::new();
    for one in found {
        let below = if one.entry.is_folder {
            entries::walk(room, &one.path).await?
        } else {
            Vec::new()
        };
        all.push(one);
        all.extend(below);
    }
    Ok(all)
}
