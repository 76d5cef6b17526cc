//! A live document without task, thread and files, for tests only: whoever drives it carries its updates and answers, and
//! says when its journal is written.
//!
//! [`SimDocument`] is made of the parts that serve programs: the document's task decides what becomes of an answer and
//! of the state with which a stream begins, the same journal is written, as bytes in memory, and read again.

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

/// See the [module's text](self).
#[derive(Debug)]
pub struct SimDocument {
    task: DocumentTask,
    changes: Changes,
    journal: Vec<u8>,
}

/// What a write did to a journal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum SimWrite {
    /// More records stand at its end.
    Appended,
    /// The disk was full.
    Failed,
    /// There was nothing to be written.
    Nothing,
    /// It was written as a whole.
    Rewritten,
}

impl SimDocument {
    /// A document with the journal that an earlier program left, which may be empty. It takes client ids from this one on.
    ///
    /// # Errors
    ///
    /// When the journal is damaged, with the reason.
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
                // Time stands still here.
                conflicts: Conflicts::new(Duration::ZERO),
                mismatches: 0,
                client_ids: ClientIds::From(client_id + 1),
            },
            journal,
        })
    }

    /// Whether there is something to be seen and edited.
    pub fn has_begun(&self) -> bool {
        self.task.shared.has_begun()
    }

    /// Looks at the document.
    pub fn read<R>(&self, read: impl FnOnce(&MeshDocument) -> R) -> R {
        read(self.task.shared.lock().replica.document())
    }

    /// Edits it; a panic of the closure is passed on.
    pub fn edit_with(&mut self, edit: impl FnOnce(&mut MeshDocument) -> Vec<Vec<u8>>) {
        self.task.shared.edit_with(edit);
    }

    /// Adds to a start chunk what of the document is here.
    pub fn describe(&self, start: &mut SyncOpenStart) {
        self.task.describe(start);
    }

    /// Whether the next stream begins with the server's state alone.
    pub fn is_fresh(&self) -> bool {
        self.task.is_fresh
    }

    /// A stream begins, with this answer to the start chunk, and this state.
    ///
    /// # Errors
    ///
    /// When the state can't be read.
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

    /// An update came from the server.
    ///
    /// # Errors
    ///
    /// When it can't be read.
    pub fn received(&mut self, update: &[u8]) -> Result<(), String> {
        self.task.received(update)
    }

    /// The next update to send.
    pub fn next_to_send(&mut self) -> Option<Outgoing> {
        self.task.shared.lock().next_to_send()
    }

    /// What was sent with this number is answered. Returns whether the stream goes on.
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

    /// The stream has ended.
    pub fn stream_ended(&mut self) {
        self.task.shared.lock().replica.unsent();
    }

    /// Whether nothing waits for the server.
    pub fn is_saved(&self) -> bool {
        self.task.shared.lock().replica.is_saved()
    }

    /// The edits that the server has not acknowledged: their updates, merged or not.
    pub fn unsaved(&self) -> Vec<Vec<u8>> {
        let state = self.task.shared.lock();
        state.replica.unsaved().map(<[u8]>::to_vec).collect()
    }

    /// Whether the journal holds edits that are not acknowledged.
    pub fn has_journaled_edits(&self) -> bool {
        let written = self.task.shared.written();
        let state = self.task.shared.lock();
        let first = state.replica.edits_after(0).next();
        first.is_some_and(|one| one.number <= written)
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<DocumentEvent> {
        self.changes.try_recv()
    }

    /// Writes to the journal what is to be written, unless the disk is full.
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

        /// Sends an update, which the server refuses as a conflict. The stream ends by that.
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
        // By the clock of the simulation, every conflict has lasted too long.
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
        // The server has no other content under the edit's names, so it is sent once more.
        assert_eq!(opened.children(), 1);
        opened.refuse();
        opened.open();
        assert_eq!(opened.children(), 0);
        let mut events = std::iter::from_fn(|| opened.document.poll_event());
        assert!(events.any(|event| matches!(event, DocumentEvent::Refused { .. })));
    }
}
