//! Documents come and go: when the last participant has left them, the process is as small as before.

use std::time::{Duration, Instant};

use meshagent_client::RoomClient;
use serde_json::json;
use tempfile::TempDir;

use crate::serve::Server;
use crate::stress::{resident_kilobytes, room_url, token};
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
