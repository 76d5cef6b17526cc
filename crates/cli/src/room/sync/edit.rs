//! `meshagent room sync edit`.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use clap::Args;
use meshagent_client::{OpenOptions, SaveError};
use meshagent_document::{MeshDocument, ReplaceError};
use serde_json::Value;
use uuid::Uuid;

use super::live;
use crate::failure::{Failure, REFUSED, USAGE};
use crate::output::Output;
use crate::room::failures;
use crate::room::session::RoomArgs;
use crate::settings;

/// Edit a document as JSON in an editor
///
/// Opens $VISUAL or $EDITOR. What you save is compared with what you saw, and only the difference is sent, so what
/// others write meanwhile stays. What the schema forbids is listed, and you can go on editing.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent room sync edit --room my-room notes/plan
  EDITOR='code --wait' meshagent room sync edit --room my-room notes/plan --include-ids")]
pub(super) struct EditArgs {
    /// The document
    path: String,

    /// Show `$id`s: elements that are moved or rewritten are told apart by them
    #[arg(long)]
    include_ids: bool,

    #[command(flatten)]
    room: RoomArgs,
}

pub(super) async fn run(args: &EditArgs, output: &Output) -> anyhow::Result<()> {
    let editor = editor()?;
    let room = args.room.enter().await?;
    let options = OpenOptions {
        create: false,
        ..OpenOptions::default()
    };
    let document = live::open(&room, &args.path, &options).await?;
    // A replica of what is shown, for others go on with the document itself.
    let (schema, state) = document.read(|d| (d.schema().clone(), d.encode_state()));
    let mut shown = MeshDocument::new(schema, u64::from(getrandom::u32()?));
    shown.apply_update(&state)?;
    let text = format!("{:#}\n", shown.to_json(args.include_ids));
    let file = tempfile::Builder::new()
        .prefix("meshagent-")
        .suffix(".json")
        .tempfile()
        .context("making a file to edit")?;
    std::fs::write(file.path(), &text).context("writing the file to edit")?;

    let update = loop {
        open_editor(&editor, file.path()).await?;
        let edited = std::fs::read_to_string(file.path()).context("reading what was edited")?;
        if edited == text {
            room.close().await;
            return output.done("Nothing was changed");
        }
        match difference(&mut shown, &args.path, &edited) {
            Ok(update) => break update,
            Err(failure) => {
                if !std::io::stdin().is_terminal() {
                    let (_, kept) = file.keep().context("keeping what was edited")?;
                    let hint = format!("what you wrote is in {}", kept.display());
                    return Err(failure.with_hint(hint).into());
                }
                ask_for_another_try(&failure)?;
            }
        }
    };
    let Some(update) = update else {
        room.close().await;
        return output.done("Nothing was changed");
    };
    let mut events = document.changes();
    room.sync().sync(document.path(), &update)?;
    match document.saved().await {
        Ok(()) => {}
        Err(SaveError::Refused(refusal)) => {
            let (code, text) = (refusal.code, refusal.text);
            let error = meshagent_client::CallError::Refused { code, text };
            return Err(failures::of_call(format!("can't change {:?}", args.path), error).into());
        }
        Err(SaveError::Ended(end)) => return Err(live::failure(&args.path, "change", end).into()),
        Err(error) => return Err(error.into()),
    }
    while let Some(event) = events.try_recv() {
        if let meshagent_client::DocumentEvent::Repaired { violations } = event {
            let what = format!(
                "others changed {:?} meanwhile; together with that the schema forbids a part, which the server removed: {}",
                args.path,
                Value::from(violations)
            );
            let failure = Failure::new(what).with_exit_code(REFUSED);
            return Err(failure
                .with_hint("look at the document, and edit it again")
                .into());
        }
    }
    room.close().await;
    output.done(&format!("Updated document at {}", args.path))
}

/// What was written as an update of what was shown; `None` if that makes no difference.
fn difference(
    shown: &mut MeshDocument,
    path: &str,
    edited: &str,
) -> Result<Option<Vec<u8>>, Failure> {
    let json: Value = serde_json::from_str(edited).map_err(|error| {
        Failure::new("what you wrote is no JSON")
            .with_exit_code(USAGE)
            .with_source(error)
    })?;
    let replaced = shown.replace_json(&json, &mut || Uuid::new_v4().to_string());
    replaced.map_err(|error| match error {
        ReplaceError::Invalid(violations) => {
            failures::of_violations(&format!("{path:?}, edited,"), &violations)
        }
        error => Failure::new("what you wrote can't be applied")
            .with_exit_code(REFUSED)
            .with_source(error),
    })
}

/// The person's editor, as a command of the shell.
fn editor() -> anyhow::Result<String> {
    for name in ["VISUAL", "EDITOR"] {
        if let Some(editor) = settings::variable(name)? {
            return Ok(editor);
        }
    }
    let failure = Failure::new("there is no editor").with_exit_code(USAGE);
    Err(failure.with_hint("set EDITOR, for instance to vi").into())
}

async fn open_editor(editor: &str, file: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("sh");
    // As git does: the variable may hold arguments.
    command
        .args(["-c", &format!("{editor} \"$@\""), editor])
        .arg(file);
    let ran = tokio::task::spawn_blocking(move || command.status()).await?;
    let status = ran.context("starting the editor")?;
    if status.success() {
        return Ok(());
    }
    let failure = Failure::new(format!(
        "the editor ended with {status}; nothing was changed"
    ));
    Err(failure.with_exit_code(REFUSED).into())
}

/// Says what is wrong, and waits for the person.
fn ask_for_another_try(failure: &Failure) -> anyhow::Result<()> {
    let mut stderr = std::io::stderr().lock();
    writeln!(stderr, "error: {failure}")?;
    write!(stderr, "Enter opens the editor again, ctrl-c gives up. ")?;
    stderr.flush()?;
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer)?;
    if read == 0 {
        return Err(Failure::new("nothing was changed")
            .with_exit_code(REFUSED)
            .into());
    }
    Ok(())
}
