//! The report: a line and a table row for each attack.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::innocent::Delays;
use crate::run::{Comparison, Outcome};

const BEGIN: &str = "<!-- the table of `cargo xtask abuse --out` begins here -->";
const END: &str = "<!-- and ends here -->";

impl Outcome {
    /// Returns the outcome as a line, to show progress.
    pub(crate) fn line(&self) -> String {
        let mut line = format!(
            "{:26} {:5.1} s  peak {:4} MB ({:4} address space), {:4} MB after {:2} s",
            self.name,
            self.took.as_secs_f64(),
            self.peak.resident >> 20,
            self.peak.space >> 20,
            self.kept >> 20,
            self.kept_after.as_secs(),
        );
        for (name, beside) in [("elsewhere", self.elsewhere), ("same room", self.same_room)] {
            let _ = write!(
                line,
                "; {name} {} ({} edits; baseline: {})",
                delays(beside.during),
                beside.during.count,
                delays(beside.before)
            );
        }
        let _ = write!(line, "; result: {}", self.result);
        for missed in &self.missed {
            let _ = write!(line, "\n    MISSED: {missed}");
        }
        line
    }
}

pub(crate) fn table(outcomes: &[Outcome]) -> String {
    let mut table = String::from(
        "| attack | peak memory | edits in another room | edits in the same room | result |\n\
         |---|---|---|---|---|\n",
    );
    for one in outcomes {
        let verdict = if one.missed.is_empty() {
            one.result.clone()
        } else {
            format!("**{}**", one.missed.join("; "))
        };
        let _ = writeln!(
            table,
            "| `{}`: {} | {} MB | {} | {} | {} |",
            one.name,
            one.description,
            one.peak.resident >> 20,
            cell(one.elsewhere),
            cell(one.same_room),
            verdict.replace('|', "\\|"),
        );
    }
    table
}

/// Replaces the table in a file.
pub(crate) fn write(path: &Path, outcomes: &[Outcome]) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let (before, rest) = text
        .split_once(BEGIN)
        .with_context(|| format!("{} lacks the line {BEGIN:?}", path.display()))?;
    let (_, after) = rest
        .split_once(END)
        .with_context(|| format!("{} lacks the line {END:?}", path.display()))?;
    let table = table(outcomes);
    fs::write(path, format!("{before}{BEGIN}\n\n{table}\n{END}{after}"))?;
    Ok(())
}

fn cell(beside: Comparison) -> String {
    let Comparison { before, during } = beside;
    if during.count == 0 {
        return "–".to_owned();
    }
    format!("{} ({})", delays(during), millis(before.p99))
}

fn delays(delays: Delays) -> String {
    let Delays { p50, p99, max, .. } = delays;
    format!("{} / {} / {}", millis(p50), millis(p99), millis(max))
}

fn millis(delay: Duration) -> String {
    let millis = delay.as_secs_f64() * 1e3;
    if millis < 10.0 {
        format!("{millis:.1}")
    } else {
        format!("{millis:.0}")
    }
}
