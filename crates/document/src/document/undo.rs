//! Undo and redo of edits made here; edits of others are not undone.
//!
//! The inverse of each edit is kept as data. Undo adapts it to concurrent changes of others:
//! elements that they deleted stay deleted, values that they replaced stay replaced, positions in
//! texts follow the text. An undo is an edit itself, so redo is the undo of an undo.

use std::collections::VecDeque;

use serde_json::{Map, Value};

use super::MeshDocument;
use super::anchor::Anchor;
use super::edit::{Edit, Position, Target, TextPosition};
use super::event::Origin;
use super::remake::Remade;
use crate::engine::TextChanges;
use crate::update::scan::{IdRange, utf16_length};

/// Groups of inverses, oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    undo: VecDeque<Group>,
    redo: VecDeque<Group>,
    /// Whether current edits come from the caller, from an undo, or from a redo.
    direction: Direction,
    open: Vec<Noted>,
    /// The approximate memory of both stacks, in bytes.
    bytes: usize,
    now: u64,
    window: u64,
}

impl History {
    /// The stack that this direction takes from.
    fn stack(&mut self, direction: Direction) -> &mut VecDeque<Group> {
        match direction {
            Direction::Redo => &mut self.redo,
            Direction::Edit | Direction::Undo => &mut self.undo,
        }
    }

    fn clear_redo(&mut self) {
        self.bytes -= self.redo.drain(..).map(|group| group.bytes).sum::<usize>();
    }

    /// Drops the oldest groups until the rest fits.
    fn trim(&mut self, max_bytes: usize) {
        while self.bytes > max_bytes {
            let oldest = self.undo.pop_front().or_else(|| self.redo.pop_front());
            let Some(group) = oldest else {
                return;
            };
            self.bytes -= group.bytes;
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Direction {
    #[default]
    Edit,
    Redo,
    Undo,
}

#[derive(Debug)]
struct Group {
    at: u64,
    inverses: Vec<Noted>,
    bytes: usize,
}

/// An inverse and the mark of its edit.
type Noted = (u64, Inverse);

/// The inverse of one edit.
#[derive(Debug)]
pub(super) enum Inverse {
    /// Restores an attribute's old value, unless another replica has changed it since.
    Attribute {
        target: Target,
        name: String,
        old: Option<Value>,
        new: Option<Value>,
    },
    Delete(String),
    /// Deletes inserted characters at their current positions.
    DeleteText {
        id: String,
        inserted: IdRange,
        at: Place,
        runs: Vec<Run>,
    },
    /// Restores the old formats of text runs.
    Format {
        id: String,
        runs: Vec<(Place, Place, Map<String, Value>)>,
    },
    Insert {
        parent: Target,
        after: Option<String>,
        element: Value,
    },
    InsertText {
        id: String,
        at: Place,
        runs: Vec<Run>,
    },
    Move {
        id: String,
        parent: Target,
        after: Option<String>,
    },
}

impl Inverse {
    /// Whether the inverse changes nothing.
    fn is_nothing(&self) -> bool {
        match self {
            Self::Attribute { old, new, .. } => old == new,
            Self::Format { runs, .. } => runs.is_empty(),
            Self::InsertText { runs, .. } => runs.is_empty(),
            Self::Delete(_) | Self::DeleteText { .. } | Self::Insert { .. } | Self::Move { .. } => {
                false
            }
        }
    }

    /// The same inverse in another replica; `None` if there is nothing to take back.
    fn renamed(
        mut self,
        document: &MeshDocument,
        before: &MeshDocument,
        remade: &Remade,
    ) -> Option<Self> {
        let rename = |place: &mut Place| {
            place.epoch = u64::MAX;
            let anchor = place.anchor.take();
            place.anchor = anchor.and_then(|anchor| anchor.renamed(document, before, remade));
        };
        match &mut self {
            Self::DeleteText { inserted, at, .. } => {
                *inserted = remade.run(document, *inserted)?;
                rename(at);
            }
            Self::Format { runs, .. } => {
                for (from, to, _) in runs {
                    rename(from);
                    rename(to);
                }
            }
            Self::InsertText { at, .. } => rename(at),
            Self::Attribute { .. } | Self::Delete(_) | Self::Insert { .. } | Self::Move { .. } => {}
        }
        Some(self)
    }

    /// The approximate memory in bytes.
    fn bytes(&self) -> usize {
        let target = |target: &Target| match target {
            Target::Id(id) => id.len(),
            Target::Root => 0,
        };
        let of_runs = |runs: &[Run]| -> usize {
            let run = |(text, formats): &Run| size_of::<Run>() + text.len() + map_bytes(formats);
            runs.iter().map(run).sum()
        };
        let value = |value: &Option<Value>| value.as_ref().map_or(0, value_bytes);
        let held = match self {
            Self::Attribute {
                target: of,
                name,
                old,
                new,
            } => target(of) + name.len() + value(old) + value(new),
            Self::Delete(id) => id.len(),
            Self::DeleteText { id, runs, .. } | Self::InsertText { id, runs, .. } => {
                id.len() + of_runs(runs)
            }
            Self::Format { id, runs } => {
                let run = |(_, _, formats): &(Place, Place, Map<String, Value>)| {
                    2 * size_of::<Place>() + map_bytes(formats)
                };
                id.len() + runs.iter().map(run).sum::<usize>()
            }
            Self::Insert {
                parent,
                after,
                element,
            } => target(parent) + after.as_ref().map_or(0, String::len) + value_bytes(element),
            Self::Move { id, parent, after } => {
                id.len() + target(parent) + after.as_ref().map_or(0, String::len)
            }
        };
        size_of::<Self>() + held
    }
}

fn bytes_of(noted: &[Noted]) -> usize {
    noted.iter().map(|(_, inverse)| inverse.bytes()).sum()
}

/// The approximate memory of a value in bytes; recursive, since elements have at most 256 levels.
fn value_bytes(value: &Value) -> usize {
    let held = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(value_bytes).sum(),
        Value::Object(members) => map_bytes(members),
    };
    size_of::<Value>() + held
}

fn map_bytes(members: &Map<String, Value>) -> usize {
    // A key, a hash and a slot in the table.
    const MEMBER: usize = 48;
    let member = |(name, value): (&String, &Value)| MEMBER + name.len() + value_bytes(value);
    members.iter().map(member).sum()
}

/// A position in a text that stays valid when the text changes.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Exact while no other replica has changed the document, since edits are undone in
    /// reverse order.
    units: usize,
    epoch: u64,
    /// Used after another replica has changed the document.
    anchor: Option<Anchor>,
}

/// A text and its formats.
pub(super) type Run = (String, Map<String, Value>);

/// The start of a run in UTF-16 units, and the run.
type PlacedRun = (usize, String, Map<String, Value>);

impl MeshDocument {
    /// Starts or stops recording edits of this document for undo; edits of others are not recorded.
    ///
    /// Edits within `window`, in the unit of [`Self::set_time`], are undone together. With 0, each
    /// transaction is undone separately.
    pub fn remember_edits(&mut self, on: bool, window: u64) {
        self.undo = on.then(|| History {
            window,
            ..self.undo.take().unwrap_or_default()
        });
    }

    /// Sets the current time, in any unit, by which edits are grouped.
    pub fn set_time(&mut self, now: u64) {
        if let Some(history) = &mut self.undo {
            history.now = now;
        }
    }

    /// Marks later edits, so that [`Self::take_over_undo`] can leave them out.
    pub fn mark_edits(&mut self, mark: u64) {
        self.mark = mark;
    }

    /// Takes over the undo history of another replica of this document, except edits with these
    /// marks, which are not in this document. `remade` maps the operations of edits that were
    /// replayed here. The oldest edits are dropped if they exceed the limit of this replica.
    pub fn take_over_undo(
        &mut self,
        before: &mut Self,
        remade: &Remade,
        is_lost: impl Fn(u64) -> bool,
    ) {
        let Some(mut history) = before.undo.take() else {
            return;
        };
        for stack in [&mut history.undo, &mut history.redo] {
            for group in &mut *stack {
                let inverses = std::mem::take(&mut group.inverses).into_iter();
                let kept = inverses.filter(|(mark, _)| !is_lost(*mark));
                let renamed = kept.filter_map(|(mark, inverse)| {
                    Some((mark, inverse.renamed(self, before, remade)?))
                });
                group.inverses = renamed.collect();
                group.bytes = bytes_of(&group.inverses);
            }
            stack.retain(|group| !group.inverses.is_empty());
        }
        let groups = history.undo.iter().chain(&history.redo);
        history.bytes = groups.map(|group| group.bytes).sum();
        history.open.clear();
        history.trim(self.limits.undo_bytes);
        self.undo = Some(history);
    }

    /// Whether there are edits to undo.
    pub fn can_undo(&self) -> bool {
        self.undo
            .as_ref()
            .is_some_and(|history| !history.undo.is_empty())
    }

    /// Whether there are undone edits to redo.
    pub fn can_redo(&self) -> bool {
        self.undo
            .as_ref()
            .is_some_and(|history| !history.redo.is_empty())
    }

    /// Undoes the last group of edits. Returns its v1 update; `None` if there is nothing to undo.
    ///
    /// Concurrent changes of others stay: elements that they deleted are not restored, values that
    /// they replaced are not replaced again, and a restored element does not have their changes
    /// inside of it. A restored element comes after its former left sibling, or last if that is
    /// gone. It has at most 256 levels of elements, as in JSON.
    pub fn undo(&mut self) -> Option<Vec<u8>> {
        self.take_back(Direction::Undo)
    }

    /// Redoes the last undo. Returns its v1 update; `None` if there is nothing to redo.
    pub fn redo(&mut self) -> Option<Vec<u8>> {
        self.take_back(Direction::Redo)
    }

    /// Takes back the last group that still has an effect.
    fn take_back(&mut self, direction: Direction) -> Option<Vec<u8>> {
        loop {
            let left = self.operations_left() as usize;
            let history = self.undo.as_mut()?;
            // Otherwise the group could be taken back in part or not at all, and be lost. Each
            // operation takes bytes here.
            history
                .stack(direction)
                .back()
                .filter(|group| group.bytes < left)?;
            let group = history.stack(direction).pop_back()?;
            history.bytes -= group.bytes;
            history.direction = direction;
            let mut updates = Vec::new();
            for (_, inverse) in group.inverses.into_iter().rev() {
                updates.extend(self.invert(inverse));
            }
            self.close_group(group.at);
            self.undo.as_mut()?.direction = Direction::Edit;
            if !updates.is_empty() {
                self.close_event(Origin::Undo);
                let updates: Vec<&[u8]> = updates.iter().map(Vec::as_slice).collect();
                return crate::merge_updates(&updates).ok();
            }
        }
    }

    fn invert(&mut self, inverse: Inverse) -> Option<Vec<u8>> {
        let edits = match inverse {
            Inverse::Attribute {
                target,
                name,
                old,
                new,
            } => {
                if self.value(&target, &name) != new {
                    return None;
                }
                vec![match old {
                    Some(value) => Edit::SetAttribute {
                        target,
                        name,
                        value,
                    },
                    None => Edit::RemoveAttribute { target, name },
                }]
            }
            Inverse::Delete(id) => vec![Edit::Delete { id }],
            Inverse::DeleteText {
                id,
                inserted,
                at,
                runs,
            } => {
                let runs = self.formatted(&id, &at, &runs).unwrap_or(runs);
                if at.epoch == self.epoch {
                    let length: usize = runs.iter().map(|(text, _)| utf16_length(text)).sum();
                    let from = TextPosition::Utf16(at.units);
                    let to = TextPosition::Utf16(at.units + length);
                    let edit = Edit::DeleteText { id, from, to };
                    return self.edit_quietly(&[edit], &mut String::new).ok().flatten();
                }
                let ranges = self.engine.not_deleted(inserted);
                let update = self.delete_ranges(&ranges)?;
                self.note(Inverse::InsertText { id, at, runs });
                return Some(update);
            }
            Inverse::Format { id, runs } => {
                let runs = runs.into_iter();
                runs.filter_map(|(from, to, attributes)| {
                    Some(Edit::FormatText {
                        id: id.clone(),
                        from: self.now_at(&from)?,
                        to: self.now_at(&to)?,
                        attributes,
                    })
                })
                .collect()
            }
            Inverse::Insert {
                parent,
                after,
                element,
            } => vec![Edit::Insert {
                position: self.behind(&parent, after),
                parent,
                element,
            }],
            Inverse::InsertText { id, at, runs } => {
                let mut updates = Vec::new();
                let TextPosition::Utf16(mut units) = self.now_at(&at)? else {
                    return None;
                };
                for (text, attributes) in runs {
                    let length = utf16_length(&text);
                    updates.push(Edit::InsertText {
                        id: id.clone(),
                        at: TextPosition::Utf16(units),
                        text,
                        attributes: Some(attributes),
                    });
                    units += length;
                }
                updates
            }
            Inverse::Move { id, parent, after } => vec![Edit::Move {
                position: self.behind(&parent, after),
                id,
                parent,
            }],
        };
        self.edit_quietly(&edits, &mut String::new).ok().flatten()
    }

    /// Records the inverse of an edit before it is applied.
    pub(super) fn note_inverse(&mut self, edit: &Edit) {
        if self.undo.is_none() {
            return;
        }
        if let Some(inverse) = self.inverse(edit)
            && !inverse.is_nothing()
        {
            self.note(inverse);
        }
    }

    /// The number of recorded inverses in the open group.
    pub(super) fn noted(&self) -> usize {
        self.undo.as_ref().map_or(0, |history| history.open.len())
    }

    /// Discards the inverses recorded since, as their edits had no effect.
    pub(super) fn forget_noted(&mut self, since: usize) {
        if let Some(history) = &mut self.undo {
            history.open.truncate(since);
        }
    }

    pub(super) fn note(&mut self, inverse: Inverse) {
        if let Some(history) = &mut self.undo {
            history.open.push((self.mark, inverse));
        }
    }

    /// Closes the open group and pushes it onto its stack.
    pub(super) fn close_edit(&mut self) {
        if let Some(history) = &self.undo
            && history.direction == Direction::Edit
        {
            self.close_group(history.now);
        }
    }

    fn close_group(&mut self, at: u64) {
        let Some(history) = &mut self.undo else {
            return;
        };
        let inverses = std::mem::take(&mut history.open);
        if inverses.is_empty() {
            return;
        }
        let bytes = bytes_of(&inverses);
        history.bytes += bytes;
        if history.direction == Direction::Edit {
            history.clear_redo();
        }
        let joined = match history.undo.back_mut() {
            Some(last)
                if history.direction == Direction::Edit
                    && history.window > 0
                    && at.abs_diff(last.at) <= history.window =>
            {
                Some(last)
            }
            _ => None,
        };
        if let Some(last) = joined {
            last.inverses.extend(inverses);
            last.bytes += bytes;
            last.at = at;
        } else {
            let stack = match history.direction {
                Direction::Undo => &mut history.redo,
                Direction::Edit | Direction::Redo => &mut history.undo,
            };
            stack.push_back(Group {
                at,
                inverses,
                bytes,
            });
        }
        history.trim(self.limits.undo_bytes);
    }

    /// The approximate memory of the undo history, in bytes.
    pub fn undo_bytes(&self) -> usize {
        self.undo.as_ref().map_or(0, |history| history.bytes)
    }

    fn inverse(&self, edit: &Edit) -> Option<Inverse> {
        Some(match edit {
            Edit::Delete { id } => {
                let (parent, after) = self.place_of(id)?;
                let element = self.node(id)?.to_json(true);
                Inverse::Insert {
                    parent,
                    after,
                    element,
                }
            }
            Edit::Insert { element, .. } => {
                let content = element.as_object()?.values().next()?;
                Inverse::Delete(content.get("$id")?.as_str()?.to_owned())
            }
            Edit::Move { id, .. } => {
                let (parent, after) = self.place_of(id)?;
                let id = id.clone();
                Inverse::Move { id, parent, after }
            }
            Edit::RemoveAttribute { target, name } => Inverse::Attribute {
                old: self.value(target, name),
                target: target.clone(),
                name: name.clone(),
                new: None,
            },
            Edit::SetAttribute {
                target,
                name,
                value,
            } => Inverse::Attribute {
                old: self.value(target, name),
                target: target.clone(),
                name: name.clone(),
                new: Some(value.clone()),
            },
            Edit::DeleteText { id, from, to } => {
                let runs = self.runs_between(id, *from, *to)?;
                let runs = runs
                    .into_iter()
                    .map(|(_, text, attributes)| (text, attributes));
                Inverse::InsertText {
                    at: self.place(id, *from, true)?,
                    id: id.clone(),
                    runs: runs.collect(),
                }
            }
            Edit::FormatText {
                id,
                from,
                to,
                attributes,
            } => {
                let mut runs = Vec::new();
                for (start, text, before) in self.runs_between(id, *from, *to)? {
                    let end = start + utf16_length(&text);
                    let changed = attributes.iter().filter_map(|(name, value)| {
                        let old = before.get(name).cloned().unwrap_or_default();
                        (old != *value).then(|| (name.clone(), old))
                    });
                    let old: Map<String, Value> = changed.collect();
                    if old.is_empty() {
                        continue;
                    }
                    runs.push((
                        self.place(id, TextPosition::Utf16(start), false)?,
                        self.place(id, TextPosition::Utf16(end), true)?,
                        old,
                    ));
                }
                let id = id.clone();
                Inverse::Format { id, runs }
            }
            // The draft has translated it into other edits.
            Edit::ApplyDelta { .. } => return None,
            Edit::InsertText {
                id,
                at,
                text,
                attributes,
            } => Inverse::DeleteText {
                at: self.place(id, *at, true)?,
                id: id.clone(),
                inserted: IdRange {
                    client: self.client_id,
                    start: self.engine.clock(self.client_id),
                    end: u32::MAX,
                },
                runs: vec![(text.clone(), attributes.clone().unwrap_or_default())],
            },
        })
    }

    /// Completes the last recorded inverse with the end of the edit's operations.
    pub(super) fn end_inverse(&mut self) {
        let clock = self.engine.clock(self.client_id);
        if let Some(history) = &mut self.undo
            && let Some((_, Inverse::DeleteText { inserted, .. })) = history.open.last_mut()
            && inserted.end == u32::MAX
        {
            inserted.end = clock;
        }
    }

    /// The runs with their current formats, if they are unchanged since their insertion.
    fn formatted(&self, id: &str, at: &Place, runs: &[Run]) -> Option<Vec<Run>> {
        let TextPosition::Utf16(from) = self.now_at(at)? else {
            return None;
        };
        let text: String = runs.iter().map(|(text, _)| text.as_str()).collect();
        let to = from + utf16_length(&text);
        let now = self.runs_between(id, TextPosition::Utf16(from), TextPosition::Utf16(to))?;
        let now: Vec<Run> = now
            .into_iter()
            .map(|(_, text, formats)| (text, formats))
            .collect();
        let is_whole = now
            .iter()
            .map(|(text, _)| text.as_str())
            .collect::<String>()
            == text;
        is_whole.then_some(now)
    }

    fn value(&self, target: &Target, name: &str) -> Option<Value> {
        let document = self;
        let index = self.index_of(target)?;
        super::Element { document, index }.attribute(name)
    }

    /// The parent of an element, and the `$id` of its left sibling.
    fn place_of(&self, id: &str) -> Option<(Target, Option<String>)> {
        let element = self.node(id)?;
        let parent = element.parent()?;
        let before = element.index_in_parent().checked_sub(1);
        let before = before.and_then(|before| parent.child(before)?.id());
        let parent = match parent.id() {
            Some(parent) => Target::Id(parent.to_owned()),
            None => Target::Root,
        };
        Some((parent, before.map(str::to_owned)))
    }

    fn behind(&self, parent: &Target, after: Option<String>) -> Position {
        let Some(after) = after else {
            return Position::First;
        };
        let around = self.node(&after).and_then(|element| element.parent());
        let is_there = around.is_some_and(|around| match parent {
            Target::Id(id) => around.id() == Some(id),
            Target::Root => around.is_root(),
        });
        if is_there {
            Position::After(after)
        } else {
            Position::Last
        }
    }

    /// The runs of a text between two positions, with their starts in UTF-16 units.
    fn runs_between(
        &self,
        id: &str,
        from: TextPosition,
        to: TextPosition,
    ) -> Option<Vec<PlacedRun>> {
        let (from, to) = (self.text_offset(id, from)?, self.text_offset(id, to)?);
        let text = self.text_in(self.node(id)?.index)?;
        let waypoint = self.waypoint.clone();
        let changes = TextChanges::new(&self.engine, text, self.client_id, waypoint);
        let runs = changes.runs(from, to).into_iter();
        Some(
            runs.map(|(at, text, attributes)| (at as usize, text, attributes))
                .collect(),
        )
    }

    fn place(&self, id: &str, at: TextPosition, to_left: bool) -> Option<Place> {
        let at = self.text_offset(id, at)?;
        let text = self.text_in(self.node(id)?.index)?;
        Some(Place {
            units: at as usize,
            epoch: self.epoch,
            anchor: self.anchor(text, at, to_left),
        })
    }

    fn now_at(&self, at: &Place) -> Option<TextPosition> {
        if at.epoch == self.epoch {
            return Some(TextPosition::Utf16(at.units));
        }
        match &at.anchor {
            Some(anchor) => self.position(anchor),
            // The start of the text.
            None => Some(TextPosition::Utf16(0)),
        }
    }
}
