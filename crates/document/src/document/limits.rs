//! How much a document takes before it refuses more.

/// The bounds of one document. Start from [`Limits::default`] and change what should be another.
///
/// What is over a bound is refused as a whole, by [`crate::DecodeError::TooLarge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// How many client ids have operations in the document, or in one update; each program that edits has a new one
    /// whenever it starts. Default: 1,048,576.
    pub clients: usize,
    /// How many steps finding places among concurrent operations takes for one update, beside
    /// four for each of its bytes. Default: 4,194,304, some tens of milliseconds.
    pub conflict_steps: usize,
    /// By how many operations one update may go beyond those that are here without bringing their content: such as
    /// were deleted in the meantime, and such as are missing. Holds for [`crate::MeshDocument::inspect`] only.
    /// Default: 16,777,216.
    pub blank_operations: usize,
    /// How many levels of elements, the root apart. Published SDKs delete recursively; keep it low if
    /// they are among the readers. Default: 131,072.
    pub depth: usize,
    /// How many elements and texts. Default: 4,194,304.
    pub elements: usize,
    /// How many client ids one update brings that the document has nothing of yet. Default: 1,048,576.
    pub new_clients: usize,
    /// How many bytes wait for operations that are missing. Default: 64 MiB.
    pub pending_bytes: usize,
    /// About how much memory is taken by what can be undone and redone; beyond it the oldest is forgotten. Default:
    /// 64 MiB.
    pub undo_bytes: usize,
    /// How many bytes one update has. Default: 256 MiB.
    pub update_bytes: usize,
    /// How many operations, and ranges of deleted ones, one update has. Default: 8,388,608.
    pub update_operations: usize,
}

impl Limits {
    /// No bounds: for what was accepted before.
    pub const NONE: Self = Self {
        clients: usize::MAX,
        conflict_steps: usize::MAX,
        blank_operations: usize::MAX,
        depth: u32::MAX as usize,
        elements: usize::MAX,
        new_clients: usize::MAX,
        pending_bytes: usize::MAX,
        undo_bytes: usize::MAX,
        update_bytes: usize::MAX,
        update_operations: usize::MAX,
    };
}

impl Limits {
    /// How many steps may be taken for so many bytes. Those of a run that was made without looking at others
    /// take one or two steps for each of its operations, which have ten bytes and more.
    pub(crate) fn steps_for(&self, bytes: usize) -> usize {
        const STEPS_PER_BYTE: usize = 4;
        let more = bytes.saturating_mul(STEPS_PER_BYTE);
        self.conflict_steps.saturating_add(more)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 1 << 20,
            conflict_steps: 1 << 22,
            blank_operations: 1 << 24,
            depth: 1 << 17,
            elements: 1 << 22,
            new_clients: 1 << 20,
            pending_bytes: 64 << 20,
            undo_bytes: 64 << 20,
            update_bytes: 256 << 20,
            update_operations: 1 << 23,
        }
    }
}
