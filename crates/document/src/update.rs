//! Yjs v1 updates as bytes: what they hold, whether they are sound, how they are merged.

pub(crate) mod reader;
pub(crate) mod scan;
pub(crate) mod writer;

use std::ops::Range;

use thiserror::Error;

use self::reader::Reader;
use self::scan::Scan;

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
}

/// What applying an update did.
#[derive(Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Applied {
    /// The v1 update of what became visible, with what had waited for it; `None` if nothing did.
    pub visible: Option<Vec<u8>>,
    /// Whether some part of the update still waits for operations that are missing.
    pub gap: bool,
    /// The update's operations that were not here before, what waits among them: client ids and clocks.
    pub operations: Vec<(u64, Range<u64>)>,
    /// Why something that had waited for this update was given up: it turned out to have no place to
    /// go to.
    pub refused: Option<DecodeError>,
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
/// What appears twice is kept once; what is missing in between stays missing.
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
