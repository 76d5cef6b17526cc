//! The `sync` grant: the documents that may be read and written.

use serde::{Deserialize, Serialize};

use crate::grant::is_false;
use crate::storage_grant::SCHEMAS;

/// The documents that may be read and written.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SyncGrant {
    /// The first matching entry is decisive. Absent permits everything, empty nothing.
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
    /// Whether any document below this normalised path may be written.
    ///
    /// False unless the entries guarantee it: a part that an earlier entry makes read-only, or that
    /// is not covered, may contain a document.
    pub fn can_write_below(&self, path: &str) -> bool {
        self.write_below(path) == Below::Allowed
    }

    /// The entry that denies writing some document below this path; `None` if all may be written,
    /// or if nothing covers the rest.
    pub fn in_the_way(&self, path: &str) -> Option<&str> {
        match self.write_below(path) {
            Below::Denied(entry) => Some(entry),
            Below::Allowed | Below::Uncovered => None,
        }
    }

    /// Whether a schema of an extension may be written: the grant permits everything, or has an
    /// entry that names [`SCHEMAS`].
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

/// The rights for everything below a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Below<'a> {
    Allowed,
    /// An entry or excluded path denies at least a part.
    Denied(&'a str),
    /// No entry covers a part.
    Uncovered,
}

/// One path or, with a `*` at its end, all paths with that prefix.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SyncPathGrant {
    /// The path or prefix; case-sensitive. `*` may appear only at the end; tokens with other
    /// patterns are rejected.
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
