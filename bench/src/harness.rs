//! The comparison of two durations on a noisy machine: in turns, and by medians.

use std::time::{Duration, Instant};

/// The effort of a measurement.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// The number of rounds, with two turns for each side.
    pub rounds: usize,
    /// The time after which no further round begins.
    pub budget: Duration,
    /// The number of operations in one turn, where an operation is short.
    pub operations: usize,
}

impl Effort {
    /// The effort for published figures: minutes.
    pub const LONG: Self = Self {
        rounds: 25,
        budget: Duration::from_secs(12),
        operations: 200,
    };

    /// The effort for a quick check: well below a minute for all figures.
    pub const SHORT: Self = Self {
        rounds: 15,
        budget: Duration::from_millis(1_500),
        operations: 50,
    };

    /// The effort of a test that everything still runs.
    pub const TEST: Self = Self {
        rounds: 1,
        budget: Duration::ZERO,
        operations: 2,
    };
}

/// Two durations and their ratio.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    /// The median of the measured side.
    pub measured: Duration,
    /// The median of the reference side.
    pub against: Duration,
    /// The median of the rounds' ratios.
    ///
    /// All turns of a round meet about the same noise, so this is steadier than the ratio of the
    /// medians.
    pub ratio: f64,
}

/// Lets both sides take turns, `a b b a`, `a b b a`, …; a turn returns its duration.
///
/// A turn measures itself, so its setup and teardown do not count. In a round, each side is once
/// the first and once the last of two neighbouring turns. The order matters because the previous
/// turn leaves its traces in the caches and the allocator.
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

/// Returns the average duration of an operation over a turn; an operation returns its duration.
///
/// A turn ends early if its operations are long.
pub fn per_operation(effort: Effort, mut operation: impl FnMut(usize) -> Duration) -> Duration {
    const LONG_ENOUGH: Duration = Duration::from_millis(100);
    let (mut total, mut done) = (Duration::ZERO, 0);
    while done < effort.operations && total < LONG_ENOUGH {
        total += operation(done);
        done += 1;
    }
    total / u32::try_from(done).unwrap_or(u32::MAX).max(1)
}

/// Measures `work`, without the time to drop its result.
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
    fn an_outlier_does_not_change_the_result() {
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
    fn the_order_of_turns_does_not_change_the_ratio() {
        let turns = std::cell::Cell::new(0);
        let turn = || {
            turns.set(turns.get() + 1);
            Duration::from_millis(if turns.get() % 2 == 1 { 30 } else { 20 })
        };
        let found = compare(Effort::SHORT, turn, turn);
        assert!((found.ratio - 1.0).abs() < 1e-9);
    }
}
