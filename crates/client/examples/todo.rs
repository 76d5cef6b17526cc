//! A to-do list that several people edit together, each in a terminal.
//!
//! ```console
//! $ meshagent room connect --room my-room --identity ann -- \
//!     cargo run -p meshagent-client --example todo
//! $ meshagent room connect --room my-room --identity bob -- \
//!     cargo run -p meshagent-client --example todo
//! ```
//!
//! A line adds an entry. `x 2` marks the second entry as done or not done, `d 2` deletes it, and an
//! empty line changes nothing. The program also works without a connection: unsent edits are sent
//! after a reconnect.

#![allow(clippy::print_stdout, reason = "it talks to people")]

use std::error::Error;
use std::io::Write as _;

use meshagent_client::{DocumentEvent, LiveDocument, OpenOptions, RoomClient};
use meshagent_document::{
    ChildProperty, EditError, ElementType, MeshDocument, MeshSchema, SchemaError, SimpleValue,
    Target, ValueProperty,
};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let room = RoomClient::from_env().await?;
    let list = open(&room).await?;
    let mut changes = list.changes();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    show(&list)?;
    loop {
        tokio::select! {
            line = lines.next_line() => match line? {
                Some(line) => {
                    if let Err(error) = list.edit(|d| obey(d, line.trim()))? {
                        println!("{error}");
                    }
                }
                None => break,
            },
            event = changes.recv() => match event {
                Some(DocumentEvent::Changed(_) | DocumentEvent::Missed) => show(&list)?,
                Some(DocumentEvent::Disconnected) => println!("(not connected)"),
                Some(DocumentEvent::Refused { refusal, .. }) => println!("{refusal}"),
                Some(_) => {}
                None => break,
            },
        }
    }
    list.close().await?;
    room.close().await;
    Ok(())
}

/// Opens the list, and creates it with its schema if it does not exist.
pub(crate) async fn open(room: &RoomClient) -> Result<LiveDocument, Box<dyn Error>> {
    let options = OpenOptions {
        schema: Some(schema()?),
        ..OpenOptions::default()
    };
    Ok(room.sync().open_with("list.todo", &options).await?)
}

fn schema() -> Result<MeshSchema, SchemaError> {
    let entry = ElementType::new("entry")
        .property(ValueProperty::new("text", SimpleValue::String))
        .property(ValueProperty::new("done", SimpleValue::Boolean));
    let list = ElementType::new("list").property(ChildProperty::new("entries", ["entry"]));
    MeshSchema::new("list", vec![list, entry])
}

/// Executes one line of input.
pub(crate) fn obey(list: &mut meshagent_client::Editor<'_>, line: &str) -> Result<(), EditError> {
    let chosen = |rest: &str| {
        let number: usize = rest.trim().parse().ok()?;
        let entry = list.root().child(number.checked_sub(1)?)?;
        let is_done = entry.attribute("done") == Some(true.into());
        Some((entry.id()?.to_owned(), is_done))
    };
    match line.split_once(' ') {
        Some(("x", rest)) => {
            if let Some((id, is_done)) = chosen(rest) {
                list.set_attribute(Target::Id(id), "done", !is_done)?;
            }
        }
        Some(("d", rest)) => {
            if let Some((id, _)) = chosen(rest) {
                list.delete(&id)?;
            }
        }
        _ if line.is_empty() => {}
        _ => {
            let entry = json!({ "entry": { "text": line, "done": false } });
            list.append_child(Target::Root, entry)?;
        }
    }
    Ok(())
}

fn show(list: &LiveDocument) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    write!(out, "\n{}", list.read(to_text))?;
    out.flush()
}

/// The list as text for people.
pub(crate) fn to_text(list: &MeshDocument) -> String {
    let entries = list.root().children().enumerate().map(|(index, entry)| {
        let is_done = entry.attribute("done") == Some(true.into());
        let text = entry.attribute("text").unwrap_or_default();
        let mark = if is_done { 'x' } else { ' ' };
        format!(
            "{:2}. [{mark}] {}\n",
            index + 1,
            text.as_str().unwrap_or_default()
        )
    });
    entries.collect()
}
