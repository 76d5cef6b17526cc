//! Edits that the server refuses as conflicts.

use std::time::Duration;

use meshagent_client::SaveError;
use meshagent_document::{MeshDocument, MeshSchema, Target};
use meshagent_protocol::{Content, ErrorCode};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::peer::{Peer, accept, append, begin, begin_at, listen};

fn element(text: &str) -> Value {
    json!({ "body": { "text": text } })
}

/// Refuses the next update as a conflict, which ends the stream.
async fn refuse(peer: &mut Peer<TcpStream>) {
    let refusal = Content::error(ErrorCode::Conflict, "somebody else writes with it now");
    peer.chunk(refusal).await;
    assert_eq!(peer.chunk(Content::Empty).await, Content::close());
}

#[tokio::test]
async fn edit_waits_until_an_earlier_connection_under_another_name_has_left() {
    let (listener, room) = listen().await;
    let serve = async {
        let mut peer = accept(&listener).await;
        for _ in 0..6 {
            begin(&mut peer).await;
            refuse(&mut peer).await;
        }
        begin(&mut peer).await;
        peer.chunk(Content::Empty).await;
        peer
    };
    let user = async {
        let room = room.connect().await.unwrap();
        let document = room.sync().open("a.document").await.unwrap();
        append(&document, "mine 🌿");
        assert_eq!(document.saved().await, Ok(()));
        assert_eq!(document.read(|d| d.root().child_count()), 1);
        (room, document)
    };
    let (peer, (room, _document)) = timeout(PATIENCE, async { tokio::join!(serve, user) })
        .await
        .unwrap();
    drop(peer);
    room.close().await;
}

#[tokio::test]
async fn edit_whose_names_another_program_took_is_refused_soon() {
    let (listener, room) = listen().await;
    let (opened, is_opened) = oneshot::channel();
    let serve = async {
        let mut peer = accept(&listener).await;
        begin(&mut peer).await;
        let client_id = is_opened.await.unwrap();
        let schema = MeshSchema::builtin("document").unwrap();
        let mut theirs = MeshDocument::new(schema, client_id);
        let id = &mut || "id-1".to_owned();
        theirs
            .append_child(Target::Root, element("theirs"), id)
            .unwrap();
        refuse(&mut peer).await;
        // After the fourth conflict the client checks the server's content.
        for _ in 0..3 {
            begin_at(&mut peer, Content::Empty, &theirs).await;
            refuse(&mut peer).await;
        }
        begin_at(&mut peer, Content::Empty, &theirs).await;
        peer
    };
    let user = async {
        let room = room.connect().await.unwrap();
        let document = room.sync().open("a.document").await.unwrap();
        opened.send(document.read(MeshDocument::client_id)).unwrap();
        append(&document, "mine");
        let saved = document.saved().await;
        assert!(
            matches!(&saved, Err(SaveError::Refused { refusal, .. }) if refusal.code == Some(1005)),
            "{saved:?}"
        );
        let text = document.read(|d| d.to_json(false).to_string());
        assert!(text.contains("theirs") && !text.contains("mine"), "{text}");
        (room, document)
    };
    let (peer, (room, _document)) = timeout(PATIENCE, async { tokio::join!(serve, user) })
        .await
        .unwrap();
    drop(peer);
    room.close().await;
}

/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_mins(1);
