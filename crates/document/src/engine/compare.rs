//! Comparison of operations with the known ones of the same ids.
//!
//! Replicas split and join runs at different places, and have deleted different parts. So
//! operations are compared one clock at a time: their places if neither side has collected them,
//! their content if neither side has deleted it. Both sides are walked once, in clock order.

use std::ops::Range;
use std::str::EncodeUtf16;

use super::same::{is_same_encoded, is_same_json};
use super::{Client, Content, Engine, Item, KeyIndex, Link, NOWHERE, NodeKind};
use crate::update::reader::Reader;
use crate::update::scan::{self, Id, IdRange, Parent, Struct, TypeKind};

/// The result of a comparison.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// The first operation that differs from the known one with its id.
    pub(crate) conflict: Option<Id>,
    /// Operations that came with content and have none here, so that it can't be compared.
    pub(crate) erased: Vec<IdRange>,
    /// Surrogate halves, and text lost with one, that are U+FFFD on one side only.
    pub(crate) halves: Vec<IdRange>,
    /// Whether some operations came with more than is left of them here: content or a place.
    pub(crate) has_more: bool,
}

fn extend(ranges: &mut Vec<IdRange>, client: u64, start: u32, end: u32) {
    match ranges.last_mut() {
        Some(last) if last.client == client && last.end == start => last.end = end,
        _ => ranges.push(IdRange { client, start, end }),
    }
}

impl Engine {
    /// Compares the known ones of these structs.
    pub(crate) fn compare(&self, structs: &[Struct<'_>]) -> Comparison {
        let mut comparison = Comparison::default();
        for group in structs.chunk_by(|a, b| a.id.client == b.id.client) {
            let Some(&client) = self.client_index.get(&group[0].id.client) else {
                continue;
            };
            let known = &self.clients[client as usize];
            if group[0].id.clock < known.clock {
                compare_runs(
                    group,
                    // Starts one operation early: if that is a half, the next one may be lost
                    // with it.
                    self.known_runs(known, group[0].id.clock.saturating_sub(1)),
                    &mut comparison,
                );
            }
        }
        comparison
    }

    /// A client's operations from the run that contains this clock, without collected ones.
    fn known_runs<'a>(
        &'a self,
        client: &'a Client,
        clock: u32,
    ) -> impl Iterator<Item = (Range<u32>, Option<Run<'a>>)> {
        let mut blocks = client.blocks.from(clock).peekable();
        std::iter::from_fn(move || {
            let block = blocks.next()?;
            let end = blocks.peek().map_or(client.clock, |next| next.start);
            let run = (!block.is_collected()).then(|| self.run(self.item(block.item)));
            Some((block.start..end, run))
        })
    }

    fn run<'a>(&'a self, item: &'a Item) -> Run<'a> {
        let id = |link: Link| (link != NOWHERE).then(|| self.id(link));
        let parent = match self.node(item.parent).kind {
            NodeKind::Root(name) => Parent::Root(self.name(name)),
            _ => Parent::Item(self.node_id(item.parent)),
        };
        let name = |key: KeyIndex| (key != super::NONE).then(|| &**self.name(key));
        let units = match &item.content {
            _ if item.is_deleted() => Units::Deleted,
            Content::Deleted => Units::Deleted,
            Content::Format(key, value) => Units::Format(self.name(*key), value),
            Content::Json(bytes) => Units::Json(Reader::new(bytes)),
            Content::Text(text) => Units::Text(text.encode_utf16()),
            Content::Type(node) => match self.node(*node).kind {
                NodeKind::Element(tag) => Units::Type(TypeKind::Element(self.name(tag))),
                NodeKind::Text => Units::Type(TypeKind::Text),
                NodeKind::Foreign(number) => Units::Type(TypeKind::Other(number)),
                NodeKind::Root(_) => Units::Type(TypeKind::Other(4)),
            },
            Content::Values(bytes) => Units::Values(Reader::new(bytes)),
            Content::Whole(number, bytes) => Units::Whole(*number, bytes),
        };
        Run {
            id: self.id(Link {
                client: item.client,
                clock: item.clock,
            }),
            origin: id(item.origin),
            right_origin: id(item.right_origin),
            parent,
            key: name(item.key),
            last: match &item.content {
                Content::Text(text) if !item.is_deleted() => Last::of(text),
                _ if matches!(units, Units::Deleted) => Last::Unknown,
                _ => Last::Kept,
            },
            units,
            at: item.clock,
            before: Last::Unknown,
        }
    }
}

/// Compares structs of one client with runs of the same client, both in clock order. There may be
/// gaps between the runs; a collected run is `None`.
pub(crate) fn compare_runs<'a>(
    structs: &[Struct<'_>],
    mut known: impl Iterator<Item = (Range<u32>, Option<Run<'a>>)>,
    comparison: &mut Comparison,
) {
    let mut current = known.next();
    // The last operation passed on the structs' side, and the clock after it.
    let mut theirs_before = (0, Last::Unknown);
    for one in structs {
        let client = one.id.client;
        let mut theirs = Run::of(one);
        if let Some(theirs) = &mut theirs {
            theirs.follow(theirs_before);
            theirs_before = (one.end(), theirs.last);
        }
        let mut at = one.id.clock;
        while at < one.end() {
            let Some((range, ours)) = &mut current else {
                return;
            };
            if range.end <= at {
                let before = (
                    range.end,
                    ours.as_ref().map_or(Last::Unknown, |run| run.last),
                );
                current = known.next();
                if let Some((_, Some(ours))) = &mut current {
                    ours.follow(before);
                }
                continue;
            }
            if range.start >= one.end() {
                break;
            }
            at = at.max(range.start);
            let until = range.end.min(one.end());
            let is_erased = match ours {
                None => {
                    comparison.has_more |= theirs.is_some();
                    theirs.as_ref().is_some_and(Run::has_content)
                }
                Some(ours) => {
                    let is_same = theirs.as_mut().is_none_or(|theirs| {
                        theirs.is_same_until(ours, at, until, |clock| {
                            extend(&mut comparison.halves, client, clock, clock + 1);
                        })
                    });
                    if !is_same {
                        let clock = at;
                        comparison.conflict.get_or_insert(Id { client, clock });
                        return;
                    }
                    !ours.has_content() && theirs.as_ref().is_some_and(Run::has_content)
                }
            };
            if is_erased {
                comparison.has_more = true;
                extend(&mut comparison.erased, client, at, until);
            }
            at = until;
        }
    }
}

/// A run of operations, with the current position.
pub(crate) struct Run<'a> {
    id: Id,
    origin: Option<Id>,
    right_origin: Option<Id>,
    parent: Parent<'a>,
    key: Option<&'a str>,
    units: Units<'a>,
    at: u32,
    /// The operation before the current one.
    before: Last,
    /// The last operation.
    last: Last,
}

/// What an operation means for the next one.
#[derive(Clone, Copy, PartialEq)]
enum Last {
    /// U+FFFD, possibly a first surrogate half when it was typed. If Yjs cuts there, it also
    /// replaces the next unit by U+FFFD.
    Half,
    /// Anything else.
    Kept,
    /// Deleted or not available.
    Unknown,
}

impl Last {
    fn of(text: &str) -> Self {
        if text.ends_with('\u{fffd}') {
            Self::Half
        } else {
            Self::Kept
        }
    }

    fn of_unit(unit: Option<u16>) -> Self {
        match unit {
            Some(LOST_HALF) => Self::Half,
            Some(_) => Self::Kept,
            None => Self::Unknown,
        }
    }
}

/// The contents of a run's operations, in order.
enum Units<'a> {
    Deleted,
    Format(&'a str, &'a str),
    Json(Reader<'a>),
    Text(EncodeUtf16<'a>),
    Type(TypeKind<'a>),
    Values(Reader<'a>),
    Whole(u8, &'a [u8]),
}

impl<'a> Run<'a> {
    /// `None` if the operations were collected.
    pub(crate) fn of(one: &Struct<'a>) -> Option<Self> {
        let content = one.content_bytes;
        let behind_count = || {
            let mut reader = Reader::new(content);
            // Skips the count, which equals the length.
            let _counted = reader.unsigned();
            reader
        };
        let units = match one.content {
            scan::Content::Collected => return None,
            scan::Content::Deleted => Units::Deleted,
            scan::Content::Format => {
                let mut reader = Reader::new(content);
                match (reader.string(), reader.string()) {
                    (Ok(name), Ok(value)) => Units::Format(name, value),
                    _ => Units::Format("", ""),
                }
            }
            scan::Content::Json => Units::Json(behind_count()),
            scan::Content::Text(text) => Units::Text(text.encode_utf16()),
            scan::Content::Type(kind) => Units::Type(kind),
            scan::Content::Values => Units::Values(behind_count()),
            scan::Content::Whole => Units::Whole(one.bytes[0] & 0x0f, content),
        };
        let last = match (&one.content, &units) {
            (scan::Content::Text(text), _) => Last::of(text),
            (_, Units::Deleted) => Last::Unknown,
            _ => Last::Kept,
        };
        Some(Self {
            id: one.id,
            origin: one.origin,
            right_origin: one.right_origin,
            parent: one.parent,
            key: one.key,
            units,
            at: one.id.clock,
            before: Last::Unknown,
            last,
        })
    }

    /// Takes over what is before the run, if it directly follows the last one.
    fn follow(&mut self, (end, last): (u32, Last)) {
        if end == self.id.clock {
            self.before = last;
        }
    }

    fn has_content(&self) -> bool {
        !matches!(self.units, Units::Deleted)
    }

    /// Calls `cut` with each clock at which only one side has an intact surrogate half.
    fn is_same_until(
        &mut self,
        other: &mut Self,
        at: u32,
        until: u32,
        mut cut: impl FnMut(u32),
    ) -> bool {
        self.skip_to(at);
        other.skip_to(at);
        // Text can only be lost with the half that it was typed after.
        let mut before = if self.is_behind_neighbour(at) {
            [self.before, other.before]
        } else {
            [Last::Kept; 2]
        };
        (self.at, other.at) = (until, until);
        let is_same = self.stands_where(other, at)
            && self
                .units
                .are_same(&mut other.units, until - at, &mut before, |index| {
                    cut(at + index);
                });
        [self.before, other.before] = before;
        is_same
    }

    fn skip_to(&mut self, clock: u32) {
        if clock > self.at {
            self.before = self.units.skip(clock - self.at);
            self.at = clock;
        }
    }

    fn stands_where(&self, other: &Self, at: u32) -> bool {
        if self.origin_at(at) != other.origin_at(at) || self.right_origin != other.right_origin {
            return false;
        }
        // A parent implied by a neighbour is not encoded.
        let has_parent = |run: &Self| run.id.clock == at && run.parent != Parent::Copied;
        !has_parent(self)
            || !has_parent(other)
            || self.origin_at(at).is_some()
            || self.right_origin.is_some()
            || (self.parent == other.parent && self.key == other.key)
    }

    fn origin_at(&self, at: u32) -> Option<Id> {
        if at == self.id.clock {
            return self.origin;
        }
        let clock = at - 1;
        Some(Id { clock, ..self.id })
    }

    /// Whether the run was typed directly after the client's previous operation; Yjs joins only
    /// such runs.
    fn is_behind_neighbour(&self, at: u32) -> bool {
        let origin = self.origin_at(at);
        origin.is_some_and(|origin| origin.client == self.id.client && origin.clock + 1 == at)
    }
}

impl Units<'_> {
    /// Skips operations; returns the last skipped one.
    fn skip(&mut self, count: u32) -> Last {
        match self {
            Self::Text(text) => {
                let last = (0..count).map_while(|_| text.next()).last();
                return Last::of_unit(last);
            }
            Self::Values(reader) => {
                for _ in 0..count {
                    let _skipped = reader.skip_value();
                }
            }
            Self::Json(reader) => {
                for _ in 0..count {
                    let _skipped = reader.string();
                }
            }
            Self::Deleted => return Last::Unknown,
            Self::Format(..) | Self::Type(_) | Self::Whole(..) => {}
        }
        Last::Kept
    }

    /// Whether the next operations of both sides have the same content, as far as both have
    /// content. `before` is what precedes them on either side. Calls `cut` for operations that one
    /// side has lost.
    fn are_same(
        &mut self,
        other: &mut Self,
        count: u32,
        before: &mut [Last; 2],
        mut cut: impl FnMut(u32),
    ) -> bool {
        match (self, other) {
            (Self::Deleted, Self::Deleted) => {
                *before = [Last::Unknown; 2];
                true
            }
            (Self::Deleted, other) => {
                *before = [Last::Unknown, other.skip(count)];
                true
            }
            (one, Self::Deleted) => {
                *before = [one.skip(count), Last::Unknown];
                true
            }
            (Self::Text(one), Self::Text(other)) => (0..count).all(|index| {
                let units = (one.next(), other.next());
                let may_be_lost = !before.contains(&Last::Kept);
                *before = [Last::of_unit(units.0), Last::of_unit(units.1)];
                match units {
                    (one, other) if one == other => true,
                    (Some(lost), Some(LOST_HALF)) | (Some(LOST_HALF), Some(lost)) => {
                        cut(index);
                        is_half(lost) || may_be_lost
                    }
                    _ => false,
                }
            }),
            (Self::Values(one), Self::Values(other)) => (0..count).all(|_| {
                let (starts_at, other_starts_at) = (one.position(), other.position());
                if one.skip_value().is_err() || other.skip_value().is_err() {
                    return false;
                }
                let (one, other) = (one.since(starts_at), other.since(other_starts_at));
                is_same_encoded(one, other)
            }),
            (Self::Json(one), Self::Json(other)) => {
                (0..count).all(|_| match (one.string(), other.string()) {
                    (Ok(one), Ok(other)) => is_same_json(one, other),
                    _ => false,
                })
            }
            (Self::Format(name, value), Self::Format(other_name, other_value)) => {
                name == other_name && is_same_json(value, other_value)
            }
            (Self::Type(one), Self::Type(other)) => one == other,
            (Self::Whole(5, one), Self::Whole(5, other)) => {
                let text = |bytes| Reader::new(bytes).string();
                match (text(one), text(other)) {
                    (Ok(one), Ok(other)) => is_same_json(one, other),
                    _ => one == other,
                }
            }
            (Self::Whole(number, one), Self::Whole(other_number, other)) => {
                number == other_number && one == other
            }
            _ => false,
        }
    }
}

/// The replacement for each half of a split character, as in Yjs.
const LOST_HALF: u16 = 0xfffd;

fn is_half(unit: u16) -> bool {
    matches!(unit, 0xd800..=0xdfff)
}
