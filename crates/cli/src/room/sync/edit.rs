//! `meshagent room sync edit`.

mod draft;
mod patience;
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

use self::draft::{Draft, Editor, Fate};
use self::patience::{PATIENCE, Patience};
use self::written::Written;
use super::live;
use super::removed::Removed;
use crate::failure::{self, Failure, INTERRUPTED, REFUSED, USAGE};
use crate::output::{Output, terminal};
use crate::room::session::RoomArgs;

/// Edit a document as JSON in an editor
///
/// Opens $VISUAL or $EDITOR. What you save is compared with what you saw, and only the difference is sent, so what
/// others write meanwhile stays. What the schema forbids is listed, and you can go on editing. If what you wrote does not
/// get into the document, it is kept in a file, and a hint says where.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent room sync edit --room my-room notes/plan
  EDITOR='code --wait' \\
      meshagent room sync edit --room my-room notes/plan --include-ids")]
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
    let editor = Editor::from_env()?;
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
    let json = format!("{:#}\n", shown.to_json(args.include_ids));
    // An editor shows what it is given on a terminal; what is escaped is read back as the same.
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
        is_answer_lost: false,
        fate: Fate::Known,
        is_quiet: output.is_quiet(),
    };
    let is_changed = match editing.edit(&editor, &draft, &mut shown).await {
        Ok(is_changed) => is_changed,
        Err(failure) => {
            let kept = draft.keep(&args.path, failure, editing.fate);
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

/// A document that a person edits.
struct Editing<'a> {
    path: &'a str,
    room: &'a RoomClient,
    document: LiveDocument,
    events: Changes,
    // What the events say.
    is_connected: bool,
    end: Option<DocumentEnd>,
    removed: Option<Removed>,
    // Whether the server may have said something about what was sent that was not heard.
    is_answer_lost: bool,
    // Of what was written. While it is under way nobody knows.
    fate: Fate,
    is_quiet: bool,
}

impl Editing<'_> {
    /// Whether the document was changed; if so, as it was written.
    async fn edit(
        &mut self,
        editor: &Editor,
        draft: &Draft,
        shown: &mut MeshDocument,
    ) -> Result<bool, Failure> {
        // From here on Ctrl-C is the editor's, which may use it for something else.
        let _unheard = interrupts()?;
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
        if self.is_answer_lost && !self.document.read(|d| written.is_in(d, shown)) {
            self.fate = Fate::Unknown;
            let what = "the server's answer was lost, and not all that you wrote is in the document now: the server \
                        removed what the schema forbids together with what others wrote, or they changed it since";
            return Err(Failure::new(what).with_exit_code(REFUSED));
        }
        Ok(true)
    }

    /// Does something, and takes note of what happens to the document meanwhile.
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
                self.is_answer_lost = true;
            }
            DocumentEvent::Missed => {
                // The room's status still tells of a lost connection.
                self.is_connected = true;
                self.is_answer_lost = true;
            }
            DocumentEvent::Synchronized => self.is_connected = true,
            DocumentEvent::Ended(end) => self.end = Some(end),
            DocumentEvent::Erased { operations } => self.say(&format!(
                "warning: {operations} operations of this edit were deleted on the server, by others or in this client's name; \
                 look at the document"
            )),
            DocumentEvent::Repaired { violations } => {
                self.removed = Some(Removed::new(&violations));
            }
            _ => {}
        }
    }

    /// Sends what was written, and waits until it is stored.
    async fn send(&mut self, update: &[u8]) -> Result<(), Failure> {
        let mut interrupts = interrupts()?;
        self.catch_up();
        if let Some(end) = self.end.take() {
            return Err(live::failure(self.path, "change", end));
        }
        self.is_answer_lost = false;
        let sent = self.room.sync().sync(self.document.path(), update);
        sent.map_err(|error| {
            Failure::new(format!("can't change {:?}", self.path))
                .with_exit_code(REFUSED)
                .with_source(error)
        })?;
        self.fate = Fate::Unknown;
        let document = self.document.clone();
        let mut saved = std::pin::pin!(document.saved());
        let mut statuses = self.room.status_changes();
        let mut is_told = false;
        let mut patience = Patience::default();
        let saved = loop {
            // A document that is gone loses its stream, too; what it waits for then is not the server.
            let is_lost = self.room.status() == RoomStatus::Reconnecting;
            if is_lost && !is_told {
                self.say("disconnected; waiting for the server");
                is_told = true;
            }
            let is_connected = self.is_connected && !is_lost;
            // The next loss is told again.
            is_told &= !is_connected;
            patience.note(is_connected, Instant::now());
            let deadline = patience.deadline();
            tokio::select! {
                biased;
                saved = &mut saved => break saved,
                Some(event) = self.events.recv() => self.note(event),
                Some(_) = statuses.changed() => {}
                _ = interrupts.recv() => {
                    let failure = Failure::new("interrupted before the server had confirmed it");
                    return Err(failure.with_exit_code(INTERRUPTED));
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    let what = format!("the server did not come back within {} s", PATIENCE.as_secs());
                    return Err(failure::of_call(what, CallError::Disconnected));
                }
            }
        };
        self.catch_up();
        // After any other end it may be stored all the same, and only the answer was lost.
        if matches!(saved, Ok(()) | Err(SaveError::Refused(_))) {
            self.fate = Fate::Known;
        }
        match (saved, self.removed.take()) {
            (Ok(()), None) => Ok(()),
            (Ok(()), Some(removed)) => Err(removed.failure(self.path, "edit")),
            (Err(SaveError::Refused(refusal)), _) => {
                let end = DocumentEnd::Refused(refusal);
                Err(live::failure(self.path, "change", end))
            }
            (Err(SaveError::Ended(end)), _) => Err(live::failure(self.path, "change", end)),
            (Err(error), _) => Err(Failure::new(format!("can't change {:?}", self.path))
                .with_exit_code(REFUSED)
                .with_source(error)),
        }
    }

    fn say(&self, text: &str) {
        if !self.is_quiet {
            terminal::say(text);
        }
    }
}

/// Says what is wrong, and waits for the person.
async fn ask_for_another_try(failure: &Failure) -> Result<(), Failure> {
    let mut interrupts = interrupts()?;
    {
        let mut error = format!("error: {failure}");
        let mut cause = failure.source();
        while let Some(next) = cause {
            error = format!("{error}: {next}");
            cause = next.source();
        }
        terminal::say(&error);
        let mut stderr = io::stderr().lock();
        // With stderr closed the person may answer all the same.
        let _told = write!(
            stderr,
            "Enter opens the editor again, Ctrl-C gives up and keeps what you wrote. "
        );
        let _told = stderr.flush();
    }
    let (sender, answer) = oneshot::channel();
    // One of the runtime's threads would be waited for at the end.
    std::thread::spawn(move || {
        let read = io::stdin().lock().read_line(&mut String::new());
        // After Ctrl-C nobody waits for it.
        let _asked = sender.send(read.is_ok_and(|read| read > 0));
    });
    let code = tokio::select! {
        answer = answer => match answer {
            Ok(true) => return Ok(()),
            _ => REFUSED,
        },
        _ = interrupts.recv() => INTERRUPTED,
    };
    // The question's line is still open.
    let _told = writeln!(io::stderr());
    Err(Failure::new("nothing was changed").with_exit_code(code))
}

/// Ctrl-C from now on.
fn interrupts() -> Result<Signal, Failure> {
    signal(SignalKind::interrupt())
        .map_err(|error| Failure::new("waiting for Ctrl-C").with_source(error))
}

fn unreadable(error: io::Error) -> Failure {
    Failure::new("can't read what you wrote")
        .with_exit_code(USAGE)
        .with_source(error)
}
