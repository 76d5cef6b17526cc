//! A document and the edits of it that the server has not acknowledged, without any I/O.

mod again;
mod lost;
mod queue;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Weak};

use meshagent_document::{DecodeError, MeshDocument, Remade, UpdateKind};

use self::again::{Again, again};
pub use self::lost::LostEdit;
use self::lost::Witness;
use self::queue::{Kind, Queue, Standing, Unsaved};
use crate::editor::Editor;

/// What waits to be sent is merged up to this size, and what was merged can be tried apart up to this size.
const MERGED_BYTES: usize = 256 << 10;

/// After so many bytes of edits that wait, they are compacted; later on after as many as that left.
const COMPACTED_BYTES: usize = if cfg!(test) { 1 << 10 } else { 16 << 10 };

/// How much is under way at once: enough to keep a server busy over a slow line.
const WINDOW_BYTES: usize = 1 << 20;
const WINDOW_UPDATES: usize = 64;

/// How often a gap is filled without anything else having been acknowledged in between.
const FILLS: u32 = 8;

/// How often what was merged is taken apart without anything having been acknowledged in between. A refusal of an edit
/// alone is none of these: it is one of the edits that are lost anyway.
const TRIES: u32 = 64;

/// A [`MeshDocument`] and what of it the server does not have yet.
///
/// Each edit is numbered, from 1 on, and kept until it is acknowledged, across streams and connections. The user of it
/// carries updates between it and a server: what [`next_to_send`](Self::next_to_send) gives is answered by one of
/// [`acknowledged`](Self::acknowledged), [`fill_gap`](Self::fill_gap), [`refused`](Self::refused) and
/// [`unsent`](Self::unsent).
#[derive(Debug)]
pub struct Replica {
    document: MeshDocument,
    /// What tells the document on the server from others at its path, as far as that is known.
    identity: Option<String>,
    queue: Queue,
    next: u64,
    fills: u32,
    /// How often something was taken apart since an edit was acknowledged.
    taken_apart: u32,
    /// How many bytes of edits may come before those that wait are compacted.
    slack_bytes: usize,
    /// Edits up to this number were compacted as far as they can be.
    compacted: u64,
    /// The last snapshot, as long as somebody reads it, and the revision that it shows.
    snapshot: (u64, Weak<MeshDocument>),
}

/// An update to be sent, and the number to name it by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// The number of the last edit in it.
    pub number: u64,
    /// The v1 update.
    pub update: Vec<u8>,
}

/// An edit that is kept, or several that were merged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeptEdit<'a> {
    /// The numbers of the first and of the last edit in it; the last names it.
    pub(crate) first: u64,
    pub(crate) number: u64,
    /// How many edits it is.
    pub(crate) count: u32,
    /// Whether it takes the place of operations that are given up.
    pub(crate) is_blank: bool,
    pub(crate) update: &'a [u8],
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
            identity: None,
            queue: Queue::default(),
            next: 1,
            fills: 0,
            taken_apart: 0,
            slack_bytes: COMPACTED_BYTES,
            compacted: 0,
            snapshot: (0, Weak::new()),
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

    /// A copy of the document, shared by all who ask for one of the same revision.
    pub(crate) fn snapshot(&mut self) -> Arc<MeshDocument> {
        let revision = self.document.revision();
        let (of, last) = &self.snapshot;
        if *of == revision
            && let Some(last) = last.upgrade()
        {
            return last;
        }
        let snapshot = Arc::new(self.document.snapshot());
        self.snapshot = (revision, Arc::downgrade(&snapshot));
        snapshot
    }

    pub(crate) fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }

    /// Notes which document it is. Returns whether that is news.
    pub(crate) fn set_identity(&mut self, identity: &str) -> bool {
        let is_news = self.identity() != Some(identity);
        self.identity = Some(identity.to_owned());
        is_news
    }

    /// Goes on with another document that has taken this one's place. Returns the edits of the old one that were not
    /// acknowledged.
    pub(crate) fn replace(&mut self, document: MeshDocument) -> Vec<LostEdit> {
        let before = std::mem::take(&mut self.queue).into_values();
        let edits = before.filter(|one| one.kind == Kind::Edit);
        self.document = document;
        self.snapshot = (0, Weak::new());
        (self.fills, self.taken_apart, self.compacted) = (0, 0, 0);
        edits.map(LostEdit::unread).collect()
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
        let mut editor = Editor::new(&mut self.document, self.next);
        // What was changed before a panic is in the document, so it is kept like anything else.
        let result = catch_unwind(AssertUnwindSafe(|| edit(&mut editor)));
        for update in editor.into_updates() {
            self.keep(update, Kind::Edit, self.next);
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
        let mark = self.mark();
        let before = self.document.state_vector();
        let result = catch_unwind(AssertUnwindSafe(|| edit(&mut self.document)));
        let updates = match result {
            Ok(updates) => updates,
            Err(panic) => {
                // All that is here and was not before, with deletions that the server may have already.
                if let Ok(update) = self.document.encode_diff(&before) {
                    self.keep(update, Kind::Edit, mark);
                }
                resume_unwind(panic);
            }
        };
        for update in updates {
            self.keep(update, Kind::Edit, mark);
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
        let mark = self.mark();
        self.document.apply_update(&update)?;
        self.keep(update, Kind::Edit, mark);
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
        let (updates, bytes) = self.queue.under_way();
        let is_full = updates >= WINDOW_UPDATES || bytes >= WINDOW_BYTES;
        // What is tried apart is sent one by one: what comes after it may have to wait for it. After a refusal nothing is
        // sent before the replica has started over.
        let is_trying = self.queue.is_trying() && updates > 0;
        if is_full || is_trying || self.queue.has_refused() {
            return None;
        }
        let first = self.queue.first_waiting()?;
        let number = self.queue.merge_waiting(first, MERGED_BYTES);
        let update = self.queue.send(number)?;
        Some(Outgoing { number, update })
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
        match self.queue.remove(number).map(|one| one.kind) {
            Some(Kind::Edit) => self.taken_apart = 0,
            Some(Kind::Fill) => self.queue.filled(number),
            Some(Kind::Blank) | None => {}
        }
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
        // What it waits for is on its way in parts, or to be given up.
        let comes_later = self.queue.first_trial().is_some_and(|trial| trial < number);
        if comes_later || self.queue.has_refused() {
            self.queue.set(number, Standing::Waiting);
            return Ok(true);
        }
        match self.queue.get(number).map(|one| one.kind) {
            Some(Kind::Edit) => self.queue.set(number, Standing::Stored),
            _ => {
                self.queue.remove(number);
            }
        }
        if self.queue.has_fill() {
            return Ok(true);
        }
        if self.fills == FILLS {
            // What waits here as well waits for somebody else: all that is here is there.
            if self.document.has_gap() {
                self.queue.filled(u64::MAX);
            }
            return Ok(false);
        }
        // Last, because it takes a time in proportion to the document, and many answers may come
        // before a fill is sent.
        let missing = self.document.encode_diff(state_vector)?;
        self.fills += 1;
        self.keep(missing, Kind::Fill, self.next);
        Ok(true)
    }

    /// The update that was sent with this number, if it is not acknowledged.
    pub(crate) fn unsaved_update(&self, number: u64) -> Option<Vec<u8>> {
        self.queue.get(number).map(|one| one.update.clone())
    }

    /// How many operations are alive in an update and deleted in this replica. If the server counts more of an update of
    /// ours, others wrote under our client id, and what is shown here is shown nowhere else.
    pub(crate) fn deleted_in(&self, update: &[u8]) -> u64 {
        // What can't be inspected is taken as it was answered.
        let inspected = self.document.inspect(update);
        inspected.map_or(u64::MAX, |inspection| inspection.erased)
    }

    /// The server has operations of what was sent with this number without their content. If it is refused because of
    /// that, the next start over gives up all that is so.
    pub(crate) fn set_overwritten(&mut self, number: u64) {
        self.queue.set_overwritten(number);
    }

    /// A stream has begun: with the server's state vector, and the state that it sent. What the server lacks beyond
    /// the edits that are kept anyway is sent before them. It had that once, but was restored from an older copy.
    pub(crate) fn send_lacking(
        &mut self,
        state_vector: &[u8],
        state: &[u8],
    ) -> Result<(), DecodeError> {
        let kept = self.queue.iter().map(|one| &one.update[..]);
        let updates: Vec<&[u8]> = std::iter::once(state).chain(kept).collect();
        if self.document.is_covered_by(state_vector, &updates)? {
            return Ok(());
        }
        let missing = self.document.encode_diff(state_vector)?;
        self.keep(missing, Kind::Fill, self.next);
        Ok(())
    }

    /// The server will never take what was sent with this number. If that was merged of several edits, they are tried
    /// apart, as far as that is possible, and this returns true: things go on. Otherwise nothing is sent any more until
    /// the replica [starts over](Self::start_over) without the edit.
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
    /// replica.edit(|d| d.append_child(Target::Root, tea.clone()))?;
    /// replica.edit(|d| d.append_child(Target::Root, tea))?;
    /// let both = replica.next_to_send().ok_or("they are merged")?;
    /// assert!(replica.refused(both.number));
    /// let first = replica.next_to_send().ok_or("it is tried alone")?;
    /// assert!(!replica.refused(first.number));
    /// assert_eq!(replica.next_to_send(), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn refused(&mut self, number: u64) -> bool {
        let Some(kind) = self.queue.get(number).map(|one| one.kind) else {
            return true;
        };
        match kind {
            Kind::Edit => {
                if self.taken_apart < TRIES && self.queue.take_apart(number) {
                    self.taken_apart += 1;
                    return true;
                }
                self.queue.set(number, Standing::Refused);
            }
            // What waits for it waits for ever.
            Kind::Fill if self.queue.refuse_stored(number) => {
                self.queue.remove(number);
            }
            Kind::Fill => self.queue.set(number, Standing::Refused),
            // Then what it would hide stays hidden only as long as nobody brings what comes before.
            Kind::Blank => {
                self.queue.remove(number);
                return true;
            }
        }
        false
    }

    /// The server takes nothing of this replica any more, whatever it is. Nothing is sent until it
    /// [starts over](Self::start_over), without all that is not acknowledged.
    ///
    /// ```
    /// # use meshagent_client::Replica;
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # let schema = MeshSchema::builtin("document").ok_or("there is one")?;
    /// # let mut replica = Replica::new(MeshDocument::new(schema.clone(), 1));
    /// # let tea = json!({ "body": { "text": "tea" } });
    /// replica.edit(|d| d.append_child(Target::Root, tea))?;
    /// replica.all_refused();
    /// let lost = replica.start_over(MeshDocument::new(schema, 2));
    /// assert_eq!(lost.len(), 1);
    /// assert!(replica.is_saved());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn all_refused(&mut self) {
        self.queue.refuse_all();
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
        self.queue.unsent();
    }

    /// Goes on with another document, which has what the server has and nothing else, under a client id that is new. Kept
    /// edits that fit it are taken over; others are made again under that client id, as far as they don't build on what is
    /// not there, and what can be undone goes on. Returns those that are given up.
    ///
    /// ```
    /// # use meshagent_client::Replica;
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # let schema = MeshSchema::builtin("document").ok_or("there is one")?;
    /// # let mut replica = Replica::new(MeshDocument::new(schema, 1));
    /// # let schema = replica.document().schema().clone();
    /// let body = |text| json!({ "body": { "text": text } });
    /// replica.edit(|d| d.append_child(Target::Root, body("tea")))?;
    /// let refused = replica.next_to_send().ok_or("there is one")?;
    /// replica.edit(|d| d.append_child(Target::Root, body("milk")))?;
    /// replica.refused(refused.number);
    /// let nothing = MeshDocument::new(schema, 2);
    /// let lost = replica.start_over(nothing);
    /// assert_eq!(lost[0].changes[0]["inserted"]["body"]["text"], "tea");
    /// // The other edit is in the new document, too.
    /// assert_eq!(replica.document().root().child_count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start_over(&mut self, mut document: MeshDocument) -> Vec<LostEdit> {
        self.queue.unsent();
        let before = std::mem::take(&mut self.queue);
        let mut witness = Witness::new(&document, before.is_empty());
        let (mut remade, mut lost) = (Remade::default(), Vec::new());
        let (mut is_waited_for, mut is_conflict) = (false, false);
        let mut carried = None;
        let is_overwritten = before.refused().any(|one| one.is_overwritten);
        for one in before.into_values() {
            if one.kind != Kind::Edit {
                match one.standing {
                    Standing::Refused => lost.push(LostEdit::of_fill(one)),
                    // It would bring back what was refused.
                    _ if one.kind == Kind::Fill => {}
                    _ => {
                        if document.apply_update(&one.update).is_ok() {
                            self.queue.push(one);
                        }
                    }
                }
                continue;
            }
            let (is_refused, is_trial) = (one.standing == Standing::Refused, one.is_trial);
            is_waited_for |= !is_refused && one.was_sent && !remade.is_empty();
            let mut kept = Vec::new();
            for mut part in one.into_parts() {
                if is_refused {
                    is_conflict |= document.classify(&part.update) == Ok(UpdateKind::Conflict);
                }
                let erased = |one: &MeshDocument| {
                    let inspected = one.inspect(&part.update);
                    inspected.map_or(0, |inspection| inspection.erased)
                };
                let is_erased = is_overwritten && erased(&document) > erased(&self.document);
                let again = if is_refused || is_erased {
                    Again::Lost
                } else {
                    again(&mut document, &part.update, &self.document, &mut remade)
                };
                match again {
                    Again::Same => witness.apply(&part.update),
                    Again::Made(update) => {
                        is_waited_for = true;
                        witness.apply(&part.update);
                        part.update = update;
                    }
                    Again::Nothing => {
                        witness.apply(&part.update);
                        carried.get_or_insert(part.first);
                        continue;
                    }
                    Again::Lost => {
                        // What it is that is left out can be read: it was made or taken up here.
                        let _read = remade.leave_out(&part.update);
                        carried.get_or_insert(part.first);
                        let changes = witness.changes(&part.update);
                        lost.push(LostEdit::new(part, changes));
                        continue;
                    }
                }
                // Whoever waits for one that is gone waits for the one after it.
                part.first = carried.take().unwrap_or(part.first);
                kept.push(part);
            }
            self.queue.extend(kept, is_trial);
        }
        // Nothing is compacted before the new document has taken the old one's place.
        (self.slack_bytes, self.compacted) = (usize::MAX, 0);
        if is_waited_for && !is_conflict {
            self.fill_in(&mut document, &remade);
        }
        let is_lost = |mark| lost.iter().any(|one: &LostEdit| one.marks.contains(&mark));
        document.take_over_undo(&mut self.document, &remade, is_lost);
        self.document = document;
        self.snapshot = (0, Weak::new());
        self.compact();
        lost
    }

    /// What was sent under names that are given up may wait at the server for what never comes, or may still be on its
    /// way there. It is never to be seen beside what was made again.
    fn fill_in(&mut self, document: &mut MeshDocument, remade: &Remade) {
        let known: BTreeMap<u64, u64> = document.clocks().collect();
        for (client, clocks) in remade.operations() {
            // What comes before is not ours to give up.
            if clocks.start > known.get(&client).copied().unwrap_or_default() {
                continue;
            }
            if let Some(update) = document.fill_in(client, clocks.end) {
                self.keep(update, Kind::Blank, self.next);
            }
        }
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
        self.queue.first().unwrap_or(self.next) - 1
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
        self.queue.is_empty()
    }

    /// What is kept with a number beyond this one.
    pub(crate) fn edits_after(&self, number: u64) -> impl Iterator<Item = KeptEdit<'_>> {
        let kept = self.queue.after(number);
        kept.map(|one| KeptEdit {
            first: one.first,
            number: one.number,
            count: one.count,
            is_blank: one.kind == Kind::Blank,
            update: &one.update,
        })
    }

    /// How many edits the server has not acknowledged.
    pub(crate) fn unsaved_edits(&self) -> u64 {
        self.queue.iter().map(|one| u64::from(one.count)).sum()
    }

    /// Gives up what was refused, without starting over. The document still has it.
    pub(crate) fn give_up_refused(&mut self) -> Vec<LostEdit> {
        let refused = self.queue.take_refused().into_iter();
        refused.map(LostEdit::unread).collect()
    }

    /// Whether another document has other content under the names of what was refused, or the
    /// refused content is not to be sent again for another reason.
    pub(crate) fn is_taken_in(&self, other: &MeshDocument) -> bool {
        let is_taken = |update: &[u8]| other.classify(update) == Ok(UpdateKind::Conflict);
        let mut refused = self.queue.refused();
        refused.any(|one| one.is_overwritten || is_taken(&one.update))
    }

    /// What was refused is not given up after all.
    pub(crate) fn reconsider(&mut self) {
        self.queue.reconsider();
    }

    /// Keeps and applies an update that an earlier program kept, and into which so many edits were merged.
    pub(crate) fn adopt_kept(
        &mut self,
        update: Vec<u8>,
        edits: u32,
        is_blank: bool,
    ) -> Result<(), DecodeError> {
        self.document.apply_update(&update)?;
        let first = self.next;
        self.next += u64::from(edits.max(1));
        // An earlier program may have sent it.
        let kind = match edits {
            0 if is_blank => Kind::Blank,
            0 => Kind::Fill,
            _ => Kind::Edit,
        };
        self.queue.push(Unsaved {
            first,
            count: edits,
            was_sent: true,
            ..Unsaved::new(self.next - 1, first, update, kind)
        });
        Ok(())
    }

    /// How long the updates are that are kept.
    pub(crate) fn queue_bytes(&self) -> usize {
        self.queue.iter().map(|one| one.update.len()).sum()
    }

    /// How many updates are kept, merged or not.
    pub(crate) fn kept(&self) -> usize {
        self.queue.iter().count()
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
        let edits = self.queue.iter().filter(|one| one.kind == Kind::Edit);
        edits.map(|one| &one.update[..])
    }

    /// What edits that are made now are marked by.
    fn mark(&mut self) -> u64 {
        self.document.mark_edits(self.next);
        self.next
    }

    fn keep(&mut self, update: Vec<u8>, kind: Kind, mark: u64) {
        self.slack_bytes = self.slack_bytes.saturating_sub(update.len());
        self.queue.push(Unsaved::new(self.next, mark, update, kind));
        self.next += 1;
        if self.slack_bytes == 0 {
            self.compact();
        }
    }

    /// Merges the last edits that wait, without what they overwrote themselves: who is offline for long keeps about what is
    /// left of the edits, not all that they were.
    pub(crate) fn compact(&mut self) {
        let waiting: Vec<&Unsaved> = self
            .queue
            .last_waiting(self.next, MERGED_BYTES)
            .take_while(|one| one.number > self.compacted)
            .collect();
        let numbers: Vec<u64> = waiting.iter().rev().map(|one| one.number).collect();
        let updates: Vec<&[u8]> = waiting.iter().rev().map(|one| &one.update[..]).collect();
        let mut left_bytes = 0;
        // They were made here, so they merge; if not, they go one by one.
        let skipped = match self.document.compact_updates(&updates) {
            Ok(Some((skipped, update))) => {
                left_bytes = update.len();
                self.queue.merge(&numbers[skipped..], update, MERGED_BYTES);
                skipped
            }
            _ => numbers.len().saturating_sub(1),
        };
        if let Some(last) = skipped.checked_sub(1) {
            self.compacted = numbers[last];
        }
        self.slack_bytes = left_bytes.clamp(COMPACTED_BYTES, MERGED_BYTES / 2);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use meshagent_document::{MeshDocument, MeshSchema, Target};
    use serde_json::json;

    use super::Replica;

    /// How many edits are looked at while so many deletions are made, sent and acknowledged.
    fn looked_at(deletions: usize) -> u64 {
        let schema = MeshSchema::builtin("document").unwrap();
        let mut replica = Replica::new(MeshDocument::new(schema, 1));
        let mut insert = || {
            let element = json!({ "body": { "text": "漢字" } });
            let inserted = replica.edit(|d| d.append_child(Target::Root, element));
            inserted.unwrap()
        };
        let ids: Vec<String> = (0..deletions).map(|_| insert()).collect();
        while let Some(next) = replica.next_to_send() {
            replica.acknowledged(next.number);
        }
        let before = replica.queue.looked_at.get();
        for id in &ids {
            replica.edit(|d| d.delete(id)).unwrap();
        }
        let mut under_way = VecDeque::new();
        loop {
            let sent = std::iter::from_fn(|| replica.next_to_send());
            under_way.extend(sent.map(|next| next.number));
            let Some(number) = under_way.pop_front() else {
                break;
            };
            replica.acknowledged(number);
        }
        assert!(replica.is_saved());
        replica.queue.looked_at.get() - before
    }

    #[test]
    fn what_was_overwritten_says_nothing_of_later_edits() {
        let schema = MeshSchema::builtin("document").unwrap();
        let mut replica = Replica::new(MeshDocument::new(schema.clone(), 1));
        let server = MeshDocument::new(schema.clone(), 2);
        let sent = |replica: &mut Replica, edits: usize| {
            for _ in 0..edits {
                let element = json!({ "body": { "text": "漢字" } });
                let inserted = replica.edit(|d| d.append_child(Target::Root, element));
                inserted.unwrap();
            }
            replica.next_to_send().unwrap().number
        };
        let overwritten = sent(&mut replica, 1);
        replica.set_overwritten(overwritten);
        assert!(!replica.refused(overwritten));
        assert!(replica.is_taken_in(&server));
        // Another document takes its place before it starts over.
        replica.replace(MeshDocument::new(schema, 3));
        let refused = sent(&mut replica, 1);
        assert!(!replica.refused(refused));
        assert!(!replica.is_taken_in(&server));
        replica.reconsider();
        // Parts of another turn out to be taken one by one.
        let merged = sent(&mut replica, 2);
        replica.set_overwritten(merged);
        assert!(replica.refused(merged));
        while let Some(next) = replica.next_to_send() {
            replica.acknowledged(next.number);
        }
        let refused = sent(&mut replica, 1);
        assert!(!replica.refused(refused));
        assert!(!replica.is_taken_in(&server));
    }

    #[test]
    fn deletions_cost_as_much_each_however_many_there_are() {
        let (few, many) = (looked_at(500), looked_at(5_000));
        assert!(many <= 10 * few + 1_000, "{few} and {many}");
        assert!(many < 10 * 5_000, "{many}");
    }
}
