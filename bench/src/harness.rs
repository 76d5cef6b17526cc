//! Comparing two durations on a machine that is noisy: in turns, and by medians.

use std::time::{Duration, Instant};

/// How long to look.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// How many rounds there are, of two turns for each side.
    pub rounds: usize,
    /// When enough time has been spent, although there are rounds left.
    pub budget: Duration,
    /// How many operations one turn is made of, where an operation is short.
    pub operations: usize,
}

impl Effort {
    /// For figures to be written down: minutes.
    pub const LONG: Self = Self {
        rounds: 25,
        budget: Duration::from_secs(12),
        operations: 200,
    };

    /// For a look in passing: well below a minute for all.
    pub const SHORT: Self = Self {
        rounds: 15,
        budget: Duration::from_millis(1_500),
        operations: 50,
    };

    /// For a test that all of it still runs.
    pub const TEST: Self = Self {
        rounds: 1,
        budget: Duration::ZERO,
        operations: 2,
    };
}

/// Two durations, and how they compare.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    /// The median of what is measured.
    pub measured: Duration,
    /// The median of what it is measured against.
    pub against: Duration,
    /// The median of each round's ratio. All turns of a round meet about the same noise, so this is
    /// steadier than the ratio of the medians.
    pub ratio: f64,
}

/// Lets both sides have turns, `a b b a`, `a b b a`, …; each tells how long its turn took.
///
/// A turn measures itself, so that what it has to prepare and to drop does not count. In a round each
/// side has the first turn and the last one of two neighbours once, since it matters who comes first:
/// caches and the allocator are as the one before left them.
pub fn compare(
    effort: Effort,
    mut measured: impl FnMut() -> Duration,
    mut against: impl FnMut() -> Duration,
) -> Comparison {
    const FEWEST_ROUNDS: usize = 3;
    let begin = Instant::now();
    let (mut all_measured, mut all_against) = (Vec::new(), Vec::new());
    let mut ratios = Vec::with_capacity(effort.rounds);
    for round in 0..effort.rounds {
        if round >= FEWEST_ROUNDS && begin.elapsed() > effort.budget {
            break;
        }
        let a = measured();
        let b = [against(), against()];
        let a = [a, measured()];
        let sum = |turns: [Duration; 2]| (turns[0] + turns[1]).as_secs_f64();
        ratios.push(sum(a) / sum(b).max(f64::MIN_POSITIVE));
        all_measured.extend(a);
        all_against.extend(b);
    }
    Comparison {
        measured: median(all_measured, Duration::cmp),
        against: median(all_against, Duration::cmp),
        ratio: median(ratios, f64::total_cmp),
    }
}

/// How long an operation takes, on average over a turn; each tells how long it took. A turn ends early
/// if its operations are long.
pub fn per_operation(effort: Effort, mut operation: impl FnMut(usize) -> Duration) -> Duration {
    const LONG_ENOUGH: Duration = Duration::from_millis(100);
    let (mut total, mut done) = (Duration::ZERO, 0);
    while done < effort.operations && total < LONG_ENOUGH {
        total += operation(done);
        done += 1;
    }
    total / u32::try_from(done).unwrap_or(u32::MAX).max(1)
}

/// How long this takes, without what it takes to drop the result.
pub fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begin = Instant::now();
    let result = work();
    (begin.elapsed(), result)
}

fn median<T: Copy>(mut values: Vec<T>, order: impl Fn(&T, &T) -> std::cmp::Ordering) -> T {
    values.sort_by(order);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outlier_changes_nothing() {
        let mut turn = 0;
        let measured = || {
            turn += 1;
            Duration::from_millis(if turn == 2 { 900 } else { 20 })
        };
        let effort = Effort {
            rounds: 5,
            budget: Duration::from_mins(1),
            operations: 1,
        };
        let found = compare(effort, measured, || Duration::from_millis(10));
        assert_eq!(found.measured, Duration::from_millis(20));
        assert!((found.ratio - 2.0).abs() < 1e-9);
    }
    #[test]
    fn it_does_not_matter_who_comes_first() {
        let turns = std::cell::Cell::new(0);
        let turn = || {
            turns.set(turns.get() + 1);
            Duration::from_millis(if turns.get() % 2 == 1 { 30 } else { 20 })
        };
        let found = compare(Effort::SHORT, turn, turn);
        assert!((found.ratio - 1.0).abs() < 1e-9);
    }
}
