//! Batches whose outcome is unknown: the committer answers nobody before it has looked at what is
//! stored.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshagent_store::{
    AsyncStore, DocumentId, Seq, StoreError, StoredUpdate, Write, WriteError, Written,
};
use tokio::sync::oneshot;

use super::{BatchResult, Outcome, Owner, WriteResult};

/// Attempts to look, before the room has to end.
const LOOKS: u32 = 3;
/// The pause between two attempts.
pub(super) const PAUSE: Duration = Duration::from_millis(500);

/// A batch without a known outcome.
#[derive(Debug)]
pub(super) struct Unknown {
    pub(super) owner: Arc<Owner>,
    pub(super) writes: Vec<Write>,
    pub(super) done: oneshot::Sender<Outcome>,
    /// How long the store has worked on it.
    pub(super) took: Duration,
    failed: u32,
    /// The time before which it is not looked at.
    pub(super) due: Instant,
}

impl Unknown {
    pub(super) fn new(
        owner: Arc<Owner>,
        writes: Vec<Write>,
        done: oneshot::Sender<Outcome>,
        took: Duration,
        due: Instant,
    ) -> Self {
        Self {
            owner,
            writes,
            done,
            took,
            failed: 0,
            due,
        }
    }

    /// Looks at what is stored. Returns the batch's result; `None` if the attempt failed and is to
    /// be repeated when it is due.
    pub(super) async fn look(
        &mut self,
        store: &dyn AsyncStore,
        now: Instant,
    ) -> Option<BatchResult> {
        match look(store, &self.owner, &self.writes).await {
            Ok(results) => Some(Ok(results)),
            // Neither is followed by a better answer.
            Err(error @ (StoreError::Fenced { .. } | StoreError::Unknown(_))) => {
                Some(Err(Arc::new(error)))
            }
            Err(error) => {
                self.failed += 1;
                self.due = now + PAUSE;
                tracing::warn!(
                    error = super::with_causes(&error),
                    room = %self.owner.room(),
                    "what became of a batch can't be found out now"
                );
                (self.failed == LOOKS).then(|| Err(Arc::new(StoreError::Unknown(error.into()))))
            }
        }
    }
}

/// Returns the result of each write, after nothing of the batch can arrive any more.
///
/// # Errors
/// [`StoreError::Fenced`] if the room has another owner, [`StoreError::Unknown`] if nothing that is
/// stored can tell what a write did, or the store fails.
async fn look(
    store: &dyn AsyncStore,
    owner: &Owner,
    writes: &[Write],
) -> Result<Vec<WriteResult>, StoreError> {
    owner.renew(store).await?;
    if writes.iter().any(is_untraceable) {
        let why = "the batch deleted or moved entries";
        return Err(StoreError::Unknown(why.into()));
    }
    let logs = logs(store, writes).await?;
    let mut results = Vec::with_capacity(writes.len());
    for write in writes {
        let written = match write {
            Write::Append {
                document,
                end,
                update,
                ..
            } => end.and_then(|end| {
                let log = logs.get(document)?;
                let mut log = log.iter();
                log.find(|stored| stored.seq.0 == end.0 + 1 && stored.update == *update)
                    .map(|stored| Written::Appended { seq: stored.seq })
            }),
            Write::CreateDocument {
                room,
                path,
                schema,
                state,
                at,
                ..
            } => {
                let found = store.load(room, path).await?.filter(|found| {
                    let first = found.updates.first().map(|first| &first.update);
                    found.created_at == *at
                        && found.schema == *schema
                        && first.map_or(state.is_empty(), |first| first == state)
                });
                found.map(|found| Written::Created {
                    document: found.document,
                    seq: Seq(u64::from(!state.is_empty())),
                })
            }
            Write::PutFile {
                room,
                path,
                data,
                mime_type,
                at,
                ..
            } => {
                let found = store.read_file(room, path).await?.filter(|found| {
                    found.updated_at == *at && found.mime_type == *mime_type && found.data == *data
                });
                found.map(|found| Written::Put {
                    replaced: found.created_at != *at,
                })
            }
            // The document does not change by a snapshot, which is made again when it is due.
            Write::Snapshot { .. } | Write::Delete { .. } | Write::Move { .. } => None,
        };
        results.push(written.ok_or(WriteError::NotStored));
    }
    Ok(results)
}

/// Whether what is stored afterwards does not tell what the write did.
fn is_untraceable(write: &Write) -> bool {
    matches!(write, Write::Delete { .. } | Write::Move { .. })
}

/// Returns what was appended to each document since the batch began.
async fn logs(
    store: &dyn AsyncStore,
    writes: &[Write],
) -> Result<BTreeMap<DocumentId, Vec<StoredUpdate>>, StoreError> {
    let mut appends: BTreeMap<DocumentId, (Seq, usize)> = BTreeMap::new();
    for write in writes {
        if let Write::Append {
            document,
            end: Some(end),
            ..
        } = write
        {
            appends.entry(*document).or_insert((*end, 0)).1 += 1;
        }
    }
    let mut logs = BTreeMap::new();
    for (document, (end, count)) in appends {
        match store.follow(document, end, count).await {
            Ok(log) => drop(logs.insert(document, log)),
            // It was deleted before the batch.
            Err(StoreError::NoSuchDocument { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(logs)
}

/// Commits the batch of one room, and looks for it if its outcome is unknown.
#[cfg(test)]
pub(crate) fn commit_and_look(
    store: &dyn AsyncStore,
    owner: &Arc<Owner>,
    writes: &[Write],
    metrics: &crate::metrics::Metrics,
) -> BatchResult {
    let result = super::commit_alone(store, owner, writes, metrics);
    if !super::is_unknown(&result) {
        return result;
    }
    meshagent_store::block_on(look(store, owner, writes)).map_err(Arc::new)
}

#[cfg(test)]
mod tests;
