//! Validation of a document's JSON: all violations, each with its JSON pointer.

use std::collections::HashSet;
use std::fmt;
use std::iter::Enumerate;
use std::slice;

use serde_json::{Map, Value};

use super::violation::{Names, Violation, Violations, push_segment};
use super::{ChildProperty, ElementProperty, ElementType, ID_ATTRIBUTE, MeshSchema, TEXT_TAG};

impl MeshSchema {
    /// Returns all violations in a document's JSON, `{root tag: {…}}`.
    ///
    /// Missing attributes are not violations. `$id` is permitted everywhere, but must be unique.
    /// The attributes of a root that can't have children may also stand alone, without the root tag
    /// around them.
    ///
    /// ```
    /// # use meshagent_document::{ElementType, MeshSchema, SimpleValue, ValueProperty};
    /// # use serde_json::json;
    /// let title = ValueProperty::new("title", SimpleValue::String);
    /// let schema = MeshSchema::new("page", vec![ElementType::new("page").property(title)])?;
    /// assert!(schema.validate(&json!({ "page": { "title": "茶" } })).is_empty());
    ///
    /// let violations = schema.validate(&json!({ "page": { "title": 1 } }));
    /// assert_eq!(violations.to_string(), "/page/title: expected string or null, found 1");
    /// # Ok::<(), meshagent_document::SchemaError>(())
    /// ```
    pub fn validate(&self, json: &Value) -> Violations {
        match self.root_content(json) {
            Ok((pointer, content)) => {
                let mut validation = Validation::new(self, pointer);
                validation.open(None, self.root(), content);
                validation.run()
            }
            Err(violation) => violation.into(),
        }
    }

    /// Returns all violations in an element, `{tag: {…}}`, as a child of another element.
    pub(crate) fn validate_child(&self, parent: &ElementType, json: &Value) -> Violations {
        let mut validation = Validation::new(self, String::new());
        match parent.child_property() {
            Some(children) if parent.tag != TEXT_TAG => {
                validation.child(parent, children, None, 0, json);
                if let Some((tag, child, content)) = validation.child_of(json)
                    && children.allows(tag)
                {
                    validation.open(Some((None, 0, tag)), child, content);
                }
                validation.run()
            }
            _ => Violation::new("", "no children", kind_of(json)).into(),
        }
    }

    /// Returns all violations in an element's properties.
    pub(crate) fn validate_attributes(
        &self,
        element: &ElementType,
        attributes: &Map<String, Value>,
    ) -> Violations {
        let mut validation = Validation::new(self, String::new());
        validation.open(None, element, attributes);
        let violations = validation.run();
        if violations.is_empty() {
            return Violation::new("", "an attribute", "something else").into();
        }
        violations
    }

    /// The root element's content in a document's JSON.
    pub(crate) fn root_content<'a>(
        &self,
        json: &'a Value,
    ) -> Result<(String, &'a Map<String, Value>), Violation> {
        let root = self.root();
        let expected = format_args!("an object with the single key {:?}", root.tag);
        let Value::Object(members) = json else {
            return Err(Violation::new("", expected, kind_of(json)));
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
                let expected = format_args!("an object with the properties of {:?}", root.tag);
                Err(Violation::new(pointer, expected, kind_of(value)))
            }
            _ => Err(Violation::new(pointer, expected, Keys(members))),
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

/// An element under validation: its location and its remaining children.
struct Open<'a> {
    // The list that contains it, its index there, and its tag; `None` at the start of the pointer.
    place: Option<Step<'a>>,
    // The name of its child list.
    list: Option<&'a str>,
    children: Enumerate<slice::Iter<'a, Value>>,
    allowed: Option<&'a ChildProperty>,
}

/// A list's name (`None` at the start of the pointer), an index in it, and the tag there.
type Step<'a> = (Option<&'a str>, usize, &'a str);

struct Validation<'a> {
    schema: &'a MeshSchema,
    // The prefix of all pointers.
    base: String,
    violations: Violations,
    ids: HashSet<&'a str>,
    // A stack instead of recursion, since the depth of the value is not limited here. The pointer
    // of a violation is built from it, so valid elements need no text.
    stack: Vec<Open<'a>>,
}

impl<'a> Validation<'a> {
    fn new(schema: &'a MeshSchema, base: String) -> Self {
        Self {
            schema,
            base,
            violations: Violations::default(),
            ids: HashSet::new(),
            stack: Vec::new(),
        }
    }

    fn run(mut self) -> Violations {
        while let Some(innermost) = self.stack.last_mut() {
            let Some((index, item)) = innermost.children.next() else {
                self.stack.pop();
                continue;
            };
            let (list, allowed) = (innermost.list, innermost.allowed);
            if let Some((tag, child, content)) = self.child_of(item)
                && allowed.is_some_and(|allowed| allowed.allows(tag))
            {
                self.open(Some((list, index, tag)), child, content);
            }
        }
        self.violations
    }

    /// Validates an element's properties, and queues its children.
    fn open(
        &mut self,
        place: Option<Step<'a>>,
        element: &'a ElementType,
        content: &'a Map<String, Value>,
    ) {
        let allowed = element.child_property();
        let allowed = allowed.filter(|_| element.tag != TEXT_TAG);
        let list = allowed.and_then(|list| content.get_key_value(&list.name));
        let items = list.and_then(|(_, items)| items.as_array());
        self.stack.push(Open {
            place,
            list: list.map(|(name, _)| &**name),
            children: items.map_or(&[][..], Vec::as_slice).iter().enumerate(),
            allowed,
        });
        for (name, value) in content {
            self.property(element, name, value);
        }
    }

    fn property(&mut self, element: &'a ElementType, name: &'a str, value: &'a Value) {
        if name == ID_ATTRIBUTE {
            match value.as_str() {
                Some(id) if self.ids.insert(id) => {}
                Some(id) => {
                    self.report(&[name], "a unique $id", format_args!("{id:?} twice"));
                }
                None => self.report(&[name], "a string", kind_of(value)),
            }
            return;
        }
        if let Some(property) = element.value_property(name) {
            if !property.allows(value) {
                self.report(&[name], property.expectation(), Shown(value));
            }
            return;
        }
        match element.child_property() {
            Some(children) if children.name == name => self.children(element, children, value),
            _ => {
                let expected =
                    format_args!("a property of {:?}{}", element.tag, PropertiesOf(element));
                self.report(&[name], expected, format_args!("{name:?}"));
            }
        }
    }

    fn children(
        &mut self,
        element: &'a ElementType,
        children: &'a ChildProperty,
        value: &'a Value,
    ) {
        let name = &*children.name;
        let Value::Array(items) = value else {
            self.report(&[name], "a list of children", kind_of(value));
            return;
        };
        for (index, item) in items.iter().enumerate() {
            self.child(element, children, Some(name), index, item);
        }
    }

    /// Checks whether a child may be there. Its content is checked later.
    fn child(
        &mut self,
        element: &'a ElementType,
        children: &'a ChildProperty,
        list: Option<&str>,
        index: usize,
        item: &'a Value,
    ) {
        if element.tag != TEXT_TAG
            && self
                .child_of(item)
                .is_some_and(|(tag, ..)| children.allows(tag))
        {
            return;
        }
        let number = list.map(|_| index.to_string());
        let segments = |more: &[&'a str]| -> Vec<&str> {
            let place = list.into_iter().chain(number.as_deref());
            place.chain(more.iter().copied()).collect()
        };
        let only = item.as_object().filter(|item| item.len() == 1);
        let Some((tag, content)) = only.and_then(|item| item.iter().next()) else {
            let expected = "an object with its tag as the only key";
            self.report(&segments(&[]), expected, kind_of(item));
            return;
        };
        if element.tag == TEXT_TAG {
            self.text(&segments(&[]), index, tag, content);
        } else if !children.allows(tag) {
            let found = format_args!("{tag:?}");
            self.report(&segments(&[]), children.expectation(), found);
        } else {
            self.report(&segments(&[tag]), "an object", kind_of(content));
        }
    }

    /// Checks the only child of an element that holds text.
    fn text(&mut self, place: &[&str], index: usize, tag: &str, content: &Value) {
        let delta = content.get("delta").and_then(Value::as_array);
        let (TEXT_TAG, 0, Some(delta)) = (tag, index, delta) else {
            let expected = "one child, {\"text\": {\"delta\": […]}}";
            self.report(place, expected, format_args!("{tag:?}"));
            return;
        };
        for (index, run) in delta.iter().enumerate() {
            let is_text = run.get("insert").is_some_and(Value::is_string);
            let attributes = run.get("attributes");
            if is_text && matches!(attributes, None | Some(Value::Null | Value::Object(_))) {
                continue;
            }
            let number = index.to_string();
            let mut place = [place, &[TEXT_TAG, "delta", &number]].concat();
            if !is_text {
                let expected = "{\"insert\": text, \"attributes\": {…}}";
                self.report(&place, expected, kind_of(run));
            } else {
                place.push("attributes");
                self.report(&place, "an object", attributes.map_or("nothing", kind_of));
            }
        }
    }

    /// The tag, type and content of an item that has the form of a child.
    fn child_of(
        &self,
        item: &'a Value,
    ) -> Option<(&'a str, &'a ElementType, &'a Map<String, Value>)> {
        let only = item.as_object().filter(|item| item.len() == 1)?;
        let (tag, content) = only.iter().next()?;
        Some((tag, self.schema.element(tag)?, content.as_object()?))
    }

    /// Reports a violation at a location below the current element.
    fn report(&mut self, below: &[&str], expected: impl fmt::Display, found: impl fmt::Display) {
        let Self {
            base,
            stack,
            violations,
            ..
        } = self;
        violations.report(|| {
            let mut pointer = base.clone();
            for open in stack.iter() {
                if let Some((list, index, tag)) = open.place {
                    if let Some(list) = list {
                        push_segment(&mut pointer, list);
                        push_segment(&mut pointer, &index.to_string());
                    }
                    push_segment(&mut pointer, tag);
                }
            }
            for segment in below {
                push_segment(&mut pointer, segment);
            }
            Violation::new(pointer, expected, found)
        });
    }
}

/// The kind of a value, for messages.
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

/// A value for messages: itself if it is short, otherwise its kind.
pub(crate) struct Shown<'a>(pub(crate) &'a Value);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHORT: usize = 40;
        match self.0 {
            Value::String(text) if text.len() <= SHORT => write!(formatter, "{text:?}"),
            Value::Bool(_) | Value::Number(_) => write!(formatter, "{}", self.0),
            other => formatter.write_str(kind_of(other)),
        }
    }
}

struct Keys<'a>(&'a Map<String, Value>);

impl fmt::Display for Keys<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        if self.0.is_empty() {
            return formatter.write_str("an empty object");
        }
        formatter.write_str("the keys ")?;
        for (index, key) in self.0.keys().take(SHOWN).enumerate() {
            let before = if index > 0 { ", " } else { "" };
            write!(formatter, "{before}{key:?}")?;
        }
        let more = if self.0.len() > SHOWN { ", …" } else { "" };
        formatter.write_str(more)
    }
}

struct PropertiesOf<'a>(&'a ElementType);

impl fmt::Display for PropertiesOf<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.properties.is_empty() {
            return match self.0.child_property() {
                Some(list) => write!(formatter, " ({})", list.name()),
                None => formatter.write_str(" (it has none)"),
            };
        }
        write!(
            formatter,
            " ({})",
            Names(&self.0.properties, ElementProperty::name)
        )
    }
}
