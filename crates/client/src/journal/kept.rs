//! Journals that are kept under another name: damaged ones, and those of replaced documents.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::{lock, sync_directory};

/// Gives a damaged journal a second name, `….damaged-N`, and returns it. The file is reported under
/// that name, and stays in place until somebody has received the report.
pub(super) fn keep_damaged(path: &Path) -> io::Result<PathBuf> {
    let bytes = fs::read(path)?;
    for kept in names(path, "damaged") {
        if !kept.try_exists()? {
            // Not all file systems have links.
            fs::hard_link(path, &kept).or_else(|_| copy(path, &kept))?;
            sync_directory(path)?;
            return Ok(kept);
        }
        // An earlier report that nobody has received. A file that can't be read is another.
        if fs::read(&kept).is_ok_and(|kept| kept == bytes) {
            return Ok(kept);
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Removes a damaged journal that was kept under this name, after the report was received.
pub(super) fn remove_reported(kept: &Path) {
    // Without the last `.damaged-N`.
    let path = kept.with_extension("");
    // If this fails, the damage is reported again.
    let _removed = lock(&path).map(|_lock| {
        // Another program may have written a new file since.
        if fs::read(&path)? == fs::read(kept)? {
            fs::remove_file(&path)?;
            sync_directory(&path)?;
        }
        io::Result::Ok(())
    });
}

/// Copies the journal of a replaced document to the first free `….replaced-N`.
pub(super) fn keep_replaced(path: &Path) -> io::Result<()> {
    for kept in names(path, "replaced") {
        if !kept.try_exists()? {
            return copy(path, &kept);
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn copy(path: &Path, to: &Path) -> io::Result<()> {
    let copied = fs::copy(path, to).and_then(|_| File::open(to)?.sync_all());
    copied.inspect_err(|_| {
        // A partial copy would take space that others need. It may not exist.
        let _removed = fs::remove_file(to);
    })
}

/// The names of this kind beside a journal.
fn names(path: &Path, kind: &str) -> impl Iterator<Item = PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let numbers = 1_u64..;
    numbers.map(move |number| path.with_file_name(format!("{name}.{kind}-{number}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_file_does_not_take_the_name_of_a_damaged_journal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("日記.journal");
        fs::write(&path, "damaged").unwrap();
        // A directory can't be read as a file, even with all rights.
        fs::create_dir(folder.path().join("日記.journal.damaged-1")).unwrap();
        let kept = keep_damaged(&path).unwrap();
        assert_eq!(kept, folder.path().join("日記.journal.damaged-2"));
        assert_eq!(fs::read(&kept).unwrap(), b"damaged");
        assert_eq!(keep_damaged(&path).unwrap(), kept, "the same journal");
    }
}
