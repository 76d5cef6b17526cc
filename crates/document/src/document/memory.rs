//! The memory of a document.

use std::collections::HashMap;

use super::MeshDocument;
use super::apply::is_blank;
use super::edit::MOST_OPERATIONS;
use super::pending::APPLIED_RANGE_BYTES;
use crate::engine::{Engine, ITEM_BYTES, ItemIndex, NODE_BYTES, NONE, pieces_of};
use crate::update::DecodeError;
use crate::update::scan::{Content, Id, Scan, Struct};

/// The bytes that the `$id` index takes per element.
pub(super) const ID_BYTES: usize = 40;

impl MeshDocument {
    /// The approximate memory of the document's structure, in bytes, without the contents. The
    /// contents take about as much as [`Self::encode_state`], unless operations are pending. The
    /// structure that pending operations will need is included. The call is cheap for documents of
    /// any size.
    pub fn structure_bytes(&self) -> usize {
        let elements = self.element_count() * ID_BYTES;
        self.engine.memory_bytes() + elements + self.pending.reserve()
    }

    /// The approximate memory of the operations in an update that are not known here, and of the
    /// runs that they split, in bytes; without [`Self::splits_by`]. Pending operations that they
    /// release take no more than before.
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
        let mut splits = Splits::new(&self.engine, scan, false);
        let mut own = 0_usize;
        for one in scan.structs.iter().filter(is_new) {
            own += bytes(one);
            let behind = one.origin.map(|id| Id {
                clock: id.clock + 1,
                ..id
            });
            let ends = [behind, one.right_origin.filter(|id| behind != Some(*id))];
            for at in ends.into_iter().flatten() {
                splits.add(at);
            }
        }
        own.saturating_add(splits.runs * ITEM_BYTES)
    }

    /// The approximate memory, in bytes, that the update's deletions take: what they split, and the
    /// ranges of missing operations, which may split later what they delete.
    ///
    /// # Errors
    /// If they split more than [`Limits::splits`](super::Limits::splits).
    pub(super) fn splits_by(&self, scan: &Scan<'_>) -> Result<usize, DecodeError> {
        let mut splits = Splits::new(&self.engine, scan, true);
        let mut missing = 0;
        for range in &scan.deletes {
            let client = range.client;
            for clock in [range.start, range.end] {
                splits.add(Id { client, clock });
            }
            if range.end > self.engine.clock(client) {
                let last = splits.group(client).last();
                missing += usize::from(last.is_none_or(|one| one.end() < range.end));
            }
        }
        let limit = self.limits.splits;
        if splits.runs > limit {
            return Err(DecodeError::TooLarge {
                what: "the number of runs that one update splits by its deletions",
                limit,
            });
        }
        Ok(splits.runs * ITEM_BYTES + missing * APPLIED_RANGE_BYTES)
    }

    /// Whether the client id has enough operations left for any edit. If not, each edit is tried on
    /// a copy first and may be refused; see [`Self::set_client_id`].
    pub fn has_operations_left(&self) -> bool {
        self.operations_left() >= MOST_OPERATIONS
    }
}

/// Counts the runs that an update splits, of the document and of its own.
struct Splits<'a> {
    engine: &'a Engine,
    scan: &'a Scan<'a>,
    is_deletion: bool,
    /// The update's structs by client, made when they are first needed.
    groups: Option<HashMap<u64, &'a [Struct<'a>]>>,
    /// The long runs that were counted last.
    last: ItemIndex,
    last_own: Option<Id>,
    runs: usize,
}

impl<'a> Splits<'a> {
    fn new(engine: &'a Engine, scan: &'a Scan<'a>, is_deletion: bool) -> Self {
        Self {
            engine,
            scan,
            is_deletion,
            groups: None,
            last: NONE,
            last_own: None,
            runs: 0,
        }
    }

    /// The update's structs of a client.
    fn group(&mut self, client: u64) -> &'a [Struct<'a>] {
        let groups = self.groups.get_or_insert_with(|| {
            let groups = self
                .scan
                .structs
                .chunk_by(|a, b| a.id.client == b.id.client);
            groups.map(|group| (group[0].id.client, group)).collect()
        });
        groups.get(&client).copied().unwrap_or_default()
    }

    /// Counts a split before this operation.
    fn add(&mut self, at: Id) {
        let known = self.engine.clock(at.client);
        if at.clock < known {
            self.runs += self.engine.splits(at, self.is_deletion, &mut self.last);
            return;
        }
        if at.clock == known {
            return;
        }
        let group = self.group(at.client);
        let index = group.partition_point(|one| one.end() <= at.clock);
        let Some(one) = group.get(index) else {
            return;
        };
        if one.id.clock >= at.clock || is_blank(one) && self.is_deletion {
            return;
        }
        self.runs += 1;
        if self.last_own.replace(one.id) != Some(one.id) {
            let values = match one.content {
                Content::Values | Content::Json => one.length,
                _ => 0,
            };
            self.runs += pieces_of(one.content_bytes.len(), values);
        }
    }
}
