//! `meshagent room sync grep`.

use std::error::Error as _;

use clap::Args;
use meshagent_document::{PatternError, grep_json};
use serde_json::Value;

use super::open::{self, OpenDocument, RoomOrStdin, STDIN};
use crate::failure::{Failure, USAGE};
use crate::output::{LayoutArgs, Output};
use crate::settings;

/// Print the elements of a document that a pattern matches
///
/// The pattern is searched for in tags, names and values of attributes, and texts. What is printed is a JSON array of
/// elements, each with all that is in it; an empty one if nothing matches.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent room sync grep --room my-room notes/plan 'milk|tea' --ignore-case
  meshagent room sync grep --room my-room chat.thread '^error' \\
      --before 1 --after 2
  meshagent room sync get --room my-room notes/plan |
      meshagent room sync grep - milk")]
pub(super) struct GrepArgs {
    /// The document; `-` reads the JSON of one from stdin, which takes no room
    path: String,

    /// Regular expression, without look-around and back-references; one that begins with - goes behind --
    pattern: String,

    /// Take capital and small letters as equal
    #[arg(long)]
    ignore_case: bool,

    /// How many elements in front of each found one are printed, too
    #[arg(long, value_name = "COUNT", default_value_t = 0, value_parser = settings::from_zero::<usize>)]
    before: usize,

    /// How many elements behind each found one are printed, too
    #[arg(long, value_name = "COUNT", default_value_t = 0, value_parser = settings::from_zero::<usize>)]
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
    let wrong = |error| wrong_pattern(pattern, &error);
    let found: Vec<Value> = if args.path == STDIN {
        let json = open::read_stdin()?;
        let found = grep_json(&json, pattern, ignore_case, args.before, args.after);
        let found = found.map_err(wrong)?.into_iter().cloned();
        found
            .map(|element| open::with_ids(element, args.include_ids))
            .collect()
    } else {
        let room = args.room.room()?.connect().await?;
        let opened = OpenDocument::open(&room, &args.path).await?;
        let found = opened
            .document
            .grep(pattern, ignore_case, args.before, args.after);
        let found = found.map_err(wrong)?.into_iter();
        found
            .map(|element| element.to_json(args.include_ids))
            .collect()
    };
    output.json(&Value::Array(found), args.layout.layout())
}

fn wrong_pattern(pattern: &str, error: &PatternError) -> Failure {
    // The regex crate's last line says what is wrong; those before it repeat the pattern, and point into it.
    let fault = error.source().map_or_else(String::new, ToString::to_string);
    let fault = fault.lines().last().unwrap_or_default();
    let fault = fault.strip_prefix("error: ").unwrap_or(fault);
    Failure::new(format!("{pattern:?} is not a pattern: {fault}"))
        .with_exit_code(USAGE)
        .with_hint(
            "put a \\ before characters that are to stand for themselves; look-around and back-references are not there",
        )
}
