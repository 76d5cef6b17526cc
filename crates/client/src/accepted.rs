//! The limits of content that the server has accepted.

use meshagent_document::Limits;

/// Such content must not be rejected here, except elements too deep to be deleted. The undo history
/// is made here, so it stays bounded.
pub(crate) fn accepted() -> Limits {
    let defaults = Limits::default();
    let mut limits = Limits::NONE;
    limits.depth = defaults.depth;
    limits.undo_bytes = defaults.undo_bytes;
    limits
}
