//! The progress line of an import on a terminal.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use crate::output::terminal;

/// Time between two updates of the line.
const INTERVAL: Duration = Duration::from_millis(200);
/// Number of characters in the bar.
const WIDTH: usize = 24;

/// Draws the line on stderr, if that is a terminal.
#[derive(Debug)]
pub(super) struct Progress {
    is_shown: bool,
    /// The length of the export in bytes, if known.
    total: Option<u64>,
    /// The time of the last update. At first the time of the start, so a short import shows
    /// no line.
    at: Instant,
    is_drawn: bool,
}

impl Progress {
    pub(super) fn new(total: Option<u64>, is_quiet: bool) -> Self {
        Self {
            is_shown: !is_quiet && io::stderr().is_terminal(),
            total: total.filter(|total| *total > 0),
            at: Instant::now(),
            is_drawn: false,
        }
    }

    /// Draws the line, unless the last update was too recent.
    pub(super) fn show(&mut self, position: u64, threads: u64) {
        if !self.is_shown || self.at.elapsed() < INTERVAL {
            return;
        }
        self.at = Instant::now();
        self.is_drawn = true;
        let line = line(position, self.total, threads);
        // Moves to the first column, and erases the rest of a longer line.
        write(&format!("\r{line}\x1b[K"));
    }

    /// Prints a message on a line of its own.
    pub(super) fn message(&mut self, text: &str) {
        self.clear();
        terminal::print_stderr(text);
    }

    /// Erases the line.
    pub(super) fn clear(&mut self) {
        if std::mem::replace(&mut self.is_drawn, false) {
            write("\r\x1b[K");
        }
    }
}

fn line(position: u64, total: Option<u64>, threads: u64) -> String {
    let threads = match threads {
        1 => "1 thread".to_owned(),
        threads => format!("{threads} threads"),
    };
    let (unit, name) = match total.unwrap_or(position) {
        0..1_000_000 => (1_000, "kB"),
        _ => (1_000_000, "MB"),
    };
    let amount = |bytes: u64| format!("{}.{}", bytes / unit, bytes % unit * 10 / unit);
    let Some(total) = total else {
        return format!("{} {name} read, {threads}", amount(position));
    };
    // The file may have grown meanwhile.
    let position = position.min(total);
    let percent = position.saturating_mul(100) / total;
    let filled = usize::try_from(percent).unwrap_or(100) * WIDTH / 100;
    format!(
        "[{}{}] {percent:3} %  {} of {} {name}, {threads}",
        "=".repeat(filled),
        " ".repeat(WIDTH - filled),
        amount(position),
        amount(total),
    )
}

fn write(text: &str) {
    let mut stderr = io::stderr().lock();
    // Errors are ignored: they could not be reported.
    let _ = stderr.write_all(text.as_bytes());
    let _ = stderr.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_has_a_fixed_width_and_a_suitable_unit() {
        assert_eq!(
            line(25_240_000, Some(60_000_000), 420),
            "[==========              ]  42 %  25.2 of 60.0 MB, 420 threads"
        );
        assert_eq!(
            line(70, Some(60), 0),
            "[========================] 100 %  0.0 of 0.0 kB, 0 threads"
        );
        assert_eq!(
            line(330, Some(1_960), 1),
            "[===                     ]  16 %  0.3 of 1.9 kB, 1 thread"
        );
        assert_eq!(line(1_200_000, None, 2), "1.2 MB read, 2 threads");
        assert_eq!(line(1_200, None, 1), "1.2 kB read, 1 thread");
    }
}
