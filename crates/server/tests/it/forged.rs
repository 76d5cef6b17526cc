//! A participant writes under another's client id while the other is away: the edits that the other
//! made meanwhile can't be kept as they are.

use std::time::Duration;

use meshagent_client::{DocumentEvent, LiveDocument, RoomClient};
use meshagent_document::{MeshDocument, MeshSchema, Target};
use meshagent_protocol::DocPath;
use meshagent_protocol::sync::SyncOpenStart;
use serde_json::json;
use tokio::time::timeout;

use crate::cable::Cable;
use crate::harness::{PATIENCE, TestServer};

fn append(document: &LiveDocument, text: &str) {
    let element = json!({ "body": { "text": text } });
    document
        .edit(|d| d.append_child(Target::Root, element))
        .unwrap()
        .unwrap();
}

fn text(document: &LiveDocument) -> String {
    document.to_json().to_string()
}

#[tokio::test]
async fn edits_whose_place_was_taken_are_reported_and_later_ones_are_kept() {
    let server = TestServer::start().await;
    let cable = Cable::new(&server.address, Vec::new()).await;
    let room = RoomClient::builder()
        .room_url(cable.room_url())
        .token(server.jwt("ann"));
    let room = room.connect().await.unwrap();
    let document = room.sync().open("plan.document").await.unwrap();
    let mut changes = document.changes();
    append(&document, "vörher");
    document.saved().await.unwrap();
    cable.cut();
    let (client, state) = document.read(|d| (d.client_id(), d.encode_state()));

    // The forger continues under the same id, once the server knows that its owner is gone.
    let forger = server.join("bob").await;
    let start = SyncOpenStart::new(DocPath::parse("plan.document").unwrap());
    let stream = forger.sync().open(&start).await.unwrap();
    let mut forged = MeshDocument::new(MeshSchema::builtin("document").unwrap(), client);
    forged.apply_update(&state).unwrap();
    let before = forged.state_vector();
    let element = json!({ "body": { "text": "gefälscht" } });
    forged
        .append_child(Target::Root, element, &mut || "f1".to_owned())
        .unwrap();
    let update = forged.encode_diff(&before).unwrap();
    let taken = async {
        while stream.send(&update).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, taken).await.unwrap();

    append(&document, "während");
    append(&document, "dabei");
    cable.mend();
    let refused = async {
        loop {
            if let DocumentEvent::Refused { refusal, lost } = changes.recv().await.unwrap() {
                return (refusal.code, lost);
            }
        }
    };
    let (code, lost) = timeout(PATIENCE, refused).await.expect("it is told");
    assert_eq!(code, Some(1005));
    assert!(!lost.is_empty());
    append(&document, "nachher");
    // The first result is about the lost edits.
    let saved = async { while document.saved().await.is_err() {} };
    timeout(PATIENCE, saved).await.expect("it goes on");
    let shown = text(&document);
    for kept in ["vörher", "gefälscht", "nachher"] {
        assert!(shown.contains(kept), "{kept} in {shown}");
    }
    let described = forger.sync().describe("plan.document").await.unwrap();
    assert_eq!(described, document.to_json());
    for edit in ["während", "dabei"] {
        let is_lost = lost
            .iter()
            .any(|one| format!("{:?}", String::from_utf8_lossy(&one.update)).contains(edit));
        assert_ne!(shown.contains(edit), is_lost, "{edit} is lost or shown");
    }
    room.close().await;
}
