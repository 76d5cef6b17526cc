//! Stopping a server: received messages are durable and answered, and no connection gets a close
//! frame.

use std::time::{Duration, Instant};

use meshagent_protocol::DocPath;
use meshagent_protocol::sync::SyncOpenStart;
use meshagent_server::Config;
use meshagent_store::{RoomId, Store as _};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

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
    // The server has received it before the stop.
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

/// Time beyond the grace period on a busy machine.
const SLACK: Duration = Duration::from_secs(15);

/// A peer in the middle of something that it never finishes.
#[expect(dead_code, reason = "held, so that the sockets stay open")]
enum Peer {
    Tcp(TcpStream),
    WebSocket(RawSocket),
}

async fn half_sent(server: &TestServer, text: &str) -> Peer {
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    Peer::Tcp(stream)
}

async fn half_sent_body(server: &TestServer) -> Peer {
    let (project, key) = (&server.key.project_id, server.key.encode().unwrap());
    let head = format!(
        "POST /accounts/projects/{project}/rooms/room/connect HTTP/1.1\r\nhost: x\r\n\
         authorization: Bearer {key}\r\ncontent-length: 1000\r\n\r\n{{\"email\":"
    );
    half_sent(server, &head).await
}

async fn stalled_download(server: &TestServer) -> Peer {
    let client = server.join("ann").await;
    let data = vec![b'x'; 24 << 20];
    client.storage().upload("ä.bin", data, true).await.unwrap();
    let url = client.storage().download_url("ä.bin").await.unwrap();
    client.close().await;
    let target = url.split_once(&server.address).unwrap().1;
    let head = format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n");
    let Peer::Tcp(mut stream) = half_sent(server, &head).await else {
        unreachable!("it is a plain socket")
    };
    // The response has begun.
    stream.read_exact(&mut [0; 12]).await.unwrap();
    Peer::Tcp(stream)
}

async fn kept_alive(server: &TestServer) -> Peer {
    let peer = half_sent(server, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let Peer::Tcp(mut stream) = peer else {
        unreachable!("it is a plain socket")
    };
    let mut answer = Vec::new();
    while !answer.ends_with(b"ok\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    Peer::Tcp(stream)
}

async fn socket_after(server: &TestServer, bytes: &[u8]) -> Peer {
    let mut socket = RawSocket::join(server).await;
    socket.bytes(bytes).await;
    Peer::WebSocket(socket)
}

/// A peer whose outbox is full of answers that it does not read.
async fn deaf_socket(server: &TestServer) -> Peer {
    let client = server.join("ann").await;
    let json = json!({ "document": { "content": [{ "body": { "text": "ü".repeat(4 << 20) } }] } });
    client
        .sync()
        .create("a.document", Some(json), None)
        .await
        .unwrap();
    client.close().await;
    let mut socket = RawSocket::join(server).await;
    let describe = call("sync", "describe", &json!({ "path": "a.document" }));
    for id in 0..4 {
        socket.send(id, "room.invoke_tool", &describe).await;
    }
    let queued = async || {
        let (_, _, metrics) = server.http("GET /metrics", &[], "").await;
        !metrics.contains("\nmeshagent_queued_bytes 0\n")
    };
    while !queued().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Peer::WebSocket(socket)
}

#[tokio::test]
async fn stopping_waits_for_no_kind_of_peer_longer_than_the_grace() {
    let header = [&9_u32.to_be_bytes()[..], b"room.invoke_tool"].concat();
    for what in [
        "an idle connection",
        "half a head",
        "half a body",
        "a stalled download",
        "a connection that is kept alive",
        "an idle WebSocket",
        "a WebSocket within a frame",
        "a WebSocket within a fragmented message",
        "a WebSocket within a message",
        "a WebSocket that does not read",
    ] {
        let mut config = Config::default();
        config.shutdown_grace = Duration::from_millis(500);
        // Longer than the test: the grace period ends the connections, not these limits.
        config.handshake_timeout = Duration::from_mins(5);
        config.http_timeout = Duration::from_mins(5);
        let server = TestServer::start_with(config).await;
        let peer = match what {
            "an idle connection" => half_sent(&server, "").await,
            "half a head" => half_sent(&server, "GET /healthz HTTP/1.1\r\nho").await,
            "half a body" => half_sent_body(&server).await,
            "a stalled download" => stalled_download(&server).await,
            "a connection that is kept alive" => kept_alive(&server).await,
            "an idle WebSocket" => socket_after(&server, &[]).await,
            "a WebSocket within a frame" => {
                socket_after(&server, &[0x82, 0xfe, 0x10, 0, 0, 0, 0, 0, 1]).await
            }
            "a WebSocket within a fragmented message" => {
                socket_after(&server, &[2, 0x82, 0, 0, 0, 0, 1, 2]).await
            }
            "a WebSocket within a message" => {
                let mut socket = RawSocket::join(&server).await;
                socket.packet(1, 0, &header).await;
                socket.packet(1, 1, b"the beginning").await;
                Peer::WebSocket(socket)
            }
            _ => deaf_socket(&server).await,
        };
        // The server has received everything before it stops.
        assert_eq!(server.http("GET /healthz", &[], "").await.0, 200);
        let started = Instant::now();
        server.stop().await;
        let took = started.elapsed();
        assert!(took < SLACK, "{what}: {took:?}");
        drop(peer);
    }
}
