//! Documents that have ended: edits are refused, and given-up edits are reported.

use std::time::Duration;

use bytes::Bytes;
use meshagent_client::{DocumentEnd, DocumentEvent, LiveDocument, OpenError, SyncError};
use meshagent_document::{EditError, MeshSchema, Target};
use meshagent_protocol::{Content, sync};
use serde_json::json;
use tokio::time::timeout;

use crate::peer::{Peer, begin, listen};

fn append(document: &LiveDocument, text: &str) -> Result<Result<String, EditError>, DocumentEnd> {
    let element = json!({ "body": { "text": text } });
    document.edit(|d| d.append_child(Target::Root, element))
}

#[tokio::test]
async fn edit_after_the_end_is_an_error_and_changes_nothing() {
    let (listener, room) = listen().await;
    let serve = async {
        let mut peer = Peer::accept(listener.accept().await.unwrap().0).await;
        begin(&mut peer).await;
        peer.chunk(Content::Empty).await;
        peer
    };
    let user = async {
        let room = room.connect().await.unwrap();
        let document = room.sync().open("ä.document").await.unwrap();
        append(&document, "vorher").unwrap().unwrap();
        document.saved().await.unwrap();
        (room, document)
    };
    let (peer, (room, document)) = timeout(PATIENCE, async { tokio::join!(serve, user) })
        .await
        .unwrap();
    drop(peer);
    room.close().await;
    let before = document.to_json();
    assert_eq!(append(&document, "nachher 🌿"), Err(DocumentEnd::Closed));
    let mut is_called = false;
    let result = document.edit(|_| is_called = true);
    assert_eq!(result, Err(DocumentEnd::Closed));
    assert!(!is_called);
    let update = document.read(meshagent_document::MeshDocument::encode_state);
    let result = room.sync().sync("ä.document", &update);
    assert!(matches!(result, Err(SyncError::NotOpen)), "{result:?}");
    assert_eq!(document.to_json(), before);
    document.saved().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_read_ends_the_document() {
    let schema = MeshSchema::builtin("document").unwrap().to_json();
    let invalid = || Bytes::from_static(b"!!!");
    let ended = DocumentEnd::Unreadable(
        "the bytes are not base64 text; encode them before sending".to_owned(),
    );
    // The invalid update is in the first chunk, and then in a later one.
    let (listener, room) = listen().await;
    let serve = async {
        let mut peer = Peer::accept(listener.accept().await.unwrap().0).await;
        let (_, call, _) = peer.open().await;
        let state = sync::state("a.document", &schema, invalid());
        peer.send_chunk(&call, state).await;
        // The client closes the call.
        peer.chunk(Content::Empty).await;
        let call = begin(&mut peer).await;
        // A kind that a later server may send.
        let Content::Binary { mut headers, data } = sync::sync("a.document", invalid()) else {
            panic!("not binary");
        };
        headers.insert("kind".to_owned(), json!("later"));
        peer.send_chunk(&call, Content::Binary { headers, data })
            .await;
        peer.send_chunk(&call, sync::sync("a.document", invalid()))
            .await;
        peer
    };
    let user = async {
        let room = room.connect().await.unwrap();
        let opened = room.sync().open("a.document").await;
        assert!(
            matches!(&opened, Err(OpenError::Ended(end)) if *end == ended),
            "{opened:?}"
        );
        let document = room.sync().open("a.document").await.unwrap();
        let mut changes = document.changes();
        while let Some(event) = changes.recv().await {
            if let DocumentEvent::Ended(end) = event {
                return (room, end);
            }
        }
        panic!("no end");
    };
    let (peer, (room, end)) = timeout(PATIENCE, async { tokio::join!(serve, user) })
        .await
        .unwrap();
    assert_eq!(end, ended);
    drop(peer);
    room.close().await;
}

/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_mins(1);
