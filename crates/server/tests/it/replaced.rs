//! A document that is deleted and created again is another document: nothing of the old one enters
//! it.

#![expect(
    clippy::redundant_closure_for_method_calls,
    reason = "a method of an editor is not one of every editor"
)]

use std::time::Duration;

use meshagent_client::{DocumentEvent, RoomClient, SaveError};
use meshagent_document::MeshDocument;
use meshagent_protocol::DocPath;
use meshagent_protocol::sync::SyncOpenStart;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::cable::Cable;
use crate::harness::{PATIENCE, TestServer};
use crate::live::{append, enter, event, texts};

const PATH: &str = "ä 🌿.document";

/// Deletes the document, and creates another one.
async fn make_again(server: &TestServer) {
    let bob = enter(server, "bob").await;
    bob.storage().delete(PATH, false).await.unwrap();
    let json = json!({ "document": { "content": [{ "body": { "text": "neu" } }] } });
    bob.sync().create(PATH, Some(json), None).await.unwrap();
    bob.close().await;
}

async fn stored(server: &TestServer) -> Value {
    let bob = enter(server, "bob").await;
    bob.sync().describe(PATH).await.unwrap()
}

#[tokio::test]
async fn old_content_is_not_poured_into_a_new_document() {
    let server = TestServer::start().await;
    let cable = Cable::new(&server.address, Vec::new()).await;
    let ann = RoomClient::builder()
        .room_url(cable.room_url())
        .token(server.jwt("ann"));
    let ann = ann.connect().await.unwrap();
    let document = ann.sync().open(PATH).await.unwrap();
    let mut changes = document.changes();
    document.edit(|d| d.remember_edits(Duration::ZERO)).unwrap();
    append(&document, "alt");
    document.saved().await.unwrap();
    cable.cut();
    append(&document, "nicht gesendet 漢字");
    make_again(&server).await;
    cable.mend();
    let replaced = event(&mut changes, |event| match event {
        DocumentEvent::Replaced(replaced) => Some(replaced),
        _ => None,
    });
    let replaced = timeout(PATIENCE, replaced).await.unwrap();
    assert_eq!(replaced.edits.len(), 1);
    let content = replaced.content["document"]["content"].as_array().unwrap();
    let old: Vec<&Value> = content.iter().map(|one| &one["body"]["text"]).collect();
    assert_eq!(old, ["alt", "nicht gesendet 漢字"]);
    assert_eq!(document.replaced(), Some(replaced));
    let saved = timeout(PATIENCE, document.saved()).await.unwrap();
    assert!(matches!(saved, Err(SaveError::Refused { .. })), "{saved:?}");
    timeout(PATIENCE, document.saved()).await.unwrap().unwrap();

    append(&document, "weiter");
    timeout(PATIENCE, document.saved()).await.unwrap().unwrap();
    assert_eq!(texts(&document), ["neu", "weiter"]);
    assert_eq!(stored(&server).await, document.to_json());
    // Edits are still recorded for undo; those of the old document are not.
    assert!(document.edit(|d| d.undo()).unwrap());
    assert_eq!(texts(&document), ["neu"]);
    assert!(!document.edit(|d| d.undo()).unwrap());
    ann.close().await;
}

#[tokio::test]
async fn journal_knows_which_document_it_holds() {
    let server = TestServer::start().await;
    let cable = Cable::new(&server.address, Vec::new()).await;
    let folder = tempfile::tempdir().unwrap();
    let room = || {
        RoomClient::builder()
            .room_url(cable.room_url())
            .token(server.jwt("ann"))
            .offline(folder.path())
    };
    let ann = room().connect().await.unwrap();
    let document = ann.sync().open(PATH).await.unwrap();
    append(&document, "alt");
    document.saved().await.unwrap();
    cable.cut();
    append(&document, "nicht gesendet");
    document.journaled().await.unwrap();
    drop(document);
    ann.close().await;
    make_again(&server).await;
    cable.mend();

    // Without an open document there is no handle to which the replacement could be reported.
    let ann = room().connect().await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let unsent = ann.unsent().await.unwrap();
    assert_eq!(unsent.len(), 1, "{unsent:?}");
    let document = ann.sync().open(PATH).await.unwrap();
    timeout(PATIENCE, document.synchronized())
        .await
        .unwrap()
        .unwrap();
    let replaced = document.replaced().unwrap();
    assert_eq!(replaced.edits.len(), 1);
    assert_eq!(texts(&document), ["neu"]);
    append(&document, "weiter");
    timeout(PATIENCE, document.saved())
        .await
        .unwrap()
        .unwrap_err();
    timeout(PATIENCE, document.saved()).await.unwrap().unwrap();
    document.journaled().await.unwrap();
    drop(document);
    ann.close().await;
    let names: Vec<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains(".replaced-"))
        .collect();
    assert_eq!(names.len(), 1, "the old journal is kept: {names:?}");

    let ann = room().connect().await.unwrap();
    let document = ann.sync().open(PATH).await.unwrap();
    timeout(PATIENCE, document.synchronized())
        .await
        .unwrap()
        .unwrap();
    assert!(document.replaced().is_none());
    assert_eq!(texts(&document), ["neu", "weiter"]);
    assert_eq!(stored(&server).await, document.to_json());
}

#[tokio::test]
async fn server_tells_the_identity_to_who_asks_and_takes_the_one_that_is_expected() {
    let server = TestServer::start().await;
    let bob = server.join("bob").await;
    let mut start = SyncOpenStart::new(DocPath::parse(PATH).unwrap());
    let stream = bob.sync().open(&start).await.unwrap();
    assert_eq!(stream.identity(), None, "who does not ask is told nothing");
    drop(stream);
    start.identity = Some(String::new());
    let stream = bob.sync().open(&start).await.unwrap();
    let identity = stream.identity().unwrap().to_owned();
    drop(stream);
    make_again(&server).await;

    // A state vector that has everything, and more.
    let stream = bob.sync().open(&start).await.unwrap();
    let schema = meshagent_document::MeshSchema::builtin("document").unwrap();
    let mut replica = MeshDocument::new(schema, 7);
    replica.apply_update(stream.state()).unwrap();
    let other = stream.identity().unwrap().to_owned();
    drop(stream);
    assert_ne!(identity, other);
    start.vector = Some(replica.state_vector());
    start.identity = Some(other);
    let stream = bob.sync().open(&start).await.unwrap();
    assert_eq!(
        replica.classify(stream.state()),
        Ok(meshagent_document::UpdateKind::Empty)
    );
    drop(stream);
    start.identity = Some(identity);
    let stream = bob.sync().open(&start).await.unwrap();
    assert_eq!(
        replica.classify(stream.state()),
        Ok(meshagent_document::UpdateKind::Contained),
        "the vector is another document's"
    );
}
