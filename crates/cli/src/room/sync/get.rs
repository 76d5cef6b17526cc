//! `meshagent room sync get`.

use clap::Args;

use super::open::OpenDocument;
use crate::output::{LayoutArgs, Output};
use crate::room::session::RoomArgs;

/// Print a document as JSON
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent room sync get --room my-room notes/plan
  meshagent room sync get --room my-room notes/plan --compact | jq .doc.title")]
pub(super) struct GetArgs {
    /// The document
    path: String,

    /// Show the $id of each element
    #[arg(long)]
    include_ids: bool,

    #[command(flatten)]
    layout: LayoutArgs,

    #[command(flatten)]
    room: RoomArgs,
}

pub(super) async fn run(args: &GetArgs, output: &Output) -> anyhow::Result<()> {
    let room = args.room.connect().await?;
    let opened = OpenDocument::open(&room, &args.path).await?;
    let json = opened.document.to_json(args.include_ids);
    output.json(&json, args.layout.layout())
}
