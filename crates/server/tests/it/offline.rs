//! Documents that a client keeps in a directory: over a full disk, damage, another address, and
//! without being opened again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshagent_client::{
    DocumentEvent, JournalError, JournalStatus, LiveDocument, OpenError, RoomBuilder, RoomClient,
    RoomStatus, SaveError, SyncError,
};
use meshagent_document::{MeshDocument, Target};
use meshagent_protocol::{
    ApiScope, DocPath, Grant, ParticipantToken, SyncGrant, SyncOpenStart, SyncPathGrant,
};
use meshagent_store::MemoryStore;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::harness::{PATIENCE, TestServer};
use crate::live::{append, event, texts, until};

const PATH: &str = "ä 🌿.document";

fn room(address: &str, token: &str, directory: &Path) -> RoomBuilder {
    RoomClient::builder()
        .room_url(format!("ws://{address}/rooms/room"))
        .token(token)
        .offline(directory)
}

/// The files in a directory whose names contain `part`.
fn files(directory: &Path, part: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let named = paths.filter(|path| path.file_name().unwrap().to_str().unwrap().contains(part));
    named.collect()
}

async fn stored(server: &TestServer, path: &str) -> Value {
    server
        .join("bob")
        .await
        .sync()
        .describe(path)
        .await
        .unwrap()
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap()
}

/// A document whose open waits for the server, and the path where its journal will first be
/// written.
async fn opening(
    room: &RoomClient,
    directory: &Path,
) -> (PathBuf, tokio::task::JoinHandle<LiveDocument>) {
    let sync = room.sync();
    let document = tokio::spawn(async move { sync.open(PATH).await.unwrap() });
    until("the journal is opened", || {
        !files(directory, ".lock").is_empty()
    })
    .await;
    let new = files(directory, ".lock")[0].with_extension("new");
    (new, document)
}

/// The address, key, token and store of a stopped server.
async fn away() -> (String, meshagent_protocol::ApiKey, String, Arc<MemoryStore>) {
    let server = TestServer::start().await;
    let (address, key, token) = (
        server.address.clone(),
        server.key.clone(),
        server.jwt("ann"),
    );
    (address, key, token, server.stop().await)
}

/// Polls a future once. Then an open has counted its handle, and the thread that reads the journal
/// has not answered.
async fn begun<F: Future>(mut future: std::pin::Pin<&mut F>) {
    std::future::poll_fn(|context| {
        assert!(future.as_mut().poll(context).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
}

#[tokio::test]
async fn failing_journal_is_told_and_recovers() {
    let (address, key, token, store) = away().await;
    let folder = tempfile::tempdir().unwrap();
    let ann = room(&address, &token, folder.path())
        .connect()
        .await
        .unwrap();
    let (new, document) = opening(&ann, folder.path()).await;
    // A directory in its place makes the creation of the file fail.
    fs::create_dir(&new).unwrap();
    let server = TestServer::start_again(Arc::clone(&store), &address, key.clone()).await;
    let document = in_time(document).await.unwrap();
    let mut changes = document.changes();
    let is_failing = || matches!(ann.journal_status(), JournalStatus::Failing { .. });
    until("the status says so", is_failing).await;

    // Edits that the server has are saved, although the journal fails.
    in_time(document.synchronized()).await.unwrap();
    append(&document, "eins");
    in_time(document.saved()).await.unwrap();

    #[cfg(unix)]
    for entry in fs::read_dir(folder.path()).unwrap() {
        use std::os::unix::fs::PermissionsExt as _;
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert!(
            entry.path() == new || mode & 0o44 == 0,
            "{mode:o} {entry:?}"
        );
    }

    server.stop().await;
    append(&document, "zwei 🌿");
    let saved = in_time(document.saved()).await;
    assert!(matches!(saved, Err(SaveError::Journal { .. })), "{saved:?}");
    let journaled = in_time(document.journaled()).await;
    assert!(
        matches!(journaled, Err(SaveError::Journal { .. })),
        "{journaled:?}"
    );
    let closed = in_time(document.clone().close()).await;
    assert!(
        matches!(closed, Err(SaveError::Journal { .. })),
        "{closed:?}"
    );
    assert!(matches!(
        document.journal_status(),
        JournalStatus::Failing { .. }
    ));

    fs::remove_dir(&new).unwrap();
    event(&mut changes, |event| {
        (event == DocumentEvent::JournalRestored).then_some(())
    })
    .await;
    in_time(document.journaled()).await.unwrap();
    assert_eq!(ann.journal_status(), JournalStatus::Kept);
    drop((document, changes));
    let given_up = in_time(ann.close()).await;
    let given_up: Vec<_> = given_up
        .iter()
        .map(|one| (&one.path[..], one.edits, one.is_journaled))
        .collect();
    assert_eq!(given_up, [(PATH, 1, true)]);

    let again = room(&address, &token, folder.path())
        .connect()
        .await
        .unwrap();
    let document = in_time(again.sync().open(PATH)).await.unwrap();
    assert_eq!(texts(&document), ["eins", "zwei 🌿"]);
    let server = TestServer::start_again(store, &address, key).await;
    in_time(document.saved()).await.unwrap();
    assert_eq!(stored(&server, PATH).await, document.to_json());
}

#[cfg(unix)]
#[tokio::test]
async fn disk_that_hangs_stops_neither_edits_nor_reads() {
    let (address, key, token, store) = away().await;
    let folder = tempfile::tempdir().unwrap();
    let ann = room(&address, &token, folder.path())
        .connect()
        .await
        .unwrap();
    let (new, document) = opening(&ann, folder.path()).await;
    // Opening a pipe for writing blocks until a reader opens it.
    let made = std::process::Command::new("mkfifo").arg(&new).status();
    assert!(made.unwrap().success());
    let server = TestServer::start_again(store, &address, key).await;
    let document = in_time(document).await.unwrap();
    // The runtime has one thread, so a blocked write would stop the test.
    for number in 0..100 {
        append(&document, &format!("{number} 🌿"));
        assert_eq!(texts(&document).len(), number + 1);
    }
    in_time(document.saved()).await.unwrap();
    assert_eq!(stored(&server, PATH).await, document.to_json());
    // A pipe can't hold a journal, and is removed.
    let pipe = tokio::task::spawn_blocking(move || fs::read(new));
    in_time(pipe).await.unwrap().unwrap();
    let is_kept = || document.journal_status() == JournalStatus::Kept;
    until("it is written again", || {
        is_kept() && !files(folder.path(), ".journal").is_empty()
    })
    .await;
    in_time(document.journaled()).await.unwrap();
    in_time(ann.close()).await;
}

#[tokio::test]
async fn unsent_edits_are_listed_and_sent_when_the_room_is_entered() {
    let server = TestServer::start().await;
    let (address, key, token) = (
        server.address.clone(),
        server.key.clone(),
        server.jwt("ann"),
    );
    let folder = tempfile::tempdir().unwrap();
    let ann = room(&address, &token, folder.path())
        .connect()
        .await
        .unwrap();
    let paths = ["eins.document", "über/zwei 🌿.document", "saved.document"];
    let mut documents = Vec::new();
    for path in paths {
        let document = in_time(ann.sync().open(path)).await.unwrap();
        append(&document, "vorher");
        in_time(document.saved()).await.unwrap();
        documents.push(document);
    }
    let store = server.stop().await;
    append(&documents[0], "eins");
    append(&documents[1], "zwei 🌿");
    append(&documents[1], "zwei und ein halb");
    let unsent = ann.unsent().await.unwrap();
    let unsent: Vec<_> = unsent
        .iter()
        .map(|one| (&one.path[..], one.edits))
        .collect();
    assert_eq!(unsent, [(paths[0], 1), (paths[1], 2)]);
    let shown: Vec<Value> = documents.iter().map(LiveDocument::to_json).collect();
    let given_up = in_time(ann.close()).await;
    let given_up: Vec<_> = given_up
        .iter()
        .map(|one| (&one.path[..], one.edits, one.is_journaled))
        .collect();
    assert_eq!(given_up, [(paths[0], 1, true), (paths[1], 2, true)]);
    drop(documents);

    // At another address, by another participant of the same project.
    let port = address.rsplit_once(':').unwrap().1;
    let address_now = format!("localhost:{port}");
    let mut bobs = ParticipantToken::new("bob");
    bobs.grants.push(Grant::Room("room".to_owned()));
    bobs.grants.push(Grant::Api(Box::new(ApiScope::full())));
    let again = room(&address_now, &bobs.sign(&key), folder.path())
        .connect()
        .await
        .unwrap();
    let unsent = again.unsent().await.unwrap();
    assert_eq!(
        unsent.iter().map(|one| one.edits).collect::<Vec<_>>(),
        [1, 2]
    );
    assert!(unsent.iter().all(|one| one.bytes > 0));
    let server = TestServer::start_again(store, &address, key).await;
    in_time(async {
        while !again.unsent().await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for (path, shown) in paths.iter().zip(&shown) {
        assert_eq!(stored(&server, path).await, *shown, "{path}");
    }
    assert_eq!(in_time(again.close()).await, []);
}

#[tokio::test]
async fn edits_that_no_journal_holds_are_said_to_be_given_up() {
    let server = TestServer::start().await;
    let ann = crate::live::enter(&server, "ann").await;
    let document = ann.sync().open(PATH).await.unwrap();
    append(&document, "gesichert");
    in_time(document.saved()).await.unwrap();
    server.stop().await;
    for text in ["eins", "zwei", "drei 🌿"] {
        append(&document, text);
    }
    drop(document);
    let given_up = in_time(ann.close()).await;
    let given_up: Vec<_> = given_up
        .iter()
        .map(|one| (&one.path[..], one.edits, one.is_journaled))
        .collect();
    assert_eq!(given_up, [(PATH, 3, false)]);
}

#[tokio::test]
async fn what_is_refused_when_nobody_has_it_open_stays_in_the_journal() {
    let server = TestServer::start().await;
    let (address, key, token) = (
        server.address.clone(),
        server.key.clone(),
        server.jwt("ann"),
    );
    let folder = tempfile::tempdir().unwrap();
    let ann = room(&address, &token, folder.path())
        .connect()
        .await
        .unwrap();
    let document = in_time(ann.sync().open(PATH)).await.unwrap();
    in_time(document.saved()).await.unwrap();
    let store = server.stop().await;
    append(&document, "nicht erlaubt");
    in_time(document.journaled()).await.unwrap();
    drop(document);
    in_time(ann.close()).await;

    let mut reader = ParticipantToken::new("ann");
    reader.grants.push(Grant::Room("room".to_owned()));
    let mut scope = ApiScope::full();
    scope.sync = Some(SyncGrant {
        paths: Some(vec![SyncPathGrant {
            path: "*".to_owned(),
            read_only: true,
        }]),
    });
    reader.grants.push(Grant::Api(Box::new(scope)));
    let _server = TestServer::start_again(store, &address, key.clone()).await;
    let again = room(&address, &reader.sign(&key), folder.path())
        .connect()
        .await
        .unwrap();
    // The room is left when the attempt to send is over.
    in_time(again.connection()).await.unwrap();
    in_time(again.close()).await;
    let again = room(&address, &reader.sign(&key), folder.path())
        .connect()
        .await
        .unwrap();
    let unsent = again.unsent().await.unwrap();
    assert_eq!((&unsent[0].path[..], unsent[0].edits), (PATH, 1));
    // The program that opens it learns of the refusal.
    let document = in_time(async {
        loop {
            // At this moment the refusal of its edits may end the open.
            match again.sync().open(PATH).await {
                Ok(document) => return document,
                Err(OpenError::Ended(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await;
    let saved = in_time(document.saved()).await;
    assert!(
        matches!(&saved, Err(SaveError::Refused { refusal, .. }) if refusal.code == Some(1001)),
        "{saved:?}"
    );
}

#[tokio::test]
async fn damaged_journal_is_named_and_the_document_opens_from_the_server() {
    let server = TestServer::start().await;
    let (address, token) = (server.address.clone(), server.jwt("ann"));
    let folder = tempfile::tempdir().unwrap();
    let ann = room(&address, &token, folder.path())
        .connect()
        .await
        .unwrap();
    let document = in_time(ann.sync().open(PATH)).await.unwrap();
    append(&document, "gesichert");
    in_time(document.saved()).await.unwrap();
    drop(document);
    in_time(ann.close()).await;

    let journal = files(folder.path(), ".journal").remove(0);
    let mut bytes = fs::read(&journal).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&journal, &bytes).unwrap();
    let ann = room(&address, &token, folder.path())
        .connect()
        .await
        .unwrap();
    let error = in_time(ann.sync().open(PATH)).await.unwrap_err();
    let OpenError::Journal(JournalError::Damaged { kept, .. }) = &error else {
        panic!("{error:?}");
    };
    assert!(
        error.to_string().contains(kept.to_str().unwrap()),
        "{error}"
    );
    assert_eq!(fs::read(kept).unwrap(), bytes);
    let document = in_time(ann.sync().open(PATH)).await.unwrap();
    assert_eq!(texts(&document), ["gesichert"]);
    document
        .edit(|d| d.append_child(Target::Root, json!({ "body": { "text": "weiter" } })))
        .unwrap()
        .unwrap();
    in_time(document.saved()).await.unwrap();
}

#[tokio::test]
async fn update_handed_to_a_document_that_is_being_opened_is_refused_or_kept() {
    let server = TestServer::start().await;
    let (address, token) = (server.address.clone(), server.jwt("ann"));
    let folder = tempfile::tempdir().unwrap();
    let room = room(&address, &token, folder.path());
    let ann = room.clone().connect().await.unwrap();
    let document = in_time(ann.sync().open(PATH)).await.unwrap();
    append(&document, "gesichert");
    in_time(document.saved()).await.unwrap();
    let mut elsewhere = document.read(|document| {
        let mut elsewhere = MeshDocument::new(document.schema().clone(), 4711);
        elsewhere.apply_update(&document.encode_state()).unwrap();
        elsewhere
    });
    drop(document);
    in_time(ann.close()).await;
    let tea = json!({ "body": { "text": "茶 🌿" } });
    let update = elsewhere.append_child(Target::Root, tea, &mut || "tea".to_owned());
    let update = update.unwrap().unwrap();

    let ann = room.connect().await.unwrap();
    let sync = ann.sync();
    let mut opening = Box::pin(sync.open(PATH));
    begun(opening.as_mut()).await;
    let early = sync.sync(PATH, &update);
    let document = in_time(opening).await.unwrap();
    match early {
        Ok(()) => {}
        Err(SyncError::NotOpen) => sync.sync(PATH, &update).unwrap(),
        Err(error) => panic!("{error}"),
    }
    assert_eq!(texts(&document), ["gesichert", "茶 🌿"]);
    in_time(document.saved()).await.unwrap();
    let seen = stored(&server, PATH).await;
    assert_eq!(seen, document.to_json());
}

#[tokio::test]
async fn close_by_path_while_a_journal_is_read_waits_for_its_edits() {
    let (address, key, token, store) = away().await;
    let folder = tempfile::tempdir().unwrap();
    let room = room(&address, &token, folder.path());
    let server = TestServer::start_again(store, &address, key.clone()).await;
    let ann = room.clone().connect().await.unwrap();
    let document = in_time(ann.sync().open(PATH)).await.unwrap();
    in_time(document.saved()).await.unwrap();
    let store = server.stop().await;
    append(&document, "unterwegs 🌿");
    in_time(document.journaled()).await.unwrap();
    drop(document);
    in_time(ann.close()).await;

    let server = TestServer::start_again(store, &address, key).await;
    let ann = room.connect().await.unwrap();
    let sync = ann.sync();
    let mut opening = Box::pin(sync.open(PATH));
    begun(opening.as_mut()).await;
    in_time(sync.close(PATH)).await.unwrap();
    let seen = stored(&server, PATH).await;
    let text = &seen["document"]["content"][0]["body"]["text"];
    assert_eq!(text, "unterwegs 🌿");
}

#[tokio::test]
async fn many_edits_offline_take_about_as_much_as_what_is_left() {
    let server = TestServer::start().await;
    let (address, key, token) = (
        server.address.clone(),
        server.key.clone(),
        server.jwt("ann"),
    );
    let folder = tempfile::tempdir().unwrap();
    let ann = room(&address, &token, folder.path())
        .connect()
        .await
        .unwrap();
    let document = in_time(ann.sync().open(PATH)).await.unwrap();
    let element = json!({ "body": { "text": "vorher" } });
    let id = document
        .edit(|d| d.append_child(Target::Root, element))
        .unwrap()
        .unwrap();
    in_time(document.saved()).await.unwrap();
    let store = server.stop().await;
    for number in 1..=20_000 {
        let text = format!("{number} 🌿");
        let target = Target::Id(id.clone());
        document
            .edit(|d| d.set_attribute(target, "text", text))
            .unwrap()
            .unwrap();
    }
    in_time(document.journaled()).await.unwrap();
    let length = || {
        fs::metadata(files(folder.path(), ".journal").remove(0))
            .unwrap()
            .len()
    };
    assert!(length() < 128 << 10, "{} bytes while it is open", length());
    let state = document.read(|d| d.encode_state().len() + d.schema().to_json().to_string().len());
    drop(document);
    let given_up = in_time(ann.close()).await;
    assert_eq!(
        (given_up[0].edits, given_up[0].is_journaled),
        (20_000, true)
    );
    assert!(length() < 4 * state as u64, "{} bytes of {state}", length());

    let server = TestServer::start_again(store, &address, key).await;
    let again = room(&address, &token, folder.path())
        .connect()
        .await
        .unwrap();
    let document = in_time(again.sync().open(PATH)).await.unwrap();
    assert_eq!(texts(&document), ["20000 🌿"]);
    in_time(document.saved()).await.unwrap();
    assert_eq!(stored(&server, PATH).await, document.to_json());
}

/// Leaving without a connection is quick, with a journal or without one.
#[tokio::test]
async fn room_is_left_at_once_without_a_connection() {
    let (address, key, token, store) = away().await;
    let server = TestServer::start_again(Arc::clone(&store), &address, key.clone()).await;
    let folder = tempfile::tempdir().unwrap();
    let journaled = room(&address, &token, folder.path())
        .connect()
        .await
        .unwrap();
    let unjournaled = RoomClient::builder().room_url(format!("ws://{address}/rooms/room"));
    let unjournaled = unjournaled.token(&token).connect().await.unwrap();
    let mut documents = Vec::new();
    for one in [&journaled, &unjournaled] {
        let document = in_time(one.sync().open(PATH)).await.unwrap();
        append(&document, "da");
        in_time(document.saved()).await.unwrap();
        documents.push(document);
    }
    server.stop().await;
    for (one, document) in [&journaled, &unjournaled].into_iter().zip(documents) {
        append(&document, "nicht gesendet");
        until("the connection is lost", || {
            one.status() == RoomStatus::Reconnecting
        })
        .await;
        let begun = Instant::now();
        let given_up = in_time(one.close()).await;
        // A connection would be awaited for ten seconds.
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
        let given_up: Vec<_> = given_up
            .iter()
            .map(|one| (one.edits, one.is_journaled))
            .collect();
        assert_eq!(given_up, [(1, std::ptr::eq(one, &raw const journaled))]);
    }
}

/// Another program wrote under the client's id while the client was away, and that was deleted. So
/// the client's own edits are missing on the server, although it has operations with their ids.
#[tokio::test]
async fn edits_whose_operations_another_program_has_deleted_are_handed_over() {
    let server = TestServer::start().await;
    let (address, key) = (server.address.clone(), server.key.clone());
    let ann = server.jwt("ann");
    let folder = tempfile::tempdir().unwrap();
    let ann = room(&address, &ann, folder.path()).connect().await.unwrap();
    let document = in_time(ann.sync().open(PATH)).await.unwrap();
    append(&document, "eins");
    in_time(document.saved()).await.unwrap();
    let mut changes = document.changes();
    let (client, from) = document.read(|d| {
        let clocks: std::collections::BTreeMap<_, _> = d.clocks().collect();
        (d.client_id(), clocks[&d.client_id()])
    });
    let store = server.stop().await;
    append(&document, "zwei 🌿");
    append(&document, "漢字");
    let until_clock = document.read(|d| d.clocks().find(|(id, _)| *id == client).unwrap().1);

    // One collected run in the place of all edits made meanwhile, at another address that ann's
    // client does not use.
    let elsewhere = TestServer::start_again(Arc::clone(&store), "127.0.0.1:0", key.clone()).await;
    let room_of_bob = elsewhere.join("bob").await;
    let start = SyncOpenStart::new(DocPath::parse(PATH).unwrap());
    let stream = in_time(room_of_bob.sync().open(&start)).await.unwrap();
    let mut forged = vec![1, 1];
    for number in [client, from] {
        varint(&mut forged, number);
    }
    forged.push(0);
    varint(&mut forged, until_clock - from);
    forged.push(0);
    in_time(stream.send(&forged)).await.unwrap();
    elsewhere.stop().await;

    let server = TestServer::start_again(Arc::clone(&store), &address, key).await;
    let mut erased = Vec::new();
    let has = |erased: &[u8], text: &str| {
        let mut windows = erased.windows(text.len());
        windows.any(|window| window == text.as_bytes())
    };
    while !(has(&erased, "zwei 🌿") && has(&erased, "漢字")) {
        let update = |event| match event {
            DocumentEvent::Erased { update, .. } => Some(update),
            _ => None,
        };
        erased.extend(event(&mut changes, update).await);
    }
    in_time(document.saved()).await.unwrap();
    let shown = document.to_json();
    assert_eq!(shown, stored(&server, PATH).await, "here and on the server");
    assert_eq!(texts(&document), ["eins"]);
}

fn varint(bytes: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            return bytes.push(low & 0x7f);
        }
        bytes.push(low | 0x80);
    }
}
