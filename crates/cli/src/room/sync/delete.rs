//! `meshagent room sync delete`.

use clap::Args;

use crate::failure::{self, Failure, REFUSED};
use crate::output::Output;
use crate::room::entries;
use crate::room::session::RoomArgs;

/// Delete a document
///
/// Its content can't be brought back. Whoever has it open is told that it is closed.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  meshagent room sync delete --room my-room notes/plan")]
pub(super) struct DeleteArgs {
    /// The document
    path: String,

    #[command(flatten)]
    room: RoomArgs,
}

pub(super) async fn run(args: &DeleteArgs, output: &Output) -> anyhow::Result<()> {
    let path = entries::document(&args.path)?;
    let room = args.room.connect().await?;
    let found = entries::stat_existing(&room, &path).await?;
    if found.entry.is_folder || !entries::is_document(&room, &path).await? {
        let kind = if found.entry.is_folder {
            "folder"
        } else {
            "file"
        };
        let failure = Failure::new(format!("{path:?} is a {kind}, not a document"))
            .with_exit_code(REFUSED)
            .with_hint("`meshagent room storage rm` removes files and folders");
        return Err(failure.into());
    }
    let deleted = room.storage().delete(&path, false).await;
    deleted.map_err(|error| failure::of_call(format!("can't delete {path:?}"), error))?;
    room.close().await;
    output.done(&format!("Deleted document at {}", args.path))
}
