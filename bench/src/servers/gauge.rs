//! What a server takes: processor time and memory of its process, and of the processes that it started.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// A process that is watched from outside, by `/proc`.
#[derive(Clone, Copy, Debug)]
pub struct Gauge {
    pid: u32,
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// What is resident now.
    pub resident: u64,
    /// The most that ever was, since [`Gauge::forget_peak`].
    pub peak: u64,
}

impl Gauge {
    /// A gauge of this process.
    pub fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// A gauge of the process that asks.
    pub fn own() -> Self {
        Self::new(std::process::id())
    }

    /// Processor time so far, of all its threads, in seconds.
    ///
    /// # Errors
    /// When it has ended.
    #[expect(clippy::cast_precision_loss, reason = "a time of some hours at most")]
    pub fn cpu_seconds(self) -> Result<f64> {
        /// `USER_HZ`, which is the same on all platforms that Rust runs on.
        const TICKS_PER_SECOND: f64 = 100.0;
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        // The name stands in brackets and may contain anything.
        let (_, rest) = stat.rsplit_once(')').context("no such field")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |index: usize| -> Result<u64> {
            Ok(fields.get(index).context("no such field")?.parse()?)
        };
        // utime and stime, which proc(5) counts as 14 and 15, and the state as 3.
        Ok((ticks(11)? + ticks(12)?) as f64 / TICKS_PER_SECOND)
    }

    /// The cores that it may run on, as the kernel writes them: `1`, `0-3`.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cores(self) -> Result<String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        Ok(line.context("no such field")?.trim().to_owned())
    }

    /// Memory now, and its peak.
    ///
    /// # Errors
    /// When it has ended.
    pub fn memory(self) -> Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let value = line.and_then(|line| line.split_whitespace().next());
            let kilobytes: u64 = value.context("no such field")?.parse()?;
            Ok(kilobytes << 10)
        };
        Ok(Memory {
            resident: field("VmRSS:")?,
            peak: field("VmHWM:")?,
        })
    }

    /// Counts the peak anew from now on.
    ///
    /// # Errors
    /// When it has ended.
    pub fn forget_peak(self) -> Result<()> {
        fs::write(format!("/proc/{}/clear_refs", self.pid), "5")?;
        Ok(())
    }
}

/// Bytes of all files below a folder, as they are allocated on disk.
///
/// # Errors
/// When it can't be read.
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
