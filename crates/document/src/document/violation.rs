//! Where a merged document breaks its schema, and the repair that removes just that.
//!
//! Two valid edits can merge into a state that is none, and foreign programs write what they like. Only
//! what changed since the last look is looked at; the rest is known to fit.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use serde_json::Value;

use super::MeshDocument;
use super::event::Origin;
use super::ids::id_of;
use crate::engine::{
    Content, KeyIndex, NONE, NodeIndex, NodeKind, ROOT_ATTRIBUTES_NODE, ROOT_NODE,
};
use crate::schema::{
    ElementType, ID_ATTRIBUTE, TEXT_TAG, ValueProperty, Violation, Violations, kind_of,
    push_segment,
};
use crate::update::scan::IdRange;
use crate::update::writer;

/// Encoded bytes up to which a list or an object is compared with the values that a schema names.
const COMPARED_BYTES: usize = 64 << 10;

/// What a repair did.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Repair {
    /// The v1 update that brings other replicas to the same state.
    pub update: Vec<u8>,
    /// What was removed.
    pub violations: Violations,
}

/// What is to be removed, and why. Its text is made only if it is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offence {
    /// A key of an element that the schema does not give it, or not with this value.
    Attribute(NodeIndex, KeyIndex),
    /// What is no element, or else no text, inside a node.
    Content(NodeIndex),
    /// A shared type that is neither.
    Foreign(NodeIndex),
    /// An `$id` that an earlier element has.
    Id(NodeIndex),
    /// An element without an `$id`.
    NoId(NodeIndex),
    /// An element with a tag that may not be there.
    Place(NodeIndex),
    /// All that is in a root type.
    Root(NodeIndex),
    /// A text beside the one of its element.
    Text(NodeIndex),
    /// A key of a text.
    TextAttribute(NodeIndex, KeyIndex),
}

/// What is found out once for all nodes that are looked at.
#[derive(Default)]
struct Firsts {
    /// The first in the document of those with one `$id`, by the lowest of them.
    of_id: HashMap<NodeIndex, NodeIndex>,
    /// The first text in an element.
    text_in: HashMap<NodeIndex, Option<NodeIndex>>,
}

impl Offence {
    /// The node that has to be looked at again until it is gone.
    fn node(self) -> NodeIndex {
        match self {
            Self::Attribute(node, _)
            | Self::Content(node)
            | Self::Foreign(node)
            | Self::Id(node)
            | Self::NoId(node)
            | Self::Place(node)
            | Self::Root(node)
            | Self::Text(node)
            | Self::TextAttribute(node, _) => node,
        }
    }
}

impl MeshDocument {
    /// Where the document breaks its schema: the first hundred places, and how many there are.
    ///
    /// Elements that lack attributes do not, since they are built up step by step. Unknown tags and
    /// attributes, values of the wrong type, children in the wrong place, elements without an `$id` or
    /// with one that an earlier element has, shared types that make no element tree do.
    pub fn violations(&mut self) -> Violations {
        let offences = self.offences();
        let mut violations = Violations::default();
        for offence in offences {
            violations.report(|| self.describe(offence));
        }
        violations
    }

    /// Removes what breaks the schema, and nothing else; `None` if nothing does.
    ///
    /// All replicas that see the same state remove the same, so that repairs converge.
    pub fn repair(&mut self) -> Option<Repair> {
        let mut violations = Violations::default();
        let mut removed: Vec<IdRange> = Vec::new();
        // What is inside of something that goes is not looked at twice; a second look finds what was
        // behind it.
        loop {
            let offences = self.offences();
            if offences.is_empty() {
                break;
            }
            // Before anything is removed, since that changes where the rest is.
            let first = offences.iter().take(violations.room());
            let texts: Vec<Violation> = first.map(|&offence| self.describe(offence)).collect();
            let mut texts = texts.into_iter();
            let before = removed.len();
            for offence in offences {
                let text = texts.next();
                let ranges = self.ranges_of(offence);
                if ranges.is_empty() || self.take_up(&[], &ranges, &mut 0).is_err() {
                    continue;
                }
                removed.extend(ranges);
                match text {
                    Some(text) => violations.report(|| text),
                    None => violations.count(),
                }
            }
            if removed.len() == before {
                break;
            }
        }
        self.close_event(Origin::Local);
        let update = writer::update(Vec::new(), removed, |_| 0).ok()?;
        (violations.total() > 0).then_some(Repair { update, violations })
    }

    /// Notes that a node may break the schema.
    pub(super) fn suspect(&mut self, index: NodeIndex) {
        let node = self.engine.node_mut(index);
        if !node.is_suspect && !node.is_dead {
            node.is_suspect = true;
            self.suspects.push(index);
        }
    }

    fn offences(&mut self) -> Vec<Offence> {
        let mut offences: Vec<(NodeIndex, Offence)> = Vec::new();
        let mut firsts = Firsts::default();
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
                self.check_node(index, &mut firsts, &mut |found| {
                    offences.push((index, found));
                });
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
    fn involved(&self, index: NodeIndex, firsts: &mut Firsts, more: &mut Vec<NodeIndex>) {
        if let Some(several) = self.ids.namesakes(&self.engine, index)
            && let Some(&lowest) = several.first()
            && let Entry::Vacant(entry) = firsts.of_id.entry(lowest)
            && let Some(first) = self.first_in_document(several.iter().copied())
        {
            entry.insert(first);
            more.extend(several);
        }
        if self.tag(index) == TEXT_TAG {
            let children = self.engine.children(index);
            more.extend(children.filter(|&child| self.engine.node(child).kind == NodeKind::Text));
        }
    }

    fn check_node(&self, index: NodeIndex, firsts: &mut Firsts, report: &mut dyn FnMut(Offence)) {
        let node = self.engine.node(index);
        if matches!(node.kind, NodeKind::Root(_)) && index > ROOT_ATTRIBUTES_NODE {
            if self.engine.contents(index).next().is_some() {
                report(Offence::Root(index));
            }
            return;
        }
        if index == ROOT_ATTRIBUTES_NODE {
            self.check_content(index, report);
            return self.check_attributes(ROOT_NODE, report);
        }
        if node.key != NONE {
            // Whatever it is the value of is looked at with the attributes of its parent.
            return;
        }
        let around = self.engine.node(if index == ROOT_NODE {
            index
        } else {
            node.parent
        });
        match (node.kind, around.kind) {
            (NodeKind::Root(_), _) => {}
            (NodeKind::Foreign(_), _) | (_, NodeKind::Foreign(_) | NodeKind::Text) => {
                return report(Offence::Foreign(index));
            }
            (NodeKind::Text, _) => return self.check_text(index, firsts, report),
            (NodeKind::Element(_), _) => {
                if let Some(offence) = self.check_place(index, firsts) {
                    return report(offence);
                }
            }
        }
        self.check_attributes(index, report);
        self.check_content(index, report);
    }

    /// An element's tag, its place, its `$id`: any of them wrong, and all of it goes.
    fn check_place(&self, index: NodeIndex, firsts: &Firsts) -> Option<Offence> {
        let tag = self.tag(index);
        let parent = self
            .schema
            .element(self.tag(self.engine.node(index).parent));
        let allowed = parent.and_then(ElementType::child_property);
        let is_allowed = allowed.is_some_and(|children| children.allows(tag))
            && parent.is_some_and(|parent| parent.tag() != TEXT_TAG)
            && self.schema.element(tag).is_some();
        match id_of(&self.engine, index) {
            _ if !is_allowed => Some(Offence::Place(index)),
            None => Some(Offence::NoId(index)),
            Some(_) => {
                let several = self.ids.namesakes(&self.engine, index)?;
                let first = *firsts.of_id.get(several.first()?)?;
                (first != index).then_some(Offence::Id(index))
            }
        }
    }

    fn check_attributes(&self, index: NodeIndex, report: &mut dyn FnMut(Offence)) {
        let Some(element) = self.schema.element(self.tag(index)) else {
            return;
        };
        let beside = (index == ROOT_NODE).then_some(ROOT_ATTRIBUTES_NODE);
        let mut wrong: Vec<KeyIndex> = Vec::new();
        for node in [index].into_iter().chain(beside) {
            for (key, value) in self.engine.values(node) {
                let name = self.engine.name(key);
                if **name == *ID_ATTRIBUTE && index != ROOT_NODE {
                    continue;
                }
                let property = element.value_property(name);
                let is_fine = property.is_some_and(|property| is_allowed(property, value));
                if !is_fine {
                    wrong.push(key);
                }
            }
        }
        // All replicas list them in one order.
        wrong.sort_unstable_by_key(|&key| self.engine.name(key));
        for key in wrong {
            report(Offence::Attribute(index, key));
        }
    }

    /// What an element holds that is no node.
    fn check_content(&self, index: NodeIndex, report: &mut dyn FnMut(Offence)) {
        if self.engine.node(index).is_mixed && self.engine.foreign_items(index).next().is_some() {
            report(Offence::Content(index));
        }
    }

    /// A text is the only one in a `text` element, and has no attributes.
    fn check_text(&self, index: NodeIndex, firsts: &mut Firsts, report: &mut dyn FnMut(Offence)) {
        let around = self.engine.node(index).parent;
        let is_first = self.tag(around) == TEXT_TAG && {
            let first = firsts.text_in.entry(around);
            *first.or_insert_with(|| self.text_in(around)) == Some(index)
        };
        if !is_first {
            return report(Offence::Text(index));
        }
        self.check_content(index, report);
        for (key, _) in self.engine.values(index) {
            report(Offence::TextAttribute(index, key));
        }
    }

    /// What has to be deleted.
    fn ranges_of(&self, offence: Offence) -> Vec<IdRange> {
        let index = offence.node();
        let is_root = matches!(offence, Offence::Root(_));
        if self.engine.node(index).is_dead && !is_root {
            return Vec::new();
        }
        match offence {
            Offence::Foreign(_)
            | Offence::Id(_)
            | Offence::NoId(_)
            | Offence::Place(_)
            | Offence::Text(_) => {
                vec![self.engine.item_range(self.engine.item_of(index))]
            }
            Offence::Content(_) => {
                let items = self.engine.foreign_items(index);
                items.map(|item| self.engine.item_range(item)).collect()
            }
            Offence::Root(_) => {
                let items = self.engine.contents(index);
                items.map(|item| self.engine.item_range(item)).collect()
            }
            Offence::Attribute(_, key) | Offence::TextAttribute(_, key) => {
                let name = self.engine.name(key);
                self.value_ranges(index, name)
            }
        }
    }

    /// An offence for people.
    fn describe(&self, offence: Offence) -> Violation {
        let index = offence.node();
        let node = self.engine.node(index);
        match offence {
            Offence::Root(_) => {
                let expected = "only the root types \"xml\" and \"xml.attributes\"";
                let NodeKind::Root(name) = node.kind else {
                    return Violation::new("", expected, "another");
                };
                let name = self.engine.name(name);
                Violation::new("", expected, format_args!("{name:?}"))
            }
            Offence::Foreign(_) => {
                let pointer = self.pointer(node.parent);
                Violation::new(pointer, "elements and texts", "another shared type")
            }
            Offence::Content(ROOT_ATTRIBUTES_NODE) => Violation::new(
                "",
                "nothing but attributes in \"xml.attributes\"",
                "something else",
            ),
            Offence::Content(_) => {
                Violation::new(self.pointer(index), "elements and texts", "something else")
            }
            Offence::Text(_) => {
                let expected = "one text, inside a \"text\" element";
                Violation::new(self.pointer(node.parent), expected, "another text")
            }
            Offence::NoId(_) => Violation::new(self.pointer(index), "an $id", "none"),
            Offence::Id(_) => {
                let id = id_of(&self.engine, index).unwrap_or_default();
                let found = format_args!("{id:?} again");
                Violation::new(self.pointer(index), "a unique $id", found)
            }
            Offence::Place(_) => {
                let tag = self.tag(index);
                let parent = self.schema.element(self.tag(node.parent));
                let (pointer, found) = (self.pointer(index), format_args!("{tag:?}"));
                match parent.and_then(ElementType::child_property) {
                    Some(children) => Violation::new(pointer, children.expectation(), found),
                    None => Violation::new(pointer, "no children", found),
                }
            }
            Offence::Attribute(_, key) | Offence::TextAttribute(_, key) => {
                let name = self.engine.name(key);
                let mut pointer = self.pointer(index);
                push_segment(&mut pointer, name);
                let beside = (index == ROOT_NODE).then_some(ROOT_ATTRIBUTES_NODE);
                let mut nodes = [index].into_iter().chain(beside);
                let value = nodes.find_map(|node| self.engine.value(node, key));
                let is_beyond_numbers = value.is_some_and(Content::is_beyond_numbers);
                let value = value.and_then(Content::shallow);
                let found = match &value {
                    _ if is_beyond_numbers => "a number that JSON does not have",
                    Some(value) => kind_of(value),
                    None => "a shared type",
                };
                if matches!(offence, Offence::TextAttribute(..)) {
                    return Violation::new(pointer, "a text without attributes", found);
                }
                let element = self.schema.element(self.tag(index));
                let property = element.and_then(|element| element.value_property(name));
                if let Some(property) = property {
                    return Violation::new(pointer, property.expectation(), found);
                }
                let tag = self.tag(index);
                let expected = format_args!("a property of {tag:?}");
                Violation::new(pointer, expected, found)
            }
        }
    }

    /// JSON pointer to an element.
    fn pointer(&self, index: NodeIndex) -> String {
        let mut above = Vec::new();
        let mut at = index;
        while at != ROOT_NODE && !matches!(self.engine.node(at).kind, NodeKind::Root(_)) {
            above.push(at);
            at = self.engine.node(at).parent;
        }
        let mut pointer = String::new();
        push_segment(&mut pointer, self.schema.root().tag());
        for &at in above.iter().rev() {
            let parent = self.schema.element(self.tag(self.engine.node(at).parent));
            let list = parent.and_then(ElementType::child_property);
            push_segment(&mut pointer, list.map_or("children", |list| list.name()));
            push_segment(&mut pointer, &self.index_in_parent(at).to_string());
            push_segment(&mut pointer, self.tag(at));
        }
        pointer
    }
}

/// Whether a property may have a value, of which no more is read than tells.
fn is_allowed(property: &ValueProperty, value: &Content) -> bool {
    // JSON shows it as null, and has no number like it.
    if value.is_beyond_numbers() {
        return false;
    }
    let Some(variants) = property.variants() else {
        return value.shallow().is_some_and(|value| property.allows(&value));
    };
    let is_list = |value: &Value| value.is_array() || value.is_object();
    let texts = variants.iter().filter_map(Value::as_str);
    // A character has twelve bytes at most, escaped.
    let longest = texts.map(|text| text.len() * 12).max().unwrap_or(0);
    if value.value_bytes() > longest.max(COMPARED_BYTES) {
        return false;
    }
    let value = match value.shallow() {
        Some(shallow) if is_list(&shallow) && !variants.iter().any(is_list) => None,
        _ => value.value(),
    };
    value.is_some_and(|value| property.allows(&value))
}
