//! Peers that hold memory for which others wait: they read and send in good time, or are
//! disconnected.

use std::time::Duration;

use meshagent_protocol::DocPath;
use meshagent_protocol::sync::SyncOpenStart;
use meshagent_server::Config;
use serde_json::{Value, json};

use crate::harness::{PATIENCE, RawFrame, RawSocket, TestServer, call};

const MIB: usize = 1 << 20;
const PACKET_BYTES: usize = 64 << 10;
/// Well above the time that slow peers get, and well below the time after which any connection
/// ends.
const SOON: Duration = Duration::from_secs(20);

async fn join(server: &TestServer, name: &str) -> RawSocket {
    let target = format!("/rooms/room?token={}", server.jwt(name));
    let mut socket = RawSocket::connect(server, &target, &[]).await.unwrap();
    for kind in ["room_ready", "connected"] {
        assert_eq!(socket.message().await.0, kind);
    }
    socket
}

/// Sends a message in as many packets as needed.
async fn send_large(socket: &mut RawSocket, id: u64, kind: &str, header: &Value) {
    let header = header.to_string();
    let all = [&(header.len() as u64).to_be_bytes()[..], header.as_bytes()].concat();
    let packets = u32::try_from(all.len().div_ceil(PACKET_BYTES)).unwrap();
    let begin = [&packets.to_be_bytes()[..], kind.as_bytes()].concat();
    socket.packet(id, 0, &begin).await;
    for (number, part) in (1..).zip(all.chunks(PACKET_BYTES)) {
        socket.packet(id, number, part).await;
    }
}

fn open(tool_call_id: &str) -> Value {
    json!({
        "toolkit": "sync", "tool": "open", "tool_call_id": tool_call_id,
        "arguments": { "type": "control", "method": "open" },
    })
}

fn start(tool_call_id: &str, path: &str) -> Value {
    let headers = json!({ "kind": "start", "path": path, "create": false });
    json!({ "tool_call_id": tool_call_id, "chunk": { "type": "binary", "headers": headers } })
}

/// Creates a document whose state has approximately `bytes` bytes.
async fn document(server: &TestServer, path: &str, bytes: usize) {
    let text = "ä".repeat(bytes / 2);
    let json = json!({ "document": { "content": [{ "body": { "text": text } }] } });
    let writer = server.join("writer").await;
    writer.sync().create(path, Some(json), None).await.unwrap();
}

fn broadcast(bytes: usize) -> Value {
    json!({ "type": "t", "message_json": Value::from("ä".repeat(bytes / 2)).to_string() })
}

/// Requests a document so often that neither the kernel nor the server's queue can hold all of it.
async fn ask_and_do_not_read(socket: &mut RawSocket, path: &str, times: u64) {
    for number in 0..times {
        let call = format!("c{number}");
        socket
            .send(2 * number, "room.invoke_tool", &open(&call))
            .await;
        socket
            .send(
                2 * number + 1,
                "room.tool_call_request_chunk",
                &start(&call, path),
            )
            .await;
    }
}

#[tokio::test]
async fn whoever_does_not_read_keeps_no_memory_from_others() {
    let mut config = Config::default();
    config.pace_window = Duration::from_millis(200);
    config.limits.max_held_bytes = 24 * MIB;
    config.limits.max_receive_bytes = 7 * MIB;
    config.limits.max_outbox_bytes = 64 << 10;
    let server = TestServer::start_with(config).await;
    document(&server, "a.document", 3 * MIB).await;
    let mut deaf = Vec::new();
    for number in 0..3 {
        let mut socket = join(&server, &format!("deaf {number}")).await;
        ask_and_do_not_read(&mut socket, "a.document", 6).await;
        deaf.push(socket);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    // The last of these may exceed the bound, and is complete.
    let large = broadcast(3 * MIB);
    for socket in &mut deaf {
        send_large(
            socket,
            1000,
            "room.invoke_tool",
            &call("messaging", "broadcast", &large),
        )
        .await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut healthy = join(&server, "healthy").await;
    let message = json!({ "path": "x", "more": "ä".repeat(MIB / 2) });
    let asks = async {
        send_large(
            &mut healthy,
            1,
            "room.invoke_tool",
            &call("storage", "exists", &message),
        )
        .await;
        healthy.answer(1).await
    };
    let answer = tokio::time::timeout(SOON, asks).await.expect("an answer");
    assert_eq!(answer["json"]["exists"], false, "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_trickle_of_reading_keeps_no_document_from_others() {
    let mut config = Config::default();
    config.pace_window = Duration::from_millis(200);
    // Two states in base64 fit, three do not.
    config.limits.max_shared_bytes = 9 * MIB;
    let server = TestServer::start_with(config).await;
    for path in ["a.document", "b.document", "c.document"] {
        document(&server, path, 3 * MIB).await;
    }
    let mut trickles = Vec::new();
    for (name, path) in [("first", "a.document"), ("second", "b.document")] {
        let mut socket = join(&server, name).await;
        // One answer more than the kernel buffers.
        ask_and_do_not_read(&mut socket, path, 4).await;
        trickles.push(tokio::spawn(async move {
            loop {
                // Reads something in each window.
                if socket.next().await == RawFrame::End {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(150)).await;
            }
        }));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let healthy = server.join("healthy").await;
    let start = SyncOpenStart::new(DocPath::parse("c.document").unwrap());
    let opened = tokio::time::timeout(SOON, healthy.sync().open(&start)).await;
    opened.expect("the others' memory").unwrap();
    for trickle in trickles {
        trickle.abort();
    }
    server.stop().await;
}

/// The metric of the received bytes that the server holds.
async fn received(server: &TestServer) -> usize {
    let (_, _, metrics) = server.http("GET /metrics", &[], "").await;
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix("meshagent_held_bytes{kind=\"received\"} "));
    value.unwrap().parse().unwrap()
}

/// Sends the begin of a message that never ends, then more than the least amount of a peer for
/// which nobody waits, until the server ends the connection.
async fn trickle(server: &TestServer, name: &str, first: usize) -> tokio::task::JoinHandle<()> {
    let mut socket = join(server, name).await;
    tokio::spawn(async move {
        let begin = [&u32::MAX.to_be_bytes()[..], b"room.invoke_tool"].concat();
        socket.packet(1, 0, &begin).await;
        let part = "慢".repeat(PACKET_BYTES / 3);
        for number in 1.. {
            let is_first = usize::try_from(number).unwrap() * PACKET_BYTES <= first;
            let head = [&1_u64.to_be_bytes()[..], &u32::to_be_bytes(number)].concat();
            let packet = [&head[..], part.as_bytes()].concat();
            // A binary frame without a mask of its own.
            let length = u64::try_from(packet.len()).unwrap().to_be_bytes();
            let frame = [&[0x82, 0xff][..], &length, &[0; 4], &packet].concat();
            if !socket.are_taken(&frame).await {
                return;
            }
            if !is_first {
                tokio::time::sleep(Duration::from_millis(700)).await;
            }
        }
    })
}

#[tokio::test]
async fn slow_senders_under_few_names_delay_nobody_who_holds_little() {
    let mut config = Config::default();
    config.pace_window = Duration::from_secs(1);
    config.limits.max_held_bytes = 48 * MIB;
    config.limits.max_receive_bytes = 32 * MIB;
    let server = TestServer::start_with(config).await;
    let mut senders = Vec::new();
    for number in 0..50 {
        let name = ["慢一", "慢二", "慢三"][number % 3];
        senders.push(trickle(&server, name, MIB).await);
    }
    let began = std::time::Instant::now();
    while received(&server).await < 31 * MIB {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let healthy = server.join("無辜").await;
    for number in 0..3 {
        let storage = healthy.storage();
        let text = "極".repeat(70_000);
        let json = json!({ "document": { "content": [{ "body": { "text": text } }] } });
        let path = format!("文件 {number}.document");
        let goes_on = async {
            healthy
                .sync()
                .create(&path, Some(json), None)
                .await
                .unwrap();
            let file = vec![b'z'; 1_000_000];
            storage.upload("圖片.bin", file, true).await.unwrap();
        };
        let done = tokio::time::timeout(Duration::from_secs(5), goes_on).await;
        done.expect("no wait for the slow senders");
    }
    // Each that may exceed the bound is too slow for those who wait, and ends.
    let began = std::time::Instant::now();
    let ended = |senders: &[tokio::task::JoinHandle<()>]| {
        senders.iter().filter(|sender| sender.is_finished()).count()
    };
    while ended(&senders) < 3 {
        assert!(began.elapsed() < PATIENCE, "{} have ended", ended(&senders));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for sender in senders {
        sender.abort();
    }
    assert!(healthy.storage().exists("圖片.bin").await.unwrap());
    server.stop().await;
}
