//! The file `server.json` in a data directory: the URL of the running server, for other commands on
//! this machine.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, USAGE};
use crate::private_file;

const FILE: &str = "server.json";

/// The content of the file. After a server was killed, the file still exists.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RunningServer {
    /// The server's base URL.
    pub(crate) url: String,
    /// The project that the server serves.
    pub(crate) project_id: String,
}

/// Writes the file.
pub(crate) fn write(data_dir: &Path, url: &str, project_id: &str) -> anyhow::Result<()> {
    let server = RunningServer {
        url: url.to_owned(),
        project_id: project_id.to_owned(),
    };
    let text = serde_json::to_string_pretty(&server)? + "\n";
    let path = data_dir.join(FILE);
    private_file::write(&path, text.as_bytes())
        .with_context(|| format!("can't write {}", path.display()))
}

/// Reads the file, which names the running server, or the last one if it was killed.
pub(crate) fn read(data_dir: &Path) -> anyhow::Result<Option<RunningServer>> {
    let path = data_dir.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(&path, error).into()),
    };
    let server = serde_json::from_str(&text).map_err(|error| unreadable(&path, error))?;
    Ok(Some(server))
}

fn unreadable(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::new(format!("can't read {}", path.display()))
        .with_exit_code(USAGE)
        .with_hint("set MESHAGENT_API_URL to the server's URL")
        .with_source(error)
}

/// Deletes the file, if it still names the server that is stopping.
pub(crate) fn remove(data_dir: &Path, url: &str) {
    if matches!(read(data_dir), Ok(Some(server)) if server.url == url) {
        // If this fails, the file remains as it does after a kill.
        let _ = fs::remove_file(data_dir.join(FILE));
    }
}
