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

use super::{Journal, JournalError, RoomKey, Unsent, list, lock, set_aside, unsent_in};
use crate::document_task::new_client_id;
use crate::live_document::Shared;
use crate::replica::Replica;
use crate::resend::Resends;

/// The pause before a failed write is retried, unless another write succeeds earlier.
const RETRY: Duration = Duration::from_secs(1);

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
    /// them, at most one write for each document, and a few lists.
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
        reply: oneshot::Sender<Result<Vec<Unsent>, JournalError>>,
    },
}

/// The unacknowledged edits in a room's journals.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    pub(crate) unsent: Vec<Unsent>,
    /// Damaged files, with the reason.
    pub(crate) damaged: Vec<(PathBuf, String)>,
    /// Files that can't be read now.
    pub(crate) unreadable: Vec<(PathBuf, io::Error)>,
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
    pub(crate) async fn open(&self, shared: &Arc<Shared>) -> Result<Option<Replica>, JournalError> {
        let (reply, opened) = oneshot::channel();
        self.queue.push(Job::Open {
            shared: Arc::clone(shared),
            reply,
        });
        opened.await.unwrap_or_else(|_| Err(JournalError::closed()))
    }

    /// Lists the unacknowledged edits in the directory's journals.
    pub(crate) async fn list(&self) -> Result<Listed, JournalError> {
        let _few = self.queue.lists.acquire().await;
        let (reply, listed) = oneshot::channel();
        self.queue.push(Job::List { reply });
        listed.await.unwrap_or_else(|_| Err(JournalError::closed()))
    }

    /// The same, but a damaged journal is set aside and reported as an error.
    pub(crate) async fn unsent(&self) -> Result<Vec<Unsent>, JournalError> {
        let _few = self.queue.lists.acquire().await;
        let (reply, listed) = oneshot::channel();
        self.queue.push(Job::Unsent { reply });
        listed.await.unwrap_or_else(|_| Err(JournalError::closed()))
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
                Next::Job(Job::Unsent { reply }) => {
                    let _waiting = reply.send(self.unsent());
                }
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
        let open = if shared.is_resending() {
            Journal::open_untold
        } else {
            Journal::open
        };
        let opened = open(&self.directory, &self.room, &shared.path, new_client_id());
        let (journal, replica) = opened?;
        let owner = Arc::downgrade(shared);
        self.open.insert(shared.path.clone(), (owner, journal));
        Ok(replica)
    }

    fn unsent(&self) -> Result<Vec<Unsent>, JournalError> {
        let listed = list(&self.directory, &self.room)?;
        settle_damage(listed, &self.room)
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

/// The listed edits. The first damaged journal is set aside and reported as an error. Otherwise an
/// unreadable journal is an error, because its edits are not known.
fn settle_damage(listed: Listed, room: &RoomKey) -> Result<Vec<Unsent>, JournalError> {
    let Listed {
        mut unsent,
        mut unreadable,
        ..
    } = listed;
    for (path, _) in listed.damaged {
        // Another program has it open. That program read the file before the damage, and rewrites
        // it.
        let Ok(_lock) = lock(&path) else {
            continue;
        };
        // The list was made without the lock, so another program may have replaced the file since.
        match unsent_in(&path, room) {
            Ok(Ok(found)) => unsent.extend(found),
            Ok(Err(reason)) => match set_aside(&path) {
                Ok(kept) => return Err(JournalError::Damaged { kept, reason }),
                Err(error) => unreadable.push((path, error)),
            },
            Err(error) => unreadable.push((path, error)),
        }
    }
    if let Some((path, error)) = unreadable.first() {
        let reason = format!("{}: {error}", path.display());
        return Err(JournalError::Io { reason });
    }
    unsent.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(unsent)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;

    use meshagent_document::{MeshDocument, MeshSchema, Target};
    use serde_json::json;

    use super::{RoomKey, list, settle_damage};
    use crate::journal::{Journal, JournalError, Pending};
    use crate::replica::Replica;

    const PATH: &str = "ä.document";

    /// Writes an edit into a new journal; there must not be one yet.
    fn write(directory: &Path, room: &RoomKey) {
        let (mut journal, found) = Journal::open(directory, room, PATH, 1).unwrap();
        assert!(found.is_none());
        let schema = MeshSchema::builtin("document").unwrap();
        let mut replica = Replica::new(MeshDocument::new(schema, 1));
        let tea = json!({ "body": { "text": "茶" } });
        replica
            .edit(|d| d.append_child(Target::Root, tea))
            .expect("it fits the schema");
        let mut pending = Pending::new(Arc::new(room.clone()), PATH);
        pending.start_over();
        let batch = pending.take(&replica).unwrap();
        journal.write(&batch).unwrap();
    }

    fn room() -> RoomKey {
        RoomKey {
            project: "project".to_owned(),
            room: "room".to_owned(),
            url: "ws://here/rooms/room".to_owned(),
        }
    }

    #[test]
    fn journal_that_can_not_be_read_keeps_no_other_from_being_listed() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), &room());
        for other in ["a.document", "z.document"] {
            fs::create_dir(directory.path().join(room().file_name(other))).unwrap();
        }
        let listed = list(directory.path(), &room()).unwrap();
        assert_eq!((listed.unsent.len(), listed.unreadable.len()), (1, 2));
        let unsent = settle_damage(listed, &room());
        assert!(matches!(unsent, Err(JournalError::Io { .. })), "{unsent:?}");
    }

    #[test]
    fn damaged_journal_is_left_for_whoever_is_to_learn_of_it() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), &room());
        let path = directory.path().join(room().file_name(PATH));
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let opened = Journal::open_untold(directory.path(), &room(), PATH, 1);
        assert!(matches!(opened, Err(JournalError::Damaged { .. })));
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn journal_that_was_written_again_after_it_was_listed_as_damaged_is_not_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let room = room();
        let listed = || list(directory.path(), &room).unwrap();
        write(directory.path(), &room);
        let path = directory.path().join(room.file_name(PATH));
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let damaged = listed();
        assert_eq!(damaged.damaged.len(), 1);
        // Another program finds the damage first, and continues with the document.
        let found = settle_damage(listed(), &room);
        assert!(
            matches!(found, Err(JournalError::Damaged { .. })),
            "{found:?}"
        );
        write(directory.path(), &room);
        let good = fs::read(&path).unwrap();
        let unsent = settle_damage(damaged, &room).unwrap();
        assert_eq!((&unsent[0].path[..], unsent[0].edits), (PATH, 1));
        assert_eq!(fs::read(&path).unwrap(), good);
        // The file may also have been removed.
        let mut damaged = listed();
        damaged.unsent.clear();
        damaged.damaged.push((path.clone(), "damaged".to_owned()));
        fs::remove_file(&path).unwrap();
        assert_eq!(settle_damage(damaged, &room).unwrap(), []);
    }
}
