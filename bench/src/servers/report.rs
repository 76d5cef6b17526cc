//! What was measured, as tables: a row for each figure, a column for each server.

use std::fmt::Write as _;

use super::peers::Peer;

/// How a figure is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A number of things.
    Count,
    /// Bytes.
    Bytes,
    /// Milliseconds.
    Milliseconds,
    /// Things per second.
    PerSecond,
    /// Seconds.
    Seconds,
    /// A share of one core, or any other ratio.
    Ratio,
}

/// One figure of one scenario.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// What it is.
    pub name: &'static str,
    /// How it is written.
    pub unit: Unit,
    /// Whether it is drawn.
    pub is_drawn: bool,
}

impl Figure {
    /// A figure that stands in the table only.
    pub const fn new(name: &'static str, unit: Unit) -> Self {
        Self {
            name,
            unit,
            is_drawn: false,
        }
    }

    /// One that is drawn as well.
    pub const fn drawn(name: &'static str, unit: Unit) -> Self {
        Self {
            name,
            unit,
            is_drawn: true,
        }
    }
}

/// What several runs found for one figure and one server.
#[derive(Clone, Debug, Default)]
pub struct Values(Vec<f64>);

impl Values {
    /// Another run's.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    /// The one in the middle.
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

/// All that one scenario found.
#[derive(Clone, Debug)]
pub struct Table {
    /// The scenario's name on the command line.
    pub name: &'static str,
    /// What it is about.
    pub title: String,
    rows: Vec<(Figure, Vec<(Peer, Values)>)>,
    notes: Vec<String>,
    given_up: Vec<Peer>,
}

impl Table {
    /// An empty table.
    pub fn new(name: &'static str, title: String) -> Self {
        Self {
            name,
            title,
            rows: Vec::new(),
            notes: Vec::new(),
            given_up: Vec::new(),
        }
    }

    /// Takes one run's value.
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

    /// Says something below the table, once.
    pub fn note(&mut self, text: String) {
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    /// A server has failed in a turn, and gets no more of them.
    pub fn give_up(&mut self, peer: Peer, why: &str) {
        self.note(format!(
            "{}: failed in a turn ({why}), and was not measured again.",
            peer.name()
        ));
        self.given_up.push(peer);
    }

    /// Whether it did.
    pub fn has_given_up(&self, peer: Peer) -> bool {
        self.given_up.contains(&peer)
    }

    /// A figure's median for a server.
    pub fn median(&self, figure: &str, peer: Peer) -> Option<f64> {
        let (_, values) = self.rows.iter().find(|(row, _)| row.name == figure)?;
        values.iter().find(|(other, _)| *other == peer)?.1.median()
    }

    /// The figures that are drawn, with each server's values: median, least, most.
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

    /// The table in Markdown.
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

/// A number with three digits and its unit.
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

/// Something that was to be reached.
#[derive(Clone, Debug)]
pub struct Goal {
    what: String,
    found: f64,
    bound: f64,
    is_least: bool,
    unit: Unit,
}

impl Goal {
    /// A figure that is to be so large at least.
    pub fn at_least(what: impl Into<String>, unit: Unit, found: f64, bound: f64) -> Self {
        Self {
            what: what.into(),
            found,
            bound,
            is_least: true,
            unit,
        }
    }

    /// A figure that is to be so large at most.
    pub fn at_most(what: impl Into<String>, unit: Unit, found: f64, bound: f64) -> Self {
        Self {
            what: what.into(),
            found,
            bound,
            is_least: false,
            unit,
        }
    }

    /// Whether it was reached.
    pub fn is_met(&self) -> bool {
        if self.is_least {
            self.found >= self.bound
        } else {
            self.found <= self.bound
        }
    }
}

/// The goals as a table.
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
    fn medians_of_odd_and_even_numbers_of_runs() {
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
