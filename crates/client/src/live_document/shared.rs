//! The state that a document's handles share with its task, with its lock and its waiters.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use meshagent_document::DecodeError;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::state::{Journaling, Opening, Stage, State};
use super::{Claim, DocumentEnd, DocumentEvent, JournalStatus, Refusal, SaveError, Told};
use crate::document_task::LINGER;
use crate::journal::{Batch, JournalError, Journals, Pending, Unsent};
use crate::refusals::Refusals;
use crate::replica::Replica;
use crate::resend::Resent;

/// Ends the document when its task ends in any way.
#[derive(Debug)]
pub(crate) struct EndWithTask(pub(crate) Arc<Shared>);

impl Drop for EndWithTask {
    fn drop(&mut self) {
        // An edit closure may drop the runtime, and with it this task. The closure's thread then
        // holds the lock already.
        if !self.0.is_inside() {
            let reason = "its runtime has shut down".to_owned();
            self.0.end(DocumentEnd::Failed(reason));
        }
    }
}

/// The state that a document's handles share with its task.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) path: String,
    /// The moment from which the times of edits are counted.
    pub(super) created_at: Instant,
    state: Mutex<State>,
    /// Wakes the task: there is something to send, or the last handle was closed.
    pub(crate) work: Notify,
    progress: watch::Sender<Progress>,
    /// The thread that runs a closure of the user and holds the lock; 0 for none.
    inside: AtomicU64,
    /// Openings that ended within such a closure. They are counted after it.
    ended_inside: AtomicUsize,
    /// Openings that were made within such a closure, by clones. They are counted after it, too.
    opened_inside: Mutex<Vec<Opening>>,
}

/// The progress of a document that waiters observe, in addition to its state. Lock order: progress
/// before state, never the reverse.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// Whether the replica has received the server's state at least once.
    pub(super) is_synchronized: bool,
    /// Whether there is a stream now.
    is_connected: bool,
}

/// Records which thread runs a closure, until it is dropped. Then it counts the openings that were
/// made and ended in the closure, before it releases the lock: another thread may have one of them.
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

/// A number for each thread, from 1. A thread only has to recognise the number that it stored
/// itself, so relaxed ordering is enough.
fn this_thread() -> u64 {
    static THREADS: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static NUMBER: u64 = THREADS.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|number| *number)
}

impl Shared {
    /// Keeps and applies an update that was made elsewhere. Returns false if the document is not
    /// open.
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

    /// Chooses the newest opening that is left, for a close by path. No other close can choose it.
    pub(crate) fn claim_newest(&self) -> Option<Claim> {
        // Collected first: dropping the last reference to an opening takes the lock.
        let openings: Vec<_> = {
            let state = self.lock();
            state
                .openings
                .iter()
                .rev()
                .filter_map(|opening| opening.handle.upgrade())
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
            created_at: Instant::now(),
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

    /// Continues with the journal's content; without content, the server's state is awaited.
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

    /// The next batch to write to the journal; `is_last` before the journal is closed.
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

    /// The writer has written a batch, or failed to. After a failure, `is_broken` says whether only
    /// a rewrite helps.
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

    /// Marks the document as open only to send the edits in its journal.
    pub(crate) fn begin_to_resend(&self) {
        self.lock().is_resending = true;
    }

    /// Whether the content is available.
    pub(crate) fn has_begun(&self) -> bool {
        self.lock().has_begun()
    }

    pub(crate) fn is_resending(&self) -> bool {
        self.lock().is_resending
    }

    /// Waits until a document without handles has ended, or is opened by the user.
    pub(crate) async fn resent(&self) -> Resent {
        let resent = |_: &Progress| {
            let state = self.lock();
            match &state.end {
                _ if !state.is_resending => Some(Resent::Done),
                Some(DocumentEnd::Closed) if state.replica.is_saved() => Some(Resent::Done),
                // These may pass: another program has the journal open, the disk is full or there
                // are too many open files, or the server's content is replaced by readable content.
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

    /// Called when another handle was opened.
    pub(super) fn joined(&self) {
        // The task may be about to end the document for lack of handles.
        self.work.notify_one();
        // If the document was open only for its journal, the worker that waits for it continues
        // with the next document.
        self.advance(|_| {});
    }

    /// The unacknowledged edits; `None` if there are none.
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

    /// Waits until the journal of an ended document is closed. Returns whether it has all
    /// unacknowledged edits.
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

    /// Counts a new opening.
    pub(super) fn count_opened(&self, opening: Opening) {
        if self.is_inside() {
            self.opened_inside().push(opening);
        } else {
            self.lock().opened(opening);
        }
    }

    fn opened_inside(&self) -> MutexGuard<'_, Vec<Opening>> {
        let opened = self.opened_inside.lock();
        opened.unwrap_or_else(PoisonError::into_inner)
    }

    /// An opening has ended. Returns whether there is none left.
    pub(super) fn count_ended(&self) -> bool {
        if self.is_inside() {
            // A closure drops what it owns. The caller of the closure has another opening.
            self.ended_inside.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let is_last = self.lock().ended(1);
        if is_last {
            self.work.notify_one();
        }
        is_last
    }

    /// Whether this thread runs a closure of the user.
    pub(super) fn is_inside(&self) -> bool {
        self.inside.load(Ordering::Relaxed) == this_thread()
    }

    /// Calls the user's closure with the lock held. The closure must not use the document's
    /// handles.
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
        // A panic in the user's closure leaves the replica in the state after its last edit.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since when no handle is open.
    pub(crate) fn abandoned_since(&self) -> Option<Instant> {
        self.lock().abandoned_since
    }

    /// Whether no handle is open.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.lock().handles == 0
    }

    /// Waits until the server has acknowledged or refused all edits so far. Reports each refusal
    /// once per opening.
    pub(crate) async fn saved(&self, told: &AtomicU64) -> Result<(), SaveError> {
        // Edits of an earlier program count, too.
        let is_loaded = |_: &Progress| {
            let state = self.lock();
            (state.stage != Stage::Loading || state.end.is_some()).then_some(())
        };
        let _progress_is_here = self.wait_for(is_loaded).await;
        let to = self.lock().replica.last_number();
        let saved = self.wait_for(|progress| {
            let mut state = self.lock();
            // A concurrent call on this handle may have reported it meanwhile.
            let from = told.load(Ordering::Relaxed);
            let refusal = state.refused(from, to);
            let is_done = state.replica.saved_number() >= to;
            // After a refusal the caller continues with the remaining document, so the replica must
            // have started over.
            let is_settled = is_done && !(refusal.is_some() && state.taking_back.is_some());
            let mut reported = to;
            let saved = match (refusal, &state.end) {
                (_, None) if !is_settled => {
                    // With a connection, the answer is still to come.
                    return match state.journal_status() {
                        JournalStatus::Failing { reason } if !progress.is_connected => {
                            Some(Err(SaveError::Journal { reason }))
                        }
                        _ => None,
                    };
                }
                (Some(refusal), _) => {
                    let lost = state.refusals.lost(from, to);
                    // Some were sent together with later ones, which are reported with them.
                    let ends = lost.iter().map(|lost| *lost.numbers.end());
                    reported = ends.max().map_or(to, |end| end.max(to));
                    Err(SaveError::Refused {
                        refusal: refusal.clone(),
                        lost,
                    })
                }
                (None, Some(end)) if !is_done => Err(end.clone().into()),
                (None, _) => Ok(()),
            };
            told.fetch_max(reported, Ordering::Relaxed);
            if saved.is_err() {
                state.forget_reported();
            }
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

    /// Wakes the waiters; `change` updates the progress that is not part of the state.
    pub(crate) fn advance(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(change);
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.lock().end.is_some()
    }

    /// Ends the document; nothing is sent afterwards.
    pub(crate) fn end(&self, end: DocumentEnd) {
        self.lock().end(end);
        self.advance(|_| {});
    }

    /// Ends the document because of a refusal, if its journal keeps the edits for the next opening.
    /// Returns whether it has ended.
    pub(crate) fn end_untold(&self, refusal: Refusal) -> bool {
        let has_ended = self.lock().end_untold(refusal);
        if has_ended {
            self.advance(|_| {});
        }
        has_ended
    }

    /// The number of edits that the server has not acknowledged, and of those lost while no handle
    /// was open.
    pub(crate) fn given_up_edits(&self) -> (u64, u64) {
        let state = self.lock();
        (state.replica.unsaved_edits(), state.lost_untold)
    }

    /// Ends the document if no handle is open, or the room is being left, and unsaved edits are not
    /// waited for any more. Returns whether it has ended.
    pub(crate) fn end_if_given_up(&self, is_closing: bool, can_be_sent: bool) -> bool {
        self.end_if(|state| {
            let can_wait = !state.replica.is_saved()
                && !state.is_resending
                && (can_be_sent || state.is_being_journaled());
            let deadline = state.abandoned_since.map(|since| since + LINGER);
            let is_over = deadline.is_some_and(|deadline| deadline <= Instant::now());
            (state.handles == 0 || is_closing) && (!can_wait || is_over)
        })
    }

    /// Ends a document that is open only for its journal, if the replica is so. Returns whether it
    /// has ended.
    pub(crate) fn end_resending(&self, is_so: impl FnOnce(&Replica) -> bool) -> bool {
        let is_over = |state: &State| state.is_resending && is_so(&state.replica);
        self.end_if(is_over)
    }

    /// One lock for both, so that no handle is opened, used and closed in between.
    fn end_if(&self, is_over: impl FnOnce(&State) -> bool) -> bool {
        let mut state = self.lock();
        if !is_over(&state) {
            return false;
        }
        state.end(DocumentEnd::Closed);
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
