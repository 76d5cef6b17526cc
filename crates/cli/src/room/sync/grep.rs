//! `meshagent room sync grep`.

use clap::Args;
use serde_json::Value;

use super::open::OpenDocument;
use crate::failure::{Failure, USAGE};
use crate::output::{LayoutArgs, Output};
use crate::room::session::RoomArgs;

/// Print the elements of a document that a pattern matches
///
/// The pattern is searched for in tags, names and values of attributes, and texts. What is printed is a JSON array of
/// elements, each with all that is in it; an empty one if nothing matches.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent room sync grep --room my-room notes/plan 'milk|bread' --ignore-case
  meshagent room sync grep --room my-room chat.thread '^error' --before 1 --after 2")]
pub(super) struct GrepArgs {
    /// The document
    path: String,

    /// Regular expression, without look-around and back-references; one that begins with - goes behind --
    pattern: String,

    /// Take capital and small letters as equal
    #[arg(long)]
    ignore_case: bool,

    /// How many elements in front of each found one are printed, too
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    before: usize,

    /// How many elements behind each found one are printed, too
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    after: usize,

    /// Show the $id of each element
    #[arg(long)]
    include_ids: bool,

    #[command(flatten)]
    layout: LayoutArgs,

    #[command(flatten)]
    room: RoomArgs,
}

pub(super) async fn run(args: &GrepArgs, output: &Output) -> anyhow::Result<()> {
    let room = args.room.connect().await?;
    let opened = OpenDocument::open(&room, &args.path).await?;
    let found = opened
        .document
        .grep(&args.pattern, args.ignore_case, args.before, args.after)
        .map_err(|error| {
            Failure::new(format!("can't search for {:?}", args.pattern))
                .with_exit_code(USAGE)
                .with_hint("put a \\ before characters that are to stand for themselves")
                .with_source(error)
        })?;
    let found: Vec<Value> = found
        .into_iter()
        .map(|element| element.to_json(args.include_ids))
        .collect();
    output.json(&Value::Array(found), args.layout.layout())
}
