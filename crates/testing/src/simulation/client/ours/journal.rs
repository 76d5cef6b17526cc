//! The journal of a document of our client: it is written, damaged between two programs, and read
//! again. Its content has to be there when the program starts again.

use std::collections::BTreeSet;

use meshagent_client::simulation::{SimDocument, SimWrite};
use serde_json::Value;

use super::OurDocument;
use crate::simulation::board;
use crate::simulation::client::impersonation::IMPERSONATIONS;
use crate::simulation::random::Random;
use crate::simulation::trace::Totals;

/// About the number of bytes in the last write to a journal.
const TAIL: usize = 400;

/// The damage to a journal between two programs.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Nothing,
    /// The journal is cut to this length.
    Cut(usize),
    /// A bit of the byte at this index is flipped.
    Flip(usize, u8),
}

impl Damage {
    /// Chooses the damage of a journal of this length.
    fn random(length: usize, random: &mut Random) -> Self {
        match random.below(4) {
            // Half of the cuts are in the last write.
            0 if length > 0 && random.one_in(2) => Self::Cut(random.index(length)),
            0 if length > 0 => Self::Cut(length - 1 - random.index(length.min(TAIL))),
            1 if length > 0 => Self::Flip(random.index(length), 1 << random.below(8)),
            _ => Self::Nothing,
        }
    }
}

impl OurDocument {
    /// Writes to the journal as its thread does, unless the disk is full.
    pub(in crate::simulation::client) fn write(&mut self, is_full: bool) {
        match self.document.write(is_full) {
            SimWrite::Rewritten => self.writes.clear(),
            SimWrite::Appended => {}
            _ => return,
        }
        let json = self.read(|document| document.to_json(true));
        self.writes.push((self.document.journal().len(), json));
    }

    /// Ends the program and starts another one with the journal, which may be damaged in between.
    /// Returns `None` if the journal is empty, or its damage is reported.
    pub(in crate::simulation::client) fn restart(
        self,
        client_id: u64,
        random: &mut Random,
        totals: &mut Totals,
    ) -> Result<Option<Self>, String> {
        let mut bytes = self.document.journal().to_vec();
        let damage = Damage::random(bytes.len(), random);
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
        let wrong = |what: &str| {
            Err(format!(
                "journal of {:?}, {damage:?}: {what}",
                self.path.as_str()
            ))
        };
        totals.add("programs that started again", 1);
        let base = self.writes.first().map_or(0, |(length, _)| *length);
        let document = match SimDocument::new(&self.path, bytes, client_id) {
            Ok(document) => document,
            Err(_) if matches!(damage, Damage::Flip(..)) || length < base => {
                totals.add("damaged journals reported", 1);
                return Ok(None);
            }
            Err(error) => return wrong(&error),
        };
        if !document.has_begun() {
            if length > 0 || matches!(damage, Damage::Flip(..)) {
                return wrong("it has no content");
            }
            return Ok(None);
        }
        if matches!(damage, Damage::Flip(..)) {
            return wrong("the damage is not reported");
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
            return wrong("it has content that was never written");
        };
        let (written, json) = &self.writes[last];
        let there = document.read(|document| document.to_json(true));
        // Of two operations with the same id, the first one counts, and a journal has another
        // order.
        let is_impersonated = totals.count(IMPERSONATIONS) > 0;
        if *written == length && there != *json && !is_impersonated {
            return wrong(&format!("it held {json}, but {there} is read"));
        }
        if is_whole && self.document.has_journaled_edits() && document.is_saved() {
            return wrong("unacknowledged edits count as saved");
        }
        // Elements before the cut are there, unless the next write deletes them.
        let shown = ids_in(json);
        let next = self.writes.get(last + 1).map(|(_, json)| ids_in(json));
        let found = document.read(board::ids);
        let kept = shown
            .iter()
            .filter(|id| next.as_ref().is_none_or(|next| next.contains(*id)));
        // An element whose operations another program has used as well is an edit that is refused,
        // and then handed over.
        if let Some(id) = kept.into_iter().find(|id| !found.contains(*id))
            && !is_impersonated
        {
            return wrong(&format!("{id} was journaled, but is lost"));
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
