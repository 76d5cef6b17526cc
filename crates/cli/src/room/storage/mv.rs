//! `meshagent room storage mv`.

use clap::Args;
use meshagent_client::Connection;

use super::place::in_room;
use crate::failure::{self, DENIED, Failure, REFUSED};
use crate::output::Output;
use crate::room::entries::{self, Kind};
use crate::room::session::RoomArgs;

/// Move a file, document or folder to another path in the room
///
/// A moved document is closed for all participants that have it open. If a document or file and a
/// folder have the same path, the document or file is moved.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent room storage mv --room my-room draft.csv reports/march.csv
  meshagent room storage mv --room my-room draft.csv reports/")]
pub(super) struct MvArgs {
    /// File, document or folder to move
    source: String,

    /// New path, or target folder if it exists or ends in /
    destination: String,

    /// Replace existing files; live documents are never replaced
    #[arg(long)]
    overwrite: bool,

    #[command(flatten)]
    room: RoomArgs,
}

pub(super) async fn run(args: &MvArgs, output: &Output) -> anyhow::Result<()> {
    let is_of_folder = entries::is_of_folder(in_room(&args.source));
    let source = entries::normalized(in_room(&args.source))?;
    let named = in_room(&args.destination);
    let mut destination = entries::normalized(named)?;
    let room = args.room.connect().await?;
    if is_of_folder {
        check_that_folder_is_alone(&room, &source).await?;
    }
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
        check_no_document_is_replaced(&room, &source, &destination).await?;
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

/// Fails if a document or file has the path of the folder to move: the server would move that.
async fn check_that_folder_is_alone(room: &Connection, path: &str) -> anyhow::Result<()> {
    let found = entries::stat(room, path).await?;
    if found.is_none_or(|found| found.entry.is_folder) {
        return Ok(());
    }
    if entries::content(room, path).await?.is_none() {
        return Err(entries::missing_folder(path).into());
    }
    let message = format!("can't move the folder {path:?}: a document or file has the same path");
    Err(Failure::new(message)
        .with_exit_code(REFUSED)
        .with_hint(format!("move the document or file first: `mv {path} …`"))
        .into())
}

/// Fails if the move would replace a live document. The server itself would allow it, for
/// compatibility with the published SDKs. A document that is created between this check and the
/// move is not detected.
async fn check_no_document_is_replaced(
    room: &Connection,
    source: &str,
    destination: &str,
) -> anyhow::Result<()> {
    let Some(moved) = entries::stat(room, source).await? else {
        // The move itself reports the error.
        return Ok(());
    };
    let targets = if moved.entry.is_folder {
        // Folders are merged, so only their files can replace something.
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
        let failure = match entries::kind(room, &path).await? {
            Kind::File => continue,
            Kind::Document => {
                Failure::new(format!("can't replace {path:?}: it is a live document"))
                    .with_exit_code(REFUSED)
                    .with_hint("`meshagent room sync delete` deletes it permanently")
            }
            Kind::Denied => {
                Failure::new(format!("can't replace {path:?}: it may be a live document"))
                    .with_exit_code(DENIED)
                    .with_hint("use a token whose grants allow reading it")
            }
        };
        return Err(failure.into());
    }
    Ok(())
}
