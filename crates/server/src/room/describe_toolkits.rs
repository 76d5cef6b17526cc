//! The answer to `room.list_toolkits`: what this server offers, for programs that ask before they call.

use std::sync::LazyLock;

use meshagent_protocol::{Content, SharedMessage};
use serde_json::{Map, Value, json};

/// The answer, encoded once for all who ask.
pub(super) fn answer() -> SharedMessage {
    static ANSWER: LazyLock<SharedMessage> = LazyLock::new(|| {
        let head = SharedMessage::answer_head(&Content::Json(describe()));
        SharedMessage::answer(head.into())
    });
    ANSWER.clone()
}

/// `{"tools": {toolkit: {title, description, tools: {tool: …}}}}`, as the published SDKs read it.
fn describe() -> Value {
    json!({ "tools": {
        "sync": toolkit("Sync", "Live documents, checked by their schema", &[
            ("create", "Create a document from a schema and initial JSON", &["json"], false),
            ("describe", "Read a document as JSON", &["json"], false),
            ("patch", "Apply a JSON Patch to a document, all of it or nothing", &["json"], false),
            ("open", "Open a document and exchange updates while the call is open", &["binary"], true),
        ]),
        "messaging": toolkit("Messaging", "Messages between the participants of the room", &[
            ("enable", "Receive messages and be seen by others", &["json"], false),
            ("disable", "Receive no more messages", &["json"], false),
            ("send", "Send a message to one participant", &["json"], false),
            ("broadcast", "Send a message to all others", &["json"], false),
        ]),
        "storage": toolkit("Storage", "The room's files and documents by path", &[
            ("exists", "Whether there is something at a path", &["json"], false),
            ("stat", "What is at a path", &["json"], false),
            ("list", "What is in a folder", &["json"], false),
            ("upload", "Write a file", &["binary"], true),
            ("download", "Read a file", &["binary"], true),
            ("delete", "Delete a file, a document or a folder", &["json"], false),
            ("move", "Move a file, a document or a folder", &["json"], false),
            ("download_url", "A link to a file that needs no token", &["json"], false),
        ]),
    } })
}

fn toolkit(title: &str, description: &str, tools: &[(&str, &str, &[&str], bool)]) -> Value {
    let tools: Map<String, Value> = tools
        .iter()
        .map(|(name, description, types, stream)| {
            let tool = json!({
                "title": name,
                "description": description,
                "input_spec": { "types": types, "stream": stream },
            });
            ((*name).to_owned(), tool)
        })
        .collect();
    json!({ "title": title, "description": description, "tools": tools })
}
