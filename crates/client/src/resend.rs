//! Sends edits that were left in a room's journals, without a handle to their documents: edits of
//! earlier programs, of other programs that were killed, and of documents closed without a
//! connection.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meshagent_protocol::DocPath;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff::{self, Backoff};
use crate::journal::{Journals, Unsent};
use crate::room_client::{Link, WeakRoom};
use crate::sync_client::SyncClient;

/// How many documents are open for this concurrently.
const AT_ONCE: usize = 8;

/// The longest pause between two attempts for one document, and between two lists of the directory.
/// An attempt reads a whole journal, a list all of them.
const LONGEST: Duration = Duration::from_mins(5);

/// The shortest pause between two lists of the directory.
const LIST_PAUSE: Duration = Duration::from_mins(1);

/// How long the server may take to open a document, and for each answer, before other documents
/// come first. It doubles with each attempt that takes that long, because a large edit may need
/// more time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

const LONGEST_PATIENCE: Duration = Duration::from_mins(16);

/// Sends the unacknowledged edits in journals, a few documents at a time, while there is a
/// connection.
///
/// The documents are found by listing the directory: at the start, after reconnects, and
/// periodically, since other programs have journals there, too. Documents closed in this program
/// are added by [`Resends::left`].
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
        // The worker ends with the room, which waits for it.
        tasks.spawn(while_in_room(work, link.clone(), closing.clone()));
    }
    let list = list(journals, link.clone());
    while_in_room(list, link, closing).await;
}

/// Runs `work` until the room is left or has ended.
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
        for unsent in listed.unsent {
            journals.resends.found(&unsent);
        }
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
        // Other programs can't open a journal that is open here, so it is only opened with a
        // connection.
        let is_up =
            link.wait_for(|link| matches!(link, Link::Up(connection) if !connection.is_closed()));
        if is_up.await.is_err() {
            return;
        }
        // The room is not kept alive after this.
        let begun = DocPath::parse(&next.path).ok().and_then(|path| {
            let room = room.upgrade()?;
            SyncClient::new(room).resend(&path, next.patience)
        });
        let since = Instant::now();
        let resent = match begun {
            Some(shared) => shared.resent().await,
            // A handle has it open.
            None => Resent::Done,
        };
        resends.tried(next, resent, since.elapsed());
    }
}

/// The result of opening a document to send the edits in its journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Resent {
    /// Everything is acknowledged, or a handle has the document open.
    Done,
    /// It is retried.
    Later,
    /// The edits stay in the journal until the document is opened, which reports the refusal.
    Refused,
}

/// The documents whose journals have edits to send. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resends(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    documents: Mutex<Documents>,
    /// A document was added.
    has_more: Notify,
}

#[derive(Debug, Default)]
struct Documents {
    /// Waiting documents, by the time of the attempt and a sequence number. Retried documents come
    /// after all that were not tried yet.
    waiting: BTreeMap<(Instant, u64), Waiting>,
    /// All documents, by path.
    known: BTreeMap<String, Known>,
    next: u64,
}

#[derive(Debug)]
struct Waiting {
    path: String,
    backoff: Backoff,
    listed: Option<Size>,
    patience: Duration,
}

/// The number of edits and of bytes that a list found in a journal.
type Size = (u64, u64);

#[derive(Clone, Copy, Debug)]
enum Known {
    Waiting,
    /// It is open. `again` records whether it has since been closed with edits in its journal.
    Tried {
        again: bool,
    },
    /// It is tried again when a list finds a different size, since another program has then edited
    /// it.
    Refused(Option<Size>),
}

impl Resends {
    /// Adds a document that a list has found.
    fn found(&self, unsent: &Unsent) {
        let size = Some((unsent.edits, unsent.bytes));
        let mut documents = self.lock();
        let is_due = match documents.known.get(&unsent.path) {
            None => true,
            Some(Known::Refused(refused)) => *refused != size,
            Some(Known::Waiting | Known::Tried { .. }) => false,
        };
        if is_due {
            documents.add(&unsent.path, size);
            self.0.has_more.notify_one();
        }
    }

    /// Adds a document that was closed and whose journal has, or may have, edits.
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

    /// Waits for the next document that is due.
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

    /// Records the result of an attempt, and its duration.
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
    fn add(&mut self, path: &str, listed: Option<Size>) {
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
