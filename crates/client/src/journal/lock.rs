//! The lock of a journal: one program at a time has it open.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::JournalError;

/// How often a lock that is taken is tried again, and the time in between.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(10);

/// Takes a journal's lock.
///
/// # Errors
///
/// [`JournalError::InUse`] if it is taken, and stays taken for 100 milliseconds. A program that
/// this one starts has a copy of the lock until it is loaded, even if this one has given it up.
pub(super) fn lock(path: &Path) -> Result<File, JournalError> {
    lock_with(path, || thread::sleep(PAUSE))
}

fn lock_with(path: &Path, mut pause: impl FnMut()) -> Result<File, JournalError> {
    let lock = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path.with_extension("lock"))?;
    for _ in 0..TRIES {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) => pause(),
            Err(error) => return Err(error.into()),
        }
    }
    lock.try_lock()?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_that_is_released_soon_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ä.journal");
        let mut held = Some(lock(&path).unwrap());
        // As a child process has it that is being started.
        let mut copy = held.as_ref().map(|held| held.try_clone().unwrap());
        held = None;
        let mut pauses = 0;
        lock_with(&path, || {
            pauses += 1;
            copy.take_if(|_| pauses == 3);
        })
        .unwrap();
        assert!(held.is_none());
        assert_eq!(pauses, 3);
    }

    #[test]
    fn lock_that_is_kept_is_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("漢.journal");
        let _held = lock(&path).unwrap();
        let second = lock_with(&path, || {});
        assert!(matches!(second, Err(JournalError::InUse)));
    }
}
