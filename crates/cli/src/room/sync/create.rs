//! `meshagent room sync create`.

use std::path::PathBuf;

use clap::Args;
use meshagent_protocol::ErrorCode;

use crate::failure::{self, USAGE};
use crate::output::Output;
use crate::room::session::RoomArgs;
use crate::room::{entries, input};

/// Create a document
///
/// The JSON is checked against the schema first; each place that does not fit is named, and nothing is created.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent room sync create --room my-room notes/plan \\
      --schema plan.schema.json \\
      --json '{\"doc\": {\"title\": \"Plan\", \"children\": []}}'
  meshagent room sync create --room my-room notes/plan \\
      --schema plan.schema.json --json-file - < plan.json
  # The server has a schema for this extension.
  meshagent room sync create --room my-room talk.thread")]
pub(super) struct CreateArgs {
    /// Where the document is to be
    path: String,

    /// File with the schema; `-` reads stdin [default: what the server has for the extension, else read off the JSON]
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,

    /// The document's first content
    #[arg(long, value_name = "TEXT", conflicts_with = "json_file")]
    json: Option<String>,

    /// File with the document's first content; `-` reads stdin
    #[arg(long, value_name = "FILE")]
    json_file: Option<PathBuf>,

    #[command(flatten)]
    room: RoomArgs,
}

pub(super) async fn run(args: &CreateArgs, output: &Output) -> anyhow::Result<()> {
    let path = entries::document(&args.path)?;
    if let Some(schema) = &args.schema {
        input::at_most_one_stdin(schema, args.json_file.as_deref())?;
    }
    let json = match (&args.json, &args.json_file) {
        (Some(text), _) => Some(input::json(text.as_bytes(), "--json")?),
        (None, Some(file)) => Some(input::read_json(file)?),
        (None, None) => None,
    };
    let schema = match &args.schema {
        None => None,
        Some(file) => {
            let (schema, written) = input::read_schema(file)?;
            if let Some(json) = &json {
                let violations = schema.validate(json);
                if !violations.is_empty() {
                    return Err(failure::of_violations("the JSON", &violations).into());
                }
            }
            Some(written)
        }
    };
    // All that the server can then go by is the path's extension.
    let is_bare = json.is_none() && schema.is_none();
    let room = args.room.connect().await?;
    let created = room.sync().create(&path, json, schema).await;
    created.map_err(|error| {
        let no_schema = is_bare && failure::code(&error) == Some(ErrorCode::NotFound);
        let failure = failure::of_call(format!("can't create {path:?}"), error);
        if no_schema {
            failure
                .with_exit_code(USAGE)
                .with_hint("give --schema, or --json to have a schema read off it")
        } else {
            failure
        }
    })?;
    room.close().await;
    output.done(&format!("Created document at {}", args.path))
}
