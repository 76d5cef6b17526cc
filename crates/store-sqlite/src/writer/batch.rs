//! The writes of a batch, applied in one transaction.

use std::collections::{BTreeMap, HashSet};

use meshagent_store::{DocumentId, Write, WriteError, Written};

use super::{At, Failed, Session};
use crate::contents::{Ahead, Content};
use crate::freeing::Removal;
use crate::write::{self, Failure};

/// Writes that are committed together.
#[derive(Clone, Copy)]
pub(super) struct Batch<'a> {
    pub(super) writes: &'a [Write],
    /// What was written ahead of each; nothing if it is empty.
    pub(super) ahead: &'a [Ahead],
    pub(super) removal: Removal,
}

/// Applies the writes of a batch from `start` on, but those that are known to fail, and what builds on them.
pub(super) fn apply_all(
    session: &mut Session,
    batch: Batch<'_>,
    damaged: &BTreeMap<usize, WriteError>,
    start: usize,
) -> Result<Vec<Result<Written, WriteError>>, Failed> {
    let mut results = Vec::with_capacity(batch.writes.len());
    // A later update of a document builds on the one that was refused.
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
            let ahead = match batch.ahead.get(index) {
                Some(Ahead::Done(content)) => content.as_ref(),
                _ => None,
            };
            let result = apply(session, write, batch.removal, ahead);
            result.map_err(At::Write(index).failed())?
        };
        if let (Write::Append { document, .. }, Err(error)) = (write, &result)
            && !matches!(error, WriteError::NoSuchDocument { .. })
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
    ahead: Option<&Content>,
) -> rusqlite::Result<Result<Written, WriteError>> {
    let Session {
        connection,
        authors,
    } = session;
    if matches!(write, Write::Append { .. }) {
        // The commonest write is spared the copies of pages that a savepoint makes: it is refused, if at all, before
        // it changes anything.
        return match write::apply(connection, authors, write, removal, ahead) {
            Ok(written) => Ok(Ok(written)),
            Err(Failure::Refused(error)) => Ok(Err(error)),
            Err(Failure::Sqlite(error)) => Err(error),
        };
    }
    connection
        .prepare_cached("SAVEPOINT one_write")?
        .execute([])?;
    let result = match write::apply(connection, authors, write, removal, ahead) {
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
