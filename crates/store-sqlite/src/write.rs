//! The SQL of each kind of write. A function that fails may leave its work half done; its caller
//! rolls that back.

mod documents;
mod entries;
mod files;
mod tree;
mod value;

use meshagent_store::{Seq, Write, WriteError, Written};
use rusqlite::Connection;

use self::documents::{append, check_range, create_document, last_seq, snapshot};
use self::entries::leaf_of;
use self::files::{File, check_replaceable, put_file};
use self::tree::{delete, rename};
use self::value::check_size;
use crate::authors::Authors;
use crate::contents::Content;
use crate::freeing::Removal;

pub(crate) use self::documents::{schema_checksum, snapshot_checksum, update_checksum};
pub(crate) use self::files::file_checksum;

/// The reason why a write failed.
pub(crate) enum Failure {
    /// The write is invalid in the present state.
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

/// Applies a write. Its content may be staged: written in parts, and complete.
pub(crate) fn apply(
    connection: &Connection,
    authors: &mut Authors,
    write: &Write,
    removal: Removal,
    staged: Option<&Content>,
) -> Result<Written, Failure> {
    let staged = match (staged, write.content()) {
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
            let document = create_document(connection, room, path, schema, *at, staged)?;
            let seq = if state.is_empty() {
                Seq(0)
            } else {
                append(
                    connection,
                    authors,
                    document,
                    None,
                    state,
                    contributions,
                    *at,
                    staged,
                )?
            };
            Ok(Written::Created { document, seq })
        }
        Write::Append {
            document,
            end,
            update,
            contributions,
            at,
        } => {
            let seq = append(
                connection,
                authors,
                *document,
                *end,
                update,
                contributions,
                *at,
                staged,
            )?;
            Ok(Written::Appended { seq })
        }
        Write::Snapshot {
            document,
            end,
            through,
            state,
            fold_before,
        } => snapshot(
            connection,
            authors,
            *document,
            *end,
            *through,
            state,
            *fold_before,
            staged,
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
                staged,
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

/// Checks whether a write would be refused in the present state, apart from the effects of earlier
/// writes of its batch. The entries that it would change are not examined.
pub(crate) fn precheck(connection: &Connection, write: &Write) -> Result<(), Failure> {
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
            end,
            through,
            state,
            ..
        } => {
            check_size(state.len())?;
            check_range(connection, *document, *end, *through)?;
        }
        Write::Delete { .. } | Write::Move { .. } => {}
    }
    Ok(())
}
