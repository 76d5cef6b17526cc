//! The values in the message of a failed `test`: as JSON, shortened around their first difference.

use std::fmt::{self, Write as _};

use serde_json::Value;

use super::{Node, Piece};
use crate::document::MeshDocument;
use crate::schema::ID_ATTRIBUTE;

/// The bytes of each value that are compared and may be shown.
const MAX_BYTES: usize = 4096;
/// The characters that a message shows of a value.
const MAX_SHOWN: usize = 80;
/// The characters before the difference that a message shows.
const CONTEXT: usize = 30;
/// Deeper values are shown as an ellipsis, because each level needs stack.
const MAX_DEPTH: usize = 64;

/// The value in a document and the expected one, which differ. Reads no more than is compared.
pub(in crate::document::patch) fn differing(
    document: &MeshDocument,
    found: &Node,
    expected: &Value,
) -> (String, String) {
    let (mut first, mut second) = (Preview::default(), Preview::default());
    // An error only means that the preview is full.
    let _ = first.node(document, found, 0);
    let _ = second.value(expected, 0);
    let characters = first.text.chars().zip(second.text.chars());
    let equal = characters.take_while(|(one, other)| one == other).count();
    if first.text == second.text {
        let later = |preview: &Preview| preview.shown(0) + " (the difference is further on)";
        return (later(&first), later(&second));
    }
    let start = if equal > 2 * CONTEXT {
        equal - CONTEXT
    } else {
        0
    };
    (first.shown(start), second.shown(start))
}

/// The beginning of a value as JSON, without `$id`s and with sorted names, as `test` compares.
#[derive(Default)]
struct Preview {
    text: String,
    is_cut: bool,
}

impl Preview {
    fn shown(&self, start: usize) -> String {
        let mut rest = self.text.chars().skip(start);
        let mut shown = String::new();
        if start > 0 {
            shown.push('…');
        }
        shown.extend(rest.by_ref().take(MAX_SHOWN));
        if self.is_cut || rest.next().is_some() {
            shown.push('…');
        }
        shown
    }

    fn node(&mut self, document: &MeshDocument, node: &Node, depth: usize) -> fmt::Result {
        match node {
            _ if depth > MAX_DEPTH => self.write_char('…'),
            Node::Value(value) => self.value(value, depth),
            Node::Object(object) => {
                let members = object
                    .members
                    .iter()
                    .map(|(name, member)| (&**name, member));
                self.members(members, |preview, member| {
                    preview.node(document, member, depth + 1)
                })
            }
            Node::List(list) => {
                self.write_char('[')?;
                let mut is_first = true;
                for piece in list.pieces.iter() {
                    match piece {
                        Piece::One(item) => {
                            self.separator(&mut is_first)?;
                            self.node(document, item, depth + 1)?;
                        }
                        Piece::Run(run) => {
                            for item in list.run(document, run) {
                                self.separator(&mut is_first)?;
                                self.node(document, &item, depth + 1)?;
                            }
                        }
                    }
                }
                self.write_char(']')
            }
            Node::Child(_) | Node::Children(_) | Node::Content(_) => match node.opened(document) {
                Some(opened) => self.node(document, &opened, depth),
                None => Ok(()),
            },
        }
    }

    fn value(&mut self, value: &Value, depth: usize) -> fmt::Result {
        match value {
            _ if depth > MAX_DEPTH => self.write_char('…'),
            Value::String(text) => self.string(text),
            Value::Array(items) => {
                self.write_char('[')?;
                let mut is_first = true;
                for item in items {
                    self.separator(&mut is_first)?;
                    self.value(item, depth + 1)?;
                }
                self.write_char(']')
            }
            Value::Object(members) => {
                let mut members: Vec<(&str, &Value)> = members
                    .iter()
                    .map(|(name, member)| (name.as_str(), member))
                    .collect();
                members.sort_unstable_by_key(|(name, _)| *name);
                self.members(members.into_iter(), |preview, member| {
                    preview.value(member, depth + 1)
                })
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => write!(self, "{value}"),
        }
    }

    fn members<'a, T>(
        &mut self,
        members: impl Iterator<Item = (&'a str, T)>,
        mut write: impl FnMut(&mut Self, T) -> fmt::Result,
    ) -> fmt::Result {
        self.write_char('{')?;
        let mut is_first = true;
        for (name, member) in members.filter(|(name, _)| *name != ID_ATTRIBUTE) {
            self.separator(&mut is_first)?;
            self.string(name)?;
            self.write_str(": ")?;
            write(self, member)?;
        }
        self.write_char('}')
    }

    fn separator(&mut self, is_first: &mut bool) -> fmt::Result {
        if std::mem::take(is_first) {
            return Ok(());
        }
        self.write_str(", ")
    }

    fn string(&mut self, text: &str) -> fmt::Result {
        self.write_char('"')?;
        for character in text.chars() {
            match character {
                '"' | '\\' => write!(self, "\\{character}")?,
                '\n' => self.write_str("\\n")?,
                '\t' => self.write_str("\\t")?,
                character if character.is_control() => {
                    write!(self, "\\u{:04x}", u32::from(character))?;
                }
                character => self.write_char(character)?,
            }
        }
        self.write_char('"')
    }
}

impl fmt::Write for Preview {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.text.len() + text.len() > MAX_BYTES {
            self.is_cut = true;
            return Err(fmt::Error);
        }
        self.text.push_str(text);
        Ok(())
    }
}
