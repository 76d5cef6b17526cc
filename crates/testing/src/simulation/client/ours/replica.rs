//! A document of our own client. Each edit is in the document, in flight, or handed over as lost.

use std::collections::BTreeSet;

use meshagent_client::simulation::SimDocument;
use meshagent_client::{DocumentEvent, LostEdit, Outgoing, ReplacedDocument};
use meshagent_document::MeshDocument;
use meshagent_protocol::{Content, DocPath, SyncOpenStart};
use serde_json::Value;

use crate::simulation::board;
use crate::simulation::trace::Totals;

/// A document of our client, with a record of the writes to its journal.
#[derive(Debug)]
pub(in crate::simulation::client) struct OurDocument {
    pub(super) document: SimDocument,
    pub(super) path: DocPath,
    /// For each write since the journal was last rewritten, the length of the journal after it, and
    /// the document at that time.
    pub(super) writes: Vec<(usize, Value)>,
}

impl OurDocument {
    /// Creates a document without content.
    pub(in crate::simulation::client) fn new(path: &str, client_id: u64) -> Result<Self, String> {
        let path = DocPath::parse(path).map_err(|error| error.to_string())?;
        Ok(Self {
            document: SimDocument::new(&path, Vec::new(), client_id)?,
            path,
            writes: Vec::new(),
        })
    }

    /// Reads the document.
    pub(in crate::simulation::client) fn read<R>(
        &self,
        read: impl FnOnce(&MeshDocument) -> R,
    ) -> R {
        self.document.read(read)
    }

    /// Edits the document. A panic of the closure is passed on.
    pub(in crate::simulation::client) fn edit_with(
        &mut self,
        edit: impl FnOnce(&mut MeshDocument) -> Vec<Vec<u8>>,
    ) {
        self.document.edit_with(edit);
    }

    /// Adds the state of the document to a start chunk.
    pub(in crate::simulation::client) fn describe(&self, start: &mut SyncOpenStart) {
        self.document.describe(start);
    }

    /// The next update to send.
    pub(in crate::simulation::client) fn next_to_send(&mut self) -> Option<Outgoing> {
        self.document.next_to_send()
    }

    /// Handles the end of the stream.
    pub(in crate::simulation::client) fn stream_ended(&mut self) {
        self.document.stream_ended();
    }

    /// Whether no edit waits for the server, and the document does not start over.
    pub(in crate::simulation::client) fn is_saved(&self) -> bool {
        self.document.is_saved() && !self.document.is_fresh()
    }

    /// Handles the start of a stream. Edits that are no longer in the document have to be handed
    /// over as lost.
    pub(in crate::simulation::client) fn begin(
        &mut self,
        answer: &Content,
        schema: &Value,
        state: &[u8],
        totals: &mut Totals,
    ) -> Result<(), String> {
        let had_begun = self.document.has_begun();
        let starts_over = had_begun && self.document.is_fresh();
        let before = self.read(|document| document.to_json(true));
        let unsaved = self.document.unsaved();
        let expected = if starts_over {
            self.read(|document| shown_together(document, state))?
        } else {
            BTreeSet::new()
        };
        self.document.begin(answer, schema, state)?;
        let (mut lost, mut replaced) = (Vec::new(), None);
        while let Some(event) = self.document.poll_event() {
            match event {
                DocumentEvent::Refused { lost: edits, .. } => lost.extend(edits),
                DocumentEvent::Replaced(document) => replaced = Some(document),
                _ => {}
            }
        }
        if let Some(replaced) = replaced {
            totals.add("documents replaced", 1);
            totals.add(
                "edits handed over with a replaced document",
                unsaved.len() as u64,
            );
            return check_handed_over(&replaced, &before, &unsaved);
        }
        if starts_over {
            totals.add("replicas created again", 1);
            totals.add("edits given up", lost.len() as u64);
            totals.add(
                "edits kept beside a refused one",
                self.document.unsaved().len() as u64,
            );
            let left = self.read(board::ids);
            if let Some(id) = expected
                .difference(&left)
                .find(|id| !is_handed_over(id, &lost))
            {
                return Err(format!(
                    "{id} is neither in the document nor in a lost edit"
                ));
            }
        }
        Ok(())
    }

    /// Handles an update from the server.
    pub(in crate::simulation::client) fn received(&mut self, update: &[u8]) -> Result<(), String> {
        self.document.received(update)?;
        self.check_nothing_lost()
    }

    /// Handles an answer. Returns whether the stream continues.
    pub(in crate::simulation::client) fn answered(
        &mut self,
        number: u64,
        content: Content,
    ) -> Result<bool, String> {
        let continues = self.document.answered(number, content);
        self.check_nothing_lost()?;
        Ok(continues)
    }

    /// Checks that no event reports a lost edit.
    fn check_nothing_lost(&mut self) -> Result<(), String> {
        while let Some(event) = self.document.poll_event() {
            if let DocumentEvent::Refused { .. } | DocumentEvent::Replaced(_) = event {
                return Err(format!(
                    "an edit is lost while the stream continues: {event:?}"
                ));
            }
        }
        Ok(())
    }
}

/// The ids of all elements in a document and in the server's state together, as if nothing were
/// refused: deletions in either of them count.
fn shown_together(document: &MeshDocument, state: &[u8]) -> Result<BTreeSet<String>, String> {
    let mut both = board::strict(1);
    let updates = [
        Some(document.encode_state()),
        document.encode_pending(),
        Some(state.to_vec()),
    ];
    for update in updates
        .into_iter()
        .flatten()
        .filter(|update| !update.is_empty())
    {
        both.apply_update(&update)
            .map_err(|error| error.to_string())?;
    }
    Ok(board::ids(&both))
}

/// Checks that the content of a replaced document was handed over, and each unsaved edit.
fn check_handed_over(
    replaced: &ReplacedDocument,
    before: &Value,
    unsaved: &[Vec<u8>],
) -> Result<(), String> {
    if replaced.content != *before {
        return Err(format!(
            "{before} was replaced, but {} is handed over",
            replaced.content
        ));
    }
    let edits: Vec<&[u8]> = replaced.edits.iter().map(|edit| &edit.update[..]).collect();
    if edits != unsaved {
        return Err("edits of a replaced document are not handed over".to_owned());
    }
    Ok(())
}

/// Whether a lost edit contains this element.
fn is_handed_over(id: &str, lost: &[LostEdit]) -> bool {
    // In an update, the length of a string precedes it.
    let mut encoded = vec![u8::try_from(id.len()).unwrap_or(u8::MAX)];
    encoded.extend_from_slice(id.as_bytes());
    lost.iter().any(|edit| {
        edit.update
            .windows(encoded.len())
            .any(|window| window == encoded)
    })
}
