//! Small files that only their owner may read. They are replaced atomically: readers see the old or
//! the new content, also after a power failure.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Creates the file, or replaces an existing one.
pub(crate) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.new", std::process::id()));
    let temporary = Path::new(&temporary);
    let result = create(temporary, content).and_then(|()| fs::rename(temporary, path));
    if result.is_err() {
        // The caller needs the first error, not that of the clean-up.
        let _ = fs::remove_file(temporary);
        return result;
    }
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        // Left over from an interrupted process with the same id.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}
