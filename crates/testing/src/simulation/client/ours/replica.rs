//! A document of our own client: what it was edited to is there, on its way, or handed over as lost; and what its journal
//! held is there when the program begins again.

use std::collections::BTreeSet;

use meshagent_client::simulation::SimDocument;
use meshagent_client::{DocumentEvent, LostEdit, Outgoing, ReplacedDocument};
use meshagent_document::MeshDocument;
use meshagent_protocol::{Content, DocPath, SyncOpenStart};
use serde_json::Value;

use crate::simulation::board;
use crate::simulation::trace::Totals;

/// A document, and what is known of its journal.
#[derive(Debug)]
pub(in crate::simulation::client) struct Ours {
    pub(super) document: SimDocument,
    pub(super) path: DocPath,
    /// How long the journal was after each write since it was written as a whole, and what the document was then.
    pub(super) writes: Vec<(usize, Value)>,
}

impl Ours {
    /// One of which there is nothing yet.
    pub(in crate::simulation::client) fn new(path: &str, client_id: u64) -> Result<Self, String> {
        let path = DocPath::parse(path).map_err(|error| error.to_string())?;
        Ok(Self {
            document: SimDocument::new(&path, Vec::new(), client_id)?,
            path,
            writes: Vec::new(),
        })
    }

    pub(in crate::simulation::client) fn read<R>(
        &self,
        read: impl FnOnce(&MeshDocument) -> R,
    ) -> R {
        self.document.read(read)
    }

    pub(in crate::simulation::client) fn edit_with(
        &mut self,
        edit: impl FnOnce(&mut MeshDocument) -> Vec<Vec<u8>>,
    ) {
        self.document.edit_with(edit);
    }

    pub(in crate::simulation::client) fn describe(&self, start: &mut SyncOpenStart) {
        self.document.describe(start);
    }

    pub(in crate::simulation::client) fn next_to_send(&mut self) -> Option<Outgoing> {
        self.document.next_to_send()
    }

    pub(in crate::simulation::client) fn stream_ended(&mut self) {
        self.document.stream_ended();
    }

    pub(in crate::simulation::client) fn is_saved(&self) -> bool {
        self.document.is_saved() && !self.document.is_fresh()
    }

    /// A stream begins. What was edited here and is not there any more was handed over.
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
            return handed_over(&replaced, &before, &unsaved);
        }
        if starts_over {
            totals.add("replicas made anew", 1);
            totals.add("edits given up", lost.len() as u64);
            totals.add(
                "edits kept beside a refused one",
                self.document.unsaved().len() as u64,
            );
            let left = self.read(board::ids);
            if let Some(id) = expected.difference(&left).find(|id| !is_told(id, &lost)) {
                return Err(format!(
                    "{id} is neither in the document nor among what is lost"
                ));
            }
        }
        Ok(())
    }

    pub(in crate::simulation::client) fn received(&mut self, update: &[u8]) -> Result<(), String> {
        self.document.received(update)?;
        self.nothing_is_lost()
    }

    /// Returns whether the stream goes on.
    pub(in crate::simulation::client) fn answered(
        &mut self,
        number: u64,
        content: Content,
    ) -> Result<bool, String> {
        let goes_on = self.document.answered(number, content);
        self.nothing_is_lost()?;
        Ok(goes_on)
    }

    fn nothing_is_lost(&mut self) -> Result<(), String> {
        while let Some(event) = self.document.poll_event() {
            if let DocumentEvent::Refused { .. } | DocumentEvent::Replaced(_) = event {
                return Err(format!(
                    "something is lost while the stream goes on: {event:?}"
                ));
            }
        }
        Ok(())
    }
}

/// What a document would show with the server's state, if nothing were refused.
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

/// What was here of a document that was replaced was handed over: all that it showed, and each edit that is not saved.
fn handed_over(
    replaced: &ReplacedDocument,
    before: &Value,
    unsaved: &[Vec<u8>],
) -> Result<(), String> {
    if replaced.content != *before {
        return Err(format!(
            "{before} was replaced, and handed over is {}",
            replaced.content
        ));
    }
    let edits: Vec<&[u8]> = replaced.edits.iter().map(|edit| &edit.update[..]).collect();
    if edits != unsaved {
        return Err("edits of a document that was replaced are not handed over".to_owned());
    }
    Ok(())
}

/// Whether a lost edit has this element in it.
fn is_told(id: &str, lost: &[LostEdit]) -> bool {
    // In an update, a string stands behind its length.
    let mut encoded = vec![u8::try_from(id.len()).unwrap_or(u8::MAX)];
    encoded.extend_from_slice(id.as_bytes());
    lost.iter().any(|edit| {
        edit.update
            .windows(encoded.len())
            .any(|window| window == encoded)
    })
}
