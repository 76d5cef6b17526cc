//! Who did what, and when: as it comes with an update, and as it is kept when the update is merged.
//!
//! Contributions come with each update. Once a snapshot has taken the update's place they go on as records, one for
//! each author, connection and run of operations ([`merge`]); old records are folded into one for each author
//! ([`fold`]). Every store uses these two, so that all tell the same.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::Timestamp;

/// Runs of operations of one contribution that are told apart. No editor makes so many in one update; a copy of a
/// document by hundreds of clients that somebody sends whole does, and a peer that means harm.
pub const MAX_RANGES: usize = 1_000;
/// Records of one connection that are kept apart when they are folded. Beyond it, they become one without operations.
pub const MAX_RECORDS_OF_CONNECTION: usize = 1_000;

/// Who made an update.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Author {
    /// The participant's name.
    pub participant: String,
    /// The participant's role in the room.
    pub role: String,
    /// The participant that it acted for, if it said so.
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

/// What one author did in one append.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Contribution {
    /// Who.
    pub author: Author,
    /// When it was handed in.
    pub at: Timestamp,
    /// What was added. Nothing: it only deleted, or added more than [`MAX_RANGES`]. Ranges that contain no clock count
    /// for nothing.
    pub operations: Vec<OperationRange>,
}

/// What one author did, over any number of appends.
///
/// Records are ordered by author and operations, those without operations first; of two records of an author and
/// connection, none continues the other.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ProvenanceRecord {
    /// Who. Folded, the connection is empty. All names are empty if they were lost to damage.
    pub author: Author,
    /// A run of operations. `None`: only deletions, or operations that are no longer told apart.
    pub operations: Option<OperationRange>,
    /// When the first of it was handed in.
    pub first_at: Timestamp,
    /// When the last of it was handed in.
    pub last_at: Timestamp,
}

impl Contribution {
    /// As every store keeps it: without operations, if it has more than [`MAX_RANGES`].
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

    /// The same as records, before they are merged: one for each range, or a single one without operations.
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

/// Sorts records, and joins those of one author and connection that touch: neighbouring runs of a client, and all
/// that have no operations.
///
/// Records may be merged in any order and grouping, with the same end.
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

/// [`merge`], and then folds what ended before `before` into one record for each author, without its connection
/// and operations, and the records of a connection that has too many into one without operations.
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

/// Whether `next`, which is not before `last`, goes on where `last` is or ends.
fn touch(last: Option<OperationRange>, next: Option<OperationRange>) -> bool {
    match (last, next) {
        (None, None) => true,
        (Some(last), Some(next)) => last.client == next.client && next.start <= last.end,
        _ => false,
    }
}
