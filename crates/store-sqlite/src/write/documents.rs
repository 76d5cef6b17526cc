//! Writes to documents: their creation, their updates and their snapshots.

use meshagent_store::provenance::MAX_RANGES;
use meshagent_store::{Contribution, DocumentId, RoomId, Seq, Timestamp, WriteError, Written};
use rusqlite::{Connection, OptionalExtension, params};

use super::Failure;
use super::entries::{insert_entry, leaf, place_entry, room_or_insert};
use super::value::{Sealed, check_size};
use crate::authors::Authors;
use crate::checksum::{Checksum, Data};
use crate::contents::{self, Content};
use crate::provenance::{MAX_TEXT_BYTES, contributions_text, fold_log};
use crate::schema::DOCUMENT;
use crate::seal::Kind;

pub(super) fn create_document(
    connection: &Connection,
    room: &RoomId,
    path: &str,
    schema: &str,
    at: Timestamp,
    staged: Option<&Content>,
) -> Result<DocumentId, Failure> {
    let room = room_or_insert(connection, room)?;
    if leaf(connection, room, path)?.is_some() {
        return Err(WriteError::AlreadyExists {
            path: path.to_owned(),
        }
        .into());
    }
    check_size(schema.len())?;
    let id = match staged.and_then(Content::new_entry) {
        Some(id) => place_entry(connection, id, room, path, DOCUMENT, 0, at)?,
        None => insert_entry(connection, room, path, DOCUMENT, 0, at)?,
    };
    connection
        .prepare_cached("INSERT INTO schemas (document, schema, checksum) VALUES (?1, ?2, ?3)")?
        .execute(params![id, schema, schema_checksum(id, schema)])?;
    Ok(DocumentId(id.unsigned_abs()))
}

/// Appends an update. It refuses before it changes anything; `apply` for a lone append relies on
/// that, and so does the cache of authors.
#[expect(
    clippy::too_many_arguments,
    reason = "the parts of one write, named at the two places that call this"
)]
pub(super) fn append(
    connection: &Connection,
    authors: &mut Authors,
    document: DocumentId,
    end: Option<Seq>,
    update: &[u8],
    contributions: &[Contribution],
    at: Timestamp,
    staged: Option<&Content>,
) -> Result<Seq, Failure> {
    let id = document_row(document)?;
    check_size(update.len() + contributions.iter().map(max_bytes).sum::<usize>())?;
    let size = check_size(update.len())?;
    let seq: i64 = connection
        .prepare_cached(
            "UPDATE entries SET last_seq = last_seq + 1, size = size + ?2, updated_at = ?3
             WHERE id = ?1 AND kind = 1 AND (?4 IS NULL OR last_seq = ?4) RETURNING last_seq",
        )?
        .query_row(params![id, size, at.0, end.map(row_seq)], |row| row.get(0))
        .optional()?
        .map_or_else(|| Err(refusal(connection, document, end)), Ok)?;
    let contributions = contributions_text(connection, authors, id, seq, at, contributions)?;
    let sealed = Sealed::new(connection, id, Kind::Update, seq, update, staged, |data| {
        update_checksum(id, seq, at, data)
    })?;
    connection
        .prepare_cached(
            "INSERT INTO updates
                 (document, seq, at, contributions, contributions_checksum, data, checksum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            id,
            seq,
            at.0,
            contributions.text,
            contributions.checksum,
            sealed.value,
            sealed.checksum,
        ])?;
    Ok(Seq(seq.unsigned_abs()))
}

#[expect(
    clippy::too_many_arguments,
    reason = "the parts of one write, named at the one place that calls this"
)]
pub(super) fn snapshot(
    connection: &Connection,
    authors: &mut Authors,
    document: DocumentId,
    end: Option<Seq>,
    through: Seq,
    state: &[u8],
    fold_before: Timestamp,
    staged: Option<&Content>,
) -> Result<Written, Failure> {
    let id = document_row(document)?;
    check_size(state.len())?;
    let through = check_range(connection, document, end, through)?;
    contents::detach_through(connection, id, through)?;
    let sealed = Sealed::new(
        connection,
        id,
        Kind::Snapshot,
        through,
        state,
        staged,
        |data| snapshot_checksum(id, through, data),
    )?;
    connection
        .prepare_cached(
            "INSERT INTO snapshots (document, through, state, checksum) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (document) DO UPDATE SET through = ?2, state = ?3, checksum = ?4",
        )?
        .execute(params![id, through, sealed.value, sealed.checksum])?;
    fold_log(connection, authors, id, through, fold_before)?;
    connection
        .prepare_cached(
            "UPDATE entries SET size =
                 (SELECT length(state) FROM snapshots WHERE document = ?1)
                 + (SELECT coalesce(sum(length(data)), 0) FROM updates WHERE document = ?1)
                 + (SELECT coalesce(sum(bytes), 0) FROM contents WHERE entry = ?1 AND kind > 0)
             WHERE id = ?1",
        )?
        .execute([id])?;
    Ok(Written::Snapshotted)
}

/// Checks that a snapshot may reach through this position, and that the log ends where its author
/// expects.
pub(super) fn check_range(
    connection: &Connection,
    document: DocumentId,
    end: Option<Seq>,
    through: Seq,
) -> Result<i64, Failure> {
    let last = last_seq(connection, document)?;
    if let Some(expected) = end.filter(|end| row_seq(*end) != last) {
        return Err(wrong_end(document, last, expected).into());
    }
    let before: i64 = connection
        .prepare_cached("SELECT through FROM snapshots WHERE document = ?1")?
        .query_row([document_row(document)?], |row| row.get(0))
        .optional()?
        .unwrap_or(0);
    match i64::try_from(through.0) {
        Ok(position) if (before..=last).contains(&position) => Ok(position),
        _ => Err(WriteError::SnapshotOutOfRange { document, through }.into()),
    }
}

pub(super) fn last_seq(connection: &Connection, document: DocumentId) -> Result<i64, Failure> {
    let last = connection
        .prepare_cached("SELECT last_seq FROM entries WHERE id = ?1 AND kind = 1")?
        .query_row([document_row(document)?], |row| row.get(0))
        .optional()?
        .ok_or(WriteError::NoSuchDocument { document })?;
    Ok(last)
}

/// Returns why no row was found for an append.
fn refusal(connection: &Connection, document: DocumentId, end: Option<Seq>) -> Failure {
    match (last_seq(connection, document), end) {
        (Err(failure), _) => failure,
        (Ok(last), Some(expected)) => wrong_end(document, last, expected).into(),
        (Ok(_), None) => WriteError::NoSuchDocument { document }.into(),
    }
}

fn wrong_end(document: DocumentId, last: i64, expected: Seq) -> WriteError {
    WriteError::WrongEnd {
        document,
        end: Seq(last.unsigned_abs()),
        expected,
    }
}

/// Returns a position as SQLite stores it. No log is long enough for the positions beyond.
fn row_seq(seq: Seq) -> i64 {
    i64::try_from(seq.0).unwrap_or(i64::MAX)
}

/// Returns the id of a document's row. Ids outside SQLite's range are treated like those of
/// deleted documents.
fn document_row(document: DocumentId) -> Result<i64, WriteError> {
    i64::try_from(document.0).map_err(|_| WriteError::NoSuchDocument { document })
}

/// Returns an upper bound for the stored size of a contribution.
fn max_bytes(contribution: &Contribution) -> usize {
    let author = &contribution.author;
    author.participant.len()
        + author.role.len()
        + author.on_behalf_of.as_ref().map_or(0, String::len)
        + author.connection.len()
        + MAX_TEXT_BYTES * (1 + contribution.operations.len().min(MAX_RANGES))
}

pub(crate) fn schema_checksum(document: i64, schema: &str) -> i64 {
    Checksum::default().number(document).text(schema).finish()
}

pub(crate) fn update_checksum(document: i64, seq: i64, at: Timestamp, update: Data<'_>) -> i64 {
    Checksum::default()
        .number(document)
        .number(seq)
        .number(at.0)
        .data(update)
        .finish()
}

pub(crate) fn snapshot_checksum(document: i64, through: i64, state: Data<'_>) -> i64 {
    Checksum::default()
        .number(document)
        .number(through)
        .data(state)
        .finish()
}
