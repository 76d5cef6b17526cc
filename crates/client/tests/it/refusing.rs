//! A document whose edit is refused, and which can't be opened again afterwards.

use meshagent_client::{DocumentEnd, DocumentEvent, Refusal, SaveError};
use meshagent_document::Target;
use meshagent_protocol::{Content, ErrorCode};
use serde_json::json;

use crate::peer::{Peer, begin, listen};

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
        let told = Err(SaveError::Refused(refusal("no edits")));
        assert!([&saved, &again].contains(&&told), "{saved:?} {again:?}");
        assert_ne!(again, saved);
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
        assert_eq!(closed, Err(SaveError::Refused(refusal("no edits"))));
        assert_eq!(room.sync().close("a.document").await, Ok(()));
        room
    };
    let (peer, room) = tokio::join!(serve, user);
    drop(peer);
    room.close().await;
}
