//! The undo history of live documents.

#![expect(
    clippy::redundant_closure_for_method_calls,
    reason = "a method of an editor is not one of every editor"
)]

use std::time::Duration;

use meshagent_client::Replica;
use meshagent_document::{Limits, MeshDocument, MeshSchema, Target};
use meshagent_protocol::Content;
use serde_json::json;
use tokio::time::timeout;

use crate::peer::{accept, begin, listen};

#[tokio::test]
async fn undo_history_of_an_open_document_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, room) = listen().await;
    let room = room.project("project").offline(directory.path());
    let bound = Limits::default().undo_bytes;
    for source in ["the server", "the journal"] {
        let serve = async {
            let mut peer = accept(&listener).await;
            let call = begin(&mut peer).await;
            while peer.chunk(Content::Empty).await != Content::close() {}
            peer.send_chunk(&call, Content::close()).await;
            peer
        };
        let user = async {
            let room = room.clone().connect().await.unwrap();
            let document = room.sync().open("ä.document").await.unwrap();
            document.edit(|d| d.remember_edits(Duration::ZERO)).unwrap();
            let body = json!({ "body": { "text": "" } });
            let id = document.edit(|d| d.append_child(Target::Root, body));
            let id = id.unwrap().unwrap();
            // Each is kept twice: as the new value, and as the old one of the next edit.
            for tea in ['茶', '🍵'].into_iter().cycle().take(12) {
                let text: String = std::iter::repeat_n(tea, 1 << 20).collect();
                document
                    .edit(|d| d.set_attribute(Target::Id(id.clone()), "text", text))
                    .unwrap()
                    .unwrap();
                let bytes = document.read(MeshDocument::undo_bytes);
                assert!(bytes <= bound, "{bytes} from {source}");
            }
            assert!(document.edit(|d| d.undo()).unwrap());
            document.close().await.unwrap();
            room.close().await;
        };
        let both = async { tokio::join!(serve, user) };
        timeout(PATIENCE, both).await.unwrap();
    }
}

#[test]
fn edits_with_a_documents_own_methods_are_grouped_by_their_time() {
    let schema = MeshSchema::builtin("document").unwrap();
    let mut replica = Replica::new(MeshDocument::new(schema, 1));
    replica.edit(|d| d.remember_edits(Duration::from_secs(1)));
    for (second, id) in [(0, "früh"), (10, "spät")] {
        replica.set_time(Duration::from_secs(second));
        replica.edit_with(|document| {
            let tea = json!({ "body": { "text": "茶" } });
            let made = document.append_child(Target::Root, tea, &mut || id.to_owned());
            made.unwrap().into_iter().collect()
        });
    }
    assert!(replica.edit(|d| d.undo()));
    assert_eq!(replica.document().root().child_count(), 1);
}

/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_mins(2);
