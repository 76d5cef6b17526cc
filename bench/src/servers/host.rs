//! What the host takes: on a virtual machine a core stands still while the host gives it to others, for up to a second
//! on a busy one. The kernel counts that as steal; it says nothing about a server.

use std::fs;
use std::time::{Duration, Instant};

/// How old a look may be.
const FRESH: Duration = Duration::from_millis(5);
/// The core of the generator, and that of the server.
const CORES: usize = 2;

/// How long each core has stood still, over time.
#[derive(Debug, Default)]
pub struct Host {
    looks: Vec<(Instant, [Duration; CORES])>,
}

impl Host {
    /// Takes a look, if the last one is old.
    pub fn look(&mut self, now: Instant) {
        let is_fresh = |(last, _): &(Instant, _)| now.saturating_duration_since(*last) < FRESH;
        if !self.looks.last().is_some_and(is_fresh) {
            // Where nothing is told, nothing is taken off.
            self.looks.push((now, stolen().unwrap_or_default()));
        }
    }

    /// Forgets all looks but the last.
    pub fn forget(&mut self) {
        self.looks.drain(..self.looks.len().saturating_sub(1));
    }

    /// For how long the core that stood still for longer did so between two moments, of which the second is now.
    pub fn stolen_between(&mut self, from: Instant, to: Instant) -> Duration {
        self.look(to);
        let (Some(then), Some((_, now))) = (self.at(from), self.looks.last()) else {
            return Duration::ZERO;
        };
        let each = std::array::from_fn::<_, CORES, _>(|core| now[core].saturating_sub(then[core]));
        each.into_iter()
            .max()
            .unwrap_or_default()
            .min(to.saturating_duration_since(from))
    }

    /// What had been taken at a moment; between two looks, in proportion.
    fn at(&self, moment: Instant) -> Option<[Duration; CORES]> {
        let behind = self.looks.partition_point(|(at, _)| *at <= moment);
        let (after, later) = match self.looks.get(behind) {
            Some((at, taken)) => (*at, *taken),
            None => return self.looks.last().map(|(_, taken)| *taken),
        };
        let Some((before, earlier)) = behind.checked_sub(1).and_then(|last| self.looks.get(last))
        else {
            return Some(later);
        };
        let part = (moment - *before).as_secs_f64() / (after - *before).as_secs_f64().max(1e-9);
        Some(std::array::from_fn(|core| {
            earlier[core]
                + later[core]
                    .saturating_sub(earlier[core])
                    .mul_f64(part.clamp(0.0, 1.0))
        }))
    }
}

/// Of `/proc/stat`, which counts in hundredths of a second.
fn stolen() -> Option<[Duration; CORES]> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let mut found = [Duration::ZERO; CORES];
    for (core, found) in found.iter_mut().enumerate() {
        let name = format!("cpu{core} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name))?;
        let ticks: u32 = line.split_whitespace().nth(7)?.parse().ok()?;
        *found = Duration::from_millis(10) * ticks;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_between_two_looks_is_taken_in_proportion() {
        let began = Instant::now();
        let after = |millis| began + Duration::from_millis(millis);
        let taken = |millis| [Duration::ZERO, Duration::from_millis(millis)];
        let looks = vec![
            (began, taken(0)),
            (after(100), taken(80)),
            (after(101), taken(80)),
        ];
        let mut host = Host { looks };
        for (from, stolen) in [(0, 80), (50, 40), (100, 0)] {
            let found = host.stolen_between(after(from), after(101));
            assert_eq!(found, Duration::from_millis(stolen), "from {from}");
        }
    }
}
