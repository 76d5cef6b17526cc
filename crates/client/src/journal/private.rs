//! Files that only their owner may read: a journal contains the text of documents.

use std::fs::OpenOptions;

/// Options to create such a file.
pub(super) fn private() -> OpenOptions {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "only Unix has modes"))]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::private;

    #[test]
    fn new_files_belong_to_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut options = private();
        let file = options
            .write(true)
            .create(true)
            .open(folder.path().join("日記.new"))
            .unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
