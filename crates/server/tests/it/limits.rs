//! The limits: what the defaults admit, and what a limit refuses.

use std::sync::Arc;
use std::time::{Duration, Instant};

use meshagent_document::{MeshDocument, MeshSchema};
use meshagent_protocol::DocPath;
use meshagent_protocol::sync::SyncOpenStart;
use meshagent_server::Config;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::{PATIENCE, RawSocket, TestServer, call};

fn start(path: &str) -> SyncOpenStart {
    SyncOpenStart::new(DocPath::parse(path).unwrap())
}

/// An update of approximately `bytes` bytes: one element with a long text.
fn large_update(client_id: u64, bytes: usize) -> Vec<u8> {
    let mut document = MeshDocument::new(MeshSchema::builtin("document").unwrap(), client_id);
    let json = json!({ "document": { "content": [{ "body": { "text": "x".repeat(bytes) } }] } });
    document
        .insert_json(&json, &mut || format!("id-{client_id}"))
        .unwrap();
    document.encode_state()
}

#[tokio::test]
async fn the_defaults_admit_large_updates_json_and_files() {
    let server = TestServer::start().await;
    let (writer, reader) = (server.join("writer").await, server.join("reader").await);
    let sent = writer.sync().open(&start("a.document")).await.unwrap();
    let mut received = reader.sync().open(&start("a.document")).await.unwrap();
    let update = large_update(1, 8 << 20);
    sent.send(&update).await.unwrap();
    let change = tokio::time::timeout(PATIENCE, received.recv())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(change.len() >= 8 << 20);

    let json = json!({ "document": { "content": [{ "body": { "text": "y".repeat(4 << 20) } }] } });
    writer
        .sync()
        .create("b.document", Some(json.clone()), None)
        .await
        .unwrap();
    assert_eq!(reader.sync().describe("b.document").await.unwrap(), json);

    let file = vec![7; 1 << 20];
    writer
        .storage()
        .upload("file.bin", file.clone(), false)
        .await
        .unwrap();
    assert_eq!(
        reader.storage().download("file.bin").await.unwrap().data,
        file
    );
    server.stop().await;
}

#[tokio::test]
async fn three_hundred_requests_may_be_under_way_at_once() {
    let server = TestServer::start().await;
    let mut socket = RawSocket::join(&server).await;
    for id in 0..300 {
        socket
            .send(
                id,
                "room.invoke_tool",
                &call("storage", "exists", &json!({ "path": "x" })),
            )
            .await;
    }
    let mut answered: Vec<u64> = Vec::new();
    while answered.len() < 300 {
        answered.push(socket.message().await.1);
    }
    answered.sort_unstable();
    assert_eq!(answered, (0..300).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_burst_of_handshakes_from_one_address_is_served() {
    let server = Arc::new(TestServer::start().await);
    let target = format!("/rooms/room?token={}", server.jwt("ann"));
    let mut joining = JoinSet::new();
    for _ in 0..400 {
        let (server, target) = (Arc::clone(&server), target.clone());
        joining.spawn(async move {
            let mut socket = RawSocket::connect(&server, &target, &[]).await.unwrap();
            assert_eq!(socket.message().await.0, "room_ready");
            socket
        });
    }
    let mut open = Vec::new();
    while let Some(joined) = joining.join_next().await {
        open.push(joined.unwrap());
    }
    let (_, _, metrics) = server.http("GET /metrics", &[], "").await;
    assert!(metrics.contains("meshagent_connections 400\n"), "{metrics}");
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_and_the_connection_goes_on() {
    let mut config = Config::default();
    config.limits.max_message_bytes = 1 << 20;
    config.limits.max_update_bytes = 64 << 10;
    let server = TestServer::start_with(config).await;
    let client = server.join("ann").await;
    let stream = client.sync().open(&start("a.document")).await.unwrap();
    for bytes in [100 << 10, 2 << 20] {
        let refused = stream.send(&large_update(1, bytes)).await.unwrap_err();
        assert!(
            refused.to_string().contains("larger than") || refused.to_string().contains("at most"),
            "{refused}"
        );
    }
    let small = large_update(2, 1000);
    assert_eq!(stream.send(&small).await.unwrap().notice, None);
}

#[tokio::test]
async fn a_full_room_says_so_at_the_handshake() {
    let mut config = Config::default();
    config.limits.max_participants_per_room = 2;
    let server = TestServer::start_with(config).await;
    let _members = (server.join("one").await, server.join("two").await);
    let target = format!("/rooms/room?token={}", server.jwt("three"));
    assert_eq!(
        RawSocket::connect(&server, &target, &[]).await.err(),
        Some(503)
    );
}

// A current-thread runtime, so that all joins arrive before the room handles the first.
#[tokio::test]
async fn a_burst_of_joins_fills_a_room_no_further_than_its_bound() {
    let mut config = Config::default();
    config.limits.max_participants_per_room = 5;
    let server = TestServer::start_with(config).await;
    let request = format!(
        "GET /rooms/room?token={} HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        server.jwt("gast – 客")
    );
    // First all but the last byte of each request, so that the last bytes arrive together.
    let mut asking = Vec::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        let (most, _) = request.split_at(request.len() - 1);
        stream.write_all(most.as_bytes()).await.unwrap();
        asking.push(stream);
    }
    for stream in &mut asking {
        stream.write_all(b"\n").await.unwrap();
    }
    let (mut members, mut refused) = (Vec::new(), 0);
    for mut stream in asking {
        let mut head = [0; 12];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut head))
            .await
            .unwrap()
            .unwrap();
        match &head[9..] {
            b"101" => members.push(stream),
            b"503" => refused += 1,
            other => panic!("{}", String::from_utf8_lossy(other)),
        }
    }
    assert_eq!((members.len(), refused), (5, 35));
    // Places are free again when their holders have left.
    drop(members);
    let target = format!("/rooms/room?token={}", server.jwt("spät"));
    let deadline = Instant::now() + PATIENCE;
    let mut members = Vec::new();
    while members.len() < 5 {
        match RawSocket::connect(&server, &target, &[]).await {
            Ok(member) => members.push(member),
            Err(status) => assert!(status == 503 && Instant::now() < deadline, "{status}"),
        }
    }
}

#[tokio::test]
async fn a_reader_that_stops_reading_delays_nobody_and_catches_up() {
    let server = TestServer::start().await;
    let (writer, reader) = (server.join("writer").await, server.join("reader").await);
    let sent = writer.sync().open(&start("a.document")).await.unwrap();
    let mut received = reader.sync().open(&start("a.document")).await.unwrap();
    let mut slow = RawSocket::join(&server).await;
    let open = json!({ "toolkit": "sync", "tool": "open", "tool_call_id": "s", "arguments": { "type": "control", "method": "open" } });
    slow.send(1, "room.invoke_tool", &open).await;
    let begin = json!({ "tool_call_id": "s", "chunk": { "type": "binary", "headers": { "kind": "start", "path": "a.document" } } });
    slow.send(2, "room.tool_call_request_chunk", &begin).await;
    slow.answer(2).await;

    // 20 MB pass while it does not read: far more than sockets and the queue hold.
    let mut live = 0;
    for client_id in 1..=80 {
        sent.send(&large_update(client_id, 256 << 10))
            .await
            .unwrap();
        let change = tokio::time::timeout(PATIENCE, received.recv())
            .await
            .unwrap()
            .unwrap();
        live += usize::from(change.is_some());
    }
    assert_eq!(live, 80, "the other reader saw each change at once");

    // Now it reads: the queued messages, and one merged change.
    slow.send(
        3,
        "room.invoke_tool",
        &call("sync", "describe", &json!({ "path": "a.document" })),
    )
    .await;
    let mut chunks = 0;
    loop {
        let (kind, id, _) = slow.message().await;
        match kind.as_str() {
            "room.tool_call_response_chunk" => chunks += 1,
            "__response__" if id == 3 => break,
            _ => {}
        }
    }
    assert!((1..80).contains(&chunks), "{chunks} chunks for 80 changes");
    let (_, _, metrics) = server.http("GET /metrics", &[], "").await;
    assert!(
        !metrics.contains("meshagent_catch_ups_total 0\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn who_sends_too_fast_is_read_from_later_and_loses_nothing() {
    let mut config = Config::default();
    config.limits.max_messages_per_second = 100;
    let server = TestServer::start_with(config).await;
    let mut fast = RawSocket::join(&server).await;
    let exists = call("storage", "exists", &json!({ "path": "x" }));
    let started = Instant::now();
    for id in 0..400 {
        fast.send(id, "room.invoke_tool", &exists).await;
    }
    // Another participant is not delayed.
    let mut other = RawSocket::join(&server).await;
    let asked = Instant::now();
    other.send(1, "room.invoke_tool", &exists).await;
    other.answer(1).await;
    let others_wait = asked.elapsed();
    let mut answered: Vec<u64> = Vec::new();
    while answered.len() < 400 {
        answered.push(fast.message().await.1);
    }
    answered.sort_unstable();
    assert_eq!(answered, (0..400).collect::<Vec<_>>());
    // A burst of two seconds' worth, and two seconds for the other half.
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(1900), "{took:?}");
    assert!(others_wait < took / 2, "{others_wait:?} of {took:?}");
    let (_, _, metrics) = server.http("GET /metrics", &[], "").await;
    assert!(
        !metrics.contains("meshagent_delayed_messages_total 0\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_message_has_its_time_and_others_get_its_memory_back() {
    let mut config = Config::default();
    config.message_timeout = Duration::from_secs(5);
    config.limits.max_receive_bytes = 1 << 20;
    let server = TestServer::start_with(config).await;
    // It sends 800 kB of 900, which is nearly the whole bound, and then nothing.
    let mut slow = RawSocket::join(&server).await;
    let mut header = 900_u32.to_be_bytes().to_vec();
    header.extend(b"room.invoke_tool");
    slow.packet(1, 0, &header).await;
    for number in 1..=800 {
        slow.packet(1, number, &[0; 1024]).await;
    }
    let charged = async {
        loop {
            let (_, _, metrics) = server.http("GET /metrics", &[], "").await;
            let received = metrics
                .lines()
                .find_map(|line| line.strip_prefix("meshagent_received_bytes "))
                .and_then(|bytes| bytes.parse::<usize>().ok());
            if received.is_some_and(|bytes| bytes >= 800 << 10) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let charged = tokio::time::timeout(PATIENCE, charged).await;
    charged.expect("what arrived is charged");

    let writer = server.join("writer").await;
    let sent = writer.sync().open(&start("a.document")).await.unwrap();
    let small = Instant::now();
    sent.send(&large_update(1, 10)).await.unwrap();
    assert!(
        small.elapsed() < Duration::from_secs(4),
        "what is small waits for nobody"
    );
    let update = large_update(2, 500 << 10);
    let large = tokio::time::timeout(PATIENCE, sent.send(&update));
    large.await.unwrap().unwrap();
    let (_, _, metrics) = server.http("GET /metrics", &[], "").await;
    assert!(
        metrics.contains("meshagent_received_bytes 0\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("meshagent_connections 1\n"),
        "the slow one is gone: {metrics}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_work_in_one_room_keeps_no_other_waiting() {
    let server = Arc::new(TestServer::start().await);
    let writer = server.join("writer").await;
    let stream = writer.sync().open(&start("a.document")).await.unwrap();
    // 4 MB of small operations take a while to apply, encode and send.
    let mut document = MeshDocument::new(MeshSchema::builtin("document").unwrap(), 9);
    let elements: Vec<_> = (0..20_000)
        .map(|n| json!({ "body": { "text": format!("{n} {}", "x".repeat(150)) } }))
        .collect();
    let mut ids = 0;
    document
        .insert_json(&json!({ "document": { "content": elements } }), &mut || {
            ids += 1;
            format!("id-{ids}")
        })
        .unwrap();
    let update = document.encode_state();
    let heavy = tokio::spawn(async move {
        stream.send(&update).await.unwrap();
        for _ in 0..5 {
            writer.sync().describe("a.document").await.unwrap();
        }
    });
    let mut token = server.token("other");
    token.grants[0] = meshagent_protocol::Grant::Room("elsewhere".to_owned());
    let target = format!("/rooms/elsewhere?token={}", token.sign(&server.key));
    let mut other = RawSocket::connect(&server, &target, &[]).await.unwrap();
    let (mut id, mut worst) = (0, Duration::ZERO);
    while !heavy.is_finished() {
        id += 1;
        let asked = Instant::now();
        other
            .send(
                id,
                "room.invoke_tool",
                &call("storage", "exists", &json!({ "path": "x" })),
            )
            .await;
        other.answer(id).await;
        worst = worst.max(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    heavy.await.unwrap();
    let (_, _, metrics) = server.http("GET /metrics", &[], "").await;
    let heavy_turns = metrics
        .lines()
        .find_map(|line| line.strip_prefix("meshagent_heavy_work_seconds_count "))
        .unwrap();
    assert!(heavy_turns.parse::<u64>().unwrap() >= 6, "{heavy_turns}");
    let seconds = metrics
        .lines()
        .find_map(|line| line.strip_prefix("meshagent_heavy_work_seconds_sum "))
        .unwrap();
    let heavy_time = Duration::from_secs_f64(seconds.parse().unwrap());
    assert!(
        worst < heavy_time / 2 || worst < Duration::from_millis(100),
        "another room waited {worst:?} while {heavy_time:?} of work were done"
    );
}
