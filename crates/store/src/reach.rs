//! How far a deletion or a move may reach: what its author's rights are known to cover.
//!
//! What lies at a path is only known when the write happens, so the store compares both in the same step.

use crate::WriteError;

/// What a write may touch at a path, and below it. A write that would touch more is refused as a whole.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reach {
    /// At the path itself.
    pub at: Kinds,
    /// Below it, at any depth.
    pub below: Kinds,
}

/// Kinds of entry that may be touched.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kinds {
    /// None.
    Nothing,
    /// Files, and no documents.
    Files,
    /// Whatever there is.
    Everything,
}

impl Reach {
    /// Whatever there is.
    pub const EVERYTHING: Self = Self {
        at: Kinds::Everything,
        below: Kinds::Everything,
    };

    /// Whether an entry may be touched that lies at the write's path, or below it.
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
