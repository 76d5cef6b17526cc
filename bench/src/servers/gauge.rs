//! Processor time and memory of a server's process, and bytes on disk.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// A gauge of a process, read from `/proc`.
#[derive(Clone, Copy, Debug)]
pub struct Gauge {
    pid: u32,
}

/// The memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// The resident memory now.
    pub resident: u64,
    /// The largest resident memory since [`Gauge::forget_peak`].
    pub peak: u64,
}

impl Gauge {
    /// Creates a gauge of a process.
    pub fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// Creates a gauge of the calling process.
    pub fn own() -> Self {
        Self::new(std::process::id())
    }

    /// Returns the processor time of all threads so far, in seconds.
    ///
    /// # Errors
    /// When the process has ended.
    #[expect(clippy::cast_precision_loss, reason = "a time of some hours at most")]
    pub fn cpu_seconds(self) -> Result<f64> {
        /// `USER_HZ`, which is the same on all platforms that Rust runs on.
        const TICKS_PER_SECOND: f64 = 100.0;
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        // The process name is in brackets and may contain anything.
        let (_, rest) = stat
            .rsplit_once(')')
            .context("/proc/PID/stat has no name")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |index: usize| -> Result<u64> {
            let field = fields.get(index).context("/proc/PID/stat is too short")?;
            Ok(field.parse()?)
        };
        // utime and stime, which proc(5) counts as 14 and 15, and the state as 3.
        Ok((ticks(11)? + ticks(12)?) as f64 / TICKS_PER_SECOND)
    }

    /// Returns the cores that the process may run on, as the kernel writes them: `1`, `0-3`.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn cores(self) -> Result<String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let cores = line.context("/proc/PID/status has no Cpus_allowed_list")?;
        Ok(cores.trim().to_owned())
    }

    /// Returns the memory now, and its peak.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn memory(self) -> Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let value = line.and_then(|line| line.split_whitespace().next());
            let value = value.with_context(|| format!("/proc/PID/status has no {name}"))?;
            let kilobytes: u64 = value.parse()?;
            Ok(kilobytes << 10)
        };
        Ok(Memory {
            resident: field("VmRSS:")?,
            peak: field("VmHWM:")?,
        })
    }

    /// Resets the peak.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn forget_peak(self) -> Result<()> {
        fs::write(format!("/proc/{}/clear_refs", self.pid), "5")?;
        Ok(())
    }
}

/// Returns the bytes that all files below a folder take on disk.
///
/// # Errors
/// When the folder is not readable.
pub fn bytes_on_disk(folder: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() {
            bytes_on_disk(&entry.path())?
        } else {
            metadata.blocks() * 512
        };
    }
    Ok(bytes)
}
