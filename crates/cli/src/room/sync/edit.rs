//! `meshagent room sync edit`.

mod draft;
mod reconnect;
mod written;

use std::error::Error as _;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use clap::Args;
use meshagent_client::{
    CallError, Changes, DocumentEnd, DocumentEvent, LiveDocument, OpenOptions, RoomClient,
    RoomStatus, SaveError,
};
use meshagent_document::MeshDocument;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use self::draft::{Draft, Editor, Outcome};
use self::reconnect::{RECONNECT_TIMEOUT, ReconnectTimeout};
use self::written::Written;
use super::live;
use super::removed::Removed;
use crate::failure::{self, Failure, INTERRUPTED, REFUSED, USAGE};
use crate::output::{Output, terminal};
use crate::room::session::RoomArgs;

/// Edit a document as JSON in an editor
///
/// Opens $VISUAL or $EDITOR. Only the difference between the JSON that was shown and the JSON that
/// you save is sent, so concurrent edits of others are kept. If the saved JSON violates the schema,
/// the violations are listed and you can edit again. If your changes can't be applied, they are
/// kept in a file, and a hint names it.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent room sync edit --room my-room notes/plan
  EDITOR='code --wait' \\
      meshagent room sync edit --room my-room notes/plan --include-ids")]
pub(super) struct EditArgs {
    /// Path of the document
    path: String,

    /// Show `$id`s, which identify elements that you move or rewrite
    #[arg(long)]
    include_ids: bool,

    #[command(flatten)]
    room: RoomArgs,
}

pub(super) async fn run(args: &EditArgs, output: &Output) -> anyhow::Result<()> {
    let editor = Editor::from_env()?;
    let room = args.room.enter().await?;
    let options = OpenOptions {
        create: false,
        ..OpenOptions::default()
    };
    let document = live::open(&room, &args.path, &options).await?;
    // A replica with the shown state; the document itself changes while the editor is open.
    let (schema, state) = document.read(|d| (d.schema().clone(), d.encode_state()));
    let mut shown = MeshDocument::new(schema, u64::from(getrandom::u32()?));
    shown.apply_update(&state)?;
    let json = format!("{:#}\n", shown.to_json(args.include_ids));
    // Editors may print control characters to the terminal. Escaped ones parse to the same value.
    let draft = Draft::new(terminal::json(&json).into_owned())?;
    let events = document.changes();
    let mut editing = Editing {
        path: &args.path,
        room: &room,
        document,
        events,
        is_connected: true,
        end: None,
        removed: None,
        is_response_lost: false,
        outcome: Outcome::Known,
        is_quiet: output.is_quiet(),
    };
    let is_changed = match editing.edit(&editor, &draft, &mut shown).await {
        Ok(is_changed) => is_changed,
        Err(failure) => {
            let kept = draft.keep(&args.path, failure, editing.outcome);
            return Err(kept.into());
        }
    };
    room.close().await;
    if is_changed {
        output.done(&format!("Updated document at {}", args.path))
    } else {
        output.done("Nothing was changed")
    }
}

/// A document that is open in an editor.
struct Editing<'a> {
    path: &'a str,
    room: &'a RoomClient,
    document: LiveDocument,
    events: Changes,
    // The state according to the events.
    is_connected: bool,
    end: Option<DocumentEnd>,
    removed: Option<Removed>,
    // Whether a response of the server to the change may have been lost.
    is_response_lost: bool,
    // The outcome of the change, unknown while it is in flight.
    outcome: Outcome,
    is_quiet: bool,
}

impl Editing<'_> {
    /// Runs the editor and sends the change. Returns whether the document was changed.
    async fn edit(
        &mut self,
        editor: &Editor,
        draft: &Draft,
        shown: &mut MeshDocument,
    ) -> Result<bool, Failure> {
        // Ctrl-C must not end this process while the editor is open.
        let _ignored = interrupts()?;
        let written = loop {
            self.meanwhile(draft.edit(editor)).await?;
            let Some(text) = draft.written().map_err(unreadable)? else {
                return Ok(false);
            };
            match Written::new(shown, self.path, &text) {
                Ok(Some(written)) => break written,
                Ok(None) => return Ok(false),
                Err(failure) if io::stdin().is_terminal() => {
                    self.meanwhile(ask_for_another_try(&failure)).await?;
                }
                Err(failure) => return Err(failure),
            }
        };
        self.send(&written.update).await?;
        if self.is_response_lost && !self.document.read(|d| written.is_in(d, shown)) {
            self.outcome = Outcome::Unknown;
            let message = "the server's answer was lost, and the document does not contain all of \
                           your changes: the server removed parts that violated the schema in \
                           combination with edits of others, or others changed it afterwards";
            return Err(Failure::new(message).with_exit_code(REFUSED));
        }
        Ok(true)
    }

    /// Runs a future and processes events of the document until it completes.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                Some(event) = self.events.recv() => self.note(event),
            }
        }
    }

    fn catch_up(&mut self) {
        while let Some(event) = self.events.try_recv() {
            self.note(event);
        }
    }

    fn note(&mut self, event: DocumentEvent) {
        match event {
            DocumentEvent::Disconnected => {
                self.is_connected = false;
                self.is_response_lost = true;
            }
            DocumentEvent::Missed => {
                // The room's status reports a lost connection even if this event was missed.
                self.is_connected = true;
                self.is_response_lost = true;
            }
            DocumentEvent::Synchronized => self.is_connected = true,
            DocumentEvent::Ended(end) => self.end = Some(end),
            DocumentEvent::Erased { operations, .. } => self.print(&format!(
                "warning: {operations} operations of this edit were deleted on the server, by \
                 others or with this client's id; check the document"
            )),
            DocumentEvent::Repaired { violations } => {
                self.removed = Some(Removed::new(&violations));
            }
            _ => {}
        }
    }

    /// Sends the change and waits until it is stored.
    async fn send(&mut self, update: &[u8]) -> Result<(), Failure> {
        let mut interrupts = interrupts()?;
        self.catch_up();
        if let Some(end) = self.end.take() {
            return Err(live::failure(self.path, "change", end));
        }
        self.is_response_lost = false;
        let sent = self.room.sync().sync(self.document.path(), update);
        sent.map_err(|error| {
            Failure::new(format!("can't change {:?}", self.path))
                .with_exit_code(REFUSED)
                .with_source(error)
        })?;
        self.outcome = Outcome::Unknown;
        let document = self.document.clone();
        let mut saved = std::pin::pin!(document.saved());
        let mut statuses = self.room.status_changes();
        let mut is_reported = false;
        let mut timeout = ReconnectTimeout::default();
        let saved = loop {
            // The stream of a deleted document ends as well, although the server is connected.
            let is_lost = self.room.status() == RoomStatus::Reconnecting;
            if is_lost && !is_reported {
                self.print("disconnected; waiting for the server");
                is_reported = true;
            }
            let is_connected = self.is_connected && !is_lost;
            // The next loss of the connection is reported again.
            is_reported &= !is_connected;
            timeout.update(is_connected, Instant::now());
            let deadline = timeout.deadline();
            tokio::select! {
                biased;
                saved = &mut saved => break saved,
                Some(event) = self.events.recv() => self.note(event),
                Some(_) = statuses.changed() => {}
                _ = interrupts.recv() => {
                    let message = "interrupted before the server confirmed the change";
                    return Err(Failure::new(message).with_exit_code(INTERRUPTED));
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    let seconds = RECONNECT_TIMEOUT.as_secs();
                    let message = format!("no connection to the server for {seconds} s");
                    return Err(failure::of_call(message, CallError::Disconnected));
                }
            }
        };
        self.catch_up();
        // After any other end, the change may be stored and only the response lost.
        if matches!(saved, Ok(()) | Err(SaveError::Refused { .. })) {
            self.outcome = Outcome::Known;
        }
        match (saved, self.removed.take()) {
            (Ok(()), None) => Ok(()),
            (Ok(()), Some(removed)) => Err(removed.failure(self.path, "edit")),
            (Err(SaveError::Refused { refusal, .. }), _) => {
                let end = DocumentEnd::Refused(refusal);
                Err(live::failure(self.path, "change", end))
            }
            (Err(SaveError::Ended(end)), _) => Err(live::failure(self.path, "change", end)),
            (Err(error), _) => Err(Failure::new(format!("can't change {:?}", self.path))
                .with_exit_code(REFUSED)
                .with_source(error)),
        }
    }

    fn print(&self, text: &str) {
        if !self.is_quiet {
            terminal::print_stderr(text);
        }
    }
}

/// Prints the error and waits until the user wants to edit again.
async fn ask_for_another_try(failure: &Failure) -> Result<(), Failure> {
    let mut interrupts = interrupts()?;
    {
        let mut error = format!("error: {failure}");
        let mut cause = failure.source();
        while let Some(next) = cause {
            error = format!("{error}: {next}");
            cause = next.source();
        }
        terminal::print_stderr(&error);
        let mut stderr = io::stderr().lock();
        // The user can answer even if stderr is closed.
        let _printed = write!(
            stderr,
            "Press Enter to edit again, or Ctrl-C to stop and keep your text in a file. "
        );
        let _printed = stderr.flush();
    }
    let (sender, answer) = oneshot::channel();
    // Not a blocking task of the runtime, whose shutdown would wait for the user.
    std::thread::spawn(move || {
        let read = io::stdin().lock().read_line(&mut String::new());
        // After Ctrl-C, the receiver is gone.
        let _sent = sender.send(read.is_ok_and(|read| read > 0));
    });
    let code = tokio::select! {
        answer = answer => match answer {
            Ok(true) => return Ok(()),
            _ => REFUSED,
        },
        _ = interrupts.recv() => INTERRUPTED,
    };
    // Ends the line of the question.
    let _printed = writeln!(io::stderr());
    Err(Failure::new("nothing was changed").with_exit_code(code))
}

/// A stream of Ctrl-C presses, which no longer end the process.
fn interrupts() -> Result<Signal, Failure> {
    signal(SignalKind::interrupt())
        .map_err(|error| Failure::new("can't wait for Ctrl-C").with_source(error))
}

fn unreadable(error: io::Error) -> Failure {
    Failure::new("can't read the edited file")
        .with_exit_code(USAGE)
        .with_source(error)
}
