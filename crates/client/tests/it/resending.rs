//! What an earlier program left in its journals.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use meshagent_client::{RoomBuilder, RoomClient};
use meshagent_document::{MeshDocument, MeshSchema, Target};
use meshagent_protocol::{ClientToServer, Content, Control, ErrorCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::peer::{accept, begin, listen};

/// More than are sent at a time.
const DOCUMENTS: usize = 9;

fn path(number: usize) -> String {
    format!("{number}.document")
}

/// Leaves an edit in the journal of each document.
async fn leave_edits(listener: &TcpListener, room: RoomBuilder) {
    let serve = async {
        let mut peer = accept(listener).await;
        for _ in 0..DOCUMENTS {
            begin(&mut peer).await;
        }
    };
    let user = async {
        let room = room.connect().await.unwrap();
        let mut documents = Vec::new();
        for number in 0..DOCUMENTS {
            documents.push(room.sync().open(&path(number)).await.unwrap());
        }
        (room, documents)
    };
    let ((), (room, documents)) = tokio::join!(serve, user);
    for document in &documents {
        let element = json!({ "body": { "text": "mine" } });
        document
            .edit(|d| d.append_child(Target::Root, element))
            .unwrap()
            .unwrap();
        document.journaled().await.unwrap();
    }
    drop(documents);
    let given_up = room.close().await;
    assert_eq!(given_up.len(), DOCUMENTS, "{given_up:?}");
}

/// Refuses every document but the last one with 1008 until the last one has sent an update.
async fn serve_the_last(listener: &TcpListener) -> HashMap<String, usize> {
    let mut peer = accept(listener).await;
    let (mut refused, mut last) = (HashMap::new(), None);
    loop {
        let envelope = peer.recv().await;
        let (call, chunk) = match envelope.message {
            ClientToServer::Invoke(_) => {
                peer.answer(envelope.id, Content::Control(Control::Open))
                    .await;
                continue;
            }
            ClientToServer::RequestChunk {
                tool_call_id,
                chunk,
            } => (tool_call_id, chunk),
            other => panic!("{other:?}"),
        };
        let started = match &chunk {
            Content::Binary { headers, .. } => headers.get("path").and_then(Value::as_str),
            _ => None,
        };
        match started {
            Some(path) if path == self::path(DOCUMENTS - 1) => {
                peer.answer(envelope.id, Content::Empty).await;
                let schema = MeshSchema::builtin("document").unwrap();
                peer.send_state(&call, &MeshDocument::new(schema, 1)).await;
                last = Some(call);
            }
            Some(path) => {
                *refused.entry(path.to_owned()).or_default() += 1;
                let refusal = Content::error(ErrorCode::OperationFailed, "it can't be read");
                peer.answer(envelope.id, refusal).await;
            }
            None => {
                peer.answer(envelope.id, Content::Empty).await;
                if last.as_ref() == Some(&call) {
                    return refused;
                }
            }
        }
    }
}

#[tokio::test]
async fn documents_that_can_not_be_read_do_not_hold_up_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, room) = listen().await;
    let offline = |path: &Path| room.clone().project("project").offline(path);
    leave_edits(&listener, offline(directory.path())).await;
    let serve = timeout(PATIENCE, serve_the_last(&listener));
    let (refused, room) = tokio::join!(serve, offline(directory.path()).connect());
    assert_eq!(refused.unwrap().len(), DOCUMENTS - 1);
    let room: RoomClient = room.unwrap();
    room.close().await;
}

/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_secs(30);
