//! Documents come and go: when the last participant has left them, the process is as small as before.

use std::ops::Range;
use std::time::{Duration, Instant};

use meshagent_client::Connection;
use meshagent_protocol::DocPath;
use meshagent_protocol::sync::SyncOpenStart;
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::serve::Server;
use crate::stress::{alone, metric, resident_kilobytes, room_url, setting, token};
use crate::{KEY, meshagent};

const DOCUMENTS: usize = 300;

#[test]
fn memory_returns_when_documents_are_let_go() {
    let _machine = alone();
    let home = TempDir::new().unwrap();
    let arguments = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        // Longer than it takes to make all documents of a round.
        "--unload-after",
        "5",
        "--durability",
        "os",
    ];
    let server = Server::start(meshagent(home.path(), &arguments).env("MESHAGENT_API_KEY", KEY));
    let (url, jwt) = (room_url(server.url()), token("ann"));

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = Connection::connect(&url, &jwt).await.unwrap();
        let elements: Vec<_> = (0..100).map(|n| json!({ "body": { "text": format!("{n}{}", "x".repeat(200)) } })).collect();
        let content = json!({ "document": { "content": elements } });
        // The first round pays for what stays: the database's caches, the runtime's threads.
        let mut settled = resident_kilobytes(server.id());
        for round in 0..2 {
            for n in 0..DOCUMENTS {
                let path = format!("{round}/{n}.document");
                client.sync().create(&path, Some(content.clone()), None).await.unwrap();
            }
            let loaded = resident_kilobytes(server.id());
            let bound = settled + (loaded - settled) / 4;
            assert!(loaded > settled + 5_000, "{DOCUMENTS} documents take memory: {settled} kB, then {loaded} kB");
            let started = Instant::now();
            let mut after = loaded;
            while round > 0 && after > bound {
                assert!(
                    started.elapsed() < Duration::from_secs(40),
                    "{settled} kB before, {loaded} kB with the documents, still {after} kB without them"
                );
                tokio::time::sleep(Duration::from_millis(250)).await;
                after = resident_kilobytes(server.id());
            }
            if round == 0 {
                tokio::time::sleep(Duration::from_secs(10)).await;
                settled = resident_kilobytes(server.id());
            }
        }
        client.close().await;
    });
    server.terminate();
}

/// `MEMORY_DOCUMENTS=100000 MESHAGENT_BIN=target/release/meshagent cargo test -p meshagent-cli opened_once` is the full
/// size.
#[test]
fn documents_that_were_opened_once_leave_nothing_in_memory() {
    let _machine = alone();
    let documents: usize = setting("MEMORY_DOCUMENTS", 1_500);
    let home = TempDir::new().unwrap();
    let arguments = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--unload-after",
        "0",
        "--durability",
        "os",
    ];
    let server = Server::start(meshagent(home.path(), &arguments).env("MESHAGENT_API_KEY", KEY));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = Connection::connect(&room_url(server.url()), &token("ann"))
            .await
            .unwrap();
        // The first ones pay for what stays: the database's caches, the runtime's threads.
        open_once(&client, 0..WARM_UP).await;
        let before = let_go(&server).await;
        open_once(&client, WARM_UP..WARM_UP + documents).await;
        let mut after = let_go(&server).await;
        let started = Instant::now();
        while after > before + NOISE_KILOBYTES {
            assert!(
                started.elapsed() < Duration::from_secs(40),
                "{before} kB before, {after} kB after {documents} documents were opened once"
            );
            tokio::time::sleep(Duration::from_millis(250)).await;
            after = resident_kilobytes(server.id());
        }
        client.close().await;
    });
    server.terminate();
}

/// Enough for the caches of the database to be full and the allocator to have its pages.
const WARM_UP: usize = 1_500;
/// What the allocator may keep. A hundred bytes that stayed for each of 100,000 documents would be more.
const NOISE_KILOBYTES: u64 = 8 << 10;

/// Opens each document, some at a time, with a little content, and closes it again.
async fn open_once(client: &Connection, numbers: Range<usize>) {
    let mut opening = JoinSet::new();
    for number in numbers {
        if opening.len() == 16 {
            opening.join_next().await.unwrap().unwrap();
        }
        let sync = client.sync();
        opening.spawn(async move {
            let path = DocPath::parse(&format!("{}/{number}.document", number % 100)).unwrap();
            let mut start = SyncOpenStart::new(path);
            let text = "x".repeat(200);
            start.initial_json =
                Some(json!({ "document": { "content": [{ "body": { "text": text } }] } }));
            let stream = sync.open(&start).await.unwrap();
            stream.close().await.unwrap();
        });
    }
    while let Some(opened) = opening.join_next().await {
        opened.unwrap();
    }
}

/// Waits until no document is in memory; what the process then has, after it had time to give memory back.
async fn let_go(server: &Server) -> u64 {
    let started = Instant::now();
    while metric(server.url(), "meshagent_documents").await > 0.0 {
        assert!(
            started.elapsed() < Duration::from_mins(1),
            "documents stay in memory"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    resident_kilobytes(server.id())
}
