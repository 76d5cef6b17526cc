//! Initial content: JSON that fits the schema, written as one update.

use serde_json::{Map, Value};
use thiserror::Error;

use super::MeshDocument;
use crate::engine::{ROOT, ROOT_ATTRIBUTES};
use crate::schema::{ElementType, ID_ATTRIBUTE, MeshSchema, TEXT_TAG, Violations};
use crate::update::DecodeError;
use crate::update::scan::Id;
use crate::update::writer::{Builder, Place};

/// Why JSON was not inserted. The document does not change.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InsertError {
    /// The schema does not allow the content.
    #[error("the schema does not allow this: {0}")]
    Invalid(Violations),
    /// The content exceeds a limit of the document.
    #[error("the content is too large")]
    TooLarge(#[source] DecodeError),
    /// The document already has content.
    #[error("the document already has content; edit it instead")]
    NotEmpty,
}

impl MeshDocument {
    /// Fills a new document with JSON, `{root tag: {…}}`. Elements without an `$id` get one
    /// from `next_id`.
    ///
    /// # Errors
    /// [`InsertError`]; the document does not change.
    pub fn insert_json(
        &mut self,
        json: &Value,
        next_id: &mut dyn FnMut() -> String,
    ) -> Result<(), InsertError> {
        let violations = self.schema.validate(json);
        if !violations.is_empty() {
            return Err(InsertError::Invalid(violations));
        }
        if !self.engine.is_empty() || self.has_gap() {
            return Err(InsertError::NotEmpty);
        }
        let Ok((_, content)) = self.schema.root_content(json) else {
            return Ok(());
        };
        let mut builder = Builder::new(self.client_id, 0);
        let root = self.schema.root();
        for (name, value) in content {
            if root.value_property(name).is_some() {
                builder.attribute(Place::RootKey(ROOT_ATTRIBUTES, name), value);
            }
        }
        let children = children_of(root, content).unwrap_or_default();
        build_children(
            &mut builder,
            &self.schema,
            Parent::Root,
            None,
            children,
            next_id,
        );
        let update = builder.finish();
        let is_shared = self.is_client_id_shared;
        self.apply_update(&update).map_err(InsertError::TooLarge)?;
        self.is_client_id_shared = is_shared;
        Ok(())
    }
}

/// The parent of new elements.
#[derive(Clone, Copy)]
pub(super) enum Parent {
    Item(Id),
    Root,
}

/// Builds elements with their descendants, without recursion. `first` places the first element, the
/// others follow it.
pub(super) fn build_children<'a>(
    builder: &mut Builder,
    schema: &'a MeshSchema,
    parent: Parent,
    first: Option<Place<'_>>,
    children: &'a [Value],
    next_id: &mut dyn FnMut() -> String,
) {
    let mut first = first;
    // The lists under construction: parent, last child built, remaining children.
    let mut stack = vec![(parent, None::<Id>, children.iter())];
    while let Some((parent, last, rest)) = stack.last_mut() {
        let Some(child) = rest.next() else {
            stack.pop();
            continue;
        };
        let Some((tag, Value::Object(content))) = child.as_object().and_then(only) else {
            continue;
        };
        let place = match (first.take(), *parent, *last) {
            (Some(first), ..) => first,
            (None, _, Some(_)) => Place::Between(*last, None),
            (None, Parent::Item(parent), None) => Place::Only(parent),
            (None, Parent::Root, None) => Place::OnlyInRoot(ROOT),
        };
        let id = build_element(builder, schema, place, tag, content, next_id);
        *last = Some(id);
        let element = schema.element(tag);
        let children = element.and_then(|element| children_of(element, content));
        if tag != TEXT_TAG {
            stack.push((Parent::Item(id), None, children.unwrap_or_default().iter()));
        }
    }
}

/// Builds one element with its attributes and its text, but without its child elements.
fn build_element(
    builder: &mut Builder,
    schema: &MeshSchema,
    place: Place<'_>,
    tag: &str,
    content: &Map<String, Value>,
    next_id: &mut dyn FnMut() -> String,
) -> Id {
    let id = builder.element(place, tag);
    let element = schema.element(tag);
    let name = match content.get(ID_ATTRIBUTE) {
        Some(Value::String(name)) => name.clone(),
        _ => next_id(),
    };
    builder.attribute(Place::Key(id, ID_ATTRIBUTE), &name.into());
    for (name, value) in content {
        if element.is_some_and(|element| element.value_property(name).is_some()) {
            builder.attribute(Place::Key(id, name), value);
        }
    }
    if tag == TEXT_TAG {
        let text = builder.text(Place::Only(id));
        let children = element.and_then(|element| children_of(element, content));
        let delta =
            children.and_then(|children| children.first()?.get(TEXT_TAG)?.get("delta")?.as_array());
        build_delta(builder, text, delta.map_or(&[], Vec::as_slice));
    }
    id
}

/// Each run has its own formatting marks: set before it, cleared after it.
fn build_delta(builder: &mut Builder, text: Id, delta: &[Value]) {
    let mut last = None;
    let place = |last: Option<Id>| match last {
        Some(_) => Place::Between(last, None),
        None => Place::Only(text),
    };
    for run in delta {
        let insert = run
            .get("insert")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if insert.is_empty() {
            continue;
        }
        let attributes = run.get("attributes").and_then(Value::as_object);
        let attributes = attributes.into_iter().flatten();
        let attributes: Vec<_> = attributes.filter(|(_, value)| !value.is_null()).collect();
        for (key, value) in &attributes {
            last = Some(builder.format(place(last), key, value));
        }
        last = Some(builder.characters(place(last), insert));
        for (key, _) in &attributes {
            last = Some(builder.format(place(last), key, &Value::Null));
        }
    }
}

fn children_of<'a>(element: &ElementType, content: &'a Map<String, Value>) -> Option<&'a [Value]> {
    let children = content.get(element.child_property()?.name())?;
    children.as_array().map(Vec::as_slice)
}

fn only(object: &Map<String, Value>) -> Option<(&String, &Value)> {
    object.iter().next()
}
