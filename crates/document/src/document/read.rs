//! Reading: handles of elements and texts, and walks over the tree that do not recurse.

use std::sync::Arc;

use serde_json::{Map, Value};
use yrs::branch::{Branch, BranchPtr};
use yrs::types::Attrs;
use yrs::types::text::YChange;
use yrs::{
    Any, BranchID, ClientID, ID, Number, Out, Text as _, Transact, Transaction, Xml, XmlElementRef,
    XmlFragment, XmlTextRef,
};

use super::MeshDocument;
use super::history::{NodeIndex, NodeKind, ROOT, ROOT_ATTRIBUTES, ROOT_NODE};
use crate::schema::{ElementType, ID_ATTRIBUTE};
use crate::update::scan::Id;

/// A read-only handle of one element, the root included.
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

    /// The element with this `$id`; of several, the one that comes first in the document.
    pub fn node(&self, id: &str) -> Option<Element<'_>> {
        let index = match self.ids.get(id) {
            [] => return None,
            &[only] => only,
            several => self.first_in_document(several),
        };
        Some(Element {
            document: self,
            index,
        })
    }

    /// What the engine holds for a node that is alive.
    pub(super) fn branch(
        &self,
        transaction: &Transaction<'_>,
        index: NodeIndex,
    ) -> Option<XmlElementRef> {
        let branch = if index == ROOT_NODE {
            BranchID::get_root(transaction, ROOT)?
        } else {
            let node = self.history.node(index);
            if node.is_dead || node.kind == NodeKind::Root {
                return None;
            }
            BranchID::get_nested(transaction, &engine_id(node.id))?
        };
        Some(XmlElementRef::from(branch))
    }

    /// The nodes that a node holds in order, foreign ones included.
    pub(super) fn child_nodes(
        &self,
        transaction: &Transaction<'_>,
        index: NodeIndex,
    ) -> Vec<NodeIndex> {
        if !matches!(
            self.history.node(index).kind,
            NodeKind::Element(_) | NodeKind::Root | NodeKind::Foreign
        ) {
            return Vec::new();
        }
        let Some(branch) = self.branch(transaction, index) else {
            return Vec::new();
        };
        if self.history.node(index).is_mixed {
            // The engine's own iterators stop at what is no part of an XML tree, or never stop at
            // all. Read as a text, everything is there in order.
            let mixed = XmlTextRef::from(BranchPtr::from(AsRef::<Branch>::as_ref(&branch)));
            let items = mixed.diff(transaction, YChange::identity).into_iter();
            let nodes = items.filter_map(|item| self.node_of(item.insert.try_branch()?));
            return nodes.collect();
        }
        let mut nodes = Vec::new();
        if let Some(first) = branch.first_child() {
            let first = first.as_ptr();
            nodes.extend(self.node_of(&first));
            let first = XmlElementRef::from(first);
            let siblings = first.siblings(transaction);
            nodes.extend(siblings.filter_map(|child| self.node_of(&child.as_ptr())));
        }
        nodes
    }

    pub(super) fn node_of(&self, branch: &Branch) -> Option<NodeIndex> {
        match branch.id() {
            BranchID::Nested(id) => self.history.made_by(Id {
                client: id.client.get(),
                clock: id.clock,
            }),
            BranchID::Root(_) => None,
        }
    }

    /// A node and all below it, in document order.
    pub(super) fn descendants(&self, top: NodeIndex) -> Vec<NodeIndex> {
        let transaction = self.doc.transact();
        let mut found = Vec::new();
        let mut stack = vec![top];
        while let Some(index) = stack.pop() {
            found.push(index);
            stack.extend(self.child_nodes(&transaction, index).into_iter().rev());
        }
        found
    }

    pub(super) fn read_id(&self, index: NodeIndex) -> Option<Arc<str>> {
        let transaction = self.doc.transact();
        let branch = self.branch(&transaction, index)?;
        match branch.get_attribute(&transaction, ID_ATTRIBUTE)? {
            Out::Any(Any::String(id)) => Some(id),
            _ => None,
        }
    }

    pub(super) fn tag(&self, index: NodeIndex) -> &str {
        match self.history.node(index).kind {
            NodeKind::Element(tag) => self.history.name(tag),
            NodeKind::Root => self.schema.root().tag(),
            NodeKind::Foreign | NodeKind::Text => "",
        }
    }

    /// The attributes of a node: `$id` first, then in the order of the schema, then others by name.
    pub(super) fn attributes(
        &self,
        transaction: &Transaction<'_>,
        index: NodeIndex,
    ) -> Map<String, Value> {
        let mut found: Vec<(String, Value)> = Vec::new();
        if let Some(branch) = self.branch(transaction, index) {
            for (name, value) in branch.attributes(transaction) {
                found.extend(json(&value).map(|value| (name.to_owned(), value)));
            }
        }
        // Values on the tree's own root win over those beside it.
        if index == ROOT_NODE
            && let Some(beside) = BranchID::get_root(transaction, ROOT_ATTRIBUTES)
        {
            let beside = XmlElementRef::from(beside);
            for (name, value) in beside.attributes(transaction) {
                if found.iter().all(|(known, _)| known != name) {
                    found.extend(json(&value).map(|value| (name.to_owned(), value)));
                }
            }
        }
        let element = self.schema.element(self.tag(index));
        found.sort_by(|(a, _), (b, _)| rank(element, a).cmp(&rank(element, b)).then(a.cmp(b)));
        found.into_iter().collect()
    }

    fn first_in_document(&self, nodes: &[NodeIndex]) -> NodeIndex {
        let wanted = self.descendants(ROOT_NODE);
        let first = wanted.into_iter().find(|node| nodes.contains(node));
        first.unwrap_or(nodes[0])
    }
}

impl<'a> Element<'a> {
    /// The document that the element is in.
    pub fn document(&self) -> &'a MeshDocument {
        self.document
    }

    /// The tag.
    pub fn tag(&self) -> &'a str {
        self.document.tag(self.index)
    }

    /// Whether this is the root element, which has no `$id`.
    pub fn is_root(&self) -> bool {
        self.index == ROOT_NODE
    }

    /// The `$id`.
    pub fn id(&self) -> Option<&'a str> {
        self.document.history.node(self.index).element_id.as_deref()
    }

    /// The element's type in the schema; `None` if the schema does not know its tag.
    pub fn element_type(&self) -> Option<&'a ElementType> {
        self.document.schema.element(self.tag())
    }

    /// The value of an attribute.
    pub fn attribute(&self, name: &str) -> Option<Value> {
        let transaction = self.document.doc.transact();
        let branch = self.document.branch(&transaction, self.index)?;
        let value = branch.get_attribute(&transaction, name);
        let value = value.or_else(|| {
            let beside = BranchID::get_root(&transaction, ROOT_ATTRIBUTES)?;
            let beside = self.is_root().then(|| XmlElementRef::from(beside))?;
            beside.get_attribute(&transaction, name)
        });
        json(&value?)
    }

    /// All attributes, `$id` included: that first, then in the order of the schema.
    pub fn attributes(&self) -> Map<String, Value> {
        let transaction = self.document.doc.transact();
        self.document.attributes(&transaction, self.index)
    }

    /// The element around this one.
    pub fn parent(&self) -> Option<Self> {
        let parent = self.document.history.node(self.index).parent;
        (!self.is_root()).then_some(Self {
            document: self.document,
            index: parent,
        })
    }

    /// The child elements, in order.
    pub fn children(&self) -> Vec<Self> {
        let document = self.document;
        let transaction = document.doc.transact();
        let children = document.child_nodes(&transaction, self.index).into_iter();
        let elements = children
            .filter(|&child| matches!(document.history.node(child).kind, NodeKind::Element(_)));
        elements.map(|index| Self { document, index }).collect()
    }

    /// The rich text that the element holds, if it is a `text` element.
    pub fn text(&self) -> Option<Text<'a>> {
        let document = self.document;
        let transaction = document.doc.transact();
        let children = document.child_nodes(&transaction, self.index);
        let mut children = children.into_iter();
        let index = children.find(|&child| document.history.node(child).kind == NodeKind::Text)?;
        Some(Text { document, index })
    }
}

impl<'a> Text<'a> {
    pub(super) fn new(document: &'a MeshDocument, index: NodeIndex) -> Self {
        Self { document, index }
    }

    pub(super) fn engine_id(&self) -> ID {
        engine_id(self.document.history.node(self.index).id)
    }

    /// The text without its formatting.
    pub fn to_plain(&self) -> String {
        let runs = self.runs().into_iter();
        runs.map(|(text, _)| text).collect()
    }

    /// The text as a delta: `[{"insert": text, "attributes": {…}}, …]`.
    pub fn to_delta(&self) -> Value {
        let runs = self.runs().into_iter().map(|(text, attributes)| {
            let attributes = attributes.into_iter();
            let attributes = attributes.map(|(name, value)| (name.to_string(), any(&value)));
            let mut attributes: Vec<(String, Value)> = attributes.collect();
            attributes.sort_by(|(a, _), (b, _)| a.cmp(b));
            let attributes: Map<String, Value> = attributes.into_iter().collect();
            serde_json::json!({ "insert": text, "attributes": attributes })
        });
        Value::Array(runs.collect())
    }

    fn runs(&self) -> Vec<(String, Attrs)> {
        let transaction = self.document.doc.transact();
        let node = self.document.history.node(self.index);
        let branch = BranchID::get_nested(&transaction, &engine_id(node.id));
        let Some(branch) = branch.filter(|_| !node.is_dead) else {
            return Vec::new();
        };
        let mut runs: Vec<(String, Attrs)> = Vec::new();
        for run in XmlTextRef::from(branch).diff(&transaction, YChange::identity) {
            let Out::Any(Any::String(text)) = run.insert else {
                continue;
            };
            let attributes = run
                .attributes
                .map_or_else(Attrs::new, |attributes| *attributes);
            // Marks that change nothing are no border.
            match runs.last_mut() {
                Some((last, before)) if *before == attributes => last.push_str(&text),
                _ => runs.push((text.to_string(), attributes)),
            }
        }
        runs
    }
}

fn rank<'a>(element: Option<&'a ElementType>, name: &str) -> usize {
    if name == ID_ATTRIBUTE {
        return 0;
    }
    let properties = element.map_or(&[][..], |element: &'a ElementType| element.properties());
    let position = properties
        .iter()
        .position(|property| property.name() == name);
    position.map_or(usize::MAX, |position| position + 1)
}

pub(super) fn engine_id(id: Id) -> ID {
    ID::new(ClientID::new(id.client), id.clock)
}

/// What the engine holds as JSON; shared types are none.
pub(super) fn json(value: &Out) -> Option<Value> {
    match value {
        Out::Any(value) => Some(any(value)),
        _ => None,
    }
}

/// Values are at most 128 levels deep, which the scan of every update sees to.
pub(super) fn any(value: &Any) -> Value {
    match value {
        Any::Null | Any::Undefined => Value::Null,
        Any::Bool(value) => Value::Bool(*value),
        Any::Number(Number::Int(integer)) => Value::from(*integer),
        Any::Number(Number::Float(float)) => number(*float),
        Any::String(text) => Value::from(&**text),
        Any::Buffer(bytes) => Value::from(bytes.to_vec()),
        Any::Array(items) => items.iter().map(any).collect(),
        Any::Map(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(key, _)| *key);
            let members = members.into_iter();
            Value::Object(
                members
                    .map(|(key, value)| (key.clone(), any(value)))
                    .collect(),
            )
        }
    }
}

/// Whole numbers print without a fraction, as in JavaScript.
#[expect(clippy::cast_possible_truncation, reason = "checked to be exact")]
fn number(float: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_991.0;
    if float.fract() == 0.0 && float.abs() <= EXACT {
        Value::from(float as i64)
    } else {
        serde_json::Number::from_f64(float).map_or(Value::Null, Value::Number)
    }
}
