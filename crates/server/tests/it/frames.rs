//! WebSocket frames over a real socket: a violation of RFC 6455 ends the connection, without a
//! close frame, and costs nothing; permitted frames are answered.

use std::time::Duration;

use meshagent_server::Config;
use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::{PATIENCE, RawFrame, RawSocket, TestServer, call};

/// Sends a valid message and expects its answer, so that a test can use it after other frames.
async fn still_works(socket: &mut RawSocket) {
    let exists = call("storage", "exists", &json!({ "path": "ä/x" }));
    socket.send(77, "room.invoke_tool", &exists).await;
    assert_eq!(socket.answer(77).await["type"], "json");
}

#[tokio::test]
async fn frames_that_the_rfc_forbids_end_the_connection() {
    let server = TestServer::start().await;
    let long = [&[0x89, 0xfe, 0, 126, 0, 0, 0, 0][..], &[b'p'; 126]].concat();
    let cases: [(&str, &[u8]); 19] = [
        ("no mask", &[0x82, 1, 1]),
        ("a ping without a mask", &[0x89, 0]),
        ("a continuation of nothing", &[0x80, 0x81, 0, 0, 0, 0, 1]),
        (
            "a message within a message",
            &[2, 0x81, 0, 0, 0, 0, 1, 0x82, 0x81, 0, 0, 0, 0, 2],
        ),
        ("the first reserved bit", &[0xc2, 0x81, 0, 0, 0, 0, 1]),
        ("the second reserved bit", &[0xa2, 0x81, 0, 0, 0, 0, 1]),
        ("the third reserved bit", &[0x92, 0x81, 0, 0, 0, 0, 1]),
        ("a reserved frame", &[0x83, 0x81, 0, 0, 0, 0, 1]),
        ("a reserved control frame", &[0x8b, 0x80, 0, 0, 0, 0]),
        ("a ping in fragments", &[0x09, 0x80, 0, 0, 0, 0]),
        ("a close in fragments", &[0x08, 0x80, 0, 0, 0, 0]),
        ("a ping of 126 bytes", &long),
        ("a close of one byte", &[0x88, 0x81, 0, 0, 0, 0, 3]),
        ("the close code 999", &[0x88, 0x82, 0, 0, 0, 0, 3, 0xe7]),
        ("the close code 1005", &[0x88, 0x82, 0, 0, 0, 0, 3, 0xed]),
        (
            "a close text that is not UTF-8",
            &[0x88, 0x83, 0, 0, 0, 0, 3, 0xe8, 0xff],
        ),
        (
            "a short length in two bytes",
            &[0x82, 0xfe, 0, 1, 0, 0, 0, 0, 1],
        ),
        (
            "a short length in eight bytes",
            &[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1],
        ),
        ("a text", &[0x81, 0x81, 0, 0, 0, 0, b'x']),
    ];
    for (what, bytes) in cases {
        let mut socket = RawSocket::join(&server).await;
        socket.bytes(bytes).await;
        assert_eq!(socket.next().await, RawFrame::End, "{what}");
    }
    // Other connections are unaffected.
    still_works(&mut RawSocket::join(&server).await).await;
}

#[tokio::test]
async fn what_the_rfc_allows_is_answered() {
    let server = TestServer::start().await;
    let mut socket = RawSocket::join(&server).await;
    // Packets of a message in fragments, with pings between them, in pieces.
    let exists = call("storage", "exists", &json!({ "path": "ä/x" })).to_string();
    let header = [
        &[0; 8][..],
        &[0; 4],
        &1_u32.to_be_bytes(),
        b"room.invoke_tool",
    ]
    .concat();
    let data = [
        &[0; 8][..],
        &1_u32.to_be_bytes(),
        &(exists.len() as u64).to_be_bytes(),
        exists.as_bytes(),
    ]
    .concat();
    for packet in [header, data] {
        let middle = packet.len() / 2;
        socket.fragment(2, &packet[..middle]).await;
        socket.frame(9, "pïng".as_bytes()).await;
        socket.fragment(0, &[]).await;
        socket.frame(10, b"a pong that nobody asked for").await;
        socket.frame(0, &packet[middle..]).await;
    }
    let pong = RawFrame::Pong("pïng".as_bytes().to_vec());
    assert_eq!(socket.next().await, pong);
    assert_eq!(socket.next().await, pong);
    assert_eq!(socket.answer(0).await["type"], "json");
    still_works(&mut socket).await;
    // A client's close frame is answered with 1000, whatever its code.
    for payload in [&[][..], &[3, 0xe8], &[3, 0xe9, b'x'], &[0x0f, 0xa1]] {
        let mut socket = RawSocket::join(&server).await;
        socket.frame(8, payload).await;
        assert_eq!(socket.next().await, RawFrame::Close(vec![3, 0xe8]));
        assert_eq!(socket.next().await, RawFrame::End);
    }
}

#[tokio::test]
async fn bytes_behind_the_handshake_are_the_first_frame() {
    let server = TestServer::start().await;
    let target = format!("/rooms/room?token={}", server.jwt("raw"));
    let mut socket = RawSocket::connect_and_send(&server, &target, &[0x89, 0x82, 0, 0, 0, 0, 1, 2])
        .await
        .unwrap();
    loop {
        match socket.next().await {
            RawFrame::Binary(_) => {}
            other => break assert_eq!(other, RawFrame::Pong(vec![1, 2])),
        }
    }
}

#[tokio::test]
async fn a_flood_of_pings_that_nobody_reads_the_answers_of_holds_little() {
    let mut config = Config::default();
    config.limits.max_outbox_bytes = 64 << 10;
    let server = TestServer::start_with(config).await;
    let mut flooding = RawSocket::join(&server).await;
    let mut pings = JoinSet::new();
    pings.spawn(async move {
        let ping = [&[0x89, 0xfd, 0, 0, 0, 0][..], &[7; 125]].concat();
        for _ in 0..2000 {
            flooding.bytes(&ping.repeat(100)).await;
        }
    });
    let mut other = RawSocket::join(&server).await;
    for _ in 0..50 {
        still_works(&mut other).await;
        let (_, _, metrics) = server.http("GET /metrics", &[], "").await;
        let queued = metrics
            .lines()
            .find_map(|line| line.strip_prefix("meshagent_queued_bytes "))
            .and_then(|value| value.parse::<u64>().ok())
            .unwrap();
        assert!(queued < 256 << 10, "{queued}");
    }
}

/// Sends `bytes` bytes of a frame of 3 MiB.
async fn half_frame(server: &TestServer, name: &str, bytes: usize) -> RawSocket {
    let target = format!("/rooms/room?token={}", server.jwt(name));
    let mut socket = RawSocket::connect(server, &target, &[]).await.unwrap();
    let head = [0x82, 0xff, 0, 0, 0, 0, 0, 0x30, 0, 0, 0, 0, 0, 0];
    socket.bytes(&head).await;
    socket.bytes(&vec![7; bytes]).await;
    socket
}

async fn received_bytes(server: &TestServer) -> usize {
    let (_, _, metrics) = server.http("GET /metrics", &[], "").await;
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix("meshagent_received_bytes "));
    value.unwrap().parse().unwrap()
}

#[tokio::test]
async fn half_sent_frames_hold_what_arrived_and_are_counted() {
    let server = TestServer::start().await;
    let arrived = 100 << 10;
    let mut sockets = Vec::new();
    for number in 0..20 {
        sockets.push(half_frame(&server, &format!("jörg {number}"), arrived).await);
    }
    while received_bytes(&server).await < 20 * arrived {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let held = received_bytes(&server).await;
    assert!(held <= 20 * (arrived * 3 / 2 + (64 << 10)), "{held}");
    drop(sockets);
    while received_bytes(&server).await > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn half_sent_messages_that_fill_the_server_give_way() {
    let mut config = Config::default();
    config.limits.max_held_bytes = 8 << 20;
    config.limits.max_receive_bytes = 4 << 20;
    let server = TestServer::start_with(config).await;
    let mut sockets = Vec::new();
    for name in ["ärger", "böse", "übel"] {
        sockets.push(half_frame(&server, name, 1300 << 10).await);
    }
    while received_bytes(&server).await < 3 * (1300 << 10) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let client = server.join("innocent").await;
    let large =
        json!({ "document": { "content": [{ "body": { "text": "ü".repeat(600 << 10) } }] } });
    let sync = client.sync();
    let created = sync.create("a.document", Some(large), None);
    tokio::time::timeout(PATIENCE, created)
        .await
        .expect("it has its turn")
        .unwrap();
    // At least one of them had to end.
    let mut ended = JoinSet::new();
    for mut socket in sockets {
        ended.spawn(async move { while socket.next().await != RawFrame::End {} });
    }
    ended.join_next().await.unwrap().unwrap();
}
