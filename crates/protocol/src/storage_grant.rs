//! The `storage` grant: which files may be listed, read, written, deleted and linked to.

use serde::{Deserialize, Serialize};

use crate::file_policy::{
    FileAction, FilesPolicy, MAX_PATHS, is_canonical, is_descendant, request_path,
};
use crate::grant::is_false;

/// The folder whose files are the schemas of new documents, by extension.
pub const SCHEMAS: &str = ".schemas";

/// Whether a normalised path is [`SCHEMAS`] or lies below it.
pub fn is_schema_path(path: &str) -> bool {
    path == SCHEMAS || is_descendant(SCHEMAS, path)
}

/// Which files may be listed, read, written, deleted and linked to.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StorageGrant {
    /// Paths with all that is below them; the first entry that covers a path decides. Absent means
    /// everything, empty nothing.
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

    /// Whether the file and everything below it may be read, as a move of a folder needs.
    pub fn can_read_subtree(&self, path: &str) -> bool {
        self.allows(FileAction::Read, path, true)
    }

    /// Whether the file may be written.
    pub fn can_write(&self, path: &str) -> bool {
        self.allows(FileAction::Write, path, false)
    }

    /// Whether the file and everything below it may be written, as a move of a folder needs.
    pub fn can_write_subtree(&self, path: &str) -> bool {
        self.allows(FileAction::Write, path, true)
    }

    /// Whether the file may be deleted, with everything below it if `recursive`.
    pub fn can_delete(&self, path: &str, recursive: bool) -> bool {
        self.allows(FileAction::Delete, path, recursive)
    }

    /// Whether the file's existence may be seen.
    pub fn can_list(&self, path: &str) -> bool {
        self.allows(FileAction::List, path, false)
    }

    /// Whether the folder may be listed; what is in it is filtered by [`can_list`](Self::can_list)
    /// and by this.
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

    /// Whether an address may be made that serves the file without a token.
    pub fn can_presign(&self, path: &str) -> bool {
        self.allows(FileAction::Presign, path, false)
    }

    /// What keeps something below the path from this action: an entry, an excluded path. `None` if
    /// nothing does, and if no entry covers what is below at all.
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

    /// Whether the path lies where schemas of extensions are looked up and may nevertheless be written or
    /// deleted there: it takes everything, or an entry or rule for [`SCHEMAS`] or a path below it. A
    /// grant of the whole room by `paths` or `files` is given to plain writers of files.
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

/// One path with all that is below it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StoragePathGrant {
    /// The path, which covers what is below it, too. In a token it may have a `/*` behind it, which says the same.
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

/// Whether a list of path grants allows this; they never allow addresses that need no token.
///
/// As in the SDK, one entry that is not a canonical path, or one too many, denies everything.
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
        // An earlier entry that lies below the path decides for a part of the subtree.
        if subtree && is_descendant(path, entry) && !grant.allows(action) {
            return false;
        }
    }
    false
}
