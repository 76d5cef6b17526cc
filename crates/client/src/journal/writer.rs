//! The thread that owns a room's journals, so that no other thread waits for the disk.
//!
//! The thread is notified which documents have changes, and takes these from the document when its
//! turn comes. A slow disk therefore leads to larger batches, and each open document is in the
//! queue at most once.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, oneshot};
use tokio::time::sleep;

use super::kept::remove_reported;
use super::list::{Listed, list, settle_damage};
use super::{Journal, JournalError, RoomKey, Unsent};
use crate::document_task::new_client_id;
use crate::live_document::Shared;
use crate::replica::Replica;
use crate::resend::Resends;

/// The pause before a failed write is retried, unless another write succeeds earlier.
const RETRY: Duration = Duration::from_secs(1);

/// How often a journal that is in use is tried again, and the time in between.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(10);

/// How many lists of a directory may be in progress or waiting.
const LISTS: usize = 4;

/// Owns the thread. Dropping it writes the remaining changes, and waits for the thread's end.
#[derive(Debug)]
pub(crate) struct Writer {
    journals: Journals,
    thread: Option<JoinHandle<()>>,
}

/// The handle of a room's journals. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Journals {
    queue: Arc<Queue>,
    pub(crate) room: Arc<RoomKey>,
    /// The documents whose journals have edits to send.
    pub(crate) resends: Resends,
}

#[derive(Debug)]
struct Queue {
    jobs: Mutex<Jobs>,
    has_work: Condvar,
    lists: Semaphore,
}

#[derive(Debug, Default)]
struct Jobs {
    /// The queue is bounded: one opening and one release for each document's task, which waits for
    /// them, at most one write for each document, a few lists, and what their callers received.
    waiting: VecDeque<Job>,
    is_stopping: bool,
}

#[derive(Debug)]
enum Job {
    Open {
        shared: Arc<Shared>,
        reply: oneshot::Sender<Result<Option<Replica>, JournalError>>,
    },
    Write(Arc<Shared>),
    Release(Arc<Shared>),
    List {
        reply: oneshot::Sender<Result<Listed, JournalError>>,
    },
    Unsent {
        /// Whether damaged journals that are in use are skipped.
        skips_used: bool,
        reply: oneshot::Sender<Result<Vec<Unsent>, JournalError>>,
    },
    /// Somebody has received the report of a damaged journal, which is kept under this name.
    Reported(PathBuf),
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(directory: PathBuf, room: RoomKey) -> io::Result<Self> {
        let room = Arc::new(room);
        let queue = Arc::new(Queue {
            jobs: Mutex::default(),
            has_work: Condvar::new(),
            lists: Semaphore::new(LISTS),
        });
        let state = Thread {
            directory,
            room: Arc::clone(&room),
            queue: Arc::clone(&queue),
            open: HashMap::new(),
            retry_at: None,
        };
        let thread = thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || state.run())?;
        Ok(Self {
            journals: Journals {
                queue,
                room,
                resends: Resends::default(),
            },
            thread: Some(thread),
        })
    }

    pub(crate) fn journals(&self) -> Journals {
        self.journals.clone()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.journals.queue.lock().is_stopping = true;
        self.journals.queue.has_work.notify_one();
        if let Some(thread) = self.thread.take() {
            // Failed writes were reported to the documents.
            let _panicked = thread.join();
        }
    }
}

impl Journals {
    /// Journals that no thread writes.
    #[cfg(feature = "simulation")]
    pub(crate) fn without_thread(room: RoomKey) -> Self {
        let queue = Queue {
            jobs: Mutex::default(),
            has_work: Condvar::new(),
            lists: Semaphore::new(LISTS),
        };
        // All jobs are dropped: the simulation reads the changes of its documents itself.
        queue.lock().is_stopping = true;
        Self {
            queue: Arc::new(queue),
            room: Arc::new(room),
            resends: Resends::default(),
        }
    }

    /// Opens a document's journal; `None` if it is empty.
    ///
    /// If it is in use, this is tried for a moment: a program that this one starts has a copy of
    /// each lock until it is loaded, even of one that this program has given up. A document that is
    /// open only for its journal is tried again later anyway.
    pub(crate) async fn open(&self, shared: &Arc<Shared>) -> Result<Option<Replica>, JournalError> {
        let mut tries = 0;
        loop {
            let (reply, opened) = oneshot::channel();
            self.queue.push(Job::Open {
                shared: Arc::clone(shared),
                reply,
            });
            let opened = opened.await.unwrap_or_else(|_| Err(JournalError::closed()));
            let is_in_use = matches!(opened, Err(JournalError::InUse));
            if !is_in_use || tries == TRIES || shared.is_resending() {
                return opened;
            }
            tries += 1;
            sleep(PAUSE).await;
        }
    }

    /// Lists the unacknowledged edits in the directory's journals.
    pub(crate) async fn list(&self) -> Result<Listed, JournalError> {
        let _few = self.queue.lists.acquire().await;
        let (reply, listed) = oneshot::channel();
        self.queue.push(Job::List { reply });
        listed.await.unwrap_or_else(|_| Err(JournalError::closed()))
    }

    /// The same, but a damaged journal is set aside and reported as an error. One that is in use is
    /// tried like one that is opened.
    pub(crate) async fn unsent(&self) -> Result<Vec<Unsent>, JournalError> {
        let _few = self.queue.lists.acquire().await;
        let mut tries = 0;
        loop {
            let (reply, listed) = oneshot::channel();
            let skips_used = tries == TRIES;
            self.queue.push(Job::Unsent { skips_used, reply });
            let listed = listed.await.unwrap_or_else(|_| Err(JournalError::closed()));
            if !matches!(listed, Err(JournalError::InUse)) {
                return listed.inspect_err(|error| self.reported(error));
            }
            tries += 1;
            sleep(PAUSE).await;
        }
    }

    /// Somebody has received this error. Must be called without a further pause before it is
    /// returned: until then a damaged journal stays in place, to be reported again.
    pub(crate) fn reported(&self, error: &JournalError) {
        if let JournalError::Damaged { kept, .. } = error {
            self.queue.push(Job::Reported(kept.clone()));
        }
    }

    /// Queues a document with changes. It must not be in the queue already.
    pub(crate) fn write(&self, shared: Arc<Shared>) {
        self.queue.push(Job::Write(shared));
    }

    /// Queues the last write of a document that has ended, after which its journal is closed.
    /// Returns false if the writer has stopped and will not report that.
    pub(crate) fn release(&self, shared: Arc<Shared>) -> bool {
        self.queue.push(Job::Release(shared))
    }
}

impl JournalError {
    fn closed() -> Self {
        let reason = "the room was left".to_owned();
        Self::Io { reason }
    }
}

impl Queue {
    /// Returns whether the thread will do the job. If not, the job is dropped, and a caller that
    /// waits for its reply gets an error.
    fn push(&self, job: Job) -> bool {
        let mut jobs = self.lock();
        if jobs.is_stopping {
            return false;
        }
        jobs.waiting.push_back(job);
        self.has_work.notify_one();
        true
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next job, the time of the next retry, or the end.
    fn next(&self, retry_at: Option<Instant>) -> Next {
        let mut jobs = self.lock();
        loop {
            if let Some(job) = jobs.waiting.pop_front() {
                return Next::Job(job);
            }
            if jobs.is_stopping {
                return Next::Stop;
            }
            jobs = match retry_at {
                None => self
                    .has_work
                    .wait(jobs)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let wait = at.saturating_duration_since(Instant::now());
                    if wait.is_zero() {
                        return Next::Retry;
                    }
                    let woken = self.has_work.wait_timeout(jobs, wait);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

enum Next {
    Job(Job),
    Retry,
    Stop,
}

/// The state of the thread.
struct Thread {
    directory: PathBuf,
    room: Arc<RoomKey>,
    queue: Arc<Queue>,
    /// The open journals by path, each with its document.
    open: HashMap<String, (Weak<Shared>, Journal)>,
    retry_at: Option<Instant>,
}

impl Thread {
    fn run(mut self) {
        loop {
            match self.queue.next(self.retry_at) {
                Next::Job(Job::Open { shared, reply }) => {
                    let opened = self.open(&shared);
                    // If the caller has gone, its document was dropped, and the task releases it.
                    let _waiting = reply.send(opened);
                }
                Next::Job(Job::Write(shared)) => self.write(&shared, false),
                Next::Job(Job::Release(shared)) => {
                    self.write(&shared, true);
                    self.open
                        .retain(|_, (owner, _)| !std::ptr::eq(owner.as_ptr(), &raw const *shared));
                    shared.released();
                }
                Next::Job(Job::List { reply }) => {
                    let _waiting = reply.send(list(&self.directory, &self.room));
                }
                Next::Job(Job::Unsent { skips_used, reply }) => {
                    let listed = list(&self.directory, &self.room);
                    let settled = |listed| settle_damage(listed, &self.room, skips_used);
                    let _waiting = reply.send(listed.and_then(settled));
                }
                Next::Job(Job::Reported(kept)) => remove_reported(&kept),
                Next::Retry => self.write_all(),
                Next::Stop => {
                    self.write_all();
                    return;
                }
            }
        }
    }

    fn open(&mut self, shared: &Arc<Shared>) -> Result<Option<Replica>, JournalError> {
        // A task that was dropped with its runtime has not released its document.
        self.open.retain(|_, (owner, _)| owner.strong_count() > 0);
        let client_id = new_client_id();
        let opened = Journal::open(&self.directory, &self.room, &shared.path, client_id);
        let (journal, replica) = opened?;
        let owner = Arc::downgrade(shared);
        self.open.insert(shared.path.clone(), (owner, journal));
        Ok(replica)
    }

    fn write(&mut self, shared: &Arc<Shared>, is_last: bool) {
        let Some((owner, journal)) = self.open.get_mut(&shared.path) else {
            return;
        };
        // Another document may have opened this journal since.
        if !std::ptr::eq(owner.as_ptr(), Arc::as_ptr(shared)) {
            return;
        }
        let Some(batch) = shared.next_batch(is_last) else {
            return;
        };
        let written = journal.write(&batch);
        if written.is_err() {
            self.retry_at = Some(Instant::now() + RETRY);
        }
        shared.wrote(&batch, written, journal.is_broken());
    }

    fn write_all(&mut self) {
        self.retry_at = None;
        let open: Vec<_> = self.open.values().map(|(owner, _)| owner.clone()).collect();
        for shared in open.iter().filter_map(Weak::upgrade) {
            self.write(&shared, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use meshagent_document::{MeshDocument, MeshSchema};

    use super::*;
    use crate::journal::lock;

    #[tokio::test]
    async fn journal_in_use_is_tried_for_a_moment_and_holds_up_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let room = RoomKey {
            project: "project".to_owned(),
            room: "räume 🌿".to_owned(),
            url: "ws://here/rooms/r".to_owned(),
        };
        let path = directory.path().join(room.file_name("ä.document"));
        let writer = Writer::start(directory.path().to_owned(), room).unwrap();
        let journals = writer.journals();
        let document = |path| {
            let schema = MeshSchema::builtin("document").unwrap();
            let replica = Replica::new(MeshDocument::new(schema, 1));
            Shared::new(path, replica, Some(journals.clone()))
        };
        let held = lock(&path).unwrap();
        // It is tried again later anyway.
        let resent = document("ä.document");
        resent.begin_to_resend();
        let opened = journals.open(&resent).await;
        assert!(matches!(opened, Err(JournalError::InUse)), "{opened:?}");

        let (shared, other) = (document("ä.document"), document("ß.document"));
        let mut opening = pin!(journals.open(&shared));
        tokio::select! {
            biased;
            opened = &mut opening => panic!("{opened:?}"),
            opened = journals.open(&other) => assert!(opened.unwrap().is_none()),
        }
        drop(held);
        assert!(opening.await.unwrap().is_none());
    }
}
