//! Writes v1 updates: scanned structs, whole or from some clock on, and new ones.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};

use serde_json::Value;

use super::reader::Reader;
use super::scan::{Content, Id, IdRange, Struct, utf16_length};
use crate::update::DecodeError;

/// Integers up to here are written as integers, larger ones as floats, as JavaScript does.
const MAX_INTEGER: i64 = (1 << 31) - 1;

pub(crate) fn unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}

pub(crate) fn string(out: &mut Vec<u8>, text: &str) {
    unsigned(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

pub(crate) fn id(out: &mut Vec<u8>, id: Id) {
    unsigned(out, id.client);
    unsigned(out, id.clock.into());
}

fn signed(out: &mut Vec<u8>, value: i64) {
    let sign = if value < 0 { 0x40 } else { 0 };
    let mut rest = value.unsigned_abs();
    let more = if rest > 0x3f { 0x80 } else { 0 };
    out.push(u8::try_from(rest & 0x3f).unwrap_or(0) | sign | more);
    rest >>= 6;
    if more != 0 {
        unsigned(out, rest);
    }
}

/// Writes a JSON value in lib0's encoding. It is iterative, since the depth is not limited here.
pub(crate) fn value(out: &mut Vec<u8>, root: &Value) {
    enum Step<'a> {
        Key(&'a str),
        Value(&'a Value),
    }
    let mut stack = vec![Step::Value(root)];
    while let Some(step) = stack.pop() {
        let value = match step {
            Step::Key(key) => {
                string(out, key);
                continue;
            }
            Step::Value(value) => value,
        };
        match value {
            Value::Null => out.push(126),
            Value::Bool(true) => out.push(120),
            Value::Bool(false) => out.push(121),
            Value::Number(number) => match number.as_i64() {
                Some(integer) if integer.abs() <= MAX_INTEGER => {
                    out.push(125);
                    signed(out, integer);
                }
                _ => float(out, number.as_f64().unwrap_or_default()),
            },
            Value::String(text) => {
                out.push(119);
                string(out, text);
            }
            Value::Array(items) => {
                out.push(117);
                unsigned(out, items.len() as u64);
                stack.extend(items.iter().rev().map(Step::Value));
            }
            Value::Object(members) => {
                out.push(118);
                unsigned(out, members.len() as u64);
                for (key, value) in members.iter().rev() {
                    stack.push(Step::Value(value));
                    stack.push(Step::Key(key));
                }
            }
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::float_cmp,
    reason = "the short form is used only if it is exact"
)]
fn float(out: &mut Vec<u8>, number: f64) {
    let short = number as f32;
    if f64::from(short) == number {
        out.push(124);
        out.extend_from_slice(&short.to_be_bytes());
    } else {
        out.push(123);
        out.extend_from_slice(&number.to_be_bytes());
    }
}

/// Writes an update of scanned structs and deleted ranges, without the operations below the clocks
/// that are `known`.
///
/// Structs of one client may overlap or leave gaps. Duplicate operations are written once, with
/// their content if one copy has it; gaps are written as gaps.
pub(crate) fn update(
    mut structs: Vec<Struct<'_>>,
    mut deletes: Vec<IdRange>,
    known: impl Fn(u64) -> u32,
) -> Result<Vec<u8>, DecodeError> {
    structs.retain(|one| one.end() > known(one.id.client));
    // Higher client ids first, as in Yjs.
    structs.sort_by_key(|one| (std::cmp::Reverse(one.id.client), one.id.clock));
    let clients = structs.chunk_by(|a, b| a.id.client == b.id.client);
    let mut out = Vec::new();
    unsigned(&mut out, clients.clone().count() as u64);
    for structs in clients {
        let Id { client, clock } = structs[0].id;
        let clock = clock.max(known(client));
        let mut body = Vec::new();
        let mut count = 0;
        let mut next = clock;
        for Piece { one, clocks } in pieces(structs, clock) {
            if clocks.start > next {
                body.push(10);
                unsigned(&mut body, (clocks.start - next).into());
                count += 1;
            }
            next = clocks.end;
            write_part(&mut body, one, clocks)?;
            count += 1;
        }
        unsigned(&mut out, count);
        id(&mut out, Id { client, clock });
        out.extend_from_slice(&body);
    }
    self::deletes(&mut out, &mut deletes);
    Ok(out)
}

/// The part of a struct that is chosen for these clocks.
#[derive(Clone, Debug)]
pub(crate) struct Piece<'s, 'a> {
    pub(crate) one: &'s Struct<'a>,
    pub(crate) clocks: Range<u32>,
}

/// One client's structs from some clock on, in clock order, without overlaps.
///
/// A garbage-collected copy says only that the operation is deleted, which its deletion says
/// as well. So a copy that still has its content, or at least its place, takes precedence, in
/// any order.
pub(crate) fn pieces<'s, 'a>(structs: &'s [Struct<'a>], from: u32) -> Vec<Piece<'s, 'a>> {
    let mut pieces = Vec::with_capacity(structs.len());
    let mut next = from;
    let mut overlaps = false;
    for one in structs {
        overlaps |= one.id.clock.max(from) < next;
        let clocks = next.max(one.id.clock)..one.end();
        if !clocks.is_empty() {
            next = clocks.end;
            pieces.push(Piece { one, clocks });
        }
    }
    let is_mixed = || {
        structs
            .iter()
            .any(|one| remains(one) != remains(&structs[0]))
    };
    if !overlaps || !is_mixed() {
        return pieces;
    }
    let mut placed: BTreeMap<u32, Piece<'s, 'a>> = BTreeMap::new();
    for remaining in [Remains::Content, Remains::Place, Remains::Nothing] {
        let level = structs.iter().filter(|one| remains(one) == remaining);
        let found: Vec<Piece<'s, 'a>> = free_of(level, from, &placed).collect();
        placed.extend(found.into_iter().map(|piece| (piece.clocks.start, piece)));
    }
    placed.into_values().collect()
}

/// What a struct still has of its operations.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Remains {
    Content,
    Place,
    Nothing,
}

fn remains(one: &Struct<'_>) -> Remains {
    match one.content {
        Content::Collected => Remains::Nothing,
        Content::Deleted => Remains::Place,
        _ => Remains::Content,
    }
}

/// The parts of these structs, sorted by clock, that are covered neither by an earlier one of them
/// nor by a piece already chosen.
fn free_of<'s, 'a: 's>(
    structs: impl Iterator<Item = &'s Struct<'a>>,
    from: u32,
    placed: &BTreeMap<u32, Piece<'s, 'a>>,
) -> impl Iterator<Item = Piece<'s, 'a>> {
    let mut next = from;
    structs.flat_map(move |one| {
        let mut free = Vec::new();
        let mut at = next.max(one.id.clock);
        next = next.max(one.end());
        let before = placed.range(..=at).next_back().map(|(_, piece)| piece);
        let behind = placed
            .range((Bound::Excluded(at), Bound::Unbounded))
            .map(|(_, piece)| piece);
        for taken in before.into_iter().chain(behind) {
            if taken.clocks.start >= one.end() {
                break;
            }
            if taken.clocks.start > at {
                free.push(at..taken.clocks.start);
            }
            at = at.max(taken.clocks.end);
        }
        if at < one.end() {
            free.push(at..one.end());
        }
        free.into_iter().map(move |clocks| Piece { one, clocks })
    })
}

pub(crate) fn deletes(out: &mut Vec<u8>, deletes: &mut Vec<IdRange>) {
    deletes.sort_by_key(|range| (std::cmp::Reverse(range.client), range.start));
    deletes.dedup_by(|next, range| {
        let touches = next.client == range.client && next.start <= range.end;
        if touches {
            range.end = range.end.max(next.end);
        }
        touches
    });
    let clients = deletes.chunk_by(|a, b| a.client == b.client);
    unsigned(out, clients.clone().count() as u64);
    for ranges in clients {
        unsigned(out, ranges[0].client);
        unsigned(out, ranges.len() as u64);
        for range in ranges {
            unsigned(out, range.start.into());
            unsigned(out, (range.end - range.start).into());
        }
    }
}

/// Encodes a run of garbage-collected operations.
pub(crate) fn collected(length: u32) -> Vec<u8> {
    let mut out = vec![0];
    unsigned(&mut out, length.into());
    out
}

/// Writes the part of a struct with these clocks.
pub(crate) fn write_part(
    out: &mut Vec<u8>,
    one: &Struct<'_>,
    clocks: Range<u32>,
) -> Result<(), DecodeError> {
    let offset = clocks.start - one.id.clock;
    let left = clocks.end - clocks.start;
    // Its bytes may be those of the first operation of a run.
    if one.content == Content::Collected {
        out.extend(collected(left));
        return Ok(());
    }
    if left == one.length {
        out.extend_from_slice(one.bytes);
        return Ok(());
    }
    if offset == 0 {
        let head = one.bytes.len() - one.content_bytes.len();
        out.extend_from_slice(&one.bytes[..head]);
    } else {
        // The part after the cut has the operation before it as origin, which implies the rest of
        // its place.
        out.push(one.bytes[0] | 0x80);
        let client = one.id.client;
        let clock = clocks.start - 1;
        id(out, Id { client, clock });
        if let Some(right) = one.right_origin {
            id(out, right);
        }
    }
    match one.content {
        Content::Deleted => unsigned(out, left.into()),
        Content::Text(text) => string(out, &text_part(text, offset, left)),
        _ => {
            let mut reader = Reader::new(one.content_bytes);
            let count = reader.unsigned()?;
            debug_assert_eq!(count, u64::from(one.length));
            let mut skip = |values: u32| {
                for _ in 0..values {
                    match one.content {
                        Content::Json => {
                            reader.string()?;
                        }
                        _ => reader.skip_value()?,
                    }
                }
                Ok(reader.rest())
            };
            let (values, behind) = (skip(offset)?, skip(left)?);
            unsigned(out, left.into());
            out.extend_from_slice(&values[..values.len() - behind.len()]);
        }
    }
    Ok(())
}

/// A part of a text, from and of this many UTF-16 units; half a character becomes U+FFFD, as in
/// Yjs.
fn text_part(text: &str, from: u32, units: u32) -> String {
    let (from, to) = (from as usize, from as usize + units as usize);
    let mut part = String::new();
    let mut start = 0;
    for character in text.chars() {
        let end = start + character.len_utf16();
        if from <= start && end <= to {
            part.push(character);
        } else if start < to && from < end {
            part.push('\u{fffd}');
        }
        start = end;
    }
    debug_assert_eq!(utf16_length(&part), units as usize);
    part
}

/// Builds an update of new operations of one client, with consecutive clocks.
#[derive(Debug)]
pub(crate) struct Builder {
    client: u64,
    start: u32,
    next: u32,
    count: u64,
    body: Vec<u8>,
}

/// The place of a new operation among the children of its parent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    /// The value of a key in a type that was just created.
    Key(Id, &'a str),
    /// The value of a key in a root type that does not have the key yet.
    RootKey(&'a str, &'a str),
    /// The only child.
    Only(Id),
    /// The only child of a root type.
    OnlyInRoot(&'a str),
    /// Between two children, of which at least one exists.
    Between(Option<Id>, Option<Id>),
}

impl Builder {
    pub(crate) fn new(client: u64, clock: u32) -> Self {
        Self {
            client,
            start: clock,
            next: clock,
            count: 0,
            body: Vec::new(),
        }
    }

    pub(crate) fn element(&mut self, place: Place<'_>, tag: &str) -> Id {
        let id = self.begin(place, 7, 1);
        self.body.push(3);
        string(&mut self.body, tag);
        id
    }

    /// Adds values in encoded form.
    pub(crate) fn encoded(&mut self, place: Place<'_>, kind: u8, count: u32, content: &[u8]) {
        self.begin(place, kind, count);
        if kind == 2 || kind == 8 {
            unsigned(&mut self.body, count.into());
        }
        self.body.extend_from_slice(content);
    }

    /// Adds a formatting mark with an encoded value.
    pub(crate) fn mark(&mut self, place: Place<'_>, key: &str, content: &str) -> Id {
        let id = self.begin(place, 6, 1);
        string(&mut self.body, key);
        string(&mut self.body, content);
        id
    }

    pub(crate) fn text(&mut self, place: Place<'_>) -> Id {
        let id = self.begin(place, 7, 1);
        self.body.push(6);
        id
    }

    pub(crate) fn attribute(&mut self, place: Place<'_>, content: &Value) {
        self.begin(place, 8, 1);
        self.body.push(1);
        value(&mut self.body, content);
    }

    pub(crate) fn format(&mut self, place: Place<'_>, key: &str, content: &Value) -> Id {
        self.mark(place, key, &content.to_string())
    }

    /// Adds text that is not empty; returns the id of its last unit.
    pub(crate) fn characters(&mut self, place: Place<'_>, text: &str) -> Id {
        let length = u32::try_from(utf16_length(text)).unwrap_or(u32::MAX);
        let id = self.begin(place, 4, length);
        string(&mut self.body, text);
        Id {
            clock: id.clock + length - 1,
            ..id
        }
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.finish_with(&mut Vec::new())
    }

    /// Finishes the update, which also deletes these ranges.
    pub(crate) fn finish_with(self, deletes: &mut Vec<IdRange>) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.body.len() + 16);
        unsigned(&mut out, u64::from(self.count > 0));
        if self.count > 0 {
            unsigned(&mut out, self.count);
            unsigned(&mut out, self.client);
            unsigned(&mut out, self.start.into());
            out.extend_from_slice(&self.body);
        }
        self::deletes(&mut out, deletes);
        out
    }

    fn begin(&mut self, place: Place<'_>, content: u8, length: u32) -> Id {
        let own = Id {
            client: self.client,
            clock: self.next,
        };
        self.next += length;
        self.count += 1;
        let out = &mut self.body;
        match place {
            Place::Key(parent, key) => {
                out.push(content | 0x20);
                out.push(0);
                id(out, parent);
                string(out, key);
            }
            Place::RootKey(root, key) => {
                out.push(content | 0x20);
                out.push(1);
                string(out, root);
                string(out, key);
            }
            Place::Only(parent) => {
                out.push(content);
                out.push(0);
                id(out, parent);
            }
            Place::OnlyInRoot(root) => {
                out.push(content);
                out.push(1);
                string(out, root);
            }
            Place::Between(left, right) => {
                let left_flag = if left.is_some() { 0x80 } else { 0 };
                let right_flag = if right.is_some() { 0x40 } else { 0 };
                out.push(content | left_flag | right_flag);
                for neighbour in [left, right].into_iter().flatten() {
                    id(out, neighbour);
                }
            }
        }
        own
    }
}
