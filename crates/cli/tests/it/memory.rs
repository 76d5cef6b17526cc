//! Memory of unloaded documents: after the last participant has left, the process is as small
//! as before.

use std::ops::Range;
use std::time::{Duration, Instant};

use meshagent_client::{Connection, SyncStream};
use meshagent_protocol::DocPath;
use meshagent_protocol::sync::SyncOpenStart;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::serve::{Server, serve_with};
use crate::stress::{alone, metric, resident_kilobytes, room_url, setting, token};

const DOCUMENTS: usize = 300;
/// No step takes this long; a test that hangs fails.
const PATIENCE: Duration = Duration::from_mins(5);

#[test]
fn unloaded_documents_free_their_memory() {
    let _machine = alone();
    let home = TempDir::new().unwrap();
    let server = serve(&home);
    let runtime = runtime();
    runtime.block_on(async {
        let client = Connection::connect(&room_url(server.url()), &token("ann"))
            .await
            .unwrap();
        let text = |n: usize| format!("{n}{}", "x".repeat(200));
        let elements: Vec<_> = (0..100)
            .map(|n| json!({ "body": { "text": text(n) } }))
            .collect();
        let content = json!({ "document": { "content": elements } });
        // The first round allocates permanent memory: caches of the database, threads.
        let mut settled = 0;
        for round in 0..2 {
            // Open streams keep the documents loaded.
            let mut streams = Vec::new();
            for n in 0..DOCUMENTS {
                let path = format!("{round}/{n}.document");
                streams.push(open(&client, &path, content.clone()).await);
            }
            let loaded = resident_kilobytes(server.id());
            for stream in streams {
                stream.close().await.unwrap();
            }
            if round == 0 {
                settled = settle(&server).await;
                continue;
            }
            assert!(
                loaded > settled + 5_000,
                "{DOCUMENTS} documents take memory: {settled} kB, then {loaded} kB"
            );
            let bound = settled + (loaded - settled) / 4;
            returns_to(&server, bound).await;
        }
        client.close().await;
    });
    server.terminate();
}

/// `MEMORY_DOCUMENTS=100000 MESHAGENT_BIN=target/release/meshagent cargo test -p meshagent-cli
/// opened_once` is the full size.
#[test]
fn opened_once_documents_leave_no_memory() {
    let _machine = alone();
    let documents: usize = setting("MEMORY_DOCUMENTS", 1_500);
    let home = TempDir::new().unwrap();
    let server = serve(&home);
    let runtime = runtime();
    runtime.block_on(async {
        let client = Connection::connect(&room_url(server.url()), &token("ann"))
            .await
            .unwrap();
        // The first documents allocate permanent memory: caches of the database, threads.
        open_once(&client, 0..WARM_UP).await;
        let before = settle(&server).await;
        open_once(&client, WARM_UP..WARM_UP + documents).await;
        returns_to(&server, before + NOISE_KILOBYTES).await;
        client.close().await;
    });
    server.terminate();
}

/// Number of documents that fill the caches of the database and of the allocator.
const WARM_UP: usize = 1_500;
/// Memory that the allocator may keep. A leak of a hundred bytes for each of 100,000 documents
/// would exceed it.
const NOISE_KILOBYTES: u64 = 8 << 10;

/// Opens and closes documents with a little content, some of them concurrently.
async fn open_once(client: &Connection, numbers: Range<usize>) {
    let mut opening = JoinSet::new();
    for number in numbers {
        if opening.len() == 16 {
            opening.join_next().await.unwrap().unwrap();
        }
        let client = client.clone();
        opening.spawn(async move {
            let path = format!("{}/{number}.document", number % 100);
            let text = "x".repeat(200);
            let content = json!({ "document": { "content": [{ "body": { "text": text } }] } });
            let stream = open(&client, &path, content).await;
            stream.close().await.unwrap();
        });
    }
    while let Some(opened) = opening.join_next().await {
        opened.unwrap();
    }
}

async fn open(client: &Connection, path: &str, content: Value) -> SyncStream {
    let mut start = SyncOpenStart::new(DocPath::parse(path).unwrap());
    start.initial_json = Some(content);
    client.sync().open(&start).await.unwrap()
}

/// Waits until no document is loaded and the process frees no more memory; returns its memory.
async fn settle(server: &Server) -> u64 {
    nothing_is_open(server).await;
    let started = Instant::now();
    let (mut least, mut since) = (resident_kilobytes(server.id()), Instant::now());
    // The allocator returns memory gradually, over some twenty seconds.
    while since.elapsed() < Duration::from_secs(10) && started.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let now = resident_kilobytes(server.id());
        if now + 512 < least {
            (least, since) = (now, Instant::now());
        }
    }
    least
}

/// Waits until no document is loaded and the memory of the process is below a bound.
async fn returns_to(server: &Server, bound: u64) {
    nothing_is_open(server).await;
    let started = Instant::now();
    while resident_kilobytes(server.id()) > bound {
        assert!(
            started.elapsed() < Duration::from_mins(2),
            "still {} kB, not {bound}, without any document",
            resident_kilobytes(server.id())
        );
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

async fn nothing_is_open(server: &Server) {
    let started = Instant::now();
    while metric(server.url(), "meshagent_documents").await > 0.0 {
        assert!(started.elapsed() < PATIENCE, "documents stay in memory");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A server that unloads a document when its last participant leaves.
fn serve(home: &TempDir) -> Server {
    let options = ["--unload-after", "0", "--durability", "os"];
    Server::start(&mut serve_with(home.path(), &options))
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}
