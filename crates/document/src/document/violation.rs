//! Schema violations of merged documents, and their repair by minimal deletions.
//!
//! Two valid edits can merge into an invalid state, and foreign programs may write anything. Only
//! nodes that changed since the last check are checked; the rest is known to be valid.

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

/// Lists and objects are compared with enumerated values up to this many encoded bytes.
const COMPARED_BYTES: usize = 64 << 10;

/// The effect of a repair.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Repair {
    /// The v1 update that brings other replicas to the same state.
    pub update: Vec<u8>,
    /// The removed violations.
    pub violations: Violations,
}

/// Content to be removed, and why. Its description is built only if it is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offence {
    /// A key that the element's type does not have, or that may not have this value.
    Attribute(NodeIndex, KeyIndex),
    /// Content other than elements, or in a text other than text, inside a node.
    Content(NodeIndex),
    /// A shared type that is neither an element nor a text.
    Foreign(NodeIndex),
    /// An `$id` that an earlier element has.
    Id(NodeIndex),
    /// An element without an `$id`.
    NoId(NodeIndex),
    /// An element with a tag that is not permitted at its place.
    Place(NodeIndex),
    /// All content of a root type.
    Root(NodeIndex),
    /// A second text in an element, or a text outside of a `text` element.
    Text(NodeIndex),
    /// A key of a text.
    TextAttribute(NodeIndex, KeyIndex),
}

/// Facts shared by all nodes under check.
#[derive(Default)]
struct Firsts {
    /// The first node in document order with an `$id`; the key is the lowest node with the
    /// same `$id`.
    of_id: HashMap<NodeIndex, NodeIndex>,
    /// The first text in an element.
    text_in: HashMap<NodeIndex, Option<NodeIndex>>,
}

impl Offence {
    /// The node to be checked again until the violation is gone.
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
    /// Returns the schema violations of the document: the first hundred, and their number.
    ///
    /// Violations are: unknown tags and attributes, values of a wrong type, children at a wrong
    /// place, elements without an `$id` or with that of an earlier element, and shared types that
    /// are neither elements nor texts. Missing attributes are not violations, since elements are
    /// built step by step.
    pub fn violations(&mut self) -> Violations {
        let offences = self.offences();
        let mut violations = Violations::default();
        for offence in offences {
            violations.report(|| self.describe(offence));
        }
        violations
    }

    /// Removes exactly the content that violates the schema; `None` if there are no violations.
    ///
    /// Replicas with the same state remove the same content, so repairs converge.
    pub fn repair(&mut self) -> Option<Repair> {
        let mut violations = Violations::default();
        let mut removed: Vec<IdRange> = Vec::new();
        // The content of removed nodes is not checked twice; another pass finds what was
        // behind them.
        loop {
            let offences = self.offences();
            if offences.is_empty() {
                break;
            }
            // Described before the removal, since that changes the locations of the rest.
            let first = offences.iter().take(violations.room());
            let texts: Vec<Violation> = first.map(|&offence| self.describe(offence)).collect();
            let mut texts = texts.into_iter();
            let before = removed.len();
            for offence in offences {
                let text = texts.next();
                let ranges = self.ranges_of(offence);
                if ranges.is_empty() || self.integrate(&[], &ranges, &mut 0).is_err() {
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

    /// Marks a node to be checked.
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
                // The index of a dead node may have been reused.
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
        // Nodes with violations are checked again until the violations are gone.
        for (offender, _) in &offences {
            self.engine.node_mut(*offender).is_suspect = false;
        }
        for (offender, _) in &offences {
            self.suspect(*offender);
        }
        offences.sort_by_key(|(offender, _)| *offender);
        offences.into_iter().map(|(_, found)| found).collect()
    }

    /// Finds the first of several nodes with one `$id`, and other nodes that this one
    /// may invalidate.
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
            // A node that is the value of a key is checked with the attributes of its parent.
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

    /// Checks an element's tag, place and `$id`; a violation removes the whole element.
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
        // Sorted, so that all replicas list them in the same order.
        wrong.sort_unstable_by_key(|&key| self.engine.name(key));
        for key in wrong {
            report(Offence::Attribute(index, key));
        }
    }

    /// Checks for content of an element that is not a node.
    fn check_content(&self, index: NodeIndex, report: &mut dyn FnMut(Offence)) {
        if self.engine.node(index).is_mixed && self.engine.foreign_items(index).next().is_some() {
            report(Offence::Content(index));
        }
    }

    /// Checks that a text is the only one in a `text` element and has no attributes.
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

    /// The operations to be deleted.
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

    /// Describes a violation for a report.
    fn describe(&self, offence: Offence) -> Violation {
        let index = offence.node();
        let node = self.engine.node(index);
        match offence {
            Offence::Root(_) => {
                let expected = "only the root types \"xml\" and \"xml.attributes\"";
                let NodeKind::Root(name) = node.kind else {
                    return Violation::new("", expected, "another root type");
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
                "other content",
            ),
            Offence::Content(_) => {
                Violation::new(self.pointer(index), "elements and texts", "other content")
            }
            Offence::Text(_) => {
                let expected = "one text, inside a \"text\" element";
                Violation::new(self.pointer(node.parent), expected, "another text")
            }
            Offence::NoId(_) => Violation::new(self.pointer(index), "an $id", "none"),
            Offence::Id(_) => {
                let id = id_of(&self.engine, index).unwrap_or_default();
                let found = format_args!("{id:?} twice");
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
                    _ if is_beyond_numbers => "a number that JSON can't represent",
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

    /// The JSON pointer of an element.
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

/// Whether a property may have a value; reads no more of the value than the decision needs.
fn is_allowed(property: &ValueProperty, value: &Content) -> bool {
    // JSON prints such a number as null, and no JSON number equals it.
    if value.is_beyond_numbers() {
        return false;
    }
    let Some(variants) = property.variants() else {
        return value.shallow().is_some_and(|value| property.allows(&value));
    };
    let is_list = |value: &Value| value.is_array() || value.is_object();
    let texts = variants.iter().filter_map(Value::as_str);
    // An escaped character has at most twelve bytes.
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
