//! One pass over a v1 update that checks every byte before the engine sees any.
//!
//! The engine trusts its input: counts, lengths, clocks and references are believed, and what came
//! before a failing struct stays applied. So nothing reaches it that was not scanned here, and
//! references to other clients are resolved by the document before it is applied.

use super::DecodeError;
use super::reader::Reader;
use crate::document::Limits;

const HAS_ORIGIN: u8 = 0x80;
const HAS_RIGHT_ORIGIN: u8 = 0x40;
const HAS_KEY: u8 = 0x20;
const CONTENT: u8 = 0x0f;

/// The name of one operation.
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

/// What an update holds.
#[derive(Debug, Default)]
pub(crate) struct Scan<'a> {
    /// Structs of one client follow each other, in the order of their clocks.
    pub(crate) structs: Vec<Struct<'a>>,
    pub(crate) deletes: Vec<IdRange>,
    /// Whether the bytes hold anything that is not listed above: gaps, empty strings.
    pub(crate) has_filler: bool,
}

/// A run of operations that were made in one go.
#[derive(Clone, Debug)]
pub(crate) struct Struct<'a> {
    pub(crate) id: Id,
    pub(crate) length: u32,
    pub(crate) origin: Option<Id>,
    pub(crate) right_origin: Option<Id>,
    pub(crate) parent: Parent<'a>,
    pub(crate) key: Option<&'a str>,
    pub(crate) content: Content<'a>,
    /// As encoded; the id is not part of it.
    pub(crate) bytes: &'a [u8],
    /// The part of the bytes that holds the content.
    pub(crate) content_bytes: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parent<'a> {
    /// The same as its neighbour's.
    Copied,
    Item(Id),
    Root(&'a str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    /// Operations of which nothing is left but that they happened.
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
    /// One thing that can't be split: a binary or an embedded object.
    Whole,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TypeKind<'a> {
    Element(&'a str),
    /// By its number.
    Other(u8),
    Text,
}

impl Struct<'_> {
    pub(crate) fn end(&self) -> u32 {
        self.id.clock + self.length
    }

    /// The operations that must be there first, its own client's earlier ones apart.
    pub(crate) fn dependencies(&self) -> impl Iterator<Item = Id> + use<> {
        let parent = match self.parent {
            Parent::Item(id) => Some(id),
            Parent::Copied | Parent::Root(_) => None,
        };
        [self.origin, self.right_origin, parent]
            .into_iter()
            .flatten()
    }
}

impl<'a> Scan<'a> {
    /// Scans an update that was made or taken up here before.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        Self::read_at_most(bytes, usize::MAX)
    }

    /// Scans an update, unless it is larger than a document takes.
    pub(crate) fn read_within(bytes: &'a [u8], limits: &Limits) -> Result<Self, DecodeError> {
        if bytes.len() > limits.update_bytes {
            return Err(DecodeError::TooLarge {
                what: "the number of bytes in one update",
                limit: limits.update_bytes,
            });
        }
        Self::read_at_most(bytes, limits.update_operations)
    }

    fn read_at_most(bytes: &'a [u8], limit: usize) -> Result<Self, DecodeError> {
        let mut scan = Self::default();
        let mut reader = Reader::new(bytes);
        let mut clients = std::collections::HashSet::new();
        let groups = reader.count(3)?;
        for _ in 0..groups {
            let structs = reader.count(2)?;
            let client = reader.client()?;
            let mut clock = reader.clock()?;
            if groups > 1 && !clients.insert(client) {
                return Err(reader.error("a client that is listed twice"));
            }
            // There is often just one group, of which nothing is to be left over.
            match scan.structs.len() {
                0 => scan.structs.reserve_exact(structs.min(limit)),
                _ => scan.structs.reserve(structs.min(limit)),
            }
            for _ in 0..structs {
                let id = Id { client, clock };
                let (found, end) = read_struct(&mut reader, id)?;
                clock = end;
                match found {
                    Some(found) => scan.structs.push(found),
                    None => scan.has_filler = true,
                }
                scan.check_size(limit)?;
            }
        }
        scan.read_deletes(&mut reader, limit)?;
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
        if self.structs.len() + self.deletes.len() > limit {
            return Err(DecodeError::TooLarge {
                what: "the number of operations in one update",
                limit,
            });
        }
        Ok(())
    }
}

/// Reads a struct again that was read before.
pub(crate) fn reread(bytes: &[u8], id: Id) -> Result<Struct<'_>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let (found, _) = read_struct(&mut reader, id)?;
    found.ok_or_else(|| reader.error("no operation"))
}

/// A struct, unless it is mere filler, and the clock after it.
fn read_struct<'a>(
    reader: &mut Reader<'a>,
    id: Id,
) -> Result<(Option<Struct<'a>>, u32), DecodeError> {
    let start = reader.position();
    let info = reader.byte()?;
    let mut found = Struct {
        id,
        length: 1,
        origin: None,
        right_origin: None,
        parent: Parent::Copied,
        key: None,
        content: Content::Collected,
        bytes: &[],
        content_bytes: &[],
    };
    if info == 0 || info == 10 {
        found.length = reader.clock()?;
    } else {
        read_place(reader, info, &mut found)?;
        let content = reader.position();
        (found.content, found.length) = read_content(reader, info & CONTENT)?;
        found.content_bytes = reader.since(content);
    }
    let is_empty_text = found.length == 0 && matches!(found.content, Content::Text(_));
    if found.length == 0 && !is_empty_text {
        return Err(reader.error("an operation without length"));
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
        return Err(reader.error("an unknown kind of operation"));
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
        _ => return Err(reader.error("an unknown kind of parent")),
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
        return Err(reader.error("a reference to a later operation of the same client"));
    }
    Ok(Id { client, clock })
}

fn read_content<'a>(reader: &mut Reader<'a>, kind: u8) -> Result<(Content<'a>, u32), DecodeError> {
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
            reader.skip_json()?;
            Ok((Content::Whole, 1))
        }
        6 => {
            reader.string()?;
            reader.skip_json()?;
            Ok((Content::Format, 1))
        }
        7 => Ok((Content::Type(read_type(reader)?), 1)),
        8 => {
            let count = reader.count(1)?;
            for _ in 0..count {
                reader.skip_value()?;
            }
            Ok((Content::Values, length(reader, count)?))
        }
        9 => Err(reader.error("a document inside the document, which is not supported")),
        _ => Err(reader.error("an unknown kind of content")),
    }
}

fn read_type<'a>(reader: &mut Reader<'a>) -> Result<TypeKind<'a>, DecodeError> {
    match reader.byte()? {
        number @ (0 | 1 | 2 | 4) => Ok(TypeKind::Other(number)),
        3 => Ok(TypeKind::Element(reader.string()?)),
        6 => Ok(TypeKind::Text),
        _ => Err(reader.error("a shared type that is not supported")),
    }
}

fn length(reader: &Reader<'_>, count: usize) -> Result<u32, DecodeError> {
    u32::try_from(count).map_err(|_| reader.error("a clock beyond 31 bits"))
}

/// The length of a text as Yjs counts it.
pub(crate) fn utf16_length(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}
