//! Child processes that can't outlive their test.
//!
//! Each child leads a process group that is killed when its handle is dropped, and writes to log
//! files that the test can show.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// The time limit for one step of a test: a command, an answer, or a condition to become true.
pub const STEP_LIMIT: Duration = Duration::from_mins(5);

const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How many characters of a line a report shows; lines that contain documents can be long.
const SHOWN_CHARS: usize = 600;

/// A folder of log files, numbered in the order of their creation.
#[derive(Debug)]
pub struct Logs {
    folder: PathBuf,
    begun: AtomicUsize,
}

impl Logs {
    /// Creates the folder.
    ///
    /// # Errors
    /// When the folder can't be created.
    pub fn new(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        fs::create_dir_all(&folder)
            .with_context(|| format!("creating the log folder {}", folder.display()))?;
        Ok(Self {
            folder,
            begun: AtomicUsize::new(0),
        })
    }

    /// Returns the path for a new log file.
    pub fn begin(&self, name: &str) -> PathBuf {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let name: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        self.folder.join(format!("{number:03}-{name}.log"))
    }

    /// The last lines of each log, for the report of a failed test.
    pub fn tails(&self, lines: usize) -> String {
        let mut paths: Vec<PathBuf> = fs::read_dir(&self.folder)
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        paths.sort();
        let mut report = String::new();
        for path in paths {
            let text = fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            if text.trim().is_empty() {
                continue;
            }
            let all: Vec<&str> = text.lines().collect();
            let tail = all[all.len().saturating_sub(lines)..].iter();
            let tail: Vec<String> = tail
                .map(|line| line.chars().take(SHOWN_CHARS).collect())
                .collect();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            report.extend(["--- ", &name, "\n", &tail.join("\n"), "\n"]);
        }
        report
    }
}

/// The output and exit code of a process that has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a command that has to end within [`STEP_LIMIT`].
///
/// # Errors
/// When the command can't be started or takes too long. An exit code other than 0 is not an error.
pub fn run_to_end(mut command: Command, logs: &Logs, name: &str) -> Result<Finished> {
    let stdout = logs.begin(&format!("{name} stdout"));
    let stderr = logs.begin(&format!("{name} stderr"));
    command
        .stdin(Stdio::null())
        .stdout(File::create(&stdout)?)
        .stderr(File::create(&stderr)?);
    let mut process = Process::spawn(command)?;
    let Some(status) = process.wait(STEP_LIMIT)? else {
        bail!("{name} did not end within {} s", STEP_LIMIT.as_secs());
    };
    let read = |path: &Path| -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
    };
    Ok(Finished {
        code: status.code(),
        stdout: read(&stdout)?,
        stderr: read(&stderr)?,
    })
}

/// Polls until the probe returns a value, for at most [`STEP_LIMIT`].
///
/// # Errors
/// The probe's own error, or a timeout that names the expected event.
pub fn wait_until<T>(what: &str, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + STEP_LIMIT;
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if Instant::now() > deadline {
            bail!("timed out after {} s: {what}", STEP_LIMIT.as_secs());
        }
        sleep(POLL_INTERVAL);
    }
}

/// A running child and its process group.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) child: Child,
}

impl Process {
    pub(crate) fn spawn(mut command: Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        Ok(Self { child })
    }

    /// Waits for the process to end. Returns `None` if it still runs at the end of the limit.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            sleep(POLL_INTERVAL);
        }
    }

    /// Sends a signal to the process, but not to the rest of its group.
    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        send_signal(name, &self.child.id().to_string())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The group's id is only reserved while its leader exists. After the leader has ended, the
        // id may belong to another group.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = send_signal("KILL", &format!("-{}", self.child.id()));
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn send_signal(name: &str, target: &str) -> Result<()> {
    let status = Command::new("kill")
        .args(["-s", name, "--", target])
        .stderr(Stdio::null())
        .status()
        .context("starting kill")?;
    if !status.success() {
        bail!("kill could not send signal {name} to {target}: {status}");
    }
    Ok(())
}
