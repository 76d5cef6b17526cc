//! Each sentence that the published documentation says about the toolkit's five methods (`create`,
//! `describe`, `open`, `close`, `sync`), shown with our client.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use meshagent_client::{
    CallError, DocumentEnd, LiveDocument, OpenError, OpenOptions, RoomClient, SyncError,
};
use meshagent_document::{
    ChildProperty, ElementType, MeshDocument, MeshSchema, SimpleValue, Target, ValueProperty,
};
use meshagent_protocol::{ApiScope, Grant, ParticipantToken};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::harness::{PATIENCE, TestServer};

/// A sentence or parameter of the documentation, or an addition of our client.
struct Row {
    method: &'static str,
    says: &'static str,
    shown: fn(Arc<Scene>) -> Showing,
}

type Showing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A server for one row, and two participants of its room.
struct Scene {
    server: TestServer,
    ann: RoomClient,
    bob: RoomClient,
}

const METHODS: [&str; 5] = ["create", "describe", "open", "close", "sync"];

const ROWS: &[Row] = &[
    Row {
        method: "create",
        says: "Create a new `MeshDocument` at the given path.",
        shown: |scene| {
            Box::pin(async move {
                let sync = scene.ann.sync();
                sync.create("my/path.document", None, None).await.unwrap();
                assert_eq!(describe(&scene.bob, "my/path.document").await, page(&[]));
                let opened = open(&scene.bob, "my/path.document", existing()).await;
                assert_eq!(opened.unwrap().to_json(), page(&[]));
            })
        },
    },
    Row {
        method: "create",
        says: "`path`: Document path.",
        shown: |scene| {
            Box::pin(async move {
                let sync = scene.ann.sync();
                let error = sync.create("../a.document", None, None).await.unwrap_err();
                assert!(matches!(error, CallError::InvalidPath(_)), "{error:?}");
                sync.create("a.document", None, None).await.unwrap();
                let other = scene.bob.sync().describe("b.document").await;
                assert_eq!(code(other), 1003, "it is where it was created, only");
            })
        },
    },
    Row {
        method: "create",
        says: "Create a *new* document: a path that is taken is refused.",
        shown: |scene| {
            Box::pin(async move {
                let sync = scene.ann.sync();
                let first = Some(page(&["first"]));
                sync.create("a.document", first, None).await.unwrap();
                let second = Some(page(&["second"]));
                let refused = scene.bob.sync().create("a.document", second, None).await;
                assert_eq!(code(refused), 1004);
                assert_eq!(describe(&scene.ann, "a.document").await, page(&["first"]));
            })
        },
    },
    Row {
        method: "create",
        says: "`json`: Optional initial JSON payload.",
        shown: |scene| {
            Box::pin(async move {
                let sync = scene.ann.sync();
                let content = page(&["one", "two"]);
                sync.create("a.document", Some(content.clone()), None)
                    .await
                    .unwrap();
                assert_eq!(describe(&scene.bob, "a.document").await, content);
                // The path implies no schema, so it is inferred from the payload.
                let content = json!({ "note": { "key": "value" } });
                sync.create("my/path", Some(content.clone()), None)
                    .await
                    .unwrap();
                assert_eq!(describe(&scene.bob, "my/path").await, content);
                // With neither, no schema can be found.
                assert_eq!(code(sync.create("my/other", None, None).await), 1003);
            })
        },
    },
    Row {
        method: "create",
        says: "SDK callers can pass a `MeshSchema` when creating a document.",
        shown: |scene| {
            Box::pin(async move {
                let sync = scene.ann.sync();
                sync.create("my/path", None, Some(&list())).await.unwrap();
                let document = open(&scene.bob, "my/path", existing()).await.unwrap();
                assert_eq!(document.read(|d| d.schema().clone()), list());
                let right = json!({ "item": { "done": true } });
                document
                    .edit(|d| d.append_child(Target::Root, right))
                    .unwrap()
                    .unwrap();
                let wrong = json!({ "item": { "done": "yes" } });
                document
                    .edit(|d| d.append_child(Target::Root, wrong))
                    .unwrap()
                    .unwrap_err();
                document.saved().await.unwrap();
                let expected = json!({ "list": { "items": [{ "item": { "done": true } }] } });
                assert_eq!(describe(&scene.ann, "my/path").await, expected);
            })
        },
    },
    Row {
        method: "create",
        says: "What the payload has that its schema forbids is refused, and nothing is created.",
        shown: |scene| {
            Box::pin(async move {
                let sync = scene.ann.sync();
                let wrong = json!({ "list": { "items": [{ "item": { "done": "yes" } }] } });
                let refused = sync.create("my/path", Some(wrong), Some(&list())).await;
                assert_eq!(code(refused), 1002);
                assert_eq!(code(sync.describe("my/path").await), 1003);
            })
        },
    },
    Row {
        method: "describe",
        says: "`path`: Document path.",
        shown: |scene| {
            Box::pin(async move {
                let sync = scene.ann.sync();
                assert_eq!(code(sync.describe("nowhere.document").await), 1003);
                let error = sync.describe("../a.document").await.unwrap_err();
                assert!(matches!(error, CallError::InvalidPath(_)), "{error:?}");
                for name in ["a", "b"] {
                    sync.create(&format!("{name}.document"), Some(page(&[name])), None)
                        .await
                        .unwrap();
                }
                assert_eq!(describe(&scene.ann, "b.document").await, page(&["b"]));
            })
        },
    },
    Row {
        method: "describe",
        says: "Returns: The current document root as JSON.",
        shown: |scene| {
            Box::pin(async move {
                let document = scene.ann.sync().open("a.document").await.unwrap();
                for (text, expected) in [("one", &["one"][..]), ("two", &["one", "two"])] {
                    append(&document, text);
                    document.saved().await.unwrap();
                    assert_eq!(describe(&scene.bob, "a.document").await, page(expected));
                }
                assert_eq!(describe(&scene.bob, "a.document").await, document.to_json());
            })
        },
    },
    Row {
        method: "describe",
        says: "Read the current state of a `MeshDocument` without opening a live sync session.",
        shown: |scene| {
            Box::pin(async move {
                let sync = scene.ann.sync();
                sync.create("a.document", None, None).await.unwrap();
                describe(&scene.ann, "a.document").await;
                assert_eq!(streams(&scene.server).await, 0);
                assert!(matches!(
                    sync.sync("a.document", &[0, 0]),
                    Err(SyncError::NotOpen)
                ));
            })
        },
    },
    Row {
        method: "open",
        says: "`path`: Document path. Returns: A `MeshDocument` tied to that path.",
        shown: |scene| {
            Box::pin(async move {
                let sync = scene.ann.sync();
                let error = sync.open("../a.document").await.unwrap_err();
                assert!(matches!(error, OpenError::InvalidPath(_)), "{error:?}");
                let (here, there) = (
                    sync.open("my/a.document").await.unwrap(),
                    sync.open("my/b.document").await.unwrap(),
                );
                assert_eq!(
                    (here.path(), there.path()),
                    ("my/a.document", "my/b.document")
                );
                append(&here, "one");
                here.saved().await.unwrap();
                assert_eq!(there.to_json(), page(&[]));
                assert_eq!(describe(&scene.bob, "my/a.document").await, page(&["one"]));
            })
        },
    },
    Row {
        method: "open",
        says: "`create`: When `true`, create the document if it does not already exist.",
        shown: |scene| {
            Box::pin(async move {
                let sync = scene.ann.sync();
                let refused = sync.open_with("a.document", &existing()).await;
                assert_eq!(end_code(refused), Some(1003));
                assert_eq!(code(sync.describe("a.document").await), 1003);

                let created = sync.open("a.document").await.unwrap();
                append(&created, "one");
                created.close().await.unwrap();
                // An existing document is opened unchanged, with either option.
                for options in [existing(), OpenOptions::default()] {
                    let opened = open(&scene.bob, "a.document", options).await.unwrap();
                    assert_eq!(opened.to_json(), page(&["one"]));
                    opened.close().await.unwrap();
                }
            })
        },
    },
    Row {
        method: "open",
        says: "`initial_json`: The content of a new document; one that exists keeps its own.",
        shown: |scene| {
            Box::pin(async move {
                for (room, text) in [(&scene.ann, "first"), (&scene.bob, "second")] {
                    let options = OpenOptions {
                        initial_json: Some(page(&[text])),
                        ..OpenOptions::default()
                    };
                    let opened = room.sync().open_with("a.document", &options).await.unwrap();
                    assert_eq!(opened.to_json(), page(&["first"]));
                }
                let options = OpenOptions {
                    initial_json: Some(json!({ "document": { "content": [{ "nonsense": {} }] } })),
                    ..OpenOptions::default()
                };
                let refused = scene.ann.sync().open_with("b.document", &options).await;
                assert_eq!(end_code(refused), Some(1002));
                assert_eq!(code(scene.ann.sync().describe("b.document").await), 1003);
            })
        },
    },
    Row {
        method: "open",
        says: "`schema`: The schema of a new document.",
        shown: |scene| {
            Box::pin(async move {
                let options = OpenOptions {
                    schema: Some(list()),
                    ..OpenOptions::default()
                };
                let opened = scene.ann.sync().open_with("my/path", &options).await;
                assert_eq!(opened.unwrap().read(|d| d.schema().clone()), list());
                let other = scene.bob.sync().open("my/path").await.unwrap();
                assert_eq!(other.read(|d| d.schema().clone()), list());
                assert_eq!(other.to_json(), json!({ "list": { "items": [] } }));
            })
        },
    },
    Row {
        method: "open",
        says: "`schema_path`: A file in the room's storage that holds the schema of a new document.",
        shown: |scene| {
            Box::pin(async move {
                let options = OpenOptions {
                    schema_path: Some("kinds/list.json".to_owned()),
                    ..OpenOptions::default()
                };
                let early = scene.ann.sync().open_with("my/path", &options).await;
                assert!(end_code(early).is_some(), "there is no such file yet");
                let file = list().to_json().to_string();
                scene
                    .ann
                    .storage()
                    .upload("kinds/list.json", file, false)
                    .await
                    .unwrap();
                let opened = scene.ann.sync().open_with("my/path", &options).await;
                assert_eq!(opened.unwrap().read(|d| d.schema().clone()), list());
            })
        },
    },
    Row {
        method: "open",
        says: "Open a live synchronization session for the document.",
        shown: |scene| {
            Box::pin(async move {
                let (here, there) = both(&scene, "a.document").await;
                assert_eq!(streams(&scene.server).await, 2);
                append(&there, "theirs");
                shows(&here, &["theirs"]).await;
                append(&here, "ours");
                shows(&there, &["theirs", "ours"]).await;
            })
        },
    },
    Row {
        method: "open",
        says: "Local changes are sent automatically while the document remains open.",
        shown: |scene| {
            Box::pin(async move {
                let (here, there) = both(&scene, "a.document").await;
                append(&here, "one");
                assert_eq!(here.to_json(), page(&["one"]), "here at once");
                shows(&there, &["one"]).await;
                here.saved().await.unwrap();
                assert_eq!(describe(&scene.bob, "a.document").await, page(&["one"]));
            })
        },
    },
    Row {
        method: "open",
        says: "Calling `open` multiple times for the same path returns the same underlying \
               document.",
        shown: |scene| {
            Box::pin(async move {
                let sync = scene.ann.sync();
                let (first, second) =
                    tokio::join!(sync.open("a.document"), sync.open("a.document"));
                let (first, second) = (first.unwrap(), second.unwrap());
                append(&first, "one");
                assert_eq!(second.to_json(), page(&["one"]), "at once");
                assert_eq!(streams(&scene.server).await, 1);
            })
        },
    },
    Row {
        method: "close",
        says: "Close the local sync session for that document path.",
        shown: |scene| {
            Box::pin(async move {
                let (here, there) = both(&scene, "a.document").await;
                append(&here, "one");
                scene.ann.sync().close("a.document").await.unwrap();
                let stored = describe(&scene.bob, "a.document").await;
                assert_eq!(
                    stored,
                    page(&["one"]),
                    "a close waits for what is not saved"
                );
                until_streams(&scene.server, 1).await;
                // The other participant's session is independent.
                append(&there, "two");
                there.saved().await.unwrap();
            })
        },
    },
    Row {
        method: "close",
        says: "`path`: Document path.",
        shown: |scene| {
            Box::pin(async move {
                let sync = scene.ann.sync();
                let (a, b) = (
                    sync.open("a.document").await.unwrap(),
                    sync.open("b.document").await.unwrap(),
                );
                sync.close("never-opened.document").await.unwrap();
                sync.close("a.document").await.unwrap();
                until_streams(&scene.server, 1).await;
                append(&b, "one");
                b.saved().await.unwrap();
                append_after_close(&a, "one");
                assert_eq!(a.saved().await, Ok(()), "nothing was edited");
                assert_eq!(describe(&scene.bob, "b.document").await, page(&["one"]));
                assert_eq!(describe(&scene.bob, "a.document").await, page(&[]));
            })
        },
    },
    Row {
        method: "close",
        says: "Once closed, local changes are no longer synchronized.",
        shown: |scene| {
            Box::pin(async move {
                let (here, there) = both(&scene, "a.document").await;
                scene.ann.sync().close("a.document").await.unwrap();
                until_streams(&scene.server, 1).await;
                append_after_close(&here, "here only");
                assert_eq!(here.saved().await, Ok(()), "nothing was edited");
                append(&there, "for all");
                there.saved().await.unwrap();
                assert_eq!(there.to_json(), page(&["for all"]));
                assert_eq!(describe(&scene.bob, "a.document").await, page(&["for all"]));
                assert_eq!(here.to_json(), page(&[]));
                // Opened again, it shows the server's content.
                let anew = scene.ann.sync().open("a.document").await.unwrap();
                assert_eq!(anew.to_json(), page(&["for all"]));
            })
        },
    },
    Row {
        method: "close",
        says: "Only when all references are closed (via `close()`) will the client actually \
               disconnect.",
        shown: |scene| {
            Box::pin(async move {
                let sync = scene.ann.sync();
                let mut handles = Vec::new();
                for _ in 0..3 {
                    handles.push(sync.open("a.document").await.unwrap());
                }
                for text in ["one", "two"] {
                    sync.close("a.document").await.unwrap();
                    append(&handles[0], text);
                    handles[0].saved().await.unwrap();
                    assert_eq!(streams(&scene.server).await, 1);
                }
                sync.close("a.document").await.unwrap();
                until_streams(&scene.server, 0).await;
                let stored = describe(&scene.bob, "a.document").await;
                assert_eq!(stored, page(&["one", "two"]));
            })
        },
    },
    Row {
        method: "sync",
        says: "Send encoded sync data directly to the server.",
        shown: |scene| {
            Box::pin(async move {
                let (here, there) = both(&scene, "a.document").await;
                let update = made_elsewhere(&here, "elsewhere");
                scene.ann.sync().sync("a.document", &update).unwrap();
                here.saved().await.unwrap();
                let expected = page(&["elsewhere"]);
                assert_eq!(describe(&scene.bob, "a.document").await, expected);
                shows(&there, &["elsewhere"]).await;
                assert_eq!(here.to_json(), expected);
            })
        },
    },
    Row {
        method: "sync",
        says: "`path`: Document path.",
        shown: |scene| {
            Box::pin(async move {
                let sync = scene.ann.sync();
                let document = sync.open("a.document").await.unwrap();
                let other = scene.bob.sync().open("b.document").await.unwrap();
                let update = made_elsewhere(&document, "one");
                for path in ["b.document", "nowhere.document", ""] {
                    let error = sync.sync(path, &update).unwrap_err();
                    assert!(matches!(error, SyncError::NotOpen), "{path:?}: {error:?}");
                }
                sync.close("a.document").await.unwrap();
                until_streams(&scene.server, 1).await;
                append_after_close(&document, "one");
                assert_eq!(document.saved().await, Ok(()), "nothing was edited");
                let error = sync.sync("a.document", &update).unwrap_err();
                assert!(matches!(error, SyncError::NotOpen), "{error:?}");
                assert_eq!(other.to_json(), page(&[]));
                assert_eq!(describe(&scene.bob, "a.document").await, page(&[]));
            })
        },
    },
    Row {
        method: "sync",
        says: "`data`: Serialized sync bytes.",
        shown: |scene| {
            Box::pin(async move {
                let document = scene.ann.sync().open("a.document").await.unwrap();
                append(&document, "one");
                let error = scene.ann.sync().sync("a.document", b"some bytes");
                let error = error.unwrap_err();
                assert!(matches!(error, SyncError::Invalid(_)), "{error:?}");
                document.saved().await.unwrap();
                // Known operations change nothing.
                let state = document.read(MeshDocument::encode_state);
                scene.ann.sync().sync("a.document", &state).unwrap();
                document.saved().await.unwrap();
                assert_eq!(describe(&scene.bob, "a.document").await, page(&["one"]));
            })
        },
    },
    Row {
        method: "sync",
        says: "You rarely need to call `sync()` manually: local changes are queued, and sent \
               asynchronously.",
        shown: |scene| {
            Box::pin(async move {
                let (here, there) = both(&scene, "a.document").await;
                let texts: Vec<String> = (0..300).map(|number| number.to_string()).collect();
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                for text in &texts {
                    // No edit waits for the server.
                    append(&here, text);
                }
                here.saved().await.unwrap();
                shows(&there, &texts).await;
            })
        },
    },
    Row {
        method: "sync",
        says: "Ensure that your `RoomClient` and server are configured for concurrent operations.",
        shown: |scene| {
            Box::pin(async move {
                let mut tasks = Vec::new();
                for number in 0..20 {
                    let room = [&scene.ann, &scene.bob][number % 2].clone();
                    tasks.push(tokio::spawn(async move {
                        let path = format!("{number}.document");
                        let document = room.sync().open(&path).await.unwrap();
                        let update = made_elsewhere(&document, &path);
                        room.sync().sync(&path, &update).unwrap();
                        document.saved().await.unwrap();
                        assert_eq!(describe(&room, &path).await, page(&[&path]));
                        document.close().await.unwrap();
                    }));
                }
                for task in tasks {
                    task.await.unwrap();
                }
            })
        },
    },
    Row {
        method: "create",
        says: "If a request fails, the `RoomClient` may throw an error: for want of the `sync` \
               grant.",
        shown: |scene| {
            Box::pin(async move {
                let guest = without_grant(&scene.server).await;
                let created = guest.sync().create("b.document", None, None).await;
                assert_eq!(code(created), 1001);
                assert_eq!(code(scene.ann.sync().describe("b.document").await), 1003);
            })
        },
    },
    Row {
        method: "describe",
        says: "If a request fails, the `RoomClient` may throw an error: for want of the `sync` \
               grant.",
        shown: |scene| {
            Box::pin(async move {
                let sync = scene.ann.sync();
                sync.create("a.document", None, None).await.unwrap();
                let guest = without_grant(&scene.server).await;
                assert_eq!(code(guest.sync().describe("a.document").await), 1001);
            })
        },
    },
    Row {
        method: "open",
        says: "If a request fails, the `RoomClient` may throw an error: for want of the `sync` \
               grant.",
        shown: |scene| {
            Box::pin(async move {
                let sync = scene.ann.sync();
                sync.create("a.document", None, None).await.unwrap();
                let guest = without_grant(&scene.server).await;
                let refused = guest.sync().open_with("a.document", &existing()).await;
                assert_eq!(end_code(refused), Some(1001));
                assert_eq!(streams(&scene.server).await, 0);
            })
        },
    },
];

#[tokio::test]
async fn every_sentence_about_the_five_methods_holds() {
    let mut broken = Vec::new();
    for Row {
        method,
        says,
        shown,
    } in ROWS
    {
        let server = TestServer::start().await;
        let (ann, bob) = (enter(&server, "ann").await, enter(&server, "bob").await);
        let scene = Arc::new(Scene { server, ann, bob });
        let shown = tokio::spawn(shown(Arc::clone(&scene)));
        let outcome = match timeout(PATIENCE, shown).await {
            Ok(Ok(())) => "holds",
            Ok(Err(_)) => "BROKEN, see the panic above",
            Err(_) => "BROKEN, it takes too long",
        };
        // Shown with `--nocapture`, or when a row fails.
        #[expect(clippy::print_stdout, reason = "the table is what this test prints")]
        {
            println!("{method:8} | {says} | {outcome}");
        }
        if outcome != "holds" {
            broken.push(format!("{method}: {says}"));
        }
    }
    assert_eq!(
        broken,
        Vec::<String>::new(),
        "repeat: cargo test -p meshagent-server --test it methods -- --nocapture"
    );
    for method in METHODS {
        assert!(ROWS.iter().any(|row| row.method == method), "{method}");
    }
    assert!(ROWS.iter().all(|row| METHODS.contains(&row.method)));
}

async fn enter(server: &TestServer, name: &str) -> RoomClient {
    let room = RoomClient::builder()
        .room_url(format!("ws://{}/rooms/room", server.address))
        .token(server.jwt(name));
    room.connect().await.unwrap()
}

/// A participant of the room without rights to documents.
async fn without_grant(server: &TestServer) -> RoomClient {
    let mut token = ParticipantToken::new("guest");
    token.grants.push(Grant::Room("room".to_owned()));
    let mut scope = ApiScope::full();
    scope.sync = None;
    token.grants.push(Grant::Api(Box::new(scope)));
    let room = RoomClient::builder()
        .room_url(format!("ws://{}/rooms/room", server.address))
        .token(token.sign(&server.key));
    room.connect().await.unwrap()
}

/// One document, opened by both participants.
async fn both(scene: &Scene, path: &str) -> (LiveDocument, LiveDocument) {
    let here = scene.ann.sync().open(path).await.unwrap();
    (here, scene.bob.sync().open(path).await.unwrap())
}

async fn describe(room: &RoomClient, path: &str) -> Value {
    room.sync().describe(path).await.unwrap()
}

async fn open(
    room: &RoomClient,
    path: &str,
    options: OpenOptions,
) -> Result<LiveDocument, OpenError> {
    room.sync().open_with(path, &options).await
}

fn existing() -> OpenOptions {
    OpenOptions {
        create: false,
        ..OpenOptions::default()
    }
}

/// A schema that no file extension implies.
fn list() -> MeshSchema {
    let item = ElementType::new("item").property(ValueProperty::new("done", SimpleValue::Boolean));
    let root = ElementType::new("list").property(ChildProperty::new("items", ["item"]));
    MeshSchema::new("list", vec![root, item]).unwrap()
}

fn body(text: &str) -> Value {
    json!({ "body": { "text": text } })
}

/// The content of a `.document` with these texts.
fn page(texts: &[&str]) -> Value {
    let bodies: Vec<Value> = texts.iter().map(|text| body(text)).collect();
    json!({ "document": { "content": bodies } })
}

fn append(document: &LiveDocument, text: &str) {
    document
        .edit(|d| d.append_child(Target::Root, body(text)))
        .unwrap()
        .unwrap();
}

/// A closed document refuses edits.
fn append_after_close(document: &LiveDocument, text: &str) {
    let edited = document.edit(|d| d.append_child(Target::Root, body(text)));
    assert_eq!(edited.unwrap_err(), DocumentEnd::Closed);
}

/// An update from another replica.
fn made_elsewhere(document: &LiveDocument, text: &str) -> Vec<u8> {
    let (schema, state) = document.read(|d| (d.schema().clone(), d.encode_state()));
    let mut replica = MeshDocument::new(schema, 77);
    replica.apply_update(&state).unwrap();
    let appended = replica.append_child(Target::Root, body(text), &mut || "id".to_owned());
    appended.unwrap().expect("it changes the document")
}

/// The code with which a call is refused.
fn code<T: std::fmt::Debug>(refused: Result<T, CallError>) -> i64 {
    match refused.unwrap_err() {
        CallError::Refused {
            code: Some(code), ..
        } => code,
        error => panic!("no refusal with a code: {error:?}"),
    }
}

/// The code with which an `open` is refused.
fn end_code(refused: Result<LiveDocument, OpenError>) -> Option<i64> {
    match refused.unwrap_err() {
        OpenError::Ended(DocumentEnd::Refused(refusal)) => refusal.code,
        error => panic!("no refusal: {error:?}"),
    }
}

/// Waits until a document shows these texts.
async fn shows(document: &LiveDocument, texts: &[&str]) {
    let expected = page(texts);
    let mut changes = document.changes();
    let shown = async {
        while document.to_json() != expected {
            changes.recv().await.expect("the document is open");
        }
    };
    let shown = timeout(PATIENCE / 2, shown).await;
    assert!(shown.is_ok(), "{} is not {expected}", document.to_json());
}

/// The number of open streams: each document counts once for each participant that has it open.
async fn streams(server: &TestServer) -> u64 {
    let (_, _, metrics) = server.http("GET /metrics", &[], "").await;
    let mut lines = metrics.lines();
    let value = lines.find_map(|line| line.strip_prefix("meshagent_streams "));
    value.expect("the figure is there").trim().parse().unwrap()
}

async fn until_streams(server: &TestServer, expected: u64) {
    let reached = async {
        while streams(server).await != expected {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let reached = timeout(PATIENCE / 2, reached).await;
    assert!(reached.is_ok(), "expected {expected} streams");
}
