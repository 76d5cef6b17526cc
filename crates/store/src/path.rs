//! What paths mean to a store: names, and the range of all paths below a folder.

/// The longest path in bytes. Nothing is moved to a longer one, which nobody could name.
pub const MAX_BYTES: usize = 1024;

/// The last segment.
pub fn name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// The bounds of the paths below `folder` in byte order: from the first (inclusive) up to the second (exclusive,
/// `None` for no bound).
///
/// A range of bytes, unlike a pattern, has no characters of its own and knows no upper and lower case.
pub fn below(folder: &str) -> (String, Option<String>) {
    if folder.is_empty() {
        return (String::new(), None);
    }
    // `0` is the character after `/`.
    (format!("{folder}/"), Some(format!("{folder}0")))
}

/// Whether `path` lies below `folder`, at any depth.
pub fn is_below(path: &str, folder: &str) -> bool {
    folder.is_empty() && !path.is_empty()
        || path
            .strip_prefix(folder)
            .is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
}
