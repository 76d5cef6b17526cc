//! Documents that have ended: what is edited then is refused, and what was given up is told.

use std::time::Duration;

use meshagent_client::{DocumentEnd, LiveDocument, SyncError};
use meshagent_document::{EditError, Target};
use meshagent_protocol::Content;
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

/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_mins(1);
