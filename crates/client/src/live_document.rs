//! An open document: edits take effect locally, and a task exchanges them with the server.

mod changes;
mod shared;
#[cfg(feature = "simulation")]
mod simulation;
mod state;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use meshagent_document::{Event, MeshDocument};
use meshagent_protocol::ErrorCode;
use serde_json::Value;

pub use self::changes::Changes;
use self::changes::Subscriber;
pub(crate) use self::shared::{EndWithTask, Progress, Shared};
use self::state::Opening;
pub(crate) use self::state::State;
use crate::editor::Editor;
use crate::journal::JournalError;
use crate::replica::LostEdit;
use crate::room_client::{RoomClient, RoomEnd};

/// A live document; cheap to clone. All handles of one path in one room share one replica.
///
/// Edits are synchronous calls that take effect locally without waiting for the server. They are
/// sent in the background, and again after a reconnect, until the server acknowledges that they are
/// on stable storage; [`saved`](Self::saved) waits for that. After the last handle is dropped,
/// unsaved edits are still sent for up to ten seconds; [`close`](Self::close) waits until they are
/// saved.
///
/// The client reverts an edit that the server refuses, whichever handle made it. This is an event,
/// and the next `saved` or `close` of each handle that existed then reports it once. A clone
/// inherits the reported position of its original.
#[derive(Debug)]
pub struct LiveDocument {
    shared: Arc<Shared>,
    handle: Arc<Handle>,
}

/// One opening of a document, which ends once.
#[derive(Debug)]
pub(crate) struct Handle {
    is_open: Mutex<bool>,
    /// Whether a close by path is pending.
    is_claimed: AtomicBool,
    told: Told,
    shared: Arc<Shared>,
    /// Keeps the room, and so its connection, alive while the document is open.
    room: RoomClient,
}

/// The number of the last edit whose outcome an opening has reported. It has reported the outcomes
/// of all earlier edits, too.
pub(crate) type Told = Arc<AtomicU64>;

/// A pending close by path. The opening ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) told: Told,
    /// Weak, because its user may drop the opening meanwhile.
    opening: Weak<Handle>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(opening) = self.opening.upgrade() {
            opening.end();
        }
    }
}

/// Whether edits survive the program.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum JournalStatus {
    /// There is no directory for journals ([`RoomBuilder::offline`](crate::RoomBuilder::offline)).
    Off,
    /// Edits are written to the journal within moments.
    Kept,
    /// The last write failed. Edits are kept in memory; the write is retried every second.
    Failing {
        /// The error of the last write.
        reason: String,
    },
}

/// An event of a live document.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum DocumentEvent {
    /// The content changed, by a local edit or by another participant.
    Changed(Event),
    /// The stream to the server is open, and the replica has the changes that it missed.
    Synchronized,
    /// There is no stream. Edits are kept, and sent on the next stream.
    Disconnected,
    /// An edit violated the schema. The server stored it together with a repair that removes the
    /// offending parts; the repair arrives as a change.
    Repaired {
        /// The violations: objects with `pointer`, `expected` and `found`.
        violations: Vec<Value>,
    },
    /// The server stored an edit, but lacks operations that the edit depends on.
    Gap {
        /// Whether this client sends the missing operations.
        is_filled: bool,
    },
    /// The server has operations of an edit without their content: other participants deleted it,
    /// or wrote under this client's id. If this replica still shows the content, it starts over,
    /// and [`Refused`](Self::Refused) comes next.
    Erased {
        /// The number of these operations.
        operations: u64,
        /// The v1 update as it was sent, with the content of these operations.
        update: Vec<u8>,
    },
    /// The server refused an edit permanently. The document is now the server's state plus the
    /// local edits that do not depend on the refused one. Those that no longer fitted were made
    /// again under another client id; undo still works. If [`Ended`](Self::Ended) comes next
    /// instead, the document was not rebuilt and still shows the refused edit.
    Refused {
        /// Why the edit was refused.
        refusal: Refusal,
        /// The edits that are lost, with their content: the refused one, and those that depend on
        /// it.
        lost: Vec<LostEdit>,
    },
    /// Another participant deleted the document and created another one at its path. This handle
    /// now shows the new document; local content of the old one is not merged into it.
    Replaced(Arc<ReplacedDocument>),
    /// The journal could not be written, for instance because the disk is full. Until
    /// [`JournalRestored`](Self::JournalRestored), unacknowledged edits do not survive this
    /// program.
    JournalLost {
        /// The error of the write.
        reason: String,
    },
    /// The journal was written again, and is complete.
    JournalRestored,
    /// The document has ended. Nothing more is sent or received.
    Ended(DocumentEnd),
    /// Events before this one were dropped, because the subscriber was too slow. Read the document
    /// again. [`LiveDocument::saved`] reports refusals, with the lost edits.
    Missed,
}

/// The local content of a document that was replaced by another one at its path.
/// [`LiveDocument::replaced`] returns the last one, also without a subscriber to
/// [`DocumentEvent::Replaced`].
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct ReplacedDocument {
    /// The old content with `$id`s, including the edits that the server did not acknowledge.
    pub content: Value,
    /// The unacknowledged edits. Their `changes` are empty; their effect is part of `content`.
    pub edits: Vec<LostEdit>,
}

/// Why the server refuses an edit.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the server refuses: {text}")]
pub struct Refusal {
    /// One of the protocol's error codes: 1001 for a missing grant, 1002 for a document at its
    /// bound. `None` if the server gave no code.
    pub code: Option<i64>,
    /// The server's explanation.
    pub text: String,
}

impl Refusal {
    /// The server has other content under the names of these operations.
    pub(crate) fn overwritten() -> Self {
        Self {
            code: Some(ErrorCode::Conflict.number()),
            text: "another program wrote under the client id of this edit, and what the server \
                   has there is deleted"
                .to_owned(),
        }
    }

    /// Whether the refusal has this code.
    pub(crate) fn has_code(&self, code: ErrorCode) -> bool {
        self.code == Some(code.number())
    }

    /// Another document has taken the place of the edited one.
    pub(crate) fn replaced() -> Self {
        Self {
            code: None,
            text: "the document was deleted, and there is another one in its place".to_owned(),
        }
    }
}

/// Why a document has ended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentEnd {
    /// The document was closed here, or the room was left.
    #[error("the document was closed")]
    Closed,
    /// The server refuses to open the document again.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The room has ended.
    #[error("there is no way into the room any more")]
    RoomEnded(#[source] RoomEnd),
    /// The document's journal can't be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The server sent content that this client can't read.
    #[error("the document can't be read: {0}")]
    Unreadable(String),
    /// The document's task panicked, or its runtime has shut down.
    #[error("the document's task has ended: {0}")]
    Failed(String),
}

/// Why edits are not saved.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// The document ended before all edits were saved.
    #[error(transparent)]
    Ended(#[from] DocumentEnd),
    /// There is no connection and the journal can't be written, so an edit is only in memory. Both
    /// are retried.
    #[error("there is no connection, and the journal can't be written: {reason}")]
    Journal {
        /// The error of the last write.
        reason: String,
    },
    /// The server refused edits.
    #[error("{refusal}")]
    Refused {
        /// Why the first of them was refused.
        refusal: Refusal,
        /// The edits that are lost, with their content, as in [`DocumentEvent::Refused`]. Content
        /// that no handle has reported is kept up to 64 MiB; beyond it that of the oldest edits is
        /// missing here.
        lost: Vec<LostEdit>,
    },
}

impl LiveDocument {
    pub(crate) fn new(shared: Arc<Shared>, room: RoomClient) -> Self {
        let told = shared.lock().replica.saved_number();
        Self::told(shared, room, told)
    }

    /// Another opening of a document; `None` if it has ended.
    pub(crate) fn join(shared: &Arc<Shared>, room: RoomClient) -> Option<Self> {
        let document = Self::new(Arc::clone(shared), room);
        // The new handle counts, so the document can no longer end for lack of handles.
        if shared.is_ended() {
            return None;
        }
        shared.joined();
        Some(document)
    }

    /// Another handle, whose reported position is `told`.
    fn told(shared: Arc<Shared>, room: RoomClient, told: u64) -> Self {
        let handle = Arc::new(Handle {
            is_open: Mutex::new(true),
            is_claimed: AtomicBool::new(false),
            told: Told::new(told.into()),
            shared: Arc::clone(&shared),
            room,
        });
        shared.count_opened(Opening {
            handle: Arc::downgrade(&handle),
            told: Told::clone(&handle.told),
        });
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
    /// The closure must not block: no update is received while it runs. Closures that use another
    /// document must nest in the same order everywhere, or two threads can deadlock.
    ///
    /// # Panics
    ///
    /// If the closure panics, or uses a handle of this document other than to clone or drop it,
    /// which would deadlock.
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

    /// An immutable copy of the current document. Readers of the copy do not delay edits.
    ///
    /// The copy is made on a thread for blocking work, in time proportional to the document. Calls
    /// for the same state share one copy while it is in use.
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
                // The runtime is shutting down and offers no thread.
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

    /// Edits the document. The edit takes effect before this returns, and is sent in the
    /// background.
    ///
    /// The closure must not block: no update is received while it runs. Closures that use another
    /// document must nest in the same order everywhere, or two threads can deadlock. Edits that a
    /// closure makes before it panics are kept and sent.
    ///
    /// # Errors
    ///
    /// If the document has ended. The closure is then not called, because its edits would reach no
    /// other participant.
    ///
    /// # Panics
    ///
    /// If the closure panics, or uses a handle of this document other than to clone or drop it,
    /// which would deadlock.
    ///
    /// ```
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// let document = room.sync().open("notes.document").await?;
    /// let id = document.edit(|d| {
    ///     d.append_child(Target::Root, json!({ "body": { "text": "tea" } }))
    /// })??;
    /// document.edit(|d| d.set_attribute(Target::Id(id), "text", "coffee"))??;
    /// assert_eq!(
    ///     document.to_json(),
    ///     json!({ "document": { "content": [{ "body": { "text": "coffee" } }] } })
    /// );
    /// # Ok(())
    /// # });
    /// ```
    pub fn edit<R>(&self, edit: impl FnOnce(&mut Editor<'_>) -> R) -> Result<R, DocumentEnd> {
        // A panic is resumed after the edits before it were kept.
        let result = self.shared.call(|state| {
            if let Some(end) = &state.end {
                return Err(end.clone());
            }
            state.replica.set_time(self.shared.created_at.elapsed());
            let result = catch_unwind(AssertUnwindSafe(|| state.replica.edit(edit)));
            state.journal_edits();
            state.publish_changes();
            Ok(result)
        })?;
        self.shared.work.notify_one();
        Ok(result.unwrap_or_else(|panic| resume_unwind(panic)))
    }

    /// Waits until all edits so far would survive the end of this program and a power cut: they are
    /// in the journal, or the server has acknowledged them. Without a journal, this is
    /// [`saved`](Self::saved).
    ///
    /// An edit is sent and journaled at the same time. If the program is killed right after an
    /// edit, the edit may be sent but not journaled, which loses nothing, or it may be lost. Only
    /// after this call has returned is the edit safe.
    ///
    /// # Errors
    ///
    /// If the journal can't be written, or the document ended before that. Without a journal, as
    /// [`saved`](Self::saved).
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
            // When the document has ended, the writer still writes the remaining edits.
            let is_done = journal.is_none_or(|journal| journal.is_released);
            let end = state.end.clone().filter(|_| is_done);
            end.map(|end| Err(end.into()))
        });
        let closed = Err(SaveError::Ended(DocumentEnd::Closed));
        journaled.await.unwrap_or(closed)
    }

    /// Whether edits of this document survive the program.
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

    /// Waits until the content is available, from the journal or from the server.
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

    /// Waits until the replica has received the server's state for the first time.
    ///
    /// # Errors
    ///
    /// If the document ended before that.
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
    /// - [`SaveError::Refused`]: the server refused an edit, made by any handle, since the last
    ///   call on this one. The edit was reverted, and all others are saved. If several were
    ///   refused, this is the first refusal, with the content of all.
    /// - [`SaveError::Journal`]: there is no connection and the journal can't be written, so an
    ///   edit is only in memory. It is still sent later, and another call waits again.
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

    /// Whether the server has acknowledged all edits so far. False while there is a refusal that
    /// [`saved`](Self::saved) has not reported.
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

    /// The local content of the previous document at this path, if that was replaced by another one
    /// while it was open here or in the journal.
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

    /// Subscribes to events from now on. If the document has ended, the only event is
    /// [`DocumentEvent::Ended`].
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
        let (subscriber, changes) = Subscriber::new();
        let mut state = self.shared.lock();
        if let Some(end) = &state.end {
            subscriber.end(end);
            return changes;
        }
        state.subscribers.push(subscriber);
        state.replica.document_mut().watch(true);
        changes
    }

    /// Waits until all edits are saved, and closes this handle. The document's stream ends with the
    /// last handle.
    ///
    /// # Errors
    ///
    /// As [`saved`](Self::saved). The handle is closed nevertheless.
    ///
    /// # Cancel safety
    ///
    /// If dropped, the handle is closed without waiting.
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

/// How long a close waits for the end of the stream, after everything is saved.
const CLOSE_GRACE: Duration = Duration::from_secs(5);
