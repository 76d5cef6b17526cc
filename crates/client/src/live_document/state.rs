//! What is known of an open document: its replica, its journal, and which edits were lost.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use meshagent_document::MeshDocument;
use meshagent_protocol::ErrorCode;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{DocumentEnd, DocumentEvent, Handle, JournalStatus, Refusal, ReplacedDocument, Shared};
use crate::journal::{Journals, Pending};
use crate::refusals::Refusals;
use crate::replica::{LostEdit, Outgoing, Replica};

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) replica: Replica,
    pub(super) stage: Stage,
    pub(super) journal: Option<Journaling>,
    pub(super) subscribers: Vec<Subscriber>,
    pub(super) handles: usize,
    pub(super) openings: Vec<Weak<Handle>>,
    pub(super) refusals: Refusals,
    /// Why an edit is given up that the replica still shows, until it starts over.
    pub(super) taking_back: Option<Refusal>,
    pub(super) replaced: Option<Arc<ReplacedDocument>>,
    /// Set once, when nothing is sent any more.
    pub(super) end: Option<DocumentEnd>,
    /// Since when nobody has it open.
    pub(super) abandoned_since: Option<Instant>,
    /// Whether it is open for nobody but to send what its journal holds.
    pub(super) is_resending: bool,
    /// Edits that were given up while nobody had it open, so that no handle reports them.
    pub(super) lost_untold: u64,
}

/// How far the opening of a document is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Its journal is being read.
    Loading,
    /// There is nothing in a journal; the server's state is awaited.
    Awaiting,
    /// The replica is the document. Before that it is empty and will be replaced, so nothing may be kept in it.
    Begun,
}

/// How a document is written to its journal.
#[derive(Debug)]
pub(super) struct Journaling {
    pub(super) pending: Pending,
    pub(super) journals: Journals,
    pub(super) document: Weak<Shared>,
    /// Whether the writer knows that there is something to be written.
    pub(super) is_queued: bool,
    /// Whether the document has ended, and the writer is done with it.
    pub(super) is_released: bool,
}

impl Journaling {
    /// Has the writer look at the document.
    fn queue(&mut self) {
        if !std::mem::replace(&mut self.is_queued, true)
            && let Some(document) = self.document.upgrade()
        {
            self.journals.write(document);
        }
    }
}

#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) events: mpsc::Sender<DocumentEvent>,
    pub(super) has_missed: bool,
}

impl State {
    /// Whether the replica is the document.
    pub(super) fn has_begun(&self) -> bool {
        self.stage == Stage::Begun
    }

    /// Somebody opens it.
    pub(super) fn opened(&mut self, opening: Weak<Handle>) {
        self.handles += 1;
        self.abandoned_since = None;
        self.is_resending &= self.end.is_some();
        self.openings.retain(|one| one.strong_count() > 0);
        self.openings.push(opening);
    }

    /// So many openings have ended. Returns whether there is none left.
    pub(super) fn ended(&mut self, openings: usize) -> bool {
        self.handles -= openings;
        let is_last = self.handles == 0;
        if is_last {
            self.abandoned_since = Some(Instant::now());
        }
        is_last
    }

    /// Goes on with the replica of an earlier program.
    pub(super) fn begin(&mut self, replica: Replica) {
        self.replica = replica;
        self.stage = Stage::Begun;
    }

    /// The server will never take what was sent with this number. Returns whether things go on: it is tried apart.
    pub(crate) fn refuse(&mut self, number: u64, refusal: Refusal) -> bool {
        let goes_on = if refusal.has_code(ErrorCode::PermissionDenied) {
            // It is about the document, whatever is edited.
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

    /// Goes on with what the server has. If that is because it refused an edit, edits that build on it go with it.
    pub(crate) fn start_over(&mut self, document: MeshDocument) {
        let lost = self.replica.start_over(document);
        self.stage = Stage::Begun;
        if let Some(journal) = &mut self.journal {
            journal.pending.rename(&self.replica);
            journal.queue();
        }
        if let Some(refusal) = self.taking_back.take() {
            self.give_up(refusal, lost);
        }
    }

    /// Another document has taken the place of this one, of which the server had what its identity named.
    pub(crate) fn replace(&mut self, document: MeshDocument) {
        let content = self.replica.document().to_json(true);
        let edits = self.replica.replace(document);
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
    }

    /// These edits are lost.
    fn give_up(&mut self, refusal: Refusal, lost: Vec<LostEdit>) {
        self.note_lost(&refusal, &lost);
        self.publish(&DocumentEvent::Refused { refusal, lost });
    }

    /// Notes lost edits for the handles that are there, or else for whoever leaves the room.
    fn note_lost(&mut self, refusal: &Refusal, lost: &[LostEdit]) {
        for edit in lost {
            self.refusals.note(edit.numbers.clone(), refusal.clone());
        }
        if self.handles == 0 {
            self.lost_untold += lost.iter().map(|edit| edit.edits).sum::<u64>();
        }
    }

    /// Ends a document that nobody has open, whose edits the server does not take. They stay in the
    /// journal until somebody opens the document, and learns why. If the journal does not have all
    /// of them, nothing is kept by that, and this returns false.
    pub(crate) fn end_untold(&mut self, refusal: Refusal) -> bool {
        if self.handles > 0 || !self.is_kept_in_journal() {
            return false;
        }
        self.end(refusal.into());
        true
    }

    /// Whether the journal has all edits, or will have them in a moment.
    fn is_kept_in_journal(&self) -> bool {
        let is_kept = |journal: &Journaling| {
            // What is sent without having been opened was read from there.
            self.is_resending || journal.pending.failure().is_none()
        };
        self.journal.as_ref().is_some_and(is_kept)
    }

    /// Takes a refusal back that was about somebody else in the room. Returns false if the server's
    /// document has other content under the names of the refused edits, or refused them for another
    /// reason.
    pub(crate) fn reconsider_conflict(&mut self, server: &MeshDocument) -> bool {
        let is_conflict = |refusal: &Refusal| refusal.has_code(ErrorCode::Conflict);
        if !self.taking_back.as_ref().is_some_and(is_conflict) || self.replica.is_taken_in(server) {
            return false;
        }
        self.taking_back = None;
        self.replica.reconsider();
        true
    }

    /// Why the refused edits are about to be given up.
    pub(crate) fn taking_back(&self) -> Option<&Refusal> {
        self.taking_back.as_ref()
    }

    /// Tells everybody that nothing is sent any more; once.
    pub(super) fn end(&mut self, end: DocumentEnd) {
        if self.end.is_some() {
            return;
        }
        match self.taking_back.take() {
            // No handle would report them: they count as edits that are not acknowledged.
            Some(_) if self.handles == 0 => self.replica.reconsider(),
            Some(refusal) => {
                let lost = self.replica.give_up_refused();
                self.give_up(refusal, lost);
            }
            None => {}
        }
        self.publish(&DocumentEvent::Ended(end.clone()));
        self.end = Some(end);
        // Before anybody sees the end: who opens it next reads what this one wrote.
        if let Some(journal) = &mut self.journal
            && let Some(document) = journal.document.upgrade()
        {
            journal.is_released = !journal.journals.release(document);
        }
        self.subscribers.clear();
    }

    /// Why an edit up to `last` was refused, of those that come after `told`.
    pub(super) fn refused(&self, told: u64, last: u64) -> Option<&Refusal> {
        self.refusals.between(told, last)
    }

    /// Whether what is here outlives the program.
    pub(crate) fn is_journaled(&self) -> bool {
        self.journal.is_some()
    }

    /// Whether something is on its way to the journal.
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

    /// What is to be sent next, if there is something and it may be sent.
    pub(crate) fn next_to_send(&mut self) -> Option<Outgoing> {
        let holds_edits = |journal: &Journaling| journal.pending.holds_edits();
        if self.journal.as_ref().is_some_and(holds_edits) {
            return None;
        }
        self.replica.next_to_send()
    }

    /// Has written down what was edited since the last time.
    pub(super) fn journal_edits(&mut self) {
        if let Some(journal) = &mut self.journal {
            journal.queue();
        }
    }

    /// Has written down what came from the server, and how far it has what was edited here.
    pub(crate) fn journal_progress(&mut self, received: Option<&[u8]>) {
        if let Some(journal) = &mut self.journal {
            journal.pending.receive(received.unwrap_or_default());
            journal.queue();
        }
    }

    /// The server has what was sent with this number, and the replica is about to forget it.
    pub(crate) fn journal_answered(&mut self, number: u64) {
        if let Some(journal) = &mut self.journal {
            journal.pending.answered(&self.replica, number);
        }
    }

    /// Has the journal rewritten, after the replica was made anew.
    pub(crate) fn journal_anew(&mut self) {
        if let Some(journal) = &mut self.journal {
            journal.pending.start_over();
            journal.queue();
        }
    }

    /// Tells subscribers what changed in the document since the last time.
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
        self.subscribers.retain_mut(|subscriber| {
            if subscriber.has_missed {
                match subscriber.events.try_send(DocumentEvent::Missed) {
                    Ok(()) => subscriber.has_missed = false,
                    Err(mpsc::error::TrySendError::Full(_)) => return true,
                    Err(mpsc::error::TrySendError::Closed(_)) => return false,
                }
            }
            match subscriber.events.try_send(event.clone()) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    subscriber.has_missed = true;
                    true
                }
                Err(mpsc::error::TrySendError::Closed(_)) => false,
            }
        });
        if had_subscribers && self.subscribers.is_empty() {
            self.replica.document_mut().watch(false);
        }
    }

    /// Whether events are kept for somebody.
    pub(crate) fn is_watched(&self) -> bool {
        !self.subscribers.is_empty()
    }
}
