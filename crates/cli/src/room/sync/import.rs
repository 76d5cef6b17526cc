//! `meshagent room sync import`: the conversations of a Claude data export become threads of a room.
//!
//! One thread reads the export, some conversations are on their way at once, and the list of threads is kept in the
//! order of the export: whatever the moment of an interruption, running the same command again completes the import.

mod conversation;
mod elements;
mod index;
mod lenient;
mod progress;
mod reader;
mod thread;
mod upload;

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::future::pending;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Args;
use meshagent_client::Connection;
use meshagent_document::MeshSchema;
use meshagent_protocol::DocPath;
use meshagent_protocol::storage::rfc3339;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use uuid::Uuid;

use self::elements::{Elements, ListError};
use self::index::{IndexError, ThreadIndex};
use self::progress::Progress;
use self::reader::{Item, Reader};
use self::thread::{Listing, Rules, Thread};
use self::upload::{Outcome, UploadError, upload};
use crate::failure::{Failure, INTERRUPTED, USAGE};
use crate::output::Output;
use crate::room::session::RoomArgs;
use crate::room::{failures, input};
use crate::settings;

/// How many conversations are on their way to the server at once; while they are this many, no further one is begun.
const AT_ONCE: usize = 8;
/// How much of the export is read at once.
const BUFFER_BYTES: usize = 256 << 10;
/// How many lines of the list are sent together.
const LINES_AT_ONCE: usize = 64;
/// How often to look how far the reading is.
const TICK: Duration = Duration::from_millis(250);

/// Import the conversations of a Claude data export as threads
///
/// Each conversation becomes a document THREAD_DIR/UUID.thread, and a line of the list THREAD_DIR/index.threadl. The
/// export is read as a stream, so it may be of any size. An import that was interrupted is completed by the same command:
/// threads that are there are skipped, and the list gets what it lacks.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent room sync import --room my-room --file conversations.json
  unzip -p export.zip conversations.json | \\
      meshagent room sync import --room my-room --file -
  meshagent room sync import --room my-room --file conversations.json \\
      --thread-dir .threads/ada --user-name Ada

Exit codes:
  As of the other commands, and 130 if it was interrupted. Conversations
  that can't be imported are told on stderr and counted, and are no failure.")]
pub(super) struct ImportArgs {
    /// The export's conversations.json; `-` for stdin
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,

    /// The folder for the threads
    #[arg(long, value_name = "DIR", default_value = ".threads/anthropic", value_parser = folder)]
    thread_dir: String,

    /// Replace threads that were imported before
    #[arg(long)]
    overwrite: bool,

    /// Look at this many conversations at most, from the beginning of the export
    #[arg(long, value_name = "COUNT", value_parser = settings::from_one::<u64>)]
    limit: Option<u64>,

    /// The author of the user's messages
    #[arg(
        long,
        visible_alias = "human-name",
        value_name = "NAME",
        default_value = "human"
    )]
    user_name: String,

    /// The author of the assistant's messages
    #[arg(long, value_name = "NAME", default_value = "assistant")]
    assistant_name: String,

    /// Import messages that have no text and no files, too
    #[arg(long)]
    include_empty_messages: bool,

    #[command(flatten)]
    room: RoomArgs,
}

pub(super) async fn run(args: &ImportArgs, output: &Output) -> anyhow::Result<()> {
    let index_path =
        DocPath::parse(&format!("{}/index.threadl", args.thread_dir)).map_err(|error| {
            Failure::new(format!("{:?} can't be a folder", args.thread_dir))
                .with_source(error)
                .with_hint("a folder in the room is like .threads/ada")
                .with_exit_code(USAGE)
        })?;
    // What is no export is refused before anything is made.
    let (elements, total) = open(args)?;
    let room = args.room.connect().await?;
    let schema = MeshSchema::builtin("threadl").context("the schema of lists of threads")?;
    let index = ThreadIndex::open(&room, index_path, schema).await;
    let index = index.map_err(|error| of_index(args, error))?;
    let import = Import {
        args,
        room: room.clone(),
        rules: Rules {
            user_name: args.user_name.clone(),
            assistant_name: args.assistant_name.clone(),
            include_empty_messages: args.include_empty_messages,
        },
        index,
        occurrences: HashMap::new(),
        under_way: VecDeque::new(),
        tally: Tally::default(),
        position: 0,
        progress: Progress::new(total, output.is_quiet()),
    };
    let reader = Reader::start(elements, args.limit);
    let reader = reader.context("starting a thread")?;
    let mut interrupts = interrupts()?;
    let twice = async {
        interrupts.recv().await;
        interrupts.recv().await;
    };
    let (tally, ended) = tokio::select! {
        imported = import.run(reader) => imported,
        () = twice => return Err(interrupted()),
    };
    room.close().await;
    let Tally {
        imported,
        existing,
        broken,
        messages,
    } = tally;
    let summary = output.done(&format!(
        "Imported {imported} thread(s); skipped existing: {existing}; skipped invalid: {broken}; messages: {messages}."
    ));
    ended.and(summary)
}

type Export = Elements<Box<dyn BufRead + Send>>;

/// The export up to its first conversation, and its length if that is known.
fn open(args: &ImportArgs) -> anyhow::Result<(Export, Option<u64>)> {
    let failed = |error: ListError| of_export(args, error);
    let (source, total): (Box<dyn Read + Send>, _) = if input::is_standard_stream(&args.file) {
        (Box::new(io::stdin()), None)
    } else {
        let file = File::open(&args.file).map_err(|error| failed(error.into()))?;
        let metadata = file.metadata().map_err(|error| failed(error.into()))?;
        let total = metadata.is_file().then_some(metadata.len());
        (Box::new(file), total)
    };
    let reader = BufReader::with_capacity(BUFFER_BYTES, source);
    let elements = Elements::begin(Box::new(reader) as Box<dyn BufRead + Send>).map_err(failed)?;
    Ok((elements, total))
}

/// What became of the conversations.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    imported: u64,
    existing: u64,
    broken: u64,
    /// In the threads that were imported.
    messages: u64,
}

struct Import<'a> {
    args: &'a ImportArgs,
    room: Connection,
    rules: Rules,
    index: ThreadIndex,
    /// How often each thread's name has come. A UUID is all that is kept of a conversation.
    occurrences: HashMap<Uuid, u32>,
    /// In the order of the export.
    under_way: VecDeque<UnderWay>,
    tally: Tally,
    /// Up to where the export is imported.
    position: u64,
    progress: Progress,
}

/// A conversation that is being made a thread.
struct UnderWay {
    /// Its place in the export.
    index: u64,
    /// Where in the export it ends.
    end: u64,
    listing: Listing,
    messages: u64,
    task: JoinHandle<Result<Outcome, UploadError>>,
}

/// What happens next.
enum Event {
    Changed(Result<(), IndexError>),
    Done(Result<Outcome, UploadError>),
    Interrupted,
    Read(Option<Result<Item, ListError>>),
    Tick,
}

impl Import<'_> {
    /// Imports until the export ends or something ends the import.
    async fn run(mut self, mut reader: Reader) -> (Tally, anyhow::Result<()>) {
        let mut ended = self.take_all(&mut reader).await;
        reader.stop();
        self.progress.clear();
        // Of no use if the connection is gone; then the next import completes the list.
        let flushed = self.index.flush().await;
        if ended.is_ok() {
            ended = flushed.map_err(|error| of_index(self.args, error));
        }
        for under_way in self.under_way {
            under_way.task.abort();
        }
        self.index.close().await;
        (self.tally, ended)
    }

    async fn take_all(&mut self, reader: &mut Reader) -> anyhow::Result<()> {
        let mut interrupts = interrupts()?;
        let mut ticks = tokio::time::interval(TICK);
        // Why no further conversation is begun.
        let mut ended: Option<anyhow::Result<()>> = None;
        loop {
            if self.under_way.is_empty() {
                if let Some(ended) = ended {
                    return ended;
                }
                if self.index.unsent() > 0 && reader.is_idle() {
                    self.flush().await?;
                }
            }
            let may_begin = ended.is_none() && self.under_way.len() < AT_ONCE;
            let event = tokio::select! {
                // A change of somebody else is taken up before a line is added to what it changes.
                biased;
                _ = interrupts.recv(), if ended.is_none() => Event::Interrupted,
                changed = self.index.changed() => Event::Changed(changed),
                outcome = first_done(&mut self.under_way) => Event::Done(outcome),
                read = reader.next(), if may_begin => Event::Read(read),
                _ = ticks.tick() => Event::Tick,
            };
            match event {
                Event::Interrupted => {
                    reader.stop();
                    self.progress
                        .note("interrupted: ending what was begun; Ctrl-C again to stop at once");
                    ended = Some(Err(interrupted()));
                }
                Event::Changed(changed) => {
                    changed.map_err(|error| of_index(self.args, error))?;
                }
                Event::Done(outcome) => {
                    // Threads behind one that failed are not listed, so that the next import lists all in order.
                    self.finish(outcome)?;
                    if self.index.unsent() >= LINES_AT_ONCE {
                        self.flush().await?;
                    }
                }
                Event::Read(None) => ended = Some(Ok(())),
                Event::Read(Some(Ok(item))) => self.begin(item),
                Event::Read(Some(Err(error))) => ended = Some(Err(of_export(self.args, error))),
                Event::Tick => {}
            }
            self.progress.show(self.position, self.tally.imported);
        }
    }

    fn begin(&mut self, item: Item) {
        let Item {
            index,
            end,
            conversation,
            permit,
        } = item;
        let conversation = match conversation {
            Ok(conversation) => conversation,
            Err(error) => return self.skip(index, &error.to_string()),
        };
        let occurrence = self
            .occurrences
            .entry(thread::thread_uuid(&conversation.id))
            .or_default();
        *occurrence += 1;
        let path = thread::path(&self.args.thread_dir, &conversation.id, *occurrence);
        let listing = Listing::new(&conversation, path.clone(), now());
        let thread = Thread::new(conversation, &self.rules);
        let messages = thread.messages.len() as u64;
        let (room, overwrite) = (self.room.clone(), self.args.overwrite);
        let task = async move {
            let _held: OwnedSemaphorePermit = permit;
            upload(&room, &path, thread, overwrite).await
        };
        self.under_way.push_back(UnderWay {
            index,
            end,
            listing,
            messages,
            task: tokio::spawn(task),
        });
    }

    /// The first of those that are under way is done.
    fn finish(&mut self, outcome: Result<Outcome, UploadError>) -> anyhow::Result<()> {
        let done = self.under_way.pop_front();
        let UnderWay {
            index,
            end,
            listing,
            messages,
            ..
        } = done.context("nothing was under way")?;
        self.position = end;
        match outcome {
            Ok(Outcome::Created) => {
                self.index.put(listing);
                self.tally.imported += 1;
                self.tally.messages += messages;
            }
            Ok(Outcome::Exists) => {
                // An import that was interrupted may have come as far as the thread.
                if !self.index.contains(&listing.path) {
                    self.index.put(listing);
                }
                self.tally.existing += 1;
            }
            Ok(Outcome::Refused(reason)) => self.skip(index, &reason),
            Err(UploadError { what, source }) => return Err(failures::of_call(what, source).into()),
        }
        Ok(())
    }

    fn skip(&mut self, index: u64, reason: &str) {
        self.tally.broken += 1;
        self.progress.note(&format!(
            "warning: skipped conversations[{index}]: {reason}"
        ));
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        let flushed = self.index.flush().await;
        flushed.map_err(|error| of_index(self.args, error))
    }
}

/// Waits for the first in the order of the export, so that the list gets that order. Cancel safe.
async fn first_done(under_way: &mut VecDeque<UnderWay>) -> Result<Outcome, UploadError> {
    let Some(first) = under_way.front_mut() else {
        return pending().await;
    };
    match (&mut first.task).await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Nobody aborts it while it is in the queue.
            Err(_aborted) => pending().await,
        },
    }
}

/// A client id for a document that is edited here. The published SDK for Python cuts them to 32 bits.
fn new_client_id() -> u64 {
    u64::from(Uuid::new_v4().as_fields().0)
}

/// An `$id` for a new element.
fn new_id() -> String {
    Uuid::new_v4().to_string()
}

fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    rfc3339(u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX))
}

fn folder(text: &str) -> Result<String, &'static str> {
    match text.trim().trim_end_matches('/') {
        "" => Err("it is empty"),
        folder => Ok(folder.to_owned()),
    }
}

fn interrupts() -> anyhow::Result<Signal> {
    signal(SignalKind::interrupt()).context("waiting for Ctrl-C")
}

fn interrupted() -> anyhow::Error {
    Failure::new("interrupted")
        .with_hint("run the same command again to import the rest; what is there is skipped")
        .with_exit_code(INTERRUPTED)
        .into()
}

fn of_export(args: &ImportArgs, error: ListError) -> anyhow::Error {
    let what = format!("can't import {}", input::name(&args.file));
    let failure = Failure::new(what).with_exit_code(USAGE);
    let failure = match &error {
        ListError::NoList => {
            failure.with_hint("give the conversations.json of a Claude data export")
        }
        ListError::CutOff => {
            failure.with_hint("what came before is imported; get the export again for the rest")
        }
        ListError::Rest => {
            failure.with_hint("what came before is imported; give one export in one file")
        }
        ListError::Io(_) => {
            failure.with_hint("name the conversations.json of a Claude data export, or - for stdin")
        }
    };
    failure.with_source(error).into()
}

fn of_index(args: &ImportArgs, error: IndexError) -> anyhow::Error {
    let what = format!(
        "the list {:?}",
        format!("{}/index.threadl", args.thread_dir)
    );
    match error {
        IndexError::Call(error) => failures::of_call(format!("can't keep {what}"), error).into(),
        error => Failure::new(format!("{what} is out of reach"))
            .with_hint("run the same command again to import the rest; what is there is skipped")
            .with_source(error)
            .into(),
    }
}
