//! What earlier programs left in a room's journals is sent without anybody opening its documents.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meshagent_protocol::DocPath;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff::{self, Backoff};
use crate::journal::Journals;
use crate::room_client::WeakRoom;
use crate::sync_client::SyncClient;

/// How many documents are open for it at once.
const AT_ONCE: usize = 8;

/// The longest time between two tries of one document. Each reads its journal and writes it as a
/// whole.
const LONGEST: Duration = Duration::from_mins(5);

/// Opens the documents whose journals hold edits that are not acknowledged, a few at a time, until
/// they are. A document that the server refuses for now is queued again behind the others.
pub(crate) async fn resend(
    room: WeakRoom,
    journals: Journals,
    tasks: TaskTracker,
    closing: CancellationToken,
) {
    let listed = tokio::select! {
        listed = journals.list() => listed,
        () = closing.cancelled() => return,
    };
    // Damage is told to whoever opens such a document, or asks what is not sent.
    let unsent = listed.map(|listed| listed.unsent).unwrap_or_default();
    let now = Instant::now();
    let waiting: BTreeMap<_, _> = unsent
        .into_iter()
        .filter_map(|unsent| DocPath::parse(&unsent.path).ok())
        .enumerate()
        .map(|(number, path)| ((now, number), Waiting::new(path)))
        .collect();
    let workers = AT_ONCE.min(waiting.len());
    // By when they are opened, and by their number: those that were not taken come after all that
    // were not tried yet.
    let queue = Arc::new(Mutex::new(waiting));
    for _ in 0..workers {
        let (room, queue, closing) = (room.clone(), Arc::clone(&queue), closing.clone());
        // It ends with the room, which waits for it.
        tasks.spawn(async move {
            let queue = || queue.lock().unwrap_or_else(PoisonError::into_inner);
            let next = || queue().pop_first();
            while let Some(((at, number), mut waiting)) = next() {
                let resending = async {
                    sleep_until(at).await;
                    // The room is held for no longer than this takes.
                    let room = room.upgrade()?;
                    let shared = SyncClient::new(room).resend(&waiting.path)?;
                    Some(shared.resent().await)
                };
                let is_later = tokio::select! {
                    is_later = resending => is_later.unwrap_or(false),
                    () = closing.cancelled() => return,
                };
                if is_later {
                    let at = Instant::now() + waiting.backoff.next(backoff::random());
                    queue().insert((at, number), waiting);
                }
            }
        });
    }
}

/// A document whose journal is to be sent.
struct Waiting {
    path: DocPath,
    backoff: Backoff,
}

impl Waiting {
    fn new(path: DocPath) -> Self {
        Self {
            path,
            backoff: Backoff::up_to(LONGEST),
        }
    }
}
