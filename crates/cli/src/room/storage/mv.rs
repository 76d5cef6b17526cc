//! `meshagent room storage mv`.

use clap::Args;
use meshagent_client::Connection;

use super::place::in_room;
use crate::failure::{self, DENIED, Failure, REFUSED};
use crate::output::Output;
use crate::room::entries;
use crate::room::entries::Asked;
use crate::room::session::RoomArgs;

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

    /// Replace files that are there; live documents are never replaced
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
    if args.overwrite {
        no_document_in_the_way(&room, &source, &destination).await?;
    }
    let moved = room
        .storage()
        .rename(&source, &destination, args.overwrite)
        .await;
    moved.map_err(|error| {
        let (source, destination) = (entries::named(&source), entries::named(&destination));
        failure::of_call(format!("can't move {source} to {destination}"), error)
    })?;
    room.close().await;
    output.done(&format!("Moved '{source}' to '{destination}'"))
}

/// The server would replace documents, too, as the published SDKs have it. One that is made between this look and the
/// move is not seen.
async fn no_document_in_the_way(
    room: &Connection,
    source: &str,
    destination: &str,
) -> anyhow::Result<()> {
    let Some(moved) = entries::stat(room, source).await? else {
        // The server says so.
        return Ok(());
    };
    let targets = if moved.entry.is_folder {
        // The folder that is there stays, and gets what is in the other one.
        let moved = entries::walk(room, source).await?;
        let moved = moved.iter().filter(|found| !found.entry.is_folder);
        let target = |found: &entries::Found| {
            let rest = found.path.strip_prefix(source)?;
            Some(entries::join(destination, rest.trim_start_matches('/')))
        };
        moved.filter_map(target).collect()
    } else {
        vec![destination.to_owned()]
    };
    for path in targets {
        let there = entries::stat(room, &path).await?;
        if path == source || there.is_none_or(|found| found.entry.is_folder) {
            continue;
        }
        let failure = match entries::ask(room, &path).await? {
            Asked::File => continue,
            Asked::Document => Failure::new(format!("{path:?} is a live document, and stays"))
                .with_exit_code(REFUSED)
                .with_hint("`meshagent room sync delete` deletes it, if its content is of no use"),
            Asked::Denied => Failure::new(format!("{path:?} may be a live document, and stays"))
                .with_exit_code(DENIED)
                .with_hint("use a token whose grants allow to read it"),
        };
        return Err(failure.into());
    }
    Ok(())
}
