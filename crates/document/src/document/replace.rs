//! From one JSON state to another by the smallest change: what stays keeps its `$id`, and with it what
//! others edit at the same time.

use std::collections::{HashMap, HashSet, VecDeque};

use serde_json::{Map, Value};
use thiserror::Error;

use super::MeshDocument;
use super::edit::{Edit, EditError, Position, Target, TextPosition};
use crate::schema::{ChildProperty, ID_ATTRIBUTE, MeshSchema, TEXT_TAG, Violation};

/// Up to this many comparisons, children are aligned as well as can be; beyond, in one pass.
const MAX_COMPARISONS: usize = 250_000;

/// Why a document was not replaced. It is as it was.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReplaceError {
    /// The change can't be made.
    #[error("the change can't be made")]
    Edit(#[from] EditError),
    /// The schema forbids the new state; all violations are listed.
    #[error("the schema does not allow this: {}", super::insert::list(.0))]
    Invalid(Vec<Violation>),
}

impl MeshDocument {
    /// Makes the document equal to this JSON, `{root tag: {…}}`, by the smallest change; its v1 update,
    /// `None` if nothing changed.
    ///
    /// Elements are recognised by `$id` where the JSON has it, else by being equal, else by having the
    /// same tag in the same place.
    ///
    /// # Errors
    /// [`ReplaceError`]; the document is as it was.
    pub fn replace_json(
        &mut self,
        json: &Value,
        next_id: &mut dyn FnMut() -> String,
    ) -> Result<Option<Vec<u8>>, ReplaceError> {
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
    ) -> Result<Vec<Edit>, Vec<Violation>> {
        let violations = self.schema.validate(json);
        if !violations.is_empty() {
            return Err(violations);
        }
        let current = self.to_json(true);
        let current = current
            .get(self.schema.root().tag())
            .and_then(Value::as_object);
        let (Some(current), Ok((_, wanted))) = (current, self.schema.root_content(json)) else {
            return Ok(Vec::new());
        };
        let mut difference = Difference {
            document: self,
            schema: &self.schema,
            next_id,
            edits: Vec::new(),
            kept: HashSet::new(),
            current: HashMap::new(),
            claimed: HashSet::new(),
            elements: Vec::new(),
        };
        let root = self.schema.root().tag();
        difference.claim(root, wanted);
        difference.learn(root, current);
        difference
            .elements
            .push((Target::Root, root, Some(current), wanted));
        while let Some((target, tag, current, wanted)) = difference.elements.pop() {
            difference.element(target, tag, current, wanted);
        }
        let kept = difference.kept;
        let mut edits = difference.edits;
        edits.extend(self.deletions(&kept));
        Ok(edits)
    }

    /// Deletes what is not kept; what was moved out of it is kept elsewhere by now.
    fn deletions(&self, kept: &HashSet<String>) -> Vec<Edit> {
        let mut deletions = Vec::new();
        // With whether it goes together with the element around it.
        let mut stack = vec![(self.root(), false)];
        while let Some((element, goes)) = stack.pop() {
            let is_kept = element.id().is_none_or(|id| kept.contains(id));
            if let Some(id) = element.id().filter(|_| !is_kept && !goes) {
                let id = id.to_owned();
                deletions.push(Edit::Delete { id });
            }
            let children = element.children();
            stack.extend(children.map(|child| (child, !is_kept)));
        }
        deletions
    }
}

type Content = Map<String, Value>;

struct Difference<'a> {
    document: &'a MeshDocument,
    schema: &'a MeshSchema,
    next_id: &'a mut dyn FnMut() -> String,
    edits: Vec<Edit>,
    /// The `$id`s of elements that are still there afterwards.
    kept: HashSet<String>,
    /// All elements as they are, by `$id`.
    current: HashMap<&'a str, &'a Content>,
    /// The `$id`s that the wanted state names and the current one has.
    claimed: HashSet<String>,
    // Elements that are still to be compared: name, tag, what they are, what they shall be.
    elements: Vec<(Target, &'a str, Option<&'a Content>, &'a Content)>,
}

/// A child as it is.
struct Child<'a> {
    id: &'a str,
    tag: &'a str,
    content: &'a Content,
}

impl<'a> Difference<'a> {
    fn learn(&mut self, root: &str, current: &'a Content) {
        let mut stack: Vec<(&str, &'a Content)> = vec![(root, current)];
        while let Some((tag, content)) = stack.pop() {
            if let Some(id) = id_of(content) {
                self.current.insert(id, content);
            }
            stack.extend(self.children(tag, content));
        }
    }

    fn claim(&mut self, root: &str, wanted: &Content) {
        let mut stack: Vec<(&str, &Content)> = vec![(root, wanted)];
        while let Some((tag, content)) = stack.pop() {
            if let Some(id) = id_of(content)
                && self
                    .document
                    .node(id)
                    .is_some_and(|element| element.tag() == tag)
            {
                self.claimed.insert(id.to_owned());
            }
            stack.extend(self.children(tag, content));
        }
    }

    fn element(
        &mut self,
        target: Target,
        tag: &'a str,
        current: Option<&'a Content>,
        wanted: &'a Content,
    ) {
        let Some(element) = self.schema.element(tag) else {
            return;
        };
        if let Some(current) = current {
            for property in element.properties() {
                let name = property.name();
                if element.value_property(name).is_none() {
                    continue;
                }
                let (target, name) = (target.clone(), name.to_owned());
                match (current.get(&name), wanted.get(&name)) {
                    (old, Some(value)) if old != Some(value) => {
                        let value = value.clone();
                        self.edits.push(Edit::SetAttribute {
                            target,
                            name,
                            value,
                        });
                    }
                    (Some(_), None) => self.edits.push(Edit::RemoveAttribute { target, name }),
                    _ => {}
                }
            }
        }
        if tag == TEXT_TAG {
            if let (Some(current), Target::Id(id)) = (current, target) {
                let name = element.child_property().map(ChildProperty::name);
                let (old, new) = (delta(current, name), delta(wanted, name));
                self.edits.extend(text_difference(&id, &old, &new));
            }
            return;
        }
        let wanted = self.children(tag, wanted);
        let current = current.map_or_else(Vec::new, |current| self.children(tag, current));
        let current = current.into_iter().filter_map(|(tag, content)| {
            let id = id_of(content)?;
            Some(Child { id, tag, content })
        });
        let current: Vec<Child<'a>> = current.collect();
        let matches = self.align(&current, &wanted);
        let stay = longest_increasing(&matches);
        let mut previous: Option<String> = None;
        for (at, (tag, content)) in wanted.into_iter().enumerate() {
            let position = previous.map_or(Position::First, Position::After);
            let named = id_of(content).filter(|id| self.claimed.contains(*id));
            let (id, current) = if let Some(child) = matches[at].map(|child| &current[child]) {
                if !stay.contains(&at) {
                    self.edits.push(Edit::Move {
                        id: child.id.to_owned(),
                        parent: target.clone(),
                        position,
                    });
                }
                (child.id.to_owned(), Some(child.content))
            } else if let Some(id) = named.filter(|id| !self.kept.contains(*id)) {
                self.edits.push(Edit::Move {
                    id: id.to_owned(),
                    parent: target.clone(),
                    position,
                });
                // It comes from elsewhere, and is compared as it is there.
                (id.to_owned(), self.current.get(id).copied())
            } else {
                (self.insert(&target, position, tag, content), None)
            };
            self.kept.insert(id.clone());
            previous = Some(id.clone());
            self.elements.push((Target::Id(id), tag, current, content));
        }
    }

    /// Inserts an element without its children, which follow one by one: some may come from elsewhere.
    fn insert(
        &mut self,
        parent: &Target,
        position: Position,
        tag: &str,
        content: &Content,
    ) -> String {
        let given = id_of(content).filter(|id| self.document.node(id).is_none());
        let id = given.map_or_else(&mut *self.next_id, str::to_owned);
        let mut content = content.clone();
        let list = self
            .schema
            .element(tag)
            .and_then(|element| element.child_property());
        if let Some(list) = list.filter(|_| tag != TEXT_TAG) {
            content.shift_remove(list.name());
        }
        content.insert(ID_ATTRIBUTE.to_owned(), id.clone().into());
        let element = Value::Object(Map::from_iter([(tag.to_owned(), content.into())]));
        self.edits.push(Edit::Insert {
            parent: parent.clone(),
            position,
            element,
        });
        id
    }

    /// For each wanted child the current one that becomes it.
    fn align(
        &self,
        current: &[Child<'a>],
        wanted: &[(&'a str, &'a Content)],
    ) -> Vec<Option<usize>> {
        let mut matches = vec![None; wanted.len()];
        let by_id: HashMap<&str, usize> = current
            .iter()
            .enumerate()
            .map(|(at, child)| (child.id, at))
            .collect();
        for (at, (tag, content)) in wanted.iter().enumerate() {
            let named = id_of(content).and_then(|id| by_id.get(id).copied());
            matches[at] = named.filter(|&child| current[child].tag == *tag);
        }
        let is_free = |child: &&usize| !self.claimed.contains(current[**child].id);
        let all: Vec<usize> = (0..current.len()).collect();
        let free: Vec<usize> = all.iter().filter(is_free).copied().collect();
        let open: Vec<usize> = (0..wanted.len())
            .filter(|&at| matches[at].is_none())
            .collect();
        let same = |child: usize, at: usize| {
            let (tag, content) = wanted[at];
            current[child].tag == tag && is_same(current[child].content, content)
        };
        let alike = |child: usize, at: usize| current[child].tag == wanted[at].0;
        // Equal ones stay; of the others, those of one tag between two that stay become each other.
        let mut start = (0, 0);
        let equal = common(&free, &open, same);
        for end in equal.into_iter().chain([(free.len(), open.len())]) {
            let (free, open) = (&free[start.0..end.0], &open[start.1..end.1]);
            for (child, at) in common(free, open, alike) {
                matches[open[at]] = Some(free[child]);
            }
            start = (end.0 + 1, end.1 + 1);
        }
        for (child, at) in common(&free, &open, same) {
            matches[open[at]] = Some(free[child]);
        }
        matches
    }

    fn children<'b>(&self, tag: &str, content: &'b Content) -> Vec<(&'b str, &'b Content)> {
        let list = self
            .schema
            .element(tag)
            .and_then(|element| element.child_property());
        let list = list.filter(|_| tag != TEXT_TAG);
        let list = list.and_then(|list| content.get(list.name())?.as_array());
        let children = list.into_iter().flatten();
        let children = children.filter_map(|child| {
            let (tag, content) = child.as_object()?.iter().next()?;
            Some((tag.as_str(), content.as_object()?))
        });
        children.collect()
    }
}

/// A longest common subsequence, as pairs of indices.
fn common(a: &[usize], b: &[usize], same: impl Fn(usize, usize) -> bool) -> Vec<(usize, usize)> {
    let mut prefix = 0;
    while prefix < a.len().min(b.len()) && same(a[prefix], b[prefix]) {
        prefix += 1;
    }
    let (mut a_end, mut b_end) = (a.len(), b.len());
    while a_end > prefix && b_end > prefix && same(a[a_end - 1], b[b_end - 1]) {
        a_end -= 1;
        b_end -= 1;
    }
    let mut pairs: Vec<(usize, usize)> = (0..prefix).map(|at| (at, at)).collect();
    let (rows, columns) = (a_end - prefix, b_end - prefix);
    if rows.saturating_mul(columns) > MAX_COMPARISONS {
        let mut rest: VecDeque<usize> = (prefix..a_end).collect();
        for (at, &wanted) in b.iter().enumerate().take(b_end).skip(prefix) {
            const LOOK_AHEAD: usize = 16;
            let ahead = rest
                .iter()
                .take(LOOK_AHEAD)
                .position(|&child| same(a[child], wanted));
            if let Some(ahead) = ahead {
                pairs.push((rest[ahead], at));
                rest.drain(..=ahead);
            }
        }
    } else if rows > 0 && columns > 0 {
        let mut lengths = vec![0_u32; (rows + 1) * (columns + 1)];
        let cell = |row: usize, column: usize| row * (columns + 1) + column;
        let mut equal = vec![false; rows * columns];
        for row in (0..rows).rev() {
            for column in (0..columns).rev() {
                let is_equal = same(a[prefix + row], b[prefix + column]);
                equal[row * columns + column] = is_equal;
                lengths[cell(row, column)] = if is_equal {
                    lengths[cell(row + 1, column + 1)] + 1
                } else {
                    lengths[cell(row + 1, column)].max(lengths[cell(row, column + 1)])
                };
            }
        }
        let (mut row, mut column) = (0, 0);
        while row < rows && column < columns {
            if equal[row * columns + column] {
                pairs.push((prefix + row, prefix + column));
                row += 1;
                column += 1;
            } else if lengths[cell(row + 1, column)] >= lengths[cell(row, column + 1)] {
                row += 1;
            } else {
                column += 1;
            }
        }
    }
    pairs.extend((a_end..a.len()).zip(b_end..b.len()));
    pairs
}

/// Which of the matched places keep their order, as many as can be.
fn longest_increasing(matches: &[Option<usize>]) -> HashSet<usize> {
    // The last place of the best row of each length, and for each place the one before it.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = vec![None; matches.len()];
    for (at, child) in matches.iter().enumerate() {
        let Some(child) = child else {
            continue;
        };
        let length = ends.partition_point(|&end| matches[end] < Some(*child));
        before[at] = length.checked_sub(1).map(|shorter| ends[shorter]);
        ends.truncate(length.max(ends.len().min(length + 1)));
        if length < ends.len() {
            ends[length] = at;
        } else {
            ends.push(at);
        }
    }
    let mut stay = HashSet::new();
    let mut at = ends.last().copied();
    while let Some(place) = at {
        stay.insert(place);
        at = before[place];
    }
    stay
}

/// Whether an element is as wanted, whatever its `$id`s.
fn is_same(current: &Content, wanted: &Content) -> bool {
    let ids = usize::from(current.contains_key(ID_ATTRIBUTE));
    let named = usize::from(wanted.contains_key(ID_ATTRIBUTE));
    current.len() - ids == wanted.len() - named
        && current.iter().all(|(name, value)| {
            name == ID_ATTRIBUTE
                || wanted
                    .get(name)
                    .is_some_and(|wanted| is_same_value(value, wanted))
        })
}

/// Both come from a document or from a caller who limits depth.
fn is_same_value(current: &Value, wanted: &Value) -> bool {
    match (current, wanted) {
        (Value::Object(current), Value::Object(wanted)) => is_same(current, wanted),
        (Value::Array(current), Value::Array(wanted)) => {
            let pairs = current.iter().zip(wanted);
            current.len() == wanted.len() && { pairs }.all(|(a, b)| is_same_value(a, b))
        }
        _ => current == wanted,
    }
}

fn id_of(content: &Content) -> Option<&str> {
    content.get(ID_ATTRIBUTE)?.as_str()
}

type Character = (char, Map<String, Value>);

fn delta(content: &Content, list: Option<&str>) -> Vec<Character> {
    let runs = list.and_then(|list| {
        content
            .get(list)?
            .get(0)?
            .get(TEXT_TAG)?
            .get("delta")?
            .as_array()
    });
    let mut characters = Vec::new();
    for run in runs.into_iter().flatten() {
        let text = run
            .get("insert")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let attributes = run.get("attributes").and_then(Value::as_object);
        let mut attributes = attributes.cloned().unwrap_or_default();
        attributes.retain(|_, value| !value.is_null());
        characters.extend(
            text.chars()
                .map(|character| (character, attributes.clone())),
        );
    }
    characters
}

fn text_difference(id: &str, old: &[Character], new: &[Character]) -> Vec<Edit> {
    let id = || id.to_owned();
    let same_text = old.iter().map(|one| one.0).eq(new.iter().map(|one| one.0));
    let prefix = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let rest = old[prefix..].iter().rev().zip(new[prefix..].iter().rev());
    let suffix = rest.take_while(|(a, b)| a == b).count();
    let (old_end, new_end) = (old.len() - suffix, new.len() - suffix);
    let mut edits = Vec::new();
    if same_text {
        let mut start = prefix;
        while start < old_end {
            let alike = |at: &usize| old[*at].1 == old[start].1 && new[*at].1 == new[start].1;
            let length = (start..old_end).take_while(alike).count();
            let (before, after) = (&old[start].1, &new[start].1);
            let mut attributes = after.clone();
            attributes.retain(|name, value| before.get(name) != Some(value));
            let gone = before.keys().filter(|name| !after.contains_key(*name));
            attributes.extend(gone.map(|name| (name.clone(), Value::Null)));
            if !attributes.is_empty() {
                edits.push(Edit::FormatText {
                    id: id(),
                    from: TextPosition::Scalars(start),
                    to: TextPosition::Scalars(start + length),
                    attributes,
                });
            }
            start += length;
        }
        return edits;
    }
    if old_end > prefix {
        edits.push(Edit::DeleteText {
            id: id(),
            from: TextPosition::Scalars(prefix),
            to: TextPosition::Scalars(old_end),
        });
    }
    let mut start = prefix;
    for run in new[prefix..new_end].chunk_by(|a, b| a.1 == b.1) {
        edits.push(Edit::InsertText {
            id: id(),
            at: TextPosition::Scalars(start),
            text: run.iter().map(|one| one.0).collect(),
            attributes: Some(run[0].1.clone()),
        });
        start += run.len();
    }
    edits
}
