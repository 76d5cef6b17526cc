//! Reports of our client when the server lacks its edits.

use std::sync::Arc;
use std::time::Duration;

use meshagent_client::{DocumentEnd, DocumentEvent, RoomClient, SaveError, SyncStream};
use meshagent_document::MeshDocument;
use meshagent_protocol::DocPath;
use meshagent_protocol::sync::SyncOpenStart;
use meshagent_store::MemoryStore;
use serde_json::Value;
use tokio::time::timeout;

use crate::harness::{PATIENCE, TestServer};
use crate::live::{append, enter, event, texts, until};

const ANYWHERE: &str = "127.0.0.1:0";

/// An update with `length` collected operations of a client, from `clock` on.
fn collected(client: u64, clock: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![1, 1];
    for (at, mut value) in [client, clock, length].into_iter().enumerate() {
        if at == 2 {
            bytes.push(0);
        }
        while value >= 0x80 {
            bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
            value >>= 7;
        }
        bytes.push(u8::try_from(value).unwrap());
    }
    bytes.push(0);
    bytes
}

#[tokio::test]
async fn edit_whose_place_was_taken_meanwhile_is_not_silently_lost() {
    let server = TestServer::start().await;
    let (address, key) = (server.address.clone(), server.key.clone());
    let ann = enter(&server, "ann").await;
    let document = ann.sync().open("a.document").await.unwrap();
    append(&document, "vorher");
    document.saved().await.unwrap();
    let mut changes = document.changes();
    let store = server.stop().await;
    event(&mut changes, |event| {
        (event == DocumentEvent::Disconnected).then_some(())
    })
    .await;
    let clock = || {
        document.read(|d| {
            let of_mine = |(client, clock)| (client == d.client_id()).then_some(clock);
            d.clocks().find_map(of_mine).unwrap()
        })
    };
    let (client, before) = (document.read(MeshDocument::client_id), clock());
    append(&document, "offline – 離線 🌿");
    let length = clock() - before;

    // At another address, which her client does not use.
    let elsewhere = TestServer::start_again(store, ANYWHERE, key.clone()).await;
    let mallory = elsewhere.join("mallory").await;
    let start = SyncOpenStart::new(DocPath::parse("a.document").unwrap());
    let stream: SyncStream = mallory.sync().open(&start).await.unwrap();
    let update = collected(client, before, length);
    assert_eq!(stream.send(&update).await.unwrap().notice, None);
    drop((stream, mallory));
    let store = elsewhere.stop().await;

    let server = TestServer::start_again(store, &address, key).await;
    let erased = event(&mut changes, |event| match event {
        DocumentEvent::Erased { operations, .. } => Some(operations),
        _ => None,
    });
    assert_eq!(erased.await, length);
    let metrics = server.http("GET /metrics", &[], "").await.2;
    let line = format!("meshagent_erased_operations_total {length}");
    assert!(metrics.contains(&line), "{metrics}");
}

#[tokio::test]
async fn document_that_a_restore_lost_is_kept_until_it_is_there_again() {
    let server = TestServer::start().await;
    let (address, key, token) = (
        server.address.clone(),
        server.key.clone(),
        server.jwt("ann"),
    );
    let folder = tempfile::TempDir::new().unwrap();
    let room = RoomClient::builder()
        .room_url(format!("ws://{address}/rooms/room"))
        .token(token)
        .offline(folder.path());
    let ann = room.connect().await.unwrap();
    let document = ann.sync().open("ä.document").await.unwrap();
    append(&document, "gesichert");
    document.saved().await.unwrap();
    let mut changes = document.changes();
    server.stop().await;
    append(&document, "noch nicht 🌿");

    // A copy of the store from before the document was created.
    let server = TestServer::start_again(Arc::new(MemoryStore::new()), &address, key).await;
    let end = event(&mut changes, |event| match event {
        DocumentEvent::Ended(end) => Some(end),
        _ => None,
    });
    let DocumentEnd::Refused(refusal) = end.await else {
        panic!("the document is not there");
    };
    assert_eq!(refusal.code, Some(1003));
    for says in ["restored", "in the journal", "1 updates"] {
        assert!(refusal.text.contains(says), "{refusal}");
    }
    assert_eq!(texts(&document), ["gesichert", "noch nicht 🌿"]);
    drop((document, changes));

    ann.sync().create("ä.document", None, None).await.unwrap();
    let again = loop {
        match ann.sync().open("ä.document").await {
            Ok(document) => break document,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    timeout(PATIENCE, again.synchronized())
        .await
        .unwrap()
        .unwrap();
    // It is another document: nothing is merged into it, and nothing is lost.
    let replaced = again.replaced().expect("what was here is handed over");
    let old = replaced.content["document"]["content"].as_array().unwrap();
    let old: Vec<&Value> = old.iter().map(|one| &one["body"]["text"]).collect();
    assert_eq!(old, ["gesichert", "noch nicht 🌿"]);
    assert_eq!(replaced.edits.len(), 1);
    let told = timeout(PATIENCE, again.saved()).await.unwrap();
    assert!(matches!(told, Err(SaveError::Refused { .. })), "{told:?}");
    let bob = enter(&server, "bob").await;
    let there = bob.sync().open("ä.document").await.unwrap();
    assert!(texts(&there).is_empty());
    append(&again, "weiter");
    timeout(PATIENCE, again.saved()).await.unwrap().unwrap();
    until("it goes on", || texts(&there) == ["weiter"]).await;
}
