//! The writes of a batch, applied in one transaction.

use std::collections::{BTreeMap, HashSet};

use meshagent_store::{DocumentId, Write, WriteError, Written};

use super::{Failed, Session, Step};
use crate::contents::{Content, Staged};
use crate::freeing::Removal;
use crate::write::{self, Failure};

/// Writes that are committed together.
#[derive(Clone, Copy)]
pub(super) struct Batch<'a> {
    pub(super) writes: &'a [Write],
    /// The staged content of each write; empty if the batch is not staged.
    pub(super) staged: &'a [Staged],
    pub(super) removal: Removal,
}

/// Applies the writes of a batch from `start` on, except those that are known to fail, and those
/// that build on them.
pub(super) fn apply_all(
    session: &mut Session,
    batch: Batch<'_>,
    damaged: &BTreeMap<usize, WriteError>,
    start: usize,
) -> Result<Vec<Result<Written, WriteError>>, Failed> {
    let mut results = Vec::with_capacity(batch.writes.len());
    // A later update of a document builds on the refused one.
    let mut broken: HashSet<DocumentId> = HashSet::new();
    for (index, write) in batch.writes.iter().enumerate() {
        let behind = match write {
            Write::Append { document, .. } | Write::Snapshot { document, .. } => {
                broken.get(document).copied()
            }
            _ => None,
        };
        let result = if let Some(error) = damaged.get(&index) {
            Err(error.clone())
        } else if let Some(document) = behind {
            Err(WriteError::Behind { document })
        } else if index < start {
            continue;
        } else {
            let staged = match batch.staged.get(index) {
                Some(Staged::Done(content)) => content.as_ref(),
                _ => None,
            };
            let result = apply(session, write, batch.removal, staged);
            result.map_err(Step::Write(index).failed())?
        };
        if let (Write::Append { document, .. }, Err(error)) = (write, &result)
            && error.breaks_document()
        {
            broken.insert(*document);
        }
        results.push(result);
    }
    Ok(results)
}

fn apply(
    session: &mut Session,
    write: &Write,
    removal: Removal,
    staged: Option<&Content>,
) -> rusqlite::Result<Result<Written, WriteError>> {
    let Session {
        connection,
        authors,
    } = session;
    if matches!(write, Write::Append { .. }) {
        // An append, the most common write, avoids the copies of pages that a savepoint makes: if
        // it is refused, that happens before it changes anything.
        return match write::apply(connection, authors, write, removal, staged) {
            Ok(written) => Ok(Ok(written)),
            Err(Failure::Refused(error)) => Ok(Err(error)),
            Err(Failure::Sqlite(error)) => Err(error),
        };
    }
    connection
        .prepare_cached("SAVEPOINT one_write")?
        .execute([])?;
    let result = match write::apply(connection, authors, write, removal, staged) {
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
