//! The thread that owns a room's journals, so that no other thread ever waits for the disk.
//!
//! It is told which documents have something to be written, and takes that from them when it comes to it. So a slow disk
//! makes batches larger, and the queue holds each open document once at most.

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

/// How long after a failed write the next one is tried, if nothing else is written before.
const RETRY: Duration = Duration::from_secs(1);

/// How many lists of a directory are made or waited for at once.
const LISTS: usize = 4;

/// The owner of the thread. When it is dropped, what is left is written, and the thread has ended.
#[derive(Debug)]
pub(crate) struct Writer {
    journals: Journals,
    thread: Option<JoinHandle<()>>,
}

/// A room's journals, for those who have documents in them. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Journals {
    queue: Arc<Queue>,
    pub(crate) room: Arc<RoomKey>,
    /// Those whose edits are to be sent.
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
    /// One opening and one release for each document's task, which waits for them; one write for each document that has
    /// no other waiting; and the lists, of which there are few.
    waiting: VecDeque<Job>,
    is_stopping: bool,
}

#[derive(Debug)]
enum Job {
    Open {
        shared: Arc<Shared>,
        when_damaged: WhenDamaged,
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

/// What becomes of a damaged journal when it is opened. Either way that is an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WhenDamaged {
    Leave,
    SetAside,
}

/// The edits in the journals of a room.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    pub(crate) unsent: Vec<Unsent>,
    /// Files that are damaged.
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
            // It has told of what it could not write.
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
        // What is asked for is dropped: whoever drives the documents looks at them himself.
        queue.lock().is_stopping = true;
        Self {
            queue: Arc::new(queue),
            room: Arc::new(room),
            resends: Resends::default(),
        }
    }

    /// Opens a document's journal; what it holds, if it holds anything.
    pub(crate) async fn open(
        &self,
        shared: &Arc<Shared>,
        when_damaged: WhenDamaged,
    ) -> Result<Option<Replica>, JournalError> {
        let (reply, opened) = oneshot::channel();
        self.queue.push(Job::Open {
            shared: Arc::clone(shared),
            when_damaged,
            reply,
        });
        opened.await.unwrap_or_else(|_| Err(JournalError::closed()))
    }

    /// What is not acknowledged, by the journals in the directory.
    pub(crate) async fn list(&self) -> Result<Listed, JournalError> {
        let _few = self.queue.lists.acquire().await;
        let (reply, listed) = oneshot::channel();
        self.queue.push(Job::List { reply });
        listed.await.unwrap_or_else(|_| Err(JournalError::closed()))
    }

    /// The same; a damaged journal is set aside, and an error.
    pub(crate) async fn unsent(&self) -> Result<Vec<Unsent>, JournalError> {
        let _few = self.queue.lists.acquire().await;
        let (reply, listed) = oneshot::channel();
        self.queue.push(Job::Unsent { reply });
        listed.await.unwrap_or_else(|_| Err(JournalError::closed()))
    }

    /// There is something to be written of a document that was not in the queue.
    pub(crate) fn write(&self, shared: Arc<Shared>) {
        self.queue.push(Job::Write(shared));
    }

    /// A document has ended: the last is written, and another may open its journal. Returns whether the writer will say
    /// when that is done.
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
    /// Returns whether the thread will come to it. If not, whoever waits for a reply learns that there is none.
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

    /// The next job; `None` when it is time for another try.
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

/// What only the thread sees.
struct Thread {
    directory: PathBuf,
    room: Arc<RoomKey>,
    queue: Arc<Queue>,
    /// The journals that are open, by path, and whose they are.
    open: HashMap<String, (Weak<Shared>, Journal)>,
    retry_at: Option<Instant>,
}

impl Thread {
    fn run(mut self) {
        loop {
            match self.queue.next(self.retry_at) {
                Next::Job(Job::Open {
                    shared,
                    when_damaged,
                    reply,
                }) => {
                    let opened = self.open(&shared, when_damaged);
                    // Who gave up waiting has dropped the document, and its task releases it.
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

    fn open(
        &mut self,
        shared: &Arc<Shared>,
        when_damaged: WhenDamaged,
    ) -> Result<Option<Replica>, JournalError> {
        // A task that was dropped with its runtime has released nothing.
        self.open.retain(|_, (owner, _)| owner.strong_count() > 0);
        let open = match when_damaged {
            WhenDamaged::Leave => Journal::open_untold,
            WhenDamaged::SetAside => Journal::open,
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
        // Another may have opened it since.
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

/// What was listed; the first journal that is damaged is set aside, and an error. So is, after those, one that can't be
/// read: what it holds is not known.
fn settle_damage(listed: Listed, room: &RoomKey) -> Result<Vec<Unsent>, JournalError> {
    let Listed {
        mut unsent,
        mut unreadable,
        ..
    } = listed;
    for (path, _) in listed.damaged {
        // A program that has it open read it when it was whole, and rewrites it.
        let Ok(_lock) = lock(&path) else {
            continue;
        };
        // It was not locked while it was listed, so another program may have replaced it since.
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

    /// Writes an edit into a new journal, where there is none.
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
        // Another program finds the damage first, and goes on with the document.
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
        // It may be gone, too.
        let mut damaged = listed();
        damaged.unsent.clear();
        damaged.damaged.push((path.clone(), "damaged".to_owned()));
        fs::remove_file(&path).unwrap();
        assert_eq!(settle_damage(damaged, &room).unwrap(), []);
    }
}
