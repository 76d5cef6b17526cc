//! The blocks of one client: which item holds which operation, sorted by clock and found
//! by bisection.
//!
//! In a flat list, a split in the middle would move everything behind it, so the list is divided
//! into leaves.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{ItemIndex, NONE};

/// The maximal number of blocks in a leaf: 4 KiB.
const LEAF: usize = 512;

/// Operations from `start` up to the start of the next block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) start: u32,
    /// [`NONE`] if the operations were collected.
    pub(super) item: ItemIndex,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Blocks {
    // Invariant: no leaf is empty, starts ascend, the first one is 0.
    leaves: Vec<Vec<Block>>,
    // The start of each leaf.
    starts: Vec<u32>,
    last_found: LastFound,
}

/// The leaf in which a clock was found last. Clocks are mostly looked up in order, so the next one
/// is often in the same leaf or beside it.
#[derive(Debug, Default)]
struct LastFound(AtomicUsize);

impl Clone for LastFound {
    fn clone(&self) -> Self {
        Self(AtomicUsize::new(self.0.load(Ordering::Relaxed)))
    }
}

impl Blocks {
    /// Appends a block.
    pub(super) fn push(&mut self, block: Block) {
        match self.leaves.last_mut() {
            Some(leaf) if leaf.len() < LEAF => leaf.push(block),
            _ => {
                self.starts.push(block.start);
                self.leaves.push(vec![block]);
            }
        }
    }

    /// The block that contains a known clock.
    pub(super) fn find(&self, clock: u32) -> Block {
        let (leaf, at) = self.position(clock);
        self.leaves[leaf][at]
    }

    pub(super) fn last(&self) -> Option<Block> {
        self.leaves.last()?.last().copied()
    }

    /// The block that contains a clock, and the one before it.
    pub(super) fn find_both(&self, clock: u32) -> (Option<Block>, Block) {
        let (leaf, at) = self.position(clock);
        let block = self.leaves[leaf][at];
        let before = match at.checked_sub(1) {
            Some(at) => Some(self.leaves[leaf][at]),
            None => leaf
                .checked_sub(1)
                .and_then(|leaf| self.leaves[leaf].last().copied()),
        };
        (before, block)
    }

    /// The block that contains a clock, and all later ones.
    pub(super) fn from(&self, clock: u32) -> impl Iterator<Item = Block> + Clone + '_ {
        let (leaf, at) = if self.leaves.is_empty() {
            (0, 0)
        } else {
            self.position(clock)
        };
        let leaves = self.leaves.get(leaf..).unwrap_or_default().iter();
        leaves.flatten().skip(at).copied()
    }

    /// The number of blocks from the one that contains a clock.
    pub(super) fn count_from(&self, clock: u32) -> usize {
        let (leaf, at) = self.position(clock);
        let behind = self.leaves[leaf..].iter();
        behind.map(Vec::len).sum::<usize>() - at
    }

    /// Replaces the item of a block.
    pub(super) fn set(&mut self, start: u32, item: ItemIndex) {
        let (leaf, at) = self.position(start);
        debug_assert_eq!(self.leaves[leaf][at].start, start);
        self.leaves[leaf][at].item = item;
    }

    /// Splits the block at this clock; the second half gets this item.
    pub(super) fn split(&mut self, clock: u32, item: ItemIndex) {
        let (leaf, at) = self.position(clock);
        let blocks = &mut self.leaves[leaf];
        debug_assert!(blocks[at].start < clock);
        blocks.insert(at + 1, Block { start: clock, item });
        if blocks.len() > LEAF {
            let behind = blocks.split_off(LEAF / 2);
            self.starts.insert(leaf + 1, behind[0].start);
            self.leaves.insert(leaf + 1, behind);
        }
    }

    /// Merges a block into the one before it.
    pub(super) fn join(&mut self, start: u32) {
        let (leaf, at) = self.position(start);
        debug_assert!(start > 0 && self.leaves[leaf][at].start == start);
        self.leaves[leaf].remove(at);
        if let Some(first) = self.leaves[leaf].first() {
            self.starts[leaf] = first.start;
        } else {
            self.leaves.remove(leaf);
            self.starts.remove(leaf);
        }
    }

    /// Removes all blocks from this clock on, which must be the start of a block.
    pub(super) fn truncate(&mut self, clock: u32) {
        while let Some(leaf) = self.leaves.last_mut() {
            let keep = leaf.partition_point(|block| block.start < clock);
            leaf.truncate(keep);
            if keep > 0 {
                break;
            }
            self.leaves.pop();
            self.starts.pop();
        }
    }

    /// The leaf with the block that contains a clock.
    fn leaf(&self, clock: u32) -> usize {
        let is_behind = |leaf: usize| self.starts.get(leaf).is_none_or(|&start| start > clock);
        let is_leaf = |leaf: &usize| !is_behind(*leaf) && is_behind(leaf + 1);
        let last = self.last_found.0.load(Ordering::Relaxed);
        if is_leaf(&last) {
            return last;
        }
        let next = Some(last + 1).filter(is_leaf);
        let leaf = next.unwrap_or_else(|| self.starts.partition_point(|&start| start <= clock) - 1);
        self.last_found.0.store(leaf, Ordering::Relaxed);
        leaf
    }

    fn position(&self, clock: u32) -> (usize, usize) {
        let leaf = self.leaf(clock);
        let blocks = &self.leaves[leaf];
        // Blocks often have similar lengths. Interpolation then saves the bisection, whose every
        // step may be a cache miss.
        let start = self.starts[leaf];
        let end = match self.starts.get(leaf + 1) {
            Some(&next) => next,
            None => blocks.last().map_or(start, |last| last.start) + 1,
        };
        let share =
            |part: u32, whole: u32| u64::from(part) * blocks.len() as u64 / u64::from(whole);
        let guess = usize::try_from(share(clock.min(end - 1) - start, end - start)).unwrap_or(0);
        let is_exact = blocks[guess].start <= clock
            && blocks.get(guess + 1).is_none_or(|next| next.start > clock);
        if is_exact {
            return (leaf, guess);
        }
        (
            leaf,
            blocks.partition_point(|block| block.start <= clock) - 1,
        )
    }
}

impl Block {
    pub(super) fn is_collected(self) -> bool {
        self.item == NONE
    }
}

#[cfg(test)]
mod tests {
    use super::{Block, Blocks};
    use crate::test;

    #[test]
    fn blocks_agree_with_a_list() {
        let mut seed = 1_u64;
        let mut random = move |limit: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(seed >> 33).unwrap() % limit
        };
        let mut blocks = Blocks::default();
        let mut model: Vec<Block> = Vec::new();
        let mut clock = 0;
        for item in 0..20_000 {
            match random(4) {
                0 | 1 => {
                    let block = Block { start: clock, item };
                    clock += 1 + u32::try_from(random(9)).unwrap();
                    blocks.push(block);
                    model.push(block);
                }
                2 if !model.is_empty() => {
                    let at = random(model.len());
                    let end = model.get(at + 1).map_or(clock, |next| next.start);
                    let start = model[at].start;
                    if end - start > 1 {
                        let start =
                            start + 1 + u32::try_from(random(8)).unwrap() % (end - start - 1);
                        blocks.split(start, item);
                        model.insert(at + 1, Block { start, item });
                    }
                }
                _ if model.len() > 1 => {
                    let at = 1 + random(model.len() - 1);
                    blocks.join(model[at].start);
                    model.remove(at);
                }
                _ => {}
            }
        }
        assert_eq!(blocks.count_from(0), model.len());
        assert!(blocks.from(0).eq(model.iter().copied()));
        for wanted in 0..clock {
            let at = model.partition_point(|block| block.start <= wanted) - 1;
            assert_eq!(blocks.find(wanted), model[at]);
            let before = at.checked_sub(1).map(|at| model[at]);
            assert_eq!(blocks.find_both(wanted), (before, model[at]));
            assert_eq!(blocks.count_from(wanted), model.len() - at);
        }
        let middle = model[model.len() / 2].start;
        blocks.truncate(middle);
        assert!(blocks.from(0).eq(model[..model.len() / 2].iter().copied()));
    }
}
