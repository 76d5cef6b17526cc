//! Yjs v1 updates as bytes: their contents, validation and merging.

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

/// The relation of an update to one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateKind {
    /// The update contains neither operations nor deletions.
    Empty,
    /// The document already has everything in the update, as with an echo.
    Contained,
    /// The whole update can be applied, and some of it is new.
    New,
    /// Some of the update builds on operations that the document does not have.
    Gap,
    /// The update has an operation whose id the document knows with other content: two replicas
    /// share a client id, or one impersonates the other.
    Conflict,
}

/// The effect that an update would have on a document.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspection {
    /// The relation of the update to the document.
    pub kind: UpdateKind,
    /// The first conflicting operation, by client id and clock.
    pub conflict: Option<(u64, u64)>,
    /// The client ids that author something new: they bring new operations or delete operations
    /// that are not deleted here.
    pub authors: Vec<u64>,
    /// The client id if the update brings only operations of one client that directly follow the
    /// known ones, as an editor with that id sends them.
    pub writer: Option<u64>,
    /// The number of the update's live operations that are deleted here. Their content can't
    /// be compared.
    pub erased: u64,
    /// The number of surrogate halves that are U+FFFD in the update and intact here, or the
    /// reverse. Yjs writes halves as U+FFFD, joins them in memory, and loses the text behind a
    /// first half together with it.
    pub halves: u64,
    /// Whether the document has less left of some known operations than the update has, or other
    /// surrogate halves, even if the update itself deletes these operations. A log that already
    /// contains the operations must then store [`Applied::kept`] instead of the update.
    pub differs: bool,
    /// The approximate memory, in bytes, of the part that would be pending.
    pub waiting: usize,
    /// The approximate memory, in bytes, of the operations that are not known here: their contents
    /// and their structure, and the runs that they split. It includes [`Self::splits`].
    pub growth: usize,
    /// The approximate memory, in bytes, that the update's deletions take because each end of a
    /// deleted range may split a run of operations.
    pub splits: usize,
}

impl Inspection {
    pub(crate) fn new(growth: usize, splits: usize) -> Self {
        Self {
            kind: UpdateKind::New,
            conflict: None,
            authors: Vec::new(),
            writer: None,
            erased: 0,
            halves: 0,
            differs: false,
            waiting: 0,
            growth,
            splits,
        }
    }
}

/// The effect of applying an update.
#[derive(Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Applied {
    /// The v1 update of everything that became visible, operations that had been pending included;
    /// `None` if nothing did.
    pub visible: Option<Vec<u8>>,
    /// The update without the operations that were already here, for a log that contains them;
    /// `None` if the update has no such operations. A log must keep what an operation's author
    /// wrote, not what others say about it later.
    pub kept: Option<Vec<u8>>,
    /// Whether some part of the update is pending because operations are missing.
    pub gap: bool,
    /// The update's new operations, pending ones included: client ids and clocks.
    pub operations: Vec<(u64, Range<u64>)>,
    /// The number of operations, of the update or formerly pending, that were applied as
    /// garbage-collected because they can't have a place. Editors don't produce them: for example a
    /// child of an attribute, or an insertion between neighbours with different parents.
    pub misplaced: u64,
}

/// Why bytes were not accepted as an update or a state vector.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes don't follow the encoding.
    #[error("malformed at byte {offset}: {reason}")]
    Malformed {
        /// The byte at which reading stopped.
        offset: usize,
        /// The defect.
        reason: &'static str,
    },
    /// The bytes are well-formed, but exceed a limit of the document.
    #[error("too large: {what} is limited to {limit}")]
    TooLarge {
        /// The quantity that is limited.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

/// Merges updates of one document into one, without a document.
///
/// Operations in several updates are kept once, with their content if one of the updates has it.
/// Gaps stay gaps.
///
/// # Errors
/// [`DecodeError::Malformed`] if one of them is malformed.
///
/// ```
/// # use meshagent_document::{MeshDocument, MeshSchema, Target, merge_updates};
/// # use serde_json::json;
/// let schema = MeshSchema::builtin("document").ok_or("no such schema")?;
/// let mut ours = MeshDocument::new(schema.clone(), 1);
/// let mut theirs = MeshDocument::new(schema.clone(), 2);
/// let tea = json!({ "body": { "text": "茶" } });
/// ours.append_child(Target::Root, tea, &mut || "body-1".to_owned())?;
/// let sweets = json!({ "body": { "text": "お菓子" } });
/// theirs.append_child(Target::Root, sweets, &mut || "body-2".to_owned())?;
///
/// let merged = merge_updates(&[&ours.encode_state(), &theirs.encode_state()])?;
/// let mut reader = MeshDocument::new(schema, 3);
/// reader.apply_update(&merged)?;
/// assert_eq!(reader.element_count(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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

/// Checks that bytes are a v1 state vector.
///
/// # Errors
/// [`DecodeError::Malformed`] if they are not.
pub fn check_state_vector(bytes: &[u8]) -> Result<(), DecodeError> {
    read_state_vector(bytes).map(drop)
}

/// Reads a v1 state vector: a clock per client.
pub(crate) fn read_state_vector(bytes: &[u8]) -> Result<Vec<(u64, u32)>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let mut clocks = Vec::new();
    for _ in 0..reader.count(2)? {
        clocks.push((reader.client()?, reader.clock()?));
    }
    reader.finish()?;
    Ok(clocks)
}
