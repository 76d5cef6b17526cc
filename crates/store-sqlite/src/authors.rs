//! The authors that the updates of a log refer to. Each has a row for each document that it writes
//! to, so that an update refers to it by a number.
//!
//! A row exists as long as an update in the log refers to it. The author's fields are part of the
//! checksum of each such update, so the rows have no checksums of their own.

use std::collections::{HashMap, HashSet};

use meshagent_store::Author;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};

use crate::checksum::Checksum;

/// The number of authors that the writer remembers. When it is exceeded, the writer forgets all;
/// they get further rows with their next writes.
const MAX_KNOWN: usize = 10_000;

/// The row of an author.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AuthorRow {
    pub(crate) id: i64,
    /// The checksum of the author's fields.
    pub(crate) checksum: i64,
}

/// The rows that the writer knows. They are valid for its connection's present transaction: a
/// rollback must drop this value, too.
///
/// An author may have several rows for a document, since this cache forgets existing rows.
#[derive(Debug, Default)]
pub(crate) struct Authors {
    by_document: HashMap<i64, HashMap<Author, AuthorRow>>,
    known: usize,
}

impl Authors {
    /// Returns the author's row for a document, and inserts it if it isn't known.
    pub(crate) fn row(
        &mut self,
        connection: &Connection,
        document: i64,
        author: &Author,
    ) -> rusqlite::Result<AuthorRow> {
        let known = self.by_document.get(&document);
        if let Some(row) = known.and_then(|authors| authors.get(author)) {
            return Ok(*row);
        }
        let id = connection
            .prepare_cached(
                "INSERT INTO authors (document, participant, role, on_behalf_of, connection)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .insert(params![
                document,
                author.participant,
                author.role,
                author.on_behalf_of,
                author.connection,
            ])?;
        let row = AuthorRow {
            id,
            checksum: author_checksum(document, author),
        };
        if self.known == MAX_KNOWN {
            *self = Self::default();
        }
        self.known += 1;
        self.by_document
            .entry(document)
            .or_default()
            .insert(author.clone(), row);
        Ok(row)
    }

    /// Removes the rows of a document that are not in `named`.
    pub(crate) fn sweep(
        &mut self,
        connection: &Connection,
        document: i64,
        named: &HashSet<i64>,
    ) -> rusqlite::Result<()> {
        if let Some(authors) = self.by_document.get_mut(&document) {
            self.known -= authors.len();
            authors.retain(|_, row| named.contains(&row.id));
            self.known += authors.len();
            if authors.is_empty() {
                self.by_document.remove(&document);
            }
        }
        let ids: Vec<i64> = connection
            .prepare_cached("SELECT id FROM authors WHERE document = ?1")?
            .query_map([document], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let mut delete = connection.prepare_cached("DELETE FROM authors WHERE id = ?1")?;
        for id in ids.iter().filter(|id| !named.contains(id)) {
            delete.execute([id])?;
        }
        Ok(())
    }
}

/// Reads the authors that a document's updates refer to, each once.
pub(crate) struct AuthorNames<'a> {
    connection: &'a Connection,
    document: i64,
    read: HashMap<i64, Option<(Author, i64)>>,
}

impl<'a> AuthorNames<'a> {
    pub(crate) fn new(connection: &'a Connection, document: i64) -> Self {
        Self {
            connection,
            document,
            read: HashMap::new(),
        }
    }

    /// Returns an author and its checksum; `None` if the row is missing or differs from what
    /// was written.
    pub(crate) fn get(&mut self, id: i64) -> rusqlite::Result<Option<&(Author, i64)>> {
        if !self.read.contains_key(&id) {
            let author = self.find(id)?;
            let named = author.map(|author| {
                let checksum = author_checksum(self.document, &author);
                (author, checksum)
            });
            self.read.insert(id, named);
        }
        Ok(self.read[&id].as_ref())
    }

    fn find(&self, id: i64) -> rusqlite::Result<Option<Author>> {
        let found = self
            .connection
            .prepare_cached(
                "SELECT participant, role, on_behalf_of, connection FROM authors
                 WHERE id = ?1 AND document = ?2",
            )?
            // A conversion fails here if the value differs from what was written.
            .query_row([id, self.document], |row| Ok(author(row).ok()))
            .optional();
        match found {
            Ok(author) => Ok(author.flatten()),
            // The update itself is in another place, and may be valid.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn author(row: &Row<'_>) -> rusqlite::Result<Author> {
    Ok(Author {
        participant: row.get(0)?,
        role: row.get(1)?,
        on_behalf_of: row.get(2)?,
        connection: row.get(3)?,
    })
}

fn author_checksum(document: i64, author: &Author) -> i64 {
    Checksum::default()
        .number(document)
        .text(&author.participant)
        .text(&author.role)
        .optional_text(author.on_behalf_of.as_deref())
        .text(&author.connection)
        .finish()
}
