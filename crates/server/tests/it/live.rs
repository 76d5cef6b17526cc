//! Live documents of our client: what a program sees of lost connections, refusals and repairs.

use std::sync::Arc;
use std::time::Duration;

use meshagent_client::{
    Changes, DocumentEnd, DocumentEvent, LiveDocument, OpenError, OpenOptions, RoomClient,
    RoomStatus, SaveError, SyncError,
};
use meshagent_document::{ChildProperty, SimpleValue};
use meshagent_document::{ElementType, MeshDocument, MeshSchema, Target, ValueProperty};
use meshagent_protocol::{ApiScope, Grant, ParticipantToken, SyncGrant, SyncPathGrant};
use meshagent_server::Config;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::cable::Cable;
use crate::harness::{PATIENCE, TestServer};

fn url(server: &TestServer) -> String {
    format!("ws://{}/rooms/room", server.address)
}

pub(crate) async fn enter(server: &TestServer, name: &str) -> RoomClient {
    let room = RoomClient::builder()
        .api_url(format!("http://{}", server.address))
        .room("room")
        .token(server.jwt(name));
    room.connect().await.unwrap()
}

/// A participant that may read documents, and whose edits are refused.
async fn enter_as_reader(server: &TestServer) -> RoomClient {
    let mut token = ParticipantToken::new("guest");
    token.grants.push(Grant::Room("room".to_owned()));
    let mut scope = ApiScope::full();
    scope.sync = Some(SyncGrant {
        paths: Some(vec![SyncPathGrant {
            path: "*".to_owned(),
            read_only: true,
        }]),
    });
    token.grants.push(Grant::Api(Box::new(scope)));
    let guest = RoomClient::builder()
        .room_url(url(server))
        .token(token.sign(&server.key));
    guest.connect().await.unwrap()
}

/// Waits until a reader's edit is refused.
async fn refused(changes: &mut Changes) {
    event(changes, |event| {
        matches!(event, DocumentEvent::Refused { .. }).then_some(())
    })
    .await;
}

#[track_caller]
fn assert_denied(saved: &Result<(), SaveError>) {
    assert!(
        matches!(saved, Err(SaveError::Refused { refusal, .. }) if refusal.code == Some(1001)),
        "{saved:?}"
    );
}

pub(crate) fn append(document: &LiveDocument, text: &str) {
    let element = json!({ "body": { "text": text } });
    document
        .edit(|d| d.append_child(Target::Root, element))
        .unwrap()
        .unwrap();
}

pub(crate) fn texts(document: &LiveDocument) -> Vec<String> {
    document.read(|d| {
        let texts = d
            .root()
            .children()
            .filter_map(|child| child.attribute("text"));
        texts
            .map(|text| text.as_str().unwrap_or_default().to_owned())
            .collect()
    })
}

pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waited = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waited).await.expect(what);
}

/// The next event that `wanted` accepts; others are skipped.
pub(crate) async fn event<R>(
    changes: &mut Changes,
    mut wanted: impl FnMut(DocumentEvent) -> Option<R>,
) -> R {
    let found = async {
        loop {
            let event = changes.recv().await.expect("the document is there");
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    };
    timeout(PATIENCE, found).await.expect("the event comes")
}

#[tokio::test]
async fn two_participants_edit_one_document() {
    let server = TestServer::start().await;
    let (ann, bob) = (enter(&server, "ann").await, enter(&server, "bob").await);
    assert_eq!(
        (ann.room_name(), ann.status()),
        ("room", RoomStatus::Connected)
    );
    assert_ne!(
        ann.local_participant().unwrap().id,
        bob.local_participant().unwrap().id
    );

    let (here, there) = (
        ann.sync().open("plan.document").await.unwrap(),
        bob.sync().open("plan.document").await.unwrap(),
    );
    let mut changes = there.changes();
    append(&here, "one");
    here.saved().await.unwrap();
    assert!(here.is_saved());
    event(&mut changes, |event| {
        matches!(event, DocumentEvent::Changed(_)).then_some(())
    })
    .await;
    append(&there, "two");
    there.saved().await.unwrap();
    until("both see both", || texts(&here) == ["one", "two"]).await;
    assert_eq!(
        ann.sync().describe("plan.document").await.unwrap(),
        there.to_json()
    );
    ann.close().await;
    assert_eq!(
        ann.status(),
        RoomStatus::Ended {
            reason: "the room was left".to_owned()
        }
    );
    assert_eq!(here.synchronized().await, Ok(()));
    assert_eq!(
        bob.storage().exists("plan.document").await,
        Ok(true),
        "one who leaves takes nobody along"
    );
}

#[tokio::test]
async fn who_opens_a_path_again_gets_the_same_document() {
    let server = TestServer::start().await;
    let room = enter(&server, "ann").await;
    let sync = room.sync();
    let (first, second) = tokio::join!(sync.open("a.document"), sync.open("a.document"));
    let (first, second) = (first.unwrap(), second.unwrap());
    append(&first, "one");
    assert_eq!(texts(&second), ["one"], "at once");
    assert_eq!(
        server
            .http("GET /metrics", &[], "")
            .await
            .2
            .matches("meshagent_streams 1")
            .count(),
        1
    );

    // The stream ends with the last opening.
    sync.close("a.document").await.unwrap();
    append(&first, "two");
    first.saved().await.unwrap();
    drop(second);
    append(&first, "three");
    drop(first);
    let gone = async {
        while !server
            .http("GET /metrics", &[], "")
            .await
            .2
            .contains("meshagent_streams 0")
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("the stream ends");
    let stored = sync.describe("a.document").await.unwrap();
    assert_eq!(
        stored["document"]["content"].as_array().unwrap().len(),
        3,
        "{stored}"
    );

    // No opening is left: closing has no effect, and the document can be opened again.
    sync.close("a.document").await.unwrap();
    assert_eq!(
        texts(&sync.open("a.document").await.unwrap()),
        ["one", "two", "three"]
    );
}

#[tokio::test]
async fn what_the_status_is_already_is_no_change_of_it() {
    let server = TestServer::start().await;
    let room = enter(&server, "ann").await;
    let mut status = room.status_changes();
    tokio::select! {
        biased;
        status = status.changed() => panic!("nothing changed, but {status:?} is told"),
        () = std::future::ready(()) => {}
    }
}

#[tokio::test]
async fn a_restarted_server_gets_what_was_edited_meanwhile() {
    let server = TestServer::start().await;
    let (address, key) = (server.address.clone(), server.key.clone());
    let room = enter(&server, "ann").await;
    let mut status = room.status_changes();
    let document = room.sync().open("a.document").await.unwrap();
    let mut changes = document.changes();
    append(&document, "one");
    document.saved().await.unwrap();

    let store = server.stop().await;
    assert_eq!(status.changed().await, Some(RoomStatus::Reconnecting));
    event(&mut changes, |event| {
        (event == DocumentEvent::Disconnected).then_some(())
    })
    .await;
    append(&document, "two");
    assert!(!document.is_saved());
    let impatient = timeout(Duration::from_millis(50), document.saved()).await;
    assert!(
        impatient.is_err(),
        "there is nobody who could acknowledge it"
    );

    let server = TestServer::start_again(store, &address, key).await;
    timeout(PATIENCE, document.saved()).await.unwrap().unwrap();
    assert_eq!(room.status(), RoomStatus::Connected);
    let stored = server
        .join("bob")
        .await
        .sync()
        .describe("a.document")
        .await
        .unwrap();
    assert_eq!(stored, document.to_json());
    assert_eq!(texts(&document), ["one", "two"]);
    event(&mut changes, |event| {
        (event == DocumentEvent::Synchronized).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_document_outlives_its_program() {
    let server = TestServer::start().await;
    let (address, key, token) = (
        server.address.clone(),
        server.key.clone(),
        server.jwt("ann"),
    );
    let folder = tempfile::TempDir::new().unwrap();
    let room = || {
        RoomClient::builder()
            .room_url(format!("ws://{address}/rooms/room"))
            .token(token.clone())
            .offline(folder.path())
    };
    let first = room().connect().await.unwrap();
    let document = first.sync().open("a.document").await.unwrap();
    append(&document, "saved");
    document.saved().await.unwrap();
    let again = room().connect().await.unwrap();
    let taken = again.sync().open("a.document").await.unwrap_err();
    assert!(matches!(taken, OpenError::Journal(_)), "{taken:?}");
    again.close().await;

    let store = server.stop().await;
    append(&document, "not saved");
    // The program ends here, without closing anything.
    drop((document, first));
    let second = loop {
        // The first program's task lingers because of the unsaved edit.
        let second = room().connect().await.unwrap();
        match second.sync().open("a.document").await {
            Ok(document) => break (second, document),
            Err(OpenError::Journal(_)) => tokio::time::sleep(Duration::from_millis(200)).await,
            Err(error) => panic!("{error}"),
        }
    };
    let (second, document) = second;
    assert_eq!(texts(&document), ["saved", "not saved"], "without a server");
    append(&document, "offline");
    assert!(!document.is_saved());

    let server = TestServer::start_again(store, &address, key).await;
    timeout(PATIENCE, document.saved()).await.unwrap().unwrap();
    let stored = server
        .join("bob")
        .await
        .sync()
        .describe("a.document")
        .await
        .unwrap();
    assert_eq!(stored, document.to_json());
    assert_eq!(texts(&document), ["saved", "not saved", "offline"]);
    second.close().await;
}

#[tokio::test]
async fn a_refused_edit_is_taken_back_and_said() {
    let server = TestServer::start().await;
    let owner = enter(&server, "owner").await;
    let shared = owner.sync().open("a.document").await.unwrap();
    append(&shared, "one");
    shared.saved().await.unwrap();

    let guest = enter_as_reader(&server).await;
    let document = guest.sync().open("a.document").await.unwrap();
    let mut changes = document.changes();
    append(&document, "mine");
    assert_eq!(texts(&document), ["one", "mine"]);
    let Err(SaveError::Refused { refusal, .. }) = document.saved().await else {
        panic!("a reader may not write");
    };
    assert_eq!(refusal.code, Some(1001));
    let lost = event(&mut changes, |event| match event {
        DocumentEvent::Refused { refusal, lost } => {
            assert_eq!(refusal.code, Some(1001));
            Some(lost)
        }
        _ => None,
    });
    let lost = lost.await;
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0].changes[0]["inserted"]["body"]["text"], "mine");
    assert_eq!(texts(&document), ["one"]);
    // The document stays open for reading.
    append(&shared, "two");
    until("the reader sees it", || texts(&document) == ["one", "two"]).await;
    let refused = guest.sync().open("elsewhere.document").await.unwrap_err();
    assert!(
        matches!(&refused, OpenError::Ended(DocumentEnd::Refused(refusal)) if refusal.code == Some(1001)),
        "{refused:?}"
    );
}

#[expect(
    clippy::redundant_closure_for_method_calls,
    reason = "a method of an editor is not one of every editor"
)]
#[tokio::test]
async fn one_edit_too_large_takes_no_other_edit_with_it() {
    let mut config = Config::default();
    config.limits.max_document_bytes = 64 << 10;
    let server = TestServer::start_with(config).await;
    let ann = enter(&server, "ann").await;
    let document = ann.sync().open("a.document").await.unwrap();
    let mut changes = document.changes();
    document.edit(|d| d.remember_edits(Duration::ZERO)).unwrap();
    let id = document
        .edit(|d| d.append_child(Target::Root, json!({ "body": { "text": "één" } })))
        .unwrap()
        .unwrap();
    // All edits are made before the first answer.
    let (large, last) = document
        .edit(|d| {
            let large = "漢".repeat(40 << 10);
            let large = d.append_child(Target::Root, json!({ "body": { "text": large } }));
            d.append_child(Target::Id(large.clone().unwrap()), json!({ "body": {} }))
                .unwrap_err();
            d.set_attribute(Target::Id(id.clone()), "text", "eins")
                .unwrap();
            let last = d.append_child(Target::Root, json!({ "body": { "text": "drei 🌿" } }));
            (large.unwrap(), last.unwrap())
        })
        .unwrap();
    document
        .edit(|d| d.set_attribute(Target::Id(last), "text", "drei 🌿🌿"))
        .unwrap()
        .unwrap();
    let lost = event(&mut changes, |event| match event {
        DocumentEvent::Refused { refusal, lost } => {
            assert_eq!(refusal.code, Some(1002));
            Some(lost)
        }
        _ => None,
    });
    let lost = timeout(PATIENCE, lost).await.unwrap();
    assert_eq!(lost.len(), 1);
    let inserted = &lost[0].changes[0]["inserted"]["body"];
    assert_eq!(inserted["$id"], large);
    assert_eq!(inserted["text"].as_str().unwrap().chars().count(), 40 << 10);
    assert!(matches!(
        timeout(PATIENCE, document.saved()).await.unwrap(),
        Err(SaveError::Refused { .. })
    ));
    timeout(PATIENCE, document.saved()).await.unwrap().unwrap();
    assert_eq!(texts(&document), ["eins", "drei 🌿🌿"]);
    let bob = enter(&server, "bob").await;
    let seen = bob.sync().describe("a.document").await.unwrap();
    assert_eq!(seen, document.to_json());
    // Undo skips the edit that was refused.
    for left in [vec!["eins", "drei 🌿"], vec!["eins"]] {
        assert!(document.edit(|d| d.undo()).unwrap());
        assert_eq!(texts(&document), left);
    }
    timeout(PATIENCE, document.saved()).await.unwrap().unwrap();
    let seen = bob.sync().describe("a.document").await.unwrap();
    assert_eq!(seen, document.to_json());
}

#[tokio::test]
async fn handle_in_its_own_closure_panics_instead_of_waiting_and_may_be_dropped() {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    let server = TestServer::start().await;
    let room = enter(&server, "ann").await;
    let document = room.sync().open("a.document").await.unwrap();
    append(&document, "vorher");
    let uses: [(&str, &dyn Fn()); 5] = [
        ("read in edit", &|| {
            document.edit(|_| document.to_json()).unwrap();
        }),
        ("edit in read", &|| {
            document.read(|_| append(&document, "darin"));
        }),
        ("edit in edit", &|| {
            document.edit(|_| append(&document, "darin")).unwrap();
        }),
        ("status in read", &|| {
            document.read(|_| document.is_saved());
        }),
        ("events in read", &|| {
            document.read(|_| document.changes());
        }),
    ];
    for (what, used) in uses {
        let panicked = catch_unwind(AssertUnwindSafe(used)).unwrap_err();
        let text = panicked.downcast_ref::<String>().unwrap();
        assert!(text.contains("closure"), "{what}: {text}");
    }
    // A closure that owns a handle drops it inside.
    let handle = document.clone();
    document.read(move |_| drop(handle));
    let handle = document.clone();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        document.edit(move |d| {
            let _owned = handle;
            d.append_child(Target::Root, json!({ "body": { "text": "bleibt" } }))
                .unwrap();
            panic!("as a program does");
        })
    }));
    assert!(panicked.is_err());
    timeout(PATIENCE, document.saved()).await.unwrap().unwrap();
    assert_eq!(texts(&document), ["vorher", "bleibt"]);
    // The remaining handle is the last one, so closing it ends the session.
    let path = document.path().to_owned();
    timeout(PATIENCE, document.close()).await.unwrap().unwrap();
    assert!(matches!(
        room.sync().sync(&path, &[0, 0]),
        Err(SyncError::NotOpen)
    ));
}

#[tokio::test]
async fn a_refusal_is_told_to_who_asks_after_it_came() {
    let server = TestServer::start().await;
    let owner = enter(&server, "owner").await;
    owner.sync().open("a.document").await.unwrap();
    let guest = enter_as_reader(&server).await;
    let document = guest.sync().open("a.document").await.unwrap();
    let mut changes = document.changes();
    append(&document, "mine");
    refused(&mut changes).await;
    assert!(!document.is_saved());
    assert_denied(&document.saved().await);
    // The refusal is reported once: the present content is the server's.
    assert!(document.is_saved());
    assert_eq!(document.saved().await, Ok(()));

    append(&document, "mine again");
    refused(&mut changes).await;
    assert_denied(&document.close().await);
    let document = guest.sync().open("a.document").await.unwrap();
    assert_eq!(document.saved().await, Ok(()), "of an earlier opening");
}

#[tokio::test]
async fn each_handle_is_told_of_a_refusal_once() {
    let server = TestServer::start().await;
    let owner = enter(&server, "owner").await;
    owner.sync().open("a.document").await.unwrap();
    let guest = enter_as_reader(&server).await;
    let sync = guest.sync();
    let first = sync.open("a.document").await.unwrap();
    let second = sync.open("a.document").await.unwrap();
    let mut changes = first.changes();
    append(&first, "mine");
    refused(&mut changes).await;
    let clone = first.clone();
    for handle in [&first, &second, &clone] {
        assert!(!handle.is_saved());
        assert_denied(&handle.saved().await);
        assert!(handle.is_saved());
        assert_eq!(handle.saved().await, Ok(()));
    }
    let later = sync.open("a.document").await.unwrap();
    assert_eq!(later.saved().await, Ok(()));
    drop((second, clone, later));

    // A close by path reports the refusal for the opening that it ends.
    append(&first, "mine");
    refused(&mut changes).await;
    assert_denied(&sync.close("a.document").await);
}

#[tokio::test]
async fn a_close_by_path_ends_the_opening_that_it_waits_for() {
    let server = TestServer::start().await;
    let (address, key) = (server.address.clone(), server.key.clone());
    let room = enter(&server, "ann").await;
    let sync = room.sync();
    let first = sync.open("a.document").await.unwrap();
    let second = sync.open("a.document").await.unwrap();
    let mut changes = first.changes();
    let store = server.stop().await;
    event(&mut changes, |event| {
        (event == DocumentEvent::Disconnected).then_some(())
    })
    .await;
    append(&first, "one");
    let close = sync.close("a.document");
    let go_on = async {
        drop(second);
        TestServer::start_again(store, &address, key).await
    };
    let (closed, server) = tokio::join!(biased; close, go_on);
    closed.unwrap();
    append(&first, "two");
    first.saved().await.unwrap();
    // The first opening is still open.
    sync.sync("a.document", &first.read(MeshDocument::encode_state))
        .unwrap();
    drop(server);
}

#[tokio::test]
async fn edits_beyond_a_refused_one_that_do_not_build_on_it_stay() {
    let mut config = Config::default();
    config.limits.max_document_bytes = 64 << 10;
    let server = TestServer::start_with(config).await;
    let room = enter(&server, "ann").await;
    let document = room.sync().open("a.document").await.unwrap();
    append(&document, "one");
    document.saved().await.unwrap();
    append(&document, &"x".repeat(100 << 10));
    let refused = document.saved().await.unwrap_err();
    assert!(
        matches!(&refused, SaveError::Refused { refusal, .. } if refusal.code == Some(1002)),
        "{refused:?}"
    );
    until("it is taken back", || texts(&document) == ["one"]).await;
    append(&document, "two");
    document.saved().await.unwrap();
    let stored = room.sync().describe("a.document").await.unwrap();
    assert_eq!(stored, document.to_json());
}

#[tokio::test]
async fn what_builds_on_a_refused_edit_is_refused_with_it() {
    let mut config = Config::default();
    config.limits.max_document_bytes = 64 << 10;
    let server = TestServer::start_with(config).await;
    let room = enter(&server, "ann").await;
    let document = room.sync().open("a.document").await.unwrap();
    let too_large = json!({ "body": { "text": "x".repeat(100 << 10) } });
    let id = document
        .edit(|d| d.append_child(Target::Root, too_large))
        .unwrap()
        .unwrap();
    let edit_meanwhile = async {
        document
            .edit(|d| d.set_attribute(Target::Id(id), "text", "small"))
            .unwrap()
            .unwrap();
    };
    let assert_refused = |saved: Result<(), SaveError>| {
        assert!(
            matches!(&saved, Err(SaveError::Refused { refusal, .. }) if refusal.code == Some(1002)),
            "{saved:?}"
        );
    };
    // The call reports the refusal of the first edit; the next call reports that of the other.
    let (saved, ()) = tokio::join!(document.saved(), edit_meanwhile);
    assert_refused(saved);
    assert_eq!(
        texts(&document),
        Vec::<String>::new(),
        "both are taken back"
    );
    assert!(!document.is_saved());
    assert_refused(document.saved().await);
    assert!(document.is_saved());
    append(&document, "one");
    assert_eq!(document.saved().await, Ok(()));
    let stored = room.sync().describe("a.document").await.unwrap();
    assert_eq!(stored, document.to_json());
}

#[tokio::test]
async fn a_repair_is_said_to_whom_it_concerns() {
    let server = TestServer::start().await;
    let room = enter(&server, "ann").await;
    let document = room.sync().open("a.document").await.unwrap();
    let mut changes = document.changes();
    // Another program took the document for a different kind and made this update.
    let body = ElementType::new("body").property(ValueProperty::new("text", SimpleValue::Number));
    let root = ElementType::new("document").property(ChildProperty::new("content", ["body"]));
    let other = MeshSchema::new("document", vec![root, body]).unwrap();
    let mut other = MeshDocument::new(other, 77);
    let update = other
        .append_child(Target::Root, json!({ "body": { "text": 5 } }), &mut || {
            "id".to_owned()
        })
        .unwrap()
        .unwrap();
    room.sync().sync("a.document", &update).unwrap();
    let violations = event(&mut changes, |event| match event {
        DocumentEvent::Repaired { violations } => Some(violations),
        _ => None,
    })
    .await;
    assert_eq!(violations.len(), 1, "{violations:?}");
    document.saved().await.unwrap();
    let stored = room.sync().describe("a.document").await.unwrap();
    until("the repair arrives", || document.to_json() == stored).await;
}

#[tokio::test]
async fn what_the_server_lacks_is_sent_after_a_gap() {
    let server = TestServer::start().await;
    let room = enter(&server, "ann").await;
    let options = OpenOptions {
        initial_json: Some(json!({ "document": { "content": [] } })),
        ..OpenOptions::default()
    };
    let document = room.sync().open_with("a.document", &options).await.unwrap();
    let mut changes = document.changes();
    // Two updates of another replica, of which the server receives only the second.
    let mut other = MeshDocument::new(document.read(|d| d.schema().clone()), 77);
    let mut number = 0;
    let mut next = |other: &mut MeshDocument| {
        number += 1;
        let element: Value = json!({ "body": { "text": number.to_string() } });
        other
            .append_child(Target::Root, element, &mut || format!("id{number}"))
            .unwrap()
            .unwrap()
    };
    let (first, second) = (next(&mut other), next(&mut other));
    room.sync().sync("a.document", &second).unwrap();
    let filled = event(&mut changes, |event| match event {
        DocumentEvent::Gap { is_filled } => Some(is_filled),
        _ => None,
    });
    assert!(filled.await);
    room.sync().sync("a.document", &first).unwrap();
    document.saved().await.unwrap();
    until("both are shown", || texts(&document) == ["1", "2"]).await;
    assert_eq!(
        room.sync().describe("a.document").await.unwrap(),
        document.to_json()
    );
}

#[tokio::test]
async fn a_key_is_as_good_as_a_token_and_wrong_ones_are_named() {
    let server = Arc::new(TestServer::start().await);
    let cable = Cable::new(&server.address, Vec::new()).await;
    let builder = RoomClient::builder().room_url(cable.room_url());
    let key = server.key.encode().unwrap();
    let room = builder
        .clone()
        .key(&key, "ann")
        .unwrap()
        .connect()
        .await
        .unwrap();
    assert_eq!(room.local_participant().unwrap().attributes["name"], "ann");
    room.close().await;
    assert!(builder.clone().key("ma-nonsense", "ann").is_err());
    let error = builder.clone().connect().await.unwrap_err();
    assert!(error.to_string().contains("MESHAGENT_TOKEN"), "{error}");
    let error = builder.token("nonsense").connect().await.unwrap_err();
    assert!(
        error.to_string().contains("refuses the connection"),
        "{error}"
    );
    let error = RoomClient::builder()
        .token("t")
        .room("r")
        .connect()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("MESHAGENT_API_URL"), "{error}");
}
