//! Writes files below a folder of this machine, never outside of it.
//!
//! The folder may contain symbolic links that somebody else has put there, and the names come from
//! the room. So each part of a path is opened without following links, relative to the folder
//! before it: nothing that changes in the meantime leads elsewhere. A link that stays in the folder
//! is followed by its target's path.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;

use crate::failure::{Failure, REFUSED, USAGE};
use crate::room::input;

/// Writes the file at the path `rest` below a folder. The folder and those on the path are created.
pub(super) fn write(folder: &Path, rest: &str, data: &[u8]) -> Result<(), Failure> {
    let whole = folder.join(rest);
    let unwritable = |error: io::Error| input::unwritable(&whole, error);
    fs::create_dir_all(folder).map_err(unwritable)?;
    let mut rest = PathBuf::from(rest);
    let mut links = 0;
    loop {
        match create(folder, &rest) {
            Ok(mut file) => return file.write_all(data).map_err(unwritable),
            Err(Error::Link(link)) if links < MAX_LINKS => {
                links += 1;
                let target =
                    inside(folder, &link).ok_or_else(|| leads_outside(&folder.join(&link)));
                rest = match rest.strip_prefix(&link) {
                    Ok(below) if below.as_os_str().is_empty() => target?,
                    Ok(below) => target?.join(below),
                    Err(_) => return Err(leads_outside(&folder.join(&link))),
                };
            }
            Err(Error::Link(link)) => return Err(leads_outside(&folder.join(&link))),
            Err(Error::Io(error)) => return Err(unwritable(error.into())),
            Err(Error::Outside) => {
                let message = format!("can't write {}: it is not in the folder", whole.display());
                return Err(Failure::new(message).with_exit_code(USAGE));
            }
        }
    }
}

/// The number of links that are followed on the way to one file.
const MAX_LINKS: usize = 40;

enum Error {
    Io(Errno),
    /// This path below the folder is a symbolic link.
    Link(PathBuf),
    /// The path does not only go down.
    Outside,
}

/// Creates the file, or empties an existing one.
fn create(folder: &Path, rest: &Path) -> Result<File, Error> {
    let mut names = Vec::new();
    for component in rest.components() {
        let Component::Normal(name) = component else {
            return Err(Error::Outside);
        };
        names.push(name);
    }
    let Some((last, folders)) = names.split_last() else {
        return Err(Error::Io(Errno::ISDIR));
    };
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at: OwnedFd = openat(CWD, folder, directory, Mode::empty()).map_err(Error::Io)?;
    let mut path = PathBuf::new();
    for name in folders {
        path.push(name);
        match mkdirat(&at, *name, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(Error::Io(error)),
        }
        let opened = openat(&at, *name, directory | OFlags::NOFOLLOW, Mode::empty());
        at = opened.map_err(|error| link_or(error, folder, &path))?;
    }
    path.push(last);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o666);
    let file = openat(&at, *last, flags | OFlags::NOFOLLOW, mode);
    Ok(file.map_err(|error| link_or(error, folder, &path))?.into())
}

/// The error of a path that could not be opened: systems report a link in different ways.
fn link_or(error: Errno, folder: &Path, path: &Path) -> Error {
    if folder.join(path).is_symlink() {
        Error::Link(path.to_owned())
    } else {
        Error::Io(error)
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
        "refused to write through {shown}: it is a symbolic link that leads out of the destination"
    ))
    .with_exit_code(REFUSED)
    .with_hint(format!(
        "remove {shown}, or copy to the place where it leads"
    ))
}
