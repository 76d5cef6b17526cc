//! The lock of a journal: one program at a time has it open.

use std::fs::File;
use std::path::Path;

use super::JournalError;
use super::private::private;

/// Takes a journal's lock.
///
/// # Errors
///
/// [`JournalError::InUse`] if it is taken.
pub(super) fn lock(path: &Path) -> Result<File, JournalError> {
    let lock = private()
        .create(true)
        .append(true)
        .open(path.with_extension("lock"))?;
    lock.try_lock()?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_that_is_kept_is_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("漢.journal");
        let _held = lock(&path).unwrap();
        let second = lock(&path);
        assert!(matches!(second, Err(JournalError::InUse)));
    }
}
