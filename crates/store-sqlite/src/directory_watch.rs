//! Whether names in a directory have changed since the last look, at the cost of one system call.

use std::path::Path;

/// A watch on the directory of a file: inotify on Linux. Without one, a change is always assumed.
///
/// It reports files that are created, deleted and moved by the time that the system call doing so
/// returns. It reports no writes into files and no move of a directory above its own. There is none
/// on file systems that something else than this machine's kernel may change.
#[derive(Debug)]
pub(crate) struct DirectoryWatch {
    #[cfg(target_os = "linux")]
    events: Option<std::os::fd::OwnedFd>,
    has_changed: bool,
}

impl DirectoryWatch {
    pub(crate) fn of_file(file: &Path) -> Self {
        Self {
            #[cfg(target_os = "linux")]
            events: file.parent().and_then(watch),
            has_changed: false,
        }
    }

    /// Returns whether a name has changed, or may have, since the last call of
    /// [`set_changed`](Self::set_changed).
    pub(crate) fn has_changed(&mut self) -> bool {
        self.has_changed |= self.has_events();
        self.has_changed
    }

    pub(crate) fn set_changed(&mut self, has_changed: bool) {
        self.has_changed = has_changed;
    }

    #[cfg(target_os = "linux")]
    fn has_events(&mut self) -> bool {
        /// One event with the longest name takes less, see
        /// <https://man7.org/linux/man-pages/man7/inotify.7.html>.
        const BUFFER_BYTES: usize = 4096;
        /// Of reads; further events are read by the next look.
        const MAX_READS: usize = 16;
        let Some(events) = &self.events else {
            return true;
        };
        let mut has_events = false;
        let mut buffer = [0; BUFFER_BYTES];
        for _ in 0..MAX_READS {
            match rustix::io::read(events, &mut buffer) {
                Ok(read) if read > 0 => has_events = true,
                Err(rustix::io::Errno::WOULDBLOCK) => return has_events,
                Err(rustix::io::Errno::INTR) => {}
                _ => {
                    // Nothing more can be learned from it.
                    self.events = None;
                    return true;
                }
            }
        }
        true
    }

    #[cfg(not(target_os = "linux"))]
    fn has_events(&mut self) -> bool {
        true
    }
}

/// Watches a directory; `None` if the system offers no watch, or no more of them.
#[cfg(target_os = "linux")]
fn watch(directory: &Path) -> Option<std::os::fd::OwnedFd> {
    use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
    let events = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok()?;
    let names = WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR;
    // A bare file name has an empty parent.
    let directory = if directory.as_os_str().is_empty() {
        Path::new(".")
    } else {
        directory
    };
    if !is_local(directory) {
        return None;
    }
    add_watch(&events, directory, names).ok()?;
    Some(events)
}

/// Whether nobody but this machine's kernel can change names in a directory, as far as is known.
#[cfg(target_os = "linux")]
fn is_local(directory: &Path) -> bool {
    /// The magic numbers of ext2 to ext4, XFS, Btrfs, F2FS, tmpfs, overlayfs and ZFS, see
    /// <https://man7.org/linux/man-pages/man2/statfs.2.html>.
    const LOCAL: [u64; 7] = [
        0xef53,
        0x5846_5342,
        0x9123_683e,
        0xf2f5_2010,
        0x0102_1994,
        0x794c_7630,
        0x2fc1_2fc1,
    ];
    // The kernel's type differs between architectures; the numbers have 32 bits.
    #[expect(clippy::cast_sign_loss, reason = "it is a bit pattern")]
    let kind = rustix::fs::statfs(directory).map(|found| found.f_type as u64 & 0xffff_ffff);
    kind.is_ok_and(|kind| LOCAL.contains(&kind))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn changed_names_are_reported_and_writes_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let (file, other) = (
            directory.path().join("文件"),
            directory.path().join("other"),
        );
        fs::write(&file, "1").unwrap();
        let mut watch = DirectoryWatch::of_file(&file);
        let mut has_changed = |what: &str, expected: bool| {
            let found = watch.has_changed();
            assert!(found || !expected, "{what} is not reported");
            if cfg!(target_os = "linux") {
                assert_eq!(found, expected, "{what}");
                assert_eq!(
                    watch.has_changed(),
                    expected,
                    "{what}: it stays until it is looked at"
                );
            }
            watch.set_changed(false);
        };
        has_changed("nothing", false);
        fs::write(&file, "22").unwrap();
        has_changed("a write", false);
        fs::rename(&file, &other).unwrap();
        has_changed("a move", true);
        fs::write(&file, "1").unwrap();
        has_changed("a new file", true);
        fs::rename(&other, &file).unwrap();
        has_changed("a replacement", true);
        fs::remove_file(&file).unwrap();
        has_changed("a deletion", true);
        for number in 0..999 {
            fs::write(directory.path().join(format!("{number}")), "").unwrap();
        }
        has_changed("more events than one buffer holds", true);
        let moved = tempfile::tempdir().unwrap();
        fs::rename(directory.path(), moved.path().join("moved")).unwrap();
        has_changed("a move of the directory", true);
    }
}
