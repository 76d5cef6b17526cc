//! Edits that an earlier program left in its journals.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use meshagent_client::{RoomBuilder, RoomClient};
use meshagent_document::{MeshDocument, MeshSchema};
use meshagent_protocol::{ClientToServer, Content, Control, ErrorCode};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::peer::{Peer, accept, append, begin_with, listen};

/// More documents than are open concurrently.
const DOCUMENTS: usize = 9;

fn path(number: usize) -> String {
    format!("{number}.document")
}

/// Leaves an edit in the journal of each of `count` documents.
pub(crate) async fn leave_edits(listener: &TcpListener, room: RoomBuilder, count: usize) {
    let serve = async {
        let mut peer = accept(listener).await;
        for _ in 0..count {
            begin_with(&mut peer, of_identity("old")).await;
        }
    };
    let user = async {
        let room = room.connect().await.unwrap();
        let mut documents = Vec::new();
        for number in 0..count {
            documents.push(room.sync().open(&path(number)).await.unwrap());
        }
        (room, documents)
    };
    let ((), (room, documents)) = tokio::join!(serve, user);
    for document in &documents {
        append(document, "mine");
        document.journaled().await.unwrap();
    }
    drop(documents);
    let given_up = room.close().await;
    assert_eq!(given_up.len(), count, "{given_up:?}");
    // The client may have started to reconnect by then.
    let moment = Duration::from_millis(100);
    while let Ok(stale) = timeout(moment, listener.accept()).await {
        drop(stale.unwrap());
    }
}

fn of_identity(identity: &str) -> Content {
    Content::Json(json!({ "identity": identity }))
}

fn refusal() -> Content {
    Content::error(ErrorCode::OperationFailed, "it can't be read")
}

/// The path in a start chunk.
fn started(chunk: &Content) -> Option<&str> {
    match chunk {
        Content::Binary { headers, .. } => headers.get("path").and_then(Value::as_str),
        _ => None,
    }
}

/// The server's behavior for all documents but the last.
enum Others {
    /// It answers their start chunks with this content.
    Refused(Content),
    /// It does not answer their start chunks.
    NotOpened,
    /// It opens them, but answers no update.
    NotAnswered,
}

/// Serves the last document until it has sent an update. Returns how often each of the others was
/// started.
async fn serve_the_last(listener: &TcpListener, others: Others) -> HashMap<String, usize> {
    let mut peer = accept(listener).await;
    let (mut starts, mut last) = (HashMap::new(), None);
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
        let path = started(&chunk).map(str::to_owned);
        let is_last = path.as_ref().map(|path| *path == self::path(DOCUMENTS - 1));
        if let (Some(path), Some(false)) = (path, is_last) {
            *starts.entry(path).or_default() += 1;
        }
        match (is_last, &others) {
            (Some(true), _) | (Some(false), Others::NotAnswered) => {
                peer.answer(envelope.id, Content::Empty).await;
                let schema = MeshSchema::builtin("document").unwrap();
                peer.send_state(&call, &MeshDocument::new(schema, 1)).await;
                if is_last == Some(true) {
                    last = Some(call);
                }
            }
            (Some(false), Others::Refused(answer)) => {
                peer.answer(envelope.id, answer.clone()).await;
            }
            (None, _) if last.as_ref() == Some(&call) => {
                peer.answer(envelope.id, Content::Empty).await;
                return starts;
            }
            (Some(false), Others::NotOpened) | (None, Others::NotAnswered) => {}
            (None, _) => peer.answer(envelope.id, Content::Empty).await,
        }
    }
}

/// Checks that the last document is sent despite this behavior for all others.
async fn send_the_last(others: Others) {
    let directory = tempfile::tempdir().unwrap();
    let (listener, room) = listen().await;
    let offline = |path: &Path| room.clone().project("project").offline(path);
    leave_edits(&listener, offline(directory.path()), DOCUMENTS).await;
    let serve = timeout(PATIENCE, serve_the_last(&listener, others));
    let (starts, room) = tokio::join!(serve, offline(directory.path()).connect());
    assert_eq!(starts.unwrap().len(), DOCUMENTS - 1);
    let room: RoomClient = room.unwrap();
    room.close().await;
}

#[tokio::test]
async fn documents_that_can_not_be_read_do_not_hold_up_the_others() {
    send_the_last(Others::Refused(refusal())).await;
}

#[tokio::test]
async fn documents_whose_opening_is_never_answered_do_not_hold_up_the_others() {
    send_the_last(Others::NotOpened).await;
}

#[tokio::test]
async fn documents_whose_updates_are_never_answered_do_not_hold_up_the_others() {
    send_the_last(Others::NotAnswered).await;
}

/// Answers the first document with another one that has replaced it, and refuses the second one
/// until it was started `rounds` times. Returns how often the first one was opened.
async fn serve_replaced(peer: &mut Peer<TcpStream>, rounds: usize) -> usize {
    let (mut opened, mut refused) = (0, 0);
    loop {
        let envelope = peer.recv().await;
        match envelope.message {
            ClientToServer::Invoke(_) => {
                peer.answer(envelope.id, Content::Control(Control::Open))
                    .await;
            }
            ClientToServer::RequestChunk {
                tool_call_id,
                chunk,
            } => match started(&chunk) {
                Some(path) if path == self::path(0) => {
                    opened += 1;
                    peer.answer(envelope.id, of_identity("new")).await;
                    let schema = MeshSchema::builtin("document").unwrap();
                    let state = MeshDocument::new(schema, 1);
                    peer.send_state(&tool_call_id, &state).await;
                }
                Some(_) => {
                    refused += 1;
                    peer.answer(envelope.id, refusal()).await;
                    if refused == rounds {
                        return opened;
                    }
                }
                None => peer.answer(envelope.id, Content::Empty).await,
            },
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn journal_of_a_document_that_was_replaced_is_sent_once_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, room) = listen().await;
    let room = room.project("project").offline(directory.path());
    leave_edits(&listener, room.clone(), 2).await;
    let serve = async {
        let mut peer = accept(&listener).await;
        let opened = serve_replaced(&mut peer, 5).await;
        (peer, opened)
    };
    let serve = timeout(PATIENCE, serve);
    let (served, room) = tokio::join!(serve, room.connect());
    let ((peer, opened), room) = (served.unwrap(), room.unwrap());
    assert_eq!(opened, 1);
    let unsent = room.unsent().await.unwrap();
    let edits: Vec<_> = unsent
        .iter()
        .map(|one| (&one.path[..], one.edits))
        .collect();
    assert_eq!(edits, [("0.document", 1), ("1.document", 1)]);
    drop(peer);
    room.close().await;
}

/// Serves empty documents until the one at this path has sent an update. The calls stay open.
async fn serve_until_sent(
    peer: &mut Peer<TcpStream>,
    paths: &mut HashMap<String, String>,
    sent: &str,
) {
    loop {
        let envelope = peer.recv().await;
        match envelope.message {
            ClientToServer::Invoke(_) => {
                peer.answer(envelope.id, Content::Control(Control::Open))
                    .await;
            }
            ClientToServer::RequestChunk {
                tool_call_id,
                chunk,
            } => {
                peer.answer(envelope.id, Content::Empty).await;
                if let Some(path) = started(&chunk) {
                    let schema = MeshSchema::builtin("document").unwrap();
                    let state = MeshDocument::new(schema, 1);
                    peer.send_state(&tool_call_id, &state).await;
                    paths.insert(tool_call_id, path.to_owned());
                } else if paths.get(&tool_call_id).map(|path| &path[..]) == Some(sent) {
                    return;
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Expects the second of two documents to be sent while the first one's journal can't be opened,
/// and the first one afterwards.
async fn send_when_freed(
    listener: &TcpListener,
    room: RoomBuilder,
    free: impl Future<Output = ()>,
) {
    let room = room.connect().await.unwrap();
    let mut paths = HashMap::new();
    let serve = async {
        let mut peer = accept(listener).await;
        serve_until_sent(&mut peer, &mut paths, &path(1)).await;
        free.await;
        serve_until_sent(&mut peer, &mut paths, &path(0)).await;
    };
    timeout(PATIENCE, serve).await.unwrap();
    room.close().await;
}

#[tokio::test]
async fn journal_that_another_program_has_open_is_sent_when_that_has_ended() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, room) = listen().await;
    let room = room.project("project").offline(directory.path());
    leave_edits(&listener, room.clone(), 2).await;
    // This server accepts no connection.
    let (_listener, other) = listen().await;
    let other = other.project("project").offline(directory.path());
    let other = other.connect().await.unwrap();
    let document = other.sync().open(&path(0)).await.unwrap();
    append(&document, "mine, too");
    document.journaled().await.unwrap();
    let end = async {
        drop(document);
        other.close().await;
    };
    send_when_freed(&listener, room, end).await;
}

#[tokio::test]
async fn journal_that_can_not_be_read_for_some_time_is_sent_later() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, room) = listen().await;
    let room = room.project("project").offline(directory.path());
    leave_edits(&listener, room.clone(), 2).await;
    let paths = fs::read_dir(directory.path()).unwrap();
    let mut paths = paths.map(|entry| entry.unwrap().path());
    let first = paths.find(|path| {
        let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        text.contains(&self::path(0))
    });
    // A directory is in the place of the lock file.
    let lock = first.unwrap().with_extension("lock");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    let free = async { fs::remove_dir(&lock).unwrap() };
    send_when_freed(&listener, room, free).await;
}

#[tokio::test]
async fn journal_can_be_opened_by_another_program_when_the_connection_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, room) = listen().await;
    let room = room.project("project").offline(directory.path());
    leave_edits(&listener, room.clone(), 1).await;
    let room = room.connect().await.unwrap();
    let mut peer = accept(&listener).await;
    begin_with(&mut peer, of_identity("old")).await;
    drop((peer, listener));
    // This server accepts no connection.
    let (_listener, other) = listen().await;
    let other = other.project("project").offline(directory.path());
    let other = other.connect().await.unwrap();
    let opened = async {
        loop {
            if let Ok(document) = other.sync().open(&path(0)).await {
                return document;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let document = timeout(PATIENCE, opened).await.unwrap();
    assert!(!document.is_saved());
    drop(document);
    other.close().await;
    room.close().await;
}

/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_mins(2);
