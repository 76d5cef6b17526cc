//! A live document without a task, threads and files, for tests only. The test carries its updates
//! and answers, and decides when its journal is written.
//!
//! [`SimDocument`] consists of the parts that programs use. The document's task handles answers and
//! the state at the start of a stream. The journal has the same format, but is in memory.

use std::time::Duration;

use meshagent_document::MeshDocument;
use meshagent_protocol::{Content, DocPath, SyncOpenStart};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::connection::CallError;
use crate::document_task::{Beginning, ClientIds, Conflicts, DocumentTask, Ended};
use crate::given_up::GivenUpEdits;
use crate::journal::{Journals, RoomKey, read_bytes};
use crate::live_document::{Changes, DocumentEvent, Shared};
use crate::replica::{Outgoing, Replica};
use crate::room_client::Link;
use crate::sync_calls;
use crate::sync_client::nothing;

/// A simulated live document; see the [module](self).
#[derive(Debug)]
pub struct SimDocument {
    task: DocumentTask,
    changes: Changes,
    journal: Vec<u8>,
}

/// The effect of a write on a journal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum SimWrite {
    /// Records were appended.
    Appended,
    /// The disk was full.
    Failed,
    /// There was nothing to write.
    Nothing,
    /// The journal was replaced.
    Rewritten,
}

impl SimDocument {
    /// Opens a document with the journal of an earlier program, which may be empty. New client ids
    /// start at `client_id`.
    ///
    /// # Errors
    ///
    /// If the journal is damaged; the text is the reason.
    pub fn new(path: &DocPath, journal: Vec<u8>, client_id: u64) -> Result<Self, String> {
        let room = RoomKey {
            project: "simulation".to_owned(),
            room: "room".to_owned(),
            url: "ws://simulation/rooms/room".to_owned(),
        };
        let found = read_bytes(&journal, &room, path.as_str(), client_id)?;
        let empty = nothing().map_err(|error| error.to_string())?;
        let replica = Replica::new(MeshDocument::new(empty, client_id));
        let journals = Journals::without_thread(room);
        let shared = Shared::new(path.as_str(), replica, Some(journals));
        shared.hold();
        let is_fresh = found.is_none();
        shared.load(found);
        let (_, link) = watch::channel(Link::Down);
        Ok(Self {
            changes: shared.subscribe(),
            task: DocumentTask {
                shared,
                journals: None,
                given_up: GivenUpEdits::default(),
                link,
                closing: CancellationToken::new(),
                start: SyncOpenStart::new(path.clone()),
                patience: crate::resend::PATIENCE,
                is_fresh,
                was_open: !is_fresh,
                // The simulation does not advance the real clock.
                conflicts: Conflicts::new(Duration::ZERO),
                mismatches: 0,
                client_ids: ClientIds::From(client_id + 1),
            },
            journal,
        })
    }

    /// Whether the content is available and can be edited.
    pub fn has_begun(&self) -> bool {
        self.task.shared.has_begun()
    }

    /// Reads the document.
    pub fn read<R>(&self, read: impl FnOnce(&MeshDocument) -> R) -> R {
        read(self.task.shared.lock().replica.document())
    }

    /// Edits the document. A panic of the closure is resumed.
    pub fn edit_with(&mut self, edit: impl FnOnce(&mut MeshDocument) -> Vec<Vec<u8>>) {
        self.task.shared.edit_with(edit);
    }

    /// Describes the local content in a start chunk.
    pub fn describe(&self, start: &mut SyncOpenStart) {
        self.task.describe(start);
    }

    /// Whether the next stream starts over from the server's state.
    pub fn is_fresh(&self) -> bool {
        self.task.is_fresh
    }

    /// Starts a stream with the server's answer to the start chunk, its schema and its state.
    ///
    /// # Errors
    ///
    /// If the state can't be read.
    pub fn begin(&mut self, answer: &Content, schema: &Value, state: &[u8]) -> Result<(), String> {
        let identity = sync_calls::identity(answer);
        let server_vector = sync_calls::server_vector(answer);
        self.task.begin(&Beginning {
            schema: schema.clone(),
            state: state.to_vec(),
            identity,
            server_vector,
        })
    }

    /// Applies an update from the server.
    ///
    /// # Errors
    ///
    /// If the update can't be read.
    pub fn received(&mut self, update: &[u8]) -> Result<(), String> {
        self.task.received(update)
    }

    /// The next update to send.
    pub fn next_to_send(&mut self) -> Option<Outgoing> {
        self.task.shared.lock().next_to_send()
    }

    /// Handles the answer to the update with this number. Returns whether the stream continues.
    pub fn answered(&mut self, number: u64, content: Content) -> bool {
        let answer = match content {
            Content::Error { code, text, .. } => Err(CallError::Refused { code, text }),
            content => Ok(content),
        };
        match self.task.answered(number, answer) {
            Ok(gap) => return gap.is_none_or(|gap| gap.fill(&self.task.shared).is_ok()),
            Err(Ended::Refused) => self.task.start_over_next(),
            Err(_) => {}
        }
        false
    }

    /// Ends the stream.
    pub fn stream_ended(&mut self) {
        self.task.shared.lock().replica.unsent();
    }

    /// Whether the server has acknowledged everything.
    pub fn is_saved(&self) -> bool {
        self.task.shared.lock().replica.is_saved()
    }

    /// The updates of the unacknowledged edits, merged or not.
    pub fn unsaved(&self) -> Vec<Vec<u8>> {
        let state = self.task.shared.lock();
        state.replica.unsaved().map(<[u8]>::to_vec).collect()
    }

    /// Whether the journal has unacknowledged edits.
    pub fn has_journaled_edits(&self) -> bool {
        let written = self.task.shared.written();
        let state = self.task.shared.lock();
        let first = state.replica.edits_after(0).next();
        first.is_some_and(|one| one.number <= written)
    }

    /// The next event; `None` if there is none.
    pub fn poll_event(&mut self) -> Option<DocumentEvent> {
        self.changes.try_recv()
    }

    /// Writes the pending changes to the journal, unless the disk is full.
    pub fn write(&mut self, is_full: bool) -> SimWrite {
        let Some(batch) = self.task.shared.next_batch(false) else {
            return SimWrite::Nothing;
        };
        let (written, result) = if is_full {
            let error = std::io::ErrorKind::StorageFull.into();
            (SimWrite::Failed, Err(error))
        } else {
            (batch.write_to(&mut self.journal), Ok(()))
        };
        self.task.shared.wrote(&batch, result, false);
        written
    }

    /// The journal's bytes.
    pub fn journal(&self) -> &[u8] {
        &self.journal
    }
}

#[cfg(test)]
mod tests {
    use meshagent_document::{MeshSchema, Target};
    use meshagent_protocol::ErrorCode;
    use serde_json::json;

    use super::*;

    /// A document that is open here, and empty on the server.
    struct Opened {
        document: SimDocument,
        server: MeshDocument,
    }

    impl Opened {
        fn new() -> Self {
            let path = DocPath::parse("notes.document").unwrap();
            let schema = MeshSchema::builtin("document").unwrap();
            let mut opened = Self {
                document: SimDocument::new(&path, Vec::new(), 7).unwrap(),
                server: MeshDocument::new(schema, 1),
            };
            opened.open();
            opened
        }

        fn open(&mut self) {
            let schema = self.server.schema().to_json();
            let state = self.server.encode_state();
            let begun = self.document.begin(&Content::Empty, &schema, &state);
            begun.unwrap();
        }

        /// Sends an update, which the server refuses as a conflict. This ends the stream.
        fn refuse(&mut self) {
            let next = self.document.next_to_send().expect("there is an edit");
            let conflict = Content::error(ErrorCode::Conflict, "somebody else writes with it now");
            assert!(!self.document.answered(next.number, conflict));
            self.document.stream_ended();
        }

        fn children(&self) -> usize {
            self.document.read(|document| document.root().child_count())
        }
    }

    #[test]
    fn conflict_is_compared_with_the_server_however_long_that_takes() {
        // The simulation has no patience: every conflict counts as too old.
        let mut opened = Opened::new();
        opened.document.edit_with(|document| {
            let tea = json!({ "body": { "text": "茶" } });
            let update = document.append_child(Target::Root, tea, &mut || "id-1".to_owned());
            update.unwrap().into_iter().collect()
        });
        for conflict in 1..=4 {
            opened.refuse();
            assert_eq!(opened.document.is_fresh(), conflict == 4);
            opened.open();
        }
        // The server has no other content under the edit's names, so it is sent again.
        assert_eq!(opened.children(), 1);
        opened.refuse();
        opened.open();
        assert_eq!(opened.children(), 0);
        let mut events = std::iter::from_fn(|| opened.document.poll_event());
        assert!(events.any(|event| matches!(event, DocumentEvent::Refused { .. })));
    }
}
