//! A document's JSON against its schema: all violations at once, each by JSON pointer.

use std::collections::HashSet;

use serde_json::{Map, Value};
use thiserror::Error;

use super::{ChildProperty, ElementProperty, ElementType, ID_ATTRIBUTE, MeshSchema, TEXT_TAG};

/// A place that the schema forbids.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}: expected {expected}, found {found}", if .pointer.is_empty() { "document" } else { .pointer })]
pub struct Violation {
    /// JSON pointer (RFC 6901) to the place.
    pub pointer: String,
    /// What the schema allows there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl MeshSchema {
    /// All places where a document's JSON, `{root tag: {…}}`, breaks the schema.
    ///
    /// Missing attributes are no violation, nor is `$id`, as long as no two are equal. The attributes
    /// of a root that can't have children may also stand alone, without the root tag around them.
    pub fn validate(&self, json: &Value) -> Vec<Violation> {
        let mut validation = Validation {
            schema: self,
            violations: Vec::new(),
            ids: HashSet::new(),
            stack: Vec::new(),
        };
        match self.root_content(json) {
            Ok((pointer, content)) => {
                validation.stack.push((pointer, self.root(), content));
                validation.run();
            }
            Err(violation) => validation.violations.push(violation),
        }
        validation.violations
    }

    /// All places where an element, `{tag: {…}}`, breaks the schema as a child of another.
    pub(crate) fn validate_child(&self, parent: &ElementType, json: &Value) -> Vec<Violation> {
        let mut validation = Validation {
            schema: self,
            violations: Vec::new(),
            ids: HashSet::new(),
            stack: Vec::new(),
        };
        match parent.child_property() {
            Some(children) if parent.tag != TEXT_TAG => {
                validation.child(String::new(), parent, children, 0, json);
                validation.run();
            }
            _ => validation.report(String::new(), "no children", kind_of(json)),
        }
        validation.violations
    }

    /// All of an element's properties that break the schema.
    pub(crate) fn validate_attributes(
        &self,
        element: &ElementType,
        attributes: &Map<String, Value>,
    ) -> Vec<Violation> {
        let mut validation = Validation {
            schema: self,
            violations: Vec::new(),
            ids: HashSet::new(),
            stack: vec![(String::new(), element, attributes)],
        };
        validation.run();
        if validation.violations.is_empty() {
            validation.report(String::new(), "an attribute", "something else");
        }
        validation.violations
    }

    /// The root element's content in a document's JSON.
    pub(crate) fn root_content<'a>(
        &self,
        json: &'a Value,
    ) -> Result<(String, &'a Map<String, Value>), Violation> {
        let root = self.root();
        let expected = || format!("an object with the one key {:?}", root.tag);
        let Value::Object(members) = json else {
            return Err(Violation::new(String::new(), expected(), kind_of(json)));
        };
        let mut pointer = String::new();
        match members.get(&root.tag) {
            Some(Value::Object(content)) if members.len() == 1 => {
                push_segment(&mut pointer, &root.tag);
                Ok((pointer, content))
            }
            _ if root.is_flat(members) => Ok((pointer, members)),
            Some(value) if members.len() == 1 => {
                push_segment(&mut pointer, &root.tag);
                let expected = format!("an object with the properties of {:?}", root.tag);
                Err(Violation::new(pointer, expected, kind_of(value)))
            }
            _ => Err(Violation::new(pointer, expected(), keys_of(members))),
        }
    }
}

impl ElementType {
    fn is_flat(&self, members: &Map<String, Value>) -> bool {
        self.child_property().is_none()
            && members
                .keys()
                .all(|name| self.value_property(name).is_some())
    }
}

struct Validation<'a> {
    schema: &'a MeshSchema,
    violations: Vec<Violation>,
    ids: HashSet<&'a str>,
    // Elements that are still to be looked at: pointer, type, content. A stack instead of recursion,
    // since nothing here bounds the depth of the value.
    stack: Vec<(String, &'a ElementType, &'a Map<String, Value>)>,
}

impl<'a> Validation<'a> {
    fn run(&mut self) {
        while let Some((pointer, element, content)) = self.stack.pop() {
            let below = self.stack.len();
            for (name, value) in content {
                let mut pointer = pointer.clone();
                push_segment(&mut pointer, name);
                self.property(pointer, element, name, value);
            }
            // In document order, although a stack turns it round.
            self.stack[below..].reverse();
        }
    }

    fn property(
        &mut self,
        pointer: String,
        element: &'a ElementType,
        name: &str,
        value: &'a Value,
    ) {
        if name == ID_ATTRIBUTE {
            match value.as_str() {
                Some(id) if self.ids.insert(id) => {}
                Some(id) => self.report(pointer, "a unique $id", format!("{id:?} again")),
                None => self.report(pointer, "a string", kind_of(value)),
            }
            return;
        }
        if let Some(property) = element.value_property(name) {
            if !property.allows(value) {
                self.report(pointer, property.expectation(), shown(value));
            }
            return;
        }
        match element.child_property() {
            Some(children) if children.name == name => {
                self.children(&pointer, element, children, value);
            }
            _ => {
                let expected = format!("a property of {:?}{}", element.tag, names_of(element));
                self.report(pointer, expected, format!("{name:?}"));
            }
        }
    }

    fn children(
        &mut self,
        pointer: &str,
        element: &'a ElementType,
        children: &'a ChildProperty,
        value: &'a Value,
    ) {
        let Value::Array(items) = value else {
            self.report(pointer.to_owned(), "a list of children", kind_of(value));
            return;
        };
        for (index, item) in items.iter().enumerate() {
            self.child(format!("{pointer}/{index}"), element, children, index, item);
        }
    }

    fn child(
        &mut self,
        pointer: String,
        element: &'a ElementType,
        children: &'a ChildProperty,
        index: usize,
        item: &'a Value,
    ) {
        let only = item.as_object().filter(|item| item.len() == 1);
        let Some((tag, content)) = only.and_then(|item| item.iter().next()) else {
            self.report(pointer, "an object with one key, its tag", kind_of(item));
            return;
        };
        if element.tag == TEXT_TAG {
            self.text(pointer, index, tag, content);
            return;
        }
        if !children.allows(tag) {
            self.report(pointer, tags_of(children), format!("{tag:?}"));
            return;
        }
        let mut pointer = pointer;
        push_segment(&mut pointer, tag);
        match (self.schema.element(tag), content) {
            (Some(child), Value::Object(content)) => self.stack.push((pointer, child, content)),
            _ => self.report(pointer, "an object", kind_of(content)),
        }
    }

    /// The one child of an element that holds text.
    fn text(&mut self, pointer: String, index: usize, tag: &str, content: &Value) {
        let delta = content.get("delta").and_then(Value::as_array);
        let (TEXT_TAG, 0, Some(delta)) = (tag, index, delta) else {
            let expected = "one child, {\"text\": {\"delta\": […]}}";
            self.report(pointer, expected, format!("{tag:?}"));
            return;
        };
        for (index, run) in delta.iter().enumerate() {
            let pointer = format!("{pointer}/text/delta/{index}");
            if !run.get("insert").is_some_and(Value::is_string) {
                self.report(
                    pointer,
                    "{\"insert\": text, \"attributes\": {…}}",
                    kind_of(run),
                );
            } else if !matches!(
                run.get("attributes"),
                None | Some(Value::Null | Value::Object(_))
            ) {
                self.report(pointer + "/attributes", "an object", "something else");
            }
        }
    }

    fn report(&mut self, pointer: String, expected: impl Into<String>, found: impl Into<String>) {
        let violation = Violation::new(pointer, expected, found);
        self.violations.push(violation);
    }
}

impl Violation {
    pub(crate) fn new(
        pointer: String,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self {
            pointer,
            expected: expected.into(),
            found: found.into(),
        }
    }
}

/// Appends one reference token to a JSON pointer.
pub(crate) fn push_segment(pointer: &mut String, segment: &str) {
    pointer.push('/');
    for character in segment.chars() {
        match character {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            other => pointer.push(other),
        }
    }
}

/// The kind of a value, for people.
pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A value for people: its kind, or itself if it is short.
fn shown(value: &Value) -> String {
    const SHORT: usize = 40;
    match value {
        Value::String(text) if text.len() <= SHORT => format!("{text:?}"),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        other => kind_of(other).to_owned(),
    }
}

fn keys_of(members: &Map<String, Value>) -> String {
    const SHOWN: usize = 5;
    if members.is_empty() {
        return "an empty object".to_owned();
    }
    let keys: Vec<String> = members
        .keys()
        .take(SHOWN)
        .map(|key| format!("{key:?}"))
        .collect();
    let more = if members.len() > SHOWN { ", …" } else { "" };
    format!("the keys {}{more}", keys.join(", "))
}

fn names_of(element: &ElementType) -> String {
    let names = element.properties.iter().map(ElementProperty::name);
    let names: Vec<&str> = names.collect();
    if names.is_empty() {
        " (which has none)".to_owned()
    } else {
        format!(" ({})", names.join(", "))
    }
}

fn tags_of(children: &ChildProperty) -> String {
    if children.tags.is_empty() {
        "no children".to_owned()
    } else {
        format!("one of the tags {}", children.tags.join(", "))
    }
}
