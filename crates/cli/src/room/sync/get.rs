//! `meshagent room sync get`.

use clap::Args;
use meshagent_protocol::{DocPath, SyncDescribe};
use serde_json::json;

use super::open::{self, OpenDocument, RoomOrStdin, STDIN};
use crate::failure::{self, Failure, REFUSED, USAGE};
use crate::output::{LayoutArgs, Output};
use crate::room::entries;

/// Print a document as JSON
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent room sync get --room my-room notes/plan
  meshagent room sync get --room my-room notes/plan --compact | jq .doc.title
  meshagent room sync get - --compact < plan.json")]
pub(super) struct GetArgs {
    /// Path of the document; `-` reads JSON from stdin and needs no room
    path: String,

    /// Show the $id of each element
    #[arg(long)]
    include_ids: bool,

    /// Print {"version", "json"}: the document with its version for `update --if-version`
    #[arg(long)]
    version: bool,

    #[command(flatten)]
    layout: LayoutArgs,

    #[command(flatten)]
    room: RoomOrStdin,
}

pub(super) async fn run(args: &GetArgs, output: &Output) -> anyhow::Result<()> {
    if args.path == STDIN {
        if args.version {
            let failure = Failure::new("stdin has no version: only a document in a room has one");
            let hint = "omit --version, or pass the path of a document";
            return Err(failure.with_exit_code(USAGE).with_hint(hint).into());
        }
        let json = open::with_ids(open::read_stdin()?, args.include_ids);
        return output.json(&json, args.layout.layout());
    }
    let room = args.room.room()?.connect().await?;
    if args.version {
        let mut input = SyncDescribe::new(DocPath::parse(&entries::document(&args.path)?)?);
        input.include_ids = args.include_ids;
        input.with_version = true;
        let described = room.sync().describe_with(&input).await;
        let described = described
            .map_err(|error| failure::of_call(format!("can't read {:?}", args.path), error))?;
        let Some(version) = described.version else {
            let failure = Failure::new("the server does not support document versions");
            let failure = failure.with_exit_code(REFUSED);
            return Err(failure.with_hint("omit --version").into());
        };
        let answer = json!({ "version": version, "json": described.json });
        return output.json(&answer, args.layout.layout());
    }
    let opened = OpenDocument::open(&room, &args.path).await?;
    let json = opened.document.to_json(args.include_ids);
    output.json(&json, args.layout.layout())
}
