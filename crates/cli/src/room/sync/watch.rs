//! `meshagent room sync watch`.

mod changes;

use std::collections::HashSet;
use std::path::Path;

use clap::Args;
use meshagent_client::{
    DocumentEnd, DocumentEvent, LiveDocument, OpenOptions, RoomClient, RoomStatus,
};
use meshagent_document::Event;
use meshagent_protocol::ErrorCode;
use serde_json::{Value, json};
use tokio_stream::{StreamExt as _, StreamMap};

use super::live;
use super::open::STDIN;
use crate::failure::{Failure, NOT_FOUND, USAGE};
use crate::output::{Output, terminal};
use crate::room::session::RoomArgs;
use crate::room::{entries, input};
use crate::settings;

/// Print changes of a document as they happen
///
/// Reconnects after a lost connection. Ends when interrupted, or with exit code 3 when the document
/// is deleted or moved. Elements are identified by $id; a line shows the current content of an
/// inserted element.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent room sync watch --room my-room notes/plan
  meshagent room sync watch --room my-room notes/plan --json |
      jq -c 'select(.event == \"change\")'
  meshagent room sync ls --room my-room notes/ |
      meshagent room sync watch --room my-room -")]
pub(super) struct WatchArgs {
    /// Path of the document; `-` reads paths from stdin, one per line, and then each printed line
    /// names its document
    path: String,

    /// Print one line of JSON per event, including events of the connection
    #[arg(long)]
    json: bool,

    /// Show the $id of each element in inserted content
    #[arg(long)]
    include_ids: bool,

    /// End after this many changes
    #[arg(long, value_name = "N", value_parser = settings::from_one::<u64>)]
    count: Option<u64>,

    #[command(flatten)]
    room: RoomArgs,
}

pub(super) async fn run(args: &WatchArgs, output: &Output) -> anyhow::Result<()> {
    let paths = paths(args)?;
    let room = args.room.enter().await?;
    let options = OpenOptions {
        create: false,
        ..OpenOptions::default()
    };
    let mut events = StreamMap::with_capacity(paths.len());
    let mut watched = Vec::with_capacity(paths.len());
    let mut first_failure = None;
    for path in paths {
        let reporter = Reporter { args, output, path };
        let document = match live::open(&room, &reporter.path, &options).await {
            Ok(document) => document,
            // The other documents of the list are watched anyway.
            Err(error) => {
                reporter.cannot_open(&error)?;
                first_failure.get_or_insert(error);
                continue;
            }
        };
        events.insert(watched.len(), document.changes());
        let one = Watched {
            reporter,
            document,
            has_unreported_loss: false,
        };
        // Every change after this line is printed.
        one.reporter.report("connected", json!({}))?;
        watched.push(one);
    }
    if let Some(error) = first_failure.filter(|_| watched.is_empty()) {
        return Err(error);
    }
    let mut open = watched.len();
    let mut left = args.count;
    let mut statuses = room.status_changes();
    loop {
        let (index, event) = tokio::select! {
            event = events.next() => match event {
                Some(event) => event,
                None => return Ok(()),
            },
            Some(_) = statuses.changed() => {
                for one in &mut watched {
                    one.report_lost_connection(&room)?;
                }
                continue;
            }
        };
        let one = &mut watched[index];
        match event {
            DocumentEvent::Changed(event) => {
                one.report_loss()?;
                for line in one.lines(&event) {
                    if args.json {
                        output.json_text(&line)?;
                    } else {
                        output.line(&line)?;
                    }
                    if let Some(left) = &mut left {
                        *left -= 1;
                        if *left == 0 {
                            room.close().await;
                            return Ok(());
                        }
                    }
                }
            }
            DocumentEvent::Synchronized => {
                one.report_loss()?;
                one.reporter.report("connected", json!({}))?;
            }
            DocumentEvent::Disconnected => {
                one.has_unreported_loss = true;
                one.report_lost_connection(&room)?;
            }
            DocumentEvent::Missed => one.reporter.report("missed", json!({}))?,
            DocumentEvent::Erased { operations, .. } => {
                let reason = "the server no longer has the content of operations from this client";
                let fields = json!({ "operations": operations, "reason": reason });
                one.reporter.report("erased", fields)?;
            }
            DocumentEvent::Replaced(_) => {
                let reason = "the document was deleted and created again";
                one.reporter
                    .report("replaced", json!({ "reason": reason }))?;
            }
            DocumentEvent::Ended(DocumentEnd::Closed) => return Ok(()),
            DocumentEvent::Ended(end) => {
                let failure = one.ended(end)?;
                open -= 1;
                if open == 0 {
                    return Err(failure.into());
                }
            }
            _ => {}
        }
    }
}

/// The normalized paths of the documents to watch, without duplicates.
fn paths(args: &WatchArgs) -> Result<Vec<String>, Failure> {
    if args.path != STDIN {
        return Ok(vec![entries::document(&args.path)?]);
    }
    let text = String::from_utf8(input::read(Path::new(STDIN))?).map_err(|error| {
        Failure::new("stdin is not valid UTF-8")
            .with_exit_code(USAGE)
            .with_hint("pass paths of documents, one per line")
            .with_source(error)
    })?;
    let lines = text.lines().filter(|line| !line.is_empty());
    let mut paths = lines
        .map(entries::document)
        .collect::<Result<Vec<_>, _>>()?;
    let mut seen = HashSet::new();
    paths.retain(|path| seen.insert(path.clone()));
    if paths.is_empty() {
        let failure = Failure::new("stdin contains no paths").with_exit_code(USAGE);
        return Err(failure.with_hint("pass paths of documents, one per line"));
    }
    Ok(paths)
}

/// A watched document.
struct Watched<'a> {
    reporter: Reporter<'a>,
    document: LiveDocument,
    // Whether the stream has ended, and this was not reported yet.
    has_unreported_loss: bool,
}

impl Watched<'_> {
    /// One line per change.
    fn lines(&self, event: &Event) -> Vec<String> {
        self.document.read(|document| {
            let changes = event.changes.iter();
            // Also escaped in a pipe: scripts read line by line.
            let lines = changes.map(|change| {
                let reporter = &self.reporter;
                if reporter.args.json {
                    let mut line = changes::as_json(change, document, reporter.args.include_ids);
                    line["event"] = "change".into();
                    line["origin"] = changes::origin(event).into();
                    reporter.named(line).to_string()
                } else {
                    let line = changes::as_text(change, document);
                    terminal::one_line(&reporter.labelled(&line)).into_owned()
                }
            });
            lines.collect()
        })
    }

    /// Reports that the stream has ended, if the connection is lost. The stream of a deleted
    /// document ends as well, and is reported as `ended` only.
    fn report_lost_connection(&mut self, room: &RoomClient) -> anyhow::Result<()> {
        if room.status() == RoomStatus::Reconnecting {
            self.report_loss()?;
        }
        Ok(())
    }

    fn report_loss(&mut self) -> anyhow::Result<()> {
        if std::mem::take(&mut self.has_unreported_loss) {
            self.reporter.report("disconnected", json!({}))?;
        }
        Ok(())
    }

    /// Reports the end of the document, and returns it as an error.
    fn ended(&self, end: DocumentEnd) -> anyhow::Result<Failure> {
        let code = match &end {
            DocumentEnd::Refused(refusal) => refusal.code.and_then(ErrorCode::from_number),
            _ => None,
        };
        if code == Some(ErrorCode::NotFound) {
            let reason = "deleted or moved";
            self.reporter.report("ended", json!({ "reason": reason }))?;
            return Ok(
                Failure::new(format!("{:?} was {reason}", self.reporter.path))
                    .with_exit_code(NOT_FOUND)
                    .with_hint("`meshagent room sync ls` lists all documents"),
            );
        }
        self.reporter
            .report("ended", json!({ "reason": end.to_string() }))?;
        Ok(live::failure(&self.reporter.path, "watch", end))
    }
}

/// Reports the events of one document.
struct Reporter<'a> {
    args: &'a WatchArgs,
    output: &'a Output,
    path: String,
}

impl Reporter<'_> {
    /// Reports that a document of a list can't be watched, also with `--quiet`. The error for a
    /// single document is the command's.
    fn cannot_open(&self, error: &anyhow::Error) -> anyhow::Result<()> {
        if self.args.path != STDIN {
            return Ok(());
        }
        let failure = error.downcast_ref::<Failure>();
        let reason = match failure.and_then(Failure::exit_code) {
            Some(NOT_FOUND) => "the document does not exist".to_owned(),
            _ => format!("{error:#}"),
        };
        if self.args.json {
            return self.report("ended", json!({ "reason": reason }));
        }
        terminal::print_stderr(&self.labelled(&format!("ended: {reason}")));
        Ok(())
    }

    /// Reports an event other than a change: as a line of JSON, or on stderr.
    fn report(&self, event: &str, mut fields: Value) -> anyhow::Result<()> {
        if self.args.json {
            fields["event"] = event.into();
            return self.output.json_text(&self.named(fields).to_string());
        }
        if !self.output.is_quiet() {
            let text = match fields["reason"].as_str() {
                Some(reason) => format!("{event}: {reason}"),
                None if event == "disconnected" => format!("{event}; waiting for the server"),
                None => event.to_owned(),
            };
            terminal::print_stderr(&self.labelled(&text));
        }
        Ok(())
    }

    /// Adds the path, if several documents are watched.
    fn named(&self, mut line: Value) -> Value {
        if self.args.path == STDIN {
            line["path"] = self.path.as_str().into();
        }
        line
    }

    fn labelled(&self, line: &str) -> String {
        if self.args.path == STDIN {
            format!("{}: {line}", self.path)
        } else {
            line.to_owned()
        }
    }
}
