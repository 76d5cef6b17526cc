//! The one connection that writes: a batch becomes one transaction, a refused write costs only itself.

use std::path::PathBuf;

use meshagent_store::{StoreError, Write, WriteError, Written};
use rusqlite::Connection;

use crate::authors::Authors;
use crate::error::store_error;
use crate::open::{Options, open_writer};
use crate::write::{self, Failure};

#[derive(Debug)]
pub(crate) struct Writer {
    path: PathBuf,
    options: Options,
    /// `None` after a failure, until the next attempt.
    session: Option<Session>,
}

/// A connection, and what is known of the state that it sees.
#[derive(Debug)]
struct Session {
    connection: Connection,
    authors: Authors,
}

impl Session {
    fn new(connection: Connection) -> Self {
        Self {
            connection,
            authors: Authors::default(),
        }
    }
}

impl Writer {
    pub(crate) fn new(path: PathBuf, options: Options, connection: Connection) -> Self {
        Self {
            path,
            options,
            session: Some(Session::new(connection)),
        }
    }

    pub(crate) fn commit(
        &mut self,
        writes: &[Write],
    ) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
        let result = self.transact(
            |Session {
                 connection,
                 authors,
             }| {
                let mut results = Vec::with_capacity(writes.len());
                for write in writes {
                    results.push(apply(connection, authors, write)?);
                }
                Ok(results)
            },
        );
        if result.is_err() {
            // If it was the last sync that failed, the batch lies complete in the WAL's tail, where a restart would
            // find it. The next transaction overwrites the tail; so try one now, for what it's worth.
            let _ = self.probe();
        }
        result
    }

    /// Writes something of no meaning, all the way to the disk.
    pub(crate) fn probe(&mut self) -> Result<(), StoreError> {
        self.transact(|session| {
            session
                .connection
                .prepare_cached("UPDATE probe SET count = count + 1")?
                .execute([])?;
            Ok(())
        })
    }

    fn transact<T>(
        &mut self,
        run: impl FnOnce(&mut Session) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => Session::new(open_writer(&self.path, &self.options).map_err(store_error)?),
        };
        let result = (|| {
            let begin = "BEGIN IMMEDIATE";
            session.connection.prepare_cached(begin)?.execute([])?;
            let result = run(&mut session)?;
            session.connection.prepare_cached("COMMIT")?.execute([])?;
            Ok(result)
        })();
        if result.is_ok() {
            self.session = Some(session);
        }
        // Else the connection is closed here, which rolls back whatever it had under way; what was known goes too.
        result.map_err(store_error)
    }
}

fn apply(
    connection: &Connection,
    authors: &mut Authors,
    write: &Write,
) -> rusqlite::Result<Result<Written, WriteError>> {
    if matches!(write, Write::Append { .. }) {
        // The commonest write is spared the copies of pages that a savepoint makes: it is refused, if at all, before
        // it changes anything.
        return match write::apply(connection, authors, write) {
            Ok(written) => Ok(Ok(written)),
            Err(Failure::Refused(error)) => Ok(Err(error)),
            Err(Failure::Sqlite(error)) => Err(error),
        };
    }
    connection
        .prepare_cached("SAVEPOINT one_write")?
        .execute([])?;
    let result = match write::apply(connection, authors, write) {
        Ok(written) => Ok(written),
        Err(Failure::Refused(error)) => {
            connection
                .prepare_cached("ROLLBACK TO one_write")?
                .execute([])?;
            Err(error)
        }
        Err(Failure::Sqlite(error)) => return Err(error),
    };
    connection
        .prepare_cached("RELEASE one_write")?
        .execute([])?;
    Ok(result)
}
