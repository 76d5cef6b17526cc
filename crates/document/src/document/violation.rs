//! Where a merged document breaks its schema, and the repair that removes just that.
//!
//! Two valid edits can merge into a state that is none, and foreign programs write what they like. Only
//! what changed since the last look is looked at; the rest is known to fit.

use std::collections::BTreeSet;

use yrs::{BranchID, Map as _, MapRef, Out, Transact, Xml, XmlElementRef};

use super::MeshDocument;
use super::event::{Before, Origin};
use super::history::{
    NodeIndex, NodeKind, Owner, ROOT_ATTRIBUTES, ROOT_ATTRIBUTES_NODE, ROOT_NODE,
};
use super::read::{engine_id, json};
use crate::schema::{ElementType, ID_ATTRIBUTE, TEXT_TAG, Violation, kind_of, push_segment};
use crate::update::scan::IdRange;
use crate::update::writer;

/// What a repair did.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Repair {
    /// The v1 update that brings other replicas to the same state.
    pub update: Vec<u8>,
    /// What was removed.
    pub violations: Vec<Violation>,
}

/// What is to be removed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Offence {
    Attribute(NodeIndex, String),
    /// What is no element, or else no text, inside a node.
    Content(NodeIndex),
    Node(NodeIndex),
    /// All that is in a root type.
    Root(NodeIndex),
}

impl MeshDocument {
    /// Where the document breaks its schema.
    ///
    /// Elements that lack attributes do not, since they are built up step by step. Unknown tags and
    /// attributes, values of the wrong type, children in the wrong place, elements without an `$id` or
    /// with one that an earlier element has, shared types that make no element tree do.
    pub fn violations(&mut self) -> Vec<Violation> {
        let offences = self.offences();
        offences
            .into_iter()
            .map(|(_, violation)| violation)
            .collect()
    }

    /// Removes what breaks the schema, and nothing else; `None` if nothing does.
    ///
    /// All replicas that see the same state remove the same, so that repairs converge.
    pub fn repair(&mut self) -> Option<Repair> {
        let mut violations = Vec::new();
        let mut updates: Vec<Vec<u8>> = Vec::new();
        // What is inside of something that goes is not looked at twice; a second look finds what was
        // behind it.
        loop {
            let offences = self.offences();
            if offences.is_empty() {
                break;
            }
            let before = updates.len();
            for (offence, violation) in offences {
                if let Some(update) = self.remove(&offence) {
                    updates.push(update);
                    violations.push(violation);
                }
            }
            if updates.len() == before {
                break;
            }
        }
        self.close_event(Origin::Local);
        let updates: Vec<&[u8]> = updates.iter().map(Vec::as_slice).collect();
        let update = crate::merge_updates(&updates).ok()?;
        (!violations.is_empty()).then_some(Repair { update, violations })
    }

    /// Notes that a node may break the schema.
    pub(super) fn suspect(&mut self, index: NodeIndex) {
        if index as usize >= self.history.node_count() {
            return;
        }
        let node = self.history.node_mut(index);
        if !node.is_suspect && !node.is_dead {
            node.is_suspect = true;
            self.suspects.push(index);
        }
    }

    fn offences(&mut self) -> Vec<(Offence, Violation)> {
        let mut offences = Vec::new();
        let mut suspects = std::mem::take(&mut self.suspects);
        suspects.sort_unstable();
        for index in suspects {
            let node = self.history.node_mut(index);
            node.is_suspect = false;
            if node.is_dead {
                continue;
            }
            let found = self.check_node(index);
            if !found.is_empty() {
                self.suspect(index);
                offences.extend(found);
            }
        }
        offences
    }

    fn check_node(&self, index: NodeIndex) -> Vec<(Offence, Violation)> {
        let node = self.history.node(index);
        let report = |offence: Offence, pointer: String, expected: &str, found: String| {
            vec![(offence, Violation::new(pointer, expected, found))]
        };
        if node.kind == NodeKind::Root && index > ROOT_ATTRIBUTES_NODE {
            let name = self
                .history
                .foreign_roots()
                .find(|&(_, root)| root == index);
            let name = name.map(|(name, _)| name.to_owned()).unwrap_or_default();
            let is_used = !self.contents_of_root(index).is_empty();
            let expected = "only the root types \"xml\" and \"xml.attributes\"";
            if !is_used {
                return Vec::new();
            }
            return report(
                Offence::Root(index),
                String::new(),
                expected,
                format!("{name:?}"),
            );
        }
        if index == ROOT_ATTRIBUTES_NODE {
            return self.check_attributes(ROOT_NODE);
        }
        if node.key.is_some() {
            // Whatever it is the value of is looked at with the attributes of its parent.
            return Vec::new();
        }
        let around = self.history.node(node.parent.min(index));
        match (node.kind, around.kind) {
            (NodeKind::Root, _) => {}
            (NodeKind::Foreign, _) | (_, NodeKind::Foreign | NodeKind::Text) => {
                let pointer = self.pointer(node.parent);
                let found = "another shared type".to_owned();
                return report(Offence::Node(index), pointer, "elements and texts", found);
            }
            (NodeKind::Text, _) => return self.check_text(index),
            (NodeKind::Element(_), _) => {
                let found = self.check_place(index);
                if !found.is_empty() {
                    return found;
                }
            }
        }
        let mut found = self.check_attributes(index);
        found.extend(self.check_content(index));
        found
    }

    /// An element's tag, its place, its `$id`: any of them wrong, and all of it goes.
    fn check_place(&self, index: NodeIndex) -> Vec<(Offence, Violation)> {
        let node = self.history.node(index);
        let tag = self.tag(index);
        let parent = self.schema.element(self.tag(node.parent));
        let allowed = parent.and_then(ElementType::child_property);
        let is_allowed = allowed.is_some_and(|children| children.allows(tag))
            && parent.is_some_and(|parent| parent.tag() != TEXT_TAG)
            && self.schema.element(tag).is_some();
        let (expected, found) = match &node.element_id {
            _ if !is_allowed => {
                let tags = allowed.map_or(&[][..], |children| children.tags());
                (
                    format!("one of the tags {}", tags.join(", ")),
                    format!("{tag:?}"),
                )
            }
            None => ("an $id".to_owned(), "none".to_owned()),
            Some(id) => match self.ids.get(id) {
                [_] | [] => return Vec::new(),
                _ if self.node(id).is_some_and(|first| first.index == index) => return Vec::new(),
                _ => ("a unique $id".to_owned(), format!("{id:?} again")),
            },
        };
        vec![(
            Offence::Node(index),
            Violation::new(self.pointer(index), expected, found),
        )]
    }

    fn check_attributes(&self, index: NodeIndex) -> Vec<(Offence, Violation)> {
        let Some(element) = self.schema.element(self.tag(index)) else {
            return Vec::new();
        };
        let transaction = self.doc.transact();
        let mut values: Vec<(String, Out)> = Vec::new();
        let beside = BranchID::get_root(&transaction, ROOT_ATTRIBUTES).map(XmlElementRef::from);
        let beside = beside.filter(|_| index == ROOT_NODE);
        for branch in self.branch(&transaction, index).iter().chain(&beside) {
            let attributes = branch.attributes(&transaction);
            values.extend(attributes.map(|(name, value)| (name.to_owned(), value)));
        }
        values.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut found = Vec::new();
        for (name, value) in values {
            if name == ID_ATTRIBUTE && index != ROOT_NODE {
                continue;
            }
            let value = json(&value);
            let property = element.value_property(&name);
            let is_fine = property
                .zip(value.as_ref())
                .is_some_and(|(one, value)| one.allows(value));
            if is_fine {
                continue;
            }
            let mut pointer = self.pointer(index);
            push_segment(&mut pointer, &name);
            let expected = match property {
                Some(property) => property.expectation(),
                None => format!("a property of {:?}", element.tag()),
            };
            let what = value.as_ref().map_or("a shared type", kind_of);
            let offence = Offence::Attribute(index, name);
            found.push((offence, Violation::new(pointer, expected, what)));
        }
        found
    }

    /// What an element holds that is no node.
    fn check_content(&self, index: NodeIndex) -> Vec<(Offence, Violation)> {
        let is_foreign = self.history.node(index).is_mixed
            && !self
                .history
                .owned_by(|owner| owner == Owner::Foreign(index))
                .is_empty();
        if !is_foreign {
            return Vec::new();
        }
        let violation = Violation::new(self.pointer(index), "elements and texts", "something else");
        vec![(Offence::Content(index), violation)]
    }

    /// A text is the only one in a `text` element.
    fn check_text(&self, index: NodeIndex) -> Vec<(Offence, Violation)> {
        let around = self.history.node(index).parent;
        let transaction = self.doc.transact();
        let mut texts = self.child_nodes(&transaction, around);
        texts.retain(|&child| self.history.node(child).kind == NodeKind::Text);
        if self.tag(around) == TEXT_TAG && texts.first() == Some(&index) {
            return self.check_content(index);
        }
        let expected = "one text, inside a \"text\" element";
        let violation = Violation::new(self.pointer(around), expected, "another text");
        vec![(Offence::Node(index), violation)]
    }

    fn remove(&mut self, offence: &Offence) -> Option<Vec<u8>> {
        match offence {
            &Offence::Node(index) if self.history.node(index).is_dead => None,
            &Offence::Node(index) => self.delete_node(index),
            &Offence::Content(index) => {
                let ranges = self
                    .history
                    .owned_by(|owner| owner == Owner::Foreign(index));
                self.delete_ranges(&ranges)
            }
            &Offence::Root(index) => self.delete_ranges(&self.contents_of_root(index)),
            Offence::Attribute(index, name) => {
                let id = (*index != ROOT_NODE).then(|| engine_id(self.history.node(*index).id));
                if self.history.node(*index).is_dead {
                    return None;
                }
                let mut before = Before::default();
                let key = self.history.key(name);
                if self.watch.is_some() {
                    self.look_at(&mut before, *index, key);
                }
                Some(self.edit_directly(before, |transaction| {
                    let branch = match id {
                        Some(id) => BranchID::get_nested(transaction, &id),
                        None => BranchID::get_root(transaction, super::ROOT),
                    };
                    if let Some(branch) = branch {
                        XmlElementRef::from(branch).remove_attribute(transaction, name);
                    }
                    let beside = BranchID::get_root(transaction, ROOT_ATTRIBUTES);
                    if let Some(beside) = beside.filter(|_| id.is_none()) {
                        MapRef::from(beside).remove(transaction, name);
                    }
                }))
            }
        }
    }

    pub(super) fn delete_ranges(&mut self, ranges: &[IdRange]) -> Option<Vec<u8>> {
        if ranges.is_empty() {
            return None;
        }
        let update = writer::update(Vec::new(), ranges.to_vec(), |_| 0).ok()?;
        self.integrate(&[], ranges, &update).ok()?;
        Some(update)
    }

    fn contents_of_root(&self, root: NodeIndex) -> Vec<IdRange> {
        self.history.owned_by(|owner| match owner {
            Owner::Foreign(node) | Owner::Key(node, _) | Owner::Within(node) => node == root,
            Owner::Made(node) => self.history.node(node).parent == root,
            Owner::Nothing => false,
        })
    }

    /// JSON pointer to an element.
    fn pointer(&self, index: NodeIndex) -> String {
        let transaction = self.doc.transact();
        let mut segments = Vec::new();
        let mut seen = BTreeSet::new();
        let mut at = index;
        while at != ROOT_NODE && (at as usize) < self.history.node_count() && seen.insert(at) {
            let node = self.history.node(at);
            if node.kind == NodeKind::Root {
                break;
            }
            let siblings = self.child_nodes(&transaction, node.parent);
            let position = siblings.iter().position(|&sibling| sibling == at);
            let parent = self.schema.element(self.tag(node.parent));
            let list = parent.and_then(ElementType::child_property);
            segments.push(self.tag(at).to_owned());
            segments.push(position.unwrap_or_default().to_string());
            segments.push(list.map_or("children", |list| list.name()).to_owned());
            at = node.parent;
        }
        segments.push(self.schema.root().tag().to_owned());
        let mut pointer = String::new();
        for segment in segments.iter().rev() {
            push_segment(&mut pointer, segment);
        }
        pointer
    }
}
