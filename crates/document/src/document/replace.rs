//! Replaces the document's JSON state by the smallest change: elements that stay keep their `$id`s,
//! and with them concurrent edits.

mod align;
mod text;
mod wanted;

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};
use thiserror::Error;

use self::wanted::{Content, Item, Wanted, list_of};
use super::MeshDocument;
use super::edit::{Edit, EditError, Position, Target};
use super::patch::overlay::{self, Node, NodeIndex, Place, ROOT_NODE};
use super::patch::{are_equal, is_equal, is_too_deep};
use crate::schema::{
    ElementProperty, ElementType, ID_ATTRIBUTE, TEXT_TAG, Violation, Violations, push_segment,
};

/// Why a document was not replaced. The document does not change.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReplaceError {
    /// The edits that lead to the new state were rejected.
    #[error("the document can't be replaced")]
    Edit(#[from] EditError),
    /// The schema does not allow the new state.
    #[error("the schema does not allow this: {0}")]
    Invalid(Violations),
}

impl MeshDocument {
    /// Makes the document equal to this JSON, `{root tag: {…}}`, by the smallest change. Returns
    /// the v1 update; `None` if nothing changed.
    ///
    /// Elements are matched by `$id` if the JSON has it, then by equality, then by tag at the
    /// same place.
    ///
    /// # Errors
    /// [`ReplaceError`]; the document does not change.
    pub fn replace_json(
        &mut self,
        json: &Value,
        next_id: &mut dyn FnMut() -> String,
    ) -> Result<Option<Vec<u8>>, ReplaceError> {
        if is_too_deep(json) {
            let (expected, found) = ("at most 960 levels", "more than 960 levels");
            let violation = Violation::new("", expected, found);
            return Err(ReplaceError::Invalid(violation.into()));
        }
        let edits = self
            .difference(json, next_id)
            .map_err(ReplaceError::Invalid)?;
        Ok(self.edit(&edits, next_id)?)
    }

    /// The edits that lead to this JSON.
    pub(super) fn difference(
        &self,
        json: &Value,
        next_id: &mut dyn FnMut() -> String,
    ) -> Result<Vec<Edit>, Violations> {
        let violations = self.schema.validate(json);
        if !violations.is_empty() {
            return Err(violations);
        }
        match self.schema.root_content(json) {
            Ok((_, content)) => self.edits_to(Wanted::Map(content), next_id),
            Err(violation) => Err(violation.into()),
        }
    }

    /// The edits that lead to a patched root element, which the schema allows.
    pub(super) fn difference_to(
        &self,
        content: &Node,
        next_id: &mut dyn FnMut() -> String,
    ) -> Result<Vec<Edit>, Violations> {
        match Wanted::of(content) {
            Some(content) => self.edits_to(content, next_id),
            None => Ok(Vec::new()),
        }
    }

    fn edits_to(
        &self,
        content: Wanted<'_>,
        next_id: &mut dyn FnMut() -> String,
    ) -> Result<Vec<Edit>, Violations> {
        let root = Place {
            index: ROOT_NODE,
            level: 1,
        };
        let mut difference = Difference {
            document: self,
            next_id,
            edits: Vec::new(),
            deletions: Vec::new(),
            claimed: HashSet::new(),
            moved: HashSet::new(),
            nameless: Violations::default(),
            elements: Vec::new(),
        };
        difference.claim(self.schema.root().tag(), root, content);
        difference.elements.push(Pair {
            target: Some(Target::Root),
            tag: self.schema.root().tag(),
            current: Some(root),
            wanted: content,
        });
        while let Some(pair) = difference.elements.pop() {
            difference.element(&pair);
        }
        if !difference.nameless.is_empty() {
            return Err(difference.nameless);
        }
        // Deletions come last: by then, children that are kept have been moved out.
        let mut edits = difference.edits;
        edits.append(&mut difference.deletions);
        Ok(edits)
    }
}

/// An element to be compared.
struct Pair<'w> {
    // `None` if it has no `$id`, so that edits can't refer to it.
    target: Option<Target>,
    tag: &'w str,
    // `None` if it is new.
    current: Option<Place>,
    wanted: Wanted<'w>,
}

struct Difference<'w> {
    document: &'w MeshDocument,
    next_id: &'w mut dyn FnMut() -> String,
    edits: Vec<Edit>,
    deletions: Vec<Edit>,
    /// The existing elements that the wanted state identifies by `$id`.
    claimed: HashSet<NodeIndex>,
    moved: HashSet<NodeIndex>,
    /// Locations of elements that would need an edit but have no `$id`.
    nameless: Violations,
    elements: Vec<Pair<'w>>,
}

/// A child outside of runs.
#[derive(Clone, Copy)]
struct Free {
    number: usize,
    place: Place,
}

impl<'w> Difference<'w> {
    /// Records the elements that the wanted state identifies by `$id`, so that none of them is
    /// matched with another.
    fn claim(&mut self, root: &'w str, place: Place, content: Wanted<'w>) {
        let mut stack = vec![(root, Some(place), content)];
        while let Some((tag, place, content)) = stack.pop() {
            for item in wanted::items(self.document, tag, place, content)
                .into_iter()
                .flatten()
            {
                match item {
                    Item::Child(place) => {
                        self.claimed.insert(place.index);
                    }
                    Item::Element(tag, content) => {
                        let place = wanted::identify(self.document, tag, content);
                        self.claimed.extend(place.map(|place| place.index));
                        stack.push((tag, place, content));
                    }
                    Item::Run(_) => {}
                }
            }
        }
    }

    fn element(&mut self, pair: &Pair<'w>) {
        let Some(element) = self.document.schema.element(pair.tag) else {
            return;
        };
        if pair.wanted.whole().is_some() {
            return;
        }
        if let Some(current) = pair.current {
            self.attributes(element, pair, current);
        }
        if pair.tag == TEXT_TAG {
            self.text(element, pair);
        } else if let Some(items) =
            wanted::items(self.document, pair.tag, pair.current, pair.wanted)
        {
            self.children(pair, &items);
        }
    }

    fn attributes(&mut self, element: &ElementType, pair: &Pair<'w>, current: Place) {
        let before = overlay::attributes(self.document, current);
        for property in element.properties() {
            let name = property.name();
            if element.value_property(name).is_none() {
                continue;
            }
            let (old, new) = (before.get(name), pair.wanted.attribute(name));
            let is_same = match (old, new) {
                (Some(old), Some(new)) => is_equal(old, new),
                (old, new) => old.is_none() && new.is_none(),
            };
            if is_same {
                continue;
            }
            let Some(target) = self.named(pair.target.as_ref(), current) else {
                return;
            };
            let name = name.to_owned();
            self.edits.push(match new {
                Some(value) => Edit::SetAttribute {
                    target,
                    name,
                    value: value.clone(),
                },
                None => Edit::RemoveAttribute { target, name },
            });
        }
    }

    fn text(&mut self, element: &ElementType, pair: &Pair<'w>) {
        let (Some(list), Some(current)) = (element.child_property(), pair.current) else {
            return;
        };
        let new = match pair.wanted.list(list.name()) {
            Some(Node::Children(place)) if place.index == current.index => return,
            Some(list) => Some(Cow::Owned(list.to_value(self.document))),
            None => pair.wanted.attribute(list.name()).map(Cow::Borrowed),
        };
        let old = Node::Children(current).to_value(self.document);
        let new = new.as_ref().and_then(|new| new.as_array());
        let old = text::characters(old.as_array().map_or(&[], Vec::as_slice));
        let new = text::characters(new.map_or(&[], Vec::as_slice));
        if old == new {
            return;
        }
        if let Some(Target::Id(id)) = self.named(pair.target.as_ref(), current) {
            self.edits.extend(text::difference(&id, &old, &new));
        }
    }

    fn children(&mut self, pair: &Pair<'w>, items: &[Item<'w>]) {
        let free = pair
            .current
            .map_or_else(Vec::new, |current| self.free(current, items));
        let named = items.iter().map(|item| match item {
            Item::Child(place) => Some(*place),
            Item::Element(tag, content) => wanted::identify(self.document, tag, *content),
            Item::Run(_) => None,
        });
        let named: Vec<Option<Place>> = named.collect();
        let matches = self.align(&free, items, &named);
        let stay = staying(&free, items, &matches);
        let mut taken = vec![false; free.len()];
        let mut place = Cursor::default();
        for (at, item) in items.iter().enumerate() {
            if let (Item::Run(run), Some(current)) = (item, pair.current) {
                let last = overlay::child(self.document, current, run.end - 1);
                place.pass(last.and_then(|last| self.id(last)), Some(run.end));
                continue;
            }
            let found = matches[at].found.map(|found| {
                taken[found] = true;
                free[found]
            });
            let existing = found.map(|free| free.place).or(named[at]);
            let stays = found.filter(|_| stay.contains(&at));
            let Some(existing) = existing else {
                if let &Item::Element(tag, content) = item
                    && let Some(parent) = self.parent(pair)
                {
                    let position = self.position(&place, pair.current);
                    let id = self.insert(parent, position, tag, content);
                    place.pass(Some(id), None);
                }
                continue;
            };
            let id = self.id(existing);
            if stays.is_none() {
                let Some(Target::Id(id)) =
                    self.named(id.clone().map(Target::Id).as_ref(), existing)
                else {
                    continue;
                };
                let Some(parent) = self.parent(pair) else {
                    continue;
                };
                let position = self.position(&place, pair.current);
                self.moved.insert(existing.index);
                self.edits.push(Edit::Move {
                    id,
                    parent,
                    position,
                });
            }
            place.pass(id.clone(), stays.map(|free| free.number + 1));
            if let &Item::Element(tag, wanted) = item
                && !matches[at].is_equal
            {
                self.elements.push(Pair {
                    target: id.map(Target::Id),
                    tag,
                    current: Some(existing),
                    wanted,
                });
            }
        }
        for (free, is_taken) in free.iter().zip(taken) {
            if is_taken || self.claimed.contains(&free.place.index) {
                continue;
            }
            let id = self.id(free.place).map(Target::Id);
            if let Some(Target::Id(id)) = self.named(id.as_ref(), free.place) {
                self.deletions.push(Edit::Delete { id });
            }
        }
    }

    /// The children outside of runs.
    fn free(&self, current: Place, items: &[Item<'w>]) -> Vec<Free> {
        let mut free = Vec::new();
        let mut start = 0;
        let runs = items.iter().filter_map(|item| match item {
            Item::Run(run) => Some(run.clone()),
            Item::Child(_) | Item::Element(..) => None,
        });
        let end = overlay::shown_children(self.document, current);
        for run in runs.chain(std::iter::once(end..end)) {
            free.extend((start..run.start).filter_map(|number| {
                let place = overlay::child(self.document, current, number)?;
                let is_element = !overlay::is_text(self.document, place);
                is_element.then_some(Free { number, place })
            }));
            start = run.end;
        }
        free
    }

    /// Matches each wanted child with an existing one: the one with its `$id`, or one that the
    /// wanted state does not identify anywhere.
    fn align(&self, free: &[Free], items: &[Item<'w>], named: &[Option<Place>]) -> Vec<Match> {
        let mut matches = vec![Match::default(); items.len()];
        let by_index: HashMap<NodeIndex, usize> = free
            .iter()
            .enumerate()
            .map(|(at, free)| (free.place.index, at))
            .collect();
        let mut open = Vec::new();
        for (at, item) in items.iter().enumerate() {
            match (named[at], item) {
                (Some(place), _) => matches[at].found = by_index.get(&place.index).copied(),
                (None, &Item::Element(tag, content)) => open.push((at, tag, content)),
                (None, Item::Child(_) | Item::Run(_)) => {}
            }
        }
        let free_at: Vec<usize> = (0..free.len())
            .filter(|&at| !self.claimed.contains(&free[at].place.index))
            .collect();
        if open.is_empty() || free_at.is_empty() {
            return matches;
        }
        let printed: Vec<OnceCell<Value>> = vec![OnceCell::new(); free.len()];
        let alike =
            |found: usize, at: usize| overlay::tag(self.document, free[found].place) == open[at].1;
        let same = |found: usize, at: usize| {
            if !alike(found, at) {
                return false;
            }
            let current = printed[found]
                .get_or_init(|| Node::Content(free[found].place).to_value(self.document));
            match open[at].2 {
                Wanted::Map(content) => current
                    .as_object()
                    .is_some_and(|current| are_equal(current, content)),
                Wanted::Node(node) => node.equals(self.document, current),
            }
        };
        let all: Vec<usize> = (0..open.len()).collect();
        // Equal children stay. Of the others, those with the same tag between two that stay
        // are matched.
        let equal = align::common(&free_at, &all, same);
        let mut start = (0, 0);
        for &end in equal.iter().chain([&(free_at.len(), all.len())]) {
            let (between, open_between) = (&free_at[start.0..end.0], &all[start.1..end.1]);
            for (found, at) in align::common(between, open_between, alike) {
                matches[open[open_between[at]].0].found = Some(between[found]);
            }
            start = (end.0 + 1, end.1 + 1);
        }
        for (found, at) in equal {
            let (at, tag, content) = open[at];
            let is_equal = match content {
                // Elements in it may have to be moved in from elsewhere.
                Wanted::Map(content) => !wanted::has_claims(self.document, tag, content),
                Wanted::Node(_) => false,
            };
            matches[at] = Match {
                found: Some(free_at[found]),
                is_equal,
            };
        }
        matches
    }

    /// Inserts an element; `$id`s of other elements are replaced.
    fn insert(
        &mut self,
        parent: Target,
        position: Position,
        tag: &'w str,
        wanted: Wanted<'w>,
    ) -> String {
        let is_whole = match wanted {
            Wanted::Map(content) => !wanted::has_claims(self.document, tag, content),
            Wanted::Node(_) => tag == TEXT_TAG,
        };
        let mut content = match wanted {
            Wanted::Map(content) if is_whole => content.clone(),
            Wanted::Node(node) if is_whole => match node.to_value(self.document) {
                Value::Object(content) => content,
                _ => Content::new(),
            },
            // Children are inserted one by one, since some are moved in from elsewhere.
            Wanted::Map(_) | Wanted::Node(_) => {
                let element = self.document.schema.element(tag);
                let properties = element.map_or(&[][..], ElementType::properties).iter();
                let names = properties.filter_map(|property| match property {
                    ElementProperty::Value(value) => Some(value.name()),
                    ElementProperty::Child(_) => None,
                });
                let values = names
                    .filter_map(|name| Some((name.to_owned(), wanted.attribute(name)?.clone())));
                values.collect()
            }
        };
        if is_whole {
            wanted::strip_known_ids(self.document, tag, &mut content);
        }
        let id = wanted
            .id()
            .filter(|id| self.document.node(id).is_none())
            .map_or_else(&mut *self.next_id, str::to_owned);
        content.insert(ID_ATTRIBUTE.to_owned(), id.clone().into());
        let element = Value::Object(Map::from_iter([(tag.to_owned(), content.into())]));
        self.edits.push(Edit::Insert {
            parent,
            position,
            element,
        });
        if !is_whole {
            self.elements.push(Pair {
                target: Some(Target::Id(id.clone())),
                tag,
                current: None,
                wanted,
            });
        }
        id
    }

    fn id(&self, place: Place) -> Option<String> {
        let id = overlay::element(self.document, place.index).id();
        id.map(str::to_owned)
    }

    fn parent(&mut self, pair: &Pair<'w>) -> Option<Target> {
        match (&pair.target, pair.current) {
            (None, Some(current)) => self.named(None, current),
            (target, _) => target.clone(),
        }
    }

    /// The edit target for an element; records a violation if it has no `$id`.
    fn named(&mut self, target: Option<&Target>, place: Place) -> Option<Target> {
        if target.is_none() {
            let document = self.document;
            self.nameless.report(|| {
                let expected = "an element with an $id, which edits need";
                Violation::new(
                    pointer_to(document, place),
                    expected,
                    "an element without one",
                )
            });
        }
        target.cloned()
    }

    /// The position of the next child.
    fn position(&self, cursor: &Cursor, current: Option<Place>) -> Position {
        if let (Some(next), Some(current)) = (cursor.next, current) {
            if next == self.document.child_count(current.index) {
                return Position::Last;
            }
            let next = overlay::child(self.document, current, next);
            let next = next.filter(|next| !self.moved.contains(&next.index));
            if let Some(id) = next.and_then(|next| self.id(next)) {
                return Position::Before(id);
            }
        }
        let id = cursor.id.clone();
        id.map_or(Position::First, Position::After)
    }
}

/// The existing child that a wanted one is matched with.
#[derive(Clone, Copy, Default)]
struct Match {
    found: Option<usize>,
    /// Whether they are equal, so that no comparison is left.
    is_equal: bool,
}

/// How far the children are in their final order.
#[derive(Default)]
struct Cursor {
    /// The last child with an `$id`.
    id: Option<String>,
    /// If the last child has no `$id`: the index of the child after it in the document.
    next: Option<usize>,
}

impl Cursor {
    fn pass(&mut self, id: Option<String>, next: Option<usize>) {
        if id.is_some() {
            self.id = id;
            self.next = None;
        } else {
            self.next = next;
        }
    }
}

/// The children that need no move: runs, and of the children between two adjacent runs the longest
/// sequence that keeps its order.
fn staying(free: &[Free], items: &[Item<'_>], matches: &[Match]) -> HashSet<usize> {
    let mut stay = HashSet::new();
    let mut start = 0;
    let mut first = 0;
    let is_run = |item: &Item<'_>| matches!(item, Item::Run(_));
    for part in items.split_inclusive(is_run) {
        let run = part.last().and_then(|item| match item {
            Item::Run(run) => Some(run.clone()),
            Item::Child(_) | Item::Element(..) => None,
        });
        let last = run.as_ref().map_or(usize::MAX, |run| run.start);
        let found = matches[start..start + part.len()].iter();
        let found: Vec<Option<usize>> = found
            .map(|one| {
                one.found
                    .filter(|&found| (first..last).contains(&free[found].number))
            })
            .collect();
        let kept = align::longest_increasing(&found).into_iter();
        stay.extend(kept.map(|at| start + at));
        start += part.len();
        first = run.map_or(first, |run| run.end);
    }
    stay
}

/// The JSON pointer of an element of the document.
fn pointer_to(document: &MeshDocument, place: Place) -> String {
    let mut above = Vec::new();
    let mut at = overlay::element(document, place.index);
    while let Some(parent) = overlay::above(at) {
        above.push((at, parent));
        at = parent;
    }
    let mut pointer = String::new();
    push_segment(&mut pointer, at.tag());
    for (at, parent) in above.into_iter().rev() {
        let list = list_of(document, parent.tag());
        push_segment(&mut pointer, list.unwrap_or("children"));
        push_segment(
            &mut pointer,
            &document.index_in_parent(at.index).to_string(),
        );
        push_segment(&mut pointer, at.tag());
    }
    pointer
}
