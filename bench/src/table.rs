//! The printed tables, in Markdown, so that they fit into a document unchanged.

use std::fmt;
use std::time::Duration;

use meshagent_bench::harness::Comparison;

/// A table of figures that are compared in the same way.
pub(crate) struct Section {
    pub(crate) title: &'static str,
    /// The measured side and the reference side.
    pub(crate) columns: [&'static str; 2],
    pub(crate) rows: Vec<Row>,
}

pub(crate) struct Row {
    what: String,
    figures: [String; 2],
    ratio: f64,
    goal: Option<f64>,
}

impl Row {
    /// Creates a row of durations; without a goal it is only information.
    pub(crate) fn durations(what: String, found: Comparison, goal: Option<f64>) -> Self {
        Self {
            what,
            figures: [duration(found.measured), duration(found.against)],
            ratio: found.ratio,
            goal,
        }
    }

    /// Creates a row that compares a large workload with many small ones.
    pub(crate) fn growth(what: String, [many, large]: [Duration; 2], goal: f64) -> Self {
        Self {
            what,
            figures: [duration(large), duration(many)],
            ratio: large.as_secs_f64() / many.as_secs_f64().max(f64::MIN_POSITIVE),
            goal: Some(goal),
        }
    }

    /// Creates a row of bytes per element.
    #[expect(clippy::cast_precision_loss, reason = "the table shows two decimals")]
    pub(crate) fn bytes(what: String, bytes: [usize; 2], elements: usize, goal: f64) -> Self {
        let each = bytes.map(|bytes| bytes as f64 / elements.max(1) as f64);
        Self {
            what,
            figures: each.map(|each| format!("{each:.0} B")),
            ratio: each[0] / each[1],
            goal: Some(goal),
        }
    }

    fn is_missed(&self) -> bool {
        self.goal.is_some_and(|goal| self.ratio > goal)
    }
}

impl Section {
    pub(crate) fn missed(&self) -> usize {
        self.rows.iter().filter(|row| row.is_missed()).count()
    }
}

impl fmt::Display for Section {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [measured, against] = self.columns;
        writeln!(formatter, "### {}\n", self.title)?;
        let header = ["what", measured, against, "ratio", "goal", "met"];
        let rows = self.rows.iter().map(|row| {
            let goal = row.goal.map(|goal| format!("≤ {goal}"));
            let met = match row.goal {
                None => "",
                Some(_) if row.is_missed() => "no",
                Some(_) => "yes",
            };
            [
                row.what.clone(),
                row.figures[0].clone(),
                row.figures[1].clone(),
                format!("{:.2}", row.ratio),
                goal.unwrap_or_default(),
                met.to_owned(),
            ]
        });
        let lines: Vec<[String; 6]> = [header.map(ToOwned::to_owned)]
            .into_iter()
            .chain(rows)
            .collect();
        let widths: [usize; 6] = std::array::from_fn(|column| {
            let cells = lines.iter().map(|line| line[column].chars().count());
            cells.max().unwrap_or_default().max(3)
        });
        for (index, line) in lines.iter().enumerate() {
            for (column, cell) in line.iter().enumerate() {
                let width = widths[column];
                if column == 0 || column == 5 {
                    write!(formatter, "| {cell:<width$} ")?;
                } else {
                    write!(formatter, "| {cell:>width$} ")?;
                }
            }
            writeln!(formatter, "|")?;
            if index == 0 {
                for (column, width) in widths.into_iter().enumerate() {
                    let mark = if column == 0 || column == 5 { "-" } else { ":" };
                    write!(formatter, "|{}{mark}", "-".repeat(width + 1))?;
                }
                writeln!(formatter, "|")?;
            }
        }
        Ok(())
    }
}

/// Formats a duration with three digits and a unit.
fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let (number, unit) = match seconds {
        _ if seconds >= 1.0 => (seconds, "s"),
        _ if seconds >= 1e-3 => (seconds * 1e3, "ms"),
        _ if seconds >= 1e-6 => (seconds * 1e6, "µs"),
        _ => (seconds * 1e9, "ns"),
    };
    let decimals = match number {
        _ if number >= 100.0 => 0,
        _ if number >= 10.0 => 1,
        _ => 2,
    };
    format!("{number:.decimals$} {unit}")
}
