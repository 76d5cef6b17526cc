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

/// Change a document by a JSON patch (RFC 6902)
///
/// All of the patch is applied or nothing, as the smallest change: what it does not touch stays as it is, and so does
/// what others write there at the same time. The command ends when the change is on the server's disk.
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
    /// The document
    path: String,

    /// The patch: an array of operations
    #[arg(
        long,
        value_name = "TEXT",
        conflicts_with = "patch_file",
        required_unless_present = "patch_file"
    )]
    patch: Option<String>,

    /// File with the patch; `-` reads stdin
    #[arg(long, value_name = "FILE")]
    patch_file: Option<PathBuf>,

    /// Refuse (exit code 1) if the document has another version than this, which `get --version` printed
    #[arg(long, value_name = "VERSION", allow_hyphen_values = true)]
    if_version: Option<String>,

    /// Only check the patch, and print what would become of each operation
    #[arg(long)]
    dry_run: bool,

    /// Print the new version, and what became of each operation, as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    room: RoomArgs,
}

const WHAT_A_PATCH_IS: &str =
    "give an array of operations by --patch or --patch-file; RFC 6902 says what a JSON patch is";

pub(super) async fn run(args: &UpdateArgs, output: &Output) -> anyhow::Result<()> {
    let patch = match (&args.patch, &args.patch_file) {
        (Some(text), _) => files::json(text.as_bytes(), "--patch"),
        (None, Some(file)) => files::read_json(file),
        (None, None) => Err(Failure::new("there is no patch").with_exit_code(USAGE)),
    };
    let Value::Array(operations) = patch.map_err(|failure| failure.with_hint(WHAT_A_PATCH_IS))?
    else {
        let failure = Failure::new("a patch is an array of operations");
        return Err(failure
            .with_exit_code(USAGE)
            .with_hint(WHAT_A_PATCH_IS)
            .into());
    };
    let room = args.room.connect().await?;
    let path = DocPath::parse(&entries::document(&args.path)?)?;
    let mut input = SyncPatch::new(path, operations);
    input.if_version.clone_from(&args.if_version);
    input.dry_run = args.dry_run;
    let answer = match room.sync().patch(&input).await {
        Ok(patched) => as_json(&patched),
        // There is no such document, or the server has no such tool.
        Err(error) if failure::code(&error) == Some(ErrorCode::NotFound) => {
            apply_here(&room, &args.path, input).await?
        }
        Err(error) => return Err(explain(&room, &args.path, input, error).await),
    };
    room.close().await;
    if args.json || args.dry_run {
        return output.json(&answer, Layout::Pretty);
    }
    output.done(&format!("Updated document at {}", args.path))
}

fn as_json(patched: &SyncPatched) -> Value {
    match patched.to_content() {
        Content::Json(json) => json,
        _ => Value::Null,
    }
}

/// Why the server refuses a patch: where it is the patch's fault, as precisely as a replica can tell.
async fn explain(
    room: &Connection,
    path: &str,
    input: SyncPatch,
    error: CallError,
) -> anyhow::Error {
    let what = format!("can't update {path:?}");
    let hint = match failure::code(&error) {
        // A conflict is a failed `test`, where no version was named.
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
            "nothing was changed; `meshagent room sync get` shows the document as it is now"
        }
        // The document is another one than the patch was made for, by its version or by a `test`. What else is wrong
        // with the patch there is of no interest.
        Some(ErrorCode::Conflict) => {
            "nothing was changed; `meshagent room sync get --version` shows the document as it is now"
        }
        _ => return failure::of_call(what, error).into(),
    };
    failure::of_call(what, error).with_hint(hint).into()
}

/// For a server that has no tool for it: applies the patch to a replica, sends what that changes, and waits until it is stored.
/// The answer is that of the tool, but for the version, which nobody knows.
async fn apply_here(room: &Connection, path: &str, input: SyncPatch) -> anyhow::Result<Value> {
    if let Some(version) = &input.if_version {
        // A document that is not there is to be told as such.
        let described = room.sync().describe(input.path.as_str()).await;
        let what = format!("can't update {path:?}");
        return Err(match described {
            Ok(_) => no_versions(path, version).into(),
            Err(error) => failure::of_call(what, error).into(),
        });
    }
    let mut opened = OpenDocument::open(room, path).await?;
    let patch = Value::Array(input.patch);
    // As one update, so that the server takes all of it or nothing.
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
    let mut answer = as_json(&SyncPatched::new(
        String::new(),
        operations,
        &changed,
        input.dry_run,
    ));
    answer["version"] = Value::Null;
    Ok(answer)
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
    let what = format!(
        "can't update {path:?} only if its version is {version:?}: this server can't compare versions"
    );
    Failure::new(what).with_exit_code(REFUSED).with_hint(
        "nothing was changed; leave out --if-version, and let operations `test` in the patch say what it was made for",
    )
}

fn patch_failure(path: &str, error: PatchError) -> Failure {
    let failure = Failure::new(format!("can't patch {path:?}"));
    match &error {
        PatchError::Invalid(violations) => {
            failure::of_violations(&format!("{path:?}, patched,"), violations)
        }
        PatchError::Malformed { .. } => failure
            .with_exit_code(USAGE)
            .with_hint(WHAT_A_PATCH_IS)
            .with_source(error),
        PatchError::NotFound { .. } | PatchError::TestFailed { .. } => failure
            .with_exit_code(REFUSED)
            .with_hint("`meshagent room sync get` shows what the pointers lead through; nothing was changed")
            .with_source(error),
        _ => failure
            .with_exit_code(REFUSED)
            .with_hint("nothing was changed; `meshagent room sync get` shows the document")
            .with_source(error),
    }
}
