//! `meshagent room sync export`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use super::open::OpenDocument;
use crate::failure::{Failure, USAGE};
use crate::local_file;
use crate::output::Output;
use crate::room::input::{self, is_standard_stream};
use crate::room::session::RoomArgs;

/// Write a document's JSON to a file
///
/// The file is UTF-8, and `create` accepts it.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent room sync export --room my-room notes/plan \\
      --output plan.json --schema-output plan.schema.json
  meshagent room sync create --room other-room notes/plan \\
      --json-file plan.json --schema plan.schema.json")]
pub(super) struct ExportArgs {
    /// Path of the document
    path: String,

    /// File for the JSON; `-` is stdout
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    output: PathBuf,

    /// File for the schema; `-` is stdout
    #[arg(long, value_name = "FILE")]
    schema_output: Option<PathBuf>,

    /// Include the $id of each element
    #[arg(long)]
    include_ids: bool,

    #[command(flatten)]
    room: RoomArgs,
}

pub(super) async fn run(args: &ExportArgs, output: &Output) -> anyhow::Result<()> {
    let schema_output = args.schema_output.as_deref();
    if is_standard_stream(&args.output) && schema_output.is_some_and(is_standard_stream) {
        let failure = Failure::new("can't write both the JSON and the schema to stdout");
        let failure = failure.with_hint("pass a file with --output");
        return Err(failure.with_exit_code(USAGE).into());
    }
    let room = args.room.connect().await?;
    let opened = OpenDocument::open(&room, &args.path).await?;
    if let Some(file) = schema_output {
        write(file, &opened.document.schema().to_json(), output)?;
    }
    write(
        &args.output,
        &opened.document.to_json(args.include_ids),
        output,
    )
}

fn write(file: &Path, json: &Value, output: &Output) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(json)?;
    if is_standard_stream(file) {
        return output.json_text(&text);
    }
    text.push('\n');
    let written = local_file::write(file, text.as_bytes());
    Ok(written.map_err(|error| input::unwritable(file, error))?)
}
