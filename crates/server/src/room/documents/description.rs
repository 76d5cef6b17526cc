//! The description of a document: how large it is, and the last one that was made.

use meshagent_document::JsonSize;
use meshagent_ledger::Charge;
use meshagent_protocol::SharedMessage;
use meshagent_protocol::sync::{SyncDescribe, SyncDescribed};

use super::super::Refusal;
use super::{Deferred, Document, Version};
use crate::usage::share;

/// The maximum number of descriptions of a large document that may wait for the disk. Further
/// requests wait before theirs is made.
const WAITING_DESCRIPTIONS: usize = 4;
/// The memory limit for making a description, as a multiple of its maximum text.
const DESCRIPTION_MEMORY: usize = 8;
/// The bytes of a description besides the document's JSON and schema.
const DESCRIPTION_BYTES: usize = 256;
/// The approximate memory of a schema's values, as a multiple of its text.
const SCHEMA_MEMORY: usize = 16;

impl Document {
    /// The maximal bytes of a description's text, and of the values that exist while it is made:
    /// none if it is there already. `None` if it is too large.
    pub(in crate::room) fn description_size(
        &mut self,
        asked: &SyncDescribe,
        max_bytes: usize,
    ) -> Option<(usize, usize)> {
        if let Some((_, _, answer)) = &self.description
            && self.has_description(asked)
        {
            return Some((answer.body_len(), 0));
        }
        // An outdated description makes space for the next one.
        self.description.take_if(|known| known.0 != self.head);
        let size = match self.described_size {
            Some((version, size)) if version == self.head => size,
            _ => {
                let memory = max_bytes.saturating_mul(DESCRIPTION_MEMORY);
                let size = self.replica.measure_json(max_bytes, memory);
                self.described_size = Some((self.head, size));
                size
            }
        }?;
        Some(self.sizes(asked, size))
    }

    /// The size of such a description as it was measured last, if that is outdated.
    pub(in crate::room) fn outdated_size(&self, asked: &SyncDescribe) -> Option<(usize, usize)> {
        if self.has_description(asked) {
            return None;
        }
        let (version, size) = self.described_size?;
        let size = size.filter(|_| version != self.head)?;
        Some(self.sizes(asked, size))
    }

    /// Whether the size of such a description is known without a walk over the document.
    pub(in crate::room) fn is_measured(&self, asked: &SyncDescribe) -> bool {
        let measured = self.described_size.map(|(version, _)| version);
        measured == Some(self.head) || self.has_description(asked)
    }

    fn sizes(&self, asked: &SyncDescribe, size: JsonSize) -> (usize, usize) {
        // A state shares the document's schema; a description copies it.
        let schema = if asked.with_schema {
            self.schema.text.len()
        } else {
            0
        };
        let text = size.text + schema + DESCRIPTION_BYTES;
        let values = size.memory + schema.saturating_mul(SCHEMA_MEMORY);
        (text, values)
    }

    /// Returns the document's JSON as an answer, shared by all requests for the same version.
    /// `charge` is for its text.
    ///
    /// # Errors
    /// A refusal if the JSON is longer than a message may be. This is known before the answer is
    /// made.
    pub(in crate::room) fn described(
        &mut self,
        asked: &SyncDescribe,
        max_bytes: usize,
        mut charge: Charge,
    ) -> Result<SharedMessage, Refusal> {
        let what = [asked.include_ids, asked.with_version, asked.with_schema];
        if let Some((version, known, answer)) = &self.description
            && (*version, *known) == (self.head, what)
        {
            return Ok(answer.clone());
        }
        let Some((text_bytes, _)) = self.description_size(asked, max_bytes) else {
            let text = format!(
                "too large: the document's JSON has more than {max_bytes} bytes, or too many \
                 values; open the document instead"
            );
            return Err(Refusal::invalid(text));
        };
        // Releases the old description before the next one is made.
        self.description = None;
        let json = self.replica.to_json(asked.include_ids);
        let version = asked.with_version.then(|| self.version());
        let schema = asked.with_schema.then(|| self.schema.json().into_owned());
        let content = SyncDescribed::new(json, version, schema).into_content();
        let head = SharedMessage::answer_head_of(&content, text_bytes);
        charge.shrink(charge.bytes().saturating_sub(head.len()));
        charge.grow_anyway(head.len().saturating_sub(charge.bytes()));
        let answer = SharedMessage::answer(share(head, charge));
        self.description = Some((self.head, what, answer.clone()));
        Ok(answer)
    }

    /// Whether such a description of the newest version exists.
    pub(in crate::room) fn has_description(&self, asked: &SyncDescribe) -> bool {
        let what = [asked.include_ids, asked.with_version, asked.with_schema];
        let known = self.description.as_ref();
        known.is_some_and(|(version, known, _)| (*version, *known) == (self.head, what))
    }

    /// Whether one more description may wait for the disk. Each is a copy of the whole document.
    pub(in crate::room) fn takes_description(&self) -> bool {
        let describes =
            |deferred: &&(Version, Deferred)| matches!(deferred.1, Deferred::Described { .. });
        self.deferred.iter().filter(describes).count() < WAITING_DESCRIPTIONS
    }
}
