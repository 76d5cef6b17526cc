//! What is left in a room's journals is sent without anybody opening its documents: edits of earlier
//! programs, of other programs that were killed, and of documents that were closed without a connection.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meshagent_protocol::DocPath;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff::{self, Backoff};
use crate::journal::{Journals, Listed, Unsent};
use crate::room_client::{Link, WeakRoom};
use crate::sync_client::SyncClient;

/// How many documents are open for it at once.
const AT_ONCE: usize = 8;

/// The longest time between two tries of one document, and between two lists of the directory. Each
/// reads a journal, or all of them, as a whole.
const LONGEST: Duration = Duration::from_mins(5);

/// The shortest time between two lists of the directory.
const LIST_PAUSE: Duration = Duration::from_mins(1);

/// How long the server may take to open a document, and for each answer in it, before others come first. It doubles with
/// each try that takes so long: a large edit may need more time to be sent.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

const LONGEST_PATIENCE: Duration = Duration::from_mins(16);

/// Opens the documents whose journals hold edits that are not acknowledged, a few at a time, while
/// there is a connection.
///
/// They are found by lists of the directory: now, after reconnects, and from time to time, since
/// other programs have journals there, too. Those that end here are noted by [`Resends::left`].
pub(crate) async fn resend(
    room: WeakRoom,
    journals: Journals,
    tasks: TaskTracker,
    closing: CancellationToken,
) {
    let Some(link) = room.upgrade().map(|room| room.link()) else {
        return;
    };
    for _ in 0..AT_ONCE {
        let work = work(room.clone(), journals.resends.clone(), link.clone());
        // It ends with the room, which waits for it.
        tasks.spawn(while_in_room(work, link.clone(), closing.clone()));
    }
    let list = list(journals, link.clone());
    while_in_room(list, link, closing).await;
}

/// Does this until the room is left, or can't be entered any more.
async fn while_in_room(
    work: impl Future<Output = ()>,
    mut link: watch::Receiver<Link>,
    closing: CancellationToken,
) {
    tokio::select! {
        () = work => {}
        () = closing.cancelled() => {}
        _ended = link.wait_for(|link| matches!(link, Link::Ended(_))) => {}
    }
}

async fn list(journals: Journals, mut link: watch::Receiver<Link>) {
    let mut backoff = Backoff::up_to(LONGEST);
    loop {
        link.mark_unchanged();
        // Damage is reported when the document is opened, and by `unsent`.
        let Ok(listed) = journals.list().await else {
            sleep(backoff.next(backoff::random())).await;
            continue;
        };
        backoff.reset();
        journals.resends.listed(&listed);
        sleep(LIST_PAUSE).await;
        tokio::select! {
            () = reconnected(&mut link) => {}
            () = sleep(LONGEST) => {}
        }
    }
}

async fn reconnected(link: &mut watch::Receiver<Link>) {
    while link.changed().await.is_ok() {
        if matches!(&*link.borrow_and_update(), Link::Up(_)) {
            return;
        }
    }
}

async fn work(room: WeakRoom, resends: Resends, mut link: watch::Receiver<Link>) {
    loop {
        let next = resends.next().await;
        // A journal that is open can't be opened by another program, so it is not open for nothing.
        let is_up =
            link.wait_for(|link| matches!(link, Link::Up(connection) if !connection.is_closed()));
        if is_up.await.is_err() {
            return;
        }
        // The room is held for no longer than this takes.
        let begun = DocPath::parse(&next.path).ok().and_then(|path| {
            let room = room.upgrade()?;
            SyncClient::new(room).resend(&path, next.patience)
        });
        let since = Instant::now();
        let resent = match begun {
            Some(shared) => shared.resent().await,
            // Somebody has it open.
            None => Resent::Done,
        };
        resends.tried(next, resent, since.elapsed());
    }
}

/// What became of a document that was opened to send what its journal holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Resent {
    /// All is acknowledged, or somebody has it open.
    Done,
    /// It is tried again.
    Later,
    /// It stays in the journal until somebody opens the document, and learns why.
    Refused,
}

/// The documents whose journals are to be sent. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resends(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    documents: Mutex<Documents>,
    /// One has come that waits.
    has_more: Notify,
}

#[derive(Debug, Default)]
struct Documents {
    /// Those that wait, by when they are opened, and by their number: those that were not taken come
    /// after all that were not tried yet.
    waiting: BTreeMap<(Instant, u64), Waiting>,
    /// All of them, by path.
    known: BTreeMap<String, Known>,
    next: u64,
}

#[derive(Debug)]
struct Waiting {
    path: String,
    backoff: Backoff,
    listed: Option<Digest>,
    patience: Duration,
}

/// A hash of the edits that a list of the directory found in a journal.
type Digest = u64;

#[derive(Clone, Copy, Debug)]
enum Known {
    Waiting,
    /// It is open; `again` says whether it ended with edits in its journal since.
    Tried {
        again: bool,
    },
    /// It is tried again when a list finds something else in its journal: another program has edited it.
    Refused(Option<Digest>),
}

impl Resends {
    /// The directory was listed.
    fn listed(&self, listed: &Listed) {
        // What was refused and is not in its journal any more is nothing to be compared with.
        if listed.unreadable.is_empty() {
            let paths: BTreeSet<&str> = listed.unsent.iter().map(|one| &one.path[..]).collect();
            self.lock().known.retain(|path, known| {
                !matches!(known, Known::Refused(_)) || paths.contains(&path[..])
            });
        }
        for unsent in &listed.unsent {
            self.found(unsent);
        }
    }

    /// A list of the directory has it.
    fn found(&self, unsent: &Unsent) {
        let digest = Some(unsent.digest);
        let mut documents = self.lock();
        let is_due = match documents.known.get(&unsent.path) {
            None => true,
            Some(Known::Refused(refused)) => *refused != digest,
            Some(Known::Waiting | Known::Tried { .. }) => false,
        };
        if is_due {
            documents.add(&unsent.path, digest);
            self.0.has_more.notify_one();
        }
    }

    /// Nobody has the document open any more, and its journal holds edits, or may hold some.
    pub(crate) fn left(&self, path: &str) {
        let mut documents = self.lock();
        match documents.known.get_mut(path) {
            Some(Known::Waiting) => {}
            Some(Known::Tried { again }) => *again = true,
            Some(Known::Refused(_)) | None => {
                documents.add(path, None);
                self.0.has_more.notify_one();
            }
        }
    }

    /// The next one, when it is time for it.
    async fn next(&self) -> Waiting {
        loop {
            let first = {
                let mut documents = self.lock();
                let documents = &mut *documents;
                match documents.waiting.first_entry() {
                    Some(first) if first.key().0 <= Instant::now() => {
                        let next = first.remove();
                        let tried = Known::Tried { again: false };
                        documents.known.insert(next.path.clone(), tried);
                        if !documents.waiting.is_empty() {
                            self.0.has_more.notify_one();
                        }
                        return next;
                    }
                    first => first.map(|first| first.key().0),
                }
            };
            tokio::select! {
                () = self.0.has_more.notified() => {}
                () = sleep_until(first.unwrap_or_else(Instant::now)), if first.is_some() => {}
            }
        }
    }

    /// One was opened, and has ended after this time.
    fn tried(&self, mut one: Waiting, resent: Resent, took: Duration) {
        if took >= one.patience {
            one.patience = LONGEST_PATIENCE.min(one.patience * 2);
        }
        let mut documents = self.lock();
        let known = documents.known.remove(&one.path);
        match (resent, known) {
            (Resent::Later, _) => {
                let at = Instant::now() + one.backoff.next(backoff::random());
                documents.wait(one, at);
                self.0.has_more.notify_one();
            }
            (_, Some(Known::Tried { again: true })) => {
                documents.add(&one.path, None);
                self.0.has_more.notify_one();
            }
            (Resent::Refused, _) => {
                let refused = Known::Refused(one.listed);
                documents.known.insert(one.path, refused);
            }
            (Resent::Done, _) => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Documents> {
        let documents = self.0.documents.lock();
        documents.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Documents {
    fn add(&mut self, path: &str, listed: Option<Digest>) {
        let one = Waiting {
            path: path.to_owned(),
            backoff: Backoff::up_to(LONGEST),
            listed,
            patience: PATIENCE,
        };
        self.wait(one, Instant::now());
    }

    fn wait(&mut self, one: Waiting, at: Instant) {
        self.known.insert(one.path.clone(), Known::Waiting);
        self.waiting.insert((at, self.next), one);
        self.next += 1;
    }
}

#[cfg(test)]
mod tests;
