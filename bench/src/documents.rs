//! Documents of any size in three shapes: a list, a tree, a chain.

use meshagent_document::{
    ChildProperty, ElementType, MeshDocument, MeshSchema, SimpleValue, ValueProperty,
};
use serde_json::{Map, Value, json};
use yrs::{Transact, Xml, XmlElementPrelim, XmlElementRef, XmlFragment};

use crate::engine;

/// The arrangement of a document's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Each element is the only child of the one before.
    Chain,
    /// Each element has ten children.
    Tree,
    /// All elements are children of the root.
    Wide,
}

impl Shape {
    /// The list of all shapes.
    pub const ALL: [Self; 3] = [Self::Wide, Self::Tree, Self::Chain];

    /// Returns the shape's name in tables and arguments.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chain => "deep",
            Self::Tree => "tree",
            Self::Wide => "wide",
        }
    }

    /// Returns a document of this shape and number of elements as one update, as yrs encodes it.
    ///
    /// Each element has an `$id`, a `name` and a `number`.
    ///
    /// # Panics
    /// If the library refuses the document.
    pub fn state(self, elements: usize) -> Vec<u8> {
        let json = match self {
            // JSON parsers refuse this depth, and yrs appends to the innermost element directly.
            Self::Chain => return chain(elements),
            Self::Tree => children_of(0, elements),
            Self::Wide => (1..=elements)
                .map(|number| element(number, Vec::new()))
                .collect(),
        };
        let mut document = document(1);
        document
            .insert_json(&json!({"doc": {"children": json}}), &mut String::new)
            .expect("the content matches the schema");
        let doc = engine::doc(2);
        engine::apply(&doc, &document.encode_state());
        engine::encode_state(&doc)
    }
}

/// Creates an empty document of our library.
///
/// # Panics
/// If the library refuses the schema.
pub fn document(client_id: u64) -> MeshDocument {
    let elements = vec![
        ElementType::new("doc").property(ChildProperty::new("children", ["item", "text"])),
        ElementType::new("item")
            .property(ValueProperty::new("name", SimpleValue::String))
            .property(ValueProperty::new("number", SimpleValue::Number))
            .property(ChildProperty::new("children", ["item"])),
        ElementType::new("text").property(ChildProperty::new("children", Vec::<String>::new())),
    ];
    let schema = MeshSchema::new("doc", elements).expect("the schema is valid");
    MeshDocument::new(schema, client_id)
}

/// Creates a document of our library from a state.
///
/// # Panics
/// If the library refuses the state.
pub fn open(client_id: u64, state: &[u8]) -> MeshDocument {
    let mut document = document(client_id);
    document.apply_update(state).expect("the state is valid");
    document
}

/// Returns the `$id` of an element by its number, from 1; it is as long as a UUID.
pub fn id(number: usize) -> String {
    let scattered = u32::try_from(number)
        .unwrap_or_default()
        .wrapping_mul(0x9e37_79b1);
    format!("{scattered:08x}-0000-4000-8000-{number:012x}")
}

/// Returns an element's children in a complete tree whose root has the number 0.
fn children_of(parent: usize, elements: usize) -> Vec<Value> {
    let first = parent * 10 + 1;
    let numbers = first..(first + 10).min(elements + 1).max(first);
    numbers
        .map(|number| element(number, children_of(number, elements)))
        .collect()
}

fn element(number: usize, children: Vec<Value>) -> Value {
    let mut content = Map::new();
    content.insert("$id".into(), id(number).into());
    content.insert("name".into(), format!("element {number}").into());
    content.insert("number".into(), number.into());
    if !children.is_empty() {
        content.insert("children".into(), children.into());
    }
    json!({ "item": content })
}

fn chain(elements: usize) -> Vec<u8> {
    let doc = engine::doc(1);
    let root = doc.get_or_insert_xml_fragment("xml");
    let mut transaction = doc.transact_mut();
    let mut innermost: Option<XmlElementRef> = None;
    for number in 1..=elements {
        let item = XmlElementPrelim::empty("item");
        let item = match &innermost {
            None => root.push_back(&mut transaction, item),
            Some(parent) => parent.push_back(&mut transaction, item),
        };
        item.insert_attribute(&mut transaction, "$id", id(number));
        item.insert_attribute(&mut transaction, "name", format!("element {number}"));
        let counted = f64::from(u32::try_from(number).unwrap_or_default());
        item.insert_attribute(&mut transaction, "number", counted);
        innermost = Some(item);
    }
    drop(transaction);
    engine::encode_state(&doc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_the_requested_number_of_elements() {
        for shape in Shape::ALL {
            for elements in [0, 1, 10, 123] {
                let document = open(9, &shape.state(elements));
                assert_eq!(document.element_count(), elements, "{shape:?}");
                assert_eq!(document.node(&id(elements)).is_some(), elements > 0);
            }
        }
    }
}
