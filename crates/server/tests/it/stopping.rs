//! The end of a server: what was received is durable and answered, and nobody gets a close frame.

use std::time::{Duration, Instant};

use meshagent_protocol::DocPath;
use meshagent_protocol::sync::SyncOpenStart;
use meshagent_server::Config;
use meshagent_store::{RoomId, Store as _};
use serde_json::json;

use crate::harness::{RawFrame, RawSocket, TestServer, call};

#[tokio::test]
async fn connections_end_without_a_close_frame_after_what_was_received_is_stored() {
    let mut server = TestServer::start().await;
    let mut idle = RawSocket::join(&server).await;
    let mut busy = RawSocket::join(&server).await;
    busy.send(
        1,
        "room.invoke_tool",
        &call("sync", "create", &json!({ "path": "last.document" })),
    )
    .await;
    // The server has it before it is asked to stop.
    busy.send(
        2,
        "room.invoke_tool",
        &call("storage", "exists", &json!({ "path": "x" })),
    )
    .await;
    busy.answer(1).await;
    server.begin_stop();
    for socket in [&mut idle, &mut busy] {
        loop {
            match socket.next().await {
                RawFrame::Binary(_) | RawFrame::Ping => {}
                RawFrame::End => break,
                other => panic!("{other:?} instead of the plain end of the connection"),
            }
        }
    }
    let project = server.key.project_id.clone();
    let store = server.stop().await;
    assert!(
        store
            .load(&RoomId::new(project, "room"), "last.document")
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn stopping_does_not_wait_for_a_peer_that_does_not_read() {
    let mut config = Config::default();
    config.shutdown_grace = Duration::from_secs(1);
    let server = TestServer::start_with(config).await;
    let client = server.join("ann").await;
    let path = DocPath::parse("a.document").unwrap();
    let json = json!({ "document": { "content": [{ "body": { "text": "x".repeat(8 << 20) } }] } });
    client
        .sync()
        .create(path.as_str(), Some(json), None)
        .await
        .unwrap();
    let mut deaf = RawSocket::join(&server).await;
    deaf.send(
        1,
        "room.invoke_tool",
        &call("sync", "describe", &json!({ "path": "a.document" })),
    )
    .await;
    let _open = client.sync().open(&SyncOpenStart::new(path)).await.unwrap();
    let started = Instant::now();
    server.stop().await;
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
}
