//! One pass over a v1 update that checks every byte before the engine sees any.
//!
//! The engine trusts its input: it does not check counts, lengths, clocks or references, and
//! structs before a failing one stay applied. So only scanned updates reach it, and the document
//! resolves references to other clients before it applies an update.

use std::collections::HashSet;

use super::DecodeError;
use super::reader::{Reader, Unsupported};
use crate::document::Limits;

const HAS_ORIGIN: u8 = 0x80;
const HAS_RIGHT_ORIGIN: u8 = 0x40;
const HAS_KEY: u8 = 0x20;
const CONTENT: u8 = 0x0f;

/// The minimal bytes of a typical small struct; smaller ones can't be numerous.
const SMALL_STRUCT: usize = 4;

/// The size in bytes from which an update's structs are counted before they are listed.
const COUNTED_FIRST: usize = 16 << 10;

/// The id of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) client: u64,
    pub(crate) clock: u32,
}

/// A run of operations of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdRange {
    pub(crate) client: u64,
    pub(crate) start: u32,
    pub(crate) end: u32,
}

/// The contents of an update.
#[derive(Debug, Default)]
pub(crate) struct Scan<'a> {
    /// Structs of one client are contiguous, in clock order.
    pub(crate) structs: Vec<Struct<'a>>,
    pub(crate) deletes: Vec<IdRange>,
    /// Whether the bytes contain anything that is not listed above or is listed in a shorter form:
    /// gaps, empty strings, individual garbage-collected operations.
    pub(crate) has_filler: bool,
}

/// A run of operations that were made together.
#[derive(Clone, Debug)]
pub(crate) struct Struct<'a> {
    pub(crate) id: Id,
    pub(crate) length: u32,
    pub(crate) origin: Option<Id>,
    pub(crate) right_origin: Option<Id>,
    pub(crate) parent: Parent<'a>,
    pub(crate) key: Option<&'a str>,
    pub(crate) content: Content<'a>,
    /// The encoded struct; the id is not part of it. Adjacent garbage-collected operations are one
    /// struct, with the bytes of the first.
    pub(crate) bytes: &'a [u8],
    /// The part of `bytes` that holds the content.
    pub(crate) content_bytes: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parent<'a> {
    /// The same as that of its neighbour.
    Copied,
    Item(Id),
    Root(&'a str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    /// Operations that were garbage-collected: only their ids are left.
    Collected,
    /// Operations whose content was deleted.
    Deleted,
    Format,
    /// A list of JSON texts.
    Json,
    Text(&'a str),
    Type(TypeKind<'a>),
    /// A list of values.
    Values,
    /// One value that can't be split: a binary or an embedded object.
    Whole,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TypeKind<'a> {
    Element(&'a str),
    /// Another shared type, by its type number.
    Other(u8),
    Text,
}

impl Struct<'_> {
    /// The same operations, garbage-collected.
    pub(crate) fn collected(&self) -> Self {
        Self::nothing(self.id, self.length)
    }

    /// Garbage-collected operations: `length` of them, from this one on.
    fn nothing(id: Id, length: u32) -> Self {
        Self {
            id,
            length,
            origin: None,
            right_origin: None,
            parent: Parent::Copied,
            key: None,
            content: Content::Collected,
            bytes: &[],
            content_bytes: &[],
        }
    }

    pub(crate) fn end(&self) -> u32 {
        self.id.clock + self.length
    }

    /// Whether it continues a run of garbage-collected operations, and so is listed with it.
    fn continues(&self, client: u64, end: u32, content: Content<'_>) -> bool {
        self.content == Content::Collected
            && content == Content::Collected
            && self.id == Id { client, clock: end }
    }

    /// The operations that must be applied first, except earlier ones of the same client.
    pub(crate) fn dependencies(&self) -> impl Iterator<Item = Id> + use<> {
        let parent = match self.parent {
            Parent::Item(id) => Some(id),
            Parent::Copied | Parent::Root(_) => None,
        };
        [self.origin, self.right_origin, parent]
            .into_iter()
            .flatten()
    }

    /// Like [`Self::dependencies`], for the part from this clock on, if earlier operations are
    /// known. That part depends on its left neighbour, which is of the same struct.
    pub(crate) fn dependencies_from(&self, clock: u32) -> impl Iterator<Item = Id> + use<> {
        let is_cut = clock > self.id.clock;
        let right_origin = self.right_origin;
        self.dependencies()
            .filter(move |id| !is_cut || Some(*id) == right_origin)
    }
}

impl<'a> Scan<'a> {
    /// Scans an update that was made or applied here before.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        Self::read_at_most(&Reader::new(bytes), &Limits::NONE)
    }

    /// Scans an update from a peer, within the limits of a document.
    pub(crate) fn read_within(bytes: &'a [u8], limits: &Limits) -> Result<Self, DecodeError> {
        check_bytes(bytes, limits)?;
        Self::read_at_most(&Reader::new(bytes), limits)
    }

    fn read_at_most(start: &Reader<'a>, limits: &Limits) -> Result<Self, DecodeError> {
        let mut scan = Self::default();
        if start.remaining() > COUNTED_FIRST {
            // A listed struct takes many times its bytes. So the structs are counted within the
            // limits first, and the list is allocated with its final size.
            let mut count = Count::default();
            read_structs(&mut start.clone(), limits, &mut count)?;
            scan.structs.reserve_exact(count.structs);
        }
        let mut reader = start.clone();
        read_structs(&mut reader, limits, &mut scan)?;
        scan.read_deletes(&mut reader, limits.update_operations)?;
        reader.finish()?;
        Ok(scan)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.structs.is_empty() && self.deletes.is_empty()
    }

    fn read_deletes(&mut self, reader: &mut Reader<'a>, limit: usize) -> Result<(), DecodeError> {
        for _ in 0..reader.count(2)? {
            let client = reader.client()?;
            for _ in 0..reader.count(2)? {
                let start = reader.clock()?;
                let length = reader.clock()?;
                let end = reader.advance(start, length)?;
                if length == 0 {
                    self.has_filler = true;
                    continue;
                }
                self.deletes.push(IdRange { client, start, end });
                self.check_size(limit)?;
            }
        }
        Ok(())
    }

    fn check_size(&self, limit: usize) -> Result<(), DecodeError> {
        check_operations(self.structs.len() + self.deletes.len(), limit)
    }
}

impl<'a> Sink<'a> for Scan<'a> {
    fn reserve(&mut self, structs: usize) {
        // Updates often have just one group, so its list is allocated without spare capacity.
        match self.structs.len() {
            0 => self.structs.reserve_exact(structs),
            _ => self.structs.reserve(structs),
        }
    }

    fn push(&mut self, found: Struct<'a>, _: usize) -> usize {
        match self.structs.last_mut() {
            Some(last) if found.continues(last.id.client, last.end(), last.content) => {
                last.length += found.length;
                self.has_filler = true;
            }
            _ => self.structs.push(found),
        }
        self.structs.len()
    }

    fn filler(&mut self) {
        self.has_filler = true;
    }
}

pub(super) fn check_bytes(bytes: &[u8], limits: &Limits) -> Result<(), DecodeError> {
    if bytes.len() > limits.update_bytes {
        return Err(DecodeError::TooLarge {
            what: "the number of bytes in one update",
            limit: limits.update_bytes,
        });
    }
    Ok(())
}

/// Receives the structs of an update.
pub(super) trait Sink<'a> {
    /// Announces that up to `structs` more structs follow.
    fn reserve(&mut self, structs: usize);

    /// Takes a struct that ends at this byte of the update, and returns the number of structs
    /// so far.
    fn push(&mut self, found: Struct<'a>, end: usize) -> usize;

    /// Notes bytes that add nothing to the list.
    fn filler(&mut self);

    /// Collects content that some readers reject; without a collector it is an error.
    fn unsupported(&mut self) -> Option<&mut Unsupported> {
        None
    }
}

/// Counts the structs that a scan lists.
#[derive(Default)]
struct Count {
    structs: usize,
    /// The end of the last struct, if it was garbage-collected.
    collected: Option<Id>,
}

impl<'a> Sink<'a> for Count {
    fn reserve(&mut self, _: usize) {}

    fn push(&mut self, found: Struct<'a>, _: usize) -> usize {
        let is_joined = self
            .collected
            .is_some_and(|end| found.continues(end.client, end.clock, Content::Collected));
        self.structs += usize::from(!is_joined);
        let end = Id {
            client: found.id.client,
            clock: found.end(),
        };
        self.collected = (found.content == Content::Collected).then_some(end);
        self.structs
    }

    fn filler(&mut self) {}
}

pub(super) fn read_structs<'a>(
    reader: &mut Reader<'a>,
    limits: &Limits,
    sink: &mut impl Sink<'a>,
) -> Result<(), DecodeError> {
    let groups = reader.count(3)?;
    if groups > limits.clients {
        return Err(DecodeError::TooLarge {
            what: "the number of client ids in one update",
            limit: limits.clients,
        });
    }
    let mut clients = HashSet::new();
    for _ in 0..groups {
        let structs = reader.count(2)?;
        let client = reader.client()?;
        let mut clock = reader.clock()?;
        if groups > 1 && !clients.insert(client) {
            return Err(reader.error("client listed twice"));
        }
        // Smaller structs are joined to their neighbours, or rare.
        let fitting = reader.remaining() / SMALL_STRUCT + 1;
        sink.reserve(structs.min(fitting).min(COUNTED_FIRST / SMALL_STRUCT));
        for _ in 0..structs {
            let id = Id { client, clock };
            let (found, end) = read_struct(reader, id, sink.unsupported())?;
            clock = end;
            match found {
                Some(found) => {
                    let count = sink.push(found, reader.position());
                    check_operations(count, limits.update_operations)?;
                }
                None => sink.filler(),
            }
        }
    }
    Ok(())
}

fn check_operations(operations: usize, limit: usize) -> Result<(), DecodeError> {
    if operations > limit {
        return Err(DecodeError::TooLarge {
            what: "the number of operations in one update",
            limit,
        });
    }
    Ok(())
}

/// Reads a struct that was scanned before.
pub(crate) fn reread(bytes: &[u8], id: Id) -> Result<Struct<'_>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let (found, _) = read_struct(&mut reader, id, None)?;
    found.ok_or_else(|| reader.error("operation is missing"))
}

/// Reads a struct, unless it is filler, and returns the clock after it.
fn read_struct<'a>(
    reader: &mut Reader<'a>,
    id: Id,
    unsupported: Option<&mut Unsupported>,
) -> Result<(Option<Struct<'a>>, u32), DecodeError> {
    let start = reader.position();
    let info = reader.byte()?;
    let mut found = Struct::nothing(id, 1);
    if info == 0 || info == 10 {
        found.length = reader.clock()?;
    } else {
        read_place(reader, info, &mut found)?;
        let content = reader.position();
        (found.content, found.length) = read_content(reader, info & CONTENT, unsupported)?;
        found.content_bytes = reader.since(content);
    }
    let is_empty_text = found.length == 0 && matches!(found.content, Content::Text(_));
    if found.length == 0 && !is_empty_text {
        return Err(reader.error("operation with length 0"));
    }
    let end = reader.advance(id.clock, found.length)?;
    if info == 10 || is_empty_text {
        return Ok((None, end));
    }
    found.bytes = reader.since(start);
    Ok((Some(found), end))
}

fn read_place<'a>(
    reader: &mut Reader<'a>,
    info: u8,
    found: &mut Struct<'a>,
) -> Result<(), DecodeError> {
    if info & !(HAS_ORIGIN | HAS_RIGHT_ORIGIN | HAS_KEY | CONTENT) != 0 {
        return Err(reader.error("unknown flags of an operation"));
    }
    if info & HAS_ORIGIN != 0 {
        found.origin = Some(read_id(reader, found.id)?);
    }
    if info & HAS_RIGHT_ORIGIN != 0 {
        found.right_origin = Some(read_id(reader, found.id)?);
    }
    if info & (HAS_ORIGIN | HAS_RIGHT_ORIGIN) != 0 {
        return Ok(());
    }
    found.parent = match reader.unsigned()? {
        0 => Parent::Item(read_id(reader, found.id)?),
        1 => Parent::Root(reader.string()?),
        _ => return Err(reader.error("unknown parent kind")),
    };
    if info & HAS_KEY != 0 {
        found.key = Some(reader.string()?);
    }
    Ok(())
}

fn read_id(reader: &mut Reader<'_>, own: Id) -> Result<Id, DecodeError> {
    let client = reader.client()?;
    let clock = reader.clock()?;
    if client == own.client && clock >= own.clock {
        return Err(reader.error("reference to a later operation of the same client"));
    }
    Ok(Id { client, clock })
}

/// Whether an encoded struct that begins with this byte is an element or another type.
pub(crate) fn is_type(info: u8) -> bool {
    info & CONTENT == 7
}

fn read_content<'a>(
    reader: &mut Reader<'a>,
    kind: u8,
    mut unsupported: Option<&mut Unsupported>,
) -> Result<(Content<'a>, u32), DecodeError> {
    match kind {
        1 => Ok((Content::Deleted, reader.clock()?)),
        2 => {
            let count = reader.count(1)?;
            for _ in 0..count {
                reader.string()?;
            }
            Ok((Content::Json, length(reader, count)?))
        }
        3 => {
            let length = reader.unsigned()?;
            reader.take(length)?;
            Ok((Content::Whole, 1))
        }
        4 => {
            let text = reader.string()?;
            Ok((Content::Text(text), length(reader, utf16_length(text))?))
        }
        5 => {
            reader.skip_json(unsupported)?;
            Ok((Content::Whole, 1))
        }
        6 => {
            reader.string()?;
            reader.skip_json(unsupported)?;
            Ok((Content::Format, 1))
        }
        7 => Ok((Content::Type(read_type(reader, unsupported)?), 1)),
        8 => {
            let count = reader.count(1)?;
            for _ in 0..count {
                reader.skip_any(unsupported.as_deref_mut())?;
            }
            Ok((Content::Values, length(reader, count)?))
        }
        9 => {
            reader.string()?;
            reader.skip_any(unsupported.as_deref_mut())?;
            note(unsupported, reader, "a subdocument")?;
            Ok((Content::Whole, 1))
        }
        _ => Err(reader.error("unknown content kind")),
    }
}

/// Notes content that can't be passed on, or fails if there is no collector.
fn note(
    unsupported: Option<&mut Unsupported>,
    reader: &Reader<'_>,
    what: &'static str,
) -> Result<(), DecodeError> {
    let unsupported = unsupported.ok_or_else(|| reader.error(what))?;
    unsupported.found = Some(what);
    Ok(())
}

fn read_type<'a>(
    reader: &mut Reader<'a>,
    unsupported: Option<&mut Unsupported>,
) -> Result<TypeKind<'a>, DecodeError> {
    match reader.byte()? {
        number @ (0 | 1 | 2 | 4) => Ok(TypeKind::Other(number)),
        // yrs does not read the hook's name, and misinterprets the rest of the update.
        5 => {
            reader.string()?;
            note(unsupported, reader, "an XML hook")?;
            Ok(TypeKind::Other(5))
        }
        3 => Ok(TypeKind::Element(reader.string()?)),
        6 => Ok(TypeKind::Text),
        _ => Err(reader.error("unsupported shared type")),
    }
}

fn length(reader: &Reader<'_>, count: usize) -> Result<u32, DecodeError> {
    u32::try_from(count).map_err(|_| reader.error("clock exceeds 31 bits"))
}

/// The length of a text in UTF-16 units, as Yjs counts it.
pub(crate) fn utf16_length(text: &str) -> usize {
    // A character has one unit for its first byte, and one more if it has four bytes. The sum of a
    // chunk fits into a byte, so that the compiler counts many bytes together.
    const CHUNK: usize = 127;
    let units = |chunk: &[u8]| -> u8 {
        let units = chunk
            .iter()
            .map(|&byte| u8::from(byte & 0xc0 != 0x80) + u8::from(byte >= 0xf0));
        units.sum()
    };
    let chunks = text.as_bytes().chunks(CHUNK);
    chunks.map(|chunk| usize::from(units(chunk))).sum()
}

#[cfg(test)]
mod tests {
    use super::utf16_length;
    use crate::test;

    #[test]
    fn utf16_lengths_are_those_of_the_encoded_text() {
        let characters = [
            'a',
            '\0',
            'é',
            '߿',
            'ࠀ',
            '漢',
            '\u{ffff}',
            '🌿',
            '\u{10ffff}',
        ];
        for &first in &characters {
            for &second in &characters {
                for length in [0, 1, 31, 63, 127, 128, 500] {
                    let text: String = [first, second].iter().cycle().take(length).collect();
                    assert_eq!(utf16_length(&text), text.encode_utf16().count(), "{text:?}");
                }
            }
        }
    }
}
