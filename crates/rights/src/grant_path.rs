//! The paths in grants: normalized to the form of request paths when a token is parsed.
//!
//! A path without such a form would match nothing, and as an exception it would protect nothing. So
//! it invalidates the token.

use crate::file_policy::is_canonical;
use crate::path::{DocPath, InvalidPath};

/// Why a path or pattern in a grant is invalid.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidGrantPath {
    /// No request path could equal it.
    #[error(transparent)]
    Path(#[from] InvalidPath),
    /// The path contains a reserved name, or is not in the canonical form that policies require.
    #[error("request paths never have this form")]
    NotCanonical,
    /// The path looks like a pattern, but the grant does not support patterns.
    #[error("this grant does not support patterns; a path covers everything below it")]
    Pattern,
    /// The pattern has an unsupported form.
    #[error("`*` is permitted only at the end, where it matches the rest of the path")]
    Star,
    /// The path names a folder, but documents are expected.
    #[error(
        "this is a folder, not a document; use `folder/*` for all documents below it, \
         `*` for all documents"
    )]
    Folder,
}

/// Normalizes the path of a document, or a prefix of paths followed by `*`. Any other `*` would be
/// an ordinary character, so an intended pattern would match nothing, and an exception would
/// protect nothing.
pub(crate) fn sync_entry(text: &str) -> Result<String, InvalidGrantPath> {
    if text.strip_suffix('*').unwrap_or(text).contains('*') {
        return Err(InvalidGrantPath::Star);
    }
    let Some(beginning) = text.strip_suffix('*') else {
        let path = DocPath::parse(text)?;
        if path.is_root() || text.ends_with('/') {
            return Err(InvalidGrantPath::Folder);
        }
        return Ok(path.to_string());
    };
    // Some path with this prefix.
    let path = DocPath::parse(&format!("{beginning}x"))?;
    let beginning = path.as_str().strip_suffix('x').unwrap_or_default();
    Ok(format!("{beginning}*"))
}

/// Normalizes the path of a file or folder.
pub(crate) fn storage_entry(text: &str) -> Result<String, InvalidGrantPath> {
    let path = DocPath::parse(text)?;
    check_policy_path(path.as_str())?;
    Ok(path.to_string())
}

/// Checks that a path may appear in a policy: it must be in the canonical form, and not a pattern,
/// which would match nothing.
pub(crate) fn check_policy_path(path: &str) -> Result<(), InvalidGrantPath> {
    if path.contains('*') {
        return Err(InvalidGrantPath::Pattern);
    }
    if !is_canonical(path) {
        return Err(InvalidGrantPath::NotCanonical);
    }
    Ok(())
}
