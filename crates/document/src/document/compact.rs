//! Compaction of successive updates: content that they overwrote themselves is dropped.

use std::collections::BTreeMap;

use super::MeshDocument;
use super::ranges::Ranges;
use crate::update::DecodeError;
use crate::update::scan::{IdRange, Scan};

impl MeshDocument {
    /// Merges the last of these updates, which were applied here and not sent yet. Content
    /// that they inserted and deleted again is dropped, so the result is about as long as its
    /// visible effect. Returns the number of leading updates that were not merged, and the merged
    /// update; `None` if fewer than two can be merged.
    ///
    /// An update that deletes children from before these updates is not merged, nor are the updates
    /// before it: the published SDKs update their views by deltas and lose count if one update
    /// deletes at two places of an element, or deletes and then changes something behind.
    /// Overwritten attributes don't matter.
    ///
    /// # Errors
    /// [`DecodeError`] if one of them is malformed.
    pub fn compact_updates(
        &self,
        updates: &[&[u8]],
    ) -> Result<Option<(usize, Vec<u8>)>, DecodeError> {
        let scans = updates.iter().map(|update| Scan::read(update));
        let scans = scans.collect::<Result<Vec<_>, _>>()?;
        let mut first = 0;
        let made = loop {
            let mut made: BTreeMap<u64, Ranges> = BTreeMap::new();
            for one in scans[first..].iter().flat_map(|scan| &scan.structs) {
                let ranges = made.entry(one.id.client).or_default();
                ranges.insert(one.id.clock, one.end());
            }
            let is_alone = |scan: &Scan<'_>| {
                let mut deletes = scan.deletes.iter();
                deletes.any(|&range| self.deletes_others(range, &made))
            };
            match scans[first..].iter().rposition(is_alone) {
                Some(last) => first += last + 1,
                None => break made,
            }
        };
        if scans.len() - first < 2 {
            return Ok(None);
        }
        let mut starts = BTreeMap::new();
        for (&client, ranges) in &made {
            let (start, end) = (ranges.first(), self.engine.clock(client));
            // Operations can be read from the document only if no other edit has changed them.
            if ranges.count(start, u32::MAX) != end.saturating_sub(start) {
                return Ok(None);
            }
            starts.insert(client, start);
        }
        let deletes = scans[first..].iter().flat_map(|scan| &scan.deletes);
        let deletes: Vec<IdRange> = deletes.copied().collect();
        let merged = self.engine.encode_from(&starts, deletes);
        Ok(Some((first, merged)))
    }

    /// Whether a deletion covers children outside of `made`; values of attributes don't count.
    fn deletes_others(&self, range: IdRange, made: &BTreeMap<u64, Ranges>) -> bool {
        let made = made.get(&range.client);
        let is_made = |start, end| made.map_or(0, |made| made.count(start, end)) == end - start;
        if is_made(range.start, range.end) {
            return false;
        }
        let mut parts = self.engine.parts(range);
        parts.any(|(start, end, is_child)| is_child && !is_made(start, end))
    }
}
