//! Reading: handles of elements and texts, and walks over the tree without recursion.

use serde_json::{Map, Value};

use super::MeshDocument;
use super::ids::id_of;
use crate::engine::{Content, NodeIndex, NodeKind, ROOT_ATTRIBUTES_NODE, ROOT_NODE};
use crate::schema::{ElementType, ID_ATTRIBUTE};

/// A read-only handle of one element, possibly the root.
#[derive(Clone, Copy, Debug)]
pub struct Element<'a> {
    pub(super) document: &'a MeshDocument,
    pub(super) index: NodeIndex,
}

/// A read-only handle of the rich text in a `text` element.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    document: &'a MeshDocument,
    index: NodeIndex,
}

impl MeshDocument {
    /// The root element.
    pub fn root(&self) -> Element<'_> {
        Element {
            document: self,
            index: ROOT_NODE,
        }
    }

    /// The element with this `$id`; of several, the first in document order.
    pub fn node(&self, id: &str) -> Option<Element<'_>> {
        let index = match self.ids.only(&self.engine, id) {
            Ok(only) => only,
            Err(0) => return None,
            Err(_) => self.first_in_document(self.ids.get(&self.engine, id).into_iter())?,
        };
        Some(Element {
            document: self,
            index,
        })
    }

    pub(super) fn first_in_document(
        &self,
        nodes: impl Iterator<Item = NodeIndex>,
    ) -> Option<NodeIndex> {
        let first = |one, other| {
            if self.comes_first(one, other) {
                one
            } else {
                other
            }
        };
        nodes.reduce(first)
    }

    pub(super) fn tag(&self, index: NodeIndex) -> &str {
        match self.engine.node(index).kind {
            NodeKind::Element(tag) => self.engine.name(tag),
            NodeKind::Root(_) => self.schema.root().tag(),
            NodeKind::Foreign(_) | NodeKind::Text => "",
        }
    }

    /// The attributes of a node: first `$id`, then in schema order, then others by name.
    pub(super) fn attributes(&self, index: NodeIndex) -> Map<String, Value> {
        let mut found: Vec<(&str, Value)> = Vec::new();
        for (key, content) in self.engine.values(index) {
            let name = self.engine.name(key);
            found.extend(content.value().map(|value| (&**name, value)));
        }
        // Values on the tree's own root take precedence.
        if index == ROOT_NODE {
            for (key, content) in self.engine.values(ROOT_ATTRIBUTES_NODE) {
                let name = self.engine.name(key);
                if self.engine.value(ROOT_NODE, key).is_none() {
                    found.extend(content.value().map(|value| (&**name, value)));
                }
            }
        }
        let element = self.schema.element(self.tag(index));
        found.sort_by_cached_key(|&(name, _)| (rank(element, name), name));
        let found = found.into_iter();
        found
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// The value of an attribute in its encoded form.
    pub(super) fn content(&self, index: NodeIndex, name: &str) -> Option<&Content> {
        let key = self.engine.find_key(name)?;
        let content = self.engine.value(index, key);
        content.or_else(|| {
            (index == ROOT_NODE)
                .then(|| self.engine.value(ROOT_ATTRIBUTES_NODE, key))
                .flatten()
        })
    }

    /// The rich text in an element.
    pub(super) fn text_in(&self, index: NodeIndex) -> Option<NodeIndex> {
        let mut children = self.engine.children(index);
        children.find(|&child| self.engine.node(child).kind == NodeKind::Text)
    }
}

impl<'a> Element<'a> {
    /// The document that contains the element.
    pub fn document(&self) -> &'a MeshDocument {
        self.document
    }

    /// The element's tag.
    pub fn tag(&self) -> &'a str {
        self.document.tag(self.index)
    }

    /// Whether this is the root element, which has no `$id`.
    pub fn is_root(&self) -> bool {
        self.index == ROOT_NODE
    }

    /// The element's `$id`; `None` for the root, and for elements of foreign programs without one.
    pub fn id(&self) -> Option<&'a str> {
        id_of(&self.document.engine, self.index)
    }

    /// The element's type in the schema; `None` if the tag is unknown.
    pub fn element_type(&self) -> Option<&'a ElementType> {
        self.document.schema.element(self.tag())
    }

    /// The value of an attribute.
    pub fn attribute(&self, name: &str) -> Option<Value> {
        self.document.content(self.index, name)?.value()
    }

    /// All attributes: first `$id`, then in schema order, then others by name.
    pub fn attributes(&self) -> Map<String, Value> {
        self.document.attributes(self.index)
    }

    /// The parent element; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        let parent = self.document.engine.node(self.index).parent;
        (!self.is_root()).then_some(Self {
            document: self.document,
            index: parent,
        })
    }

    /// The child elements, in order.
    pub fn children(&self) -> impl Iterator<Item = Self> + use<'a> {
        let document = self.document;
        let engine = &document.engine;
        let children = engine.children(self.index);
        let elements =
            children.filter(|&child| matches!(engine.node(child).kind, NodeKind::Element(_)));
        elements.map(|index| Self { document, index })
    }

    /// The number of child elements.
    pub fn child_count(&self) -> usize {
        self.document.child_count(self.index)
    }

    /// The child element at an index.
    pub fn child(&self, index: usize) -> Option<Self> {
        let index = self.document.child_at(self.index, index)?;
        let is_element = matches!(self.document.engine.node(index).kind, NodeKind::Element(_));
        is_element.then_some(Self {
            document: self.document,
            index,
        })
    }

    /// The index of the element among its siblings.
    pub fn index_in_parent(&self) -> usize {
        self.document.index_in_parent(self.index)
    }

    /// The rich text of a `text` element; `None` for other elements.
    pub fn text(&self) -> Option<Text<'a>> {
        let index = self.document.text_in(self.index)?;
        Some(Text {
            document: self.document,
            index,
        })
    }
}

impl<'a> Text<'a> {
    pub(super) fn new(document: &'a MeshDocument, index: NodeIndex) -> Self {
        Self { document, index }
    }

    /// The text without its formatting.
    pub fn to_plain(&self) -> String {
        self.document.engine.plain_text(self.index)
    }

    /// The length of the text in UTF-16 units.
    pub fn utf16_length(&self) -> usize {
        self.document.engine.text_length(self.index).0 as usize
    }

    /// The length of the text in Unicode scalar values.
    pub fn scalar_length(&self) -> usize {
        self.document.engine.text_length(self.index).1 as usize
    }

    /// The text as a delta: `[{"insert": text, "attributes": {…}}, …]`.
    pub fn to_delta(&self) -> Value {
        let runs = self.document.engine.runs(self.index).into_iter();
        let runs = runs.map(|(text, mut attributes)| {
            attributes.sort_keys();
            let run = [("insert", text.into()), ("attributes", attributes.into())];
            run.map(|(name, value): (_, Value)| (name.to_owned(), value))
                .into_iter()
                .collect()
        });
        Value::Array(runs.collect())
    }
}

fn rank(element: Option<&ElementType>, name: &str) -> usize {
    if name == ID_ATTRIBUTE {
        return 0;
    }
    let place = element.and_then(|element| element.place_of(name));
    place.map_or(usize::MAX, |place| place + 1)
}
