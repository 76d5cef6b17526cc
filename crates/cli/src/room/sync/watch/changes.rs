//! Formats changes of a document as JSON or text. The content and position of an element are read
//! from the current document; an element that was deleted meanwhile has neither.

use meshagent_document::{Change, Element, Event, ID_ATTRIBUTE, MeshDocument, Origin, TextChange};
use serde_json::{Value, json};

/// Maximum number of characters of an element's content in a text line.
const MAX_CONTENT: usize = 60;

pub(super) fn origin(event: &Event) -> &'static str {
    match event.origin {
        Origin::Local => "local",
        Origin::Remote | Origin::Undo => "remote",
    }
}

pub(super) fn as_json(change: &Change, document: &MeshDocument, include_ids: bool) -> Value {
    match change {
        Change::Attribute { id, name, old, new } => json!({
            "change": "attribute", "id": id.as_deref(), "name": &**name, "old": old, "new": new,
        }),
        Change::Deleted { id, tag, parent } => json!({
            "change": "deleted", "id": id.as_deref(), "tag": &**tag, "parent": parent.as_deref(),
        }),
        Change::Inserted { id, tag, parent } => {
            let element = find(document, id.as_deref());
            json!({
                "change": "inserted",
                "id": id.as_deref(), "tag": &**tag, "parent": parent.as_deref(),
                "index": element.map(|element| element.index_in_parent()),
                "element": element.map(|element| element.to_json(include_ids)),
            })
        }
        Change::Moved { id, tag, from, to } => {
            let element = find(document, id.as_deref());
            json!({
                "change": "moved",
                "id": id.as_deref(), "tag": &**tag, "from": from.as_deref(), "to": to.as_deref(),
                "index": element.map(|element| element.index_in_parent()),
                "element": element.map(|element| element.to_json(include_ids)),
            })
        }
        Change::Text { id, changes } => {
            let changes = changes.iter().map(|change| match change {
                TextChange::Inserted { text, .. } => json!({ "insert": text }),
                TextChange::Deleted { text, .. } => json!({ "delete": text }),
                _ => json!({ "format": true }),
            });
            json!({ "change": "text", "id": id.as_deref(), "changes": changes.collect::<Vec<_>>() })
        }
        // A kind from a later version of the library.
        _ => json!({ "change": "other" }),
    }
}

pub(super) fn as_text(change: &Change, document: &MeshDocument) -> String {
    let name = |id: &Option<std::sync::Arc<str>>| id.as_deref().unwrap_or("(root)").to_owned();
    let value = |value: &Option<Value>| {
        value
            .as_ref()
            .map_or_else(|| "nothing".to_owned(), Value::to_string)
    };
    let place = |element: Option<Element<'_>>| {
        element.map_or_else(String::new, |element| {
            format!(" at {}", element.index_in_parent())
        })
    };
    match change {
        Change::Attribute {
            id,
            name: key,
            old,
            new,
        } => format!("~ {} {key}: {} -> {}", name(id), value(old), value(new)),
        Change::Deleted { id, tag, .. } => format!("- {tag} {}", name(id)),
        Change::Inserted { id, tag, parent } => {
            let element = find(document, id.as_deref());
            let (id, parent, place) = (name(id), name(parent), place(element));
            let content = element.map_or_else(String::new, content);
            format!("+ {tag} {id} in {parent}{place}{content}")
        }
        Change::Moved { id, tag, from, to } => {
            // Changes inside the element by the same edit have no line of their own.
            let element = find(document, id.as_deref());
            let (id, from, to, place) = (name(id), name(from), name(to), place(element));
            let content = element.map_or_else(String::new, content);
            format!("> {tag} {id} from {from} to {to}{place}{content}")
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

fn find<'a>(document: &'a MeshDocument, id: Option<&str>) -> Option<Element<'a>> {
    document.node(id?)
}

/// An element's text and attributes, truncated for one line.
fn content(element: Element<'_>) -> String {
    let mut parts = Vec::new();
    if let Some(text) = element.text() {
        parts.push(format!("{:?}", truncated(&text.to_plain())));
    }
    for (name, value) in element.attributes() {
        if name == ID_ATTRIBUTE {
            continue;
        }
        let value = match value {
            Value::String(text) => format!("{:?}", truncated(&text)),
            value => value.to_string(),
        };
        parts.push(format!("{name}: {value}"));
    }
    if parts.is_empty() {
        return String::new();
    }
    format!(": {}", truncated(&parts.join(", ")))
}

/// Truncates a text to [`MAX_CONTENT`] characters.
fn truncated(text: &str) -> String {
    match text.char_indices().nth(MAX_CONTENT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
