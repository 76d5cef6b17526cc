//! Tests: documents that are closed in a room without a connection are sent later.

use std::time::Duration;

use meshagent_protocol::Content;
use tokio::time::timeout;

use self::peer::{accept, append, begin, listen};
use super::{PATIENCE as ANSWER, Resends, Resent};
use crate::{DocumentEnd, DocumentEvent, Unsent};

#[path = "../../tests/it/peer.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod peer;

/// Long enough for any machine, and shorter than the pause between two lists of the directory.
const PATIENCE: Duration = Duration::from_secs(45);

#[tokio::test]
async fn edit_of_a_document_that_was_closed_without_a_connection_is_sent_when_there_is_one() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, room) = listen().await;
    let room = room.project("project").offline(directory.path());
    let serve = async {
        let mut peer = accept(&listener).await;
        begin(&mut peer).await;
    };
    let user = async {
        let room = room.connect().await.unwrap();
        let document = room.sync().open("a.document").await.unwrap();
        (room, document)
    };
    // The connection ends with the peer.
    let ((), (room, document)) = tokio::join!(serve, user);
    append(&document, "mine");
    document.journaled().await.unwrap();
    let mut changes = document.changes();
    drop(document);
    let ended = async {
        loop {
            match changes.recv().await {
                Some(DocumentEvent::Ended(end)) => return end,
                Some(_) => {}
                None => panic!("the end is an event"),
            }
        }
    };
    let ended = timeout(PATIENCE, ended).await.unwrap();
    assert_eq!(ended, DocumentEnd::Closed);
    let serve = async {
        let mut peer = accept(&listener).await;
        begin(&mut peer).await;
        peer.chunk(Content::Empty).await;
        peer
    };
    let peer = timeout(PATIENCE, serve).await.expect("it is sent");
    let saved = async {
        while !room.unsent().await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, saved).await.expect("it is saved");
    drop(peer);
    room.close().await;
}

fn listed(edits: u64) -> Unsent {
    Unsent {
        path: "a.document".to_owned(),
        edits,
        bytes: 10 * edits,
    }
}

#[tokio::test]
async fn refused_document_is_tried_again_when_its_journal_holds_something_else() {
    let resends = Resends::default();
    resends.found(&listed(1));
    let one = resends.next().await;
    resends.tried(one, Resent::Refused, Duration::ZERO);
    resends.found(&listed(1));
    assert!(resends.lock().waiting.is_empty());
    resends.found(&listed(2));
    assert_eq!(resends.next().await.path, "a.document");
}

#[tokio::test]
async fn server_has_more_time_for_an_answer_after_a_try_that_was_too_short() {
    let resends = Resends::default();
    resends.found(&listed(1));
    let one = resends.next().await;
    assert_eq!(one.patience, ANSWER);
    resends.tried(one, Resent::Later, ANSWER);
    let one = resends.next().await;
    assert_eq!(one.patience, 2 * ANSWER);
    resends.tried(one, Resent::Later, ANSWER);
    assert_eq!(resends.next().await.patience, 2 * ANSWER);
}
