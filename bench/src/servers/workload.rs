//! The workload: several writers, each of which types at the end of its own line.
//!
//! An update is one character. All servers get the same updates.

use std::borrow::Cow;
use std::collections::HashMap;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use meshagent_document::{Edit, MeshDocument, TextPosition};
use serde_json::{Value, json};
use yrs::updates::decoder::Decode as _;

use crate::documents;

/// The client id of the first writer; ids stay within 32 bits, which all Yjs servers accept.
const FIRST_WRITER: u64 = 1 << 24;
const WRITERS: u64 = 1 << 20;
/// The client id of the document's creator, for servers that leave the creation to clients.
const MAKER: u64 = 7;

/// Returns a document with a line for each writer, as one update.
///
/// # Errors
/// When the library refuses the document.
pub fn base(writers: usize) -> Result<Bytes> {
    let mut document = documents::document(MAKER);
    document.insert_json(&base_json(writers), &mut String::new)?;
    Ok(document.encode_state().into())
}

/// Returns the document of [`base`] as JSON.
pub fn base_json(writers: usize) -> Value {
    let lines: Vec<_> = (0..writers)
        .map(|writer| json!({"text": {"$id": line(writer)}}))
        .collect();
    json!({"doc": {"children": lines}})
}

/// Returns a document of about `bytes` bytes as one update: elements with a name and a number.
///
/// # Errors
/// When the library refuses the document.
pub fn large(bytes: usize) -> Result<Bytes> {
    /// The measured size of an element in the encoding.
    const ELEMENT_BYTES: usize = 125;
    let mut document = documents::document(MAKER);
    let elements: Vec<_> = (0..bytes / ELEMENT_BYTES)
        .map(|number| {
            let name = format!("the name of element number {number} of this document");
            json!({"item": {"$id": format!("{number:024x}"), "name": name, "number": number}})
        })
        .collect();
    document.insert_json(&json!({"doc": {"children": elements}}), &mut String::new)?;
    Ok(document.encode_state().into())
}

fn line(writer: usize) -> String {
    format!("line-{writer}")
}

/// A writer that types.
#[derive(Debug)]
pub struct Writer {
    replica: MeshDocument,
    line: String,
    written: usize,
}

impl Writer {
    /// Creates a writer on a line of a document with this state.
    ///
    /// # Errors
    /// When the document does not come from [`base`].
    pub fn new(writer: usize, number: usize, state: &[u8]) -> Result<Self> {
        let line = line(number);
        let mut replica = documents::document(FIRST_WRITER + writer as u64);
        replica.apply_update(state)?;
        let text = replica.node(&line).and_then(|element| element.text());
        let written = text
            .with_context(|| format!("the document has no line {line:?}"))?
            .utf16_length();
        Ok(Self {
            replica,
            line,
            written,
        })
    }

    /// Writes the next character, and returns its update.
    ///
    /// # Errors
    /// When the document refuses the edit.
    pub fn write(&mut self) -> Result<Vec<u8>> {
        // Words of five letters.
        let text = if self.written % 6 == 5 { " " } else { "a" };
        let edit = Edit::InsertText {
            id: self.line.clone(),
            at: TextPosition::Utf16(self.written),
            text: text.to_owned(),
            attributes: None,
        };
        self.written += 1;
        let update = self.replica.edit(&[edit], &mut String::new)?;
        update.context("the edit of a character changed nothing")
    }
}

/// The number of each writer's characters at the end of an update.
pub type Clocks = Vec<(usize, u32)>;

/// A cache of decoded updates: each is decoded only once for all readers.
#[derive(Debug, Default)]
pub struct ClockReader {
    known: HashMap<Vec<u8>, Clocks>,
}

impl ClockReader {
    /// Returns the clocks of an update, which `decode` makes from the payload.
    ///
    /// # Errors
    /// When the payload is not an update.
    pub fn read<'a>(
        &mut self,
        payload: &'a [u8],
        decode: impl FnOnce(&'a [u8]) -> Result<Cow<'a, [u8]>>,
    ) -> Result<&Clocks> {
        /// The limit of cached updates, enough for the updates of one commit.
        const KEPT: usize = 4096;
        if !self.known.contains_key(payload) {
            if self.known.len() >= KEPT {
                self.known.clear();
            }
            let clocks = clocks(&decode(payload)?)?;
            self.known.insert(payload.to_vec(), clocks);
        }
        self.known
            .get(payload)
            .context("the clocks were just inserted")
    }
}

/// Returns the clocks at the end of an update, by writer.
///
/// # Errors
/// When the bytes are not an update.
pub fn clocks(update: &[u8]) -> Result<Clocks> {
    let Ok(update) = yrs::Update::decode_v1(update) else {
        bail!(
            "the server sent {} bytes that are not an update",
            update.len()
        );
    };
    let operations = update.insertions(true);
    let writers = operations.iter().filter_map(|(client, ranges)| {
        let number = client.get().checked_sub(FIRST_WRITER)?;
        let end = ranges.iter().map(|range| range.end).max()?;
        (number < WRITERS).then_some((usize::try_from(number).ok()?, end))
    });
    Ok(writers.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merged_update_has_the_clock_of_each_writer() {
        let base = base(2).unwrap();
        let mut writers = [0, 1].map(|writer| Writer::new(writer, writer, &base).unwrap());
        let mut updates = Vec::new();
        for (writer, count) in [(0, 3), (1, 5)] {
            for _ in 0..count {
                updates.push(writers[writer].write().unwrap());
            }
        }
        let updates: Vec<&[u8]> = updates.iter().map(Vec::as_slice).collect();
        let merged = meshagent_document::merge_updates(&updates).unwrap();
        let mut found = clocks(&merged).unwrap();
        found.sort_unstable();
        assert_eq!(found, [(0, 3), (1, 5)]);
        assert_eq!(clocks(updates[7]).unwrap(), [(1, 5)]);
    }

    #[test]
    fn a_large_document_has_about_the_requested_size() {
        let bytes = large(1_000_000).unwrap().len();
        assert!((900_000..1_100_000).contains(&bytes), "{bytes}");
    }
}
