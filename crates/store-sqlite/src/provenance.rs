//! Provenance of documents. While an update is in the log, its contributions are text in its row,
//! which refers to rows of `authors`; once a snapshot has merged it, they are rows of their own.
//!
//! Both have checksums of their own, so that corrupt provenance never blocks loading a document,
//! and never blocks a snapshot either: an update with corrupt contributions leaves a record without
//! names; a corrupt row stays as it is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::mem;

use meshagent_store::provenance::{fold, merge};
use meshagent_store::{
    Author, Contribution, DocumentId, OperationRange, ProvenanceRecord, StoreError, Timestamp,
};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Params, Row, params};

use crate::authors::{AuthorNames, Authors};
use crate::checksum::Checksum;
use crate::error::document_error;

/// Contributions as stored in the row of an update.
pub(crate) struct ContributionsText {
    /// A JSON array, which SQLite's own functions can read.
    pub(crate) text: String,
    pub(crate) checksum: i64,
}

/// The number of records that one snapshot writes at most. Beyond it the records are folded
/// further, so that one document does not delay the others.
const MAX_RECORDS: u32 = 10_000;
/// The number of records that are collected from a log before they are merged.
const MAX_UNMERGED: usize = 4 * MAX_RECORDS as usize;

/// An upper bound in bytes for a contribution by itself, and for each of its runs of operations.
pub(crate) const MAX_TEXT_BYTES: usize = 64;

/// Encodes contributions for the row of an update. Inserts rows of authors that have none.
pub(crate) fn contributions_text(
    connection: &Connection,
    authors: &mut Authors,
    document: i64,
    seq: i64,
    at: Timestamp,
    contributions: &[Contribution],
) -> rusqlite::Result<ContributionsText> {
    let mut texts = Vec::with_capacity(contributions.len());
    let mut author_checksums = Vec::with_capacity(contributions.len());
    for contribution in contributions {
        let author = authors.row(connection, document, &contribution.author)?;
        texts.push(text_of(&contribution.bounded(), author.id, at));
        author_checksums.push(author.checksum);
    }
    let text = serde_json::to_string(&texts).expect("numbers are JSON");
    let checksum = contributions_checksum(document, seq, at, text.as_bytes(), &author_checksums);
    Ok(ContributionsText { text, checksum })
}

/// Decodes the contributions in the row of an update; `None` if they are corrupt.
pub(crate) fn contributions(
    names: &mut AuthorNames<'_>,
    document: i64,
    seq: i64,
    at: Timestamp,
    text: ValueRef<'_>,
    checksum: i64,
) -> rusqlite::Result<Option<Vec<Contribution>>> {
    let Some((text, parsed)) = parse(text) else {
        return Ok(None);
    };
    let mut contributions = Vec::with_capacity(parsed.len());
    let mut author_checksums = Vec::with_capacity(parsed.len());
    for one in parsed {
        let Some((author, author_checksum)) = names.get(one.0)? else {
            return Ok(None);
        };
        author_checksums.push(*author_checksum);
        contributions.push(contribution_of(one, author.clone(), at));
    }
    let is_valid = checksum == contributions_checksum(document, seq, at, text, &author_checksums);
    Ok(is_valid.then_some(contributions))
}

fn parse(text: ValueRef<'_>) -> Option<(&[u8], Vec<ContributionText>)> {
    // Rusqlite would report corrupt text as an error of the whole row, so it does not read it
    // as text.
    let ValueRef::Text(text) = text else {
        return None;
    };
    Some((text, serde_json::from_slice(text).ok()?))
}

fn contributions_checksum(
    document: i64,
    seq: i64,
    at: Timestamp,
    text: &[u8],
    author_checksums: &[i64],
) -> i64 {
    let checksum = Checksum::default()
        .number(document)
        .number(seq)
        .number(at.0)
        .bytes(text);
    author_checksums
        .iter()
        .fold(checksum, |checksum, author| checksum.number(*author))
        .finish()
}

/// Returns the provenance of a document.
pub(crate) fn provenance(
    connection: &Connection,
    document: DocumentId,
) -> Result<Vec<ProvenanceRecord>, StoreError> {
    let gone = StoreError::NoSuchDocument { document };
    let Ok(id) = i64::try_from(document.0) else {
        return Err(gone);
    };
    let collect = || {
        let there = connection
            .prepare_cached("SELECT 1 FROM entries WHERE id = ?1 AND kind = 1")?
            .exists([id])?;
        if !there {
            return Ok(None);
        }
        let rows = rows(connection, "document = ?1", [id])?;
        let log = logged_contributions(connection, id, i64::MAX)?;
        Ok(Some((rows, log)))
    };
    let (rows, log) = collect().map_err(document_error(document))?.ok_or(gone)?;
    let damaged = |what: &str, number| StoreError::Corrupt {
        document: Some(document),
        what: format!("its provenance is corrupt: {what} {number} differs from what was written"),
    };
    let mut records = Vec::new();
    for row in rows {
        let record = row.record;
        records.push(record.ok_or_else(|| damaged("record", row.number))?);
    }
    for (seq, _, contributions) in log {
        let contributions = contributions.ok_or_else(|| damaged("update", seq))?;
        records.extend(contributions.iter().flat_map(Contribution::records));
    }
    Ok(merge(records))
}

/// Replaces all updates through `through` by rows of their contributions.
///
/// Only records of one connection can be joined, so of other connections only old records are read:
/// the compaction of a document with many authors is as fast as of any other.
pub(crate) fn fold_log(
    connection: &Connection,
    authors: &mut Authors,
    document: i64,
    through: i64,
    fold_before: Timestamp,
) -> rusqlite::Result<()> {
    let mut records = Vec::new();
    for_each_logged_update(connection, document, through, |_, at, contributions| {
        // An unknown author made the update.
        let contributions = contributions.unwrap_or_else(|| {
            vec![Contribution {
                author: Author::default(),
                at,
                operations: Vec::new(),
            }]
        });
        records.extend(contributions.iter().flat_map(Contribution::records));
        if records.len() > MAX_UNMERGED {
            records = bounded(fold(mem::take(&mut records), Timestamp(i64::MIN)));
        }
    })?;

    // The connections in the log, and the empty one, which old records are folded into.
    let mut numbers = BTreeMap::from([(String::new(), Numbers::default())]);
    for record in &records {
        if !numbers.contains_key(&record.author.connection) {
            numbers.insert(record.author.connection.clone(), Numbers::default());
        }
    }
    let mut kept = HashMap::new();
    for (name, numbers) in &mut numbers {
        let found = rows(
            connection,
            "document = ?1 AND connection = ?2",
            params![document, name],
        )?;
        for RecordRow { number, record } in found {
            match record {
                None => numbers.damaged.push(number),
                Some(record) => {
                    numbers.last = numbers.last.max(number);
                    kept.insert(record, number);
                }
            }
        }
    }
    // The next snapshot folds the rest.
    let old = rows(
        connection,
        "document = ?1 AND last_at < ?2 AND connection <> '' LIMIT ?3",
        params![document, fold_before.0, MAX_RECORDS],
    )?;
    for row in old {
        kept.extend(row.record.map(|record| (record, row.number)));
    }

    records.extend(kept.keys().cloned());
    let mut new = bounded(fold(records, fold_before));
    new.retain(|record| kept.remove(record).is_none());
    let mut delete = connection.prepare_cached(
        "DELETE FROM provenance WHERE document = ?1 AND connection = ?2 AND number = ?3",
    )?;
    for (record, number) in kept {
        delete.execute(params![document, record.author.connection, number])?;
    }
    for record in &new {
        let number = numbers
            .get_mut(&record.author.connection)
            .expect("changed records belong to these connections")
            .next();
        insert(connection, document, number, record)?;
    }

    connection
        .prepare_cached("DELETE FROM updates WHERE document = ?1 AND seq <= ?2")?
        .execute([document, through])?;
    authors.sweep(connection, document, &named(connection, document)?)
}

/// Returns the records unchanged, or if they are too many, one for each author and connection.
fn bounded(mut records: Vec<ProvenanceRecord>) -> Vec<ProvenanceRecord> {
    if records.len() <= MAX_RECORDS as usize {
        return records;
    }
    for record in &mut records {
        record.operations = None;
    }
    merge(records)
}

/// Returns the rows of authors that the updates of a document refer to.
fn named(connection: &Connection, document: i64) -> rusqlite::Result<HashSet<i64>> {
    let mut named = HashSet::new();
    let mut select =
        connection.prepare_cached("SELECT contributions FROM updates WHERE document = ?1")?;
    let mut rows = select.query([document])?;
    while let Some(row) = rows.next()? {
        let parsed = parse(row.get_ref(0)?);
        named.extend(
            parsed
                .into_iter()
                .flat_map(|(_, texts)| texts)
                .map(|text| text.0),
        );
    }
    Ok(named)
}

/// The numbers of a connection's rows.
#[derive(Default)]
struct Numbers {
    last: i64,
    /// The numbers of corrupt rows, which may be any. These rows stay.
    damaged: Vec<i64>,
}

impl Numbers {
    fn next(&mut self) -> i64 {
        self.last += 1;
        while self.damaged.contains(&self.last) {
            self.last += 1;
        }
        self.last
    }
}

struct RecordRow {
    /// A number that is unique for the document and connection.
    number: i64,
    /// The record; `None` if it is corrupt.
    record: Option<ProvenanceRecord>,
}

fn rows(
    connection: &Connection,
    which: &str,
    params: impl Params,
) -> rusqlite::Result<Vec<RecordRow>> {
    let mut select = connection.prepare_cached(&format!(
        "SELECT number, participant, role, on_behalf_of, connection, client, clock_start, clock_end,
             first_at, last_at, checksum, document
         FROM provenance WHERE {which}"
    ))?;
    let rows = select.query_map(params, |row| {
        let number = row.get(0)?;
        let document = row.get(11)?;
        // A conversion fails here if the value differs from what was written.
        let record = record(row).ok();
        let record = record
            .filter(|(record, checksum)| *checksum == record_checksum(document, number, record));
        Ok(RecordRow {
            number,
            record: record.map(|(record, _)| record),
        })
    })?;
    rows.collect()
}

fn record(row: &Row<'_>) -> rusqlite::Result<(ProvenanceRecord, i64)> {
    let operations = match row.get::<_, Option<i64>>(5)? {
        None => None,
        Some(client) => Some(OperationRange {
            client: client.cast_unsigned(),
            start: row.get::<_, i64>(6)?.cast_unsigned(),
            end: row.get::<_, i64>(7)?.cast_unsigned(),
        }),
    };
    let record = ProvenanceRecord {
        author: Author {
            participant: row.get(1)?,
            role: row.get(2)?,
            on_behalf_of: row.get(3)?,
            connection: row.get(4)?,
        },
        operations,
        first_at: Timestamp(row.get(8)?),
        last_at: Timestamp(row.get(9)?),
    };
    Ok((record, row.get(10)?))
}

fn insert(
    connection: &Connection,
    document: i64,
    number: i64,
    record: &ProvenanceRecord,
) -> rusqlite::Result<()> {
    let author = &record.author;
    let range =
        |of: fn(OperationRange) -> u64| record.operations.map(|range| of(range).cast_signed());
    connection
        .prepare_cached(
            "INSERT INTO provenance (document, number, participant, role, on_behalf_of, connection,
                 client, clock_start, clock_end, first_at, last_at, checksum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?
        .execute(params![
            document,
            number,
            author.participant,
            author.role,
            author.on_behalf_of,
            author.connection,
            range(|range| range.client),
            range(|range| range.start),
            range(|range| range.end),
            record.first_at.0,
            record.last_at.0,
            record_checksum(document, number, record),
        ])?;
    Ok(())
}

fn record_checksum(document: i64, number: i64, record: &ProvenanceRecord) -> i64 {
    let author = &record.author;
    let checksum = Checksum::default()
        .number(document)
        .number(number)
        .text(&author.participant)
        .text(&author.role)
        .optional_text(author.on_behalf_of.as_deref())
        .text(&author.connection)
        .number(record.first_at.0)
        .number(record.last_at.0);
    match record.operations {
        None => checksum,
        Some(range) => checksum
            .number(range.client.cast_signed())
            .number(range.start.cast_signed())
            .number(range.end.cast_signed()),
    }
    .finish()
}

type LogRow = (i64, Timestamp, Option<Vec<Contribution>>);

/// Returns position, time and contributions of the updates through a position; the contributions
/// are `None` if they are corrupt.
fn logged_contributions(
    connection: &Connection,
    document: i64,
    through: i64,
) -> rusqlite::Result<Vec<LogRow>> {
    let mut log = Vec::new();
    for_each_logged_update(connection, document, through, |seq, at, contributions| {
        log.push((seq, at, contributions));
    })?;
    Ok(log)
}

fn for_each_logged_update(
    connection: &Connection,
    document: i64,
    through: i64,
    mut take: impl FnMut(i64, Timestamp, Option<Vec<Contribution>>),
) -> rusqlite::Result<()> {
    let mut names = AuthorNames::new(connection, document);
    let mut select = connection.prepare_cached(
        "SELECT seq, at, contributions, contributions_checksum FROM updates
         WHERE document = ?1 AND seq <= ?2 ORDER BY seq",
    )?;
    let mut rows = select.query([document, through])?;
    while let Some(row) = rows.next()? {
        let seq = row.get(0)?;
        let at = Timestamp(row.get(1)?);
        let (text, checksum) = (row.get_ref(2)?, row.get(3)?);
        let contributions = contributions(&mut names, document, seq, at, text, checksum)?;
        take(seq, at, contributions);
    }
    Ok(())
}

/// A contribution in the file, an array: the row of its author, milliseconds after its update's
/// `at`, and for each run of operations client, start and end. It is short, since each append
/// writes one, and the cost of a commit is the pages that it fills.
type ContributionText = (i64, i64, Vec<(u64, u64, u64)>);

fn text_of(contribution: &Contribution, author: i64, at: Timestamp) -> ContributionText {
    let range = |range: &OperationRange| (range.client, range.start, range.end);
    (
        author,
        // Wrapping, here and in the decoder, gives a difference for any two instants.
        contribution.at.0.wrapping_sub(at.0),
        contribution.operations.iter().map(range).collect(),
    )
}

fn contribution_of(text: ContributionText, author: Author, at: Timestamp) -> Contribution {
    let (_, after, operations) = text;
    let range = |(client, start, end)| OperationRange { client, start, end };
    Contribution {
        author,
        at: Timestamp(at.0.wrapping_add(after)),
        operations: operations.into_iter().map(range).collect(),
    }
}
