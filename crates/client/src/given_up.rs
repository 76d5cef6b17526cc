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
pub(crate) struct GivenUpEdits(Arc<Mutex<BTreeMap<String, Edits>>>);

/// How many edits of a path were given up.
#[derive(Debug, Default)]
struct Edits {
    /// Those that are in no journal, as far as that is known.
    lost: u64,
    journaled: u64,
}

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
        let (edits, lost) = shared.given_up_edits();
        self.note(&shared.path, edits + lost);
        // Edits that were read from a journal are in it.
        let was_read = shared.is_resending();
        if was_read {
            self.journaled(&shared.path, edits);
        }
        if shared.settled().await && !was_read {
            self.journaled(&shared.path, edits);
        }
        has_failed || is_closed && edits > 0
    }

    /// Notes that a document has ended with edits that are unacknowledged or lost.
    fn note(&self, path: &str, edits: u64) {
        if edits > 0 {
            self.lock().entry(path.to_owned()).or_default().lost += edits;
        }
    }

    /// Notes that so many of these edits are in the document's journal. This includes edits that
    /// were in it before.
    fn journaled(&self, path: &str, edits: u64) {
        if let Some(one) = self.lock().get_mut(path) {
            one.lost = one.lost.saturating_sub(edits);
            one.journaled = one.journaled.max(edits);
        }
    }

    /// The document was opened again, with the edits in its journal.
    pub(crate) fn reopened(&self, path: &str) {
        let mut all = self.lock();
        if let Some(one) = all.get_mut(path) {
            one.journaled = 0;
            if one.lost == 0 {
                all.remove(path);
            }
        }
    }

    pub(crate) fn list(&self) -> Vec<GivenUp> {
        let all = self.lock();
        let given_up = all.iter().map(|(path, one)| GivenUp {
            path: path.clone(),
            edits: one.lost + one.journaled,
            is_journaled: one.lost == 0,
        });
        given_up.collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Edits>> {
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

    #[test]
    fn lost_edits_are_reported_after_others_were_read_from_the_journal() {
        let given_up = GivenUpEdits::default();
        let reported = || {
            let all = given_up.list().into_iter();
            all.map(|one| (one.edits, one.is_journaled))
                .collect::<Vec<_>>()
        };
        given_up.note("a", 3);
        given_up.note("a", 2);
        given_up.journaled("a", 2);
        assert_eq!(reported(), [(5, false)]);
        given_up.reopened("a");
        assert_eq!(reported(), [(3, false)]);
        given_up.note("b", 1);
        given_up.journaled("b", 1);
        given_up.reopened("b");
        assert_eq!(reported(), [(3, false)]);
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
