//! Checks the changes of a patch against the schema; unchanged parts are skipped.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use serde_json::{Map, Value, json};

use super::overlay::{self, Node, NodeIndex, Object, Place};
use super::pieces::Piece;
use crate::document::MeshDocument;
use crate::schema::{
    ChildProperty, ElementType, ID_ATTRIBUTE, TEXT_TAG, Violation, Violations, push_segment,
};

/// Returns the root element's content in a patched, settled document, if the schema allows it.
pub(super) fn check<'a>(
    document: &'a MeshDocument,
    json: &'a Node,
) -> Result<&'a Node, Violations> {
    let root = document.schema().root();
    let Node::Object(Object { members, .. }) = json else {
        return Err(document.schema().validate(&json.to_value(document)));
    };
    let Some(content) = members.get(root.tag()) else {
        let keys = members.keys().map(|key| (key.clone(), json!({})));
        return Err(document.schema().validate(&Value::Object(keys.collect())));
    };
    let mut check = Check {
        document,
        pointer: String::new(),
        violations: Violations::default(),
        given: Vec::new(),
        kept: Kept::default(),
    };
    push_segment(&mut check.pointer, root.tag());
    check.content(root, content);
    check.ids();
    if check.violations.is_empty() {
        Ok(content)
    } else {
        Err(check.violations)
    }
}

struct Check<'a> {
    document: &'a MeshDocument,
    /// The current location.
    pointer: String,
    violations: Violations,
    /// The `$id`s in the patch, with their locations.
    given: Vec<(&'a str, String)>,
    kept: Kept,
}

/// The elements that the patched document keeps unchanged.
#[derive(Default)]
struct Kept {
    /// Elements that were opened.
    opened: HashSet<NodeIndex>,
    /// Elements kept with their descendants.
    whole: HashSet<NodeIndex>,
    /// Elements of which all children are kept, with their descendants.
    lists: HashSet<NodeIndex>,
    /// Elements of which some children are kept, as ascending index ranges.
    runs: HashMap<NodeIndex, Vec<Range<usize>>>,
}

impl<'a> Check<'a> {
    /// Recursive: no deeper than the pointers of a patch.
    fn content(&mut self, element: &'a ElementType, content: &'a Node) {
        let Node::Object(object) = content else {
            if let Node::Content(place) = content {
                self.kept.whole.insert(place.index);
            }
            return;
        };
        let before = object
            .origin
            .map(|place| overlay::attributes(self.document, place))
            .unwrap_or_default();
        let list = element.child_property();
        let end = self.pointer.len();
        for (name, member) in &object.members {
            match (member, list.filter(|list| list.name() == name)) {
                (Node::Value(value), _) if before.get(name) == Some(value) => {
                    if let Some(place) = object.origin.filter(|_| name == ID_ATTRIBUTE) {
                        self.kept.opened.insert(place.index);
                    }
                }
                (Node::Value(value), _) => {
                    self.property(element, name, value);
                    push_segment(&mut self.pointer, name);
                    if name == ID_ATTRIBUTE {
                        let id = value.as_str();
                        self.given.extend(id.map(|id| (id, self.pointer.clone())));
                    } else if list.is_some_and(|list| list.name() == name) {
                        self.note_ids(element, value);
                    }
                }
                (member, Some(list)) => {
                    if element.tag() == TEXT_TAG && !is_own(element, self.document, member) {
                        self.property(element, name, &member.to_value(self.document));
                    }
                    push_segment(&mut self.pointer, name);
                    self.list(element, list, member);
                }
                (member, None) => {
                    self.property(element, name, &member.to_value(self.document));
                }
            }
            self.pointer.truncate(end);
        }
    }

    fn list(&mut self, element: &'a ElementType, list: &'a ChildProperty, node: &'a Node) {
        let is_own = is_own(element, self.document, node);
        let mut index = 0;
        match node {
            Node::Children(place) => {
                self.kept.lists.insert(place.index);
                if !is_own {
                    self.run(
                        list,
                        element,
                        *place,
                        0..overlay::shown_children(self.document, *place),
                        0,
                    );
                }
            }
            Node::List(patched) => {
                for piece in patched.pieces.iter() {
                    match piece {
                        Piece::One(item) => {
                            self.item(element, list, index, item);
                            index += 1;
                        }
                        Piece::Run(run) => {
                            let Some(place) = patched.origin else {
                                continue;
                            };
                            let runs = self.kept.runs.entry(place.index).or_default();
                            runs.push(run.clone());
                            if !is_own {
                                self.run(list, element, place, run.clone(), index);
                            }
                            index += run.len();
                        }
                    }
                }
            }
            Node::Child(_) | Node::Content(_) | Node::Object(_) | Node::Value(_) => {}
        }
    }

    /// Children that come from an element of another type.
    fn run(
        &mut self,
        list: &ChildProperty,
        element: &ElementType,
        origin: Place,
        run: Range<usize>,
        index: usize,
    ) {
        for (index, child) in (index..).zip(run) {
            if let Some(child) = overlay::child(self.document, origin, child) {
                self.is_allowed(element, list, index, overlay::tag(self.document, child));
            }
        }
    }

    fn item(
        &mut self,
        element: &'a ElementType,
        list: &'a ChildProperty,
        index: usize,
        item: &'a Node,
    ) {
        match item {
            Node::Child(place) => {
                self.kept.whole.insert(place.index);
                let child = overlay::element(self.document, place.index);
                let parent = child.parent().map(|parent| parent.tag());
                if parent != Some(element.tag()) {
                    self.is_allowed(element, list, index, child.tag());
                }
            }
            Node::Object(object) => {
                let Some((tag, content)) = object.members.iter().next() else {
                    return;
                };
                if self.is_allowed(element, list, index, tag)
                    && let Some(element) = self.document.schema().element(tag)
                {
                    let end = self.pointer.len();
                    push_segment(&mut self.pointer, &index.to_string());
                    push_segment(&mut self.pointer, tag);
                    self.content(element, content);
                    self.pointer.truncate(end);
                }
            }
            Node::Value(value) => {
                let violations = self.document.schema().validate_child(element, value);
                let end = self.pointer.len();
                push_segment(&mut self.pointer, &index.to_string());
                self.report(violations);
                self.note_ids_in(value);
                self.pointer.truncate(end);
            }
            Node::Children(_) | Node::Content(_) | Node::List(_) => {}
        }
    }

    fn is_allowed(
        &mut self,
        element: &ElementType,
        list: &ChildProperty,
        index: usize,
        tag: &str,
    ) -> bool {
        if list.allows(tag) {
            return true;
        }
        let child = Value::Object(Map::from_iter([(tag.to_owned(), json!({}))]));
        let violations = self.document.schema().validate_child(element, &child);
        let end = self.pointer.len();
        push_segment(&mut self.pointer, &index.to_string());
        self.report(violations);
        self.pointer.truncate(end);
        false
    }

    fn property(&mut self, element: &ElementType, name: &str, value: &Value) {
        let is_fine = element
            .value_property(name)
            .is_some_and(|property| property.allows(value));
        if !is_fine {
            let content = Map::from_iter([(name.to_owned(), value.clone())]);
            let mut violations = self
                .document
                .schema()
                .validate_attributes(element, &content);
            // Without violations, `validate_attributes` returns a placeholder with an
            // empty pointer.
            violations.retain(|violation| !violation.pointer.is_empty());
            self.report(violations);
        }
    }

    fn report(&mut self, violations: Violations) {
        self.violations.extend_below(&self.pointer, violations);
    }

    /// Records the `$id`s in a list of new elements.
    fn note_ids(&mut self, element: &'a ElementType, list: &'a Value) {
        if element.tag() == TEXT_TAG {
            return;
        }
        let end = self.pointer.len();
        for (index, item) in list.as_array().into_iter().flatten().enumerate() {
            push_segment(&mut self.pointer, &index.to_string());
            self.note_ids_in(item);
            self.pointer.truncate(end);
        }
    }

    /// Records the `$id`s in a new element.
    fn note_ids_in(&mut self, item: &'a Value) {
        let mut stack = vec![(self.pointer.clone(), item)];
        while let Some((mut pointer, item)) = stack.pop() {
            let only = item.as_object().and_then(|item| item.iter().next());
            let Some((tag, Value::Object(content))) = only else {
                continue;
            };
            push_segment(&mut pointer, tag);
            if let Some(id) = content.get(ID_ATTRIBUTE).and_then(Value::as_str) {
                let mut pointer = pointer.clone();
                push_segment(&mut pointer, ID_ATTRIBUTE);
                self.given.push((id, pointer));
            }
            let element = self.document.schema().element(tag);
            let list = element.and_then(ElementType::child_property);
            let Some(list) = list.filter(|_| tag != TEXT_TAG) else {
                continue;
            };
            push_segment(&mut pointer, list.name());
            let children = content.get(list.name()).and_then(Value::as_array);
            let children = children.map_or(&[][..], Vec::as_slice);
            let children = children.iter().enumerate().rev();
            stack.extend(children.map(|(index, child)| {
                let mut pointer = pointer.clone();
                push_segment(&mut pointer, &index.to_string());
                (pointer, child)
            }));
        }
    }

    /// Checks that no two elements have the same `$id`.
    fn ids(&mut self) {
        let known = self.violations.iter();
        let known: HashSet<String> = known.map(|violation| violation.pointer.clone()).collect();
        let mut seen = HashSet::new();
        for (id, pointer) in &self.given {
            let other = self.document.node(id);
            let is_kept = other.is_some_and(|other| self.kept.contains(self.document, other.index));
            if (!seen.insert(*id) || is_kept) && !known.contains(pointer) {
                self.violations.report(|| {
                    Violation::new(pointer, "a unique $id", format_args!("{id:?} twice"))
                });
            }
        }
    }
}

impl Kept {
    fn contains(&self, document: &MeshDocument, index: NodeIndex) -> bool {
        if self.opened.contains(&index) {
            return true;
        }
        let mut at = overlay::element(document, index);
        loop {
            if self.whole.contains(&at.index) {
                return true;
            }
            let Some(parent) = overlay::above(at) else {
                return false;
            };
            if self.lists.contains(&parent.index) {
                return true;
            }
            if let Some(runs) = self.runs.get(&parent.index) {
                let index = document.index_in_parent(at.index);
                let at = runs.partition_point(|run| run.end <= index);
                if runs.get(at).is_some_and(|run| run.contains(&index)) {
                    return true;
                }
            }
            at = parent;
        }
    }
}

/// Whether a list comes from an element of this type.
fn is_own(element: &ElementType, document: &MeshDocument, list: &Node) -> bool {
    let origin = match list {
        Node::Children(place) => Some(*place),
        Node::List(list) => list.origin,
        _ => None,
    };
    origin.is_some_and(|place| overlay::tag(document, place) == element.tag())
}
