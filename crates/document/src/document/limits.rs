//! Limits on the size of documents and updates.

/// The limits of one document. Start from [`Limits::default`] and change single fields.
///
/// An update beyond a limit is rejected as a whole, with [`crate::DecodeError::TooLarge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Client ids with operations in the document, or in one update. Each program that edits has a
    /// new id after each start. Default: 1,048,576.
    pub clients: usize,
    /// Steps for ordering concurrent operations per update, in addition to four per byte of the
    /// update. Default: 4,194,304, some tens of milliseconds.
    pub conflict_steps: usize,
    /// The number of operations without content by which one update may extend beyond the known
    /// ones: operations that were deleted meanwhile, and missing ones. Applies to
    /// [`crate::MeshDocument::inspect`] only. Default: 16,777,216.
    pub blank_operations: usize,
    /// Levels of elements below the root. Published SDKs delete recursively; use a low limit if
    /// they read the document. Default: 131,072.
    pub depth: usize,
    /// Elements and texts. Default: 4,194,304.
    pub elements: usize,
    /// Client ids in one update that the document does not know yet. Default: 1,048,576.
    pub new_clients: usize,
    /// Bytes of pending operations. Default: 64 MiB.
    pub pending_bytes: usize,
    /// Runs that one update may split by what it deletes. Only deletions of very many places within
    /// longer runs reach it, in one update. Applies to [`crate::MeshDocument::inspect`] only.
    /// Default: 1,048,576, some tenths of a second.
    pub splits: usize,
    /// The approximate bytes of the undo history; beyond the limit the oldest groups are dropped.
    /// Default: 64 MiB.
    pub undo_bytes: usize,
    /// Bytes of one update. Default: 256 MiB.
    pub update_bytes: usize,
    /// Operations and deleted ranges of one update. Default: 8,388,608.
    pub update_operations: usize,
}

impl Limits {
    /// No limits, for content that was accepted before.
    pub const NONE: Self = Self {
        clients: usize::MAX,
        conflict_steps: usize::MAX,
        blank_operations: usize::MAX,
        depth: u32::MAX as usize,
        elements: usize::MAX,
        new_clients: usize::MAX,
        pending_bytes: usize::MAX,
        splits: usize::MAX,
        undo_bytes: usize::MAX,
        update_bytes: usize::MAX,
        update_operations: usize::MAX,
    };
}

impl Limits {
    /// The number of steps for an update of this size. Sequential runs take one or two steps per
    /// operation, which has ten bytes or more.
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
            splits: 1 << 20,
            undo_bytes: 64 << 20,
            update_bytes: 256 << 20,
            update_operations: 1 << 23,
        }
    }
}
