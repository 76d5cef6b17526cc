//! A document of our own client: what it was edited to is there, on its way, or handed over as lost; and what its journal
//! held is there when the program begins again.

use std::collections::BTreeSet;

use meshagent_client::simulation::{SimDocument, SimWrite};
use meshagent_client::{DocumentEvent, LostEdit, Outgoing, ReplacedDocument};
use meshagent_document::MeshDocument;
use meshagent_protocol::{Content, DocPath, SyncOpenStart};
use serde_json::Value;

use crate::simulation::board;
use crate::simulation::random::Random;
use crate::simulation::trace::Totals;

/// About so many bytes were written to a journal last.
const TAIL: usize = 400;

/// A document, and what is known of its journal.
#[derive(Debug)]
pub(super) struct Ours {
    document: SimDocument,
    path: DocPath,
    /// How long the journal was after each write since it was written as a whole, and what the document was then.
    writes: Vec<(usize, Value)>,
}

/// What happens to a journal between two programs.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Nothing,
    Cut(usize),
    Flip(usize, u8),
}

impl Damage {
    fn of(length: usize, random: &mut Random) -> Self {
        match random.below(4) {
            // Half of them where it was written last.
            0 if length > 0 && random.one_in(2) => Self::Cut(random.index(length)),
            0 if length > 0 => Self::Cut(length - 1 - random.index(length.min(TAIL))),
            1 if length > 0 => Self::Flip(random.index(length), 1 << random.below(8)),
            _ => Self::Nothing,
        }
    }
}

impl Ours {
    /// One of which there is nothing yet.
    pub(super) fn new(path: &str, client_id: u64) -> Result<Self, String> {
        let path = DocPath::parse(path).map_err(|error| error.to_string())?;
        Ok(Self {
            document: SimDocument::new(&path, Vec::new(), client_id)?,
            path,
            writes: Vec::new(),
        })
    }

    pub(super) fn read<R>(&self, read: impl FnOnce(&MeshDocument) -> R) -> R {
        self.document.read(read)
    }

    pub(super) fn edit_with(&mut self, edit: impl FnOnce(&mut MeshDocument) -> Vec<Vec<u8>>) {
        self.document.edit_with(edit);
    }

    pub(super) fn describe(&self, start: &mut SyncOpenStart) {
        self.document.describe(start);
    }

    pub(super) fn next_to_send(&mut self) -> Option<Outgoing> {
        self.document.next_to_send()
    }

    pub(super) fn stream_ended(&mut self) {
        self.document.stream_ended();
    }

    pub(super) fn is_saved(&self) -> bool {
        self.document.is_saved() && !self.document.is_fresh()
    }

    /// A stream begins. What was edited here and is not there any more was handed over.
    pub(super) fn begin(
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

    pub(super) fn received(&mut self, update: &[u8]) -> Result<(), String> {
        self.document.received(update)?;
        self.nothing_is_lost()
    }

    /// Returns whether the stream goes on.
    pub(super) fn answered(&mut self, number: u64, content: Content) -> Result<bool, String> {
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

    /// The journal's thread has time.
    pub(super) fn write(&mut self, is_full: bool) {
        match self.document.write(is_full) {
            SimWrite::Rewritten => self.writes.clear(),
            SimWrite::Appended => {}
            _ => return,
        }
        let json = self.read(|document| document.to_json(true));
        self.writes.push((self.document.journal().len(), json));
    }

    /// The program ends, and another one begins with the journal as something has left it. `None` if there is nothing in
    /// it, or it is damaged, which has to be told.
    pub(super) fn restart(
        self,
        client_id: u64,
        random: &mut Random,
        totals: &mut Totals,
    ) -> Result<Option<Self>, String> {
        let mut bytes = self.document.journal().to_vec();
        let damage = Damage::of(bytes.len(), random);
        let length = match damage {
            Damage::Nothing => bytes.len(),
            Damage::Cut(length) => {
                bytes.truncate(length);
                length
            }
            Damage::Flip(at, bit) => {
                bytes[at] ^= bit;
                0
            }
        };
        let wrong = |what: &str| Err(format!("{damage:?} of {}: {what}", self.path.as_str()));
        totals.add("programs that began again", 1);
        let base = self.writes.first().map_or(0, |(length, _)| *length);
        let document = match SimDocument::new(&self.path, bytes, client_id) {
            Ok(document) => document,
            Err(_) if matches!(damage, Damage::Flip(..)) || length < base => {
                totals.add("damaged journals told", 1);
                return Ok(None);
            }
            Err(error) => return wrong(&error),
        };
        if !document.has_begun() {
            if length > 0 || matches!(damage, Damage::Flip(..)) {
                return wrong("nothing is found in it");
            }
            return Ok(None);
        }
        if matches!(damage, Damage::Flip(..)) {
            return wrong("it is not told");
        }
        let is_whole = matches!(damage, Damage::Nothing);
        totals.add(
            if is_whole {
                "journals read"
            } else {
                "cut journals read"
            },
            1,
        );
        let last = self
            .writes
            .iter()
            .rposition(|(written, _)| *written <= length);
        let Some(last) = last else {
            return wrong("what was never written is found");
        };
        let (written, json) = &self.writes[last];
        let there = document.read(|document| document.to_json(true));
        // Of two operations with one name, the first one counts, and a journal has another order.
        let is_impersonated = totals.count(super::IMPERSONATIONS) > 0;
        if *written == length && there != *json && !is_impersonated {
            return wrong(&format!("it held {json}, and {there} is found"));
        }
        if is_whole && self.document.has_journaled_edits() && document.is_saved() {
            return wrong("edits that are not acknowledged are taken for saved");
        }
        // What comes before the cut is there, unless the next write deletes it.
        let shown = ids_in(json);
        let next = self.writes.get(last + 1).map(|(_, json)| ids_in(json));
        let found = document.read(board::ids);
        let kept = shown
            .iter()
            .filter(|id| next.as_ref().is_none_or(|next| next.contains(*id)));
        if let Some(id) = kept.into_iter().find(|id| !found.contains(*id)) {
            return wrong(&format!("{id} was journaled"));
        }
        let mut writes = self.writes;
        writes.clear();
        let mut again = Self {
            document,
            path: self.path,
            writes,
        };
        again.write(false);
        Ok(Some(again))
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

/// The `$id`s in the JSON form of a document.
fn ids_in(json: &Value) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let mut left = vec![json];
    while let Some(value) = left.pop() {
        match value {
            Value::Array(values) => left.extend(values),
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value {
                        Value::String(id) if name == "$id" => {
                            ids.insert(id.clone());
                        }
                        value => left.push(value),
                    }
                }
            }
            _ => {}
        }
    }
    ids
}
