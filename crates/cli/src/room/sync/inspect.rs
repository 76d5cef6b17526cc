//! `meshagent room sync inspect`.

use clap::Args;

use super::open::OpenDocument;
use crate::output::{LayoutArgs, Output};
use crate::room::session::RoomArgs;

/// Print a document's schema as JSON
#[derive(Args, Debug)]
#[command(after_help = "Example:
  meshagent room sync inspect --room my-room notes/plan > plan.schema.json")]
pub(super) struct InspectArgs {
    /// Path of the document
    path: String,

    #[command(flatten)]
    layout: LayoutArgs,

    #[command(flatten)]
    room: RoomArgs,
}

pub(super) async fn run(args: &InspectArgs, output: &Output) -> anyhow::Result<()> {
    let room = args.room.connect().await?;
    let opened = OpenDocument::open(&room, &args.path).await?;
    output.json(&opened.document.schema().to_json(), args.layout.layout())
}
