//! A set of clocks, kept as ranges that do not touch.

use std::collections::BTreeMap;

#[derive(Clone, Debug, Default)]
pub(super) struct Ranges {
    // Invariant: start → end, not empty, in order, with gaps between them.
    ranges: BTreeMap<u32, u32>,
}

impl Ranges {
    pub(super) fn insert(&mut self, mut start: u32, mut end: u32) {
        if start >= end {
            return;
        }
        // The one range that begins before and reaches here, and all that begin within.
        if let Some((&before, &reach)) = self.ranges.range(..=start).next_back()
            && reach >= start
        {
            start = before;
            end = end.max(reach);
        }
        while let Some((&next, &reach)) = self.ranges.range(start..=end).next() {
            self.ranges.remove(&next);
            end = end.max(reach);
        }
        self.ranges.insert(start, end);
    }

    /// Takes all parts below a clock out of the set.
    pub(super) fn take_below(&mut self, clock: u32) -> Vec<(u32, u32)> {
        let mut taken = Vec::new();
        while let Some((&start, &end)) = self.ranges.first_key_value()
            && start < clock
        {
            self.ranges.remove(&start);
            taken.push((start, end.min(clock)));
            if end > clock {
                self.ranges.insert(clock, end);
            }
        }
        taken
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, u32)> {
        self.ranges.iter().map(|(&start, &end)| (start, end))
    }

    pub(super) fn len(&self) -> usize {
        self.ranges.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Ranges;
    use crate::test;

    #[test]
    fn is_a_set_of_numbers() {
        let mut seed = 1_u64;
        let mut random = move |limit: u32| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            u32::try_from(seed >> 33).unwrap() % limit
        };
        for _ in 0..200 {
            let mut ranges = Ranges::default();
            let mut model = [false; 40];
            for _ in 0..12 {
                let start = random(40);
                let end = (start + random(8)).min(40);
                ranges.insert(start, end);
                model[start as usize..end as usize].fill(true);
            }
            for (clock, &is) in (0..).zip(&model) {
                let found = ranges
                    .iter()
                    .any(|(start, end)| (start..end).contains(&clock));
                assert_eq!(found, is);
            }
            let all = ranges.iter().map(|(start, end)| end - start).sum::<u32>();
            assert_eq!(all as usize, model.iter().filter(|&&is| is).count());
            let taken = ranges
                .take_below(17)
                .into_iter()
                .map(|(a, b)| b - a)
                .sum::<u32>();
            assert_eq!(taken as usize, model[..17].iter().filter(|&&is| is).count());
            assert!(ranges.iter().all(|(start, _)| start >= 17));
        }
    }
}
