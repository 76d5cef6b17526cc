//! What earlier programs left in a room's journals is sent without anybody opening its documents.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

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

/// Opens the documents whose journals hold edits that are not acknowledged, a few at a time, until
/// they are. One that the server can't take now makes room for the others, and is tried again.
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
    let paths: VecDeque<_> = unsent
        .into_iter()
        .filter_map(|unsent| DocPath::parse(&unsent.path).ok())
        .map(Waiting::new)
        .collect();
    let workers = AT_ONCE.min(paths.len());
    let paths = Arc::new(Mutex::new(paths));
    for _ in 0..workers {
        let (room, paths, closing) = (room.clone(), Arc::clone(&paths), closing.clone());
        // It ends with the room, which waits for it.
        tasks.spawn(async move {
            let queue = || paths.lock().unwrap_or_else(PoisonError::into_inner);
            let next = || queue().pop_front();
            while let Some(mut waiting) = next() {
                let resending = async {
                    sleep_until(waiting.at).await;
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
                    waiting.at = Instant::now() + waiting.backoff.next(backoff::random());
                    queue().push_back(waiting);
                }
            }
        });
    }
}

/// A document whose journal is to be sent.
struct Waiting {
    path: DocPath,
    /// When it is opened. Those that were not taken go to the end of the queue, behind all that
    /// were not tried yet.
    at: Instant,
    backoff: Backoff,
}

impl Waiting {
    fn new(path: DocPath) -> Self {
        Self {
            path,
            at: Instant::now(),
            backoff: Backoff::new(),
        }
    }
}
