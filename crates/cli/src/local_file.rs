//! Files of this machine that commands write. A file is replaced in one step: when the disk is
//! full, the former one stays.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

/// Writes the file that the user named, through symbolic links.
pub(crate) fn write(path: &Path, data: &[u8]) -> io::Result<()> {
    let old = match OpenOptions::new().write(true).open(path) {
        Ok(old) => old,
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        // The target of the link is created.
        Err(_) if path.is_symlink() => return fs::write(path, data),
        Err(_) => return in_folder(path, None, data),
    };
    // The other names of the file keep its content in common.
    if is_system_link(path) || old.metadata()?.nlink() > 1 {
        return overwrite(old, data);
    }
    in_folder(&fs::canonicalize(path)?, Some(old), data)
}

/// Whether the path is one of the system's links, such as /dev/stdout, whose file is open already.
/// Everybody may create links in /dev/shm, so it is not included.
pub(crate) fn is_system_link(path: &Path) -> bool {
    path.parent().is_some_and(|folder| {
        let is_it = |system: &str| folder == Path::new(system);
        ["/dev", "/dev/fd", "/proc/self/fd"].into_iter().any(is_it)
    })
}

fn in_folder(path: &Path, old: Option<File>, data: &[u8]) -> io::Result<()> {
    let Some(name) = path.file_name() else {
        return Err(Errno::ISDIR.into());
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    match (File::open(folder), old) {
        (Ok(folder), old) => replace(&folder, name, old, data),
        (Err(_), Some(old)) => overwrite(old, data),
        (Err(error), None) if error.kind() == io::ErrorKind::PermissionDenied => {
            fs::write(path, data)
        }
        (Err(error), None) => Err(error),
    }
}

/// Writes the file `name` in an open folder, without following a link. `old` is the file that has
/// the name now, opened to be written.
pub(crate) fn replace(
    folder: impl AsFd,
    name: &OsStr,
    old: Option<File>,
    data: &[u8],
) -> io::Result<()> {
    // Devices and pipes are not replaced.
    let old = match old {
        Some(old) if !old.metadata()?.is_file() => return overwrite(old, data),
        old => old,
    };
    let random = getrandom::u32().map_err(io::Error::other)?;
    let temporary = format!(".meshagent-{}-{random:08x}.new", std::process::id());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mode = if old.is_some() { 0o600 } else { 0o666 };
    let created = rustix::fs::openat(&folder, &temporary, flags, Mode::from_raw_mode(mode));
    let mut file: File = match (created, old.as_ref()) {
        (Ok(file), _) => file.into(),
        // The file may be written, but its folder may not.
        (Err(Errno::ACCESS | Errno::PERM | Errno::ROFS), Some(_)) => {
            return old.map_or(Ok(()), |old| overwrite(old, data));
        }
        (Err(error), _) => return Err(error.into()),
    };
    let discard = || {
        // The caller needs the first error, not that of the clean-up.
        let _ = rustix::fs::unlinkat(&folder, &temporary, AtFlags::empty());
    };
    let old = match old {
        Some(old) if !take_over(&old, &file).inspect_err(|_error| discard())? => {
            discard();
            return overwrite(old, data);
        }
        old => old,
    };
    let written = { file.write_all(data) }
        .and_then(|()| file.sync_all())
        .and_then(|()| Ok(rustix::fs::renameat(&folder, &temporary, &folder, name)?));
    match (written, old) {
        (Ok(()), _) => {
            // Either the old or the new file is there after a power failure, without this, too.
            let _ = rustix::fs::fsync(&folder);
            Ok(())
        }
        // A single file that is mounted, as into a container.
        (Err(error), Some(old)) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
            discard();
            overwrite(old, data)
        }
        (Err(error), _) => {
            discard();
            Err(error)
        }
    }
}

/// Gives the new file the owner and the permissions of the old one. Returns whether it may have
/// them: some file systems have none.
fn take_over(old: &File, new: &File) -> io::Result<bool> {
    let (old, now) = (old.metadata()?, new.metadata()?);
    if (old.uid(), old.gid()) != (now.uid(), now.gid())
        && std::os::unix::fs::fchown(new, Some(old.uid()), Some(old.gid())).is_err()
    {
        return Ok(false);
    }
    let permissions = Permissions::from_mode(old.mode() & 0o7777);
    Ok(new.set_permissions(permissions).is_ok())
}

fn overwrite(mut file: File, data: &[u8]) -> io::Result<()> {
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    file.write_all(data)
}
