//! Connections that end while their room takes no input.

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

fn shared(server: &Server) -> crate::connection::Shared {
    crate::connection::Shared {
        rooms: Arc::clone(&server.rooms),
        config: Arc::clone(&server.rooms.config),
        metrics: Arc::clone(&server.metrics),
        clock: Arc::new(crate::wall_clock::WallClock::new(now)),
        total_rate: Arc::new(crate::budget::Rate::new(u64::MAX, Duration::from_secs(2))),
        stopping: server.stopping.clone(),
        killed: server.killed.clone(),
    }
}

/// A batch of the room `a` is being committed and a move waits behind it, so the room takes no
/// messages.
async fn move_on_a_slow_disk(server: &Server) -> Member {
    let mover = join(&server.rooms, "a").await;
    let create = json!({ "path": "a.document", "json": { "document": { "content": [] } } });
    mover.ask(1, "create", create).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let input = json!({ "source_path": "a.document", "destination_path": "b.document" });
    mover.ask_storage(2, "move", input).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    mover
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_before_the_room_has_taken_them_does_not_join() {
    let (word, go_on) = mpsc::channel();
    let server = Server::start_on(Arc::new(Held::new(go_on)));
    let shared = shared(&server);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mover = move_on_a_slow_disk(&server).await;
    for has_sent in [false, true] {
        let address = listener.local_addr().unwrap();
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (joining, _outbox) = joining(&server.rooms, "läder");
        let shared = shared.clone();
        let serving = tokio::spawn(async move {
            crate::connection::run(stream, Bytes::new(), "a", joining, None, &shared).await;
        });
        if has_sent {
            let exists = json!({ "toolkit": "storage", "tool": "exists", "arguments": { "type": "json", "json": { "path": "x" } } });
            let message = sent(1, "room.invoke_tool", &exists, b"");
            client.write_all(&message).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!serving.is_finished(), "the room took it");
        drop(client);
        tokio::time::timeout(Duration::from_secs(20), serving)
            .await
            .expect("its place is free again")
            .unwrap();
    }
    drop(word);
    assert!(mover.answer(2).await.is_some());
    assert_eq!(server.metrics.participants.get(), 1);
    drop((mover, shared));
    server.end().await;
}

/// The same for a peer that has disconnected, or has sent a close frame.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_whose_token_has_expired_is_dropped_although_its_room_takes_nothing() {
    let (word, go_on) = mpsc::channel();
    let server = Server::start_on(Arc::new(Held::new(go_on)));
    let shared = shared(&server);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut clients = Vec::new();
    for expires in [Some(unix_seconds() + 3), None, None] {
        let address = listener.local_addr().unwrap();
        let client = tokio::net::TcpStream::connect(address).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (joining, _outbox) = joining(&server.rooms, "läder");
        let shared = shared.clone();
        let serving = tokio::spawn(async move {
            crate::connection::run(stream, Bytes::new(), "a", joining, expires, &shared).await;
        });
        // It has joined.
        while server.metrics.connections.get() <= i64::try_from(clients.len()).unwrap() {
            tokio::task::yield_now().await;
        }
        clients.push((client, serving));
    }
    let mover = move_on_a_slow_disk(&server).await;
    let nothing = json!({ "toolkit": "sync", "tool": "nothing", "arguments": { "type": "json", "json": {} } });
    // One sends more than it has places for.
    for (number, (client, _)) in clients.iter_mut().enumerate() {
        let more = if number == 0 { 10 } else { 0 };
        for id in 0..u64::from(PLACES) + more {
            let message = sent(id, "room.invoke_tool", &nothing, b"");
            client.write_all(&message).await.unwrap();
        }
    }
    // One disconnects, one sends a close frame, and the token of one expires.
    let mut goodbye = vec![0x88, 0x82, 0, 0, 0, 0];
    goodbye.extend(1_000_u16.to_be_bytes());
    clients[1].0.write_all(&goodbye).await.unwrap();
    drop(clients.remove(2).0);
    let (client, _) = &mut clients[0];
    let mut came = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(20), client.read_to_end(&mut came));
    // Not all of its messages were read, so the connection may end with a reset.
    let _ = end.await.expect("the expired one is dropped");
    let is_left = async {
        while server.metrics.connections.get() > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let is_left = tokio::time::timeout(Duration::from_secs(20), is_left).await;
    assert!(is_left.is_ok(), "{}", server.metrics.connections.get());
    drop(word);
    assert!(mover.answer(2).await.is_some());
    for (_, serving) in clients {
        tokio::time::timeout(Duration::from_secs(20), serving)
            .await
            .expect("the room lets it go")
            .unwrap();
    }
    drop((mover, shared));
    server.end().await;
}
