//! The time that the host takes from our cores, as a correction of latencies.
//!
//! On a virtual machine a core stands still while the host gives it to others, on a busy host for
//! up to a second. The kernel counts that time as steal; it is not the server's.

use std::fs;
use std::time::{Duration, Instant};

/// The age from which on a sample is too old.
const FRESH: Duration = Duration::from_millis(5);
/// The core of the generator, which takes the samples, and that of the server.
const CORES: usize = 2;
/// The resolution of the kernel's counters.
const TICK: Duration = Duration::from_millis(10);

/// The time that each core has lost, sampled over time.
#[derive(Debug, Default)]
pub struct Host {
    last: Option<Sample>,
    losses: [Vec<Loss>; CORES],
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    /// The moment before the counters were read.
    before: Instant,
    /// The moment after the counters were read.
    after: Instant,
    stolen: [Duration; CORES],
}

/// Time that a core lost somewhere within a span that is at least as long.
#[derive(Clone, Copy, Debug)]
struct Loss {
    from: Instant,
    to: Instant,
    amount: Duration,
}

impl Host {
    /// Takes a sample, if the last one is too old.
    pub fn look(&mut self, now: Instant) {
        let is_fresh = |last: Sample| now.saturating_duration_since(last.before) < FRESH;
        if !self.last.is_some_and(is_fresh) {
            let before = Instant::now();
            // Without the kernel's counters there is no correction.
            let stolen = stolen().unwrap_or_default();
            self.record(Sample {
                before,
                after: Instant::now(),
                stolen,
            });
        }
    }

    /// Discards the losses so far.
    pub fn forget(&mut self) {
        for losses in &mut self.losses {
            losses.clear();
        }
    }

    /// Returns a lower bound of the time that a core lost between two moments.
    ///
    /// The second moment must be the present. The bound is that of the core with the larger loss:
    /// both cores may have stood still at the same time.
    pub fn stolen_between(&mut self, from: Instant, to: Instant) -> Duration {
        self.look(to);
        self.lost_between(from, to)
    }

    fn lost_between(&self, from: Instant, to: Instant) -> Duration {
        let lost = |losses: &Vec<Loss>| {
            let recent = losses.iter().rev().take_while(|loss| loss.to > from);
            let sum: Duration = recent.map(|loss| loss.at_least_within(from, to)).sum();
            // The counters are rounded down, so their difference may be one tick too large.
            sum.saturating_sub(TICK)
        };
        let most = self.losses.iter().map(lost).max().unwrap_or_default();
        most.min(to.saturating_duration_since(from))
    }

    fn record(&mut self, sample: Sample) {
        if let Some(last) = self.last {
            for (core, losses) in self.losses.iter_mut().enumerate() {
                let amount = sample.stolen[core].saturating_sub(last.stolen[core]);
                if amount.is_zero() {
                    continue;
                }
                // The kernel counts a loss when it is over. The generator's core took both samples
                // and lost the time in between. A loss of the other core may have begun earlier.
                let earlier = if core == 0 { Duration::ZERO } else { amount };
                losses.push(Loss {
                    from: last.before.checked_sub(earlier).unwrap_or(last.before),
                    to: sample.after,
                    amount,
                });
            }
        }
        self.last = Some(sample);
    }
}

impl Loss {
    /// The loss that must be between two moments: all that does not fit outside of them.
    fn at_least_within(&self, from: Instant, to: Instant) -> Duration {
        let before = from.saturating_duration_since(self.from);
        let after = self.to.saturating_duration_since(to);
        self.amount.saturating_sub(before + after)
    }
}

/// Reads `/proc/stat`, which counts in hundredths of a second.
fn stolen() -> Option<[Duration; CORES]> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let mut found = [Duration::ZERO; CORES];
    for (core, found) in found.iter_mut().enumerate() {
        let name = format!("cpu{core} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name))?;
        let ticks: u32 = line.split_whitespace().nth(7)?.parse().ok()?;
        *found = TICK * ticks;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GENERATOR: usize = 0;
    const SERVER: usize = 1;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn sample(at: Instant, stolen: [Duration; CORES]) -> Sample {
        Sample {
            before: at,
            after: at,
            stolen,
        }
    }

    /// A host with samples of one core: moment and counter, both in milliseconds.
    fn sampled(core: usize, began: Instant, samples: &[(u64, u64)]) -> Host {
        let mut host = Host::default();
        for (at, counter) in samples {
            let mut stolen = [Duration::ZERO; CORES];
            stolen[core] = millis(*counter);
            host.record(sample(began + millis(*at), stolen));
        }
        host
    }

    fn lost(host: &Host, began: Instant, from: u64, to: u64) -> u128 {
        let lost = host.lost_between(began + millis(from), began + millis(to));
        lost.as_millis()
    }

    #[test]
    fn a_loss_before_an_update_is_not_subtracted_from_it() {
        let began = Instant::now();
        let samples = [(0, 0), (100, 80), (105, 80), (150, 80)];
        for core in [GENERATOR, SERVER] {
            let host = sampled(core, began, &samples);
            assert_eq!(lost(&host, began, 100, 150), 0);
            // All of the loss may have been in the first 90 ms.
            assert_eq!(lost(&host, began, 90, 150), 0);
        }
    }

    #[test]
    fn an_update_due_while_the_generator_stands_still_has_the_rest_of_the_loss() {
        let began = Instant::now();
        let host = sampled(GENERATOR, began, &[(0, 0), (500, 500), (510, 500)]);
        assert_eq!(lost(&host, began, 0, 510), 490);
        assert_eq!(lost(&host, began, 300, 510), 190);
        assert_eq!(lost(&host, began, 495, 510), 0);
    }

    #[test]
    fn a_loss_of_the_server_counts_from_its_beginning() {
        let began = Instant::now();
        let mut samples: Vec<(u64, u64)> = (0..100).map(|look| (look * 5, 0)).collect();
        samples.push((500, 400));
        let host = sampled(SERVER, began, &samples);
        assert_eq!(lost(&host, began, 50, 500), 390);
        assert_eq!(lost(&host, began, 300, 500), 185);
        assert_eq!(lost(&host, began, 495, 500), 0);
    }

    #[test]
    fn losses_of_both_cores_at_the_same_time_count_once() {
        let began = Instant::now();
        let mut host = Host::default();
        host.record(sample(began, [Duration::ZERO; CORES]));
        host.record(sample(began + millis(100), [millis(60), millis(80)]));
        assert_eq!(lost(&host, began, 0, 100), 50);
        host.forget();
        assert_eq!(lost(&host, began, 0, 100), 0);
    }

    #[test]
    fn an_update_never_gets_more_than_the_cores_lost_while_it_was_in_flight() {
        for seed in 1..=40 {
            check_random_losses(seed);
        }
    }

    /// Simulates cores that stand still at random times, and compares the correction of every
    /// possible update with the true loss.
    fn check_random_losses(seed: u64) {
        const LENGTH: usize = 400;
        let mut state = seed;
        let mut random = move |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        // Whether a core stands still, by milliseconds. At the beginning and at the end it runs.
        let mut is_still = [[false; LENGTH]; CORES];
        for still in &mut is_still {
            let mut at = 1;
            loop {
                at += usize::try_from(random(60)).unwrap();
                let end = at + usize::try_from(random(120)).unwrap();
                if end + 1 >= LENGTH {
                    break;
                }
                still[at..end].fill(true);
                at = end + 1;
            }
        }
        let began = Instant::now();
        let mut host = Host::default();
        let mut counters = [0; CORES];
        let mut losing = [0; CORES];
        for now in 0..LENGTH {
            for core in 0..CORES {
                if is_still[core][now] {
                    losing[core] += 1;
                } else {
                    counters[core] += std::mem::take(&mut losing[core]);
                }
            }
            let at = began + millis(now as u64);
            let is_fresh = host.last.is_some_and(|last| at - last.before < FRESH);
            if is_still[GENERATOR][now] || is_fresh {
                continue;
            }
            host.record(sample(
                at,
                counters.map(|counter| millis(counter / 10 * 10)),
            ));
            for from in 0..now {
                let lost = lost(&host, began, from as u64, now as u64);
                let truly = is_still.map(|still| {
                    let lost = still[from..now].iter().filter(|is_still| **is_still);
                    lost.count()
                });
                let most = u128::try_from(truly.into_iter().max().unwrap()).unwrap();
                assert!(
                    lost <= most,
                    "seed {seed}, from {from} to {now} ms: {lost} ms subtracted, {most} ms lost"
                );
            }
        }
    }
}
