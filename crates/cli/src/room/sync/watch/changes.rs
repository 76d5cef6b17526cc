//! Changes of a document as lines, for programs and for people. What is new, and where, is read from the document as it
//! is by now; an element that is gone again has neither.

use meshagent_document::{Change, Element, Event, ID_ATTRIBUTE, MeshDocument, Origin, TextChange};
use serde_json::{Value, json};

/// How many characters of an element's content people are shown.
const SHOWN: usize = 60;

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
                "change": "inserted", "id": id.as_deref(), "tag": &**tag, "parent": parent.as_deref(),
                "index": element.map(|element| element.index_in_parent()),
                "element": element.map(|element| element.to_json(include_ids)),
            })
        }
        Change::Moved { id, tag, from, to } => {
            let element = find(document, id.as_deref());
            json!({
                "change": "moved", "id": id.as_deref(), "tag": &**tag, "from": from.as_deref(), "to": to.as_deref(),
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
        // Of a later version.
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
            // What changed in it on the way has no line of its own.
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

/// An element's attributes and text, cut to what fits on a line.
fn content(element: Element<'_>) -> String {
    let mut parts = Vec::new();
    if let Some(text) = element.text() {
        parts.push(format!("{:?}", cut(&text.to_plain())));
    }
    for (name, value) in element.attributes() {
        if name == ID_ATTRIBUTE {
            continue;
        }
        let value = match value {
            Value::String(text) => format!("{:?}", cut(&text)),
            value => value.to_string(),
        };
        parts.push(format!("{name}: {value}"));
    }
    if parts.is_empty() {
        return String::new();
    }
    format!(": {}", cut(&parts.join(", ")))
}

/// The text, or its beginning.
fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
