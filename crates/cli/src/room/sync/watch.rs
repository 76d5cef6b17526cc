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

/// Print each change of a document as it happens
///
/// Goes on over lost connections, until it is interrupted or the document is gone (exit code 3). Elements are named by
/// `$id`; what is new is shown as it is when its line is printed.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent room sync watch --room my-room notes/plan
  meshagent room sync watch --room my-room notes/plan --json |
      jq -c 'select(.event == \"change\")'
  meshagent room sync ls --room my-room notes/ |
      meshagent room sync watch --room my-room -")]
pub(super) struct WatchArgs {
    /// The document; `-` reads paths from stdin, one a line, and each line that is printed says which one it is about
    path: String,

    /// Print JSON lines, those about the connection among them
    #[arg(long)]
    json: bool,

    /// Show the $id of each element in what was inserted
    #[arg(long)]
    include_ids: bool,

    /// End after so many changes
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
    for (index, path) in paths.into_iter().enumerate() {
        let document = live::open(&room, &path, &options).await?;
        events.insert(index, document.changes());
        let one = Watched {
            args,
            output,
            path,
            document,
            is_cut: false,
        };
        // Whoever waits for this line knows that every later change will be printed.
        one.say("connected", json!({}))?;
        watched.push(one);
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
                    one.tell_cut(&room)?;
                }
                continue;
            }
        };
        let one = &mut watched[index];
        match event {
            DocumentEvent::Changed(event) => {
                one.tell_of_cut()?;
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
                one.tell_of_cut()?;
                one.say("connected", json!({}))?;
            }
            DocumentEvent::Disconnected => {
                one.is_cut = true;
                one.tell_cut(&room)?;
            }
            DocumentEvent::Missed => one.say("missed", json!({}))?,
            DocumentEvent::Erased { operations } => {
                let reason = "the server has no content any more for what was sent from here";
                one.say(
                    "erased",
                    json!({ "operations": operations, "reason": reason }),
                )?;
            }
            DocumentEvent::Replaced(_) => {
                let reason = "the document was deleted, and there is another one in its place";
                one.say("replaced", json!({ "reason": reason }))?;
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

/// The documents to watch, each once, as the server calls them.
fn paths(args: &WatchArgs) -> Result<Vec<String>, Failure> {
    if args.path != STDIN {
        return Ok(vec![entries::document(&args.path)?]);
    }
    let text = String::from_utf8(input::read(Path::new(STDIN))?).map_err(|error| {
        Failure::new("reading stdin")
            .with_exit_code(USAGE)
            .with_hint("give the paths of documents as UTF-8, one a line")
            .with_source(error)
    })?;
    let lines = text.lines().filter(|line| !line.is_empty());
    let mut paths = lines
        .map(entries::document)
        .collect::<Result<Vec<_>, _>>()?;
    let mut seen = HashSet::new();
    paths.retain(|path| seen.insert(path.clone()));
    if paths.is_empty() {
        let failure = Failure::new("stdin has no paths").with_exit_code(USAGE);
        return Err(failure.with_hint("give the paths of documents, one a line"));
    }
    Ok(paths)
}

/// A document that is watched.
struct Watched<'a> {
    args: &'a WatchArgs,
    output: &'a Output,
    path: String,
    document: LiveDocument,
    // Its stream has ended, which nobody was told yet.
    is_cut: bool,
}

impl Watched<'_> {
    /// A line for each change.
    fn lines(&self, event: &Event) -> Vec<String> {
        self.document.read(|document| {
            let changes = event.changes.iter();
            // Scripts that read texts for people go by lines as well.
            let lines = changes.map(|change| {
                if self.args.json {
                    let mut line = changes::as_json(change, document, self.args.include_ids);
                    line["event"] = "change".into();
                    line["origin"] = changes::origin(event).into();
                    self.named(line).to_string()
                } else {
                    let line = changes::as_text(change, document);
                    terminal::one_line(&self.labelled(&line)).into_owned()
                }
            });
            lines.collect()
        })
    }

    /// Says that the stream has ended if that is for want of a connection. The stream of a document that is gone ends
    /// as well, but then its end is all there is to say.
    fn tell_cut(&mut self, room: &RoomClient) -> anyhow::Result<()> {
        if room.status() == RoomStatus::Reconnecting {
            self.tell_of_cut()?;
        }
        Ok(())
    }

    fn tell_of_cut(&mut self) -> anyhow::Result<()> {
        if std::mem::take(&mut self.is_cut) {
            self.say("disconnected", json!({}))?;
        }
        Ok(())
    }

    /// Says that there will be no more, and returns why.
    fn ended(&self, end: DocumentEnd) -> anyhow::Result<Failure> {
        let code = match &end {
            DocumentEnd::Refused(refusal) => refusal.code.and_then(ErrorCode::from_number),
            _ => None,
        };
        if code == Some(ErrorCode::NotFound) {
            let reason = "deleted or moved";
            self.say("ended", json!({ "reason": reason }))?;
            return Ok(Failure::new(format!("{:?} was {reason}", self.path))
                .with_exit_code(NOT_FOUND)
                .with_hint("`meshagent room sync ls` shows what is there"));
        }
        self.say("ended", json!({ "reason": end.to_string() }))?;
        Ok(live::failure(&self.path, "watch", end))
    }

    /// Something about the watching itself: beside the JSON lines, or for people on stderr.
    fn say(&self, event: &str, mut fields: Value) -> anyhow::Result<()> {
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
            terminal::say(&self.labelled(&text));
        }
        Ok(())
    }

    /// One of several says which it is.
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
