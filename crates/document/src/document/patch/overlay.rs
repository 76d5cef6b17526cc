//! The document's JSON form, read only where a patch looks into it.
//!
//! A part that no operation has opened is a reference to the document. A child list is a table of
//! pieces: runs of unchanged children, and single values between them. So the cost of an operation
//! depends on its pointer, not on the size of the document.

pub(super) mod preview;

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Map, Value, json};

use super::is_equal;
use super::pieces::{Piece, Pieces};
use crate::document::MeshDocument;
use crate::document::json::{CHILDREN, MAX_DEPTH};
use crate::document::read::{Element, Text};
pub(in crate::document) use crate::engine::{NodeIndex, ROOT_NODE};
use crate::schema::{ChildProperty, ID_ATTRIBUTE, TEXT_TAG};

/// The levels of an element: the element, its content, its children.
const LEVELS_OF_ELEMENT: usize = 3;

/// The maximal nesting of an attribute's value, or of a text's format, below its element.
const LEVELS_OF_ATTRIBUTE: usize = 136;

/// A node of the document, and its level among elements; the root has level 1.
#[derive(Clone, Copy, Debug)]
pub(in crate::document) struct Place {
    pub(in crate::document) index: NodeIndex,
    pub(in crate::document) level: usize,
}

/// A value of the JSON form.
#[derive(Debug)]
pub(in crate::document) enum Node {
    /// An unchanged child, `{tag: {…}}`.
    Child(Place),
    /// An unchanged child list.
    Children(Place),
    /// The unchanged attributes and children of an element.
    Content(Place),
    /// An opened list.
    List(List),
    /// An opened object.
    Object(Object),
    /// A value from the patch, or one without elements in it.
    Value(Value),
}

#[derive(Debug)]
pub(in crate::document) struct List {
    /// The element whose children the runs are.
    pub(in crate::document) origin: Option<Place>,
    // Invariant: runs are in ascending order.
    pub(in crate::document) pieces: Pieces,
}

#[derive(Debug)]
pub(in crate::document) struct Object {
    /// The element that had this content.
    pub(in crate::document) origin: Option<Place>,
    pub(in crate::document) members: BTreeMap<String, Node>,
}

impl Node {
    /// The unchanged document.
    pub(super) fn document(document: &MeshDocument) -> Self {
        let root = Place {
            index: ROOT_NODE,
            level: 1,
        };
        Self::Object(Object {
            origin: None,
            members: [(tag(document, root).to_owned(), Self::Content(root))].into(),
        })
    }

    /// The value at these reference tokens.
    pub(super) fn get_mut(
        &mut self,
        document: &MeshDocument,
        tokens: &[String],
    ) -> Option<&mut Self> {
        let mut at = self;
        for token in tokens {
            at = match at.open(document) {
                Self::Object(object) => object.members.get_mut(token)?,
                Self::List(list) => {
                    let (index, origin) = (super::index(token)?, list.origin);
                    let load = |number| List::load(document, origin, number);
                    list.pieces.get_mut(index, load)?
                }
                _ => return None,
            };
        }
        Some(at)
    }

    /// A member, if this is an object.
    pub(super) fn member(&mut self, document: &MeshDocument, token: &str) -> Option<&Self> {
        match self.open(document) {
            Self::Object(object) => object.members.get(token),
            _ => None,
        }
    }

    /// Adds a member, or an item at an index; `None` if the location does not exist.
    pub(super) fn add(&mut self, document: &MeshDocument, token: &str, value: Self) -> Option<()> {
        match self.open(document) {
            Self::Object(object) => {
                object.members.insert(token.to_owned(), value);
            }
            Self::List(list) => {
                let index = match token {
                    "-" => list.pieces.length(),
                    token => super::index(token).filter(|&index| index <= list.pieces.length())?,
                };
                list.pieces.insert(index, value);
            }
            _ => return None,
        }
        Some(())
    }

    /// Removes and returns a member or an item.
    pub(super) fn remove(&mut self, document: &MeshDocument, token: &str) -> Option<Self> {
        match self.open(document) {
            Self::Object(object) => object.members.remove(token),
            Self::List(list) => {
                let (index, origin) = (super::index(token)?, list.origin);
                let load = |number| List::load(document, origin, number);
                list.pieces.remove(index, load)
            }
            _ => None,
        }
    }

    /// Whether it equals a value apart from `$id`s; reads no more than the value has.
    pub(in crate::document) fn equals(&self, document: &MeshDocument, expected: &Value) -> bool {
        match self {
            Self::Value(found) => is_equal(found, expected),
            Self::Object(object) => {
                let Value::Object(expected) = expected else {
                    return false;
                };
                let ids = usize::from(object.members.contains_key(ID_ATTRIBUTE));
                let expected_ids = usize::from(expected.contains_key(ID_ATTRIBUTE));
                object.members.len() - ids == expected.len() - expected_ids
                    && object.members.iter().all(|(name, member)| {
                        name == ID_ATTRIBUTE
                            || expected
                                .get(name)
                                .is_some_and(|expected| member.equals(document, expected))
                    })
            }
            Self::List(list) => {
                let Value::Array(expected) = expected else {
                    return false;
                };
                let mut expected_items = expected.iter();
                list.pieces.length() == expected.len()
                    && list.pieces.iter().all(|piece| match piece {
                        Piece::One(item) => expected_items
                            .next()
                            .is_some_and(|expected| item.equals(document, expected)),
                        Piece::Run(run) => list.run(document, run).all(|item| {
                            let expected = expected_items.next();
                            expected.is_some_and(|expected| item.equals(document, expected))
                        }),
                    })
            }
            Self::Child(_) | Self::Children(_) | Self::Content(_) => {
                let opened = self.opened(document);
                opened.is_some_and(|opened| opened.equals(document, expected))
            }
        }
    }

    /// Whether it has at most this many levels; only values of the patch count against `room`.
    pub(super) fn fits(&self, document: &MeshDocument, levels: usize, room: &mut usize) -> bool {
        let below = levels.saturating_sub(1);
        match self {
            Self::Value(value) => super::fits(value, levels, room),
            Self::Object(object) => {
                let mut members = object.members.values();
                members.all(|member| member.fits(document, below, room))
            }
            Self::List(list) => list.pieces.iter().all(|piece| match piece {
                Piece::One(item) => item.fits(document, below, room),
                Piece::Run(run) => {
                    let mut items = list.run(document, run);
                    let first = items.next();
                    // All children of a run are on one level.
                    first.is_none_or(|first| {
                        first.must_fit(below)
                            || first.fits(document, below, room)
                                && items.all(|item| item.fits(document, below, room))
                    })
                }
            }),
            Self::Child(_) | Self::Children(_) | Self::Content(_) => {
                self.must_fit(levels)
                    || super::fits(&self.to_value(document), levels, &mut { usize::MAX })
            }
        }
    }

    /// Whether it is within the levels even if the document had the maximal depth.
    fn must_fit(&self, levels: usize) -> bool {
        match self {
            Self::Child(place) | Self::Children(place) | Self::Content(place) => {
                let elements = MAX_DEPTH.saturating_sub(place.level) + 1;
                elements * LEVELS_OF_ELEMENT + LEVELS_OF_ATTRIBUTE <= levels
            }
            Self::List(_) | Self::Object(_) | Self::Value(_) => false,
        }
    }

    /// A copy as a complete value.
    pub(in crate::document) fn to_value(&self, document: &MeshDocument) -> Value {
        match self {
            &Self::Child(place) => printed(document, place),
            &Self::Children(place) => {
                let content = printed_content(document, place);
                let list = list_name(document, place);
                let list = list.and_then(|list| content.get(list).cloned());
                list.unwrap_or_else(|| Value::Array(Vec::new()))
            }
            &Self::Content(place) => Value::Object(printed_content(document, place)),
            Self::List(list) => {
                let mut items = Vec::new();
                for piece in list.pieces.iter() {
                    match piece {
                        Piece::One(item) => items.push(item.to_value(document)),
                        Piece::Run(run) => {
                            let run = list.run(document, run);
                            items.extend(run.map(|item| item.to_value(document)));
                        }
                    }
                }
                Value::Array(items)
            }
            Self::Object(object) => {
                let members = object.members.iter();
                let members =
                    members.map(|(name, member)| (name.clone(), member.to_value(document)));
                Value::Object(members.collect())
            }
            Self::Value(value) => value.clone(),
        }
    }

    /// Like [`Self::to_value`], without a copy of parts that are values already.
    fn into_value(self, document: &MeshDocument) -> Value {
        match self {
            Self::List(List {
                origin: None,
                pieces,
                ..
            }) => {
                let items = pieces.into_iter().filter_map(|piece| match piece {
                    Piece::One(item) => Some(item.into_value(document)),
                    Piece::Run(_) => None,
                });
                items.collect()
            }
            Self::Object(object) => {
                let members = object.members.into_iter();
                let members = members.map(|(name, member)| (name, member.into_value(document)));
                Value::Object(members.collect())
            }
            Self::Value(value) => value,
            Self::Child(_) | Self::Children(_) | Self::Content(_) | Self::List(_) => {
                self.to_value(document)
            }
        }
    }

    /// Converts to values all parts that don't come from the document, and elements at
    /// locations where elements can't be. Afterwards everything that is not a value has the
    /// shape of a document.
    pub(super) fn settle(&mut self, document: &MeshDocument) {
        self.settle_element(document);
    }

    /// Settles `{tag: {…}}`; returns whether it is a value now.
    fn settle_element(&mut self, document: &MeshDocument) -> bool {
        match self {
            Self::Child(_) => return false,
            Self::Object(object) if object.origin.is_none() && object.members.len() == 1 => {
                let mut members = object.members.iter_mut();
                let is_element = members.next().is_some_and(|(name, content)| {
                    let has_tag = match content {
                        Self::Content(place) => tag(document, *place) == name,
                        Self::Object(_) => true,
                        _ => false,
                    };
                    has_tag && !content.settle_content(document, name)
                });
                if is_element {
                    return false;
                }
            }
            _ => {}
        }
        self.make_value(document)
    }

    fn settle_content(&mut self, document: &MeshDocument, name: &str) -> bool {
        let Self::Object(object) = self else {
            return matches!(self, Self::Value(_));
        };
        if object
            .origin
            .is_some_and(|place| tag(document, place) != name)
        {
            object.origin = None;
        }
        let list = match document.schema().element(name) {
            Some(element) => element.child_property().map(ChildProperty::name),
            None => Some(CHILDREN),
        };
        let mut is_value = object.origin.is_none();
        for (name, member) in &mut object.members {
            let is_list = Some(name.as_str()) == list;
            is_value &= match member {
                Self::Children(_) if is_list => false,
                Self::List(_) if is_list => member.settle_list(document),
                _ => member.make_value(document),
            };
        }
        if is_value {
            self.make_value(document);
        }
        is_value
    }

    fn settle_list(&mut self, document: &MeshDocument) -> bool {
        let Self::List(list) = self else {
            return false;
        };
        let mut is_value = list.origin.is_none();
        for piece in list.pieces.iter_mut() {
            is_value &= match piece {
                Piece::One(item) => item.settle_element(document),
                Piece::Run(_) => false,
            };
        }
        if is_value {
            self.make_value(document);
        }
        is_value
    }

    fn make_value(&mut self, document: &MeshDocument) -> bool {
        if !matches!(self, Self::Value(_)) {
            let node = std::mem::replace(self, Self::Value(Value::Null));
            *self = Self::Value(node.into_value(document));
        }
        true
    }

    /// Opens one level.
    fn open(&mut self, document: &MeshDocument) -> &mut Self {
        match self {
            Self::Child(_) | Self::Children(_) | Self::Content(_) => {
                if let Some(opened) = self.opened(document) {
                    *self = opened;
                    // A text becomes a value, which takes one more step.
                    return self.open(document);
                }
            }
            Self::Value(Value::Array(items)) => {
                let items = std::mem::take(items).into_iter();
                *self = Self::List(List {
                    origin: None,
                    pieces: items.map(|item| Piece::One(Self::Value(item))).collect(),
                });
            }
            Self::Value(Value::Object(members)) => {
                let members = std::mem::take(members).into_iter();
                *self = Self::Object(Object {
                    origin: None,
                    members: members
                        .map(|(name, member)| (name, Self::Value(member)))
                        .collect(),
                });
            }
            Self::List(_) | Self::Object(_) | Self::Value(_) => {}
        }
        self
    }

    /// One opened level of a reference.
    fn opened(&self, document: &MeshDocument) -> Option<Self> {
        Some(match *self {
            Self::Child(place) if is_text(document, place) => Self::Value(printed(document, place)),
            Self::Child(place) => Self::Object(Object {
                origin: None,
                members: [(tag(document, place).to_owned(), Self::Content(place))].into(),
            }),
            Self::Children(place) if tag(document, place) == TEXT_TAG => {
                Self::Value(self.to_value(document))
            }
            Self::Children(place) => {
                let length = shown_children(document, place);
                let run = (length > 0).then(|| Piece::Run(0..length));
                Self::List(List {
                    origin: Some(place),
                    pieces: run.into_iter().collect(),
                })
            }
            Self::Content(place) => {
                let attributes = attributes(document, place).into_iter();
                let mut members: BTreeMap<String, Self> = attributes
                    .map(|(name, value)| (name, Self::Value(value)))
                    .collect();
                if let Some(list) = list_name(document, place) {
                    members.insert(list.to_owned(), Self::Children(place));
                }
                Self::Object(Object {
                    origin: Some(place),
                    members,
                })
            }
            Self::List(_) | Self::Object(_) | Self::Value(_) => return None,
        })
    }
}

impl List {
    /// The children of a run.
    pub(in crate::document) fn run(
        &self,
        document: &MeshDocument,
        run: &Range<usize>,
    ) -> impl Iterator<Item = Node> {
        let origin = self.origin;
        run.clone()
            .filter_map(move |index| Some(Node::Child(child(document, origin?, index)?)))
    }

    /// Converts a child in a run to an item.
    fn load(document: &MeshDocument, origin: Option<Place>, number: usize) -> Option<Node> {
        Some(Node::Child(child(document, origin?, number)?))
    }
}

pub(in crate::document) fn element(document: &MeshDocument, index: NodeIndex) -> Element<'_> {
    Element { document, index }
}

/// The parent of an element, up to the root; elements that a foreign program put outside of the
/// tree have none.
pub(in crate::document) fn above(element: Element<'_>) -> Option<Element<'_>> {
    let parent = element.parent()?;
    let is_end = !parent.is_root()
        && parent.id().is_none()
        && parent.tag() == element.document().schema().root().tag();
    (!is_end).then_some(parent)
}

pub(in crate::document) fn child(
    document: &MeshDocument,
    parent: Place,
    index: usize,
) -> Option<Place> {
    Some(Place {
        index: document.child_at(parent.index, index)?,
        level: parent.level + 1,
    })
}

pub(in crate::document) fn tag(document: &MeshDocument, place: Place) -> &str {
    element(document, place.index).tag()
}

/// Whether it is a rich text itself, not the element that contains it.
pub(in crate::document) fn is_text(document: &MeshDocument, place: Place) -> bool {
    tag(document, place).is_empty()
}

/// The number of children in the JSON form.
pub(in crate::document) fn shown_children(document: &MeshDocument, place: Place) -> usize {
    if place.level < MAX_DEPTH {
        document.child_count(place.index)
    } else {
        0
    }
}

/// The attributes in the JSON form.
pub(in crate::document) fn attributes(document: &MeshDocument, place: Place) -> Map<String, Value> {
    let mut attributes = element(document, place.index).attributes();
    if place.index == ROOT_NODE {
        attributes.shift_remove(ID_ATTRIBUTE);
    }
    attributes
}

fn list_name(document: &MeshDocument, place: Place) -> Option<&str> {
    match document.schema().element(tag(document, place)) {
        Some(element) => element.child_property().map(ChildProperty::name),
        None => (document.child_count(place.index) > 0).then_some(CHILDREN),
    }
}

fn printed(document: &MeshDocument, place: Place) -> Value {
    if is_text(document, place) {
        return json!({ TEXT_TAG: { "delta": Text::new(document, place.index).to_delta() } });
    }
    let mut json = element(document, place.index).to_json(true);
    if place.level > 1 {
        cut(document, &mut json, MAX_DEPTH.saturating_sub(place.level));
    }
    json
}

fn printed_content(document: &MeshDocument, place: Place) -> Map<String, Value> {
    match printed(document, place) {
        Value::Object(mut element) => match element.values_mut().next().map(Value::take) {
            Some(Value::Object(content)) => content,
            _ => Map::new(),
        },
        _ => Map::new(),
    }
}

/// Removes children that are more than this many levels below an element; recursive, within the
/// depth of JSON.
fn cut(document: &MeshDocument, json: &mut Value, levels: usize) {
    let element = json
        .as_object_mut()
        .and_then(|element| element.iter_mut().next());
    let Some((tag, Value::Object(content))) = element else {
        return;
    };
    if tag == TEXT_TAG {
        return;
    }
    let list = match document.schema().element(tag) {
        Some(element) => element.child_property().map_or("", ChildProperty::name),
        None => CHILDREN,
    };
    if let Some(Value::Array(children)) = content.get_mut(list) {
        if levels == 0 {
            children.clear();
        }
        for child in children {
            cut(document, child, levels - 1);
        }
    }
}
