//! A document and its unacknowledged edits, without I/O.

mod again;
mod lost;
mod queue;
mod restored;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Weak};
use std::time::Duration;

use meshagent_document::{DecodeError, MeshDocument, Remade, UpdateKind};

use self::again::{Again, again};
pub(crate) use self::lost::Fresh;
pub use self::lost::LostEdit;
use self::lost::Witness;
use self::queue::{Kind, Queue, Standing, Unsaved};
use crate::editor::{Editor, millis};

/// The largest update into which waiting edits are merged, and up to which the parts are kept to be
/// tried alone after a refusal.
const MERGED_BYTES: usize = 256 << 10;

/// After this many bytes of edits, the waiting ones are compacted for the first time; later, after
/// as many bytes as the last result had.
const COMPACTED_BYTES: usize = if cfg!(test) { 1 << 10 } else { 16 << 10 };

/// How many bytes may be in flight: enough to keep a server busy over a slow line.
const WINDOW_BYTES: usize = 1 << 20;
const WINDOW_UPDATES: usize = 64;

/// How often a gap is filled while the server acknowledges nothing else.
const FILLS: u32 = 8;

/// How often merged edits are taken apart while the server acknowledges no edit. A refusal of a
/// single edit does not count.
const TRIES: u32 = 64;

/// A [`MeshDocument`] and the edits of it that the server does not have yet.
///
/// Edits, and updates that fill gaps, are numbered from 1. They are kept until they are
/// acknowledged, across streams and connections. The caller carries updates between the replica and
/// a server. For each update from [`next_to_send`](Self::next_to_send) it calls one of
/// [`acknowledged`](Self::acknowledged), [`fill_gap`](Self::fill_gap), [`refused`](Self::refused)
/// and [`unsent`](Self::unsent).
#[derive(Debug)]
pub struct Replica {
    document: MeshDocument,
    /// Distinguishes the document from others at its path on the server, if known.
    identity: Option<String>,
    queue: Queue,
    next: u64,
    fills: u32,
    /// How often edits were taken apart since an edit was acknowledged.
    taken_apart: u32,
    /// How many more bytes of edits there may be before the waiting ones are compacted.
    slack_bytes: usize,
    /// Edits up to this number can't be compacted further.
    compacted: u64,
    /// The time of the next edit, by which the undo history groups edits.
    now: Duration,
    /// The revision of the last snapshot, and the snapshot while it is in use.
    snapshot: (u64, Weak<MeshDocument>),
}

/// An update to send, and its number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// The number of the last edit in the update. It identifies the update in the answer.
    pub number: u64,
    /// The v1 update.
    pub update: Vec<u8>,
}

/// A kept edit, or several merged ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeptEdit<'a> {
    /// The numbers of the first and the last edit in it. The last one identifies it.
    pub(crate) first: u64,
    pub(crate) number: u64,
    /// The number of edits.
    pub(crate) count: u32,
    /// Whether it replaces operations that were given up.
    pub(crate) is_blank: bool,
    pub(crate) update: &'a [u8],
}

impl Replica {
    /// Creates a replica with nothing to send.
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
            now: Duration::ZERO,
            snapshot: (0, Weak::new()),
        }
    }

    /// The document with all local edits.
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

    /// A copy of the document, shared by all callers that ask for the same revision.
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

    /// Records the document's identity. Returns whether it has changed.
    pub(crate) fn set_identity(&mut self, identity: &str) -> bool {
        let is_news = self.identity() != Some(identity);
        self.identity = Some(identity.to_owned());
        is_news
    }

    /// Continues with another document, which has taken the place of this one. Returns the
    /// unacknowledged edits of the old one, and the old one.
    pub(crate) fn replace(&mut self, mut document: MeshDocument) -> (Vec<LostEdit>, MeshDocument) {
        let before = std::mem::take(&mut self.queue).into_values();
        let edits = before.filter(|one| one.kind == Kind::Edit);
        // Edits are still recorded, but none of the old document can be undone in this one.
        document.take_over_undo(&mut self.document, &Remade::default(), |_| true);
        let old = std::mem::replace(&mut self.document, document);
        self.snapshot = (0, Weak::new());
        (self.fills, self.taken_apart, self.compacted) = (0, 0, 0);
        (edits.map(LostEdit::unread).collect(), old)
    }

    /// For operations that are not edits, such as events.
    pub(crate) fn document_mut(&mut self) -> &mut MeshDocument {
        &mut self.document
    }

    /// Sets the time of the edits that follow, counted from any moment. It decides which edits
    /// [`Editor::undo`] undoes together.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use meshagent_client::Replica;
    /// # use meshagent_document::MeshDocument;
    /// # use meshagent_document::MeshSchema;
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # let schema = MeshSchema::builtin("document").ok_or("there is one")?;
    /// # let mut replica = Replica::new(MeshDocument::new(schema, 1));
    /// replica.edit(|d| d.remember_edits(Duration::from_millis(500)));
    /// for millis in [0, 400, 1_000] {
    ///     replica.set_time(Duration::from_millis(millis));
    ///     let tea = json!({ "body": { "text": "tea" } });
    ///     replica.edit(|d| d.append_child(Target::Root, tea))?;
    /// }
    /// replica.edit(|d| d.undo());
    /// assert_eq!(replica.document().root().child_count(), 2);
    /// replica.edit(|d| d.undo());
    /// assert_eq!(replica.document().root().child_count(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_time(&mut self, now: Duration) {
        self.now = now;
    }

    /// Edits the document. The edits are kept to be sent, even if the closure panics after making
    /// them.
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
        let mut editor = Editor::new(&mut self.document, self.next, self.now);
        // Edits before a panic are in the document, so they are kept.
        let result = catch_unwind(AssertUnwindSafe(|| edit(&mut editor)));
        for update in editor.into_updates() {
            self.keep(update, Kind::Edit, self.next);
        }
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Edits the document with its own methods. The updates that they return must be returned by
    /// the closure; they are kept to be sent.
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
                // Everything new since then, with deletions that the server may already have.
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

    /// Applies an update that was made elsewhere, and keeps it to be sent.
    ///
    /// # Errors
    ///
    /// If the bytes are not an update.
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

    /// Applies an update from the server.
    ///
    /// # Errors
    ///
    /// If the bytes are not an update.
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

    /// The next update to send; `None` if nothing is waiting or too much is in flight.
    ///
    /// Edits that only insert are merged. Edits that delete are sent alone: readers with a
    /// published SDK lose count when one update deletes in two places.
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
        // Parts that are tried alone are sent one by one, since later ones may depend on earlier
        // ones. After a refusal nothing is sent until the replica has started over.
        let is_trying = self.queue.is_trying() && updates > 0;
        if is_full || is_trying || self.queue.has_refused() {
            return None;
        }
        let first = self.queue.first_waiting()?;
        let number = self.queue.merge_waiting(first, MERGED_BYTES);
        let update = self.queue.send(number)?;
        Some(Outgoing { number, update })
    }

    /// The server has stored the update with this number.
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

    /// The server has stored the update with this number, but can't show it, because it lacks
    /// operations that the update depends on. Queues the operations that the server's state vector
    /// lacks. Returns false if that was tried too often.
    ///
    /// # Errors
    ///
    /// If the bytes are not a state vector.
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
        // The missing operations are still to be sent in parts, or to be given up.
        let comes_later = self.queue.has_refused()
            || self.queue.first_trial().is_some_and(|trial| trial < number);
        match self.queue.get(number).map(|one| one.kind) {
            Some(Kind::Edit) if comes_later => self.queue.set(number, Standing::Waiting),
            Some(Kind::Edit) => self.queue.set(number, Standing::Stored),
            // The server has stored it. It must not be sent again before what it waits for.
            _ => {
                self.queue.remove(number);
            }
        }
        if comes_later || self.queue.has_fill() {
            return Ok(true);
        }
        if self.fills == FILLS {
            // Operations that are also pending here depend on operations of other clients. The
            // server has all that this replica has.
            if self.document.has_gap() {
                self.queue.filled(u64::MAX);
            }
            return Ok(false);
        }
        // Computed last, because it takes time proportional to the document, and many answers may
        // come before a fill is sent.
        let missing = self.document.encode_diff(state_vector)?;
        self.fills += 1;
        self.keep(missing, Kind::Fill, self.next);
        Ok(true)
    }

    /// The update with this number, unless it is acknowledged.
    pub(crate) fn unsaved_update(&self, number: u64) -> Option<Vec<u8>> {
        self.queue.get(number).map(|one| one.update.clone())
    }

    /// How many operations of an update are deleted in this replica. If the server has deleted more
    /// of them, other programs wrote under this client id, and content that is visible here is
    /// visible nowhere else.
    pub(crate) fn deleted_in(&self, update: &[u8]) -> u64 {
        // If the update can't be inspected, the server's answer is accepted.
        let inspected = self.document.inspect(update);
        inspected.map_or(u64::MAX, |inspection| inspection.erased)
    }

    /// The server has erased content of the update that was sent with this number. If the update is
    /// refused for that, the next start over gives up edits whose content the server has erased.
    pub(crate) fn set_overwritten(&mut self, number: u64) {
        self.queue.set_overwritten(number);
    }

    /// The server has permanently refused the update with this number. If it was merged from
    /// several edits, these are tried alone as far as possible, and this returns true. Otherwise
    /// nothing is sent until the replica [starts over](Self::start_over) without the edit.
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
            // The stored updates that depend on the fill will never be shown.
            Kind::Fill if self.queue.refuse_stored(number) => {
                self.queue.remove(number);
            }
            Kind::Fill => self.queue.set(number, Standing::Refused),
            // Without this update, the old operations stay hidden only until their missing
            // predecessors arrive.
            Kind::Blank => {
                self.queue.remove(number);
                return true;
            }
        }
        false
    }

    /// The server refuses all updates of this replica. Nothing is sent until it [starts
    /// over](Self::start_over) without any unacknowledged edit.
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

    /// Updates in flight have to be sent again: the stream has ended, or the server asks for it.
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

    /// Continues with another document, which has exactly the server's content and a new client id.
    /// Kept edits that fit are applied to it. Others are made again under the new client id, unless
    /// they depend on missing content. Content that a restored server lacks is kept, too. The undo
    /// history is taken over. Returns the edits that are lost.
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
    pub fn start_over(&mut self, document: MeshDocument) -> Vec<LostEdit> {
        let witness = None;
        self.start_over_with(Fresh { document, witness }).0
    }

    /// Like [`start_over`](Self::start_over). Also returns the old document.
    pub(crate) fn start_over_with(&mut self, fresh: Fresh) -> (Vec<LostEdit>, MeshDocument) {
        let mut document = fresh.document;
        self.queue.unsent();
        let before = std::mem::take(&mut self.queue);
        let mut witness = Witness::new(fresh.witness, &document, before.is_empty());
        let lacking = self.lacking(&before, &mut document, &mut witness);
        let (mut remade, mut lost) = (Remade::default(), Vec::new());
        let (mut is_waited_for, mut is_conflict) = (false, false);
        let mut carried = None;
        // Blanks that follow operations which were kept until now, and are not any more.
        let mut behind_gaps = Vec::new();
        let is_overwritten = before.refused().any(|one| one.is_overwritten);
        for one in before.into_values() {
            if one.kind != Kind::Edit {
                match one.standing {
                    Standing::Refused => lost.push(LostEdit::of_fill(one)),
                    // A fill would restore what was refused.
                    _ if one.kind == Kind::Fill => {}
                    _ => match document.apply_update(&one.update) {
                        Ok(applied) if applied.gap => behind_gaps.push(one.update),
                        Ok(_) => self.queue.push(one),
                        Err(_) => {}
                    },
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
                        // The update can be decoded, because it was made or applied here.
                        let _read = remade.leave_out(&part.update);
                        carried.get_or_insert(part.first);
                        let changes = witness.changes(&part.update);
                        lost.push(LostEdit::new(part, changes));
                        continue;
                    }
                }
                // A caller that waits for a dropped edit now waits for the next one.
                part.first = carried.take().unwrap_or(part.first);
                kept.push(part);
            }
            self.queue.extend(kept, is_trial);
        }
        // Nothing is compacted before the new document has replaced the old one.
        (self.slack_bytes, self.compacted) = (usize::MAX, 0);
        if let Some(lacking) = lacking {
            self.keep(lacking, Kind::Fill, self.next);
        }
        if (is_waited_for || !behind_gaps.is_empty()) && !is_conflict {
            self.fill_in(&mut document, &remade);
        }
        for update in behind_gaps {
            self.keep(update, Kind::Blank, self.next);
        }
        let is_lost = |mark| lost.iter().any(|one: &LostEdit| one.marks.contains(&mark));
        document.take_over_undo(&mut self.document, &remade, is_lost);
        let old = std::mem::replace(&mut self.document, document);
        self.snapshot = (0, Weak::new());
        self.compact();
        (lost, old)
    }

    /// Operations under names that are given up may be pending on the server, or still in flight.
    /// They must never become visible beside the edits that were made again.
    fn fill_in(&mut self, document: &mut MeshDocument, remade: &Remade) {
        let known: BTreeMap<u64, u64> = document.clocks().collect();
        for (client, clocks) in remade.operations() {
            // The operations before these are not this replica's to give up.
            if clocks.start > known.get(&client).copied().unwrap_or_default() {
                continue;
            }
            if let Some(update) = document.fill_in(client, clocks.end) {
                self.keep(update, Kind::Blank, self.next);
            }
        }
    }

    /// The last number in use; 0 if there is none.
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

    /// Whether the server has acknowledged everything.
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

    /// The kept updates with a number above this one.
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

    /// The number of unacknowledged edits.
    pub(crate) fn unsaved_edits(&self) -> u64 {
        self.queue.iter().map(|one| u64::from(one.count)).sum()
    }

    /// Gives up the refused edits without starting over. The document still contains them.
    pub(crate) fn give_up_refused(&mut self) -> Vec<LostEdit> {
        let refused = self.queue.take_refused().into_iter();
        refused.map(LostEdit::unread).collect()
    }

    /// Whether another document has other content under the names of the refused edits, or these
    /// can't be sent again for another reason.
    pub(crate) fn is_taken_in(&self, other: &MeshDocument) -> bool {
        let is_taken = |update: &[u8]| other.classify(update) == Ok(UpdateKind::Conflict);
        let mut refused = self.queue.refused();
        refused.any(|one| one.is_overwritten || is_taken(&one.update))
    }

    /// Withdraws refusals: the edits are sent again.
    pub(crate) fn reconsider(&mut self) {
        self.queue.reconsider();
    }

    /// Applies an update that an earlier program kept, and keeps it. `edits` is the number of edits
    /// merged into it.
    pub(crate) fn adopt_kept(
        &mut self,
        update: Vec<u8>,
        edits: u32,
        is_blank: bool,
    ) -> Result<(), DecodeError> {
        self.document.apply_update(&update)?;
        let first = self.next;
        self.next += u64::from(edits.max(1));
        // The earlier program may have sent it.
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

    /// The size of all kept updates in bytes.
    pub(crate) fn queue_bytes(&self) -> usize {
        self.queue.iter().map(|one| one.update.len()).sum()
    }

    /// The number of kept updates, merged or not.
    pub(crate) fn kept(&self) -> usize {
        self.queue.iter().count()
    }

    /// The updates of the unacknowledged edits, oldest first.
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

    /// Sets the mark and the time of the following edits.
    fn mark(&mut self) -> u64 {
        self.document.mark_edits(self.next);
        self.document.set_time(millis(self.now));
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

    /// Merges the last waiting edits, without content that they overwrote themselves. A program
    /// that is offline for long then keeps roughly the size of the result, not of all edits.
    pub(crate) fn compact(&mut self) {
        let waiting: Vec<&Unsaved> = self
            .queue
            .last_waiting(self.next, MERGED_BYTES)
            .take_while(|one| one.number > self.compacted)
            .collect();
        let numbers: Vec<u64> = waiting.iter().rev().map(|one| one.number).collect();
        let updates: Vec<&[u8]> = waiting.iter().rev().map(|one| &one.update[..]).collect();
        let mut left_bytes = 0;
        // Updates that were made here can be merged. If not, they are sent one by one.
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

    /// How many edits the queue visits while this many deletions are made, sent and acknowledged.
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
