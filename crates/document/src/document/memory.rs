//! The memory of a document.

use std::collections::HashMap;

use super::MeshDocument;
use super::apply::is_blank;
use super::edit::MOST_OPERATIONS;
use super::pending::RANGE_BYTES;
use crate::engine::{ITEM_BYTES, NODE_BYTES, NONE, pieces_of};
use crate::update::scan::{Content, IdRange, Scan, Struct};

/// The bytes that the `$id` index takes per element.
pub(super) const ID_BYTES: usize = 40;

impl MeshDocument {
    /// The approximate memory of the document's structure, in bytes, without the contents. The
    /// contents take about as much as [`Self::encode_state`], unless operations are pending. The
    /// call is cheap for documents of any size.
    pub fn structure_bytes(&self) -> usize {
        self.engine.memory_bytes() + self.element_count() * ID_BYTES
    }

    /// The approximate memory of the operations in an update that are not known here, and of the
    /// pending ones that they release, in bytes; without [`Self::splits_by`].
    pub(super) fn growth_by(&self, scan: &Scan<'_>) -> usize {
        let is_new = |one: &&Struct<'_>| {
            one.id.clock.saturating_add(one.length) > self.engine.clock(one.id.client)
        };
        let bytes = |one: &Struct<'_>| {
            let node = match one.content {
                Content::Type(_) => NODE_BYTES + ID_BYTES,
                _ => 0,
            };
            one.bytes.len() + ITEM_BYTES + node
        };
        let own: usize = scan.structs.iter().filter(is_new).map(bytes).sum();
        own.saturating_add(self.released_by(scan))
    }

    /// The approximate memory, in bytes, that the update's deletions take: what they split, and the
    /// ranges of missing operations.
    pub(super) fn splits_by(&self, scan: &Scan<'_>) -> usize {
        let mut last = NONE;
        let known = |range: &IdRange| self.engine.splits(*range, &mut last);
        let runs: usize = scan.deletes.iter().map(known).sum();
        let is_beyond = |range: &&IdRange| range.end > self.engine.clock(range.client);
        let mut beyond = scan.deletes.iter().filter(is_beyond).peekable();
        if beyond.peek().is_none() {
            return runs * ITEM_BYTES;
        }
        let groups = scan.structs.chunk_by(|a, b| a.id.client == b.id.client);
        let groups: HashMap<u64, &[Struct<'_>]> =
            groups.map(|group| (group[0].id.client, group)).collect();
        // The long struct of the update that was counted last.
        let mut last = None;
        let (mut splits, mut missing) = (runs, 0);
        for range in beyond {
            let group = groups.get(&range.client).copied().unwrap_or_default();
            let known = self.engine.clock(range.client);
            for at in [range.start, range.end] {
                let index = group.partition_point(|one| one.end() <= at);
                let Some(one) = group.get(index).filter(|_| at > known) else {
                    continue;
                };
                if one.id.clock >= at || is_blank(one) {
                    continue;
                }
                splits += 1;
                if last != Some(one.id) {
                    last = Some(one.id);
                    splits += match one.content {
                        Content::Values | Content::Json => {
                            pieces_of(one.content_bytes.len(), one.length)
                        }
                        _ => pieces_of(one.content_bytes.len(), 0),
                    };
                }
            }
            missing += usize::from(group.last().is_none_or(|one| one.end() < range.end));
        }
        splits * ITEM_BYTES + missing * RANGE_BYTES
    }

    /// The approximate memory that pending operations and deletions take in addition when the
    /// operations of an update release them, in bytes.
    fn released_by(&self, scan: &Scan<'_>) -> usize {
        if !self.has_gap() {
            return 0;
        }
        let mut splits = 0;
        for group in scan.structs.chunk_by(|a, b| a.id.client == b.id.client) {
            let client = group[0].id.client;
            let end = group[group.len() - 1].end();
            if end <= self.engine.clock(client) {
                continue;
            }
            if self.pending.may_wake(client, end) {
                // Which ones is known only when they are applied.
                let (structs, deletes) = self.pending.counts();
                return structs * (NODE_BYTES + ID_BYTES) + deletes * 2 * ITEM_BYTES;
            }
            // A run of n operations has n - 1 places where it can be split.
            let places: usize = group.iter().map(|one| one.length as usize - 1).sum();
            splits += places.min(self.pending.deletes_below(client, end) * 2);
        }
        splits * ITEM_BYTES
    }

    /// Whether the client id has enough operations left for any edit. If not, each edit is tried on
    /// a copy first and may be refused; see [`Self::set_client_id`].
    pub fn has_operations_left(&self) -> bool {
        self.operations_left() >= MOST_OPERATIONS
    }
}
