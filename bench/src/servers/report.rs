//! The tables of a report: a row for each figure, a column for each server.

use std::fmt::Write as _;

use super::peers::Peer;

/// The unit of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A number without a unit.
    Count,
    /// A size, shown in kB, MB or GB.
    Bytes,
    /// A duration in milliseconds, shown in seconds from 1,000 on.
    Milliseconds,
    /// A rate per second.
    PerSecond,
    /// A duration in seconds.
    Seconds,
    /// A ratio, such as the share of a core.
    Ratio,
}

/// One figure of one scenario.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// The name of the row.
    pub name: &'static str,
    /// The unit of the values.
    pub unit: Unit,
    /// Whether a plot shows the figure.
    pub is_drawn: bool,
}

impl Figure {
    /// Creates a figure for the table only.
    pub const fn new(name: &'static str, unit: Unit) -> Self {
        Self {
            name,
            unit,
            is_drawn: false,
        }
    }

    /// Creates a figure that a plot shows as well.
    pub const fn drawn(name: &'static str, unit: Unit) -> Self {
        Self {
            name,
            unit,
            is_drawn: true,
        }
    }
}

/// The values of several runs for one figure and one server.
#[derive(Clone, Debug, Default)]
pub struct Values(Vec<f64>);

impl Values {
    /// Adds the value of another run.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    /// Returns the median.
    pub fn median(&self) -> Option<f64> {
        let middle = self.0.len() / 2;
        let upper = *self.0.get(middle)?;
        if self.0.len() % 2 == 1 {
            return Some(upper);
        }
        Some(f64::midpoint(*self.0.get(middle - 1)?, upper))
    }

    fn ends(&self) -> Option<[f64; 2]> {
        Some([*self.0.first()?, *self.0.last()?])
    }
}

/// The table of one scenario.
#[derive(Clone, Debug)]
pub struct Table {
    /// The scenario's name on the command line.
    pub name: &'static str,
    /// The heading of the table.
    pub title: String,
    rows: Vec<(Figure, Vec<(Peer, Values)>)>,
    notes: Vec<String>,
    excluded: Vec<Peer>,
}

impl Table {
    /// Creates an empty table.
    pub fn new(name: &'static str, title: String) -> Self {
        Self {
            name,
            title,
            rows: Vec::new(),
            notes: Vec::new(),
            excluded: Vec::new(),
        }
    }

    /// Adds the value of one run.
    pub fn add(&mut self, peer: Peer, figure: Figure, value: f64) {
        let known = self
            .rows
            .iter()
            .position(|(row, _)| row.name == figure.name);
        let row = known.unwrap_or_else(|| {
            self.rows.push((figure, Vec::new()));
            self.rows.len() - 1
        });
        let values = &mut self.rows[row].1;
        let known = values.iter().position(|(other, _)| *other == peer);
        let place = known.unwrap_or_else(|| {
            values.push((peer, Values::default()));
            values.len() - 1
        });
        values[place].1.push(value);
    }

    /// Adds a note below the table, unless it is there already.
    pub fn note(&mut self, text: String) {
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    /// Records that a server failed in a turn, and excludes it from further turns.
    pub fn exclude(&mut self, peer: Peer, reason: &str) {
        self.note(format!(
            "{}: failed in a turn ({reason}) and was not measured again.",
            peer.name()
        ));
        self.excluded.push(peer);
    }

    /// Whether a server is excluded from further turns.
    pub fn is_excluded(&self, peer: Peer) -> bool {
        self.excluded.contains(&peer)
    }

    /// Returns a figure's median for a server.
    pub fn median(&self, figure: &str, peer: Peer) -> Option<f64> {
        let (_, values) = self.rows.iter().find(|(row, _)| row.name == figure)?;
        values.iter().find(|(other, _)| *other == peer)?.1.median()
    }

    /// Returns the figures for plots, with each server's values: median, least, most.
    pub fn drawn(&self) -> impl Iterator<Item = (Figure, Vec<(Peer, [f64; 3])>)> + '_ {
        let rows = self.rows.iter().filter(|(figure, _)| figure.is_drawn);
        rows.map(|(figure, values)| {
            let values = values.iter().filter_map(|(peer, values)| {
                let [least, most] = values.ends()?;
                Some((*peer, [values.median()?, least, most]))
            });
            (*figure, values.collect())
        })
    }

    /// Returns the table in Markdown.
    pub fn markdown(&self, peers: &[Peer]) -> String {
        let mut text = format!("### {}\n\n| |", self.title);
        for peer in peers {
            let _infallible = write!(text, " {} |", peer.name());
        }
        text.push_str("\n|---|");
        text.push_str(&"---:|".repeat(peers.len()));
        text.push('\n');
        for (figure, values) in &self.rows {
            let _infallible = write!(text, "| {} |", figure.name);
            for peer in peers {
                let values = values.iter().find(|(other, _)| other == peer);
                let cell = values.map_or_else(none, |(_, values)| cell(figure.unit, values));
                let _infallible = write!(text, " {cell} |");
            }
            text.push('\n');
        }
        for note in &self.notes {
            let _infallible = write!(text, "\n{note}\n");
        }
        text
    }
}

fn none() -> String {
    "–".to_owned()
}

fn cell(unit: Unit, values: &Values) -> String {
    let (Some(median), Some([least, most])) = (values.median(), values.ends()) else {
        return none();
    };
    let [median, least, most] = [median, least, most].map(|value| write(unit, value));
    if least == most {
        median
    } else {
        format!("**{median}** ({least} – {most})")
    }
}

/// Formats a value with three digits and its unit.
pub fn write(unit: Unit, value: f64) -> String {
    let digits = |value: f64| match value {
        _ if value >= 99.95 => format!("{value:.0}"),
        _ if value >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    match unit {
        Unit::Count => format!("{value:.0}"),
        Unit::Bytes if value >= 1e9 => format!("{} GB", digits(value / 1e9)),
        Unit::Bytes if value >= 1e6 => format!("{} MB", digits(value / 1e6)),
        Unit::Bytes => format!("{} kB", digits(value / 1e3)),
        Unit::Milliseconds if value >= 1e3 => format!("{} s", digits(value / 1e3)),
        Unit::Milliseconds => format!("{} ms", digits(value)),
        Unit::PerSecond if value >= 1e6 => format!("{} M/s", digits(value / 1e6)),
        Unit::PerSecond if value >= 1e3 => format!("{} k/s", digits(value / 1e3)),
        Unit::PerSecond => format!("{}/s", digits(value)),
        Unit::Seconds => format!("{} s", digits(value)),
        Unit::Ratio => digits(value),
    }
}

/// A bound on a figure.
#[derive(Clone, Debug)]
pub struct Goal {
    what: String,
    found: f64,
    bound: f64,
    is_least: bool,
    unit: Unit,
}

impl Goal {
    /// Creates a goal with a lower bound.
    pub fn at_least(what: impl Into<String>, unit: Unit, found: f64, bound: f64) -> Self {
        Self {
            what: what.into(),
            found,
            bound,
            is_least: true,
            unit,
        }
    }

    /// Creates a goal with an upper bound.
    pub fn at_most(what: impl Into<String>, unit: Unit, found: f64, bound: f64) -> Self {
        Self {
            what: what.into(),
            found,
            bound,
            is_least: false,
            unit,
        }
    }

    /// Whether the value is within the bound.
    pub fn is_met(&self) -> bool {
        if self.is_least {
            self.found >= self.bound
        } else {
            self.found <= self.bound
        }
    }
}

/// Returns the goals as a table in Markdown.
pub fn goals(goals: &[Goal]) -> String {
    let mut text = "| goal | bound | found | met |\n|---|---:|---:|---|\n".to_owned();
    for goal in goals {
        let sign = if goal.is_least { '≥' } else { '≤' };
        let bound = write(goal.unit, goal.bound);
        let found = write(goal.unit, goal.found);
        let met = if goal.is_met() { "yes" } else { "**no**" };
        let what = &goal.what;
        let _infallible = writeln!(text, "| {what} | {sign} {bound} | {found} | {met} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_an_even_number_of_runs_is_between_the_middle_ones() {
        let mut values = Values::default();
        assert_eq!(values.median(), None);
        for (value, median) in [(3.0, 3.0), (1.0, 2.0), (2.0, 2.0), (4.0, 2.5)] {
            values.push(value);
            assert_eq!(values.median(), Some(median));
        }
    }

    #[test]
    fn numbers_have_three_digits() {
        let written = [0.004, 9.999, 99.99, 1234.0, 2_500_000.0];
        let written = written.map(|value| write(Unit::PerSecond, value));
        assert_eq!(
            written,
            ["0.00/s", "10.0/s", "100/s", "1.23 k/s", "2.50 M/s"]
        );
    }
}
