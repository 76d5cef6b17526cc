//! A document whose edit is refused, and which can't be opened again afterwards.

use std::time::Duration;

use meshagent_client::{DocumentEnd, DocumentEvent, Refusal, SaveError};
use meshagent_document::Target;
use meshagent_protocol::{Content, ErrorCode};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::peer::{Peer, accept, append, begin, listen};

/// The refusal that is reported, and the number of lost edits.
fn reported(saved: Result<(), SaveError>) -> (Refusal, usize) {
    match saved {
        Err(SaveError::Refused { refusal, lost }) => (refusal, lost.len()),
        saved => panic!("{saved:?}"),
    }
}

#[tokio::test]
async fn a_refusal_is_told_although_the_document_ends_by_it() {
    let (listener, room) = listen().await;
    let serve = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut peer = Peer::accept(stream).await;
        begin(&mut peer).await;
        peer.chunk(Content::error(ErrorCode::PermissionDenied, "no edits"))
            .await;
        // The client opens the document again for the server's state, but the grant is gone.
        assert_eq!(peer.chunk(Content::Empty).await, Content::close());
        let (request, _) = peer.invoke().await;
        peer.answer(
            request,
            Content::error(ErrorCode::PermissionDenied, "not even that"),
        )
        .await;
        peer
    };
    let refusal = |text: &str| Refusal {
        code: Some(1001),
        text: text.to_owned(),
    };
    let user = async {
        let room = room.connect().await.unwrap();
        let document = room.sync().open("a.document").await.unwrap();
        let _again = room.sync().open("a.document").await.unwrap();
        let mut changes = document.changes();
        let element = json!({ "body": { "text": "mine" } });
        document
            .edit(|d| d.append_child(Target::Root, element))
            .unwrap()
            .unwrap();
        // Of two concurrent calls, one reports the refusal.
        let (saved, again) = tokio::join!(document.saved(), document.saved());
        let [told, Ok(())] = (if saved.is_err() {
            [saved, again]
        } else {
            [again, saved]
        }) else {
            panic!("reported twice");
        };
        assert_eq!(reported(told), (refusal("no edits"), 1));
        let mut events = Vec::new();
        while let Some(event) = changes.recv().await {
            if !matches!(event, DocumentEvent::Changed(_)) {
                events.push(event);
            }
        }
        let ended = DocumentEvent::Ended(DocumentEnd::Refused(refusal("not even that")));
        let [
            DocumentEvent::Disconnected,
            DocumentEvent::Refused {
                refusal: told,
                lost,
            },
            last,
        ] = &events[..]
        else {
            panic!("{events:?}");
        };
        assert_eq!(told, &refusal("no edits"));
        assert_eq!(lost.len(), 1);
        assert_eq!(last, &ended);
        // Later subscribers receive the end.
        let mut changes = document.changes();
        assert_eq!(changes.recv().await, Some(ended));
        assert_eq!(changes.recv().await, None);
        // The last opening has not reported the refusal yet, the first one has.
        let closed = room.sync().close("a.document").await;
        assert_eq!(reported(closed), (refusal("no edits"), 1));
        assert_eq!(room.sync().close("a.document").await, Ok(()));
        room
    };
    let (peer, room) = tokio::join!(serve, user);
    drop(peer);
    room.close().await;
}

/// Refuses the first update, and serves the document again. Then it answers everything.
async fn refuse_first(listener: &TcpListener) {
    let mut peer = accept(listener).await;
    begin(&mut peer).await;
    let (request, _) = peer.unanswered().await;
    let refusal = Content::error(ErrorCode::InvalidRequest, "zu tief 🌿");
    peer.answer(request, refusal).await;
    assert_eq!(peer.chunk(Content::Empty).await, Content::close());
    let call = begin(&mut peer).await;
    while peer.chunk(Content::Empty).await != Content::close() {}
    peer.send_chunk(&call, Content::close()).await;
}

#[tokio::test]
async fn content_of_a_refused_edit_is_kept_without_a_subscriber_until_it_is_reported() {
    let (listener, room) = listen().await;
    let user = async {
        let room = room.connect().await.unwrap();
        let document = room.sync().open("a.document").await.unwrap();
        let again = document.clone();
        append(&document, "漢字");
        for document in [&document, &again] {
            let Err(SaveError::Refused { refusal, lost }) = document.saved().await else {
                panic!("it is refused");
            };
            assert_eq!(refusal.text, "zu tief 🌿");
            assert_eq!(lost.len(), 1);
            assert_eq!(lost[0].changes[0]["inserted"]["body"]["text"], "漢字");
            assert_eq!(document.saved().await, Ok(()));
        }
        drop((document, again));
        room.close().await;
    };
    let both = async { tokio::join!(refuse_first(&listener), user) };
    timeout(PATIENCE, both).await.unwrap();
}

#[tokio::test]
async fn slow_subscriber_learns_that_it_missed_events_and_of_the_end() {
    let (listener, room) = listen().await;
    let serve = async {
        let mut peer = accept(&listener).await;
        begin(&mut peer).await;
        peer
    };
    let user = async {
        let room = room.connect().await.unwrap();
        let document = room.sync().open("a.document").await.unwrap();
        (room, document)
    };
    let (peer, (room, document)) = timeout(PATIENCE, async { tokio::join!(serve, user) })
        .await
        .unwrap();
    let mut changes = document.changes();
    for _ in 0..1_100 {
        append(&document, "茶");
    }
    drop(peer);
    timeout(PATIENCE, room.close()).await.unwrap();
    let mut events = Vec::new();
    while let Some(event) = changes.recv().await {
        events.push(event);
    }
    assert_eq!(events.len(), 1_026);
    let ended = DocumentEvent::Ended(DocumentEnd::Closed);
    assert_eq!(events[1_024..], [DocumentEvent::Missed, ended]);
}

/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_mins(1);
