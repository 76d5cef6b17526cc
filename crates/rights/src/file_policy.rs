//! The `files` policy of a storage grant: the actions permitted on paths.
//!
//! As in the published Python SDK, nothing is permitted on a path that is not canonical.

use serde::{Deserialize, Serialize};

use crate::path::strip_aliases;

/// An action on a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileAction {
    /// See that the file exists.
    List,
    /// Read its content.
    Read,
    /// Create or change it.
    Write,
    /// Delete it.
    Delete,
    /// Create an address that serves it without a token.
    Presign,
}

/// A list of rules; everything else is denied.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesPolicy {
    /// The rules; at most 1,000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<FilePathRule>,
}

impl FilesPolicy {
    /// Whether a rule permits the action; with `subtree`, also on everything below the path.
    pub fn allows(&self, action: FileAction, path: &str, subtree: bool) -> bool {
        is_canonical(path)
            && self
                .paths
                .iter()
                .any(|rule| rule.allows(action, path, subtree))
    }

    /// Whether the folder may be listed: a rule permits it, or something below it may be listed and
    /// must be reachable.
    pub fn can_list_directory(&self, path: &str) -> bool {
        if !is_canonical(path) {
            return false;
        }
        self.allows(FileAction::List, path, false)
            || self.paths.iter().any(|rule| {
                rule.allows(FileAction::List, &rule.path, false) && is_descendant(path, &rule.path)
            })
    }

    /// The excluded path that denies the action somewhere below this path.
    pub(crate) fn in_the_way(&self, action: FileAction, path: &str) -> Option<&str> {
        let covering = self.paths.iter().filter(|rule| {
            rule.recursive
                && rule.actions.contains(&action)
                && (path == rule.path || is_descendant(&rule.path, path))
        });
        let mut excluded = covering.flat_map(|rule| &rule.excluded_paths);
        excluded
            .find(|excluded| is_descendant(path, excluded) || is_descendant(excluded, path))
            .map(String::as_str)
    }

    pub(crate) fn is_bounded(&self) -> bool {
        let is_bounded = |rule: &FilePathRule| rule.excluded_paths.len() <= MAX_PATHS;
        self.paths.len() <= MAX_PATHS && self.paths.iter().all(is_bounded)
    }

    /// The paths of all rules, and their excluded paths.
    pub(crate) fn all_paths(&self) -> impl Iterator<Item = &str> {
        let paths = self.paths.iter();
        paths.flat_map(|rule| {
            std::iter::once(&*rule.path).chain(rule.excluded_paths.iter().map(|path| &**path))
        })
    }
}

/// Permits actions on a path and, if recursive, on everything below it except excluded subtrees.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilePathRule {
    /// The canonical path; empty for the root.
    pub path: String,
    /// Whether the rule also covers everything below the path.
    pub recursive: bool,
    /// The permitted actions.
    pub actions: Vec<FileAction>,
    /// Paths that the rule does not cover, subtrees included; at most 1,000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded_paths: Vec<String>,
}

impl FilePathRule {
    pub(crate) fn allows(&self, action: FileAction, path: &str, subtree: bool) -> bool {
        if !self.actions.contains(&action) || (subtree && !self.recursive) {
            return false;
        }
        let is_covered = path == self.path || (self.recursive && is_descendant(&self.path, path));
        is_covered
            && !self.excluded_paths.iter().any(|excluded| {
                path == excluded
                    || is_descendant(excluded, path)
                    || (subtree && is_descendant(path, excluded))
            })
    }
}

/// The path of a request without a leading alias. The policy checks whether it is canonical.
pub(crate) fn request_path(path: &str) -> &str {
    strip_aliases(path)
}

/// Whether a path segment is a name that published servers reserve for themselves. No storage grant
/// covers such names.
pub fn is_reserved_name(segment: &str) -> bool {
    segment == ".meshagent-directory" || segment.starts_with(".meshagent-upload-")
}

pub(crate) fn is_canonical(path: &str) -> bool {
    let is_segment =
        |segment: &str| !matches!(segment, "" | "." | "..") && !is_reserved_name(segment);
    let has_only_names = path.is_empty() || path.split('/').all(is_segment);
    has_only_names
        && !path
            .chars()
            .any(|character| character == '\\' || character.is_control())
}

pub(crate) fn is_descendant(parent: &str, path: &str) -> bool {
    parent.is_empty()
        || path
            .strip_prefix(parent)
            .is_some_and(|rest| rest.starts_with('/'))
}

pub(crate) const MAX_PATHS: usize = 1000;
