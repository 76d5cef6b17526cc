//! Who did what: text beside each update while it is in the log, which names rows of `authors`; rows of their own once
//! a snapshot has merged it.
//!
//! Both have checksums of their own, so that damage to them keeps nobody from the document. A snapshot goes over
//! damage too: of an update whose contributions are damaged there remains a record without names; a damaged row
//! stays as it is.

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

/// Contributions as they stand in an update's row.
pub(crate) struct ContributionsText {
    /// A JSON array, which SQLite's own functions can read.
    pub(crate) text: String,
    pub(crate) checksum: i64,
}

/// Records that one snapshot makes at most. Beyond it they are folded further, so that no document keeps the others
/// waiting.
const MAX_RECORDS: u32 = 10_000;
/// Records that wait to be merged while a log is read.
const MAX_UNMERGED: usize = 4 * MAX_RECORDS as usize;

/// More than a contribution takes by itself, and more than each of its runs of operations takes, in bytes.
pub(crate) const MAX_TEXT_BYTES: usize = 64;

/// Contributions for an update's row. Makes rows of those authors that have none.
pub(crate) fn contributions_text(
    connection: &Connection,
    authors: &mut Authors,
    document: i64,
    seq: i64,
    at: Timestamp,
    contributions: &[Contribution],
) -> rusqlite::Result<ContributionsText> {
    let mut texts = Vec::with_capacity(contributions.len());
    let mut who = Vec::with_capacity(contributions.len());
    for contribution in contributions {
        let author = authors.row(connection, document, &contribution.author)?;
        texts.push(text_of(&contribution.bounded(), author.id, at));
        who.push(author.checksum);
    }
    let text = serde_json::to_string(&texts).expect("numbers are JSON");
    let checksum = contributions_checksum(document, seq, at, text.as_bytes(), &who);
    Ok(ContributionsText { text, checksum })
}

/// Contributions out of an update's row; `None` if they are damaged.
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
    let mut who = Vec::with_capacity(parsed.len());
    for one in parsed {
        let Some((author, author_checksum)) = names.get(one.0)? else {
            return Ok(None);
        };
        who.push(*author_checksum);
        contributions.push(contribution_of(one, author.clone(), at));
    }
    let sound = checksum == contributions_checksum(document, seq, at, text, &who);
    Ok(sound.then_some(contributions))
}

fn parse(text: ValueRef<'_>) -> Option<(&[u8], Vec<ContributionText>)> {
    // Not read as text by rusqlite, to which an update with damaged text would be an error as a whole.
    let ValueRef::Text(text) = text else {
        return None;
    };
    Some((text, serde_json::from_slice(text).ok()?))
}

fn contributions_checksum(document: i64, seq: i64, at: Timestamp, text: &[u8], who: &[i64]) -> i64 {
    let checksum = Checksum::default()
        .number(document)
        .number(seq)
        .number(at.0)
        .bytes(text);
    who.iter()
        .fold(checksum, |checksum, author| checksum.number(*author))
        .finish()
}

/// All that is known of who made a document.
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
        let log = log(connection, id, i64::MAX)?;
        Ok(Some((rows, log)))
    };
    let (rows, log) = collect().map_err(document_error(document))?.ok_or(gone)?;
    let damaged = |what: &str, number| StoreError::Corrupt {
        document: Some(document),
        what: format!("who made it is damaged: {what} {number} is not what was written"),
    };
    let mut records = Vec::new();
    for row in rows {
        let record = row.record;
        records.push(record.ok_or_else(|| damaged("record", row.number))?);
    }
    for (seq, _, contributions) in log {
        let contributions = contributions.ok_or_else(|| damaged("that of update", seq))?;
        records.extend(contributions.iter().flat_map(Contribution::records));
    }
    Ok(merge(records))
}

/// Replaces all updates through `through` by rows of their contributions.
///
/// Only records of one connection join, so of the others no more is read than whether they are old: a document that
/// many have worked on is as quickly compacted as another.
pub(crate) fn fold_log(
    connection: &Connection,
    authors: &mut Authors,
    document: i64,
    through: i64,
    fold_before: Timestamp,
) -> rusqlite::Result<()> {
    let mut records = Vec::new();
    each_of_log(connection, document, through, |_, at, contributions| {
        // Somebody did something.
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

    // Those of the log, and the one that old records are folded into.
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
    // If there are more, the next snapshot folds them.
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
            .expect("what changes is of these connections")
            .next();
        insert(connection, document, number, record)?;
    }

    connection
        .prepare_cached("DELETE FROM updates WHERE document = ?1 AND seq <= ?2")?
        .execute([document, through])?;
    authors.sweep(connection, document, &named(connection, document)?)
}

/// The records themselves, or if they are too many, one for each author and connection.
fn bounded(mut records: Vec<ProvenanceRecord>) -> Vec<ProvenanceRecord> {
    if records.len() <= MAX_RECORDS as usize {
        return records;
    }
    for record in &mut records {
        record.operations = None;
    }
    merge(records)
}

/// The rows of authors that the updates of a document name.
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
    /// May be any. These rows stay.
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
    /// Different for each row of a document and connection.
    number: i64,
    /// `None` if it is damaged.
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
        // What fails here is a value that was not written so.
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

/// The updates through a position: where, when and who; `None` if that is damaged.
fn log(connection: &Connection, document: i64, through: i64) -> rusqlite::Result<Vec<LogRow>> {
    let mut log = Vec::new();
    each_of_log(connection, document, through, |seq, at, contributions| {
        log.push((seq, at, contributions));
    })?;
    Ok(log)
}

fn each_of_log(
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

/// A contribution in the file, an array: its author's row, milliseconds after its update's `at`, and for each run of
/// operations client, start and end. Short, since each append writes one, and what a commit costs is the pages that
/// it fills.
type ContributionText = (i64, i64, Vec<(u64, u64, u64)>);

fn text_of(contribution: &Contribution, author: i64, at: Timestamp) -> ContributionText {
    let range = |range: &OperationRange| (range.client, range.start, range.end);
    (
        author,
        // Wrapping, here and back, any two instants are a difference.
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
