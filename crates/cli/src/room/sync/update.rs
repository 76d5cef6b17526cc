//! `meshagent room sync update`.

use std::path::PathBuf;

use clap::Args;
use meshagent_client::{Acknowledgement, CallError, Connection};
use meshagent_document::PatchError;
use meshagent_protocol::sync::{SyncPatch, SyncPatched};
use meshagent_protocol::{Content, DocPath, ErrorCode};
use serde_json::Value;

use super::open::OpenDocument;
use super::removed::Removed;
use crate::failure::{self, Failure, REFUSED, USAGE};
use crate::output::{Layout, Output};
use crate::room::session::RoomArgs;
use crate::room::{entries, input as files};

/// Apply a JSON Patch (RFC 6902) to a document
///
/// The patch is applied atomically and as the smallest possible change: other parts of the
/// document and concurrent edits of others are kept. The command returns when the change is on the
/// server's disk.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent room sync update --room my-room notes/plan \\
      --patch '[{\"op\": \"replace\", \"path\": \"/doc/title\", \"value\": \"New plan\"}]'
  meshagent room sync update --room my-room notes/plan \\
      --patch-file - < patch.json
  version=$(meshagent room sync get --room my-room notes/plan --version |
      jq -r .version)
  meshagent room sync update --room my-room notes/plan \\
      --patch-file patch.json --if-version \"$version\"")]
pub(super) struct UpdateArgs {
    /// Path of the document
    path: String,

    /// The patch, a JSON array of operations
    #[arg(
        long,
        value_name = "JSON",
        conflicts_with = "patch_file",
        required_unless_present = "patch_file"
    )]
    patch: Option<String>,

    /// File with the patch; `-` reads stdin
    #[arg(long, value_name = "FILE")]
    patch_file: Option<PathBuf>,

    /// Fail with exit code 1 unless the document has this version; `get --version` prints it
    #[arg(long, value_name = "VERSION", allow_hyphen_values = true)]
    if_version: Option<String>,

    /// Only check the patch, and print the result of each operation
    #[arg(long)]
    dry_run: bool,

    /// Print the new version and the result of each operation as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    room: RoomArgs,
}

const PATCH_HINT: &str = "pass a JSON array of operations (RFC 6902) with --patch or --patch-file";

pub(super) async fn run(args: &UpdateArgs, output: &Output) -> anyhow::Result<()> {
    let patch = match (&args.patch, &args.patch_file) {
        (Some(text), _) => files::json(text.as_bytes(), "--patch"),
        (None, Some(file)) => files::read_json(file),
        (None, None) => Err(Failure::new("no patch given").with_exit_code(USAGE)),
    };
    let operations = match patch.map_err(|failure| failure.with_hint(PATCH_HINT))? {
        Value::Array(operations) => operations,
        other => {
            let found = files::described(&other);
            let message = format!("invalid patch: expected an array of operations, found {found}");
            let failure = Failure::new(message).with_exit_code(USAGE);
            return Err(failure.with_hint(PATCH_HINT).into());
        }
    };
    let room = args.room.connect().await?;
    let path = DocPath::parse(&entries::document(&args.path)?)?;
    let mut input = SyncPatch::new(path, operations);
    input.if_version.clone_from(&args.if_version);
    input.dry_run = args.dry_run;
    let result = match room.sync().patch(&input).await {
        Ok(patched) => as_json(&patched),
        // The document does not exist, or the server has no such tool.
        Err(error) if failure::code(&error) == Some(ErrorCode::NotFound) => {
            apply_here(&room, &args.path, input).await?
        }
        Err(error) => return Err(explain(&room, &args.path, input, error).await),
    };
    room.close().await;
    if args.json || args.dry_run {
        return output.json(&result, Layout::Pretty);
    }
    if changes_nothing(&result) {
        return output.done("Nothing was changed");
    }
    output.done(&format!("Updated document at {}", args.path))
}

/// Whether no operation of the result has changed something.
fn changes_nothing(result: &Value) -> bool {
    let operations = result["operations"].as_array();
    operations.is_some_and(|operations| {
        operations
            .iter()
            .all(|operation| operation["result"] == "no change")
    })
}

fn as_json(patched: &SyncPatched) -> Value {
    match patched.to_content() {
        Content::Json(json) => json,
        _ => Value::Null,
    }
}

/// The error for a patch that the server refused. If the patch is at fault, it is applied to a
/// replica for a more precise message.
async fn explain(
    room: &Connection,
    path: &str,
    input: SyncPatch,
    error: CallError,
) -> anyhow::Error {
    let message = format!("can't update {path:?}");
    let hint = match failure::code(&error) {
        // Without a version, a conflict is a failed `test`.
        Some(code @ (ErrorCode::InvalidRequest | ErrorCode::Conflict))
            if code == ErrorCode::InvalidRequest || input.if_version.is_none() =>
        {
            let patch = Value::Array(input.patch);
            if let Ok(mut opened) = OpenDocument::open(room, path).await
                && let Err(error) = opened
                    .document
                    .apply_patch(&patch, &mut OpenDocument::new_id)
            {
                return patch_failure(path, error).into();
            }
            "nothing was changed; `meshagent room sync get` prints the current document"
        }
        // The document has changed since the patch was made. Other faults of the patch do not
        // matter then.
        Some(ErrorCode::Conflict) => {
            "nothing was changed; `meshagent room sync get --version` prints the current document"
        }
        _ => return failure::of_call(message, error).into(),
    };
    failure::of_call(message, error).with_hint(hint).into()
}

/// Applies the patch for a server without the tool `patch`: to a replica, whose change is sent. The
/// result is that of the tool, but without a version.
async fn apply_here(room: &Connection, path: &str, input: SyncPatch) -> anyhow::Result<Value> {
    if let Some(version) = &input.if_version {
        // If the document does not exist, that is the error to report.
        let described = room.sync().describe(input.path.as_str()).await;
        return Err(match described {
            Ok(_) => no_versions(path, version).into(),
            Err(error) => failure::of_call(format!("can't update {path:?}"), error).into(),
        });
    }
    let mut opened = OpenDocument::open(room, path).await?;
    let patch = Value::Array(input.patch);
    // Sent as one update, which the server accepts or refuses as a whole.
    let changed = opened
        .document
        .check_patch(&patch, &mut OpenDocument::new_id)
        .map_err(|error| patch_failure(path, error))?;
    if !input.dry_run {
        let update = opened
            .document
            .apply_patch(&patch, &mut OpenDocument::new_id)
            .map_err(|error| patch_failure(path, error))?;
        if let Some(update) = update {
            send(&opened, path, &update).await?;
        }
    }
    let operations = patch.as_array().map_or(&[][..], Vec::as_slice);
    let mut result = as_json(&SyncPatched::new(
        String::new(),
        operations,
        &changed,
        input.dry_run,
    ));
    result["version"] = Value::Null;
    Ok(result)
}

async fn send(opened: &OpenDocument, path: &str, update: &[u8]) -> anyhow::Result<()> {
    let sent = opened.stream.send(update).await;
    let Acknowledgement { notice, .. } =
        sent.map_err(|error| failure::of_call(format!("can't update {path:?}"), error))?;
    let violations = notice
        .as_ref()
        .and_then(|notice| notice["violations"].as_array());
    match violations {
        Some(violations) => Err(Removed::new(violations).failure(path, "patch").into()),
        None => Ok(()),
    }
}

fn no_versions(path: &str, version: &str) -> Failure {
    let message = format!(
        "can't update {path:?} if its version is {version:?}: this server does not support versions"
    );
    Failure::new(message).with_exit_code(REFUSED).with_hint(
        "nothing was changed; omit --if-version, and check the expected values with `test` \
         operations in the patch",
    )
}

fn patch_failure(path: &str, error: PatchError) -> Failure {
    let failure = Failure::new(format!("can't patch {path:?}"));
    match &error {
        PatchError::Invalid(violations) => {
            failure::of_violations(&format!("the patched document {path:?}"), violations)
                .with_hint(failure::INSPECT_HINT)
        }
        PatchError::Malformed { .. } => failure
            .with_exit_code(USAGE)
            .with_hint(PATCH_HINT)
            .with_source(error),
        _ => failure
            .with_exit_code(REFUSED)
            .with_hint("nothing was changed; `meshagent room sync get` prints the current document")
            .with_source(error),
    }
}
