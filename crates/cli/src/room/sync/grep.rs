//! `meshagent room sync grep`.

use std::error::Error as _;

use clap::Args;
use meshagent_document::{PatternError, grep_json};
use serde_json::Value;

use super::open::{self, OpenDocument, RoomOrStdin, STDIN};
use crate::failure::{Failure, USAGE};
use crate::output::{LayoutArgs, Output};
use crate::settings;

/// Print the elements of a document that match a pattern
///
/// Searches tags, names and values of attributes, and texts. Prints a JSON array of the matching
/// elements with their content; an empty array if nothing matches.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent room sync grep --room my-room notes/plan 'milk|tea' --ignore-case
  meshagent room sync grep --room my-room chat.thread '^error' \\
      --before 1 --after 2
  meshagent room sync get --room my-room notes/plan |
      meshagent room sync grep - milk")]
pub(super) struct GrepArgs {
    /// Path of the document; `-` reads JSON from stdin and needs no room
    path: String,

    /// Regular expression, without look-around and back-references; put one that begins with -
    /// after --
    pattern: String,

    /// Ignore upper and lower case
    #[arg(long)]
    ignore_case: bool,

    /// Number of elements to print before each match
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 0,
        value_parser = settings::from_zero::<usize>
    )]
    before: usize,

    /// Number of elements to print after each match
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 0,
        value_parser = settings::from_zero::<usize>
    )]
    after: usize,

    /// Show the $id of each element
    #[arg(long)]
    include_ids: bool,

    #[command(flatten)]
    layout: LayoutArgs,

    #[command(flatten)]
    room: RoomOrStdin,
}

pub(super) async fn run(args: &GrepArgs, output: &Output) -> anyhow::Result<()> {
    let (pattern, ignore_case) = (&args.pattern, args.ignore_case);
    let invalid = |error| invalid_pattern(pattern, &error);
    let found: Vec<Value> = if args.path == STDIN {
        let json = open::read_stdin()?;
        let found = grep_json(&json, pattern, ignore_case, args.before, args.after);
        let found = found.map_err(invalid)?.into_iter().cloned();
        found
            .map(|element| open::with_ids(element, args.include_ids))
            .collect()
    } else {
        let room = args.room.room()?.connect().await?;
        let opened = OpenDocument::open(&room, &args.path).await?;
        let found = opened
            .document
            .grep(pattern, ignore_case, args.before, args.after);
        let found = found.map_err(invalid)?.into_iter();
        found
            .map(|element| element.to_json(args.include_ids))
            .collect()
    };
    output.json(&Value::Array(found), args.layout.layout())
}

fn invalid_pattern(pattern: &str, error: &PatternError) -> Failure {
    // The last line of the regex crate's message is the reason; the lines before it show the
    // pattern.
    let reason = error.source().map_or_else(String::new, ToString::to_string);
    let reason = reason.lines().last().unwrap_or_default();
    let reason = reason.strip_prefix("error: ").unwrap_or(reason);
    Failure::new(format!("invalid pattern {pattern:?}: {reason}"))
        .with_exit_code(USAGE)
        .with_hint(
            "put a \\ before special characters to match them literally; look-around and \
             back-references are not supported",
        )
}
