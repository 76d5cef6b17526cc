//! The file `credentials.json` in a data directory: the API key that the first start creates.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meshagent_protocol::ApiKey;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::failure::{Failure, USAGE};
use crate::private_file;

const FILE: &str = "credentials.json";
/// Maximum size of the file, many times that of a key.
const MAX_BYTES: u64 = 64 << 10;
/// As many bits as the HMAC signature has.
const SECRET_BYTES: usize = 32;

#[derive(Deserialize, Serialize)]
struct Credentials {
    api_key: String,
}

/// The path of the file in a data directory.
pub(crate) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

/// Reads the key from the data directory, if it contains one.
pub(crate) fn load(data_dir: &Path) -> anyhow::Result<Option<ApiKey>> {
    let path = path(data_dir);
    let text = match read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let failure = Failure::new(format!("can't read {}", path.display()));
            return Err(failure
                .with_exit_code(USAGE)
                .with_hint(
                    "run the command as the server's user, or set MESHAGENT_API_KEY or \
                     MESHAGENT_TOKEN",
                )
                .with_source(error)
                .into());
        }
    };
    let malformed = || {
        Failure::new(format!("{} contains no valid API key", path.display()))
            .with_exit_code(USAGE)
            .with_hint(
                "restore it from a backup, or set MESHAGENT_API_KEY to a key for the same project",
            )
    };
    let credentials: Credentials = serde_json::from_str(&text).map_err(|_| malformed())?;
    let key =
        ApiKey::parse(&credentials.api_key).map_err(|error| malformed().with_source(error))?;
    Ok(Some(key))
}

/// Reads a regular file of limited size. A pipe could block the start, and a device may be endless.
fn read(path: &Path) -> io::Result<String> {
    let invalid = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason);
    // Checked first, because opening a pipe waits for a writer.
    if !fs::metadata(path)?.is_file() {
        return Err(invalid("not a regular file"));
    }
    let mut text = String::new();
    let file = fs::File::open(path)?;
    if file.take(MAX_BYTES + 1).read_to_string(&mut text)? as u64 > MAX_BYTES {
        return Err(invalid("longer than 64 KiB"));
    }
    Ok(text)
}

/// Creates the project and key of a data directory, and stores the key there.
///
/// The caller must hold the lock of the data directory: two concurrent calls would create two keys.
pub(crate) fn create(data_dir: &Path) -> anyhow::Result<ApiKey> {
    let mut secret = [0; SECRET_BYTES];
    getrandom::fill(&mut secret).context("can't generate a secret")?;
    let key = ApiKey {
        id: Uuid::new_v4().to_string(),
        project_id: Uuid::new_v4().to_string(),
        secret: URL_SAFE_NO_PAD.encode(secret),
    };
    let credentials = Credentials {
        api_key: key.encode()?,
    };
    let text = serde_json::to_string_pretty(&credentials)? + "\n";
    let path = path(data_dir);
    private_file::write(&path, text.as_bytes()).map_err(|error| {
        Failure::new(format!("can't write {}", path.display()))
            .with_exit_code(USAGE)
            .with_hint("pass a writable directory with --data-dir, or set MESHAGENT_API_KEY")
            .with_source(error)
    })?;
    Ok(key)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    #[test]
    fn key_is_read_from_a_regular_file_of_a_bounded_size_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        assert!(load(directory.path()).unwrap().is_none());
        let refused = |what: &str| {
            let error = load(directory.path()).unwrap_err();
            let said = format!("{error:#}");
            assert!(said.contains(path.to_str().unwrap()), "{what}: {said}");
            fs::remove_file(&path).unwrap();
        };
        symlink("/dev/zero", &path).unwrap();
        refused("zeros without end");
        assert!(
            Command::new("mkfifo")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        refused("a pipe that nobody writes to");
        fs::write(&path, " ".repeat(70_000)).unwrap();
        refused("a large file");
        let key = create(directory.path()).unwrap();
        assert_eq!(load(directory.path()).unwrap().unwrap().id, key.id);
    }
}
