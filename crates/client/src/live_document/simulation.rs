//! Lets a test drive a document that has no handles and no task.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use meshagent_document::MeshDocument;

use super::{Changes, Shared, Subscriber};

impl Shared {
    /// Adds an opening that never ends.
    pub(crate) fn hold(&self) {
        self.lock().handles += 1;
    }

    /// Edits like [`Replica::edit_with`].
    pub(crate) fn edit_with(&self, edit: impl FnOnce(&mut MeshDocument) -> Vec<Vec<u8>>) {
        let mut state = self.lock();
        let result = catch_unwind(AssertUnwindSafe(|| state.replica.edit_with(edit)));
        state.journal_edits();
        state.publish_changes();
        drop(state);
        result.unwrap_or_else(|panic| resume_unwind(panic));
    }

    /// Subscribes without watching the document, so no changes are collected.
    pub(crate) fn subscribe(&self) -> Changes {
        let (subscriber, changes) = Subscriber::new();
        self.lock().subscribers.push(subscriber);
        changes
    }

    /// The number up to which edits are in the journal.
    pub(crate) fn written(&self) -> u64 {
        let state = self.lock();
        let journal = state.journal.as_ref();
        journal.map_or(0, |journal| journal.pending.written())
    }
}
