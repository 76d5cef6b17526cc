//! Documents that are closed in a room without a connection.

use std::time::Duration;

use meshagent_protocol::Content;
use tokio::time::timeout;

use self::peer::{accept, append, begin, listen};
use crate::{DocumentEnd, DocumentEvent};

#[path = "../../tests/it/peer.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod peer;

/// Long enough for any machine, and less than the time between two lists of the directory.
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
    // The connection is gone with the peer.
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
                None => panic!("its end is told"),
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
