//! The paths in grants: brought to the form that paths of requests have, when a token is read.
//!
//! What can't be brought there would match nothing. As an exception that would protect nothing, so it spoils the token.

use crate::file_policy::is_canonical;
use crate::path::{DocPath, InvalidPath};

/// Why a path or pattern in a grant is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidGrantPath {
    /// No path of a request could be the same.
    #[error(transparent)]
    Path(#[from] InvalidPath),
    /// A name is kept for servers, or the path is not in the form that paths in a policy have to have.
    #[error("no path of a request is written so")]
    NotCanonical,
    /// What looks like a pattern, in a grant that has none.
    #[error("this grant has no patterns; a path covers all that is below it")]
    Pattern,
    /// A pattern of a kind that there is not.
    #[error("a `*` stands at the end only, for any rest of the path")]
    Star,
    /// A folder, where documents are named.
    #[error(
        "this is a folder, not a document; `folder/*` names all documents below it, `*` all there are"
    )]
    Folder,
}

/// The path of a document, or the beginning of paths with a `*` behind it. Any other `*` would be a character like others,
/// so what was meant as a pattern, and an exception, would protect nothing.
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
    // Some path that begins so.
    let path = DocPath::parse(&format!("{beginning}x"))?;
    let beginning = path.as_str().strip_suffix('x').unwrap_or_default();
    Ok(format!("{beginning}*"))
}

/// The path of a file or folder.
pub(crate) fn storage_entry(text: &str) -> Result<String, InvalidGrantPath> {
    let path = DocPath::parse(text)?;
    check_policy_path(path.as_str())?;
    Ok(path.to_string())
}

/// Whether a path may stand in a policy: in the one form that is compared, and no pattern, which would match nothing.
pub(crate) fn check_policy_path(path: &str) -> Result<(), InvalidGrantPath> {
    if path.contains('*') {
        return Err(InvalidGrantPath::Pattern);
    }
    if !is_canonical(path) {
        return Err(InvalidGrantPath::NotCanonical);
    }
    Ok(())
}
