//! The reach of a deletion or a move: the entries that its author's rights are known to cover.
//!
//! The entries at a path are only known when the write is applied, so the store checks the reach in
//! the same step.

use crate::WriteError;

/// The entries that a write may touch at a path, and below it. A write that would touch others is
/// refused as a whole.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reach {
    /// The kinds at the path itself.
    pub at: Kinds,
    /// The kinds below it, at any depth.
    pub below: Kinds,
}

/// Kinds of entry that may be touched.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kinds {
    /// No entries.
    Nothing,
    /// Files, but not documents.
    Files,
    /// Files and documents.
    Everything,
}

impl Reach {
    /// Files and documents.
    pub const EVERYTHING: Self = Self {
        at: Kinds::Everything,
        below: Kinds::Everything,
    };

    /// Checks whether the write may touch the entry at `path`, which is the write's own path or
    /// lies below it.
    ///
    /// # Errors
    ///
    /// [`WriteError::OutOfReach`] with the entry's path.
    pub fn check(self, path: &str, is_below: bool, is_document: bool) -> Result<(), WriteError> {
        let kinds = if is_below { self.below } else { self.at };
        let is_in_reach = match kinds {
            Kinds::Nothing => false,
            Kinds::Files => !is_document,
            Kinds::Everything => true,
        };
        if is_in_reach {
            return Ok(());
        }
        Err(WriteError::OutOfReach {
            path: path.to_owned(),
        })
    }
}
