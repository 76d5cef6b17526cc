//! A document that is moved, alone or with its folder, while one participant edits it and another
//! opens it immediately at its new path: every acknowledged edit is there, for each reader and
//! after a restart.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meshagent_client::{CallError, Connection, SyncStream};
use meshagent_document::{MeshDocument, MeshSchema, Target};
use meshagent_protocol::sync::{SyncChunk, SyncOpenStart};
use meshagent_protocol::{Content, DocPath};
use meshagent_server::Config;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::harness::{PATIENCE, TestServer};

const ROUNDS: u64 = 20;
/// Edits of each document; below, how many are in flight together.
const EDITS: u64 = 60;
const WINDOW: usize = 8;

/// A document, its folder, and its destination.
struct Round {
    source: String,
    destination: String,
    /// The move of the document itself, or of its folder.
    moved: (String, String),
}

impl Round {
    fn new(number: u64) -> Self {
        let (source, destination) = (format!("von-{number}"), format!("nach-{number}"));
        let path = |folder: &str| format!("{folder}/ä.document");
        let moved = if number.is_multiple_of(2) {
            (path(&source), path(&destination))
        } else {
            (source.clone(), destination.clone())
        };
        Self {
            source: path(&source),
            destination: path(&destination),
            moved,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_edits_of_a_document_that_is_moved_are_at_its_new_place() {
    // Documents are compacted and unloaded as early as possible.
    let mut config = Config::default();
    config.snapshot_every = 7;
    config.unload_after = Duration::ZERO;
    let server = TestServer::start_with(config).await;
    let mut moved = Vec::new();
    for number in 0..ROUNDS {
        let round = Round::new(number);
        // Each document is moved at a different point of its edits.
        let run = play(&server, &round, number * 37 % EDITS);
        let acknowledged = timeout(PATIENCE, Box::pin(run)).await.unwrap();
        moved.push((round.destination, acknowledged));
    }
    let edits: usize = moved.iter().map(|(_, ids)| ids.len()).sum();
    assert!(
        edits as u64 > ROUNDS,
        "too little was edited: {edits} edits"
    );

    let (address, key) = (server.address.clone(), server.key.clone());
    let store = server.stop().await;
    let server = TestServer::start_again(store, &address, key).await;
    let client = server.join("late").await;
    for (path, acknowledged) in &moved {
        let stream = client.sync().open(&at(path)).await.unwrap();
        let mut replica = replica(1);
        replica.apply_update(stream.state()).unwrap();
        let ids = element_ids(&replica);
        let lost: Vec<_> = acknowledged.difference(&ids).collect();
        assert!(lost.is_empty(), "{path} has lost {lost:?} by the restart");
    }
    client.close().await;
    server.stop().await;
}

/// Runs three participants: one edits, one moves after `moved_after` acknowledgements, one opens.
/// Returns the acknowledged edits, all of which the last one saw.
async fn play(server: &TestServer, round: &Round, moved_after: u64) -> BTreeSet<String> {
    let (writer, mover, opener) = tokio::join!(
        server.join("writer"),
        server.join("mover"),
        server.join("opener"),
    );
    let mut start = SyncOpenStart::new(DocPath::parse(&round.source).unwrap());
    start.create = true;
    let stream = writer.sync().open(&start).await.unwrap();
    let told = Arc::new(AtomicU64::new(0));
    let writing = tokio::spawn(write(stream, Arc::clone(&told)));
    while told.load(Ordering::Relaxed) < moved_after {
        sleep(Duration::from_millis(1)).await;
    }
    let (source, destination) = &round.moved;
    let storage = mover.storage();
    let (renamed, mut opened) = tokio::join!(
        storage.rename(source, destination, false),
        open_at_once(&opener, &round.destination),
    );
    renamed.unwrap();
    let acknowledged = writing.await.unwrap();

    // Edits that are missing in the state arrive as changes.
    let mut replica = replica(2);
    replica.apply_update(opened.state()).unwrap();
    loop {
        let ids = element_ids(&replica);
        let missing: Vec<_> = acknowledged.difference(&ids).collect();
        if missing.is_empty() {
            break;
        }
        let next = timeout(Duration::from_secs(10), opened.recv()).await;
        let Ok(Ok(Some(update))) = next else {
            panic!(
                "{}: {missing:?} of {} acknowledged edits are shown to nobody: {next:?}",
                round.destination,
                acknowledged.len()
            );
        };
        replica.apply_update(&update).unwrap();
    }
    for connection in [writer, mover, opener] {
        connection.close().await;
    }
    acknowledged
}

/// Sends edits, several in flight together, until all are sent or the stream ends. Returns the
/// acknowledged ones.
async fn write(stream: SyncStream, told: Arc<AtomicU64>) -> BTreeSet<String> {
    let mut replica = replica(3);
    replica.apply_update(stream.state()).unwrap();
    let sender = stream.sender();
    let mut acknowledged = BTreeSet::new();
    let mut under_way = VecDeque::new();
    let mut edits = 0..EDITS;
    loop {
        if under_way.len() < WINDOW
            && let Some(number) = edits.next()
        {
            let id = format!("e{number}");
            let element = json!({ "body": { "$id": id } });
            let update = replica.append_child(Target::Root, element, &mut || "unused".to_owned());
            let update = update.unwrap().unwrap();
            match sender.begin(SyncChunk::of_update(&update)).await {
                Ok(answer) => under_way.push_back((id, answer)),
                // The document has left this path.
                Err(_) => edits = 0..0,
            }
            continue;
        }
        let Some((id, mut answer)) = under_way.pop_front() else {
            break;
        };
        if let Ok(Content::Empty) = answer.wait().await {
            acknowledged.insert(id);
        }
        told.fetch_add(1, Ordering::Relaxed);
    }
    // A task that waits for more acknowledgements must not wait forever.
    told.store(EDITS, Ordering::Relaxed);
    drop(stream);
    acknowledged
}

/// Opens a document as soon as it exists.
async fn open_at_once(client: &Connection, path: &str) -> SyncStream {
    loop {
        match client.sync().open(&at(path)).await {
            Ok(stream) => return stream,
            Err(CallError::Disconnected) => panic!("the server ended the connection"),
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

fn at(path: &str) -> SyncOpenStart {
    let mut start = SyncOpenStart::new(DocPath::parse(path).unwrap());
    start.create = false;
    start
}

fn replica(client_id: u64) -> MeshDocument {
    MeshDocument::new(MeshSchema::builtin("document").unwrap(), client_id)
}

fn element_ids(replica: &MeshDocument) -> BTreeSet<String> {
    let json: Value = replica.to_json(true);
    let elements = json["document"]["content"].as_array().unwrap().iter();
    let id = |element: &Value| element["body"]["$id"].as_str().unwrap().to_owned();
    elements.map(id).collect()
}
