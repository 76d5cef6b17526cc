//! Documents come and go: when the last participant has left them, the process is as small as before.

use std::ops::Range;
use std::time::{Duration, Instant};

use meshagent_client::RoomClient;
use meshagent_protocol::DocPath;
use meshagent_protocol::sync::SyncOpenStart;
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::serve::Server;
use crate::stress::{metric, resident_kilobytes, room_url, setting, token};
use crate::{KEY, meshagent};

const DOCUMENTS: usize = 300;

#[test]
fn memory_returns_when_documents_are_let_go() {
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
        let client = RoomClient::connect(&url, &jwt).await.unwrap();
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

/// `DOCUMENTS=100000 MESHAGENT_BIN=target/release/meshagent cargo test -p meshagent-cli once_each` is the full size.
#[test]
fn documents_opened_once_each_leave_memory_where_it_was() {
    let documents: usize = setting("DOCUMENTS", 2000);
    let home = TempDir::new().unwrap();
    let arguments = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--unload-after",
        "1",
        "--durability",
        "os",
    ];
    let server = Server::start(meshagent(home.path(), &arguments).env("MESHAGENT_API_KEY", KEY));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = RoomClient::connect(&room_url(server.url()), &token("ann"))
            .await
            .unwrap();
        // The first ones pay for what stays: the database's caches, the runtime's threads.
        let began = open_once_each(&client, &server, 0..documents / 4).await;
        let after = open_once_each(&client, &server, documents / 4..documents).await;
        assert!(
            after < began + began / 4 + 4096,
            "{began} kB after a quarter of {documents} documents, {after} kB in the end"
        );
        client.close().await;
    });
    server.terminate();
}

/// Opens and closes new documents, waits until the server has let go of them, and says what it takes then.
async fn open_once_each(client: &RoomClient, server: &Server, documents: Range<usize>) -> u64 {
    const AT_ONCE: usize = 16;
    let elements: Vec<_> = (0..20)
        .map(|n| json!({ "body": { "text": format!("{n} {}", "x".repeat(50)) } }))
        .collect();
    let content = json!({ "document": { "content": elements } });
    let mut under_way = JoinSet::new();
    for n in documents {
        let sync = client.sync();
        let mut start = SyncOpenStart::new(DocPath::parse(&format!("{n}.document")).unwrap());
        start.initial_json = Some(content.clone());
        under_way.spawn(async move {
            let stream = sync.open(&start).await.unwrap();
            assert!(stream.state().len() > 1000);
            stream.close().await.unwrap();
        });
        if under_way.len() == AT_ONCE {
            under_way.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(done) = under_way.join_next().await {
        done.unwrap();
    }
    let started = Instant::now();
    while metric(server.url(), "meshagent_documents").await > 0.0 {
        assert!(started.elapsed() < Duration::from_mins(1), "documents stay");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // What they took goes back to the system a moment later.
    tokio::time::sleep(Duration::from_secs(5)).await;
    resident_kilobytes(server.id())
}
