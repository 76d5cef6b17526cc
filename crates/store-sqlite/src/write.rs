//! Each kind of write as SQL. A function may leave half its work behind when it fails; its caller undoes that.

use meshagent_store::path::{MAX_BYTES, below, is_below};
use meshagent_store::provenance::MAX_RANGES;
use meshagent_store::{
    Contribution, DocumentId, MAX_TOUCHED_ENTRIES, MovedEntry, Reach, Removed, RoomId, Seq,
    Timestamp, Write, WriteError, Written,
};
use rusqlite::{Connection, OptionalExtension, params};

use crate::authors::Authors;
use crate::checksum::Checksum;
use crate::freeing::{self, Removal};
use crate::provenance::{MAX_TEXT_BYTES, contributions_text, fold_log};
use crate::read::{self, END_OF_TEXT};
use crate::schema::{DOCUMENT, FILE};
use crate::seal::{Key, Kind};

/// What one row can take, well below SQLite's own bound of 10⁹ bytes for a whole row.
const MAX_VALUE_BYTES: u64 = 512 << 20;

/// Why a write came to nothing.
pub(crate) enum Failure {
    /// It makes no sense as things stand.
    Refused(WriteError),
    /// The database failed, and the batch with it.
    Sqlite(rusqlite::Error),
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        Self::Refused(error)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

pub(crate) fn apply(
    connection: &Connection,
    authors: &mut Authors,
    write: &Write,
    removal: Removal,
) -> Result<Written, Failure> {
    match write {
        Write::CreateDocument {
            room,
            path,
            schema,
            state,
            contributions,
            at,
        } => {
            let document = create_document(connection, room, path, schema, *at)?;
            let seq = if state.is_empty() {
                Seq(0)
            } else {
                append(connection, authors, document, state, contributions, *at)?
            };
            Ok(Written::Created { document, seq })
        }
        Write::Append {
            document,
            update,
            contributions,
            at,
        } => {
            let seq = append(connection, authors, *document, update, contributions, *at)?;
            Ok(Written::Appended { seq })
        }
        Write::Snapshot {
            document,
            through,
            state,
            fold_before,
        } => snapshot(
            connection,
            authors,
            *document,
            *through,
            state,
            *fold_before,
        ),
        Write::PutFile {
            room,
            path,
            data,
            mime_type,
            overwrite,
            at,
        } => put_file(connection, room, path, data, mime_type, *overwrite, *at),
        Write::Delete {
            room,
            path,
            recursive,
            reach,
        } => delete(connection, room, path, *recursive, *reach, removal),
        Write::Move {
            room,
            source,
            destination,
            overwrite,
            reach,
            replaces,
            at,
        } => {
            let overwrite = overwrite.then_some(*replaces);
            rename(
                connection,
                room,
                source,
                destination,
                overwrite,
                *reach,
                *at,
                removal,
            )
        }
    }
}

fn create_document(
    connection: &Connection,
    room: &RoomId,
    path: &str,
    schema: &str,
    at: Timestamp,
) -> Result<DocumentId, Failure> {
    let room = make_room(connection, room)?;
    if leaf(connection, room, path)?.is_some() {
        return Err(WriteError::AlreadyExists {
            path: path.to_owned(),
        }
        .into());
    }
    check_size(schema.len())?;
    let id = insert_entry(connection, room, path, DOCUMENT, 0, at)?;
    connection
        .prepare_cached("INSERT INTO schemas (document, schema, checksum) VALUES (?1, ?2, ?3)")?
        .execute(params![id, schema, schema_checksum(id, schema)])?;
    Ok(DocumentId(id.unsigned_abs()))
}

/// Refuses before it changes anything; an append by itself counts on it, and so does what is known of authors.
fn append(
    connection: &Connection,
    authors: &mut Authors,
    document: DocumentId,
    update: &[u8],
    contributions: &[Contribution],
    at: Timestamp,
) -> Result<Seq, Failure> {
    let id = document_row(document)?;
    check_size(update.len() + contributions.iter().map(max_bytes).sum::<usize>())?;
    let size = check_size(update.len())?;
    let seq: i64 = connection
        .prepare_cached(
            "UPDATE entries SET last_seq = last_seq + 1, size = size + ?2, updated_at = ?3
             WHERE id = ?1 AND kind = 1 RETURNING last_seq",
        )?
        .query_row(params![id, size, at.0], |row| row.get(0))
        .optional()?
        .ok_or(WriteError::NoSuchDocument { document })?;
    let contributions = contributions_text(connection, authors, id, seq, at, contributions)?;
    let checksum = update_checksum(id, seq, at, update);
    let sealed = Key::read(connection, id)?.sealed(Kind::Update, seq, checksum, update);
    connection
        .prepare_cached(
            "INSERT INTO updates (document, seq, at, contributions, contributions_checksum, data, checksum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            id,
            seq,
            at.0,
            contributions.text,
            contributions.checksum,
            sealed,
            checksum,
        ])?;
    Ok(Seq(seq.unsigned_abs()))
}

fn snapshot(
    connection: &Connection,
    authors: &mut Authors,
    document: DocumentId,
    through: Seq,
    state: &[u8],
    fold_before: Timestamp,
) -> Result<Written, Failure> {
    let id = document_row(document)?;
    check_size(state.len())?;
    let last: i64 = connection
        .prepare_cached("SELECT last_seq FROM entries WHERE id = ?1 AND kind = 1")?
        .query_row([id], |row| row.get(0))
        .optional()?
        .ok_or(WriteError::NoSuchDocument { document })?;
    let before: i64 = connection
        .prepare_cached("SELECT through FROM snapshots WHERE document = ?1")?
        .query_row([id], |row| row.get(0))
        .optional()?
        .unwrap_or(0);
    let out_of_range = WriteError::SnapshotOutOfRange { document, through };
    let through = i64::try_from(through.0).map_err(|_| out_of_range.clone())?;
    if !(before..=last).contains(&through) {
        return Err(out_of_range.into());
    }
    let checksum = snapshot_checksum(id, through, state);
    let sealed = Key::read(connection, id)?.sealed(Kind::Snapshot, through, checksum, state);
    connection
        .prepare_cached(
            "INSERT INTO snapshots (document, through, state, checksum) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (document) DO UPDATE SET through = ?2, state = ?3, checksum = ?4",
        )?
        .execute(params![id, through, sealed, checksum])?;
    fold_log(connection, authors, id, through, fold_before)?;
    connection
        .prepare_cached(
            "UPDATE entries SET size =
                 (SELECT length(state) FROM snapshots WHERE document = ?1)
                 + (SELECT coalesce(sum(length(data)), 0) FROM updates WHERE document = ?1)
             WHERE id = ?1",
        )?
        .execute([id])?;
    Ok(Written::Snapshotted)
}

fn put_file(
    connection: &Connection,
    room: &RoomId,
    path: &str,
    data: &[u8],
    mime_type: &str,
    overwrite: bool,
    at: Timestamp,
) -> Result<Written, Failure> {
    let room = make_room(connection, room)?;
    let found = leaf(connection, room, path)?;
    if found.is_some() && !overwrite {
        return Err(WriteError::AlreadyExists {
            path: path.to_owned(),
        }
        .into());
    }
    let size = check_size(data.len())?;
    let id = match found {
        Some(leaf) if leaf.document().is_some() => {
            return Err(WriteError::IsDocument {
                path: path.to_owned(),
            }
            .into());
        }
        Some(leaf) => {
            connection
                .prepare_cached("UPDATE entries SET size = ?2, updated_at = ?3 WHERE id = ?1")?
                .execute(params![leaf.id, size, at.0])?;
            Key::replace(connection, leaf.id)?;
            leaf.id
        }
        None => insert_entry(connection, room, path, FILE, size, at)?,
    };
    let checksum = file_checksum(id, mime_type, data);
    let sealed = Key::read(connection, id)?.sealed(Kind::File, 0, checksum, data);
    connection
        .prepare_cached(
            "INSERT INTO files (file, mime_type, data, checksum) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (file) DO UPDATE SET mime_type = ?2, data = ?3, checksum = ?4",
        )?
        .execute(params![id, mime_type, sealed, checksum])?;
    Ok(Written::Put {
        replaced: found.is_some(),
    })
}

fn delete(
    connection: &Connection,
    room: &RoomId,
    path: &str,
    recursive: bool,
    reach: Reach,
    removal: Removal,
) -> Result<Written, Failure> {
    let Some(room) = read::room_row(connection, room)? else {
        return Err(WriteError::NotFound {
            path: path.to_owned(),
        }
        .into());
    };
    let mut doomed = Vec::new();
    if !path.is_empty() {
        doomed.extend(leaf(connection, room, path)?.map(|leaf| (path.to_owned(), leaf)));
    }
    if recursive {
        doomed.extend(leaves_below(connection, room, path)?);
    }
    if doomed.is_empty() {
        let error = if read::has_children(connection, room, path)? {
            WriteError::RecursiveRequired {
                path: path.to_owned(),
            }
        } else {
            WriteError::NotFound {
                path: path.to_owned(),
            }
        };
        return Err(error.into());
    }
    for (doomed, leaf) in &doomed {
        reach.check(doomed, doomed != path, leaf.document().is_some())?;
    }
    Ok(Written::Deleted {
        entries: remove(connection, doomed, removal)?,
    })
}

#[expect(clippy::too_many_arguments, reason = "one for each part of the write")]
fn rename(
    connection: &Connection,
    room: &RoomId,
    source: &str,
    destination: &str,
    overwrite: Option<Reach>,
    reach: Reach,
    at: Timestamp,
    removal: Removal,
) -> Result<Written, Failure> {
    let not_found = || WriteError::NotFound {
        path: source.to_owned(),
    };
    let room = read::room_row(connection, room)?.ok_or_else(not_found)?;
    let single = if source.is_empty() {
        None
    } else {
        leaf(connection, room, source)?
    };
    let is_folder = single.is_none();
    let moving = match single {
        Some(leaf) => vec![(source.to_owned(), leaf)],
        None => leaves_below(connection, room, source)?,
    };
    if moving.is_empty() {
        return Err(not_found().into());
    }
    if source == destination || is_folder && is_below(destination, source) {
        return Err(WriteError::IntoItself.into());
    }
    if destination.is_empty() && !is_folder {
        return Err(WriteError::IsRoot.into());
    }

    for (path, leaf) in &moving {
        reach.check(path, is_folder, leaf.document().is_some())?;
    }
    // A folder often moves to where nothing is, and then nothing is looked for, entry by entry.
    let may_collide =
        !is_folder || destination.is_empty() || read::has_children(connection, room, destination)?;
    let mut moves = Vec::with_capacity(moving.len());
    let mut in_the_way = Vec::new();
    for (path, found) in moving {
        let rest = &path[source.len()..];
        // Only a folder that moves to the root has a slash to lose.
        let rest = if destination.is_empty() {
            rest.trim_start_matches('/')
        } else {
            rest
        };
        let target = format!("{destination}{rest}");
        if target.len() > MAX_BYTES.max(path.len()) {
            return Err(WriteError::PathTooLong { path: target }.into());
        }
        // What moves away itself is not in the way.
        let stays = !(is_folder && is_below(&target, source));
        if may_collide
            && stays
            && let Some(other) = leaf(connection, room, &target)?
        {
            let Some(replaces) = overwrite else {
                return Err(WriteError::AlreadyExists { path: target }.into());
            };
            replaces.check(&target, is_folder, other.document().is_some())?;
            in_the_way.push((target.clone(), other));
        }
        moves.push((
            MovedEntry {
                source: path,
                destination: target,
                document: found.document(),
            },
            found.id,
        ));
    }

    let replaced = remove(connection, in_the_way, removal)?;
    if is_folder && !destination.is_empty() && !is_below(source, destination) {
        rename_folder(connection, room, source, destination, at)?;
    } else {
        rename_each(connection, &moves, at)?;
    }
    Ok(Written::Moved {
        entries: moves.into_iter().map(|(entry, _)| entry).collect(),
        replaced,
    })
}

/// Gives all that lies below a folder its new path, where no path is both a source and a destination.
fn rename_folder(
    connection: &Connection,
    room: i64,
    source: &str,
    destination: &str,
    at: Timestamp,
) -> rusqlite::Result<()> {
    let (start, end) = below(source);
    // SQLite counts characters, from 1.
    let rest = i64::try_from(source.chars().count()).unwrap_or(i64::MAX) + 1;
    connection
        .prepare_cached(
            "UPDATE entries SET path = ?5 || substr(path, ?6), updated_at = ?7
             WHERE room = ?1 AND path >= ?2 AND path < coalesce(?3, ?4)",
        )?
        .execute(params![
            room,
            start,
            end,
            END_OF_TEXT,
            destination,
            rest,
            at.0
        ])?;
    Ok(())
}

/// The same one by one. A path that is both a source and a destination has to be left before it is taken. That happens
/// when a folder moves to one above it, and then whoever leaves has the shorter path.
fn rename_each(
    connection: &Connection,
    moves: &[(MovedEntry, i64)],
    at: Timestamp,
) -> rusqlite::Result<()> {
    let mut order: Vec<&(MovedEntry, i64)> = moves.iter().collect();
    order.sort_by_key(|(entry, _)| entry.source.len());
    let mut update =
        connection.prepare_cached("UPDATE entries SET path = ?2, updated_at = ?3 WHERE id = ?1")?;
    for (entry, id) in order {
        update.execute(params![id, entry.destination, at.0])?;
    }
    Ok(())
}

/// A document's or file's row.
#[derive(Clone, Copy)]
struct Leaf {
    id: i64,
    kind: i64,
}

impl Leaf {
    fn document(self) -> Option<DocumentId> {
        (self.kind == DOCUMENT).then(|| DocumentId(self.id.unsigned_abs()))
    }
}

/// What stands at a path; the root is refused, as nothing can.
fn leaf(connection: &Connection, room: i64, path: &str) -> Result<Option<Leaf>, Failure> {
    if path.is_empty() {
        return Err(WriteError::IsRoot.into());
    }
    let leaf = connection
        .prepare_cached("SELECT id, kind FROM entries WHERE room = ?1 AND path = ?2")?
        .query_row(params![room, path], |row| {
            Ok(Leaf {
                id: row.get(0)?,
                kind: row.get(1)?,
            })
        })
        .optional()?;
    Ok(leaf)
}

fn leaves_below(
    connection: &Connection,
    room: i64,
    folder: &str,
) -> Result<Vec<(String, Leaf)>, Failure> {
    let (start, end) = below(folder);
    let mut select = connection.prepare_cached(
        "SELECT path, id, kind FROM entries WHERE room = ?1 AND path >= ?2 AND path < coalesce(?3, ?4) ORDER BY path LIMIT ?5",
    )?;
    let limit = i64::try_from(MAX_TOUCHED_ENTRIES).unwrap_or(i64::MAX);
    let limit = limit.saturating_add(1);
    let rows = select.query_map(params![room, start, end, END_OF_TEXT, limit], |row| {
        Ok((
            row.get(0)?,
            Leaf {
                id: row.get(1)?,
                kind: row.get(2)?,
            },
        ))
    })?;
    let leaves = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    if leaves.len() > MAX_TOUCHED_ENTRIES {
        return Err(WriteError::TooMany {
            path: folder.to_owned(),
            max: MAX_TOUCHED_ENTRIES,
        }
        .into());
    }
    Ok(leaves)
}

/// Removes rows and, by foreign keys, all that belongs to them: here, or if that is much, [later](crate::freeing).
fn remove(
    connection: &Connection,
    doomed: Vec<(String, Leaf)>,
    removal: Removal,
) -> rusqlite::Result<Vec<Removed>> {
    // Their ids, as JSON, which SQLite takes as a table.
    let ids: Vec<String> = doomed.iter().map(|(_, leaf)| leaf.id.to_string()).collect();
    let ids = format!("[{}]", ids.join(","));
    if removal == Removal::WhenCheap && freeing::is_much(connection, doomed.len(), &ids)? {
        freeing::set_aside(connection, &ids)?;
    } else {
        connection
            .prepare_cached("DELETE FROM entries WHERE id IN (SELECT value FROM json_each(?1))")?
            .execute([&ids])?;
    }
    Key::forget_all(connection, &ids)?;
    let removed = doomed.into_iter().map(|(path, leaf)| Removed {
        path,
        document: leaf.document(),
    });
    Ok(removed.collect())
}

fn insert_entry(
    connection: &Connection,
    room: i64,
    path: &str,
    kind: i64,
    size: i64,
    at: Timestamp,
) -> rusqlite::Result<i64> {
    let id = connection
        .prepare_cached(
            "INSERT INTO entries (room, path, kind, size, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?5)",
        )?
        .insert(params![room, path, kind, size, at.0])?;
    Key::make(connection, id)?;
    Ok(id)
}

fn make_room(connection: &Connection, room: &RoomId) -> rusqlite::Result<i64> {
    if let Some(row) = read::room_row(connection, room)? {
        return Ok(row);
    }
    connection
        .prepare_cached("INSERT INTO rooms (project, name) VALUES (?1, ?2)")?
        .insert(params![room.project, room.room])
}

/// Ids that no row can have are as good as any other that is gone.
fn document_row(document: DocumentId) -> Result<i64, WriteError> {
    i64::try_from(document.0).map_err(|_| WriteError::NoSuchDocument { document })
}

/// More than a contribution takes.
fn max_bytes(contribution: &Contribution) -> usize {
    let author = &contribution.author;
    author.participant.len()
        + author.role.len()
        + author.on_behalf_of.as_ref().map_or(0, String::len)
        + author.connection.len()
        + MAX_TEXT_BYTES * (1 + contribution.operations.len().min(MAX_RANGES))
}

fn check_size(bytes: usize) -> Result<i64, WriteError> {
    let bytes = bytes as u64;
    match i64::try_from(bytes) {
        Ok(size) if bytes <= MAX_VALUE_BYTES => Ok(size),
        _ => Err(WriteError::TooLarge {
            bytes,
            max_bytes: MAX_VALUE_BYTES,
        }),
    }
}

pub(crate) fn schema_checksum(document: i64, schema: &str) -> i64 {
    Checksum::default().number(document).text(schema).finish()
}

pub(crate) fn update_checksum(document: i64, seq: i64, at: Timestamp, update: &[u8]) -> i64 {
    Checksum::default()
        .number(document)
        .number(seq)
        .number(at.0)
        .bytes(update)
        .finish()
}

pub(crate) fn snapshot_checksum(document: i64, through: i64, state: &[u8]) -> i64 {
    Checksum::default()
        .number(document)
        .number(through)
        .bytes(state)
        .finish()
}

pub(crate) fn file_checksum(file: i64, mime_type: &str, data: &[u8]) -> i64 {
    Checksum::default()
        .number(file)
        .text(mime_type)
        .bytes(data)
        .finish()
}
