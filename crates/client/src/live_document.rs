//! A document that is open: edited here at once, and kept equal with everybody else's.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use meshagent_document::{DecodeError, Event, MeshDocument};
use meshagent_protocol::ErrorCode;
use serde_json::Value;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_stream::Stream;

use crate::editor::Editor;
use crate::journal::{Batch, JournalError, Journals, Pending, Unsent};
use crate::refusals::Refusals;
use crate::replica::{LostEdit, Outgoing, Replica};
use crate::room_client::{RoomClient, RoomEnd};

/// A live document; cheap to clone. All handles of one path in one room share one replica.
///
/// Edits are plain calls that take effect here at once. They are sent in the background, again after a reconnect, until
/// the server has acknowledged that they are on stable storage: [`saved`](Self::saved) waits for that. When the last
/// handle is dropped, what is not saved yet is still sent for some seconds; [`close`](Self::close) waits for it.
///
/// An edit that the server refuses is taken back, whoever made it. That is an event, and the next `saved` or `close` of
/// each handle that was there says so, once. A clone has been told what the handle was told that it was made of.
#[derive(Debug)]
pub struct LiveDocument {
    shared: Arc<Shared>,
    handle: Arc<Handle>,
}

/// One opening of a document, which ends once.
#[derive(Debug)]
pub(crate) struct Handle {
    is_open: Mutex<bool>,
    /// Whether somebody is about to end it by its path.
    is_claimed: AtomicBool,
    told: Told,
    shared: Arc<Shared>,
    /// The connection lives as long as a document is open on it.
    room: RoomClient,
}

/// The number of the last edit of which, and of all before it, an opening has been told what became of them.
pub(crate) type Told = Arc<AtomicU64>;

/// An opening that is being ended by its path; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) told: Told,
    /// Its user may drop it meanwhile.
    opening: Weak<Handle>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(opening) = self.opening.upgrade() {
            opening.end();
        }
    }
}

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
}

/// Notes which thread is inside of a closure, as long as it is.
struct Inside<'a>(&'a AtomicU64);

impl<'a> Inside<'a> {
    fn new(inside: &'a AtomicU64) -> Self {
        inside.store(this_thread(), Ordering::Relaxed);
        Self(inside)
    }
}

/// Counts the openings that ended within a closure, after it.
struct EndedInside<'a>(&'a Shared);

impl Drop for EndedInside<'_> {
    fn drop(&mut self) {
        // One within another leaves them to the outer one.
        if self.0.is_inside() {
            return;
        }
        let openings = self.0.ended_inside.swap(0, Ordering::Relaxed);
        if openings > 0 {
            self.0.count_ended(openings);
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
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

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) replica: Replica,
    stage: Stage,
    journal: Option<Journaling>,
    subscribers: Vec<Subscriber>,
    handles: usize,
    openings: Vec<Weak<Handle>>,
    refusals: Refusals,
    /// Why an edit is given up that the replica still shows, until it starts over.
    taking_back: Option<Refusal>,
    replaced: Option<Arc<ReplacedDocument>>,
    /// Set once, when nothing is sent any more.
    end: Option<DocumentEnd>,
    /// Since when nobody has it open.
    abandoned_since: Option<Instant>,
    /// Whether it is open for nobody but to send what its journal holds.
    is_resending: bool,
    /// Edits that were given up while nobody had it open, so that no handle reports them.
    lost_untold: u64,
}

/// How far the opening of a document is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Its journal is being read.
    Loading,
    /// There is nothing in a journal; the server's state is awaited.
    Awaiting,
    /// The replica is the document. Before that it is empty and will be replaced, so nothing may be kept in it.
    Begun,
}

/// How a document is written to its journal.
#[derive(Debug)]
struct Journaling {
    pending: Pending,
    journals: Journals,
    document: Weak<Shared>,
    /// Whether the writer knows that there is something to be written.
    is_queued: bool,
    /// Whether the document has ended, and the writer is done with it.
    is_released: bool,
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

/// Whether edits outlive the program.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum JournalStatus {
    /// There is no directory for them ([`RoomBuilder::offline`](crate::RoomBuilder::offline)).
    Off,
    /// What is edited is written down within moments.
    Kept,
    /// The last write failed. Edits are kept in memory, and written when that is possible again, which is tried each second.
    Failing {
        /// Why.
        reason: String,
    },
}

/// How far a document is; what waiters look at beside its state. It is held while the state is locked, never the other
/// way round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// Whether the replica has what the server had when the stream began.
    is_synchronized: bool,
    /// Whether there is a stream now.
    is_connected: bool,
}

/// What happens to a live document.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum DocumentEvent {
    /// The content changed, by an edit here or by somebody else.
    Changed(Event),
    /// The stream to the server is open, and what was missed is in.
    Synchronized,
    /// There is no stream; edits are kept, and sent when there is one again.
    Disconnected,
    /// An edit broke the schema: it was stored together with what takes the offending parts out again, which comes
    /// as a change.
    Repaired {
        /// What was wrong: objects with `pointer`, `expected` and `found`.
        violations: Vec<Value>,
    },
    /// The server stored an edit, but lacks what it builds on.
    Gap {
        /// Whether what it lacks is on its way to it.
        is_filled: bool,
    },
    /// The server has operations of an edit without their content: other participants deleted it, or wrote under this
    /// client's id. If this replica still shows the content, it starts over, and [`Refused`](Self::Refused) comes next.
    Erased {
        /// The number of these operations.
        operations: u64,
        /// The v1 update as it was sent, with their content.
        update: Vec<u8>,
    },
    /// The server refused an edit for good. The document is now what the server has, with those edits that don't build
    /// on the refused one; they were made again, under another client id, and undo goes on. Unless it ends, which comes
    /// next then.
    Refused {
        /// Why.
        refusal: Refusal,
        /// The edits that are given up, with their content: the refused one, and those that build on it.
        lost: Vec<LostEdit>,
    },
    /// Somebody deleted the document and made another one at its path, which this one is now. What was here of the old
    /// one is not poured into it.
    Replaced(Arc<ReplacedDocument>),
    /// The journal could not be written, because the disk is full, say. Until [`JournalRestored`](Self::JournalRestored),
    /// edits that are not acknowledged don't outlive this program.
    JournalLost {
        /// Why.
        reason: String,
    },
    /// The journal could be written again, with all that was missing in it.
    JournalRestored,
    /// Nothing is sent or received any more.
    Ended(DocumentEnd),
    /// Events before this one were dropped, because nobody took them; look at the document anew.
    Missed,
}

/// What was here of a document in whose place there is another one now. [`LiveDocument::replaced`] has the last one, also
/// if nobody listened to [`DocumentEvent::Replaced`].
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct ReplacedDocument {
    /// Its content as it was here, with `$id`s, and with the edits that the server did not acknowledge.
    pub content: Value,
    /// Those edits. What they changed is not known any more, but for what of it is in the content.
    pub edits: Vec<LostEdit>,
}

/// Why the server refuses an edit.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the server refuses: {text}")]
pub struct Refusal {
    /// One of the protocol's error codes: 1001 for a missing grant, 1002 for a document at its bound.
    pub code: Option<i64>,
    /// The server's reason.
    pub text: String,
}

impl Refusal {
    /// The server has other content under the names of these operations.
    pub(crate) fn overwritten() -> Self {
        Self {
            code: Some(ErrorCode::Conflict.number()),
            text: "another program wrote under the client id of this edit, and what the server has there is deleted"
                .to_owned(),
        }
    }

    /// Whether the server gave this code.
    pub(crate) fn has_code(&self, code: ErrorCode) -> bool {
        self.code == Some(code.number())
    }

    /// There is another document in the place of the edited one.
    pub(crate) fn replaced() -> Self {
        Self {
            code: None,
            text: "the document was deleted, and there is another one in its place".to_owned(),
        }
    }
}

/// Why a document is not live any more.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentEnd {
    /// It was closed here, or the room was left.
    #[error("the document was closed")]
    Closed,
    /// The server does not let it be opened again.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The room can't be entered any more.
    #[error("there is no way into the room any more")]
    RoomEnded(#[source] RoomEnd),
    /// The document's journal is of no use.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The server holds what this client can't read.
    #[error("the document can't be read: {0}")]
    Unreadable(String),
    /// The document's task panicked, or its runtime has shut down.
    #[error("the document's task has ended: {0}")]
    Failed(String),
}

/// Why not everything is saved.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// The document ended before everything was saved.
    #[error(transparent)]
    Ended(#[from] DocumentEnd),
    /// There is no connection, and the journal can't be written: an edit is in memory alone. It is written or sent when
    /// that is possible again.
    #[error("there is no connection, and the journal can't be written: {reason}")]
    Journal {
        /// Why it can't be written.
        reason: String,
    },
    /// The server refused an edit.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

#[derive(Debug)]
struct Subscriber {
    events: mpsc::Sender<DocumentEvent>,
    has_missed: bool,
}

/// The events of a document from [`LiveDocument::changes`] on, by [`recv`](Self::recv) or as a `Stream`.
#[derive(Debug)]
pub struct Changes {
    events: mpsc::Receiver<DocumentEvent>,
}

impl Changes {
    /// The next event; `None` once the document has ended and all were taken.
    ///
    /// 1,024 events wait for whoever takes them late; then comes [`DocumentEvent::Missed`] instead of more.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    ///
    /// ```
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// use meshagent_client::DocumentEvent;
    ///
    /// # meshagent_testing::in_room(async |room| {
    /// let document = room.sync().open("notes.document").await?;
    /// let mut changes = document.changes();
    /// document.edit(|d| d.append_child(Target::Root, json!({ "body": { "text": "tea" } })))??;
    /// while let Some(event) = changes.recv().await {
    ///     if let DocumentEvent::Changed(_) = event {
    ///         break;
    ///     }
    /// }
    /// # Ok(())
    /// # });
    /// ```
    pub async fn recv(&mut self) -> Option<DocumentEvent> {
        self.events.recv().await
    }

    /// The next event if there is one already.
    ///
    /// ```
    /// # meshagent_testing::in_room(async |room| {
    /// let document = room.sync().open("notes.document").await?;
    /// let mut changes = document.changes();
    /// assert_eq!(changes.try_recv(), None);
    /// # Ok(())
    /// # });
    /// ```
    pub fn try_recv(&mut self) -> Option<DocumentEvent> {
        self.events.try_recv().ok()
    }
}

impl Stream for Changes {
    type Item = DocumentEvent;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<DocumentEvent>> {
        self.events.poll_recv(context)
    }
}

impl LiveDocument {
    pub(crate) fn new(shared: Arc<Shared>, room: RoomClient) -> Self {
        let told = shared.lock().replica.saved_number();
        Self::told(shared, room, told)
    }

    /// Another opening of a document, unless it has ended.
    pub(crate) fn join(shared: &Arc<Shared>, room: RoomClient) -> Option<Self> {
        let document = Self::new(Arc::clone(shared), room);
        // With a handle that is counted, it is not ended for want of one.
        if shared.is_ended() {
            return None;
        }
        // The task may be about to give it up.
        shared.work.notify_one();
        Some(document)
    }

    /// Another handle, which has been told what became of the edits up to this one.
    fn told(shared: Arc<Shared>, room: RoomClient, told: u64) -> Self {
        let handle = Arc::new(Handle {
            is_open: Mutex::new(true),
            is_claimed: AtomicBool::new(false),
            told: Told::new(told.into()),
            shared: Arc::clone(&shared),
            room,
        });
        let mut state = shared.lock();
        state.handles += 1;
        state.abandoned_since = None;
        state.is_resending = false;
        state.openings.retain(|one| one.strong_count() > 0);
        state.openings.push(Arc::downgrade(&handle));
        drop(state);
        Self { shared, handle }
    }

    /// The document's path.
    ///
    /// ```
    /// # meshagent_testing::in_room(async |room| {
    /// let document = room.sync().open("/notes.document").await?;
    /// assert_eq!(document.path(), "notes.document");
    /// # Ok(())
    /// # });
    /// ```
    pub fn path(&self) -> &str {
        &self.shared.path
    }

    /// Reads the document.
    ///
    /// The closure must not wait for anything, since nothing is received meanwhile. Closures that use another document must
    /// nest in the same order everywhere, or else two threads wait for each other for ever.
    ///
    /// # Panics
    ///
    /// When the closure panics, and when it uses a handle of this document, which would wait for itself.
    ///
    /// ```
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let document = room.sync().open("notes.document").await?;
    /// document.edit(|d| d.append_child(Target::Root, json!({ "body": { "text": "tea" } })))??;
    /// let texts: Vec<_> = document.read(|d| {
    ///     let children = d.root().children();
    ///     children.filter_map(|child| child.attribute("text")).collect()
    /// });
    /// assert_eq!(texts, ["tea"]);
    /// # Ok(())
    /// # });
    /// ```
    pub fn read<R>(&self, read: impl FnOnce(&MeshDocument) -> R) -> R {
        self.shared.call(|state| read(state.replica.document()))
    }

    /// The document as it is now, to be read for as long as it takes: it does not change, and nothing waits for its
    /// readers.
    ///
    /// The copy is made on a thread for blocking work, in a time in proportion to the document. All who ask for the same
    /// state share one copy, as long as anybody holds it.
    ///
    /// ```
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let document = room.sync().open("notes.document").await?;
    /// let before = document.snapshot().await;
    /// document.edit(|d| d.append_child(Target::Root, json!({ "body": { "text": "茶" } })))??;
    /// assert_eq!(before.root().child_count(), 0);
    /// assert_eq!(document.snapshot().await.root().child_count(), 1);
    /// # Ok(())
    /// # });
    /// ```
    pub async fn snapshot(&self) -> Arc<MeshDocument> {
        let shared = Arc::clone(&self.shared);
        let copy = move || shared.lock().replica.snapshot();
        match tokio::task::spawn_blocking(copy).await {
            Ok(snapshot) => snapshot,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // The runtime shuts down, and has no more threads to give.
                Err(_) => self.shared.lock().replica.snapshot(),
            },
        }
    }

    /// The content as JSON, `{root tag: {…}}`.
    ///
    /// ```
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let document = room.sync().open("notes.document").await?;
    /// assert_eq!(document.to_json(), json!({ "document": { "content": [] } }));
    /// # Ok(())
    /// # });
    /// ```
    pub fn to_json(&self) -> Value {
        self.read(|document| document.to_json(false))
    }

    /// Edits the document. What the closure did is there at once, and sent in the background.
    ///
    /// The closure must not wait for anything, since nothing is received meanwhile. Closures that use another document must
    /// nest in the same order everywhere, or else two threads wait for each other for ever. What the closure did before a
    /// panic is kept and sent like anything else.
    ///
    /// # Errors
    ///
    /// When the document has ended. Then the closure is not called: nobody would ever see what it did.
    ///
    /// # Panics
    ///
    /// When the closure panics, and when it uses a handle of this document, which would wait for itself.
    ///
    /// ```
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// let document = room.sync().open("notes.document").await?;
    /// let id = document.edit(|d| d.append_child(Target::Root, json!({ "body": { "text": "tea" } })))??;
    /// document.edit(|d| d.set_attribute(Target::Id(id), "text", "coffee"))??;
    /// assert_eq!(
    ///     document.to_json(),
    ///     json!({ "document": { "content": [{ "body": { "text": "coffee" } }] } })
    /// );
    /// # Ok(())
    /// # });
    /// ```
    pub fn edit<R>(&self, edit: impl FnOnce(&mut Editor<'_>) -> R) -> Result<R, DocumentEnd> {
        // A panic is passed on when what was changed before it is on its way like anything else.
        let result = self.shared.call(|state| {
            if let Some(end) = &state.end {
                return Err(end.clone());
            }
            let result = catch_unwind(AssertUnwindSafe(|| state.replica.edit(edit)));
            state.journal_edits();
            state.publish_changes();
            Ok(result)
        })?;
        self.shared.work.notify_one();
        Ok(result.unwrap_or_else(|panic| resume_unwind(panic)))
    }

    /// Waits until everything edited so far outlives this program and a power cut: it is in the journal, or the server
    /// has acknowledged it. Without a journal that is what [`saved`](Self::saved) waits for.
    ///
    /// An edit is sent and written down at the same time. A program that is killed right after an edit may so have sent what
    /// its journal does not hold, which is no loss, or have lost what it did in the last moments; this call is the way to
    /// know.
    ///
    /// # Errors
    ///
    /// When the journal can't be written, or the document ended before. Without a journal as [`saved`](Self::saved).
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    ///
    /// ```
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let document = room.sync().open("notes.document").await?;
    /// document.edit(|d| d.append_child(Target::Root, json!({ "body": { "text": "tea" } })))??;
    /// document.journaled().await?;
    /// # Ok(())
    /// # });
    /// ```
    pub async fn journaled(&self) -> Result<(), SaveError> {
        if !self.shared.lock().is_journaled() {
            return self.saved().await;
        }
        let to = self.shared.lock().replica.last_number();
        let journaled = self.shared.wait_for(|_| {
            let state = self.shared.lock();
            let journal = state.journal.as_ref();
            let written = journal.map_or(0, |journal| journal.pending.written());
            if written.max(state.replica.saved_number()) >= to {
                return Some(Ok(()));
            }
            if let JournalStatus::Failing { reason } = state.journal_status() {
                return Some(Err(SaveError::Journal { reason }));
            }
            // What is left is written when it has ended.
            let is_done = journal.is_none_or(|journal| journal.is_released);
            let end = state.end.clone().filter(|_| is_done);
            end.map(|end| Err(end.into()))
        });
        let closed = Err(SaveError::Ended(DocumentEnd::Closed));
        journaled.await.unwrap_or(closed)
    }

    /// Whether what is edited here outlives the program.
    ///
    /// ```
    /// use meshagent_client::JournalStatus;
    ///
    /// # meshagent_testing::in_room(async |room| {
    /// let document = room.sync().open("notes.document").await?;
    /// assert_eq!(document.journal_status(), JournalStatus::Off);
    /// # Ok(())
    /// # });
    /// ```
    pub fn journal_status(&self) -> JournalStatus {
        self.shared.lock().journal_status()
    }

    /// Waits until there is something to be seen: what the journal held, or what the server has.
    pub(crate) async fn ready(&self) -> Result<(), DocumentEnd> {
        self.shared
            .wait_for(|_| {
                let state = self.shared.lock();
                if state.has_begun() {
                    return Some(Ok(()));
                }
                state.end.clone().map(Err)
            })
            .await
            .unwrap_or(Err(DocumentEnd::Closed))
    }

    /// Waits until the document has been brought up to date by the server once.
    ///
    /// # Errors
    ///
    /// When it ended before.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    ///
    /// ```
    /// # meshagent_testing::in_room(async |room| {
    /// let document = room.sync().open("notes.document").await?;
    /// // A document that comes from a journal may be older than the server's.
    /// document.synchronized().await?;
    /// # Ok(())
    /// # });
    /// ```
    pub async fn synchronized(&self) -> Result<(), DocumentEnd> {
        self.shared
            .wait_for(|progress| {
                if progress.is_synchronized {
                    return Some(Ok(()));
                }
                self.shared.lock().end.clone().map(Err)
            })
            .await
            .unwrap_or(Err(DocumentEnd::Closed))
    }

    /// Waits until the server has acknowledged all edits so far as durable, or refused them.
    ///
    /// Without a connection this waits for the next one; use a timeout to bound it.
    ///
    /// # Errors
    ///
    /// - [`SaveError::Refused`]: the server refused an edit, made by any handle, since the last call on this one. The edit
    ///   was reverted, and all others are saved. If several were refused, this is the first refusal.
    /// - [`SaveError::Journal`]: there is no connection and the journal can't be written, so an edit is only in memory. It
    ///   is still sent later, and another call waits again.
    /// - [`SaveError::Ended`]: the document ended before all edits were saved.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    ///
    /// ```
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let document = room.sync().open("notes.document").await?;
    /// document.edit(|d| d.append_child(Target::Root, json!({ "body": { "text": "tea" } })))??;
    /// document.saved().await?;
    /// // Everybody sees it now.
    /// let seen = room.sync().describe("notes.document").await?;
    /// assert_eq!(seen, document.to_json());
    /// # Ok(())
    /// # });
    /// ```
    pub async fn saved(&self) -> Result<(), SaveError> {
        self.shared.saved(&self.handle.told).await
    }

    /// Whether everything edited so far is acknowledged. Not while there is a refusal that [`saved`](Self::saved) has
    /// not told yet.
    ///
    /// ```
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let document = room.sync().open("notes.document").await?;
    /// document.edit(|d| d.append_child(Target::Root, json!({ "body": { "text": "tea" } })))??;
    /// assert!(!document.is_saved());
    /// document.saved().await?;
    /// assert!(document.is_saved());
    /// # Ok(())
    /// # });
    /// ```
    pub fn is_saved(&self) -> bool {
        let state = self.shared.lock();
        let told = self.handle.told.load(Ordering::Relaxed);
        state.replica.is_saved() && state.refused(told, state.replica.last_number()).is_none()
    }

    /// What was here of the last document at this path, if somebody deleted it while it was open here, or in the journal, and
    /// made another one.
    ///
    /// ```
    /// # meshagent_testing::in_room(async |room| {
    /// let document = room.sync().open("notes.document").await?;
    /// assert!(document.replaced().is_none());
    /// # Ok(())
    /// # });
    /// ```
    pub fn replaced(&self) -> Option<Arc<ReplacedDocument>> {
        self.shared.lock().replaced.clone()
    }

    /// Subscribes to what happens from now on; to its end alone, if the document has ended.
    ///
    /// ```
    /// # use meshagent_client::DocumentEvent;
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let document = room.sync().open("notes.document").await?;
    /// use tokio_stream::StreamExt as _;
    ///
    /// let mut changes = document.changes();
    /// document.edit(|d| d.append_child(Target::Root, json!({ "body": { "text": "tea" } })))??;
    /// while let Some(event) = changes.next().await {
    ///     if let DocumentEvent::Changed(_) = event {
    ///         break;
    ///     }
    /// }
    /// # Ok(())
    /// # });
    /// ```
    pub fn changes(&self) -> Changes {
        let (sender, events) = mpsc::channel(EVENT_CAPACITY);
        let mut state = self.shared.lock();
        if let Some(end) = &state.end {
            // There is room for one. With the sender gone, nothing comes after it.
            let _sent = sender.try_send(DocumentEvent::Ended(end.clone()));
            return Changes { events };
        }
        state.subscribers.push(Subscriber {
            events: sender,
            has_missed: false,
        });
        state.replica.document_mut().watch(true);
        Changes { events }
    }

    /// Waits until everything is saved, and lets the document go: its stream ends with the last handle.
    ///
    /// # Errors
    ///
    /// As [`saved`](Self::saved); the document is let go nevertheless.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the handle is dropped.
    ///
    /// ```
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let document = room.sync().open("notes.document").await?;
    /// document.edit(|d| d.append_child(Target::Root, json!({ "body": { "text": "tea" } })))??;
    /// document.close().await?;
    /// let seen = room.sync().describe("notes.document").await?;
    /// assert_eq!(seen["document"]["content"][0]["body"]["text"], "tea");
    /// # Ok(())
    /// # });
    /// ```
    pub async fn close(self) -> Result<(), SaveError> {
        let saved = self.saved().await;
        if self.handle.end() {
            let ended = |_: &Progress| self.shared.is_ended().then_some(());
            let _ended = tokio::time::timeout(CLOSE_GRACE, self.shared.wait_for(ended)).await;
        }
        saved
    }
}

impl Clone for LiveDocument {
    fn clone(&self) -> Self {
        let told = self.handle.told.load(Ordering::Relaxed);
        Self::told(Arc::clone(&self.shared), self.handle.room.clone(), told)
    }
}

impl Handle {
    /// Ends this opening. Returns whether it was the last one.
    pub(crate) fn end(&self) -> bool {
        let was_open =
            std::mem::take(&mut *self.is_open.lock().unwrap_or_else(PoisonError::into_inner));
        if !was_open {
            return false;
        }
        if self.shared.is_inside() {
            // A closure drops what it owns. Whoever called it has another opening.
            self.shared.ended_inside.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        self.shared.count_ended(1)
    }

    fn is_open(&self) -> bool {
        *self.is_open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.end();
    }
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
            progress: watch::Sender::default(),
        })
    }

    /// Counts an opening that never ends.
    #[cfg(feature = "simulation")]
    pub(crate) fn hold(&self) {
        self.lock().handles += 1;
    }

    /// Edits as [`Replica::edit_with`] does.
    #[cfg(feature = "simulation")]
    pub(crate) fn edit_with(&self, edit: impl FnOnce(&mut MeshDocument) -> Vec<Vec<u8>>) {
        let mut state = self.lock();
        let result = catch_unwind(AssertUnwindSafe(|| state.replica.edit_with(edit)));
        state.journal_edits();
        state.publish_changes();
        drop(state);
        result.unwrap_or_else(|panic| resume_unwind(panic));
    }

    /// Subscribes without a watch over changes.
    #[cfg(feature = "simulation")]
    pub(crate) fn subscribe(&self) -> Changes {
        let (sender, events) = mpsc::channel(EVENT_CAPACITY);
        self.lock().subscribers.push(Subscriber {
            events: sender,
            has_missed: false,
        });
        Changes { events }
    }

    /// Up to which number edits are in the journal.
    #[cfg(feature = "simulation")]
    pub(crate) fn written(&self) -> u64 {
        let state = self.lock();
        let journal = state.journal.as_ref();
        journal.map_or(0, |journal| journal.pending.written())
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

    /// Waits until a document that nobody had open has ended, or somebody opens it. Returns whether
    /// its edits are to be sent again later.
    pub(crate) async fn resent(&self) -> bool {
        let is_later = |_: &Progress| {
            let state = self.lock();
            match &state.end {
                _ if !state.is_resending => Some(false),
                Some(DocumentEnd::Closed) => Some(!state.replica.is_saved()),
                Some(_) => Some(false),
                None => None,
            }
        };
        self.wait_for(is_later).await.unwrap_or(false)
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

    /// So many openings have ended. Returns whether there is none left.
    fn count_ended(&self, openings: usize) -> bool {
        let mut state = self.lock();
        state.handles -= openings;
        let is_last = state.handles == 0;
        if is_last {
            state.abandoned_since = Some(Instant::now());
        }
        drop(state);
        if is_last {
            self.work.notify_one();
        }
        is_last
    }

    /// Whether this thread is in a closure of the user.
    fn is_inside(&self) -> bool {
        self.inside.load(Ordering::Relaxed) == this_thread()
    }

    /// Calls what the user gave, which must not come back here.
    fn call<R>(&self, user: impl FnOnce(&mut State) -> R) -> R {
        // It comes last, also if the closure panics.
        let _openings = EndedInside(self);
        let mut state = self.lock();
        let _inside = Inside::new(&self.inside);
        user(&mut state)
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

    async fn wait_for<R>(&self, mut done: impl FnMut(&Progress) -> Option<R>) -> Option<R> {
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

    /// The edits that the server has not acknowledged, plus those lost while no handle was open.
    pub(crate) fn given_up_edits(&self) -> u64 {
        let state = self.lock();
        state.replica.unsaved_edits() + state.lost_untold
    }

    /// Ends it, unless somebody has it open again. Returns whether it has ended.
    pub(crate) fn end_if_abandoned(&self, end: DocumentEnd) -> bool {
        let mut state = self.lock();
        if state.handles > 0 {
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

impl State {
    /// Whether the replica is the document.
    fn has_begun(&self) -> bool {
        self.stage == Stage::Begun
    }

    /// Goes on with the replica of an earlier program.
    fn begin(&mut self, replica: Replica) {
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
    fn end(&mut self, end: DocumentEnd) {
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
    fn refused(&self, told: u64, last: u64) -> Option<&Refusal> {
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
    fn journal_edits(&mut self) {
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

/// How many events wait for a subscriber.
const EVENT_CAPACITY: usize = 1024;

/// How long a close waits for the stream's end, once everything is saved.
const CLOSE_GRACE: Duration = Duration::from_secs(5);
