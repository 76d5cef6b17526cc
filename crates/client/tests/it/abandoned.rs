//! Documents without handles whose edits are refused, or which another document replaces.

use std::path::Path;
use std::time::Duration;

use meshagent_client::{RoomBuilder, RoomClient, SaveError};
use meshagent_protocol::{Content, ErrorCode};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::peer::{Peer, accept, append, begin, begin_with, listen};

/// Opens the document, edits it, and reports when the last handle is dropped.
async fn edit_and_drop(room: RoomBuilder, dropped: oneshot::Sender<()>) -> RoomClient {
    let room = room.connect().await.unwrap();
    let document = room.sync().open("a.document").await.unwrap();
    append(&document, "mine 🌿");
    drop(document);
    dropped.send(()).unwrap();
    room
}

/// The edits that the room gave up: path, number, and whether a journal has them.
async fn given_up(room: RoomClient) -> Vec<(String, u64, bool)> {
    let given_up = room.close().await.into_iter();
    given_up
        .map(|one| (one.path, one.edits, one.is_journaled))
        .collect()
}

/// Receives and confirms the close of the call.
async fn closed(peer: &mut Peer<TcpStream>, call: &str) {
    assert_eq!(peer.chunk(Content::Empty).await, Content::close());
    peer.send_chunk(call, Content::close()).await;
}

fn of_identity(identity: &str) -> Content {
    Content::Json(json!({ "identity": identity }))
}

#[tokio::test]
async fn leaving_a_room_reports_what_was_refused_after_the_last_handle() {
    for code in [ErrorCode::InvalidRequest, ErrorCode::PermissionDenied] {
        let (listener, room) = listen().await;
        let (dropped, is_dropped) = oneshot::channel();
        let serve = async {
            let mut peer = accept(&listener).await;
            let call = begin(&mut peer).await;
            let (request, _) = peer.unanswered().await;
            is_dropped.await.unwrap();
            peer.answer(request, Content::error(code, "too deep")).await;
            closed(&mut peer, &call).await;
            // The remaining edits, which the server accepts, are still sent.
            let call = begin(&mut peer).await;
            closed(&mut peer, &call).await;
        };
        let both = async { tokio::join!(serve, edit_and_drop(room, dropped)) };
        let ((), room) = timeout(PATIENCE, both).await.unwrap();
        let expected = [("a.document".to_owned(), 1, false)];
        assert_eq!(given_up(room).await, expected, "{code:?}");
    }
}

#[tokio::test]
async fn leaving_a_room_reports_what_was_edited_in_a_document_that_was_replaced() {
    let (listener, room) = listen().await;
    let (dropped, is_dropped) = oneshot::channel();
    let serve = async {
        let mut peer = accept(&listener).await;
        begin_with(&mut peer, of_identity("old")).await;
        let _request = peer.unanswered().await;
        is_dropped.await.unwrap();
        drop(peer);
        let mut peer = accept(&listener).await;
        let call = begin_with(&mut peer, of_identity("new")).await;
        closed(&mut peer, &call).await;
    };
    let both = async { tokio::join!(serve, edit_and_drop(room, dropped)) };
    let ((), room) = timeout(PATIENCE, both).await.unwrap();
    let expected = [("a.document".to_owned(), 1, false)];
    assert_eq!(given_up(room).await, expected);
}

#[tokio::test]
async fn journal_keeps_what_was_refused_after_the_last_handle() {
    let directory = tempfile::tempdir().unwrap();
    let offline = |room: RoomBuilder| room.project("project").offline(directory.path());
    let (listener, room) = listen().await;
    let (dropped, is_dropped) = oneshot::channel();
    let serve = async {
        let mut peer = accept(&listener).await;
        begin(&mut peer).await;
        let (request, _) = peer.unanswered().await;
        is_dropped.await.unwrap();
        let refusal = Content::error(ErrorCode::InvalidRequest, "too deep");
        peer.answer(request, refusal).await;
        assert_eq!(peer.chunk(Content::Empty).await, Content::close());
    };
    let both = async { tokio::join!(serve, edit_and_drop(offline(room), dropped)) };
    let ((), room) = timeout(PATIENCE, both).await.unwrap();
    let unsent = room.unsent().await.unwrap();
    assert_eq!((unsent.len(), unsent[0].edits), (1, 1));
    let expected = [("a.document".to_owned(), 1, true)];
    assert_eq!(given_up(room).await, expected);
}

/// Makes the next rewrite of each journal in a directory fail.
fn obstruct(directory: &Path) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "journal")
        {
            std::fs::create_dir(path.with_extension("new")).unwrap();
        }
    }
}

#[tokio::test]
async fn edits_behind_a_refused_one_are_sent_if_the_journal_can_not_be_written() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, room) = listen().await;
    let room = room.project("project").offline(directory.path());
    let (sent, is_sent) = oneshot::channel();
    let (dropped, is_dropped) = oneshot::channel();
    let serve = async {
        let mut peer = accept(&listener).await;
        let call = begin(&mut peer).await;
        closed(&mut peer, &call).await;
        drop(peer);
        let mut peer = accept(&listener).await;
        begin(&mut peer).await;
        let (request, _) = peer.unanswered().await;
        sent.send(()).unwrap();
        let _behind = peer.unanswered().await;
        is_dropped.await.unwrap();
        let refusal = Content::error(ErrorCode::InvalidRequest, "too deep");
        peer.answer(request, refusal).await;
        assert_eq!(peer.chunk(Content::Empty).await, Content::close());
        let call = begin(&mut peer).await;
        // The edit after the refused one, preceded by the update that replaces its old operations.
        while peer.chunk(Content::Empty).await != Content::close() {}
        peer.send_chunk(&call, Content::close()).await;
    };
    let user = async {
        let first = room.clone().connect().await.unwrap();
        first.sync().open("a.document").await.unwrap();
        assert!(given_up(first).await.is_empty());
        obstruct(directory.path());
        let room = room.connect().await.unwrap();
        let document = room.sync().open("a.document").await.unwrap();
        append(&document, "refused 🌿");
        let journaled = document.journaled().await;
        assert!(
            matches!(journaled, Err(SaveError::Journal { .. })),
            "{journaled:?}"
        );
        is_sent.await.unwrap();
        append(&document, "good");
        drop(document);
        dropped.send(()).unwrap();
        room
    };
    let both = async { tokio::join!(serve, user) };
    let ((), room) = timeout(PATIENCE, both).await.unwrap();
    // The refused edit is reported; the other one is on the server.
    let expected = [("a.document".to_owned(), 1, false)];
    assert_eq!(given_up(room).await, expected);
}

/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_mins(1);
