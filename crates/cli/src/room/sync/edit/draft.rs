//! The file that the user edits. It is kept if the changes could not be applied to the document.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use tempfile::NamedTempFile;

use crate::failure::{Failure, REFUSED, USAGE};
use crate::settings;

/// The outcome of a change that failed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    /// The change is not in the document, or not completely.
    Known,
    /// The change may be in the document, completely or in part.
    Unknown,
}

#[derive(Debug)]
pub(super) struct Draft {
    file: NamedTempFile,
    shown: String,
}

impl Draft {
    /// Creates a file with the text to show.
    pub(super) fn new(shown: String) -> Result<Self, Failure> {
        let file = tempfile::Builder::new()
            .prefix("meshagent-")
            .suffix(".json")
            .tempfile()
            .and_then(|file| fs::write(file.path(), &shown).map(|()| file));
        let file = file.map_err(|error| {
            Failure::new("can't create a file to edit")
                .with_exit_code(USAGE)
                .with_hint("set TMPDIR to a writable folder with free space")
                .with_source(error)
        })?;
        Ok(Self { file, shown })
    }

    /// The text in the file; `None` if it is unchanged.
    pub(super) fn written(&self) -> io::Result<Option<Vec<u8>>> {
        let written = fs::read(self.file.path())?;
        Ok((written != self.shown.as_bytes()).then_some(written))
    }

    /// Keeps the file, if it was changed, and extends the failure by a hint that names it.
    pub(super) fn keep(self, path: &str, failure: Failure, outcome: Outcome) -> Failure {
        match self.written() {
            Ok(None) => return failure,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return failure,
            Ok(Some(_)) | Err(_) => {}
        }
        let (state, advice) = match outcome {
            Outcome::Known => ("were not saved", "edit the document again"),
            Outcome::Unknown => (
                "may not have been saved",
                "check the document, and repeat the missing changes",
            ),
        };
        let message = format!("your changes to {path:?} {state}");
        let kept = match self.file.keep() {
            Ok((_, kept)) => kept,
            Err(error) => return Failure::new("can't keep the edited file").with_source(error),
        };
        let hint = format!("{advice}; your text is in {}", kept.display());
        Failure::new(message).with_hint(hint).with_source(failure)
    }

    /// Opens the file in the editor and waits for its end.
    pub(super) async fn edit(&self, editor: &Editor) -> Result<(), Failure> {
        editor.open(self.file.path()).await
    }
}

/// The user's editor, as a shell command.
#[derive(Debug)]
pub(super) struct Editor(String);

impl Editor {
    pub(super) fn from_env() -> anyhow::Result<Self> {
        for name in ["VISUAL", "EDITOR"] {
            if let Some(editor) = settings::variable(name)? {
                return Ok(Self(editor));
            }
        }
        let failure = Failure::new("no editor: VISUAL and EDITOR are not set");
        let failure = failure.with_exit_code(USAGE);
        Err(failure.with_hint("set EDITOR, for example to vi").into())
    }

    async fn open(&self, file: &Path) -> Result<(), Failure> {
        let Self(editor) = self;
        let mut command = Command::new("sh");
        // Through a shell, as in git, because the variable may contain arguments.
        command
            .args(["-c", &format!("{editor} \"$@\""), editor])
            .arg(file);
        let hint = "set EDITOR to a command that exits with code 0 after editing";
        let ran = tokio::task::spawn_blocking(move || command.status()).await;
        let status = ran.map_err(io::Error::other).flatten().map_err(|error| {
            Failure::new(format!("can't start the editor {editor:?}"))
                .with_exit_code(USAGE)
                .with_hint(hint)
                .with_source(error)
        })?;
        if status.success() {
            return Ok(());
        }
        let message = format!("the editor failed ({status}): {editor:?}; nothing was changed");
        let failure = Failure::new(message).with_exit_code(REFUSED);
        Err(failure.with_hint(hint))
    }
}
