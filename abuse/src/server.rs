//! The server binary as a child process with a bound on its address space, measured in `/proc`.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use meshagent_protocol::ApiKey;
use rlimit::Resource;
use tempfile::TempDir;

const START_LIMIT: Duration = Duration::from_secs(30);
/// The interval between two samples of the server's memory.
const SAMPLE_EVERY: Duration = Duration::from_millis(10);

/// A server with default limits on a free port, which is killed on drop.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) key: ApiKey,
    folder: TempDir,
    watch: Option<JoinHandle<()>>,
    peaks: Arc<Peaks>,
}

/// The current memory of the process, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// The resident memory.
    pub(crate) resident: u64,
    /// The address space.
    pub(crate) space: u64,
}

/// The largest samples since [`Server::forget_peaks`], which outlive the process.
#[derive(Debug, Default)]
struct Peaks {
    is_over: AtomicBool,
    resident: AtomicU64,
    space: AtomicU64,
}

impl Server {
    pub(crate) fn start(binary: &PathBuf) -> Result<Self> {
        let folder = TempDir::new()?;
        let key = ApiKey {
            id: "0f0e0d0c-0b0a-4908-8706-050403020100".to_owned(),
            project_id: "00010203-0405-4607-8809-0a0b0c0d0e0f".to_owned(),
            secret: "a-secret-of-the-attack-catalogue".to_owned(),
        };
        let log = File::create(folder.path().join("log"))?;
        let mut command = Command::new(binary);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--log", "warn"])
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .env("HOME", folder.path())
            .env("MESHAGENT_API_KEY", key.encode()?)
            // A process that aborts must end without resolving symbols first.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = command
            .spawn()
            .with_context(|| format!("running {}", binary.display()))?;
        let stdout = child.stdout.take().context("its stdout is a pipe")?;
        let (sender, address) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some((_, address)) = line.split_once("ready on http://") {
                    let _ = sender.send(address.trim().parse());
                }
            }
        });
        let address = address
            .recv_timeout(START_LIMIT)
            .context("the server did not report that it is ready")??;
        let peaks = Arc::new(Peaks::default());
        let watch = watch(child.id(), Arc::clone(&peaks));
        Ok(Self {
            child,
            address,
            key,
            folder,
            watch: Some(watch),
            peaks,
        })
    }

    /// Bounds the address space of the process to its current size plus `beyond` bytes.
    pub(crate) fn bound_space(&self, beyond: u64) -> Result<()> {
        let bytes = self.memory()?.space + beyond;
        let pid = i32::try_from(self.child.id())?;
        rlimit::prlimit(pid, Resource::AS, Some((bytes, bytes)), None)?;
        Ok(())
    }

    /// Returns how the process ended, with a line of its log; `None` while it runs.
    pub(crate) fn end(&mut self) -> Result<Option<String>> {
        let Some(status) = self.child.try_wait()? else {
            return Ok(None);
        };
        let log = fs::read(self.folder.path().join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let says_why =
            |line: &&str| line.contains("memory allocation") || line.contains("panicked");
        let last = || log.lines().rev().find(|line| !line.trim().is_empty());
        let why = log.lines().find(says_why).or_else(last).unwrap_or_default();
        let mut text = format!("{status}: {why}");
        text.truncate(text.floor_char_boundary(160));
        Ok(Some(text))
    }

    /// Returns the log line of a panic, which the process may have survived.
    pub(crate) fn panic(&self) -> Option<String> {
        let log = fs::read(self.folder.path().join("log")).ok()?;
        let log = String::from_utf8_lossy(&log);
        let line = log.lines().find(|line| line.contains("panicked at"))?;
        Some(line.trim().to_owned())
    }

    pub(crate) fn memory(&self) -> Result<Memory> {
        memory(self.child.id())
    }

    pub(crate) fn forget_peaks(&self) {
        self.peaks.resident.store(0, Ordering::Relaxed);
        self.peaks.space.store(0, Ordering::Relaxed);
        // The kernel's own mark covers peaks between two samples.
        let _ = fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5");
    }

    pub(crate) fn peaks(&self) -> Memory {
        let marked = field(self.child.id(), "VmHWM:").unwrap_or_default();
        Memory {
            resident: self.peaks.resident.load(Ordering::Relaxed).max(marked),
            space: self.peaks.space.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.peaks.is_over.store(true, Ordering::Relaxed);
        if let Some(watch) = self.watch.take() {
            let _ = watch.join();
        }
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn watch(pid: u32, peaks: Arc<Peaks>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        while !peaks.is_over.load(Ordering::Relaxed) {
            if let Ok(now) = memory(pid) {
                peaks.resident.fetch_max(now.resident, Ordering::Relaxed);
                peaks.space.fetch_max(now.space, Ordering::Relaxed);
            }
            std::thread::sleep(SAMPLE_EVERY);
        }
    })
}

fn memory(pid: u32) -> Result<Memory> {
    Ok(Memory {
        resident: field(pid, "VmRSS:")?,
        space: field(pid, "VmSize:")?,
    })
}

fn field(pid: u32, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|line| line.split_whitespace().next());
    let kilobytes: u64 = value.context("the process has ended")?.parse()?;
    Ok(kilobytes << 10)
}

/// Returns the binary to attack: `MESHAGENT_BIN`, or else the one beside this program.
pub(crate) fn binary() -> Result<PathBuf> {
    let path = match std::env::var_os("MESHAGENT_BIN") {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe()?.with_file_name("meshagent"),
    };
    ensure!(
        path.is_file(),
        "no server binary at {}: build it with `cargo xtask abuse`, or set MESHAGENT_BIN",
        path.display()
    );
    Ok(path)
}
