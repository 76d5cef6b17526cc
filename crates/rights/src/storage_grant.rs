//! The `storage` grant: the files that may be listed, read, written, deleted and linked.

use serde::{Deserialize, Serialize};

use crate::file_policy::{
    FileAction, FilesPolicy, MAX_PATHS, is_canonical, is_descendant, request_path,
};
use crate::grant::is_false;

/// The folder with the schemas of new documents, by file extension.
pub const SCHEMAS: &str = ".schemas";

/// Whether a normalised path is [`SCHEMAS`] or below it.
pub fn is_schema_path(path: &str) -> bool {
    path == SCHEMAS || is_descendant(SCHEMAS, path)
}

/// The files that may be listed, read, written, deleted and linked.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StorageGrant {
    /// Paths with everything below them; the first entry that covers a path is decisive. Absent
    /// permits everything, empty nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<StoragePathGrant>>,
    /// If present, replaces `paths`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<FilesPolicy>,
}

impl StorageGrant {
    /// Whether the file may be read.
    pub fn can_read(&self, path: &str) -> bool {
        self.allows(FileAction::Read, path, false)
    }

    /// Whether the file and everything below it may be read, as required to move a folder.
    pub fn can_read_subtree(&self, path: &str) -> bool {
        self.allows(FileAction::Read, path, true)
    }

    /// Whether the file may be written.
    pub fn can_write(&self, path: &str) -> bool {
        self.allows(FileAction::Write, path, false)
    }

    /// Whether the file and everything below it may be written, as required to move a folder.
    pub fn can_write_subtree(&self, path: &str) -> bool {
        self.allows(FileAction::Write, path, true)
    }

    /// Whether the file may be deleted, with everything below it if `recursive`.
    pub fn can_delete(&self, path: &str, recursive: bool) -> bool {
        self.allows(FileAction::Delete, path, recursive)
    }

    /// Whether the file is visible.
    pub fn can_list(&self, path: &str) -> bool {
        self.allows(FileAction::List, path, false)
    }

    /// Whether the folder may be listed; its content is filtered by [`can_list`](Self::can_list)
    /// and by this method.
    pub fn can_list_directory(&self, path: &str) -> bool {
        let path = request_path(path);
        match (&self.files, &self.paths) {
            (Some(files), _) => files.can_list_directory(path),
            (None, None) => is_canonical(path),
            (None, Some(grants)) => {
                path_grants_allow(grants, FileAction::List, path, false)
                    || (is_canonical(path)
                        && grants.iter().any(|grant| {
                            let below = grant.entry();
                            is_descendant(path, below)
                                && path_grants_allow(grants, FileAction::List, below, false)
                        }))
            }
        }
    }

    /// Whether an address may be created that serves the file without a token.
    pub fn can_presign(&self, path: &str) -> bool {
        self.allows(FileAction::Presign, path, false)
    }

    /// The entry or excluded path that denies this action somewhere below the path. `None` if
    /// nothing denies it, or if no entry covers anything below.
    pub fn in_the_way(&self, action: FileAction, path: &str) -> Option<&str> {
        if self.allows(action, path, true) {
            return None;
        }
        let path = request_path(path);
        match (&self.files, &self.paths) {
            (Some(files), _) => files.in_the_way(action, path),
            (None, None) => None,
            (None, Some(grants)) => {
                let covers = |entry| path == entry || is_descendant(entry, path);
                let before = grants.iter().take_while(|grant| !covers(grant.entry()));
                let mut below = before.filter(|grant| is_descendant(path, grant.entry()));
                below
                    .find(|grant| !grant.allows(action))
                    .map(StoragePathGrant::entry)
            }
        }
    }

    /// Whether a schema at this path may be written or deleted: the grant permits everything, or
    /// has an entry or rule for [`SCHEMAS`] or a path below it. A grant for the whole room by
    /// `paths` or `files` does not suffice, since it is given to plain writers of files.
    pub fn can_change_schemas(&self, action: FileAction, path: &str) -> bool {
        let path = request_path(path);
        let names = |entry: &str| is_schema_path(entry);
        self.allows(action, path, false)
            && match (&self.files, &self.paths) {
                (Some(files), _) => files
                    .paths
                    .iter()
                    .any(|rule| names(&rule.path) && rule.allows(action, path, false)),
                (None, None) => true,
                (None, Some(grants)) => grants.iter().any(|grant| {
                    let entry = grant.entry();
                    let covers = path == entry || is_descendant(entry, path);
                    names(entry) && covers && !grant.read_only
                }),
            }
    }

    fn allows(&self, action: FileAction, path: &str, subtree: bool) -> bool {
        let path = request_path(path);
        match (&self.files, &self.paths) {
            (Some(files), _) => files.allows(action, path, subtree),
            (None, None) => is_canonical(path) && action != FileAction::Presign,
            (None, Some(grants)) => path_grants_allow(grants, action, path, subtree),
        }
    }
}

/// One path with everything below it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StoragePathGrant {
    /// The path, which also covers everything below it. In a token it may end with `/*`, which
    /// means the same.
    pub path: String,
    /// Whether writing and deleting are denied.
    #[serde(default, skip_serializing_if = "is_false")]
    pub read_only: bool,
}

impl StoragePathGrant {
    pub(crate) fn entry(&self) -> &str {
        self.path.trim_matches('/')
    }

    fn allows(&self, action: FileAction) -> bool {
        match action {
            FileAction::List | FileAction::Read => true,
            FileAction::Write | FileAction::Delete => !self.read_only,
            FileAction::Presign => false,
        }
    }
}

/// Whether a list of path grants permits this; they never permit addresses without a token.
///
/// As in the SDK, a path that is not canonical, or too many entries, deny everything.
fn path_grants_allow(
    grants: &[StoragePathGrant],
    action: FileAction,
    path: &str,
    subtree: bool,
) -> bool {
    let is_valid = grants.len() <= MAX_PATHS
        && is_canonical(path)
        && grants.iter().all(|grant| is_canonical(grant.entry()));
    if !is_valid {
        return false;
    }
    for grant in grants {
        let entry = grant.entry();
        if path == entry || is_descendant(entry, path) {
            return grant.allows(action);
        }
        // An earlier entry below the path is decisive for a part of the subtree.
        if subtree && is_descendant(path, entry) && !grant.allows(action) {
            return false;
        }
    }
    false
}
