//! Edits that were unacknowledged when their document ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::journal::JournalError;
use crate::live_document::{DocumentEnd, Shared};

/// A document that ended with unacknowledged edits, returned by
/// [`RoomClient::close`](crate::RoomClient::close).
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct GivenUp {
    /// The document's path.
    pub path: String,
    /// The number of unacknowledged edits. The server may have stored some of them, if only its
    /// answer was lost. Refused edits count, too, unless a handle was open to report the refusal.
    pub edits: u64,
    /// Whether the document's journal has all of them. If so, they are sent the next time the room
    /// is entered. If not, they are lost when the program ends.
    pub is_journaled: bool,
}

/// The edits that a room's documents have given up so far: one entry for each path.
#[derive(Clone, Debug, Default)]
pub(crate) struct GivenUpEdits(Arc<Mutex<BTreeMap<String, GivenUp>>>);

impl GivenUpEdits {
    /// Ends a document whose task has ended, or has panicked with this text, and notes its
    /// unacknowledged edits. Returns whether its journal may have edits that can be sent later.
    pub(crate) async fn settle(&self, shared: &Shared, ended: Result<DocumentEnd, String>) -> bool {
        let end = ended.unwrap_or_else(DocumentEnd::Failed);
        let has_failed = matches!(
            end,
            DocumentEnd::Journal(JournalError::InUse | JournalError::Io { .. })
        );
        let is_closed = end == DocumentEnd::Closed;
        shared.end(end);
        // No further edits are possible now.
        let edits = shared.given_up_edits();
        if edits > 0 && shared.is_resending() {
            self.note_kept(&shared.path, edits);
            shared.settled().await;
        } else if edits > 0 {
            self.note(&shared.path, edits);
            if shared.settled().await {
                self.journaled(&shared.path);
            }
        } else {
            shared.settled().await;
        }
        has_failed || is_closed && edits > 0
    }

    /// Notes that a document has ended with unacknowledged edits.
    pub(crate) fn note(&self, path: &str, edits: u64) {
        let mut all = self.lock();
        // Journaled edits are still in the journal, so `edits` includes them.
        let lost = all.get(path).filter(|one| !one.is_journaled);
        let edits = edits + lost.map_or(0, |one| one.edits);
        let one = GivenUp {
            path: path.to_owned(),
            edits,
            is_journaled: false,
        };
        all.insert(path.to_owned(), one);
    }

    /// Notes that a document without handles has ended with edits that are in its journal. An
    /// existing entry remains, since edits that were lost before are still lost.
    fn note_kept(&self, path: &str, edits: u64) {
        let one = || GivenUp {
            path: path.to_owned(),
            edits,
            is_journaled: true,
        };
        self.lock().entry(path.to_owned()).or_insert_with(one);
    }

    /// All unacknowledged edits of the document are in its journal.
    pub(crate) fn journaled(&self, path: &str) {
        if let Some(one) = self.lock().get_mut(path) {
            one.is_journaled = true;
        }
    }

    /// The document was opened again, with the edits in its journal.
    pub(crate) fn reopened(&self, path: &str) {
        let mut all = self.lock();
        if all.get(path).is_some_and(|one| one.is_journaled) {
            all.remove(path);
        }
    }

    pub(crate) fn list(&self) -> Vec<GivenUp> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, GivenUp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use meshagent_document::{MeshDocument, MeshSchema, Target};
    use serde_json::json;

    use super::*;
    use crate::replica::Replica;

    fn edited() -> Arc<Shared> {
        let schema = MeshSchema::builtin("document").unwrap();
        let mut replica = Replica::new(MeshDocument::new(schema, 1));
        let element = json!({ "body": { "text": "größer" } });
        let edited = replica.edit(|document| document.append_child(Target::Root, element));
        edited.unwrap();
        Shared::new("a.document", replica, None)
    }

    #[tokio::test]
    async fn edits_that_were_read_from_a_journal_to_be_sent_are_in_it_and_count_once() {
        let given_up = GivenUpEdits::default();
        for _ in 0..2 {
            let shared = edited();
            shared.begin_to_resend();
            given_up.settle(&shared, Ok(DocumentEnd::Closed)).await;
        }
        let given_up = given_up.list();
        assert_eq!(given_up.len(), 1);
        assert_eq!((given_up[0].edits, given_up[0].is_journaled), (1, true));
    }

    #[tokio::test]
    async fn edits_of_a_document_whose_task_panicked_are_given_up() {
        let shared = edited();
        let given_up = GivenUpEdits::default();
        let panicked = Err("a test asked for it".to_owned());
        given_up.settle(&shared, panicked).await;
        assert!(shared.is_ended());
        let given_up = given_up.list();
        assert_eq!(given_up.len(), 1);
        assert_eq!(
            (&given_up[0].path[..], given_up[0].edits),
            ("a.document", 1)
        );
    }
}
