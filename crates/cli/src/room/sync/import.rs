//! `meshagent room sync import`: imports the conversations of a Claude data export as threads.

mod progress;

use std::fs::File;
use std::io;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use meshagent_import::{Export, ExportError, ImportError, IndexError, Observer, Options, Summary};
use meshagent_protocol::DocPath;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::progress::Progress;
use crate::failure::{self, Failure, INTERRUPTED, USAGE};
use crate::output::Output;
use crate::room::input;
use crate::room::session::RoomArgs;
use crate::settings;

/// Import the conversations of a Claude data export as threads
///
/// Each conversation becomes a document THREAD_DIR/UUID.thread and an entry of the list
/// THREAD_DIR/index.threadl. The export is read as a stream, so its size is not limited. To resume
/// an interrupted import, run the same command again: existing threads are skipped, and missing
/// entries are added to the list.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent room sync import --room my-room --file conversations.json
  unzip -p export.zip conversations.json | \\
      meshagent room sync import --room my-room --file -
  meshagent room sync import --room my-room --file conversations.json \\
      --thread-dir .threads/ada --user-name Ada

Exit codes:
  Those of `meshagent room sync --help`, and 130 after an interruption.
  Conversations that can't be imported are reported on stderr and counted;
  they do not change the exit code.")]
pub(super) struct ImportArgs {
    /// conversations.json of the export; `-` reads stdin
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,

    /// Folder for the threads
    #[arg(long, value_name = "DIR", default_value = ".threads/anthropic", value_parser = folder)]
    thread_dir: String,

    /// Replace existing threads
    #[arg(long)]
    overwrite: bool,

    /// Read only the first COUNT conversations of the export
    #[arg(long, value_name = "COUNT", value_parser = settings::from_one::<u64>)]
    limit: Option<u64>,

    /// Author of the user's messages
    #[arg(
        long,
        visible_alias = "human-name",
        value_name = "NAME",
        default_value = "human"
    )]
    user_name: String,

    /// Author of the assistant's messages
    #[arg(long, value_name = "NAME", default_value = "assistant")]
    assistant_name: String,

    /// Import messages without text and files, too
    #[arg(long)]
    include_empty_messages: bool,

    #[command(flatten)]
    room: RoomArgs,
}

pub(super) async fn run(args: &ImportArgs, output: &Output) -> anyhow::Result<()> {
    let mut options = Options::new(args.thread_dir.as_str());
    options.overwrite = args.overwrite;
    options.limit = args.limit;
    options.user_name.clone_from(&args.user_name);
    options.assistant_name.clone_from(&args.assistant_name);
    options.include_empty_messages = args.include_empty_messages;
    DocPath::parse(&options.index_path()).map_err(|error| {
        Failure::new(format!("invalid folder {:?}", args.thread_dir))
            .with_source(error)
            .with_hint("a folder in the room looks like .threads/ada")
            .with_exit_code(USAGE)
    })?;
    // The export is checked before the command joins the room.
    let (export, total) = open(args).map_err(|error| of_export(args, error))?;
    let room = args.room.connect().await?;
    let (mut first, mut again) = (interrupts()?, interrupts()?);
    let mut shown = Shown(Progress::new(total, output.is_quiet()));
    let stop = async {
        first.recv().await;
    };
    let twice = async {
        again.recv().await;
        again.recv().await;
    };
    let (summary, ended) = tokio::select! {
        imported = meshagent_import::import(&room, export, &options, &mut shown, stop) => imported,
        () = twice => return Err(interrupted()),
    };
    shown.0.clear();
    room.close().await;
    let Summary {
        imported,
        existing,
        invalid,
        messages,
        ..
    } = summary;
    let done = output.done(&format!(
        "Imported {imported} thread(s); skipped existing: {existing}; skipped invalid: {invalid}; \
         messages: {messages}."
    ));
    ended.map_err(|error| of_import(args, error)).and(done)
}

/// Opens the export, and returns it with its length if that is known.
fn open(args: &ImportArgs) -> Result<(Export, Option<u64>), ExportError> {
    if input::is_standard_stream(&args.file) {
        return Ok((Export::begin(io::stdin())?, None));
    }
    let file = File::open(&args.file)?;
    let metadata = file.metadata()?;
    let total = metadata.is_file().then_some(metadata.len());
    Ok((Export::begin(file)?, total))
}

struct Shown(Progress);

impl Observer for Shown {
    fn progress(&mut self, position: u64, imported: u64) {
        self.0.show(position, imported);
    }

    fn skipped(&mut self, index: u64, reason: &str) {
        self.0.message(&format!(
            "warning: skipped conversations[{index}]: {reason}"
        ));
    }

    fn stopping(&mut self) {
        self.0.message(
            "interrupted: completing started uploads; press Ctrl-C again to stop immediately",
        );
    }
}

fn folder(text: &str) -> Result<String, &'static str> {
    match text.trim().trim_end_matches('/') {
        "" => Err("expected a folder name that is not empty"),
        folder => Ok(folder.to_owned()),
    }
}

const RESUME_HINT: &str =
    "run the same command again to import the rest; existing threads are skipped";

fn interrupts() -> anyhow::Result<Signal> {
    signal(SignalKind::interrupt()).context("can't wait for Ctrl-C")
}

fn interrupted() -> anyhow::Error {
    Failure::new("interrupted")
        .with_hint(RESUME_HINT)
        .with_exit_code(INTERRUPTED)
        .into()
}

fn of_import(args: &ImportArgs, error: ImportError) -> anyhow::Error {
    match error {
        ImportError::Export(error) => of_export(args, error).into(),
        ImportError::Index(error) => of_index(args, error),
        ImportError::Upload(error) => failure::of_call(error.message, error.source).into(),
        ImportError::Interrupted => interrupted(),
        error => error.into(),
    }
}

fn of_export(args: &ImportArgs, error: ExportError) -> Failure {
    let message = format!("can't import {}", input::name(&args.file));
    let hint = match &error {
        ExportError::NoList => "pass the conversations.json of a Claude data export",
        ExportError::CutOff => {
            "the conversations before that are imported; download the export again for the rest"
        }
        ExportError::Rest => "the list itself is imported; pass each export in a file of its own",
        _ => "pass the conversations.json of a Claude data export, or - for stdin",
    };
    Failure::new(message)
        .with_exit_code(USAGE)
        .with_hint(hint)
        .with_source(error)
}

fn of_index(args: &ImportArgs, error: IndexError) -> anyhow::Error {
    let message = format!(
        "can't update the list {:?}",
        format!("{}/index.threadl", args.thread_dir)
    );
    match error {
        IndexError::Call(error) => failure::of_call(message, error).into(),
        error => Failure::new(message)
            .with_hint(RESUME_HINT)
            .with_source(error)
            .into(),
    }
}
