//! Undo in live documents: which edits are undone together.

#![expect(
    clippy::redundant_closure_for_method_calls,
    reason = "a method of an editor is not one of every editor"
)]

use std::time::Duration;

use meshagent_client::LiveDocument;
use meshagent_document::Target;
use serde_json::{Value, json};

use crate::harness::TestServer;
use crate::live::enter;

fn append(document: &LiveDocument, text: &str) {
    let element = json!({ "body": { "text": text } });
    document
        .edit(|d| d.append_child(Target::Root, element))
        .unwrap()
        .unwrap();
}

fn undo(document: &LiveDocument) -> usize {
    assert!(document.edit(|d| d.undo()).unwrap(), "nothing to undo");
    let Value::Array(content) = document.to_json()["document"]["content"].take() else {
        panic!("no content");
    };
    content.len()
}

#[tokio::test]
async fn edits_within_the_window_are_undone_together() {
    let server = TestServer::start().await;
    let room = enter(&server, "ann").await;
    let document = room.sync().open("notes.document").await.unwrap();
    let day = Duration::from_hours(24);
    document.edit(|d| d.remember_edits(day)).unwrap();
    append(&document, "née");
    append(&document, "漢字");
    assert_eq!(undo(&document), 0);
    document.edit(|d| d.forget_edits()).unwrap();
    let window = Duration::from_millis(1);
    document.edit(|d| d.remember_edits(window)).unwrap();
    append(&document, "🌿");
    tokio::time::sleep(4 * window).await;
    append(&document, "🌿🌿");
    assert_eq!(undo(&document), 1);
    assert_eq!(undo(&document), 0);
}
