//! The `files` policy of a storage grant: which actions are allowed on which paths.
//!
//! Follows the published Python SDK: a path that is not canonical is never allowed.

use serde::{Deserialize, Serialize};

use crate::path::strip_aliases;

/// Something that can be done with a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileAction {
    /// See that it exists.
    List,
    /// Read its content.
    Read,
    /// Create or change it.
    Write,
    /// Remove it.
    Delete,
    /// Make an address that serves it without a token.
    Presign,
}

/// A list of rules; what no rule allows is denied.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesPolicy {
    /// The rules; at most 1,000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<FilePathRule>,
}

impl FilesPolicy {
    /// Whether some rule allows this; with `subtree`, on everything below the path too.
    pub fn allows(&self, action: FileAction, path: &str, subtree: bool) -> bool {
        is_canonical(path)
            && self
                .paths
                .iter()
                .any(|rule| rule.allows(action, path, subtree))
    }

    /// Whether the folder can be listed: because a rule says so, or because something below it can
    /// be listed and has to be found.
    pub fn can_list_directory(&self, path: &str) -> bool {
        if !is_canonical(path) {
            return false;
        }
        self.allows(FileAction::List, path, false)
            || self.paths.iter().any(|rule| {
                rule.allows(FileAction::List, &rule.path, false) && is_descendant(path, &rule.path)
            })
    }

    /// The excluded path that keeps something below this one from the action.
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

    /// Of rules, and what they exclude.
    pub(crate) fn all_paths(&self) -> impl Iterator<Item = &str> {
        let paths = self.paths.iter();
        paths.flat_map(|rule| {
            std::iter::once(&*rule.path).chain(rule.excluded_paths.iter().map(|path| &**path))
        })
    }
}

/// Allows actions on a path, and maybe on what is below it, except on some subtrees.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilePathRule {
    /// The path, canonical; empty is the root.
    pub path: String,
    /// Whether the rule also covers what is below the path.
    pub recursive: bool,
    /// What is allowed.
    pub actions: Vec<FileAction>,
    /// Paths that the rule does not cover, nor what is below them; at most 1,000.
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

/// The path that a request means; whether it is canonical is for the policy to see.
pub(crate) fn request_path(path: &str) -> &str {
    strip_aliases(path)
}

/// Whether a name in a path is one of those that published servers use for themselves: no storage grant covers it.
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
