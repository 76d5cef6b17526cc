//! Paths in a store: names, and the range of all paths below a folder.

/// The longest path in bytes. Moves to a longer path are refused, as clients could not name it.
pub const MAX_BYTES: usize = 1024;

/// Returns the last segment of a path.
pub fn name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// Returns the bounds of the paths below `folder` in byte order: from the first (inclusive) up to
/// the second (exclusive, `None` for no bound).
///
/// Unlike a pattern, a range of bytes has no special characters and is case-sensitive.
pub fn below(folder: &str) -> (String, Option<String>) {
    if folder.is_empty() {
        return (String::new(), None);
    }
    // `0` is the character after `/`.
    (format!("{folder}/"), Some(format!("{folder}0")))
}

/// Returns whether `path` lies below `folder`, at any depth.
pub fn is_below(path: &str, folder: &str) -> bool {
    folder.is_empty() && !path.is_empty()
        || path
            .strip_prefix(folder)
            .is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
}
