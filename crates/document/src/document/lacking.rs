//! What another replica lacks, apart from certain edits.

use std::collections::BTreeMap;
use std::ops::Range;

use super::MeshDocument;
use super::ranges::Ranges;
use crate::engine::NodeKind;
use crate::update::scan::{Content, Id, IdRange, Scan, Struct};
use crate::update::{DecodeError, writer};

impl MeshDocument {
    /// Returns what another replica lacks, as one v1 update; `None` if that is nothing, or only
    /// operations without content. Left out are the deletions of these updates, the operations of
    /// `waiting` ones as far as their clients made none afterwards, and the operations of `refused`
    /// ones and all that their clients made afterwards.
    ///
    /// # Errors
    /// [`DecodeError`] if one of the updates is malformed.
    pub fn encode_diff_without(
        &self,
        other: &Self,
        waiting: &[&[u8]],
        refused: &[&[u8]],
    ) -> Result<Option<Vec<u8>>, DecodeError> {
        let (waiting, refused) = (scans(waiting)?, scans(refused)?);
        let mut made: BTreeMap<u64, Ranges> = BTreeMap::new();
        let mut deleted: BTreeMap<u64, Ranges> = BTreeMap::new();
        for scan in waiting.iter().chain(&refused) {
            for one in &scan.structs {
                let ranges = made.entry(one.id.client).or_default();
                ranges.insert(one.id.clock, one.end());
            }
        }
        let others = other.engine.all_deleted();
        let scans = waiting.iter().chain(&refused);
        for range in scans.flat_map(|scan| &scan.deletes).chain(&others) {
            let ranges = deleted.entry(range.client).or_default();
            ranges.insert(range.start, range.end);
        }
        // Where the operations of each client end that are not left out.
        let mut ends: BTreeMap<u64, u32> = BTreeMap::new();
        for (&client, ranges) in &made {
            let last = ranges.last_free(0, self.engine.clock(client));
            ends.insert(client, last.map_or(0, |last| last + 1));
        }
        for one in refused.iter().flat_map(|scan| &scan.structs) {
            let end = ends.entry(one.id.client).or_default();
            *end = one.id.clock.min(*end);
        }
        let end_of = |client| ends.get(&client).copied().unwrap_or(u32::MAX);

        let diff = self.engine.encode(|client| other.engine.clock(client));
        let Scan {
            mut structs,
            deletes,
            ..
        } = Scan::read(&diff)?;
        structs.retain(|one| one.id.clock < end_of(one.id.client));
        let mut deletions = Vec::new();
        for IdRange { client, start, end } in deletes {
            let end = end.min(end_of(client));
            let none = Ranges::default();
            let ranges = deleted.get(&client).unwrap_or(&none);
            ranges.free(start, end, |start, end| {
                other.push_deletions(&mut deletions, client, start..end, &deleted);
            });
        }
        let has_content = structs
            .iter()
            .any(|one| !matches!(one.content, Content::Collected | Content::Deleted));
        let mut deletions_there = deletions.iter();
        let has_deletions = deletions_there.any(|one| one.start < other.engine.clock(one.client));
        if !has_content && !has_deletions {
            return Ok(None);
        }
        write(&structs, deletions, end_of).map(Some)
    }

    /// Adds the parts of a deleted range that were not deleted together with an element or a text
    /// that is in `left_out`: only that is part of the update that deletes it.
    fn push_deletions(
        &self,
        deletions: &mut Vec<IdRange>,
        client: u64,
        range: Range<u32>,
        left_out: &BTreeMap<u64, Ranges>,
    ) {
        let Range { start, end } = range;
        let mut push = |start: u32, end: u32| {
            if start < end {
                deletions.push(IdRange { client, start, end });
            }
        };
        let known = end.min(self.engine.clock(client));
        let range = IdRange {
            client,
            start,
            end: known,
        };
        for (start, end, _) in self.engine.parts(range) {
            let id = Id {
                client,
                clock: start,
            };
            if !self.is_within(id, left_out) {
                push(start, end);
            }
        }
        push(start.max(known), end);
    }

    /// Whether an element or a text around an operation is among these operations.
    fn is_within(&self, mut id: Id, operations: &BTreeMap<u64, Ranges>) -> bool {
        while let Some((item, _)) = self.engine.find_item(id) {
            let parent = self.engine.item(item).parent;
            if let NodeKind::Root(_) = self.engine.node(parent).kind {
                return false;
            }
            id = self.engine.node_id(parent);
            let ranges = operations.get(&id.client);
            if ranges.is_some_and(|ranges| ranges.count(id.clock, id.clock + 1) > 0) {
                return true;
            }
        }
        false
    }
}

fn scans<'a>(updates: &[&'a [u8]]) -> Result<Vec<Scan<'a>>, DecodeError> {
    let updates = updates.iter().filter(|update| !update.is_empty());
    updates.map(|update| Scan::read(update)).collect()
}

/// Writes an update of structs, each client's up to its end.
fn write(
    structs: &[Struct<'_>],
    mut deletions: Vec<IdRange>,
    end_of: impl Fn(u64) -> u32,
) -> Result<Vec<u8>, DecodeError> {
    let clients = structs.chunk_by(|a, b| a.id.client == b.id.client);
    let mut out = Vec::new();
    writer::unsigned(&mut out, clients.clone().count() as u64);
    for structs in clients {
        writer::unsigned(&mut out, structs.len() as u64);
        writer::id(&mut out, structs[0].id);
        for one in structs {
            let end = one.end().min(end_of(one.id.client));
            writer::write_part(&mut out, one, one.id.clock..end)?;
        }
    }
    writer::deletes(&mut out, &mut deletions);
    Ok(out)
}
