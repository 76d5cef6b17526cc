//! Files that only their owner may read: a journal contains the text of documents.

use std::fs::{File, OpenOptions};
use std::io;

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

/// Makes such a file of one that may have existed before.
#[cfg(unix)]
pub(super) fn make_private(file: &File) -> io::Result<()> {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(Permissions::from_mode(0o600))
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "the signature on Unix")]
pub(super) fn make_private(_: &File) -> io::Result<()> {
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::{make_private, private};

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

    #[test]
    fn file_that_others_could_read_belongs_to_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("日記.new");
        std::fs::write(&path, "alt").unwrap();
        let readable = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(&path, readable).unwrap();
        let file = private().write(true).open(&path).unwrap();
        make_private(&file).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
