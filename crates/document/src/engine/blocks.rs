//! Which item holds which operation of one client: clocks in order, found by bisection.
//!
//! A flat list would move all that follows whenever an item is split in the middle, so the list is cut
//! into leaves.

use super::{ItemIndex, NONE};

/// How many blocks a leaf holds at most; 4 KiB of them.
const LEAF: usize = 512;

/// Operations from `start` on, up to where the next block begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) start: u32,
    /// [`NONE`] if they were collected.
    pub(super) item: ItemIndex,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Blocks {
    // Invariant: no leaf is empty, starts rise, the first one is 0.
    leaves: Vec<Vec<Block>>,
    // Where each leaf starts.
    starts: Vec<u32>,
}

impl Blocks {
    /// Adds a block behind all others.
    pub(super) fn push(&mut self, block: Block) {
        match self.leaves.last_mut() {
            Some(leaf) if leaf.len() < LEAF => leaf.push(block),
            _ => {
                self.starts.push(block.start);
                self.leaves.push(vec![block]);
            }
        }
    }

    /// The block that holds a clock, which must be known.
    pub(super) fn find(&self, clock: u32) -> Block {
        let (leaf, at) = self.position(clock);
        self.leaves[leaf][at]
    }

    pub(super) fn last(&self) -> Option<Block> {
        self.leaves.last()?.last().copied()
    }

    /// The block before the one that holds a clock.
    pub(super) fn before(&self, clock: u32) -> Option<Block> {
        let (leaf, at) = self.position(clock);
        match at.checked_sub(1) {
            Some(at) => Some(self.leaves[leaf][at]),
            None => self.leaves[leaf.checked_sub(1)?].last().copied(),
        }
    }

    /// The block that holds a clock, and all behind it.
    pub(super) fn from(&self, clock: u32) -> impl Iterator<Item = Block> + Clone + '_ {
        let (leaf, at) = if self.leaves.is_empty() {
            (0, 0)
        } else {
            self.position(clock)
        };
        let leaves = self.leaves.get(leaf..).unwrap_or_default().iter();
        leaves.flatten().skip(at).copied()
    }

    /// How many blocks there are from the one on that holds a clock.
    pub(super) fn count_from(&self, clock: u32) -> usize {
        let (leaf, at) = self.position(clock);
        let behind = self.leaves[leaf..].iter();
        behind.map(Vec::len).sum::<usize>() - at
    }

    /// Puts another item in place of the one of a block.
    pub(super) fn set(&mut self, start: u32, item: ItemIndex) {
        let (leaf, at) = self.position(start);
        debug_assert_eq!(self.leaves[leaf][at].start, start);
        self.leaves[leaf][at].item = item;
    }

    /// Cuts the block that holds this clock; its second half gets this item.
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

    /// Gives the operations of a block to the one before it.
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

    /// Takes away all blocks from this clock on, at which one must begin.
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

    fn position(&self, clock: u32) -> (usize, usize) {
        let leaf = match self.starts.last() {
            Some(&last) if last <= clock => self.starts.len() - 1,
            _ => self.starts.partition_point(|&start| start <= clock) - 1,
        };
        let blocks = &self.leaves[leaf];
        // Blocks are often of about the same length. A look at where it should be then saves a
        // bisection, whose every step may have to wait for memory.
        let start = self.starts[leaf];
        let end = match self.starts.get(leaf + 1) {
            Some(&next) => next,
            None => blocks.last().map_or(start, |last| last.start) + 1,
        };
        let share =
            |part: u32, whole: u32| u64::from(part) * blocks.len() as u64 / u64::from(whole);
        let guess = usize::try_from(share(clock.min(end - 1) - start, end - start)).unwrap_or(0);
        let is_it = blocks[guess].start <= clock
            && blocks.get(guess + 1).is_none_or(|next| next.start > clock);
        if is_it {
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
    fn is_a_list_that_is_cut_and_joined() {
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
            assert_eq!(blocks.before(wanted), at.checked_sub(1).map(|at| model[at]));
            assert_eq!(blocks.count_from(wanted), model.len() - at);
        }
        let middle = model[model.len() / 2].start;
        blocks.truncate(middle);
        assert!(blocks.from(0).eq(model[..model.len() / 2].iter().copied()));
    }
}
