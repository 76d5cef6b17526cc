//! `meshagent room sync create`.

use std::path::PathBuf;

use clap::Args;
use meshagent_client::Connection;
use meshagent_protocol::ErrorCode;
use serde_json::Value;

use crate::failure::{self, USAGE};
use crate::output::Output;
use crate::room::session::RoomArgs;
use crate::room::{entries, input};

/// Create a document
///
/// The JSON is validated against the schema first. If it is invalid, all violations are listed and
/// nothing is created.
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
    /// Path of the new document
    path: String,

    /// File with the schema; `-` reads stdin [default: the server's schema for the extension, else
    /// inferred from the JSON]
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,

    /// Initial content as JSON
    #[arg(long, value_name = "JSON", conflicts_with = "json_file")]
    json: Option<String>,

    /// File with the initial content as JSON; `-` reads stdin
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
        (Some(text), _) => {
            let json = input::json(text.as_bytes(), "--json")?;
            Some(input::content(json, "--json")?)
        }
        (None, Some(file)) => {
            let json = input::read_json(file)?;
            Some(input::content(json, &input::name(file))?)
        }
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
    // The server then needs a schema for the path's extension.
    let is_bare = json.is_none() && schema.is_none();
    let has_root = json.as_ref().is_none_or(has_root);
    let room = args.room.connect().await?;
    let created = room.sync().create(&path, json, schema).await;
    created.map_err(|error| {
        if let Some(failure) = failure::of_refused_json("the JSON", &error) {
            return failure;
        }
        let no_schema = is_bare && failure::code(&error) == Some(ErrorCode::NotFound);
        let failure = failure::of_call(format!("can't create {path:?}"), error);
        if no_schema {
            failure
                .with_exit_code(USAGE)
                .with_hint("pass --schema, or pass --json to infer a schema from it")
        } else {
            failure
        }
    })?;
    let added = if has_root {
        None
    } else {
        added_root(&room, &path).await
    };
    room.close().await;
    let done = format!("Created document at {}", args.path);
    match added {
        None => output.done(&done),
        Some(root) => output.done(&format!(
            "{done}, with the JSON as the attributes of a root element {root:?}"
        )),
    }
}

/// Whether JSON has the form `{root: {…}}`. Other JSON has the attributes of a root element that
/// the server adds.
fn has_root(json: &Value) -> bool {
    let members = json.as_object().filter(|members| members.len() == 1);
    members.is_some_and(|members| members.values().all(Value::is_object))
}

/// The root element of a document; `None` if the token does not allow to read it.
async fn added_root(room: &Connection, path: &str) -> Option<String> {
    let json = room.sync().describe(path).await.ok()?;
    json.as_object()?.keys().next().cloned()
}
