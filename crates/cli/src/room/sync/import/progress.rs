//! The line on a terminal that shows how far an import is.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// How often the line is drawn again.
const INTERVAL: Duration = Duration::from_millis(200);
/// How many characters the bar has.
const WIDTH: usize = 24;

/// Draws on stderr, and nothing if that is no terminal.
#[derive(Debug)]
pub(super) struct Progress {
    is_shown: bool,
    /// How long the export is, if that is known.
    total: Option<u64>,
    drawn: Option<Instant>,
}

impl Progress {
    pub(super) fn new(total: Option<u64>, is_quiet: bool) -> Self {
        Self {
            is_shown: !is_quiet && io::stderr().is_terminal(),
            total: total.filter(|total| *total > 0),
            drawn: None,
        }
    }

    /// Draws, unless that was done just now.
    pub(super) fn show(&mut self, position: u64, threads: u64) {
        let is_due = self.drawn.is_none_or(|at| at.elapsed() >= INTERVAL);
        if !self.is_shown || !is_due {
            return;
        }
        self.drawn = Some(Instant::now());
        let line = line(position, self.total, threads);
        // The cursor goes back to the left, and what was longer before is erased.
        write(&format!("\r{line}\x1b[K"));
    }

    /// Says something on a line of its own.
    pub(super) fn note(&mut self, text: &str) {
        self.clear();
        write(&format!("{text}\n"));
    }

    /// Takes the line away.
    pub(super) fn clear(&mut self) {
        if self.drawn.take().is_some() {
            write("\r\x1b[K");
        }
    }
}

fn line(position: u64, total: Option<u64>, threads: u64) -> String {
    let megabytes = |bytes: u64| format!("{}.{}", bytes / 1_000_000, bytes / 100_000 % 10);
    let Some(total) = total else {
        return format!("{} MB read, {threads} threads", megabytes(position));
    };
    let percent = position.min(total).saturating_mul(100) / total;
    let filled = usize::try_from(percent).unwrap_or(100) * WIDTH / 100;
    format!(
        "[{}{}] {percent:3} %  {} of {} MB, {threads} threads",
        "=".repeat(filled),
        " ".repeat(WIDTH - filled),
        megabytes(position),
        megabytes(total),
    )
}

fn write(text: &str) {
    let mut stderr = io::stderr().lock();
    // With stderr closed there is nobody to tell.
    let _ = stderr.write_all(text.as_bytes());
    let _ = stderr.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_has_one_width_and_stays_below_100_percent() {
        assert_eq!(
            line(25_240_000, Some(60_000_000), 420),
            "[==========              ]  42 %  25.2 of 60.0 MB, 420 threads"
        );
        assert_eq!(
            line(70, Some(60), 0),
            "[========================] 100 %  0.0 of 0.0 MB, 0 threads"
        );
        assert_eq!(line(1_200_000, None, 1), "1.2 MB read, 1 threads");
    }
}
