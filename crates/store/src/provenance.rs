//! Provenance: which author made which operations, and when.
//!
//! Contributions arrive with each update. When a snapshot replaces the update, they are kept as
//! records, one for each author, connection and run of operations ([`merge`]); old records are
//! folded into one for each author ([`fold`]). All stores use these two functions, so all of them
//! return the same records.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::Timestamp;

/// The number of runs of operations that one contribution keeps apart. An editor never makes that
/// many in one update. A hostile peer may, and so may a full copy of a document that hundreds of
/// clients have edited.
pub const MAX_RANGES: usize = 1_000;
/// The number of records of one connection that folding keeps apart. Beyond it, they become one
/// record without operations.
pub const MAX_RECORDS_OF_CONNECTION: usize = 1_000;

/// The author of an update.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Author {
    /// The participant's name.
    pub participant: String,
    /// The participant's role in the room.
    pub role: String,
    /// The participant on whose behalf it acted, if it named one.
    pub on_behalf_of: Option<String>,
    /// The connection's id.
    pub connection: String,
}

/// Operations of one client: the clocks `start..end`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct OperationRange {
    /// The client's id in the document.
    pub client: u64,
    /// The first clock.
    pub start: u64,
    /// The clock after the last one.
    pub end: u64,
}

/// The operations of one author in one append.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Contribution {
    /// The author of the operations.
    pub author: Author,
    /// When it was appended.
    pub at: Timestamp,
    /// The added operations. Empty if it only deleted, or added more than [`MAX_RANGES`] runs.
    /// Ranges without clocks are ignored.
    pub operations: Vec<OperationRange>,
}

/// The operations of one author, over any number of appends.
///
/// Records are ordered by author and operations; those without operations come first. Of two
/// records of an author and connection, neither continues the other.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ProvenanceRecord {
    /// The author. In a folded record the connection is empty. All names are empty if they were
    /// lost to damage.
    pub author: Author,
    /// A run of operations. `None` for deletions only, or for operations that are no longer
    /// kept apart.
    pub operations: Option<OperationRange>,
    /// When the first of them was appended.
    pub first_at: Timestamp,
    /// When the last of them was appended.
    pub last_at: Timestamp,
}

impl Contribution {
    /// Returns the contribution as every store keeps it: without operations if it has more
    /// than [`MAX_RANGES`].
    pub fn bounded(&self) -> Cow<'_, Self> {
        if self.operations.len() <= MAX_RANGES {
            return Cow::Borrowed(self);
        }
        Cow::Owned(Self {
            author: self.author.clone(),
            at: self.at,
            operations: Vec::new(),
        })
    }

    /// Returns the contribution as unmerged records: one for each range, or a single one
    /// without operations.
    pub fn records(&self) -> impl Iterator<Item = ProvenanceRecord> + '_ {
        let ranges = || {
            self.operations
                .iter()
                .filter(|range| range.start < range.end)
        };
        let only_deleted = ranges().next().is_none();
        ranges()
            .map(|range| Some(*range))
            .chain(only_deleted.then_some(None))
            .map(|operations| ProvenanceRecord {
                author: self.author.clone(),
                operations,
                first_at: self.at,
                last_at: self.at,
            })
    }
}

/// Sorts records, and joins those of one author and connection that touch: adjacent runs of a
/// client, and all records without operations.
///
/// Records may be merged in any order and grouping, with the same result.
pub fn merge(mut records: Vec<ProvenanceRecord>) -> Vec<ProvenanceRecord> {
    records.sort_by(|a, b| (&a.author, a.operations).cmp(&(&b.author, b.operations)));
    records.dedup_by(|next, last| {
        let joined = last.author == next.author && touch(last.operations, next.operations);
        if joined {
            if let (Some(last), Some(next)) = (&mut last.operations, next.operations) {
                last.end = last.end.max(next.end);
            }
            last.first_at = last.first_at.min(next.first_at);
            last.last_at = last.last_at.max(next.last_at);
        }
        joined
    });
    records
}

/// Merges records, then folds those that ended before `before` into one for each author, without
/// its connection and operations, and the records of a connection that has too many into one
/// without operations.
pub fn fold(records: Vec<ProvenanceRecord>, before: Timestamp) -> Vec<ProvenanceRecord> {
    let mut records = merge(records);
    for record in &mut records {
        if record.last_at < before {
            record.author.connection.clear();
            record.operations = None;
        }
    }
    let mut records = merge(records);
    if records.len() > MAX_RECORDS_OF_CONNECTION {
        let mut counts: HashMap<String, usize> = HashMap::new();
        for record in &records {
            match counts.get_mut(&record.author.connection) {
                Some(count) => *count += 1,
                None => drop(counts.insert(record.author.connection.clone(), 1)),
            }
        }
        for record in &mut records {
            if counts[&record.author.connection] > MAX_RECORDS_OF_CONNECTION {
                record.operations = None;
            }
        }
        records = merge(records);
    }
    records
}

/// Returns whether `next`, which does not sort before `last`, overlaps or continues it.
fn touch(last: Option<OperationRange>, next: Option<OperationRange>) -> bool {
    match (last, next) {
        (None, None) => true,
        (Some(last), Some(next)) => last.client == next.client && next.start <= last.end,
        _ => false,
    }
}
