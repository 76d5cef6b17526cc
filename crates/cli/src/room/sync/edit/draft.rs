//! The file that a person edits. It stays if what was written there did not get into the document.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use tempfile::NamedTempFile;

use crate::failure::{Failure, REFUSED, USAGE};
use crate::settings;

/// What became of what was written and did not get into the document as it was.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    /// The document is known not to be like that.
    Known,
    /// All of it or a part may be there.
    Unknown,
}

#[derive(Debug)]
pub(super) struct Draft {
    file: NamedTempFile,
    shown: String,
}

impl Draft {
    /// A file with what is shown to the person.
    pub(super) fn new(shown: String) -> Result<Self, Failure> {
        let file = tempfile::Builder::new()
            .prefix("meshagent-")
            .suffix(".json")
            .tempfile()
            .and_then(|file| fs::write(file.path(), &shown).map(|()| file));
        let file = file.map_err(|error| {
            Failure::new("can't make a file to edit")
                .with_exit_code(USAGE)
                .with_hint("set TMPDIR to a folder with space where you may write")
                .with_source(error)
        })?;
        Ok(Self { file, shown })
    }

    /// What was written; nothing if that is what was shown.
    pub(super) fn written(&self) -> io::Result<Option<Vec<u8>>> {
        let written = fs::read(self.file.path())?;
        Ok((written != self.shown.as_bytes()).then_some(written))
    }

    /// The failure for which the document at `path` isn't as it was written, or may not be. What was written stays in
    /// its file, and the failure says so.
    pub(super) fn keep(self, path: &str, failure: Failure, fate: Fate) -> Failure {
        match self.written() {
            Ok(None) => return failure,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return failure,
            Ok(Some(_)) | Err(_) => {}
        }
        let (verb, advice) = match fate {
            Fate::Known => ("is not", "edit it again, and take over from your text"),
            Fate::Unknown => (
                "may not be",
                "look at the document, and take over from your text what is not there",
            ),
        };
        let what = format!("{path:?} {verb} as you wrote it");
        let kept = match self.file.keep() {
            Ok((_, kept)) => kept,
            Err(error) => return Failure::new("can't keep what you wrote").with_source(error),
        };
        let hint = format!("{advice}; what you wrote is in {}", kept.display());
        Failure::new(what).with_hint(hint).with_source(failure)
    }

    /// Has the person edit the file.
    pub(super) async fn edit(&self, editor: &Editor) -> Result<(), Failure> {
        editor.open(self.file.path()).await
    }
}

/// The person's editor, as a command of the shell.
#[derive(Debug)]
pub(super) struct Editor(String);

impl Editor {
    pub(super) fn from_env() -> anyhow::Result<Self> {
        for name in ["VISUAL", "EDITOR"] {
            if let Some(editor) = settings::variable(name)? {
                return Ok(Self(editor));
            }
        }
        let failure = Failure::new("there is no editor").with_exit_code(USAGE);
        Err(failure.with_hint("set EDITOR, for instance to vi").into())
    }

    async fn open(&self, file: &Path) -> Result<(), Failure> {
        let Self(editor) = self;
        let mut command = Command::new("sh");
        // As git does: the variable may hold arguments.
        command
            .args(["-c", &format!("{editor} \"$@\""), editor])
            .arg(file);
        let hint = "set EDITOR to a command that ends with code 0 when you are done";
        let ran = tokio::task::spawn_blocking(move || command.status()).await;
        let status = ran.map_err(io::Error::other).flatten().map_err(|error| {
            Failure::new("can't start the editor")
                .with_exit_code(USAGE)
                .with_hint(hint)
                .with_source(error)
        })?;
        if status.success() {
            return Ok(());
        }
        let what = format!("the editor ended with {status}; nothing was changed");
        let failure = Failure::new(what).with_exit_code(REFUSED);
        Err(failure.with_hint(hint))
    }
}
