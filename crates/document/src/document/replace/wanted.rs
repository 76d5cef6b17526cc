//! The wanted content of an element, from JSON or from a patched document.

use std::ops::Range;

use serde_json::{Map, Value};

use crate::document::MeshDocument;
use crate::document::json::MAX_DEPTH;
use crate::document::patch::overlay::{self, Node, Place};
use crate::document::patch::pieces::Piece;
use crate::schema::{ChildProperty, ID_ATTRIBUTE, TEXT_TAG};

pub(super) type Content = Map<String, Value>;

/// The wanted content of an element.
#[derive(Clone, Copy)]
pub(super) enum Wanted<'w> {
    Map(&'w Content),
    Node(&'w Node),
}

impl<'w> Wanted<'w> {
    pub(super) fn of(content: &'w Node) -> Option<Self> {
        match content {
            Node::Value(Value::Object(content)) => Some(Self::Map(content)),
            Node::Content(_) | Node::Object(_) => Some(Self::Node(content)),
            Node::Child(_) | Node::Children(_) | Node::List(_) | Node::Value(_) => None,
        }
    }

    /// The existing element, if it stays unchanged with its descendants.
    pub(super) fn whole(self) -> Option<Place> {
        match self {
            Self::Node(&Node::Content(place)) => Some(place),
            Self::Map(_) | Self::Node(_) => None,
        }
    }

    pub(super) fn attribute(self, name: &str) -> Option<&'w Value> {
        match self {
            Self::Map(content) => content.get(name),
            Self::Node(Node::Object(content)) => match content.members.get(name)? {
                Node::Value(value) => Some(value),
                _ => None,
            },
            Self::Node(_) => None,
        }
    }

    /// The child list of an element that a patch has opened.
    pub(super) fn list(self, name: &str) -> Option<&'w Node> {
        match self {
            Self::Node(Node::Object(content)) => content.members.get(name),
            Self::Map(_) | Self::Node(_) => None,
        }
    }

    pub(super) fn id(self) -> Option<&'w str> {
        self.attribute(ID_ATTRIBUTE)?.as_str()
    }
}

/// One or several wanted children of an element.
pub(super) enum Item<'w> {
    /// An unchanged child of the document.
    Child(Place),
    Element(&'w str, Wanted<'w>),
    /// Unchanged children of the same element, as an index range.
    Run(Range<usize>),
}

/// The wanted children of an element; `None` if they are unchanged.
pub(super) fn items<'w>(
    document: &MeshDocument,
    tag: &str,
    current: Option<Place>,
    wanted: Wanted<'w>,
) -> Option<Vec<Item<'w>>> {
    let list = document.schema.element(tag)?.child_property()?;
    if tag == TEXT_TAG || wanted.whole().is_some() {
        return None;
    }
    let is_current = |place: Place| current.is_some_and(|current| current.index == place.index);
    let list = match wanted {
        Wanted::Map(content) => return Some(elements(content.get(list.name()))),
        Wanted::Node(_) => wanted.list(list.name()),
    };
    let children = |place: Place, run: Range<usize>| {
        run.filter_map(move |number| overlay::child(document, place, number))
            .map(Item::Child)
    };
    let list = match list {
        Some(Node::Value(list)) => return Some(elements(Some(list))),
        Some(&Node::Children(place)) if is_current(place) => return None,
        Some(&Node::Children(place)) => {
            let count = overlay::shown_children(document, place);
            return Some(children(place, 0..count).collect());
        }
        Some(Node::List(list)) => list,
        _ => return Some(Vec::new()),
    };
    let mut items = Vec::new();
    for piece in list.pieces.iter() {
        match (piece, list.origin) {
            (Piece::Run(run), Some(place)) if is_current(place) => {
                items.push(Item::Run(run.clone()));
            }
            (Piece::Run(run), Some(place)) => items.extend(children(place, run.clone())),
            (Piece::One(Node::Child(place)), _) => items.push(Item::Child(*place)),
            (Piece::One(Node::Value(value)), _) => items.extend(element(value)),
            (Piece::One(Node::Object(object)), _) => {
                let only = object.members.iter().next();
                let only = only.and_then(|(tag, content)| Some((tag, Wanted::of(content)?)));
                items.extend(only.map(|(tag, content)| Item::Element(tag, content)));
            }
            _ => {}
        }
    }
    Some(items)
}

/// The existing element with this content's `$id`.
pub(super) fn identify(document: &MeshDocument, tag: &str, wanted: Wanted<'_>) -> Option<Place> {
    let id = match wanted {
        Wanted::Node(&Node::Content(place)) => return Some(place),
        Wanted::Node(Node::Object(object)) => {
            let id = wanted.id();
            let origin = object.origin.filter(|place| {
                let element = overlay::element(document, place.index);
                element.id() == id && element.tag() == tag
            });
            if origin.is_some() {
                return origin;
            }
            id
        }
        Wanted::Map(_) | Wanted::Node(_) => wanted.id(),
    };
    let element = document.node(id?)?;
    if element.tag() != tag || element.is_root() {
        return None;
    }
    let mut level = 1;
    let mut at = element;
    while let Some(parent) = overlay::above(at)
        && level < MAX_DEPTH
    {
        level += 1;
        at = parent;
    }
    Some(Place {
        index: element.index,
        level,
    })
}

/// Whether an element, or one of its descendants, has the `$id` of an existing element.
pub(super) fn has_claims(document: &MeshDocument, tag: &str, content: &Content) -> bool {
    let mut stack = vec![(tag, content)];
    while let Some((tag, content)) = stack.pop() {
        if identify(document, tag, Wanted::Map(content)).is_some() {
            return true;
        }
        let list = list_of(document, tag);
        for item in elements(list.and_then(|list| content.get(list))) {
            if let Item::Element(tag, Wanted::Map(content)) = item {
                stack.push((tag, content));
            }
        }
    }
    false
}

/// Removes the `$id`s of elements that will be deleted.
pub(super) fn strip_known_ids(document: &MeshDocument, tag: &str, content: &mut Content) {
    let mut stack = vec![(tag, content)];
    while let Some((tag, content)) = stack.pop() {
        let id = content.get(ID_ATTRIBUTE).and_then(Value::as_str);
        if id.is_some_and(|id| document.node(id).is_some()) {
            content.shift_remove(ID_ATTRIBUTE);
        }
        let list = list_of(document, tag);
        let list = list.and_then(|list| content.get_mut(list)?.as_array_mut());
        for item in list.into_iter().flatten() {
            let only = item.as_object_mut();
            if let Some((tag, Value::Object(content))) =
                only.and_then(|only| only.iter_mut().next())
            {
                stack.push((tag, content));
            }
        }
    }
}

fn elements(list: Option<&Value>) -> Vec<Item<'_>> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(element).collect()
}

fn element(value: &Value) -> Option<Item<'_>> {
    let (tag, content) = value.as_object()?.iter().next()?;
    Some(Item::Element(tag, Wanted::Map(content.as_object()?)))
}

/// The name of the child list.
pub(super) fn list_of<'a>(document: &'a MeshDocument, tag: &str) -> Option<&'a str> {
    let list = document.schema.element(tag)?.child_property();
    list.filter(|_| tag != TEXT_TAG).map(ChildProperty::name)
}
