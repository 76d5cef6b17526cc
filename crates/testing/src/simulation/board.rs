//! The documents of a run: their schema, and random edits.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use meshagent_document::{
    ChildProperty, Edit, ElementType, Limits, MeshDocument, MeshSchema, Position, SimpleValue,
    Target, TextPosition, ValueProperty,
};
use serde_json::{Value, json};

use super::random::Random;

/// With more elements than this, an edit inserts none.
const CROWDED: usize = 40;

/// An upper bound on the clients of a run.
const MOST_CLIENTS: u64 = 16;

/// The schema of all documents.
static SCHEMA: LazyLock<MeshSchema> = LazyLock::new(|| build(false));
/// A schema with additions that the real schema forbids, as in a program that was written for
/// another version.
static LAX_SCHEMA: LazyLock<MeshSchema> = LazyLock::new(|| build(true));
static SCHEMA_JSON: LazyLock<Value> = LazyLock::new(|| SCHEMA.to_json());
static SCHEMA_TEXT: LazyLock<String> = LazyLock::new(|| SCHEMA_JSON.to_string());

/// The schema in its wire form.
pub(super) fn schema_json() -> Value {
    SCHEMA_JSON.clone()
}

/// Parses a stored schema.
pub(super) fn parse_schema(text: &str) -> Result<MeshSchema, String> {
    if text == *SCHEMA_TEXT {
        return Ok(SCHEMA.clone());
    }
    let json: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    MeshSchema::from_json(&json).map_err(|error| error.to_string())
}

fn build(lax: bool) -> MeshSchema {
    let mut tags = vec!["section", "note", "text"];
    let mut note = ElementType::new("note")
        .property(ValueProperty::new("title", SimpleValue::String))
        .property(ValueProperty::new("size", SimpleValue::Number))
        .property(ChildProperty::new("body", ["text"]));
    if lax {
        tags.push("scrap");
        note = note.property(ValueProperty::new("odd", SimpleValue::String));
    }
    let mut board = ElementType::new("board").property(ChildProperty::new("items", tags.clone()));
    board = board.property(ValueProperty::new(IDENTITY, SimpleValue::String));
    for client in 1..=MOST_CLIENTS {
        let seal = ValueProperty::new(seal_name(client), SimpleValue::Number);
        board = board.property(seal);
    }
    let mut elements = vec![
        board,
        ElementType::new("section")
            .property(ValueProperty::new("title", SimpleValue::String))
            .property(ChildProperty::new("items", tags)),
        note,
        ElementType::new("text"),
    ];
    if lax {
        elements.push(ElementType::new("scrap"));
    }
    MeshSchema::new("board", elements).expect("all tags above are defined")
}

/// The attribute of the root with the document's name, if its creator set one.
const IDENTITY: &str = "identity";

/// The initial content of a document whose name identifies it at every path.
pub(super) fn named(name: &str) -> Value {
    json!({"board": {IDENTITY: name, "items": []}})
}

/// The name with which a document was created.
pub(super) fn identity(document: &MeshDocument) -> Option<String> {
    let name = document.root().attribute(IDENTITY);
    name.and_then(|name| name.as_str().map(str::to_owned))
}

/// The name of the root attribute that only this client's patches set.
pub(super) fn seal_name(client: u64) -> String {
    format!("sealed{client}")
}

/// The value of that attribute, or 0 if no patch has set it.
pub(super) fn seal(document: &MeshDocument, client: u64) -> u64 {
    let seal = document.root().attribute(&seal_name(client));
    seal.and_then(|value| value.as_u64()).unwrap_or_default()
}

/// An empty replica that enforces the schema.
pub(super) fn strict(client_id: u64) -> MeshDocument {
    MeshDocument::with_limits(SCHEMA.clone(), client_id, Limits::NONE)
}

/// An empty replica that allows edits against the schema.
pub(super) fn lax(client_id: u64) -> MeshDocument {
    MeshDocument::with_limits(LAX_SCHEMA.clone(), client_id, Limits::NONE)
}

/// Makes a few small changes and returns an update for each. As in programs, an insertion is
/// followed by changes of the new element's attributes.
pub(super) fn edit(
    replica: &mut MeshDocument,
    random: &mut Random,
    next_id: &mut dyn FnMut() -> String,
) -> Vec<Vec<u8>> {
    let mut updates = Vec::new();
    let nodes = nodes(replica);
    let word = word(random);
    let crowded = nodes.len() > CROWDED;
    let (first, later) = match (random.below(20), pick(&nodes, random)) {
        (0..8, _) if !crowded => {
            let sections: Vec<&Node> = nodes.iter().filter(|node| node.tag == "section").collect();
            let parent = match random.pick(&sections) {
                Some(section) if random.one_in(2) => Target::Id(section.id.clone()),
                _ => Target::Root,
            };
            let position = match random.below(3) {
                0 => Position::First,
                _ => Position::Last,
            };
            let id = next_id();
            let (element, later) = element(&id, random);
            let insert = Edit::Insert {
                parent,
                position,
                element,
            };
            (insert, later)
        }
        (..12, Some(node)) if node.tag == "text" => {
            let edit = text_edit(replica, node, random, word);
            (edit, Vec::new())
        }
        (..15, Some(node)) if node.tag != "text" => {
            (set(&node.id, "title", word.into()), Vec::new())
        }
        (15, Some(node)) => {
            let edit = Edit::Move {
                id: node.id.clone(),
                parent: Target::Root,
                position: Position::First,
            };
            (edit, Vec::new())
        }
        (16..20, Some(node)) => {
            let delete = Edit::Delete {
                id: node.id.clone(),
            };
            (delete, Vec::new())
        }
        _ => return updates,
    };
    for edit in std::iter::once(first).chain(later) {
        // Edits that the document does not allow at the moment are skipped.
        if let Ok(Some(update)) = replica.edit(&[edit], next_id) {
            updates.push(update);
        }
    }
    updates
}

/// Makes a change that the real schema forbids. The replica has to be a lax one.
pub(super) fn break_schema(
    replica: &mut MeshDocument,
    random: &mut Random,
    next_id: &mut dyn FnMut() -> String,
) -> Vec<Vec<u8>> {
    let nodes = nodes(replica);
    let note = pick(&nodes, random).filter(|node| node.tag == "note");
    let edit = match note {
        Some(note) if random.one_in(2) => set(&note.id, "odd", "odd".into()),
        _ => Edit::Insert {
            parent: Target::Root,
            position: Position::Last,
            element: json!({"scrap": {"$id": next_id()}}),
        },
    };
    let update = replica.edit(&[edit], next_id).ok().flatten();
    update.into_iter().collect()
}

/// An update with an XML hook, a kind of content that Yjs knows but not every reader supports. The
/// server treats the hook as deleted.
pub(super) fn hook(client: u64) -> Vec<u8> {
    let mut update = vec![1, 1];
    let mut rest = client;
    while rest >= 0x80 {
        update.push(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    update.push(rest.to_le_bytes()[0]);
    // From clock 0: a type of kind 5 in the root of the document. Nothing is deleted.
    update.extend(b"\x00\x07\x01\x03xml\x05\x04hook\x00");
    update
}

/// Sets a title that is larger than all other edits together.
pub(super) fn enlarge(
    replica: &mut MeshDocument,
    random: &mut Random,
    next_id: &mut dyn FnMut() -> String,
) -> Vec<Vec<u8>> {
    let nodes = nodes(replica);
    let with_title: Vec<&Node> = nodes.iter().filter(|node| node.tag != "text").collect();
    let Some(node) = random.pick(&with_title) else {
        return edit(replica, random, next_id);
    };
    // The title replaces the previous one, so the document stays small.
    let most = if random.one_in(3) { 150_000 } else { 20_000 };
    let title = word(random).repeat(random.index(most));
    let update = replica.edit(&[set(&node.id, "title", title.into())], next_id);
    update.ok().flatten().into_iter().collect()
}

/// The `$id`s of all elements.
pub(super) fn ids(replica: &MeshDocument) -> BTreeSet<String> {
    nodes(replica).into_iter().map(|node| node.id).collect()
}

struct Node {
    id: String,
    tag: String,
}

fn nodes(replica: &MeshDocument) -> Vec<Node> {
    let mut nodes = Vec::new();
    let mut left = vec![replica.root()];
    while let Some(element) = left.pop() {
        left.extend(element.children());
        if let Some(id) = element.id() {
            nodes.push(Node {
                id: id.to_owned(),
                tag: element.tag().to_owned(),
            });
        }
    }
    nodes
}

fn pick<'a>(nodes: &'a [Node], random: &mut Random) -> Option<&'a Node> {
    random.pick(nodes)
}

fn element(id: &str, random: &mut Random) -> (Value, Vec<Edit>) {
    match random.below(4) {
        0 => {
            let later = vec![set(id, "title", word(random).into())];
            (json!({"section": {"$id": id}}), later)
        }
        1 => (json!({"text": {"$id": id}}), Vec::new()),
        _ => {
            let later = vec![
                set(id, "title", word(random).into()),
                set(id, "size", random.below(100).into()),
            ];
            (json!({"note": {"$id": id}}), later)
        }
    }
}

fn set(id: &str, name: &str, value: Value) -> Edit {
    Edit::SetAttribute {
        target: Target::Id(id.to_owned()),
        name: name.to_owned(),
        value,
    }
}

fn text_edit(replica: &MeshDocument, node: &Node, random: &mut Random, word: String) -> Edit {
    let length = replica
        .node(&node.id)
        .and_then(|element| element.text())
        .map_or(0, |text| text.utf16_length());
    let from = random.index(length + 1);
    let to = from + random.index(length - from + 1);
    let id = node.id.clone();
    let (start, end) = (TextPosition::Utf16(from), TextPosition::Utf16(to));
    match random.below(4) {
        0 if to > from => Edit::DeleteText {
            id,
            from: start,
            to: end,
        },
        1 if to > from => Edit::FormatText {
            id,
            from: start,
            to: end,
            attributes: json!({"bold": true})
                .as_object()
                .cloned()
                .unwrap_or_default(),
        },
        _ => Edit::InsertText {
            id,
            at: start,
            text: word,
            attributes: None,
        },
    }
}

fn word(random: &mut Random) -> String {
    let length = random.between(1, 12);
    (0..length)
        .map(|_| char::from(b'a' + random.next().to_le_bytes()[0] % 26))
        .collect()
}
