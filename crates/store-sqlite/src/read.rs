//! The SQL of each kind of read, on one state of the database. Results have been compared with
//! their checksums.

use bytes::Bytes;
use meshagent_store::path::{below, name};
use meshagent_store::{
    DocumentId, Entry, EntryKind, RoomId, Seq, StoreError, StoreStats, StoredDocument, StoredFile,
    StoredUpdate, Timestamp,
};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::authors::AuthorNames;
use crate::checksum::Data;
use crate::contents::Stored;
use crate::error::{document_error, store_error};
use crate::provenance::contributions;
use crate::schema::DOCUMENT;
use crate::seal::{Key, Kind};
use crate::write::{file_checksum, schema_checksum, snapshot_checksum, update_checksum};

/// The end of a range without a bound: in SQLite every blob is greater than every text.
pub(crate) const END_OF_TEXT: &[u8] = &[];

pub(crate) fn stat(
    connection: &Connection,
    room: &RoomId,
    path: &str,
) -> Result<Option<Entry>, StoreError> {
    if path.is_empty() {
        return Ok(Some(folder("")));
    }
    let find = || {
        let Some(room) = room_row(connection, room)? else {
            return Ok(None);
        };
        let leaf = connection
            .prepare_cached(
                "SELECT path, kind, size, created_at, updated_at FROM entries
                 WHERE room = ?1 AND path = ?2",
            )?
            .query_row(params![room, path], |row| entry(name(path), row))
            .optional()?;
        if leaf.is_some() {
            return Ok(leaf);
        }
        Ok(has_children(connection, room, path)?.then(|| folder(name(path))))
    };
    find().map_err(store_error)
}

pub(crate) fn list(
    connection: &Connection,
    room: &RoomId,
    path: &str,
    max: usize,
) -> Result<Option<Vec<Entry>>, StoreError> {
    let find = || {
        let mut entries = Vec::new();
        if let Some(room) = room_row(connection, room)? {
            let (start, end) = below(path);
            let prefix = start.len();
            let mut select = connection.prepare_cached(
                "SELECT path, kind, size, created_at, updated_at FROM entries
                 WHERE room = ?1 AND path >= ?2 AND path < coalesce(?3, ?4) ORDER BY path",
            )?;
            let mut next = Some(start);
            // One query for each folder: the entries below it are skipped, however many they are.
            while let Some(start) = next.take() {
                let mut rows = select.query(params![room, start, end, END_OF_TEXT])?;
                while entries.len() < max
                    && let Some(row) = rows.next()?
                {
                    let child: String = row.get(0)?;
                    let Some((child_folder, _)) = child[prefix..].split_once('/') else {
                        entries.push(entry(&child[prefix..], row)?);
                        continue;
                    };
                    entries.push(folder(child_folder));
                    next = below(&child[..prefix + child_folder.len()]).1;
                    break;
                }
            }
        }
        Ok(entries)
    };
    let mut entries = find().map_err(store_error)?;
    if entries.is_empty() && !path.is_empty() {
        return Ok(None);
    }
    // The order by name differs from the order of the paths: `a-b` is between `a` and `a/b`.
    entries.sort_by(|a, b| (&a.name, a.kind).cmp(&(&b.name, b.kind)));
    Ok(Some(entries))
}

pub(crate) fn load(
    connection: &Connection,
    room: &RoomId,
    path: &str,
) -> Result<Option<StoredDocument>, StoreError> {
    let find = || {
        let Some(room) = room_row(connection, room)? else {
            return Ok(None);
        };
        connection
            .prepare_cached(
                "SELECT id, last_seq, created_at, updated_at FROM entries
                 WHERE room = ?1 AND path = ?2 AND kind = 1",
            )?
            .query_row(params![room, path], Head::from_row)
            .optional()
    };
    let head = find().map_err(store_error)?;
    head.map(|head| load_document(connection, &head))
        .transpose()
}

pub(crate) fn load_by_id(
    connection: &Connection,
    document: DocumentId,
) -> Result<Option<StoredDocument>, StoreError> {
    let Ok(id) = i64::try_from(document.0) else {
        return Ok(None);
    };
    let head = connection
        .prepare_cached(
            "SELECT id, last_seq, created_at, updated_at FROM entries WHERE id = ?1 AND kind = 1",
        )
        .and_then(|mut select| select.query_row([id], Head::from_row).optional())
        .map_err(document_error(document))?;
    head.map(|head| load_document(connection, &head))
        .transpose()
}

/// The row of a document.
struct Head {
    id: i64,
    last_seq: i64,
    created_at: i64,
    updated_at: i64,
}

impl Head {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            last_seq: row.get(1)?,
            created_at: row.get(2)?,
            updated_at: row.get(3)?,
        })
    }
}

/// Loads a document with everything that belongs to it.
fn load_document(connection: &Connection, head: &Head) -> Result<StoredDocument, StoreError> {
    let document = DocumentId(head.id.unsigned_abs());
    let schema = connection
        .prepare_cached("SELECT schema, checksum FROM schemas WHERE document = ?1")
        .and_then(|mut select| {
            select
                .query_row([head.id], |row| {
                    Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
                })
                .optional()
        })
        .map_err(document_error(document))?;
    let schema = match schema {
        Some((schema, checksum)) if checksum == schema_checksum(head.id, &schema) => schema,
        Some(_) => {
            return Err(corrupt(
                document,
                "the checksum of its schema does not match",
            ));
        }
        None => return Err(corrupt(document, "its schema is missing")),
    };

    let snapshot = connection
        .prepare_cached("SELECT through, state, checksum FROM snapshots WHERE document = ?1")
        .and_then(|mut select| {
            let row = |row: &Row<'_>| {
                Ok((
                    row.get::<_, i64>(0)?,
                    row.get::<_, Vec<u8>>(1)?,
                    row.get::<_, i64>(2)?,
                ))
            };
            select.query_row([head.id], row).optional()
        })
        .map_err(document_error(document))?;
    let (snapshot_seq, snapshot) = match snapshot {
        None => (0, None),
        Some((through, state, checksum)) => {
            let place = (head.id, Kind::Snapshot, through);
            let state = Key::read(connection, head.id)
                .and_then(|key| unsealed(connection, &key, place, checksum, state))
                .map_err(document_error(document))?;
            if checksum != snapshot_checksum(head.id, through, Data::Bytes(&state)) {
                return Err(corrupt(
                    document,
                    "the checksum of its snapshot does not match",
                ));
            }
            (through, Some(Bytes::from(state)))
        }
    };

    let updates = updates(connection, document, head.id, snapshot_seq, i64::MAX)?;
    let last = updates
        .last()
        .map_or_else(|| snapshot_seq.unsigned_abs(), |update| update.seq.0);
    if last != head.last_seq.unsigned_abs() {
        return Err(corrupt(document, "the end of its log is missing"));
    }
    Ok(StoredDocument {
        document,
        schema,
        snapshot,
        snapshot_seq: Seq(snapshot_seq.unsigned_abs()),
        updates,
        last_seq: Seq(head.last_seq.unsigned_abs()),
        created_at: Timestamp(head.created_at),
        updated_at: Timestamp(head.updated_at),
    })
}

pub(crate) fn follow(
    connection: &Connection,
    document: DocumentId,
    after: Seq,
    limit: usize,
) -> Result<Vec<StoredUpdate>, StoreError> {
    let id = i64::try_from(document.0).map_err(|_| StoreError::NoSuchDocument { document })?;
    let through: Option<i64> = connection
        .prepare_cached(
            "SELECT coalesce(through, 0) FROM entries LEFT JOIN snapshots ON document = id
             WHERE id = ?1 AND kind = 1",
        )
        .and_then(|mut select| select.query_row([id], |row| row.get(0)).optional())
        .map_err(document_error(document))?;
    let through = Seq(through
        .ok_or(StoreError::NoSuchDocument { document })?
        .unsigned_abs());
    if after < through {
        return Err(StoreError::Compacted { document, through });
    }
    // Beyond SQLite's range of integers there are no updates.
    let Ok(after) = i64::try_from(after.0) else {
        return Ok(Vec::new());
    };
    updates(
        connection,
        document,
        id,
        after,
        i64::try_from(limit).unwrap_or(i64::MAX),
    )
}

/// Returns the updates after a position, compared with their checksums and without gaps.
fn updates(
    connection: &Connection,
    document: DocumentId,
    id: i64,
    after: i64,
    limit: i64,
) -> Result<Vec<StoredUpdate>, StoreError> {
    let mut updates = Vec::new();
    let mut expected = after;
    let mut names = AuthorNames::new(connection, id);
    let mut collect = || {
        let key = Key::read(connection, id)?;
        let mut select = connection.prepare_cached(
            "SELECT seq, at, contributions, contributions_checksum, data, checksum FROM updates
             WHERE document = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
        )?;
        let mut rows = select.query([id, after, limit])?;
        while let Some(row) = rows.next()? {
            let seq: i64 = row.get(0)?;
            let at = Timestamp(row.get(1)?);
            let (text, checksum) = (row.get_ref(2)?, row.get(3)?);
            let contributions = contributions(&mut names, id, seq, at, text, checksum)?;
            let checksum: i64 = row.get(5)?;
            let place = (id, Kind::Update, seq);
            let data = unsealed(connection, &key, place, checksum, row.get(4)?)?;
            expected += 1;
            if seq != expected {
                return Ok(Some(format!("its update {expected} is missing")));
            }
            if checksum != update_checksum(id, seq, at, Data::Bytes(&data)) {
                return Ok(Some(format!(
                    "the checksum of its update {seq} does not match"
                )));
            }
            updates.push(StoredUpdate {
                seq: Seq(seq.unsigned_abs()),
                update: Bytes::from(data),
                contributions: contributions.unwrap_or_default(),
                at,
            });
        }
        Ok(None)
    };
    match collect().map_err(document_error(document))? {
        None => Ok(updates),
        Some(what) => Err(corrupt(document, what)),
    }
}

/// Returns a value unsealed: the one in the row, or its content in parts.
fn unsealed(
    connection: &Connection,
    key: &Key,
    (entry, kind, position): (i64, Kind, i64),
    checksum: i64,
    mut value: Vec<u8>,
) -> rusqlite::Result<Vec<u8>> {
    if value.is_empty()
        && let Some(content) = Stored::find(connection, entry, kind, position)?
    {
        return content.read(connection, key);
    }
    key.apply(kind, position, checksum, &mut value);
    Ok(value)
}

pub(crate) fn read_file(
    connection: &Connection,
    room: &RoomId,
    path: &str,
) -> Result<Option<StoredFile>, StoreError> {
    let find = || {
        let Some(room) = room_row(connection, room)? else {
            return Ok(None);
        };
        connection
            .prepare_cached(
                "SELECT id, created_at, updated_at, mime_type, data, checksum
                 FROM entries JOIN files ON file = id
                 WHERE room = ?1 AND path = ?2",
            )?
            .query_row(params![room, path], |row| {
                let key = Key::read(connection, row.get(0)?)?;
                let place = (row.get(0)?, Kind::File, 0);
                let data = unsealed(connection, &key, place, row.get(5)?, row.get(4)?)?;
                let file = StoredFile {
                    data: Bytes::from(data),
                    mime_type: row.get(3)?,
                    created_at: Timestamp(row.get(1)?),
                    updated_at: Timestamp(row.get(2)?),
                };
                Ok((file, row.get::<_, i64>(0)?, row.get::<_, i64>(5)?))
            })
            .optional()
    };
    match find().map_err(store_error)? {
        None => Ok(None),
        Some((file, id, checksum))
            if checksum == file_checksum(id, &file.mime_type, Data::Bytes(&file.data)) =>
        {
            Ok(Some(file))
        }
        Some(_) => Err(StoreError::Corrupt {
            document: None,
            what: format!("the checksum of the file {path:?} in room {room} does not match"),
        }),
    }
}

pub(crate) fn stats(connection: &rusqlite::Transaction<'_>) -> Result<StoreStats, StoreError> {
    let count = || {
        let mut select = connection.prepare_cached(
            "SELECT kind, count(*), coalesce(sum(size), 0) FROM entries
             WHERE room > 0 GROUP BY kind",
        )?;
        let mut rows = select.query([])?;
        let mut stats = StoreStats::default();
        while let Some(row) = rows.next()? {
            let (kind, entries, bytes): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let total = if kind == DOCUMENT {
                &mut stats.documents
            } else {
                &mut stats.files
            };
            *total = entries.unsigned_abs();
            stats.bytes += bytes.unsigned_abs();
        }
        Ok(stats)
    };
    count().map_err(store_error)
}

/// Returns the projects that have rooms.
pub(crate) fn projects(connection: &Connection) -> Result<Vec<String>, StoreError> {
    let select = || {
        connection
            .prepare_cached("SELECT DISTINCT project FROM rooms WHERE id > 0 ORDER BY project")?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<String>>>()
    };
    select().map_err(store_error)
}

/// Reads a row that has no meaning, to test the database.
pub(crate) fn probe(connection: &rusqlite::Transaction<'_>) -> Result<(), StoreError> {
    connection
        .prepare_cached("SELECT count FROM probe")
        .and_then(|mut select| select.query_row([], |row| row.get::<_, i64>(0)))
        .map(drop)
        .map_err(store_error)
}

pub(crate) fn room_row(connection: &Connection, room: &RoomId) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT id FROM rooms WHERE project = ?1 AND name = ?2 AND id > 0")?
        .query_row(params![room.project, room.room], |row| row.get(0))
        .optional()
}

pub(crate) fn has_children(
    connection: &Connection,
    room: i64,
    folder: &str,
) -> rusqlite::Result<bool> {
    let (start, end) = below(folder);
    connection
        .prepare_cached(
            "SELECT 1 FROM entries
                         WHERE room = ?1 AND path >= ?2 AND path < coalesce(?3, ?4) LIMIT 1",
        )?
        .exists(params![room, start, end, END_OF_TEXT])
}

/// Converts a row of path, kind, size, `created_at`, `updated_at`.
fn entry(name: &str, row: &Row<'_>) -> rusqlite::Result<Entry> {
    let kind: i64 = row.get(1)?;
    let size: i64 = row.get(2)?;
    Ok(Entry {
        name: name.to_owned(),
        kind: if kind == DOCUMENT {
            EntryKind::Document
        } else {
            EntryKind::File
        },
        size: Some(size.unsigned_abs()),
        created_at: Some(Timestamp(row.get(3)?)),
        updated_at: Some(Timestamp(row.get(4)?)),
    })
}

fn folder(name: &str) -> Entry {
    Entry {
        name: name.to_owned(),
        kind: EntryKind::Folder,
        size: None,
        created_at: None,
        updated_at: None,
    }
}

/// Returns the path and room of a document for a message, if they can be read.
pub(crate) fn place(connection: &Connection, document: DocumentId) -> Option<String> {
    let id = i64::try_from(document.0).ok()?;
    let found = connection.query_row(
        "SELECT path, project, name FROM entries JOIN rooms ON rooms.id = room
         WHERE entries.id = ?1",
        [id],
        |row| {
            let [path, project, room] = [row.get(0)?, row.get(1)?, row.get::<_, String>(2)?];
            Ok(format!("{path:?} in room {}", RoomId::new(project, room)))
        },
    );
    found.ok()
}

/// Adds path and room to an error that names a damaged document, if they can be read.
pub(crate) fn named(connection: &rusqlite::Transaction<'_>) -> impl Fn(StoreError) -> StoreError {
    |error| match error {
        StoreError::Corrupt {
            document: Some(document),
            what,
        } => {
            let what = match place(connection, document) {
                Some(place) => format!("{place}: {what}"),
                None => what,
            };
            StoreError::Corrupt {
                document: Some(document),
                what,
            }
        }
        error => error,
    }
}

fn corrupt(document: DocumentId, what: impl Into<String>) -> StoreError {
    StoreError::Corrupt {
        document: Some(document),
        what: what.into(),
    }
}
