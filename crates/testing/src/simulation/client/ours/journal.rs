//! The journal of a document of our client.

use std::collections::BTreeSet;

use meshagent_client::simulation::{SimDocument, SimWrite};
use serde_json::Value;

use super::Ours;
use crate::simulation::board;
use crate::simulation::client::impersonation::IMPERSONATIONS;
use crate::simulation::random::Random;
use crate::simulation::trace::Totals;

/// About so many bytes were written to a journal last.
const TAIL: usize = 400;

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
    /// The journal's thread has time.
    pub(in crate::simulation::client) fn write(&mut self, is_full: bool) {
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
    pub(in crate::simulation::client) fn restart(
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
        let is_impersonated = totals.count(IMPERSONATIONS) > 0;
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
