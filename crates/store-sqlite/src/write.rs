//! Each kind of write as SQL. A function may leave half its work behind when it fails; its caller undoes that.

use meshagent_store::path::{MAX_BYTES, below, is_below};
use meshagent_store::provenance::MAX_RANGES;
use meshagent_store::{
    Contribution, DocumentId, MAX_TOUCHED_ENTRIES, MovedEntry, Reach, Removed, RoomId, Seq,
    Timestamp, Write, WriteError, Written,
};
use rusqlite::{Connection, OptionalExtension, params};

use crate::authors::Authors;
use crate::checksum::{Checksum, Data};
use crate::contents::{self, Content, PART_BYTES};
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

/// Does a write, whose content may be `ahead`: written in parts, and complete.
pub(crate) fn apply(
    connection: &Connection,
    authors: &mut Authors,
    write: &Write,
    removal: Removal,
    ahead: Option<&Content>,
) -> Result<Written, Failure> {
    let ahead = match (ahead, write.content()) {
        (Some(content), Some(data)) if content.is_complete(connection, data)? => Some(content),
        _ => None,
    };
    match write {
        Write::CreateDocument {
            room,
            path,
            schema,
            state,
            contributions,
            at,
        } => {
            let document = create_document(connection, room, path, schema, *at, ahead)?;
            let seq = if state.is_empty() {
                Seq(0)
            } else {
                append(
                    connection,
                    authors,
                    document,
                    state,
                    contributions,
                    *at,
                    ahead,
                )?
            };
            Ok(Written::Created { document, seq })
        }
        Write::Append {
            document,
            update,
            contributions,
            at,
        } => {
            let seq = append(
                connection,
                authors,
                *document,
                update,
                contributions,
                *at,
                ahead,
            )?;
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
            ahead,
        ),
        Write::PutFile {
            room,
            path,
            data,
            mime_type,
            overwrite,
            at,
        } => {
            let file = File {
                data,
                mime_type,
                at: *at,
                ahead,
            };
            put_file(connection, room, path, file, *overwrite, removal)
        }
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

/// Whether a write would be refused as things stand, though not for what its own batch does before it. What it would
/// change is not looked at.
pub(crate) fn refuses(connection: &Connection, write: &Write) -> Result<(), Failure> {
    match write {
        Write::CreateDocument {
            room, path, state, ..
        } => {
            check_size(state.len())?;
            if leaf_of(connection, room, path)?.is_some() {
                return Err(WriteError::AlreadyExists { path: path.clone() }.into());
            }
        }
        Write::PutFile {
            room,
            path,
            data,
            overwrite,
            ..
        } => {
            check_size(data.len())?;
            check_replaceable(leaf_of(connection, room, path)?, path, *overwrite)?;
        }
        Write::Append {
            document, update, ..
        } => {
            check_size(update.len())?;
            last_seq(connection, *document)?;
        }
        Write::Snapshot {
            document,
            through,
            state,
            ..
        } => {
            check_size(state.len())?;
            check_range(connection, *document, *through)?;
        }
        Write::Delete { .. } | Write::Move { .. } => {}
    }
    Ok(())
}

fn create_document(
    connection: &Connection,
    room: &RoomId,
    path: &str,
    schema: &str,
    at: Timestamp,
    ahead: Option<&Content>,
) -> Result<DocumentId, Failure> {
    let room = make_room(connection, room)?;
    if leaf(connection, room, path)?.is_some() {
        return Err(WriteError::AlreadyExists {
            path: path.to_owned(),
        }
        .into());
    }
    check_size(schema.len())?;
    let id = match ahead.and_then(Content::new_entry) {
        Some(id) => place_entry(connection, id, room, path, DOCUMENT, 0, at)?,
        None => insert_entry(connection, room, path, DOCUMENT, 0, at)?,
    };
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
    ahead: Option<&Content>,
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
    let sealed = Sealed::new(connection, id, Kind::Update, seq, update, ahead, |data| {
        update_checksum(id, seq, at, data)
    })?;
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
            sealed.value,
            sealed.checksum,
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
    ahead: Option<&Content>,
) -> Result<Written, Failure> {
    let id = document_row(document)?;
    check_size(state.len())?;
    let through = check_range(connection, document, through)?;
    contents::detach_through(connection, id, through)?;
    let sealed = Sealed::new(
        connection,
        id,
        Kind::Snapshot,
        through,
        state,
        ahead,
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

/// The position, if a snapshot can go through it.
fn check_range(
    connection: &Connection,
    document: DocumentId,
    through: Seq,
) -> Result<i64, Failure> {
    let last = last_seq(connection, document)?;
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

fn last_seq(connection: &Connection, document: DocumentId) -> Result<i64, Failure> {
    let last = connection
        .prepare_cached("SELECT last_seq FROM entries WHERE id = ?1 AND kind = 1")?
        .query_row([document_row(document)?], |row| row.get(0))
        .optional()?
        .ok_or(WriteError::NoSuchDocument { document })?;
    Ok(last)
}

/// A content as its row has it: an empty value if it is kept in parts.
struct Sealed {
    value: Vec<u8>,
    checksum: i64,
}

impl Sealed {
    fn new(
        connection: &Connection,
        entry: i64,
        kind: Kind,
        position: i64,
        data: &[u8],
        ahead: Option<&Content>,
        checksum: impl FnOnce(Data<'_>) -> i64,
    ) -> rusqlite::Result<Self> {
        let written;
        let content = match ahead {
            Some(content) => content,
            None if data.len() > PART_BYTES => {
                written = Content::write(connection, entry, data)?;
                &written
            }
            None => {
                let checksum = checksum(Data::Bytes(data));
                let key = Key::read(connection, entry)?;
                let value = key.sealed(kind, position, checksum, data);
                return Ok(Self { value, checksum });
            }
        };
        content.attach(connection, kind, position)?;
        Ok(Self {
            value: Vec::new(),
            checksum: checksum(Data::Sum(content.sum())),
        })
    }
}

/// What is put at a path.
#[derive(Clone, Copy)]
struct File<'a> {
    data: &'a [u8],
    mime_type: &'a str,
    at: Timestamp,
    ahead: Option<&'a Content>,
}

fn put_file(
    connection: &Connection,
    room: &RoomId,
    path: &str,
    file: File<'_>,
    overwrite: bool,
    removal: Removal,
) -> Result<Written, Failure> {
    let room = make_room(connection, room)?;
    let found = leaf(connection, room, path)?;
    check_replaceable(found, path, overwrite)?;
    let size = check_size(file.data.len())?;
    let at = file.at;
    let new_entry = file.ahead.and_then(Content::new_entry);
    let id = match found {
        Some(leaf) if new_entry.is_none() && !contents::has_any(connection, leaf.id)? => {
            connection
                .prepare_cached("UPDATE entries SET size = ?2, updated_at = ?3 WHERE id = ?1")?
                .execute(params![leaf.id, size, at.0])?;
            Key::replace(connection, leaf.id)?;
            leaf.id
        }
        // Another entry, as what is in parts is freed with its entry.
        Some(leaf) => {
            let created_at = connection
                .prepare_cached("SELECT created_at FROM entries WHERE id = ?1")?
                .query_row([leaf.id], |row| row.get(0))?;
            remove(connection, vec![(path.to_owned(), leaf)], removal)?;
            let created_at = Timestamp(created_at);
            let id = match new_entry {
                Some(id) => place_entry(connection, id, room, path, FILE, size, created_at)?,
                None => insert_entry(connection, room, path, FILE, size, created_at)?,
            };
            connection
                .prepare_cached("UPDATE entries SET updated_at = ?2 WHERE id = ?1")?
                .execute([id, at.0])?;
            id
        }
        None => match new_entry {
            Some(id) => place_entry(connection, id, room, path, FILE, size, at)?,
            None => insert_entry(connection, room, path, FILE, size, at)?,
        },
    };
    let sealed = Sealed::new(
        connection,
        id,
        Kind::File,
        0,
        file.data,
        file.ahead,
        |data| file_checksum(id, file.mime_type, data),
    )?;
    connection
        .prepare_cached(
            "INSERT INTO files (file, mime_type, data, checksum) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (file) DO UPDATE SET mime_type = ?2, data = ?3, checksum = ?4",
        )?
        .execute(params![id, file.mime_type, sealed.value, sealed.checksum])?;
    Ok(Written::Put {
        replaced: found.is_some(),
    })
}

fn check_replaceable(found: Option<Leaf>, path: &str, overwrite: bool) -> Result<(), WriteError> {
    let path = || path.to_owned();
    match found {
        Some(_) if !overwrite => Err(WriteError::AlreadyExists { path: path() }),
        Some(leaf) if leaf.document().is_some() => Err(WriteError::IsDocument { path: path() }),
        _ => Ok(()),
    }
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

/// The same in a room that may not be there.
fn leaf_of(connection: &Connection, room: &RoomId, path: &str) -> Result<Option<Leaf>, Failure> {
    // A number that no room has.
    let room = read::room_row(connection, room)?.unwrap_or(0);
    leaf(connection, room, path)
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

/// The same with an entry that is there, and not in a room.
fn place_entry(
    connection: &Connection,
    id: i64,
    room: i64,
    path: &str,
    kind: i64,
    size: i64,
    at: Timestamp,
) -> rusqlite::Result<i64> {
    connection
        .prepare_cached(
            "UPDATE entries SET room = ?2, path = ?3, kind = ?4, size = ?5, created_at = ?6, updated_at = ?6
             WHERE id = ?1",
        )?
        .execute(params![id, room, path, kind, size, at.0])?;
    Ok(id)
}

fn make_room(connection: &Connection, room: &RoomId) -> rusqlite::Result<i64> {
    if let Some(row) = read::room_row(connection, room)? {
        return Ok(row);
    }
    connection
        // SQLite itself would begin behind the room of what is to be freed, which may come first: with 0.
        .prepare_cached(
            "INSERT INTO rooms (id, project, name)
             VALUES ((SELECT max(0, coalesce(max(id), 0)) + 1 FROM rooms), ?1, ?2)",
        )?
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

pub(crate) fn file_checksum(file: i64, mime_type: &str, data: Data<'_>) -> i64 {
    Checksum::default()
        .number(file)
        .text(mime_type)
        .data(data)
        .finish()
}
