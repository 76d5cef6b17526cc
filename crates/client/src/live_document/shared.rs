//! What the handles of an open document share with its task, the lock around it, and who waits for its progress.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use meshagent_document::DecodeError;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::state::{Journaling, Stage, State};
use super::{Claim, DocumentEnd, DocumentEvent, Handle, JournalStatus, Refusal, SaveError, Told};
use crate::document_task::LINGER;
use crate::journal::{Batch, JournalError, Journals, Pending, Unsent};
use crate::refusals::Refusals;
use crate::replica::Replica;
use crate::resend::Resent;

/// Ends a document with its task, however that ends.
#[derive(Debug)]
pub(crate) struct EndWithTask(pub(crate) Arc<Shared>);

impl Drop for EndWithTask {
    fn drop(&mut self) {
        // A closure that edits the document may own the runtime; it can't take the lock, and nobody waits for it.
        if !self.0.is_inside() {
            let reason = "its runtime has shut down".to_owned();
            self.0.end(DocumentEnd::Failed(reason));
        }
    }
}

/// What the handles of a document share with its task.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) path: String,
    state: Mutex<State>,
    /// Wakes the task: there is something to send, or nobody has the document open any more.
    pub(crate) work: Notify,
    progress: watch::Sender<Progress>,
    /// The thread that calls a closure of the user, which holds the lock; 0 is none.
    inside: AtomicU64,
    /// Openings that ended within such a closure, and are counted after it.
    ended_inside: AtomicUsize,
    /// Openings that were made within such a closure, by clones, and are counted after it, too.
    opened_inside: Mutex<Vec<Weak<Handle>>>,
}

/// How far a document is; what waiters look at beside its state. It is held while the state is locked, never the other
/// way round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// Whether the replica has what the server had when the stream began.
    pub(super) is_synchronized: bool,
    /// Whether there is a stream now.
    is_connected: bool,
}

/// Notes which thread is inside of a closure, as long as it is, and counts then what was opened and
/// ended there. The lock is held for that: one that was opened may be elsewhere, and end next.
struct Inside<'a> {
    shared: &'a Shared,
    state: MutexGuard<'a, State>,
}

impl<'a> Inside<'a> {
    fn new(shared: &'a Shared) -> Self {
        let state = shared.lock();
        shared.inside.store(this_thread(), Ordering::Relaxed);
        Self { shared, state }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.shared.inside.store(0, Ordering::Relaxed);
        for opening in std::mem::take(&mut *self.shared.opened_inside()) {
            self.state.opened(opening);
        }
        let ended = self.shared.ended_inside.swap(0, Ordering::Relaxed);
        if ended > 0 && self.state.ended(ended) {
            self.shared.work.notify_one();
        }
    }
}

/// A number for each thread, from 1 on. A thread compares it with what it has stored itself, or else another number, so
/// no order is asked for.
fn this_thread() -> u64 {
    static THREADS: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static NUMBER: u64 = THREADS.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|number| *number)
}

impl Shared {
    /// Keeps and applies an update that was made elsewhere. Returns whether the document is live.
    pub(crate) fn adopt(&self, update: Vec<u8>) -> Result<bool, DecodeError> {
        let mut state = self.lock();
        if !state.has_begun() || state.end.is_some() {
            return Ok(false);
        }
        state.replica.adopt(update)?;
        state.journal_edits();
        state.publish_changes();
        drop(state);
        self.work.notify_one();
        Ok(true)
    }

    /// Takes the opening that was made last, of those that are left, to end it: nobody else is given it.
    pub(crate) fn claim_newest(&self) -> Option<Claim> {
        // An opening that is dropped here takes the lock.
        let openings: Vec<_> = {
            let state = self.lock();
            state
                .openings
                .iter()
                .rev()
                .filter_map(Weak::upgrade)
                .collect()
        };
        let newest = openings
            .iter()
            .find(|opening| opening.is_open() && !opening.is_claimed.swap(true, Ordering::Relaxed));
        newest.map(|opening| Claim {
            told: Told::clone(&opening.told),
            opening: Arc::downgrade(opening),
        })
    }

    pub(crate) fn new(path: &str, replica: Replica, journals: Option<Journals>) -> Arc<Self> {
        let stage = match journals {
            Some(_) => Stage::Loading,
            None => Stage::Awaiting,
        };
        let journaling = |document: &Weak<Self>| {
            let journals = journals?;
            Some(Journaling {
                pending: Pending::new(Arc::clone(&journals.room), path),
                journals,
                document: Weak::clone(document),
                is_queued: false,
                is_released: false,
            })
        };
        Arc::new_cyclic(|document| Self {
            path: path.to_owned(),
            state: Mutex::new(State {
                replica,
                stage,
                journal: journaling(document),
                subscribers: Vec::new(),
                handles: 0,
                openings: Vec::new(),
                refusals: Refusals::default(),
                taking_back: None,
                replaced: None,
                end: None,
                abandoned_since: None,
                is_resending: false,
                lost_untold: 0,
            }),
            work: Notify::new(),
            inside: AtomicU64::new(0),
            ended_inside: AtomicUsize::new(0),
            opened_inside: Mutex::default(),
            progress: watch::Sender::default(),
        })
    }

    /// Begins with what the journal held, if it held anything.
    pub(crate) fn load(&self, replica: Option<Replica>) {
        let mut state = self.lock();
        state.stage = Stage::Awaiting;
        if let Some(replica) = replica {
            state.begin(replica);
            state.journal_anew();
        }
        drop(state);
        self.advance(|_| {});
    }

    /// What is to be written to the journal now; `is_last` before it is closed.
    pub(crate) fn next_batch(&self, is_last: bool) -> Option<Batch> {
        let mut state = self.lock();
        let State {
            replica, journal, ..
        } = &mut *state;
        let journal = journal.as_mut()?;
        journal.is_queued = false;
        if is_last {
            replica.compact();
            journal.pending.finish(replica);
        }
        journal.pending.take(replica)
    }

    /// A batch was written to the journal, or could not be. In that case, `is_broken` says whether only a rewrite helps.
    pub(crate) fn wrote(&self, batch: &Batch, written: std::io::Result<()>, is_broken: bool) {
        let mut state = self.lock();
        let Some(Journaling { pending, .. }) = &mut state.journal else {
            return;
        };
        let was_failing = pending.failure().is_some();
        let event = match written {
            Ok(()) => {
                pending.wrote(batch);
                was_failing.then_some(DocumentEvent::JournalRestored)
            }
            Err(error) => {
                let reason = error.to_string();
                pending.failed(batch, is_broken, reason.clone());
                (!was_failing).then_some(DocumentEvent::JournalLost { reason })
            }
        };
        if let Some(event) = event {
            state.publish(&event);
        }
        drop(state);
        self.work.notify_one();
        self.advance(|_| {});
    }

    /// Nobody has it open: it is there to send what its journal holds.
    pub(crate) fn begin_to_resend(&self) {
        self.lock().is_resending = true;
    }

    /// Whether there is something to be seen.
    pub(crate) fn has_begun(&self) -> bool {
        self.lock().has_begun()
    }

    pub(crate) fn is_resending(&self) -> bool {
        self.lock().is_resending
    }

    /// Waits until a document that nobody had open has ended, or somebody opens it.
    pub(crate) async fn resent(&self) -> Resent {
        let resent = |_: &Progress| {
            let state = self.lock();
            match &state.end {
                _ if !state.is_resending => Some(Resent::Done),
                Some(DocumentEnd::Closed) if state.replica.is_saved() => Some(Resent::Done),
                // Another program has it, or the disk or the files that may be open are short. What can't be read
                // of the server's may be replaced.
                Some(
                    DocumentEnd::Closed
                    | DocumentEnd::Journal(JournalError::InUse | JournalError::Io { .. })
                    | DocumentEnd::Unreadable(_)
                    | DocumentEnd::Failed(_),
                ) => Some(Resent::Later),
                Some(_) => Some(Resent::Refused),
                None => None,
            }
        };
        self.wait_for(resent).await.unwrap_or(Resent::Done)
    }

    /// Somebody has opened it who was not the first.
    pub(super) fn joined(&self) {
        // The task may be about to give it up.
        self.work.notify_one();
        // Whoever opened it to send its journal is free for the next one.
        self.advance(|_| {});
    }

    /// What the server has not acknowledged; `None` if that is nothing.
    pub(crate) fn unsent(&self) -> Option<Unsent> {
        let state = self.lock();
        let edits = state.replica.edits_after(0);
        Unsent::of(&self.path, edits.map(|one| (one.count, one.update)))
    }

    /// The document has ended, and its journal is closed.
    pub(crate) fn released(&self) {
        if let Some(journal) = &mut self.lock().journal {
            journal.is_released = true;
        }
        self.advance(|_| {});
    }

    /// Waits until the journal of a document that has ended is closed. Returns whether all that is not acknowledged is in
    /// it.
    pub(crate) async fn settled(&self) -> bool {
        let is_released = |_: &Progress| {
            let state = self.lock();
            let journal = state.journal.as_ref();
            journal.is_none_or(|one| one.is_released).then_some(())
        };
        let _progress_is_here = self.wait_for(is_released).await;
        let state = self.lock();
        let last = state.replica.last_number();
        let journal = state.journal.as_ref();
        journal.is_some_and(|journal| journal.pending.written() >= last)
    }

    /// An opening was made.
    pub(super) fn count_opened(&self, opening: Weak<Handle>) {
        if self.is_inside() {
            self.opened_inside().push(opening);
        } else {
            self.lock().opened(opening);
        }
    }

    fn opened_inside(&self) -> MutexGuard<'_, Vec<Weak<Handle>>> {
        let opened = self.opened_inside.lock();
        opened.unwrap_or_else(PoisonError::into_inner)
    }

    /// An opening has ended. Returns whether there is none left.
    pub(super) fn count_ended(&self) -> bool {
        if self.is_inside() {
            // A closure drops what it owns. Whoever called it has another opening.
            self.ended_inside.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let is_last = self.lock().ended(1);
        if is_last {
            self.work.notify_one();
        }
        is_last
    }

    /// Whether this thread is in a closure of the user.
    pub(super) fn is_inside(&self) -> bool {
        self.inside.load(Ordering::Relaxed) == this_thread()
    }

    /// Calls what the user gave, which must not come back here.
    pub(super) fn call<R>(&self, user: impl FnOnce(&mut State) -> R) -> R {
        let mut inside = Inside::new(self);
        user(&mut inside.state)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        assert!(
            !self.is_inside(),
            "a handle of the document {:?} is used inside of a closure that edits or reads it, which would wait for itself \
             for ever; use the closure's argument",
            self.path
        );
        // A closure of the user that panicked left the replica as it was after its last edit.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since when nobody has the document open.
    pub(crate) fn abandoned_since(&self) -> Option<Instant> {
        self.lock().abandoned_since
    }

    /// Whether nobody has the document open.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.lock().handles == 0
    }

    /// Waits until the server is done with everything edited so far; tells of each refusal once.
    pub(crate) async fn saved(&self, told: &AtomicU64) -> Result<(), SaveError> {
        // The edits of an earlier program count, too.
        let is_loaded = |_: &Progress| {
            let state = self.lock();
            (state.stage != Stage::Loading || state.end.is_some()).then_some(())
        };
        let _progress_is_here = self.wait_for(is_loaded).await;
        let to = self.lock().replica.last_number();
        let saved = self.wait_for(|progress| {
            let state = self.lock();
            // Another call for this handle may have told it meanwhile.
            let refusal = state.refused(told.load(Ordering::Relaxed), to);
            let is_done = state.replica.saved_number() >= to;
            // Who goes on after a refusal builds on what is left.
            let is_settled = is_done && !(refusal.is_some() && state.taking_back.is_some());
            let saved = match (refusal, &state.end) {
                (_, None) if !is_settled => {
                    // With a connection, the answer is on its way.
                    return match state.journal_status() {
                        JournalStatus::Failing { reason } if !progress.is_connected => {
                            Some(Err(SaveError::Journal { reason }))
                        }
                        _ => None,
                    };
                }
                (Some(refusal), _) => Err(refusal.clone().into()),
                (None, Some(end)) if !is_done => Err(end.clone().into()),
                (None, _) => Ok(()),
            };
            told.fetch_max(to, Ordering::Relaxed);
            Some(saved)
        });
        let closed = Err(SaveError::Ended(DocumentEnd::Closed));
        saved.await.unwrap_or(closed)
    }

    pub(super) async fn wait_for<R>(
        &self,
        mut done: impl FnMut(&Progress) -> Option<R>,
    ) -> Option<R> {
        let mut progress = self.progress.subscribe();
        loop {
            if let Some(result) = done(&progress.borrow_and_update()) {
                return Some(result);
            }
            progress.changed().await.ok()?;
        }
    }

    /// Has waiters look at how far it is; `change` says what they can't see in the state.
    pub(crate) fn advance(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(change);
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.lock().end.is_some()
    }

    /// Nothing is sent any more.
    pub(crate) fn end(&self, end: DocumentEnd) {
        self.lock().end(end);
        self.advance(|_| {});
    }

    /// Ends it because of a refusal if its edits are to be kept for whoever opens it next. Returns
    /// whether it has ended.
    pub(crate) fn end_untold(&self, refusal: Refusal) -> bool {
        let has_ended = self.lock().end_untold(refusal);
        if has_ended {
            self.advance(|_| {});
        }
        has_ended
    }

    /// How many edits the server has not acknowledged, and how many were lost while no handle was
    /// open.
    pub(crate) fn given_up_edits(&self) -> (u64, u64) {
        let state = self.lock();
        (state.replica.unsaved_edits(), state.lost_untold)
    }

    /// Ends it, unless somebody has it open again. Returns whether it has ended.
    pub(crate) fn end_if_abandoned(&self, end: DocumentEnd) -> bool {
        self.end_if(end, |state| state.handles == 0)
    }

    /// Ends it if nobody has it open, or the room is being left, and what is not saved is not waited
    /// for any more. Returns whether it has ended.
    pub(crate) fn end_if_given_up(&self, is_closing: bool, can_be_sent: bool) -> bool {
        self.end_if(DocumentEnd::Closed, |state| {
            let can_wait = !state.replica.is_saved()
                && !state.is_resending
                && (can_be_sent || state.is_being_journaled());
            let deadline = state.abandoned_since.map(|since| since + LINGER);
            let is_over = deadline.is_some_and(|deadline| deadline <= Instant::now());
            (state.handles == 0 || is_closing) && (!can_wait || is_over)
        })
    }

    /// Ends it if it is open for nobody but to send what its journal holds, and the replica is so.
    /// Returns whether it has ended.
    pub(crate) fn end_resending(&self, is_so: impl FnOnce(&Replica) -> bool) -> bool {
        let is_over = |state: &State| state.is_resending && is_so(&state.replica);
        self.end_if(DocumentEnd::Closed, is_over)
    }

    /// One lock for both: nobody opens it in between, edits it and drops it.
    fn end_if(&self, end: DocumentEnd, is_over: impl FnOnce(&State) -> bool) -> bool {
        let mut state = self.lock();
        if !is_over(&state) {
            return false;
        }
        state.end(end);
        drop(state);
        self.advance(|_| {});
        true
    }
}

impl Progress {
    pub(crate) fn synchronize(&mut self) {
        self.is_synchronized = true;
        self.is_connected = true;
    }

    pub(crate) fn disconnect(&mut self) {
        self.is_connected = false;
    }
}
