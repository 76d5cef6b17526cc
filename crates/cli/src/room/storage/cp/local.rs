//! Files of this machine as sources: everything below a folder, through symbolic links.

use std::fmt::Write as _;
use std::fs::{self, FileType, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use meshagent_protocol::DocPath;

use crate::failure::{Failure, USAGE};
use crate::room::entries;

/// What is below a folder.
#[derive(Default)]
pub(super) struct Tree {
    /// The files, each with its path in the folder, which is also that in the room.
    pub(super) files: Vec<(PathBuf, String)>,
    /// What can't be copied, with the reason.
    pub(super) skipped: Vec<(String, String)>,
    /// The number of entries that were read.
    entries: usize,
}

/// The number of entries that are copied at most: links to folders multiply what is below them.
const MAX_ENTRIES: usize = 100_000;

/// A folder to be read.
struct Folder {
    path: PathBuf,
    /// Its path in the folder that is copied.
    rest: String,
    /// The folders around it and itself, by device and inode.
    around: Vec<(u64, u64)>,
}

impl Tree {
    /// Reads a folder. Symbolic links are followed, as by `cp -rL`.
    pub(super) fn read(first: &Path) -> anyhow::Result<Self> {
        let mut tree = Self::default();
        let metadata = fs::metadata(first).map_err(|error| unreadable(first, error))?;
        let mut folders = vec![Folder {
            path: first.to_owned(),
            rest: String::new(),
            around: vec![identity(&metadata)],
        }];
        while let Some(folder) = folders.pop() {
            match tree.entries(&folder, &mut folders) {
                Ok(()) => {}
                Err(error) if folder.rest.is_empty() => {
                    return Err(unreadable(&folder.path, error).into());
                }
                Err(_) => {
                    let reason = "it can't be read".to_owned();
                    tree.skipped.push((shown(&folder.path), reason));
                }
            }
            if tree.entries > MAX_ENTRIES {
                return Err(too_many(first).into());
            }
        }
        tree.files.sort();
        tree.skipped.sort();
        Ok(tree)
    }

    /// Adds the entries of a folder, up to the maximum.
    fn entries(&mut self, folder: &Folder, folders: &mut Vec<Folder>) -> io::Result<()> {
        for entry in fs::read_dir(&folder.path)? {
            let entry = entry?;
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                break;
            }
            folders.extend(self.entry(folder, &entry));
        }
        Ok(())
    }

    /// Adds an entry; returns it if it is a folder.
    fn entry(&mut self, folder: &Folder, entry: &fs::DirEntry) -> Option<Folder> {
        let path = entry.path();
        let mut skip = |reason: &str| self.skipped.push((shown(&path), reason.to_owned()));
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) => {
                let is_link = path.is_symlink();
                skip(match error.kind() {
                    io::ErrorKind::NotFound if is_link => "a broken symbolic link",
                    // Too many links: they lead to each other.
                    _ if is_link && error.raw_os_error() == Some(LOOP) => {
                        "a loop of symbolic links"
                    }
                    io::ErrorKind::NotFound => "it is gone",
                    _ => "it can't be read",
                });
                return None;
            }
        };
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            skip("its name is not UTF-8");
            return None;
        };
        // Other names would mean other paths in the room.
        if !DocPath::parse(&name).is_ok_and(|path| path.as_str() == name) {
            skip("its name is not allowed in a room");
            return None;
        }
        let kind = metadata.file_type();
        if kind.is_file() {
            let rest = entries::join(&folder.rest, &name);
            self.files.push((path, rest));
        } else if kind.is_dir() {
            let identity = identity(&metadata);
            if folder.around.contains(&identity) {
                skip("a loop of symbolic links");
                return None;
            }
            let mut around = folder.around.clone();
            around.push(identity);
            let rest = entries::join(&folder.rest, &name);
            return Some(Folder { path, rest, around });
        } else {
            skip(special(kind));
        }
        None
    }
}

/// What an entry is that is neither a file nor a folder.
fn special(kind: FileType) -> &'static str {
    if kind.is_socket() {
        "a socket"
    } else if kind.is_fifo() {
        "a named pipe"
    } else {
        "a device"
    }
}

/// What the path leads to if that is a device or a socket, other than stdin.
pub(super) fn device(path: &Path) -> Option<&'static str> {
    let kind = fs::metadata(path).ok()?.file_type();
    let is_other = kind.is_file() || kind.is_dir() || kind.is_fifo();
    (!is_other && path != Path::new("/dev/stdin")).then(|| special(kind))
}

/// A path in messages, which may have bytes that are not UTF-8.
fn shown(path: &Path) -> String {
    let mut shown = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        shown.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a `String` never fails.
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

/// `ELOOP`, for which the standard library has no stable name.
const LOOP: i32 = rustix::io::Errno::LOOP.raw_os_error();

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn unreadable(folder: &Path, error: io::Error) -> Failure {
    Failure::new(format!("can't read {}", folder.display()))
        .with_exit_code(USAGE)
        .with_hint("check that the folder exists and that you may read it")
        .with_source(error)
}

fn too_many(folder: &Path) -> Failure {
    let folder = folder.display();
    Failure::new(format!(
        "can't copy {folder}: it has more than {MAX_ENTRIES} files and folders"
    ))
    .with_exit_code(USAGE)
    .with_hint("copy its folders one by one; what a link leads to counts each time")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_that_multiply_folders_are_refused() {
        let folder = tempfile::TempDir::new().unwrap();
        let at = |path: String| folder.path().join(path);
        for level in 0..30 {
            fs::create_dir(at(format!("{level}"))).unwrap();
            for link in ["a", "b"] {
                let next = format!("../{}", level + 1);
                symlink(next, at(format!("{level}/{link}"))).unwrap();
            }
        }
        fs::create_dir(at("30".to_owned())).unwrap();
        let error = Tree::read(&at("0".to_owned())).map(drop).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("it has more than 100000 files and folders"),
            "{error}"
        );
        assert!(Tree::read(&at("25".to_owned())).is_ok());
    }
}
