//! Yjs v1 updates as bytes: what they hold, whether they are sound, how they are merged.

pub(crate) mod fit;
pub(crate) mod json;
pub(crate) mod reader;
pub(crate) mod scan;
pub(crate) mod writer;

use std::ops::Range;

use thiserror::Error;

use self::reader::Reader;
use self::scan::Scan;

pub use self::fit::{Fitted, fit_update};

/// What an inbound update is, relative to one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateKind {
    /// It holds neither operations nor deletions.
    Empty,
    /// The document knows all of it: an echo.
    Contained,
    /// All of it can be applied, and some of it is new.
    New,
    /// Some of it builds on operations that the document does not have.
    Gap,
    /// It names an operation that the document knows by that name as another one. Two replicas edit with one
    /// client id, or somebody pretends to be somebody else.
    Conflict,
}

/// What an update would do to a document, found out without doing it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspection {
    /// What it is.
    pub kind: UpdateKind,
    /// The first operation that conflicts, by client id and clock.
    pub conflict: Option<(u64, u64)>,
    /// The client ids under which it brings operations that are not here, or deletes some that are not here.
    pub authors: Vec<u64>,
    /// The client id if all that it brings are operations of one client that follow those which are here: what
    /// an editor sends that writes with this id.
    pub writer: Option<u64>,
    /// How many operations it shows alive that are deleted here. What they hold can't be compared.
    pub erased: u64,
    /// How many halves of characters it has as U+FFFD that are whole here, or the other way around. Yjs writes them so, joins
    /// them in memory, and loses with a first half what stands behind it.
    pub halves: u64,
    /// Whether less is left here of some of its operations that are here than it has of them, or halves of characters are
    /// not the same, even if it deletes these operations itself. A log in which they stand already must have [`Applied::kept`] in place of the update.
    pub differs: bool,
    /// About how many bytes of memory the part of it would take that has to wait.
    pub waiting: usize,
}

/// What applying an update did.
#[derive(Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Applied {
    /// The v1 update of what became visible, with what had waited for it; `None` if nothing did.
    pub visible: Option<Vec<u8>>,
    /// The update without the operations that were here before, for a log in which they stand already; `None` if it
    /// has none of them. What others say of an operation later is never to take the place of what its author wrote.
    pub kept: Option<Vec<u8>>,
    /// Whether some part of the update still waits for operations that are missing.
    pub gap: bool,
    /// The update's operations that were not here before, what waits among them: client ids and clocks.
    pub operations: Vec<(u64, Range<u64>)>,
    /// How many operations, of the update and of what had waited for it, were taken up as collected since they can't have
    /// a place, which no editor makes: such as a child of an attribute, or what stands between neighbours that are not
    /// in one element.
    pub misplaced: u64,
}

/// Why bytes were not accepted as an update or a state vector.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes are not what the encoding demands.
    #[error("malformed at byte {offset}: {reason}")]
    Malformed {
        /// Where reading stopped.
        offset: usize,
        /// What is wrong there.
        reason: &'static str,
    },
    /// The bytes are well-formed, but more than this document takes.
    #[error("too large: {what} is limited to {limit}; send less at once")]
    TooLarge {
        /// What is counted.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

/// Merges updates of one document into one, without a document.
///
/// What appears twice is kept once, with its content if one of them has it; what is missing in between stays missing.
///
/// # Errors
/// [`DecodeError`] if one of them is malformed.
pub fn merge_updates(updates: &[&[u8]]) -> Result<Vec<u8>, DecodeError> {
    let mut structs = Vec::new();
    let mut deletes = Vec::new();
    for update in updates {
        let scan = Scan::read(update)?;
        structs.extend(scan.structs);
        deletes.extend(scan.deletes);
    }
    writer::update(structs, deletes, |_| 0)
}

/// Whether bytes are a v1 state vector.
///
/// # Errors
/// [`DecodeError`] if they are not.
pub fn check_state_vector(bytes: &[u8]) -> Result<(), DecodeError> {
    read_state_vector(bytes).map(drop)
}

/// Reads a v1 state vector; its clocks by client.
pub(crate) fn read_state_vector(bytes: &[u8]) -> Result<Vec<(u64, u32)>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let mut clocks = Vec::new();
    for _ in 0..reader.count(2)? {
        clocks.push((reader.client()?, reader.clock()?));
    }
    reader.finish()?;
    Ok(clocks)
}
