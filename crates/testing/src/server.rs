//! Launches the server binary on a free port with a data directory of its own.
//!
//! A test can end the server with SIGTERM or kill it, and start it again on the same port and data.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::process::{Logs, Process, STEP_LIMIT};
use crate::{Credentials, http_request, repository_root};

/// The time limit for an orderly shutdown.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(30);

/// A running server, which is killed when this is dropped.
#[derive(Debug)]
pub struct Server {
    process: Option<Process>,
    address: String,
    credentials: Credentials,
    folder: PathBuf,
    log: PathBuf,
    args: Vec<String>,
}

impl Server {
    /// Starts a server with additional arguments. Its data is in `folder`.
    ///
    /// # Errors
    /// When there is no binary, or the server does not report that it is ready.
    pub fn start(folder: &Path, logs: &Logs, args: &[&str]) -> Result<Self> {
        let mut server = Self {
            process: None,
            address: "127.0.0.1:0".to_owned(),
            credentials: Credentials::generate(),
            folder: folder.to_owned(),
            log: logs.begin("server"),
            args: args.iter().map(ToString::to_string).collect(),
        };
        server.start_again()?;
        Ok(server)
    }

    /// The server's binary: `MESHAGENT_BIN`, else the one that was built together with the running
    /// test, else the debug build of this repository.
    ///
    /// # Errors
    /// When the file does not exist.
    pub fn binary() -> Result<PathBuf> {
        let name = format!("meshagent{}", std::env::consts::EXE_SUFFIX);
        let beside = || {
            // In any target directory, Cargo puts tests into the folder `deps` beside the
            // binaries of their profile.
            let test = std::env::current_exe().ok()?;
            Some(test.parent()?.parent()?.join(&name)).filter(|path| path.is_file())
        };
        let built =
            || beside().unwrap_or_else(|| repository_root().join("target/debug").join(&name));
        let path = std::env::var_os("MESHAGENT_BIN").map_or_else(built, PathBuf::from);
        ensure!(
            path.is_file(),
            "no server binary at {}: run `cargo build -p meshagent-cli`, or set MESHAGENT_BIN",
            path.display()
        );
        Ok(path)
    }

    /// The server's base URL, `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The URL of a room's WebSocket, for clients that don't construct it themselves.
    pub fn socket_url(&self, room: &str) -> String {
        format!("ws://{}/rooms/{room}", self.address)
    }

    /// The project and API key that the server accepts.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The environment variables with which SDKs and CLIs use this server as the owner of the key.
    pub fn owner_environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("MESHAGENT_API_URL", self.url()),
            ("MESHAGENT_PROJECT_ID", self.credentials.project_id.clone()),
            ("MESHAGENT_API_KEY", self.credentials.api_key()),
        ]
    }

    /// The environment variables with which SDKs and CLIs join a room with this token.
    pub fn participant_environment(&self, room: &str, token: &str) -> Vec<(&'static str, String)> {
        vec![
            ("MESHAGENT_API_URL", self.url()),
            ("MESHAGENT_PROJECT_ID", self.credentials.project_id.clone()),
            ("MESHAGENT_ROOM", room.to_owned()),
            ("MESHAGENT_TOKEN", token.to_owned()),
        ]
    }

    /// Ends the server with SIGTERM and waits for it.
    ///
    /// # Errors
    /// When the server still runs after 30 seconds, or its exit code is not 0.
    pub fn terminate(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else {
            return Ok(());
        };
        process.signal("TERM")?;
        match process.wait(SHUTDOWN_LIMIT)? {
            None => bail!(
                "the server still runs {} s after SIGTERM",
                SHUTDOWN_LIMIT.as_secs()
            ),
            Some(status) => ensure!(
                status.success(),
                "the server ended with {status} on SIGTERM"
            ),
        }
        Ok(())
    }

    /// Kills the server immediately, like `kill -9`.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts the server on its port and data. The first start chooses a free port.
    ///
    /// # Errors
    /// When the server does not report that it is ready.
    pub fn start_again(&mut self) -> Result<()> {
        let mut log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)?;
        let mut command = Command::new(Self::binary()?);
        command
            .args(["serve", "--listen", &self.address, "--data-dir"])
            .arg(self.folder.join("data"))
            .args(&self.args)
            .env("HOME", &self.folder)
            .env("MESHAGENT_API_KEY", self.credentials.api_key())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.try_clone()?);
        for name in [
            "API_URL",
            "PROJECT_ID",
            "KEY_ID",
            "SECRET",
            "TOKEN",
            "ROOM",
            "DATA_DIR",
        ] {
            command.env_remove(format!("MESHAGENT_{name}"));
        }
        let mut process = Process::spawn(command)?;
        let stdout = process
            .child
            .stdout
            .take()
            .context("the server's stdout is a pipe")?;
        writeln!(log, "# started as process {}", process.child.id())?;
        let ready = read_ready_address(stdout, log);
        self.address = ready
            .recv_timeout(STEP_LIMIT)
            .context("the server did not print its URL")?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends the server in an orderly way and starts it again.
    ///
    /// # Errors
    /// As [`Self::terminate`] and [`Self::start_again`].
    pub fn restart(&mut self) -> Result<()> {
        self.terminate()?;
        self.start_again()
    }

    /// The sum of a Prometheus metric over its labels, or 0 if it is not listed.
    ///
    /// # Errors
    /// When the metrics can't be read.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let response = http_request("GET", &format!("{}/metrics", self.url()), &[], &[])?;
        ensure!(
            response.status == 200,
            "/metrics answers {}",
            response.status
        );
        let values = response
            .text()
            .lines()
            .filter_map(|line| {
                let rest = line.strip_prefix(name)?;
                let value = rest.strip_prefix(' ').or_else(|| {
                    rest.starts_with('{')
                        .then(|| rest.rsplit_once("} "))
                        .flatten()
                        .map(|(_, v)| v)
                })?;
                value.split(' ').next()?.parse::<f64>().ok()
            })
            .collect::<Vec<_>>();
        Ok(values.iter().sum())
    }
}

/// Copies the server's standard output to the log, and sends the address from the line that reports
/// that the server is ready. The lines before it that set shell variables are skipped.
fn read_ready_address(
    stdout: impl std::io::Read + Send + 'static,
    mut log: File,
) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = writeln!(log, "stdout: {line}");
            if let Some((_, rest)) = line
                .split_once("http://")
                .filter(|_| !line.starts_with("export "))
            {
                let end = rest
                    .find(|c: char| c.is_whitespace() || c == '/')
                    .unwrap_or(rest.len());
                let _ = sender.send(rest[..end].to_owned());
            }
        }
    });
    receiver
}
