//! How much a document takes before it refuses more.

/// The bounds of one document. Start from [`Limits::default`] and change what should be another.
///
/// What is over a bound is refused as a whole, by [`crate::DecodeError::TooLarge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// How many levels of elements, the root apart. Published SDKs delete recursively; keep it low if
    /// they are among the readers. Default: 131,072.
    pub depth: usize,
    /// How many elements and texts. Default: 4,194,304.
    pub elements: usize,
    /// How many bytes wait for operations that are missing. Default: 64 MiB.
    pub pending_bytes: usize,
    /// How many bytes one update has. Default: 256 MiB.
    pub update_bytes: usize,
    /// How many operations, and ranges of deleted ones, one update has. Default: 8,388,608.
    pub update_operations: usize,
}

impl Limits {
    /// No bounds: for what was accepted before.
    pub const NONE: Self = Self {
        depth: u32::MAX as usize,
        elements: usize::MAX,
        pending_bytes: usize::MAX,
        update_bytes: usize::MAX,
        update_operations: usize::MAX,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            depth: 1 << 17,
            elements: 1 << 22,
            pending_bytes: 64 << 20,
            update_bytes: 256 << 20,
            update_operations: 1 << 23,
        }
    }
}
