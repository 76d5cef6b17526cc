//! Where a merged document breaks its schema, and the repair that removes just that.
//!
//! Two valid edits can merge into a state that is none, and foreign programs write what they like. Only
//! what changed since the last look is looked at; the rest is known to fit.

use std::collections::HashMap;

use super::MeshDocument;
use super::event::Origin;
use super::ids::id_of;
use crate::engine::{Content, NONE, NodeIndex, NodeKind, ROOT_ATTRIBUTES_NODE, ROOT_NODE};
use crate::schema::{ElementType, ID_ATTRIBUTE, TEXT_TAG, Violation, kind_of, push_segment};
use crate::update::scan::IdRange;

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
        let node = self.engine.node_mut(index);
        if !node.is_suspect && !node.is_dead {
            node.is_suspect = true;
            self.suspects.push(index);
        }
    }

    fn offences(&mut self) -> Vec<(Offence, Violation)> {
        let mut offences = Vec::new();
        let mut firsts = HashMap::new();
        loop {
            let mut suspects = std::mem::take(&mut self.suspects);
            if suspects.is_empty() {
                break;
            }
            suspects.sort_unstable();
            let mut more = Vec::new();
            for index in suspects {
                let node = self.engine.node_mut(index);
                // A dead one's number may have been given to another node.
                if !std::mem::take(&mut node.is_suspect) || node.is_dead {
                    continue;
                }
                self.involved(index, &mut firsts, &mut more);
                let found = self.check_node(index, &firsts);
                offences.extend(found.into_iter().map(|found| (index, found)));
            }
            for (offender, _) in &offences {
                self.engine.node_mut(*offender).is_suspect = true;
            }
            for index in more {
                self.suspect(index);
            }
        }
        // Offenders are looked at again until they are gone.
        for (offender, _) in &offences {
            self.engine.node_mut(*offender).is_suspect = false;
        }
        for (offender, _) in &offences {
            self.suspect(*offender);
        }
        offences.sort_by_key(|(offender, _)| *offender);
        offences.into_iter().map(|(_, found)| found).collect()
    }

    /// Finds out which of several nodes with one `$id` is the first; and which other nodes may break
    /// the schema because of this one.
    fn involved(
        &self,
        index: NodeIndex,
        firsts: &mut HashMap<String, NodeIndex>,
        more: &mut Vec<NodeIndex>,
    ) {
        if let Some(id) = id_of(&self.engine, index)
            && self.ids.only(&self.engine, id).is_err()
            && !firsts.contains_key(id)
        {
            let several = self.ids.get(&self.engine, id);
            if let Some(first) = self.first_in_document(&several) {
                firsts.insert(id.to_owned(), first);
                more.extend(several);
            }
        }
        if self.tag(index) == TEXT_TAG {
            let children = self.engine.children(index);
            more.extend(children.filter(|&child| self.engine.node(child).kind == NodeKind::Text));
        }
    }

    fn check_node(
        &self,
        index: NodeIndex,
        firsts: &HashMap<String, NodeIndex>,
    ) -> Vec<(Offence, Violation)> {
        let node = self.engine.node(index);
        let report = |offence: Offence, pointer: String, expected: &str, found: String| {
            vec![(offence, Violation::new(pointer, expected, found))]
        };
        if let NodeKind::Root(name) = node.kind
            && index > ROOT_ATTRIBUTES_NODE
        {
            let name = self.engine.name(name);
            let expected = "only the root types \"xml\" and \"xml.attributes\"";
            if self.engine.contents(index).next().is_none() {
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
        if node.key != NONE {
            // Whatever it is the value of is looked at with the attributes of its parent.
            return Vec::new();
        }
        let around = self.engine.node(if index == ROOT_NODE {
            index
        } else {
            node.parent
        });
        match (node.kind, around.kind) {
            (NodeKind::Root(_), _) => {}
            (NodeKind::Foreign(_), _) | (_, NodeKind::Foreign(_) | NodeKind::Text) => {
                let pointer = self.pointer(node.parent);
                let found = "another shared type".to_owned();
                return report(Offence::Node(index), pointer, "elements and texts", found);
            }
            (NodeKind::Text, _) => return self.check_text(index),
            (NodeKind::Element(_), _) => {
                let found = self.check_place(index, firsts);
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
    fn check_place(
        &self,
        index: NodeIndex,
        firsts: &HashMap<String, NodeIndex>,
    ) -> Vec<(Offence, Violation)> {
        let node = self.engine.node(index);
        let tag = self.tag(index);
        let parent = self.schema.element(self.tag(node.parent));
        let allowed = parent.and_then(ElementType::child_property);
        let is_allowed = allowed.is_some_and(|children| children.allows(tag))
            && parent.is_some_and(|parent| parent.tag() != TEXT_TAG)
            && self.schema.element(tag).is_some();
        let (expected, found) = match id_of(&self.engine, index) {
            _ if !is_allowed => {
                let tags = allowed.map_or(&[][..], |children| children.tags());
                (
                    format!("one of the tags {}", tags.join(", ")),
                    format!("{tag:?}"),
                )
            }
            None => ("an $id".to_owned(), "none".to_owned()),
            Some(id) => match firsts.get(id) {
                Some(&first) if first != index => {
                    ("a unique $id".to_owned(), format!("{id:?} again"))
                }
                _ => return Vec::new(),
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
        let mut values: Vec<(&str, &Content)> = Vec::new();
        let beside = (index == ROOT_NODE).then_some(ROOT_ATTRIBUTES_NODE);
        for node in [index].into_iter().chain(beside) {
            let found = self.engine.values(node);
            values.extend(found.map(|(key, value)| (&**self.engine.name(key), value)));
        }
        values.sort_by_key(|(name, _)| *name);
        let mut found = Vec::new();
        for (name, value) in values {
            if name == ID_ATTRIBUTE && index != ROOT_NODE {
                continue;
            }
            let value = value.value();
            let property = element.value_property(name);
            let is_fine = property
                .zip(value.as_ref())
                .is_some_and(|(one, value)| one.allows(value));
            if is_fine {
                continue;
            }
            let mut pointer = self.pointer(index);
            push_segment(&mut pointer, name);
            let expected = match property {
                Some(property) => property.expectation(),
                None => format!("a property of {:?}", element.tag()),
            };
            let what = value.as_ref().map_or("a shared type", kind_of);
            let offence = Offence::Attribute(index, name.to_owned());
            found.push((offence, Violation::new(pointer, expected, what)));
        }
        found
    }

    /// What an element holds that is no node.
    fn check_content(&self, index: NodeIndex) -> Vec<(Offence, Violation)> {
        if !self.engine.node(index).is_mixed || self.engine.foreign_items(index).next().is_none() {
            return Vec::new();
        }
        let violation = Violation::new(self.pointer(index), "elements and texts", "something else");
        vec![(Offence::Content(index), violation)]
    }

    /// A text is the only one in a `text` element, and has no attributes.
    fn check_text(&self, index: NodeIndex) -> Vec<(Offence, Violation)> {
        let around = self.engine.node(index).parent;
        if self.tag(around) != TEXT_TAG || self.text_in(around) != Some(index) {
            let expected = "one text, inside a \"text\" element";
            let violation = Violation::new(self.pointer(around), expected, "another text");
            return vec![(Offence::Node(index), violation)];
        }
        let mut found = self.check_content(index);
        for (key, value) in self.engine.values(index) {
            let name = self.engine.name(key);
            let mut pointer = self.pointer(index);
            push_segment(&mut pointer, name);
            let what = value.value();
            let what = what.as_ref().map_or("a shared type", kind_of);
            let offence = Offence::Attribute(index, (**name).to_owned());
            found.push((
                offence,
                Violation::new(pointer, "a text without attributes", what),
            ));
        }
        found
    }

    fn remove(&mut self, offence: &Offence) -> Option<Vec<u8>> {
        let ranges: Vec<IdRange> = match offence {
            Offence::Node(index) | Offence::Content(index) | Offence::Attribute(index, _)
                if self.engine.node(*index).is_dead =>
            {
                return None;
            }
            Offence::Node(index) => return self.delete_node(*index),
            Offence::Content(index) => {
                let items = self.engine.foreign_items(*index);
                items.map(|item| self.engine.item_range(item)).collect()
            }
            Offence::Root(index) => {
                let items = self.engine.contents(*index);
                items.map(|item| self.engine.item_range(item)).collect()
            }
            Offence::Attribute(index, name) => self.value_ranges(*index, name),
        };
        self.delete_ranges(&ranges)
    }

    /// JSON pointer to an element.
    fn pointer(&self, index: NodeIndex) -> String {
        let mut segments = Vec::new();
        let mut at = index;
        while at != ROOT_NODE {
            let node = self.engine.node(at);
            if matches!(node.kind, NodeKind::Root(_)) {
                break;
            }
            let parent = self.schema.element(self.tag(node.parent));
            let list = parent.and_then(ElementType::child_property);
            segments.push(self.tag(at).to_owned());
            segments.push(self.index_in_parent(at).to_string());
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
