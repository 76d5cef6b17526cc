//! What earlier programs left in a room's journals is sent without anybody opening its documents.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use meshagent_protocol::DocPath;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::journal::Journals;
use crate::room_client::WeakRoom;
use crate::sync_client::SyncClient;

/// How many documents are open for it at once.
const AT_ONCE: usize = 8;

/// Opens the documents whose journals hold edits that are not acknowledged, a few at a time, until they are.
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
        .collect();
    let workers = AT_ONCE.min(paths.len());
    let paths = Arc::new(Mutex::new(paths));
    for _ in 0..workers {
        let (room, paths, closing) = (room.clone(), Arc::clone(&paths), closing.clone());
        // It ends with the room, which waits for it.
        tasks.spawn(async move {
            let next = || {
                let mut paths = paths.lock().unwrap_or_else(PoisonError::into_inner);
                paths.pop_front()
            };
            while let Some(path) = next() {
                // The room is held for no longer than this takes.
                let Some(shared) = room
                    .upgrade()
                    .and_then(|room| SyncClient::new(room).resend(&path))
                else {
                    continue;
                };
                tokio::select! {
                    () = shared.resent() => {}
                    () = closing.cancelled() => return,
                }
            }
        });
    }
}
