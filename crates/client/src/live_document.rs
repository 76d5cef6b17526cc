//! A document that is open: edited here at once, and kept equal with everybody else's.

mod shared;
#[cfg(feature = "simulation")]
mod simulation;
mod state;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use meshagent_document::{Event, MeshDocument};
use meshagent_protocol::ErrorCode;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::Stream;

pub(crate) use self::shared::{EndWithTask, Progress, Shared};
pub(crate) use self::state::State;
use self::state::Subscriber;
use crate::editor::Editor;
use crate::journal::JournalError;
use crate::replica::LostEdit;
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
        shared.joined();
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
        shared.count_opened(Arc::downgrade(&handle));
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
    /// When the closure panics, and when it uses a handle of this document other than to clone or drop it, which would
    /// wait for itself.
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
    /// When the closure panics, and when it uses a handle of this document other than to clone or drop it, which would
    /// wait for itself.
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
        self.shared.count_ended()
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

/// How many events wait for a subscriber.
const EVENT_CAPACITY: usize = 1024;

/// How long a close waits for the stream's end, once everything is saved.
const CLOSE_GRACE: Duration = Duration::from_secs(5);
