//! Undo and redo of edits that were made here, and of nobody else's.
//!
//! For each edit its inverse is kept as data. When it is undone, the inverse is adapted to what others
//! did since: what they deleted stays deleted, a value that they replaced stays replaced, places in
//! texts have moved with the text. An undo is an edit like any other, so that redo is the undo of it.

use serde_json::{Map, Value};

use super::MeshDocument;
use super::anchor::Anchor;
use super::edit::{Edit, Position, Target, TextPosition};
use super::event::Origin;
use crate::update::scan::{IdRange, utf16_length};

/// Groups of inverses, oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    undo: Vec<Group>,
    redo: Vec<Group>,
    /// Whether what is edited now is an undo, or else a redo, of something.
    direction: Direction,
    open: Vec<Inverse>,
    now: u64,
    window: u64,
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
    inverses: Vec<Inverse>,
}

/// How to take one edit back.
#[derive(Debug)]
pub(super) enum Inverse {
    /// Give an attribute its old value, unless somebody gave it another one since.
    Attribute {
        target: Target,
        name: String,
        old: Option<Value>,
        new: Option<Value>,
    },
    Delete(String),
    /// Take inserted characters away, wherever they are now.
    DeleteText {
        id: String,
        inserted: IdRange,
        at: Place,
        runs: Vec<Run>,
    },
    /// Give runs of text their old formats.
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

/// A place in a text, that stays right whatever happens to the text.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Exact as long as nobody else has changed the document, since edits are taken back in turn.
    units: usize,
    epoch: u64,
    /// What it goes by after that.
    anchor: Option<Anchor>,
}

/// A text and its formats.
pub(super) type Run = (String, Map<String, Value>);

/// Where a run begins, in UTF-16 units, and the run.
type PlacedRun = (usize, String, Map<String, Value>);

impl MeshDocument {
    /// Starts, or stops, to remember edits, of this document and of nobody else. Those within `window` of the clock of
    /// [`Self::set_time`] are undone together; with 0 each transaction is by itself.
    pub fn remember_edits(&mut self, on: bool, window: u64) {
        self.undo = on.then(|| History {
            window,
            ..self.undo.take().unwrap_or_default()
        });
    }

    /// Tells the time, in any unit, to group edits by it.
    pub fn set_time(&mut self, now: u64) {
        if let Some(history) = &mut self.undo {
            history.now = now;
        }
    }

    /// Whether there is something to undo.
    pub fn can_undo(&self) -> bool {
        self.undo
            .as_ref()
            .is_some_and(|history| !history.undo.is_empty())
    }

    /// Whether there is something to redo.
    pub fn can_redo(&self) -> bool {
        self.undo
            .as_ref()
            .is_some_and(|history| !history.redo.is_empty())
    }

    /// Takes the last group of edits back; its v1 update, `None` if there is nothing to take back.
    ///
    /// What others did in between stays. What they deleted does not come back, a value that they
    /// replaced is not replaced again, and an element that was deleted comes back without what they did
    /// in it meanwhile. It comes back behind the sibling that it stood behind, or last if that is gone,
    /// and with 256 levels of elements at most, as JSON has.
    pub fn undo(&mut self) -> Option<Vec<u8>> {
        let group = self.undo.as_mut()?.undo.pop()?;
        self.take_back(group, Direction::Undo)
    }

    /// Takes the last undo back; its v1 update, `None` if there is nothing to take back.
    pub fn redo(&mut self) -> Option<Vec<u8>> {
        let group = self.undo.as_mut()?.redo.pop()?;
        self.take_back(group, Direction::Redo)
    }

    fn take_back(&mut self, group: Group, direction: Direction) -> Option<Vec<u8>> {
        self.undo.as_mut()?.direction = direction;
        let mut updates = Vec::new();
        for inverse in group.inverses.into_iter().rev() {
            updates.extend(self.invert(inverse));
        }
        self.close_group(group.at);
        self.undo.as_mut()?.direction = Direction::Edit;
        self.close_event(Origin::Undo);
        let updates: Vec<&[u8]> = updates.iter().map(Vec::as_slice).collect();
        if updates.is_empty() {
            return None;
        }
        crate::merge_updates(&updates).ok()
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

    /// Notes how an edit is taken back, before it is made.
    pub(super) fn note_inverse(&mut self, edit: &Edit) {
        if self.undo.is_none() {
            return;
        }
        if let Some(inverse) = self.inverse(edit) {
            self.note(inverse);
        }
    }

    pub(super) fn note(&mut self, inverse: Inverse) {
        if let Some(history) = &mut self.undo {
            history.open.push(inverse);
        }
    }

    /// Ends the group of what was noted, on the stack that it belongs to.
    pub(super) fn close_edit(&mut self) {
        let now = self.undo.as_ref().map_or(0, |history| history.now);
        let is_edit = self
            .undo
            .as_ref()
            .is_some_and(|history| history.direction == Direction::Edit);
        if is_edit {
            self.close_group(now);
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
        if history.direction == Direction::Edit {
            history.redo.clear();
            if let Some(last) = history.undo.last_mut()
                && history.window > 0
                && at.abs_diff(last.at) <= history.window
            {
                last.inverses.extend(inverses);
                last.at = at;
                return;
            }
        }
        let stack = match history.direction {
            Direction::Undo => &mut history.redo,
            Direction::Edit | Direction::Redo => &mut history.undo,
        };
        stack.push(Group { at, inverses });
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
                    let old = |name: &String| before.get(name).cloned().unwrap_or_default();
                    let old = attributes.keys().map(|name| (name.clone(), old(name)));
                    runs.push((
                        self.place(id, TextPosition::Utf16(start), false)?,
                        self.place(id, TextPosition::Utf16(end), true)?,
                        old.collect(),
                    ));
                }
                let id = id.clone();
                Inverse::Format { id, runs }
            }
            // Taken apart before it is made.
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

    /// Tells where the operations of the edit end that was noted last.
    pub(super) fn end_inverse(&mut self) {
        let clock = self.engine.clock(self.client_id);
        if let Some(history) = &mut self.undo
            && let Some(Inverse::DeleteText { inserted, .. }) = history.open.last_mut()
            && inserted.end == u32::MAX
        {
            inserted.end = clock;
        }
    }

    /// Runs with the formats that they have now, if they are still there as they were inserted.
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

    /// The element around an element, and the `$id` of the child before it.
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

    /// The runs of a text between two places: where each begins, in UTF-16 units, and what it is.
    fn runs_between(
        &self,
        id: &str,
        from: TextPosition,
        to: TextPosition,
    ) -> Option<Vec<PlacedRun>> {
        let from = self.text_offset(id, from)? as usize;
        let to = self.text_offset(id, to)? as usize;
        let mut found = Vec::new();
        let mut start = 0;
        for run in self.node(id)?.text()?.to_delta().as_array()? {
            let text = run.get("insert")?.as_str()?;
            let attributes = run.get("attributes")?.as_object()?;
            let mut part = String::new();
            let mut part_start = start;
            for character in text.chars() {
                if (from..to).contains(&start) {
                    if part.is_empty() {
                        part_start = start;
                    }
                    part.push(character);
                }
                start += character.len_utf16();
            }
            if !part.is_empty() {
                found.push((part_start, part, attributes.clone()));
            }
        }
        Some(found)
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
