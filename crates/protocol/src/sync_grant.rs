//! The `sync` grant: which documents may be read and written.

use serde::{Deserialize, Serialize};

use crate::grant::is_false;
use crate::storage_grant::SCHEMAS;

/// Which documents may be read and written.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SyncGrant {
    /// The first entry that matches decides; absent means everything, empty nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<SyncPathGrant>>,
}

impl SyncGrant {
    /// Whether the document at this normalised path may be read.
    pub fn can_read(&self, path: &str) -> bool {
        match &self.paths {
            None => true,
            Some(paths) => paths.iter().any(|grant| grant.matches(path)),
        }
    }

    /// Whether the document at this normalised path may be written.
    pub fn can_write(&self, path: &str) -> bool {
        match &self.paths {
            None => true,
            Some(paths) => paths
                .iter()
                .find(|grant| grant.matches(path))
                .is_some_and(|grant| !grant.read_only),
        }
    }
}

impl SyncGrant {
    /// Whether every document below this normalised path may be written, whichever there are.
    ///
    /// False unless the entries prove it: a part that an earlier entry makes read-only, or that only some
    /// entries cover, may hold a document.
    pub fn can_write_below(&self, path: &str) -> bool {
        self.write_below(path) == Below::Allowed
    }

    /// The entry that keeps some document below this path from being written; `None` if all may be, and
    /// if nothing covers the rest.
    pub fn in_the_way(&self, path: &str) -> Option<&str> {
        match self.write_below(path) {
            Below::Denied(entry) => Some(entry),
            Below::Allowed | Below::Uncovered => None,
        }
    }

    /// Whether a document may be put where schemas of extensions are looked up: it takes everything, or
    /// an entry that names [`SCHEMAS`].
    pub fn can_write_schemas(&self, path: &str) -> bool {
        let is_named = |paths: &Vec<SyncPathGrant>| {
            let names = |grant: &&SyncPathGrant| grant.path.starts_with(SCHEMAS);
            let mut named = paths.iter().filter(names);
            named.any(|grant| grant.matches(path) && !grant.read_only)
        };
        self.can_write(path) && self.paths.as_ref().is_none_or(is_named)
    }

    fn write_below(&self, path: &str) -> Below<'_> {
        let Some(paths) = &self.paths else {
            return Below::Allowed;
        };
        let folder = format!("{path}/");
        let folder = if path.is_empty() { "" } else { &folder };
        for grant in paths {
            let prefix = grant.path.strip_suffix('*');
            if prefix.is_some_and(|prefix| folder.starts_with(prefix)) {
                return if grant.read_only {
                    Below::Denied(&grant.path)
                } else {
                    Below::Allowed
                };
            }
            let decides_for_a_part = prefix.unwrap_or(&grant.path).starts_with(folder);
            if decides_for_a_part && grant.read_only {
                return Below::Denied(&grant.path);
            }
        }
        Below::Uncovered
    }
}

/// What a grant says of everything below a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Below<'a> {
    Allowed,
    /// By this entry or excluded path, at least for a part.
    Denied(&'a str),
    /// No entry says anything of a part.
    Uncovered,
}

/// One path, or with a `*` at its end all paths with that prefix.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SyncPathGrant {
    /// The path or prefix; case-sensitive. A `*` stands at the end only; a token with others is refused.
    pub path: String,
    /// Whether writing is denied.
    #[serde(default, skip_serializing_if = "is_false")]
    pub read_only: bool,
}

impl SyncPathGrant {
    fn matches(&self, path: &str) -> bool {
        self.path == path
            || self
                .path
                .strip_suffix('*')
                .is_some_and(|prefix| path.starts_with(prefix))
    }
}
