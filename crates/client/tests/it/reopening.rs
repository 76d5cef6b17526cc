//! Documents that are opened again before they have ended without handles.

use std::time::Duration;

use meshagent_client::DocumentEvent;
use meshagent_protocol::{Content, Control, ErrorCode};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::peer::{Peer, accept, append, begin, listen};

#[tokio::test]
async fn who_opens_a_document_while_its_stream_closes_has_it_open() {
    let (listener, room) = listen().await;
    let (closing, is_closing) = oneshot::channel();
    let (opened, is_opened) = oneshot::channel();
    let serve = async {
        let mut peer = accept(&listener).await;
        let call = begin(&mut peer).await;
        let (request, chunk) = peer.unanswered().await;
        assert_eq!(chunk, Content::close());
        closing.send(()).unwrap();
        is_opened.await.unwrap();
        peer.answer(request, Content::Empty).await;
        peer.send_chunk(&call, Content::close()).await;
        begin(&mut peer).await;
        peer.chunk(Content::Empty).await;
        peer
    };
    let user = async {
        let room = room.connect().await.unwrap();
        drop(room.sync().open("a.document").await.unwrap());
        is_closing.await.unwrap();
        let document = room.sync().open("a.document").await.unwrap();
        append(&document, "mine");
        opened.send(()).unwrap();
        assert_eq!(document.saved().await, Ok(()));
        (room, document)
    };
    let (peer, (room, _document)) = timeout(PATIENCE, async { tokio::join!(serve, user) })
        .await
        .unwrap();
    drop(peer);
    room.close().await;
}

#[tokio::test]
async fn who_opens_a_document_that_waits_for_its_server_has_it_open() {
    let (listener, room) = listen().await;
    let (opened, is_opened) = oneshot::channel();
    let (kept, is_kept) = oneshot::channel();
    let serve = async {
        let mut peer = accept(&listener).await;
        begin(&mut peer).await;
        is_opened.await.unwrap();
        drop(peer);
        // The server accepts no connection until the first opening would have ended, which takes
        // ten seconds.
        let (stream, _) = listener.accept().await.unwrap();
        is_kept.await.unwrap();
        let mut peer = Peer::accept(stream).await;
        begin(&mut peer).await;
        peer.chunk(Content::Empty).await;
        peer
    };
    let user = async {
        let room = room.connect().await.unwrap();
        let document = room.sync().open("a.document").await.unwrap();
        let mut changes = document.changes();
        opened.send(()).unwrap();
        while changes.recv().await.unwrap() != DocumentEvent::Disconnected {}
        append(&document, "mine");
        drop(document);
        // The task notices that no handle is open.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let document = room.sync().open("a.document").await.unwrap();
        tokio::time::sleep(Duration::from_secs(11)).await;
        kept.send(()).unwrap();
        assert_eq!(document.saved().await, Ok(()));
        (room, document)
    };
    let (peer, (room, _document)) = timeout(PATIENCE, async { tokio::join!(serve, user) })
        .await
        .unwrap();
    drop(peer);
    room.close().await;
}

#[tokio::test]
async fn chunk_that_crosses_the_close_is_sent_again() {
    // Either of the two may be received first, so there are several rounds.
    let rounds = 12;
    let (listener, room) = listen().await;
    let serve = async {
        let mut peer = accept(&listener).await;
        let mut call = begin(&mut peer).await;
        for _ in 0..rounds {
            let (request, sent) = peer.unanswered().await;
            // The document was moved away and back.
            peer.send_chunk(&call, Content::close()).await;
            let refusal = Content::error(ErrorCode::InvalidRequest, "no call is open");
            peer.answer(request, refusal).await;
            call = begin(&mut peer).await;
            assert_eq!(peer.chunk(Content::Empty).await, sent);
        }
        peer
    };
    let user = async {
        let room = room.connect().await.unwrap();
        let document = room.sync().open("a.document").await.unwrap();
        for round in 0..rounds {
            append(&document, "mine");
            assert_eq!(document.saved().await, Ok(()), "round {round}");
        }
        (room, document)
    };
    let (peer, (room, _document)) = timeout(PATIENCE, async { tokio::join!(serve, user) })
        .await
        .unwrap();
    drop(peer);
    room.close().await;
}

#[tokio::test]
async fn document_whose_opening_is_never_answered_ends_with_its_last_handle() {
    let (listener, room) = listen().await;
    let room = async { room.connect().await.unwrap() };
    let (room, mut peer) = tokio::join!(room, accept(&listener));
    let open = async {
        loop {
            let sync = room.sync();
            let opening = sync.open("a.document");
            let _never_answered = timeout(Duration::from_millis(50), opening).await;
            // The task notices that no handle is open.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let serve = async {
        // A document that had not ended would be joined, without another call.
        for _ in 0..2 {
            let (request, _) = peer.invoke().await;
            peer.answer(request, Content::Control(Control::Open)).await;
            let (_, start) = peer.unanswered().await;
            assert!(matches!(start, Content::Binary { .. }), "{start:?}");
        }
    };
    tokio::select! {
        () = open => {}
        served = timeout(PATIENCE, serve) => served.unwrap(),
    }
    drop(peer);
    room.close().await;
}

/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_mins(1);
