//! `meshagent room sync watch`.

use std::io::Write as _;

use clap::Args;
use meshagent_client::{DocumentEnd, DocumentEvent, OpenOptions};
use meshagent_document::{Change, Event, Origin, TextChange};
use serde_json::{Value, json};

use super::live;
use crate::output::Output;
use crate::room::session::RoomArgs;

/// Print each change of a document as it happens
///
/// Goes on over lost connections, until it is interrupted or the document is gone. Elements are named by `$id`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent room sync watch --room my-room notes/plan
  meshagent room sync watch --room my-room notes/plan --json | jq -c 'select(.event == \"change\")'")]
pub(super) struct WatchArgs {
    /// The document
    path: String,

    /// Print JSON lines, those about the connection among them
    #[arg(long)]
    json: bool,

    /// End after so many changes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    #[command(flatten)]
    room: RoomArgs,
}

pub(super) async fn run(args: &WatchArgs, output: &Output) -> anyhow::Result<()> {
    let room = args.room.enter().await?;
    let options = OpenOptions {
        create: false,
        ..OpenOptions::default()
    };
    let document = live::open(&room, &args.path, &options).await?;
    let mut changes = document.changes();
    // Whoever waits for this line knows that every later change will be printed.
    say(args, output, "connected", json!({}))?;
    let mut left = args.count;
    while let Some(event) = changes.recv().await {
        match event {
            DocumentEvent::Changed(event) => {
                for line in lines(args, &event) {
                    output.line(&line)?;
                    if let Some(left) = &mut left {
                        *left -= 1;
                        if *left == 0 {
                            room.close().await;
                            return Ok(());
                        }
                    }
                }
            }
            DocumentEvent::Synchronized => say(args, output, "connected", json!({}))?,
            DocumentEvent::Disconnected => say(args, output, "disconnected", json!({}))?,
            DocumentEvent::Missed => say(args, output, "missed", json!({}))?,
            DocumentEvent::Ended(DocumentEnd::Closed) => break,
            DocumentEvent::Ended(end) => return Err(live::failure(&args.path, "watch", end).into()),
            _ => {}
        }
    }
    Ok(())
}

/// Something about the watching itself: beside the JSON lines, or for people on stderr.
fn say(args: &WatchArgs, output: &Output, event: &str, mut fields: Value) -> anyhow::Result<()> {
    if args.json {
        fields["event"] = event.into();
        return output.line(&fields.to_string());
    }
    if !output.is_quiet() {
        // With stderr closed there is nobody to tell.
        let _told = writeln!(std::io::stderr(), "{event}");
    }
    Ok(())
}

/// A line for each change.
fn lines(args: &WatchArgs, event: &Event) -> Vec<String> {
    let origin = match event.origin {
        Origin::Local => "local",
        Origin::Remote | Origin::Undo => "remote",
    };
    let changes = event.changes.iter();
    let lines = changes.map(|change| {
        if args.json {
            let mut line = as_json(change);
            line["event"] = "change".into();
            line["origin"] = origin.into();
            line.to_string()
        } else {
            as_text(change)
        }
    });
    lines.collect()
}

fn as_json(change: &Change) -> Value {
    match change {
        Change::Attribute { id, name, old, new } => json!({
            "change": "attribute", "id": id.as_deref(), "name": &**name, "old": old, "new": new,
        }),
        Change::Deleted { id, tag, parent } => json!({
            "change": "deleted", "id": id.as_deref(), "tag": &**tag, "parent": parent.as_deref(),
        }),
        Change::Inserted { id, tag, parent } => json!({
            "change": "inserted", "id": id.as_deref(), "tag": &**tag, "parent": parent.as_deref(),
        }),
        Change::Moved { id, tag, from, to } => json!({
            "change": "moved", "id": id.as_deref(), "tag": &**tag, "from": from.as_deref(), "to": to.as_deref(),
        }),
        Change::Text { id, changes } => {
            let changes = changes.iter().map(|change| match change {
                TextChange::Inserted { text, .. } => json!({ "insert": text }),
                TextChange::Deleted { text, .. } => json!({ "delete": text }),
                _ => json!({ "format": true }),
            });
            json!({ "change": "text", "id": id.as_deref(), "changes": changes.collect::<Vec<_>>() })
        }
        // Of a later version.
        _ => json!({ "change": "other" }),
    }
}

fn as_text(change: &Change) -> String {
    let name = |id: &Option<std::sync::Arc<str>>| id.as_deref().unwrap_or("(root)").to_owned();
    let value = |value: &Option<Value>| {
        value
            .as_ref()
            .map_or_else(|| "nothing".to_owned(), Value::to_string)
    };
    match change {
        Change::Attribute {
            id,
            name: key,
            old,
            new,
        } => format!("~ {} {key}: {} -> {}", name(id), value(old), value(new)),
        Change::Deleted { id, tag, .. } => format!("- {tag} {}", name(id)),
        Change::Inserted { id, tag, parent } => format!("+ {tag} {} in {}", name(id), name(parent)),
        Change::Moved { id, tag, from, to } => {
            format!("> {tag} {} from {} to {}", name(id), name(from), name(to))
        }
        Change::Text { id, changes } => {
            let changes = changes.iter().map(|change| match change {
                TextChange::Inserted { text, .. } => format!(" +{text:?}"),
                TextChange::Deleted { text, .. } => format!(" -{text:?}"),
                _ => " (format)".to_owned(),
            });
            format!("~ {} text:{}", name(id), changes.collect::<String>())
        }
        _ => "~".to_owned(),
    }
}
