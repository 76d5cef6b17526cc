//! The state of an open document: its replica, its journal, and the refused edits.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use meshagent_document::MeshDocument;
use meshagent_protocol::ErrorCode;
use tokio::time::Instant;

use super::{
    DocumentEnd, DocumentEvent, Handle, JournalStatus, Refusal, ReplacedDocument, Shared,
    Subscriber, Told,
};
use crate::journal::{Journals, Pending};
use crate::refusals::Refusals;
use crate::replica::{Fresh, LostEdit, Outgoing, Replica};

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) replica: Replica,
    pub(super) stage: Stage,
    pub(super) journal: Option<Journaling>,
    pub(super) subscribers: Vec<Subscriber>,
    pub(super) handles: usize,
    pub(super) openings: Vec<Opening>,
    pub(super) refusals: Refusals,
    /// Why an edit is to be given up. `None` again once the replica has started over without it.
    pub(super) taking_back: Option<Refusal>,
    pub(super) replaced: Option<Arc<ReplacedDocument>>,
    /// Set once; nothing is sent afterwards.
    pub(super) end: Option<DocumentEnd>,
    /// Since when no handle is open.
    pub(super) abandoned_since: Option<Instant>,
    /// Whether the document is open only to send the edits in its journal, without a handle.
    pub(super) is_resending: bool,
    /// The number of edits that were given up while no handle was open to report them.
    pub(super) lost_untold: u64,
}

/// The progress of opening a document.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// The journal is being read.
    Loading,
    /// The journal holds nothing; the server's state is awaited.
    Awaiting,
    /// The replica is the document. Before this stage it is an empty placeholder, which must not be
    /// edited.
    Begun,
}

/// The connection between a document and its journal.
#[derive(Debug)]
pub(super) struct Journaling {
    pub(super) pending: Pending,
    pub(super) journals: Journals,
    pub(super) document: Weak<Shared>,
    /// Whether the document is in the writer's queue.
    pub(super) is_queued: bool,
    /// Whether the document has ended and the writer has closed its journal.
    pub(super) is_released: bool,
}

impl Journaling {
    /// Puts the document into the writer's queue.
    fn queue(&mut self) {
        if !std::mem::replace(&mut self.is_queued, true)
            && let Some(document) = self.document.upgrade()
        {
            self.journals.write(document);
        }
    }
}

/// An opening, and the position up to which it has reported refusals.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) handle: Weak<Handle>,
    pub(super) told: Told,
}

impl State {
    /// Whether the replica is the document.
    pub(super) fn has_begun(&self) -> bool {
        self.stage == Stage::Begun
    }

    /// Counts a new opening.
    pub(super) fn opened(&mut self, opening: Opening) {
        self.handles += 1;
        self.abandoned_since = None;
        self.is_resending &= self.end.is_some();
        self.openings.retain(|one| one.handle.strong_count() > 0);
        self.openings.push(opening);
    }

    /// Counts openings that have ended. Returns whether none is left.
    pub(super) fn ended(&mut self, openings: usize) -> bool {
        self.handles -= openings;
        let is_last = self.handles == 0;
        if is_last {
            self.abandoned_since = Some(Instant::now());
        }
        is_last
    }

    /// Continues with the replica of an earlier program.
    pub(super) fn begin(&mut self, replica: Replica) {
        self.replica = replica;
        self.stage = Stage::Begun;
    }

    /// The server refuses the update with this number permanently. Returns true if its edits are
    /// now tried one by one, so that the stream continues.
    pub(crate) fn refuse(&mut self, number: u64, refusal: Refusal) -> bool {
        let goes_on = if refusal.has_code(ErrorCode::PermissionDenied) {
            // A missing right concerns every edit.
            self.replica.all_refused();
            false
        } else {
            self.replica.refused(number)
        };
        if !goes_on {
            self.taking_back = Some(refusal);
        }
        goes_on
    }

    /// Continues with the server's state. After a refusal, the refused edit is lost, and so are the
    /// edits that depend on it. Returns the old document.
    pub(crate) fn start_over(&mut self, fresh: Fresh) -> MeshDocument {
        let (lost, old) = self.replica.start_over_with(fresh);
        self.stage = Stage::Begun;
        if let Some(journal) = &mut self.journal {
            journal.pending.rename(&self.replica);
            journal.queue();
        }
        if let Some(refusal) = self.taking_back.take() {
            self.give_up(refusal, lost);
        }
        old
    }

    /// Continues with another document, which has taken the place of this one: the server's
    /// document has another identity. Returns the old document.
    pub(crate) fn replace(&mut self, document: MeshDocument) -> MeshDocument {
        let content = self.replica.document().to_json(true);
        let (edits, old) = self.replica.replace(document);
        self.stage = Stage::Begun;
        if let Some(journal) = &mut self.journal {
            if edits.is_empty() {
                journal.pending.start_over();
            } else {
                journal.pending.replace();
            }
            journal.queue();
        }
        let refusal = self.taking_back.take();
        let refusal = refusal.unwrap_or_else(Refusal::replaced);
        self.note_lost(&refusal, &edits);
        let replaced = Arc::new(ReplacedDocument { content, edits });
        self.replaced = Some(Arc::clone(&replaced));
        self.publish(&DocumentEvent::Replaced(replaced));
        old
    }

    /// Gives up these edits, and publishes them with their content.
    fn give_up(&mut self, refusal: Refusal, lost: Vec<LostEdit>) {
        self.note_lost(&refusal, &lost);
        self.publish(&DocumentEvent::Refused { refusal, lost });
    }

    /// Records lost edits for the open handles. Without a handle they count as unreported, for the
    /// result of `RoomClient::close`.
    fn note_lost(&mut self, refusal: &Refusal, lost: &[LostEdit]) {
        for edit in lost {
            self.refusals.note(edit.clone(), refusal.clone());
        }
        if self.handles == 0 {
            self.lost_untold += lost.iter().map(|edit| edit.edits).sum::<u64>();
        }
    }

    /// Ends a document without handles whose edits the server refuses. They stay in the journal
    /// until the document is opened, which reports the refusal. Returns false if the journal does
    /// not have all of them: then ending would not preserve them.
    pub(crate) fn end_untold(&mut self, refusal: Refusal) -> bool {
        if self.handles > 0 || !self.is_kept_in_journal() {
            return false;
        }
        self.end(refusal.into());
        true
    }

    /// Whether the journal has all edits, or will have them shortly.
    fn is_kept_in_journal(&self) -> bool {
        let is_kept = |journal: &Journaling| {
            // Edits that are resent were read from the journal.
            self.is_resending || journal.pending.failure().is_none()
        };
        self.journal.as_ref().is_some_and(is_kept)
    }

    /// Withdraws a conflict that another participant caused. Returns false if the refusal is not a
    /// conflict, or if the server's document has other content under the names of the refused
    /// edits.
    pub(crate) fn reconsider_conflict(&mut self, server: &MeshDocument) -> bool {
        let is_conflict = |refusal: &Refusal| refusal.has_code(ErrorCode::Conflict);
        if !self.taking_back.as_ref().is_some_and(is_conflict) || self.replica.is_taken_in(server) {
            return false;
        }
        self.taking_back = None;
        self.replica.reconsider();
        true
    }

    /// The refusal whose edits are about to be given up.
    pub(crate) fn taking_back(&self) -> Option<&Refusal> {
        self.taking_back.as_ref()
    }

    /// Ends the document, and publishes that. Only the first call has an effect.
    pub(super) fn end(&mut self, end: DocumentEnd) {
        if self.end.is_some() {
            return;
        }
        match self.taking_back.take() {
            // No handle would report these edits, so they count as unacknowledged.
            Some(_) if self.handles == 0 => self.replica.reconsider(),
            Some(refusal) => {
                let lost = self.replica.give_up_refused();
                self.give_up(refusal, lost);
            }
            None => {}
        }
        for subscriber in std::mem::take(&mut self.subscribers) {
            subscriber.end(&end);
        }
        self.end = Some(end);
        // Before the end is visible: the next opening reads what this document wrote.
        if let Some(journal) = &mut self.journal
            && let Some(document) = journal.document.upgrade()
        {
            journal.is_released = !journal.journals.release(document);
        }
    }

    /// Drops the content of lost edits that all openings have reported.
    pub(super) fn forget_reported(&mut self) {
        let openings = self.openings.iter();
        let openings = openings.filter(|one| one.handle.strong_count() > 0);
        let told = openings.map(|one| one.told.load(Ordering::Relaxed)).min();
        self.refusals.forget(told.unwrap_or(u64::MAX));
    }

    /// The first refusal of an edit after `told` and up to `last`.
    pub(super) fn refused(&self, told: u64, last: u64) -> Option<&Refusal> {
        self.refusals.between(told, last)
    }

    /// Whether the document has a journal.
    pub(crate) fn is_journaled(&self) -> bool {
        self.journal.is_some()
    }

    /// Whether edits are about to be written to the journal.
    pub(crate) fn is_being_journaled(&self) -> bool {
        let journal = self.journal.as_ref();
        journal.is_some_and(|journal| {
            let pending = &journal.pending;
            pending.failure().is_none() && pending.written() < self.replica.last_number()
        })
    }

    pub(crate) fn journal_status(&self) -> JournalStatus {
        let Some(journal) = &self.journal else {
            return JournalStatus::Off;
        };
        match journal.pending.failure() {
            None => JournalStatus::Kept,
            Some(reason) => JournalStatus::Failing {
                reason: reason.to_owned(),
            },
        }
    }

    /// The next update to send, if there is one and it may be sent now.
    pub(crate) fn next_to_send(&mut self) -> Option<Outgoing> {
        let holds_edits = |journal: &Journaling| journal.pending.holds_edits();
        if self.journal.as_ref().is_some_and(holds_edits) {
            return None;
        }
        self.replica.next_to_send()
    }

    /// Has the writer record new edits.
    pub(super) fn journal_edits(&mut self) {
        if let Some(journal) = &mut self.journal {
            journal.queue();
        }
    }

    /// Has the writer record what the server sent, and what it acknowledged.
    pub(crate) fn journal_progress(&mut self, received: Option<&[u8]>) {
        if let Some(journal) = &mut self.journal {
            journal.pending.receive(received.unwrap_or_default());
            journal.queue();
        }
    }

    /// The server has stored the update with this number. Call this before the replica removes it.
    pub(crate) fn journal_answered(&mut self, number: u64) {
        if let Some(journal) = &mut self.journal {
            journal.pending.answered(&self.replica, number);
        }
    }

    /// Has the journal rewritten, after the replica was rebuilt.
    pub(crate) fn journal_anew(&mut self) {
        if let Some(journal) = &mut self.journal {
            journal.pending.start_over();
            journal.queue();
        }
    }

    /// Publishes the changes of the document since the last call.
    pub(crate) fn publish_changes(&mut self) {
        let mut events = VecDeque::new();
        while let Some(event) = self.replica.document_mut().poll_event() {
            events.push_back(event);
        }
        for event in events {
            self.publish(&DocumentEvent::Changed(event));
        }
    }

    pub(crate) fn publish(&mut self, event: &DocumentEvent) {
        let had_subscribers = !self.subscribers.is_empty();
        self.subscribers
            .retain_mut(|subscriber| subscriber.send(event));
        if had_subscribers && self.subscribers.is_empty() {
            self.replica.document_mut().watch(false);
        }
    }

    /// Whether there are subscribers.
    pub(crate) fn is_watched(&self) -> bool {
        !self.subscribers.is_empty()
    }
}
