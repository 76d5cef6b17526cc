//! A set of clocks as disjoint ranges.

use std::collections::BTreeMap;

#[derive(Clone, Debug, Default)]
pub(super) struct Ranges {
    // Invariant: start → end; not empty, sorted, with gaps between ranges.
    ranges: BTreeMap<u32, u32>,
}

impl Ranges {
    pub(super) fn insert(&mut self, mut start: u32, mut end: u32) {
        if start >= end {
            return;
        }
        // Ranges that begin before the new one and reach it, or begin within it, are joined
        // with it.
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

    /// The first clock in the set; 0 if it is empty.
    pub(super) fn first(&self) -> u32 {
        self.ranges.keys().next().copied().unwrap_or_default()
    }

    /// The clock after the last one in the set; 0 if it is empty.
    pub(super) fn end(&self) -> u32 {
        self.ranges
            .values()
            .next_back()
            .copied()
            .unwrap_or_default()
    }

    /// The last clock of a range that is not in the set.
    pub(super) fn last_free(&self, start: u32, end: u32) -> Option<u32> {
        let last = end.checked_sub(1).filter(|last| *last >= start)?;
        match self.ranges.range(..end).next_back() {
            Some((&from, &to)) if to >= end => from.checked_sub(1).filter(|at| *at >= start),
            _ => Some(last),
        }
    }

    /// The first clock of a range that is not in the set.
    pub(super) fn first_free(&self, start: u32, end: u32) -> Option<u32> {
        let first = match self.ranges.range(..=start).next_back() {
            Some((_, &to)) if to > start => to,
            _ => start,
        };
        (first < end).then_some(first)
    }

    /// Visits the parts of a range that are not in the set.
    pub(super) fn free(&self, mut start: u32, end: u32, mut visit: impl FnMut(u32, u32)) {
        while let Some(from) = self.first_free(start, end) {
            let next = self.ranges.range(from..end).next();
            let to = next.map_or(end, |(&next, _)| next);
            visit(from, to);
            start = to;
        }
    }

    /// The number of a range's clocks in the set.
    pub(super) fn count(&self, start: u32, end: u32) -> u32 {
        let before = self.ranges.range(..start).next_back();
        let within = self.ranges.range(start..end.max(start));
        let parts = before.into_iter().chain(within);
        let parts = parts.map(|(&from, &to)| to.min(end).saturating_sub(from.max(start)));
        parts.sum()
    }
}

/// A set of clocks per client, in one map: many clients with one range each take no more memory
/// than one client with many ranges.
#[derive(Clone, Debug, Default)]
pub(super) struct ClientRanges {
    // Invariant: as in `Ranges`, per client.
    ranges: BTreeMap<(u64, u32), u32>,
}

impl ClientRanges {
    pub(super) fn insert(&mut self, client: u64, mut start: u32, mut end: u32) {
        if start >= end {
            return;
        }
        let before = self.ranges.range((client, 0)..=(client, start)).next_back();
        if let Some((&(_, before), &reach)) = before
            && reach >= start
        {
            start = before;
            end = end.max(reach);
        }
        while let Some((&next, &reach)) = self.ranges.range((client, start)..=(client, end)).next()
        {
            self.ranges.remove(&next);
            end = end.max(reach);
        }
        self.ranges.insert((client, start), end);
    }

    /// The first range of a client.
    pub(super) fn first(&self, client: u64) -> Option<(u32, u32)> {
        let mut ranges = self.ranges.range((client, 0)..=(client, u32::MAX));
        ranges.next().map(|(&(_, start), &end)| (start, end))
    }

    /// Removes and returns all parts of a client's ranges below a clock.
    pub(super) fn take_below(&mut self, client: u64, clock: u32) -> Vec<(u32, u32)> {
        let mut taken = Vec::new();
        while let Some((start, end)) = self.first(client)
            && start < clock
        {
            self.ranges.remove(&(client, start));
            taken.push((start, end.min(clock)));
            if end > clock {
                self.ranges.insert((client, clock), end);
            }
        }
        taken
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u32, u32)> {
        let ranges = self.ranges.iter();
        ranges.map(|(&(client, start), &end)| (client, start, end))
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
    use super::{ClientRanges, Ranges};
    use crate::test;

    #[test]
    fn ranges_agree_with_a_set() {
        let mut seed = 1_u64;
        let mut random = move |limit: u32| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            u32::try_from(seed >> 33).unwrap() % limit
        };
        for _ in 0..200 {
            let mut ranges = Ranges::default();
            let mut of_clients = ClientRanges::default();
            for other in [4, 6] {
                of_clients.insert(other, 0, 40);
            }
            let mut model = [false; 40];
            for _ in 0..12 {
                let start = random(40);
                let end = (start + random(8)).min(40);
                ranges.insert(start, end);
                of_clients.insert(5, start, end);
                model[start as usize..end as usize].fill(true);
            }
            let (start, end) = (random(40), random(41));
            let count = (start..end).filter(|&clock| model[clock as usize]).count();
            assert_eq!(ranges.count(start, end) as usize, count);
            for (clock, &is) in (0..).zip(&model) {
                let found = of_clients
                    .iter()
                    .any(|(client, start, end)| client == 5 && (start..end).contains(&clock));
                assert_eq!(found, is);
                assert_eq!(ranges.count(clock, clock + 1) == 1, is);
            }
            let taken = of_clients
                .take_below(5, 17)
                .into_iter()
                .map(|(a, b)| b - a)
                .sum::<u32>();
            assert_eq!(taken as usize, model[..17].iter().filter(|&&is| is).count());
            assert!(of_clients.first(5).is_none_or(|(start, _)| start >= 17));
            assert_eq!(
                [4, 6].map(|other| of_clients.first(other)),
                [Some((0, 40)); 2]
            );
        }
    }
}
