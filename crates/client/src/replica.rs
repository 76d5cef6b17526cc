//! A document and the edits of it that the server has not acknowledged, without any I/O.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use meshagent_document::{DecodeError, MeshDocument, UpdateKind, merge_updates};

use crate::editor::Editor;

/// What waits to be sent is merged up to this size.
const MERGED_BYTES: usize = 256 << 10;

/// After so many bytes of edits that wait, they are compacted; later on after as many as that left.
const COMPACTED_BYTES: usize = if cfg!(test) { 1 << 10 } else { 16 << 10 };

/// How much is under way at once: enough to keep a server busy over a slow line.
const WINDOW_BYTES: usize = 1 << 20;
const WINDOW_UPDATES: usize = 64;

/// How often a gap is filled without anything else having been acknowledged in between.
const FILLS: u32 = 8;

/// A [`MeshDocument`] and what of it the server does not have yet.
///
/// Each edit is numbered, from 1 on, and kept until it is acknowledged, across streams and connections. The user of it
/// carries updates between it and a server: what [`next_to_send`](Self::next_to_send) gives is answered by one of
/// [`acknowledged`](Self::acknowledged), [`fill_gap`](Self::fill_gap), [`refused`](Self::refused) and
/// [`unsent`](Self::unsent).
#[derive(Debug)]
pub struct Replica {
    document: MeshDocument,
    unsaved: VecDeque<Unsaved>,
    next: u64,
    fills: u32,
    /// How many bytes of edits may come before those that wait are compacted.
    slack_bytes: usize,
}

#[derive(Debug)]
struct Unsaved {
    /// The numbers of the first and of the last edit in it; the last names it.
    first: u64,
    number: u64,
    update: Vec<u8>,
    is_sent: bool,
    /// Whether it repeats what was sent before, because the server lacks it. It counts as what waits for it, too.
    is_fill: bool,
}

impl Unsaved {
    /// How many edits it is; a repetition is none.
    fn edits(&self) -> u32 {
        if self.is_fill {
            return 0;
        }
        u32::try_from(self.number - self.first + 1).unwrap_or(u32::MAX)
    }
}

/// An update to be sent, and the number to name it by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// The number of the last edit in it.
    pub number: u64,
    /// The v1 update.
    pub update: Vec<u8>,
}

impl Replica {
    /// A replica that has nothing to send.
    ///
    /// ```
    /// # use meshagent_client::Replica;
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// let schema = MeshSchema::builtin("document").ok_or("there is one")?;
    /// let replica = Replica::new(MeshDocument::new(schema, 1));
    /// assert!(replica.is_saved());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(document: MeshDocument) -> Self {
        Self {
            document,
            unsaved: VecDeque::new(),
            next: 1,
            fills: 0,
            slack_bytes: COMPACTED_BYTES,
        }
    }

    /// The document.
    ///
    /// ```
    /// # use meshagent_client::Replica;
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// # use serde_json::json;
    /// # let schema = MeshSchema::builtin("document").ok_or("there is one")?;
    /// # let mut replica = Replica::new(MeshDocument::new(schema, 1));
    /// # let tea = json!({ "body": { "text": "tea" } });
    /// assert_eq!(replica.document().to_json(false), json!({ "document": { "content": [] } }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn document(&self) -> &MeshDocument {
        &self.document
    }

    /// For what is no edit: events, undo's clock, anchors.
    pub(crate) fn document_mut(&mut self) -> &mut MeshDocument {
        &mut self.document
    }

    /// Edits the document; what was edited is kept to be sent, also if the closure panics afterwards.
    ///
    /// ```
    /// # use meshagent_client::Replica;
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # let schema = MeshSchema::builtin("document").ok_or("there is one")?;
    /// # let mut replica = Replica::new(MeshDocument::new(schema, 1));
    /// # let tea = json!({ "body": { "text": "tea" } });
    /// replica.edit(|d| d.append_child(Target::Root, tea))?;
    /// assert_eq!(replica.document().root().child_count(), 1);
    /// assert!(!replica.is_saved());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn edit<R>(&mut self, edit: impl FnOnce(&mut Editor<'_>) -> R) -> R {
        let mut editor = Editor::new(&mut self.document);
        // What was changed before a panic is in the document, so it is kept like anything else.
        let result = catch_unwind(AssertUnwindSafe(|| edit(&mut editor)));
        for update in editor.into_updates() {
            self.keep(update, false);
        }
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Edits the document by its own functions; the updates that they return, and the closure hands on, are kept.
    ///
    /// ```
    /// # use meshagent_client::Replica;
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # let schema = MeshSchema::builtin("document").ok_or("there is one")?;
    /// # let mut replica = Replica::new(MeshDocument::new(schema, 1));
    /// # let tea = json!({ "body": { "text": "tea" } });
    /// replica.edit_with(|document| {
    ///     let update = document.append_child(Target::Root, tea, &mut || "id-1".to_owned());
    ///     update.ok().flatten().into_iter().collect()
    /// });
    /// assert_eq!(replica.unsaved().count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn edit_with(&mut self, edit: impl FnOnce(&mut MeshDocument) -> Vec<Vec<u8>>) {
        let before = self.document.state_vector();
        let result = catch_unwind(AssertUnwindSafe(|| edit(&mut self.document)));
        let updates = match result {
            Ok(updates) => updates,
            Err(panic) => {
                // All that is here and was not before, with deletions that the server may have already.
                if let Ok(update) = self.document.encode_diff(&before) {
                    self.keep(update, false);
                }
                resume_unwind(panic);
            }
        };
        for update in updates {
            self.keep(update, false);
        }
    }

    /// Keeps an update that was made elsewhere, and applies it.
    ///
    /// # Errors
    ///
    /// When it is no update.
    ///
    /// ```
    /// # use meshagent_client::Replica;
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # let schema = MeshSchema::builtin("document").ok_or("there is one")?;
    /// # let mut replica = Replica::new(MeshDocument::new(schema, 1));
    /// # let tea = json!({ "body": { "text": "tea" } });
    /// # let schema = replica.document().schema().clone();
    /// let mut elsewhere = Replica::new(MeshDocument::new(schema, 2));
    /// elsewhere.edit(|d| d.append_child(Target::Root, tea))?;
    /// replica.adopt(elsewhere.document().encode_state())?;
    /// assert_eq!(replica.document().root().child_count(), 1);
    /// assert!(!replica.is_saved());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn adopt(&mut self, update: Vec<u8>) -> Result<(), DecodeError> {
        self.document.apply_update(&update)?;
        self.keep(update, false);
        Ok(())
    }

    /// Takes up what the server sent.
    ///
    /// # Errors
    ///
    /// When it is no update.
    ///
    /// ```
    /// # use meshagent_client::Replica;
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # let schema = MeshSchema::builtin("document").ok_or("there is one")?;
    /// # let mut replica = Replica::new(MeshDocument::new(schema, 1));
    /// # let tea = json!({ "body": { "text": "tea" } });
    /// # let schema = replica.document().schema().clone();
    /// let mut elsewhere = Replica::new(MeshDocument::new(schema, 2));
    /// elsewhere.edit(|d| d.append_child(Target::Root, tea))?;
    /// replica.received(&elsewhere.document().encode_state())?;
    /// // What the server sent does not have to be sent.
    /// assert!(replica.is_saved());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn received(&mut self, update: &[u8]) -> Result<(), DecodeError> {
        if !update.is_empty() {
            self.document.apply_update(update)?;
        }
        Ok(())
    }

    /// The next update to send, if there is one and not too much is under way.
    ///
    /// Edits that only insert are merged. Those that delete go out alone: readers with a published SDK lose count when
    /// one update deletes in two places.
    ///
    /// ```
    /// # use meshagent_client::Replica;
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # let schema = MeshSchema::builtin("document").ok_or("there is one")?;
    /// # let mut replica = Replica::new(MeshDocument::new(schema, 1));
    /// # let tea = json!({ "body": { "text": "tea" } });
    /// replica.edit(|d| d.append_child(Target::Root, tea))?;
    /// let outgoing = replica.next_to_send().ok_or("there is one")?;
    /// assert_eq!(outgoing.number, 1);
    /// assert_eq!(replica.next_to_send(), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn next_to_send(&mut self) -> Option<Outgoing> {
        let under_way = self.unsaved.iter().filter(|one| one.is_sent);
        let (updates, bytes) = under_way.fold((0, 0), |(updates, bytes), one| {
            (updates + 1, bytes + one.update.len())
        });
        if updates >= WINDOW_UPDATES || bytes >= WINDOW_BYTES {
            return None;
        }
        // What the server lacks goes first: the others may build on it.
        let waiting = |one: &Unsaved| !one.is_sent;
        let fill = |one: &Unsaved| waiting(one) && one.is_fill;
        let fill = self.unsaved.iter().position(fill);
        let first = fill.or_else(|| self.unsaved.iter().position(waiting))?;
        let (mut bytes, mut last) = (0, None);
        let run = self.unsaved.iter().skip(first).take_while(|one| {
            bytes += one.update.len();
            // One between them that the server has, but can't show, may wait for the first of them.
            let follows = last
                .replace(one.number)
                .is_none_or(|last| last + 1 == one.first);
            follows
                && !one.is_sent
                && !one.is_fill
                && !deletes(&one.update)
                && bytes <= MERGED_BYTES
        });
        let run = run.count();
        if run > 1 {
            let merged: Vec<Unsaved> = self.unsaved.drain(first..first + run).collect();
            let updates: Vec<&[u8]> = merged.iter().map(|one| &one.update[..]).collect();
            match (merge_updates(&updates), &merged[..]) {
                (Ok(update), [one, .., last]) => self.unsaved.insert(
                    first,
                    Unsaved {
                        first: one.first,
                        number: last.number,
                        update,
                        is_sent: false,
                        is_fill: false,
                    },
                ),
                // They were made here, so they merge; if not, they go one by one.
                _ => {
                    for (offset, one) in merged.into_iter().enumerate() {
                        self.unsaved.insert(first + offset, one);
                    }
                }
            }
        }
        let next = self.unsaved.get_mut(first)?;
        next.is_sent = true;
        Some(Outgoing {
            number: next.number,
            update: next.update.clone(),
        })
    }

    /// The server has stored what was sent with this number.
    ///
    /// ```
    /// # use meshagent_client::Replica;
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # let schema = MeshSchema::builtin("document").ok_or("there is one")?;
    /// # let mut replica = Replica::new(MeshDocument::new(schema, 1));
    /// # let tea = json!({ "body": { "text": "tea" } });
    /// replica.edit(|d| d.append_child(Target::Root, tea))?;
    /// let outgoing = replica.next_to_send().ok_or("there is one")?;
    /// replica.acknowledged(outgoing.number);
    /// assert!(replica.is_saved());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn acknowledged(&mut self, number: u64) {
        self.fills = 0;
        self.forget(number);
    }

    /// The server has stored it, but can't show it, since it lacks what came before. What it lacks, by its state
    /// vector, is sent next. Returns whether that was worth a try.
    ///
    /// # Errors
    ///
    /// When it is no state vector.
    ///
    /// ```
    /// # use meshagent_client::Replica;
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # let schema = MeshSchema::builtin("document").ok_or("there is one")?;
    /// # let mut replica = Replica::new(MeshDocument::new(schema, 1));
    /// # let tea = json!({ "body": { "text": "tea" } });
    /// replica.edit(|d| d.append_child(Target::Root, tea))?;
    /// let outgoing = replica.next_to_send().ok_or("there is one")?;
    /// // The server has nothing at all.
    /// let state_vector = [0];
    /// assert!(replica.fill_gap(outgoing.number, &state_vector)?);
    /// assert!(replica.next_to_send().is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn fill_gap(&mut self, number: u64, state_vector: &[u8]) -> Result<bool, DecodeError> {
        let missing = self.document.encode_diff(state_vector)?;
        let waiting = self.unsaved.iter().find(|one| one.number == number);
        let first = waiting.map_or(self.next, |one| one.first);
        self.forget(number);
        if let Some(fill) = self.unsaved.iter_mut().find(|one| one.is_fill) {
            fill.first = fill.first.min(first);
            return Ok(true);
        }
        if self.fills == FILLS {
            return Ok(false);
        }
        self.fills += 1;
        self.keep(missing, true);
        if let Some(fill) = self.unsaved.back_mut() {
            fill.first = first;
        }
        Ok(true)
    }

    /// A stream has begun: with the server's state vector, and the state that it sent. What the server lacks beyond
    /// the edits that are kept anyway is sent before them. It had that once, but was restored from an older copy.
    pub(crate) fn send_lacking(
        &mut self,
        state_vector: &[u8],
        state: &[u8],
    ) -> Result<(), DecodeError> {
        let kept = self.unsaved.iter().map(|one| &one.update[..]);
        let updates: Vec<&[u8]> = std::iter::once(state).chain(kept).collect();
        if self.document.is_covered_by(state_vector, &updates)? {
            return Ok(());
        }
        let missing = self.document.encode_diff(state_vector)?;
        self.keep(missing, true);
        Ok(())
    }

    /// The server will never take what was sent with this number; it is given up. The document still has it, until
    /// [`start_over`](Self::start_over).
    ///
    /// ```
    /// # use meshagent_client::Replica;
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # let schema = MeshSchema::builtin("document").ok_or("there is one")?;
    /// # let mut replica = Replica::new(MeshDocument::new(schema, 1));
    /// # let tea = json!({ "body": { "text": "tea" } });
    /// replica.edit(|d| d.append_child(Target::Root, tea))?;
    /// let outgoing = replica.next_to_send().ok_or("there is one")?;
    /// replica.refused(outgoing.number);
    /// assert!(replica.is_saved());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn refused(&mut self, number: u64) {
        self.forget(number);
    }

    /// What was under way has to be sent again: the stream has ended, or the server asks for it.
    ///
    /// ```
    /// # use meshagent_client::Replica;
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # let schema = MeshSchema::builtin("document").ok_or("there is one")?;
    /// # let mut replica = Replica::new(MeshDocument::new(schema, 1));
    /// # let tea = json!({ "body": { "text": "tea" } });
    /// replica.edit(|d| d.append_child(Target::Root, tea))?;
    /// let before = replica.next_to_send();
    /// // The connection breaks.
    /// replica.unsent();
    /// assert_eq!(replica.next_to_send(), before);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unsent(&mut self) {
        for one in &mut self.unsaved {
            one.is_sent = false;
        }
        // What others wait for comes first.
        let edits = self.unsaved.make_contiguous();
        edits.sort_by_key(|one| !one.is_fill);
    }

    /// Goes on with another document, which has what the server has and nothing else. Kept edits that fit it are taken
    /// over; the others are given up. Returns how many those are.
    ///
    /// ```
    /// # use meshagent_client::Replica;
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # let schema = MeshSchema::builtin("document").ok_or("there is one")?;
    /// # let mut replica = Replica::new(MeshDocument::new(schema, 1));
    /// # let tea = json!({ "body": { "text": "tea" } });
    /// # let schema = replica.document().schema().clone();
    /// replica.edit(|d| d.append_child(Target::Root, tea))?;
    /// let nothing = MeshDocument::new(schema, 2);
    /// assert_eq!(replica.start_over(nothing), 0);
    /// // The edit is in the new document, too.
    /// assert_eq!(replica.document().root().child_count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start_over(&mut self, mut document: MeshDocument) -> usize {
        let mut lost = 0;
        self.unsent();
        self.unsaved.retain(|one| {
            // A fill would bring back what was refused.
            if one.is_fill {
                lost += 1;
                return false;
            }
            let fits = matches!(
                document.classify(&one.update),
                Ok(UpdateKind::New | UpdateKind::Contained)
            );
            let is_kept = fits && document.apply_update(&one.update).is_ok();
            lost += usize::from(!is_kept);
            is_kept
        });
        self.document = document;
        lost
    }

    /// The number of the last edit.
    ///
    /// ```
    /// # use meshagent_client::Replica;
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # let schema = MeshSchema::builtin("document").ok_or("there is one")?;
    /// # let mut replica = Replica::new(MeshDocument::new(schema, 1));
    /// # let tea = json!({ "body": { "text": "tea" } });
    /// assert_eq!(replica.last_number(), 0);
    /// replica.edit(|d| d.append_child(Target::Root, tea))?;
    /// assert_eq!(replica.last_number(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn last_number(&self) -> u64 {
        self.next - 1
    }

    /// The number up to which everything is acknowledged or given up.
    ///
    /// ```
    /// # use meshagent_client::Replica;
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # let schema = MeshSchema::builtin("document").ok_or("there is one")?;
    /// # let mut replica = Replica::new(MeshDocument::new(schema, 1));
    /// # let tea = json!({ "body": { "text": "tea" } });
    /// replica.edit(|d| d.append_child(Target::Root, tea))?;
    /// assert_eq!(replica.saved_number(), 0);
    /// # let outgoing = replica.next_to_send().ok_or("there is one")?;
    /// replica.acknowledged(outgoing.number);
    /// assert_eq!(replica.saved_number(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn saved_number(&self) -> u64 {
        let first = self.unsaved.iter().map(|one| one.first).min();
        first.unwrap_or(self.next) - 1
    }

    /// Whether nothing waits for the server.
    ///
    /// ```
    /// # use meshagent_client::Replica;
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # let schema = MeshSchema::builtin("document").ok_or("there is one")?;
    /// # let mut replica = Replica::new(MeshDocument::new(schema, 1));
    /// # let tea = json!({ "body": { "text": "tea" } });
    /// assert!(replica.is_saved());
    /// replica.edit(|d| d.append_child(Target::Root, tea))?;
    /// assert!(!replica.is_saved());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_saved(&self) -> bool {
        self.unsaved.is_empty()
    }

    /// What is kept with a number beyond this one: the numbers, and how many edits each is.
    pub(crate) fn edits_after(&self, number: u64) -> impl Iterator<Item = (u64, u32, &[u8])> {
        let edits = self.unsaved.iter();
        let edits = edits.filter(move |one| one.number > number);
        edits.map(|one| (one.number, one.edits(), &one.update[..]))
    }

    /// How many edits the server has not acknowledged.
    pub(crate) fn unsaved_edits(&self) -> u64 {
        self.unsaved.iter().map(|one| u64::from(one.edits())).sum()
    }

    /// Keeps and applies an update into which edits were merged.
    pub(crate) fn adopt_merged(&mut self, update: Vec<u8>, edits: u32) -> Result<(), DecodeError> {
        self.adopt(update)?;
        if let Some(one) = self.unsaved.back_mut() {
            let more = u64::from(edits.saturating_sub(1));
            one.number += more;
            self.next += more;
        }
        Ok(())
    }

    /// What is kept, by the numbers of the edits in it.
    pub(crate) fn kept(&self) -> impl Iterator<Item = RangeInclusive<u64>> {
        self.unsaved.iter().map(|one| one.first..=one.number)
    }

    /// The updates that the server has not acknowledged, oldest first.
    ///
    /// ```
    /// # use meshagent_client::Replica;
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # let schema = MeshSchema::builtin("document").ok_or("there is one")?;
    /// # let mut replica = Replica::new(MeshDocument::new(schema, 1));
    /// # let tea = json!({ "body": { "text": "tea" } });
    /// replica.edit(|d| d.append_child(Target::Root, tea))?;
    /// assert_eq!(replica.unsaved().count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unsaved(&self) -> impl Iterator<Item = &[u8]> {
        let edits = self.unsaved.iter().filter(|one| !one.is_fill);
        edits.map(|one| &one.update[..])
    }

    fn keep(&mut self, update: Vec<u8>, is_fill: bool) {
        self.slack_bytes = self.slack_bytes.saturating_sub(update.len());
        self.unsaved.push_back(Unsaved {
            first: self.next,
            number: self.next,
            update,
            is_sent: false,
            is_fill,
        });
        self.next += 1;
        if self.slack_bytes == 0 {
            self.compact();
        }
    }

    /// Merges the last edits that wait, without what they overwrote themselves: who is offline for long keeps about what is
    /// left of the edits, not all that they were.
    pub(crate) fn compact(&mut self) {
        let (mut bytes, mut next) = (0, self.next);
        let run = self.unsaved.iter().rev().take_while(|one| {
            bytes += one.update.len();
            let follows = one.number + 1 == next;
            next = one.first;
            follows && !one.is_sent && !one.is_fill && bytes <= MERGED_BYTES
        });
        let from = self.unsaved.len() - run.count();
        let waiting: Vec<&[u8]> = self
            .unsaved
            .range(from..)
            .map(|one| &one.update[..])
            .collect();
        let mut left_bytes = 0;
        // They were made here, so they merge; if not, they go one by one.
        if let Ok(Some((skipped, update))) = self.document.compact_updates(&waiting) {
            let first = self.unsaved[from + skipped].first;
            left_bytes = update.len();
            self.unsaved.truncate(from + skipped);
            self.unsaved.push_back(Unsaved {
                first,
                number: self.next - 1,
                update,
                is_sent: false,
                is_fill: false,
            });
        }
        self.slack_bytes = left_bytes.clamp(COMPACTED_BYTES, MERGED_BYTES / 2);
    }

    fn forget(&mut self, number: u64) {
        self.unsaved.retain(|one| one.number != number);
    }
}

/// Whether an update deletes or overwrites something: its delete set, which comes last, is not empty.
fn deletes(update: &[u8]) -> bool {
    update.last() != Some(&0)
}
