//! The tool `patch` over a socket, with two participants that patch one document.

use meshagent_client::CallError;
use meshagent_protocol::{DocPath, ErrorCode, SyncDescribe, SyncPatch};
use serde_json::{Value, json};

use crate::harness::TestServer;

fn append(mark: &str) -> Vec<Value> {
    vec![
        json!({ "op": "add", "path": "/document/content/-", "value": { "body": { "text": mark } } }),
    ]
}

#[tokio::test]
async fn who_patches_what_has_moved_on_reads_again_and_loses_nothing() {
    let server = TestServer::start().await;
    let (ann, bob) = (server.join("ann").await, server.join("bob").await);
    let path = DocPath::parse("a.document").unwrap();
    ann.sync().create("a.document", None, None).await.unwrap();
    let mut describe = SyncDescribe::new(path.clone());
    describe.with_version = true;
    describe.with_schema = true;
    let seen = ann.sync().describe_with(&describe).await.unwrap();
    assert!(seen.schema.unwrap()["properties"]["document"].is_object());

    let mut by_ann = SyncPatch::new(path.clone(), append("by ann"));
    let mut by_bob = SyncPatch::new(path, append("by bob"));
    by_ann.if_version = seen.version.clone();
    by_bob.if_version = seen.version;
    let (of_ann, of_bob) = (ann.sync(), bob.sync());
    let (first, second) = tokio::join!(of_ann.patch(&by_ann), of_bob.patch(&by_bob));
    let ((Ok(won), Err(lost)) | (Err(lost), Ok(won))) = (&first, &second) else {
        panic!("one wins: {first:?}, {second:?}");
    };
    assert!(won.operations[0].changed);
    let CallError::Refused { code, text } = lost else {
        panic!("{lost:?}")
    };
    assert_eq!(*code, Some(ErrorCode::Conflict.number()));
    assert!(text.contains(&won.version), "{text}");

    let loser = if first.is_ok() {
        &mut by_bob
    } else {
        &mut by_ann
    };
    loser.if_version = Some(won.version.clone());
    let last = bob.sync().patch(loser).await.unwrap();
    let shown = ann.sync().describe_with(&describe).await.unwrap();
    assert_eq!(shown.version, Some(last.version));
    let mut texts: Vec<_> = shown.json["document"]["content"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["body"]["text"].as_str().unwrap())
        .collect();
    texts.sort_unstable();
    assert_eq!(texts, ["by ann", "by bob"]);
    assert_eq!(ann.sync().describe("a.document").await.unwrap(), shown.json);
}
