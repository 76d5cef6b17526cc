//! Writes files below a folder of this machine, never outside of it.
//!
//! The folder may contain symbolic links that somebody else has put there, and the names come from
//! the room. So each part of a path is opened without following links, relative to the folder
//! before it: nothing that changes in the meantime leads elsewhere. A link that stays in the folder
//! is followed by its target's path.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, fcntl_setfl, mkdirat, openat};
use rustix::io::Errno;

use crate::failure::{Failure, REFUSED, USAGE};
use crate::local_file;

/// Writes the file at the path `rest` below a folder. The folder and those on the path are created.
pub(super) fn write(folder: &Path, rest: &str, data: &[u8]) -> Result<(), Unwritten> {
    let whole = folder.join(rest);
    fs::create_dir_all(folder)?;
    let mut rest = PathBuf::from(rest);
    let mut links = 0;
    loop {
        match write_in(folder, &rest, data) {
            Ok(()) => return Ok(()),
            Err(Error::Link(link)) if links < MAX_LINKS => {
                links += 1;
                let target =
                    inside(folder, &link).ok_or_else(|| leads_outside(&folder.join(&link)));
                rest = match rest.strip_prefix(&link) {
                    Ok(below) if below.as_os_str().is_empty() => target?,
                    Ok(below) => target?.join(below),
                    Err(_) => return Err(leads_outside(&folder.join(&link)).into()),
                };
            }
            Err(Error::Link(link)) => return Err(leads_outside(&folder.join(&link)).into()),
            Err(Error::Io(error)) => return Err(error.into()),
            Err(Error::Outside) => {
                let message = format!("can't write {}: it is not in the folder", whole.display());
                return Err(Failure::new(message).with_exit_code(USAGE).into());
            }
        }
    }
}

/// The number of links that are followed on the way to one file.
const MAX_LINKS: usize = 40;

/// Why a file was not written.
pub(super) enum Unwritten {
    Io(io::Error),
    /// For another reason, which ends the copy.
    Refused(Failure),
}

impl From<io::Error> for Unwritten {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Failure> for Unwritten {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure)
    }
}

enum Error {
    Io(io::Error),
    /// This path below the folder is a symbolic link.
    Link(PathBuf),
    /// The path does not only go down.
    Outside,
}

/// Creates the file, or replaces an existing one.
fn write_in(folder: &Path, rest: &Path, data: &[u8]) -> Result<(), Error> {
    let mut names = Vec::new();
    for component in rest.components() {
        let Component::Normal(name) = component else {
            return Err(Error::Outside);
        };
        names.push(name);
    }
    let Some((last, folders)) = names.split_last() else {
        return Err(Errno::ISDIR.into());
    };
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at: OwnedFd = openat(CWD, folder, directory, Mode::empty())?;
    let mut path = PathBuf::new();
    for name in folders {
        path.push(name);
        match mkdirat(&at, *name, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let opened = openat(&at, *name, directory | OFlags::NOFOLLOW, Mode::empty());
        at = opened.map_err(|error| link_or(error, folder, &path))?;
    }
    path.push(last);
    // Not blocked by a pipe that nobody reads.
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let old = match openat(&at, *last, flags, Mode::empty()) {
        Ok(old) => {
            fcntl_setfl(&old, OFlags::empty())?;
            Some(File::from(old))
        }
        Err(Errno::NOENT) => None,
        Err(error) => return Err(link_or(error, folder, &path)),
    };
    local_file::replace(&at, last, old, data).map_err(Error::Io)
}

impl From<Errno> for Error {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// The error of a path that could not be opened: systems report a link in different ways.
fn link_or(error: Errno, folder: &Path, path: &Path) -> Error {
    if folder.join(path).is_symlink() {
        Error::Link(path.to_owned())
    } else {
        error.into()
    }
}

/// The path below the folder to which a link in it leads; `None` if it leads elsewhere or nowhere.
fn inside(folder: &Path, link: &Path) -> Option<PathBuf> {
    let folder = fs::canonicalize(folder).ok()?;
    let target = fs::canonicalize(folder.join(link)).ok()?;
    Some(target.strip_prefix(&folder).ok()?.to_owned())
}

fn leads_outside(link: &Path) -> Failure {
    let shown = link.display();
    Failure::new(format!(
        "refused to write through {shown}: it is a symbolic link that leads out of the destination \
         or nowhere"
    ))
    .with_exit_code(REFUSED)
    .with_hint(format!(
        "remove {shown}, or copy to the place where it leads"
    ))
}
