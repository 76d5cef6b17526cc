//! The document as JSON, in the form that the SDKs print.

use serde_json::{Map, Value, json};

use super::MeshDocument;
use super::read::{Element, Text};
use crate::engine::{NodeIndex, NodeKind, ROOT_NODE};
use crate::schema::{ChildProperty, ID_ATTRIBUTE, TEXT_TAG};

/// The name of the child list if the schema has none.
pub(super) const CHILDREN: &str = "children";

/// The maximal depth of elements in JSON. JSON readers, and even the drop of a JSON value, recurse,
/// so deeper values could overflow the stack of a process that holds them.
pub(super) const MAX_DEPTH: usize = 256;

impl MeshDocument {
    /// Returns the document as JSON, `{root tag: {attributes…, child property: […]}}`, with or
    /// without `$id`s.
    ///
    /// Elements more than 256 levels deep are left out; [`Self::root`] gives access to them.
    pub fn to_json(&self, include_ids: bool) -> Value {
        self.root().to_json(include_ids)
    }
}

impl Element<'_> {
    /// Returns the element and its descendants as JSON, in the form of [`MeshDocument::to_json`].
    pub fn to_json(&self, include_ids: bool) -> Value {
        self.document.print(self.index, include_ids)
    }
}

/// An element under construction.
struct Open {
    tag: String,
    printed: Map<String, Value>,
    property: Option<String>,
    left: std::vec::IntoIter<NodeIndex>,
    children: Vec<Value>,
}

impl MeshDocument {
    fn print(&self, top: NodeIndex, include_ids: bool) -> Value {
        let mut stack = vec![self.open(top, include_ids)];
        loop {
            let depth = stack.len();
            let Some(innermost) = stack.last_mut() else {
                return Value::Null;
            };
            if let Some(child) = innermost.left.next() {
                match self.engine.node(child).kind {
                    NodeKind::Element(_) if depth < MAX_DEPTH => {
                        stack.push(self.open(child, include_ids));
                    }
                    NodeKind::Text => {
                        let text = Text::new(self, child);
                        let delta = json!({ TEXT_TAG: { "delta": text.to_delta() } });
                        innermost.children.push(delta);
                    }
                    NodeKind::Element(_) | NodeKind::Foreign(_) | NodeKind::Root(_) => {}
                }
                continue;
            }
            let Some(Open {
                tag,
                mut printed,
                property,
                children,
                ..
            }) = stack.pop()
            else {
                return Value::Null;
            };
            if let Some(property) = property {
                printed.insert(property, Value::Array(children));
            }
            let whole = Value::Object(Map::from_iter([(tag, Value::Object(printed))]));
            match stack.last_mut() {
                Some(around) => around.children.push(whole),
                None => return whole,
            }
        }
    }

    fn open(&self, index: NodeIndex, include_ids: bool) -> Open {
        let tag = self.tag(index);
        let mut printed = self.attributes(index);
        if !include_ids || index == ROOT_NODE {
            printed.shift_remove(ID_ATTRIBUTE);
        }
        let mut left: Vec<NodeIndex> = self.engine.children(index).collect();
        let property = match self.schema.element(tag) {
            Some(element) => element.child_property().map(ChildProperty::name),
            None if left.is_empty() => None,
            None => Some(CHILDREN),
        };
        if property.is_none() {
            left.clear();
        }
        Open {
            tag: tag.to_owned(),
            printed,
            property: property.map(str::to_owned),
            left: left.into_iter(),
            children: Vec::new(),
        }
    }
}
