//! Rich text: runs of characters with formats, and edits of them, computed as in Yjs.
//!
//! A format begins and ends with a mark. An edit becomes new operations and deletions, which are
//! then applied like those of another replica.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use serde_json::{Map, Value};

use super::{Content, Engine, ItemIndex, KeyIndex, NONE, NodeIndex, byte_of};
use crate::update::scan::{Id, IdRange, utf16_length};
use crate::update::writer::{Builder, Place};

/// The formats at a position, by name.
pub(crate) type Attributes = Map<String, Value>;

/// Computes edits of one text. The text changes only when the update of [`TextChanges::finish`]
/// is applied.
#[derive(Debug)]
pub(crate) struct TextChanges<'a> {
    engine: &'a Engine,
    node: NodeIndex,
    builder: Builder,
    deletes: Vec<IdRange>,
    waypoint: Option<Waypoint>,
}

/// The position of the last edit in a text. The next edit is often behind it and then needs no walk
/// over the text before it to find the formats.
#[derive(Clone, Debug)]
pub(crate) struct Waypoint {
    node: NodeIndex,
    // After a character and before any mark.
    at: u32,
    last: Id,
    formats: Attributes,
    // The engine's revision once the edit is applied; `None` before.
    revision: Option<u64>,
}

impl Waypoint {
    /// The waypoint once the edit is applied; `None` if the waypoint belongs to an earlier edit.
    pub(crate) fn integrated(mut self, engine: &Engine) -> Option<Self> {
        let is_new = self.revision.is_none();
        self.revision = Some(engine.revision);
        is_new.then_some(self)
    }
}

/// A position between two operations.
#[derive(Clone, Debug)]
struct Cursor {
    left: Option<Id>,
    right: ItemIndex,
    // The number of operations of `right` that are to the left of the cursor.
    offset: u32,
    formats: Attributes,
}

/// The formats along a text, from mark to mark.
#[derive(Debug, Default)]
pub(super) struct Formats {
    pub(super) now: Attributes,
    // Formats that changed since the last run, with their values there; null stands for none.
    changed: HashMap<KeyIndex, Value>,
}

impl Formats {
    /// Passes a mark. Returns the value that it ends.
    pub(super) fn set(&mut self, key: KeyIndex, name: &str, value: &str) -> Value {
        let value = parse(value);
        let before = if value.is_null() {
            self.now.swap_remove(name)
        } else {
            self.now.insert(name.to_owned(), value.clone())
        };
        let before = before.unwrap_or(Value::Null);
        match self.changed.entry(key) {
            Entry::Occupied(in_last_run) if *in_last_run.get() == value => {
                in_last_run.remove();
            }
            Entry::Vacant(entry) if before != value => {
                entry.insert(before.clone());
            }
            Entry::Occupied(_) | Entry::Vacant(_) => {}
        }
        before
    }

    /// Passes a text; returns whether its formats differ from those of the text before it.
    pub(super) fn begin_run(&mut self) -> bool {
        let is_new = !self.changed.is_empty();
        self.changed.clear();
        is_new
    }
}

impl Engine {
    /// The text in runs of equal formats.
    pub(crate) fn runs(&self, node: NodeIndex) -> Vec<(String, Attributes)> {
        let mut runs: Vec<(String, Attributes)> = Vec::new();
        let mut formats = Formats::default();
        for index in self.items(self.node(node).first) {
            let item = self.item(index);
            match &item.content {
                _ if item.is_deleted() => {}
                Content::Format(key, value) => {
                    formats.set(*key, self.name(*key), value);
                }
                Content::Text(text) => {
                    let is_new = formats.begin_run();
                    match runs.last_mut() {
                        // Marks without effect don't separate runs.
                        Some((last, _)) if !is_new => last.push_str(text),
                        _ => runs.push((text.clone(), formats.now.clone())),
                    }
                }
                _ => {}
            }
        }
        runs
    }

    /// The text without its formats.
    pub(crate) fn plain_text(&self, node: NodeIndex) -> String {
        let mut plain = String::with_capacity(self.node(node).size.units as usize);
        for index in self.items(self.node(node).first) {
            let item = self.item(index);
            if let Content::Text(text) = &item.content
                && !item.is_deleted()
            {
                plain.push_str(text);
            }
        }
        plain
    }

    /// The number of operations in a text, if it has no formats.
    pub(crate) fn plain_operations(&self, node: NodeIndex) -> Option<usize> {
        let node = self.node(node);
        (node.formats == 0).then_some(node.count as usize)
    }

    /// The length of a text in UTF-16 units and in characters.
    pub(crate) fn text_length(&self, node: NodeIndex) -> (u32, u32) {
        let size = self.node(node).size;
        (size.units, size.units - size.pairs)
    }

    /// The position of a character, or of the end, in UTF-16 units; `None` beyond it.
    pub(crate) fn units_before_scalar(&self, node: NodeIndex, scalar: u32) -> Option<u32> {
        let (units, scalars) = self.text_length(node);
        if scalar == scalars {
            return Some(units);
        }
        if units == scalars {
            return (scalar < scalars).then_some(scalar);
        }
        let (item, before) = self.locate_scalar(node, scalar)?;
        let within = scalar - (before.units - before.pairs);
        Some(before.units + self.units_of_scalars(item, within))
    }

    /// Whether this many units end at a character boundary within the text.
    pub(crate) fn is_place(&self, node: NodeIndex, units: u32) -> bool {
        let size = self.node(node).size;
        if units >= size.units || size.pairs == 0 {
            return units <= size.units;
        }
        let found = self.locate(node, units);
        found.is_some_and(|(item, before)| !self.is_within_pair(item, units - before.units))
    }
}

impl<'a> TextChanges<'a> {
    pub(crate) fn new(
        engine: &'a Engine,
        node: NodeIndex,
        client: u64,
        waypoint: Option<Waypoint>,
    ) -> Self {
        Self {
            engine,
            node,
            builder: Builder::new(client, engine.clock(client)),
            deletes: Vec::new(),
            waypoint: waypoint.filter(|waypoint| waypoint.revision == Some(engine.revision)),
        }
    }

    /// The update, its deletions, and the position of its last insertion.
    pub(crate) fn finish(self) -> (Builder, Vec<IdRange>, Option<Waypoint>) {
        (self.builder, self.deletes, self.waypoint)
    }

    /// Inserts a text; without formats it inherits those of the character before it.
    pub(crate) fn insert(&mut self, at: u32, text: &str, formats: Option<&Attributes>) {
        if text.is_empty() {
            return;
        }
        let mut cursor = self.cursor(at, formats.is_some());
        let Some(formats) = formats else {
            let place = self.place(&cursor);
            self.builder.characters(place, text);
            return;
        };
        let mut formats = formats.clone();
        for name in cursor.formats.keys() {
            formats.entry(name.clone()).or_insert(Value::Null);
        }
        self.skip_equal(&mut cursor, &formats);
        let negated = self.begin_formats(&mut cursor, &formats);
        let place = self.place(&cursor);
        let last = self.builder.characters(place, text);
        self.waypoint = Some(Waypoint {
            node: self.node,
            at: at + super::index(utf16_length(text)),
            last,
            formats: cursor.formats.clone(),
            revision: None,
        });
        cursor.left = Some(last);
        self.end_formats(&mut cursor, negated);
    }

    /// Deletes a range.
    pub(crate) fn delete(&mut self, from: u32, to: u32) {
        let mut cursor = self.cursor(from, true);
        self.remember(from, &cursor);
        let start = (cursor.right, cursor.formats.clone());
        let mut left = to - from;
        while left > 0 && cursor.right != NONE {
            let seen = self
                .engine
                .size(cursor.right)
                .units
                .saturating_sub(cursor.offset);
            if seen > 0 {
                let length = seen.min(left);
                self.delete_part(cursor.right, cursor.offset, length);
                left -= length;
                if length < seen {
                    break;
                }
            }
            self.forward(&mut cursor);
        }
        self.clean_gap(start.0, &start.1, &mut cursor);
    }

    /// Formats a range; null removes a format.
    pub(crate) fn format(&mut self, from: u32, to: u32, formats: &Attributes) {
        let mut cursor = self.cursor(from, true);
        self.remember(from, &cursor);
        self.skip_equal(&mut cursor, formats);
        let mut negated = self.begin_formats(&mut cursor, formats);
        let mut left = to - from;
        while cursor.right != NONE {
            let item = self.engine.item(cursor.right);
            let is_mark = matches!(item.content, Content::Format(..));
            if left == 0 && (negated.is_empty() || !(item.is_deleted() || is_mark)) {
                break;
            }
            if !item.is_deleted() {
                if let Content::Format(key, value) = &item.content {
                    let name = self.engine.name(*key);
                    if let Some(wanted) = formats.get(&**name) {
                        let value = parse(value);
                        if *wanted == value {
                            negated.shift_remove(&**name);
                        } else if left == 0 {
                            break;
                        } else {
                            negated.insert((**name).to_owned(), value);
                        }
                        self.delete_part(cursor.right, 0, 1);
                        // The mark is deleted, so its effect ends.
                        cursor.left = Some(self.engine.last_id(cursor.right));
                        cursor.right = item.right();
                        continue;
                    }
                }
                let seen = self
                    .engine
                    .size(cursor.right)
                    .units
                    .saturating_sub(cursor.offset);
                if seen > left {
                    let Id { client, clock } = self.engine.item_id(cursor.right);
                    cursor.offset += left;
                    let clock = clock + cursor.offset - 1;
                    cursor.left = Some(Id { client, clock });
                    break;
                }
                left -= seen;
            }
            self.forward(&mut cursor);
        }
        self.end_formats(&mut cursor, negated);
    }

    /// The runs of equal formats in a range, with their starts.
    pub(crate) fn runs(&self, from: u32, to: u32) -> Vec<(u32, String, Attributes)> {
        let mut runs: Vec<(u32, String, Attributes)> = Vec::new();
        let mut cursor = self.cursor(from, true);
        let mut at = from;
        while at < to && cursor.right != NONE {
            let item = self.engine.item(cursor.right);
            if let Content::Text(text) = &item.content
                && !item.is_deleted()
            {
                let length = item.length();
                let end = cursor.offset + (length - cursor.offset).min(to - at);
                let (first, _) = byte_of(text, length, cursor.offset);
                let (last, _) = byte_of(text, length, end);
                match runs.last_mut() {
                    Some((_, run, formats)) if *formats == cursor.formats => {
                        run.push_str(&text[first..last]);
                    }
                    _ => runs.push((at, text[first..last].to_owned(), cursor.formats.clone())),
                }
                at += end - cursor.offset;
            }
            self.forward(&mut cursor);
        }
        runs
    }

    /// Keeps the position for the next edit.
    fn remember(&mut self, at: u32, cursor: &Cursor) {
        if self.engine.node(self.node).formats == 0 {
            return;
        }
        self.waypoint = cursor.left.map(|last| Waypoint {
            node: self.node,
            at,
            last,
            formats: cursor.formats.clone(),
            revision: None,
        });
    }

    /// The cursor after this many units, with the formats there if requested.
    fn cursor(&self, at: u32, with_formats: bool) -> Cursor {
        let start = Cursor {
            left: None,
            right: self.engine.node(self.node).first,
            offset: 0,
            formats: Attributes::new(),
        };
        if with_formats && self.engine.node(self.node).formats > 0 {
            let (passed, cursor) = self.cursor_from_waypoint(at).unwrap_or((0, start));
            return self.walk(cursor, at - passed);
        }
        let mut cursor = start;
        if let Some(last) = at.checked_sub(1)
            && let Some((item, before)) = self.engine.locate(self.node, last)
        {
            cursor.right = item;
            let within = at - before.units;
            if within == self.engine.item(item).length() {
                self.forward(&mut cursor);
            } else {
                self.advance(&mut cursor, within);
            }
        }
        cursor
    }

    /// Advances the cursor by this many units.
    fn walk(&self, mut cursor: Cursor, units: u32) -> Cursor {
        let mut left = units;
        while left > 0 && cursor.right != NONE {
            let seen = self.engine.size(cursor.right).units;
            let seen = seen.saturating_sub(cursor.offset);
            if seen > left {
                let offset = cursor.offset + left;
                self.advance(&mut cursor, offset);
                break;
            }
            left -= seen;
            self.forward(&mut cursor);
        }
        cursor
    }

    /// The waypoint, if it is not behind this position, and the units before it.
    fn cursor_from_waypoint(&self, at: u32) -> Option<(u32, Cursor)> {
        let waypoint = self.waypoint.as_ref()?;
        if waypoint.node != self.node || waypoint.at > at {
            return None;
        }
        let (item, before) = self.engine.find_item(waypoint.last)?;
        let is_end = before + 1 == self.engine.item(item).length();
        let (right, offset) = if is_end {
            (self.engine.item(item).right(), 0)
        } else {
            (item, before + 1)
        };
        let cursor = Cursor {
            left: Some(waypoint.last),
            right,
            offset,
            formats: waypoint.formats.clone(),
        };
        Some((waypoint.at, cursor))
    }

    fn advance(&self, cursor: &mut Cursor, units: u32) {
        let Id { client, clock } = self.engine.item_id(cursor.right);
        cursor.offset = units;
        let clock = clock + units - 1;
        cursor.left = Some(Id { client, clock });
    }

    fn forward(&self, cursor: &mut Cursor) {
        #[cfg(test)]
        passed::note();
        let item = self.engine.item(cursor.right);
        if let Content::Format(key, value) = &item.content
            && !item.is_deleted()
        {
            set_format(&mut cursor.formats, self.engine.name(*key), value);
        }
        cursor.left = Some(self.engine.last_id(cursor.right));
        cursor.right = item.right();
        cursor.offset = 0;
    }

    fn place(&self, cursor: &Cursor) -> Place<'static> {
        let right = (cursor.right != NONE).then(|| {
            let Id { client, clock } = self.engine.item_id(cursor.right);
            let clock = clock + cursor.offset;
            Id { client, clock }
        });
        match (cursor.left, right) {
            (None, None) => Place::Only(self.engine.node_id(self.node)),
            (left, right) => Place::Between(left, right),
        }
    }

    /// Passes marks that already set the wanted formats.
    fn skip_equal(&self, cursor: &mut Cursor, formats: &Attributes) {
        while cursor.right != NONE && cursor.offset == 0 {
            let item = self.engine.item(cursor.right);
            let is_equal = match &item.content {
                Content::Format(key, value) => {
                    let wanted = formats.get(&**self.engine.name(*key));
                    wanted.unwrap_or(&Value::Null) == &parse(value)
                }
                _ => false,
            };
            if !item.is_deleted() && !is_equal {
                break;
            }
            self.forward(cursor);
        }
    }

    /// Sets marks for formats that are not in effect; returns the values that they end.
    fn begin_formats(&mut self, cursor: &mut Cursor, formats: &Attributes) -> Attributes {
        let mut negated = Attributes::new();
        for (name, value) in formats {
            let current = cursor.formats.get(name).unwrap_or(&Value::Null);
            if current != value {
                negated.insert(name.clone(), current.clone());
                let place = self.place(cursor);
                cursor.left = Some(self.builder.format(place, name, value));
                let encoded = value.to_string();
                set_format(&mut cursor.formats, name, &encoded);
            }
        }
        negated
    }

    fn end_formats(&mut self, cursor: &mut Cursor, mut negated: Attributes) {
        while cursor.right != NONE && cursor.offset == 0 && !negated.is_empty() {
            let item = self.engine.item(cursor.right);
            let is_gone = item.is_deleted() || self.is_deleted_here(cursor.right);
            if !is_gone {
                let Content::Format(key, value) = &item.content else {
                    break;
                };
                let name = self.engine.name(*key);
                if negated.get(&**name) != Some(&parse(value)) {
                    break;
                }
                negated.shift_remove(&**name);
            }
            cursor.left = Some(self.engine.last_id(cursor.right));
            cursor.right = item.right();
        }
        for (name, value) in &negated {
            let place = self.place(cursor);
            cursor.left = Some(self.builder.format(place, name, value));
        }
    }

    /// Deletes marks between two characters that have no effect any more.
    fn clean_gap(&mut self, first: ItemIndex, before: &Attributes, cursor: &mut Cursor) {
        if self.engine.node(self.node).formats == 0 {
            return;
        }
        // The gap extends to the next character.
        while cursor.right != NONE && self.engine.size(cursor.right).units == 0 {
            self.forward(cursor);
        }
        let mut marks: Vec<(ItemIndex, &str)> = Vec::new();
        for index in self.engine.items(first) {
            if index == cursor.right {
                break;
            }
            let item = self.engine.item(index);
            if let Content::Format(key, _) = &item.content
                && !item.is_deleted()
            {
                marks.push((index, self.engine.name(*key)));
            }
        }
        let after = &cursor.formats;
        let mut seen: Vec<&str> = Vec::new();
        let mut useless = Vec::new();
        // Of the marks with one name, the last is decisive, if it changes anything.
        for &(index, name) in marks.iter().rev() {
            if seen.contains(&name) || before.get(name) == after.get(name) {
                useless.push(index);
            }
            seen.push(name);
        }
        for index in useless {
            self.delete_part(index, 0, 1);
        }
    }

    fn is_deleted_here(&self, index: ItemIndex) -> bool {
        let Id { client, clock } = self.engine.item_id(index);
        let deletes = self.deletes.iter();
        let mut of_client = deletes.filter(|range| range.client == client);
        of_client.any(|range| range.start <= clock && clock < range.end)
    }

    fn delete_part(&mut self, index: ItemIndex, from: u32, length: u32) {
        let Id { client, clock } = self.engine.item_id(index);
        self.deletes.push(IdRange {
            client,
            start: clock + from,
            end: clock + from + length,
        });
    }
}

fn set_format(formats: &mut Attributes, name: &str, value: &str) {
    match parse(value) {
        Value::Null => {
            formats.shift_remove(name);
        }
        value => {
            formats.insert(name.to_owned(), value);
        }
    }
}

/// Parses a mark's value; the scan of every update ensures that it is valid.
fn parse(value: &str) -> Value {
    match value {
        "null" => Value::Null,
        "true" => Value::Bool(true),
        _ => serde_json::from_str(value).unwrap_or(Value::Null),
    }
}

/// Counts the passed items, so that a test can measure the cost of an edit.
#[cfg(test)]
pub(crate) mod passed {
    use std::cell::Cell;

    thread_local! {
        static PASSED: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn note() {
        PASSED.set(PASSED.get() + 1);
    }

    pub(crate) fn reset() {
        PASSED.set(0);
    }

    pub(crate) fn count() -> usize {
        PASSED.get()
    }
}
