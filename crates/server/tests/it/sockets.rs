//! Peers whose sockets misbehave: slow, silent, or gone without a close. Each is disconnected after
//! its stated time, and leaves nothing behind.

use std::time::{Duration, Instant};

use meshagent_document::{MeshDocument, MeshSchema, Target};
use meshagent_protocol::{Content, DocPath, SyncOpenStart};
use meshagent_server::Config;
use meshagent_store::{RoomId, Store as _, Timestamp, Write};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::{PATIENCE, RawFrame, RawSocket, TestServer, call};

/// Short, so that two and a half intervals pass quickly.
const PING: Duration = Duration::from_millis(800);
const SILENCE: Duration = Duration::from_secs(2);
const HANDSHAKE: Duration = Duration::from_secs(1);
const MESSAGE: Duration = Duration::from_secs(1);
/// Time that a busy machine may add.
const SLACK: Duration = Duration::from_secs(15);

/// An empty pong, masked with zeros.
const PONG: &[u8] = &[0x8a, 0x80, 0, 0, 0, 0];

fn config() -> Config {
    let mut config = Config::default();
    config.ping_interval = PING;
    config.handshake_timeout = HANDSHAKE;
    config.message_timeout = MESSAGE;
    config
}

/// Waits until no connection and no participant is left; returns how long that took.
async fn emptied(server: &TestServer) -> Duration {
    let started = Instant::now();
    loop {
        let (_, _, metrics) = server.http("GET /metrics", &[], "").await;
        let is_zero = |name: &str| metrics.contains(&format!("\nmeshagent_{name} 0\n"));
        if is_zero("connections") && is_zero("participants") && is_zero("received_bytes") {
            return started.elapsed();
        }
        assert!(started.elapsed() < PATIENCE, "{metrics}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Reads until the connection ends; returns how long that took.
async fn ended(stream: &mut TcpStream) -> Duration {
    let started = Instant::now();
    let mut sink = [0; 4096];
    let read = async { while matches!(stream.read(&mut sink).await, Ok(1..)) {} };
    tokio::time::timeout(PATIENCE, read)
        .await
        .expect("the server lets go");
    started.elapsed()
}

#[tokio::test]
async fn a_handshake_of_one_byte_per_second_has_its_time() {
    let server = TestServer::start_with(config()).await;
    for request in [
        "",
        "GET /rooms/room HTTP/1.1\r\nhost: x\r\nauthorization: Bearer",
    ] {
        let stream = TcpStream::connect(&server.address).await.unwrap();
        let (mut reading, mut writing) = stream.into_split();
        // Bytes keep arriving, but too slowly. The time limit of the head begins with its first
        // byte.
        let drip = tokio::spawn(async move {
            let bytes = request.bytes().chain(std::iter::repeat(b'x'));
            for byte in bytes {
                if writing.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        let started = Instant::now();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, reading.read_to_end(&mut answer)).await;
        // The connection may be reset while the test still sends.
        let _ = read.expect("the server lets go");
        assert!(
            started.elapsed() < HANDSHAKE + SLACK,
            "{:?}",
            started.elapsed()
        );
        drip.abort();
    }
    emptied(&server).await;
}

#[tokio::test]
async fn who_connects_and_says_nothing_is_let_go() {
    let server = TestServer::start_with(config()).await;
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let took = ended(&mut stream).await;
    assert!(took < HANDSHAKE + SLACK, "{took:?}");
}

#[tokio::test]
async fn a_peer_that_stops_answering_pings_is_let_go() {
    let server = TestServer::start_with(config()).await;
    let started = Instant::now();
    let mut silent = RawSocket::join(&server).await;
    let mut alive = RawSocket::join(&server).await;
    let mut pings = 0;
    let answer_pings = async {
        while started.elapsed() < SILENCE * 2 {
            if alive.next().await == RawFrame::Ping {
                pings += 1;
                alive.bytes(PONG).await;
            }
        }
    };
    let silence = async {
        loop {
            match silent.next().await {
                RawFrame::End => return started.elapsed(),
                RawFrame::Binary(_) | RawFrame::Ping => {}
                other => panic!("{other:?} instead of the plain end of the connection"),
            }
        }
    };
    let (took, ()) = tokio::join!(silence, answer_pings);
    assert!((SILENCE..SILENCE + SLACK).contains(&took), "{took:?}");
    assert!(pings >= 3, "{pings}");
    // A peer that answers pings stays connected.
    let works = call("storage", "exists", &json!({ "path": "x" }));
    alive.send(1, "room.invoke_tool", &works).await;
    assert_eq!(alive.answer(1).await["type"], "json");
    drop(alive);
    emptied(&server).await;
}

#[tokio::test]
async fn a_half_open_connection_is_let_go() {
    let server = TestServer::start_with(config()).await;
    // Like a machine that lost power: it reads nothing, sends nothing and closes nothing. It had a
    // document open.
    let mut gone = RawSocket::join(&server).await;
    let open = json!({ "toolkit": "sync", "tool": "open", "tool_call_id": "s", "arguments": { "type": "control", "method": "open" } });
    gone.send(1, "room.invoke_tool", &open).await;
    let start = json!({ "tool_call_id": "s", "chunk": { "type": "binary", "headers": { "kind": "start", "path": "a.document" } } });
    gone.send(2, "room.tool_call_request_chunk", &start).await;
    gone.answer(2).await;
    let took = emptied(&server).await;
    assert!(took < SILENCE + SLACK, "{took:?}");
    drop(gone);
}

#[tokio::test]
async fn who_reads_no_answers_is_let_go() {
    let server = TestServer::start_with(config()).await;
    let client = server.join("ann").await;
    let large = json!({ "document": { "content": [{ "body": { "text": "x".repeat(8 << 20) } }] } });
    client
        .sync()
        .create("a.document", Some(large), None)
        .await
        .unwrap();
    client.close().await;
    // It requests more than the kernel buffers and continues to send, but reads nothing.
    let mut deaf = RawSocket::join(&server).await;
    let describe = call("sync", "describe", &json!({ "path": "a.document" }));
    deaf.send(1, "room.invoke_tool", &describe).await;
    let noise = async {
        loop {
            deaf.bytes(PONG).await;
            tokio::time::sleep(PING / 4).await;
        }
    };
    let took = tokio::select! {
        took = emptied(&server) => took,
        () = noise => unreachable!("it never ends"),
    };
    assert!(took < SILENCE + SLACK, "{took:?}");
}

#[tokio::test]
async fn who_stops_within_a_packet_or_a_message_is_let_go() {
    let server = TestServer::start_with(config()).await;
    let header = [&9_u32.to_be_bytes()[..], b"room.invoke_tool"].concat();

    // Half a frame, then silence.
    let mut within_frame = RawSocket::join(&server).await;
    within_frame
        .bytes(&[0x82, 0xfe, 0x10, 0x00, 0, 0, 0, 0, 1, 2, 3])
        .await;
    // Half the head of a frame.
    let mut within_head = RawSocket::join(&server).await;
    within_head.bytes(&[0x82]).await;
    // The header packet of a message, one packet of nine, and then only answers to pings.
    let mut within_message = RawSocket::join(&server).await;
    within_message.packet(1, 0, &header).await;
    within_message.packet(1, 1, b"the beginning").await;
    // A fragment of a message that never ends, and then only answers to pings.
    let mut within_fragments = RawSocket::join(&server).await;
    within_fragments
        .bytes(&[0x02, 0x82, 0, 0, 0, 0, 1, 2])
        .await;

    // The same with an empty fragment.
    let mut within_nothing = RawSocket::join(&server).await;
    within_nothing.bytes(&[0x02, 0x80, 0, 0, 0, 0]).await;

    // Sockets that end at a frame boundary answer pings; in the others the pongs would be part of
    // the frame.
    let started = Instant::now();
    let mut waiting = JoinSet::new();
    for (what, mut socket, answers) in [
        ("frame", within_frame, false),
        ("head", within_head, false),
        ("message", within_message, true),
        ("fragments", within_fragments, true),
        ("empty fragment", within_nothing, true),
    ] {
        waiting.spawn(async move {
            loop {
                match socket.next().await {
                    RawFrame::End => return (what, started.elapsed()),
                    RawFrame::Ping if answers => socket.bytes(PONG).await,
                    RawFrame::Ping => {}
                    other => panic!("{other:?} instead of the plain end within a {what}"),
                }
            }
        });
    }
    while let Some(ended) = tokio::time::timeout(PATIENCE, waiting.join_next())
        .await
        .expect("each is let go")
    {
        let (what, took) = ended.unwrap();
        assert!(
            took < SILENCE.max(MESSAGE) + SLACK,
            "within a {what}: {took:?}"
        );
    }
    emptied(&server).await;
}

#[tokio::test]
async fn who_is_done_with_a_faulty_message_has_no_time_limit() {
    let server = TestServer::start_with(config()).await;
    let mut socket = RawSocket::join(&server).await;
    let header = [&3_u32.to_be_bytes()[..], b"room.invoke_tool"].concat();
    // One packet is missing. After the refusal the rest of the message is skipped.
    socket.packet(1, 0, &header).await;
    socket.packet(1, 2, b"too early").await;
    assert_eq!(socket.answer(1).await["code"], 1002);
    socket.packet(1, 3, b"the rest of it").await;
    let started = Instant::now();
    while started.elapsed() < MESSAGE * 2 {
        match socket.next().await {
            RawFrame::Ping => socket.bytes(PONG).await,
            other => panic!("{other:?} after {:?}", started.elapsed()),
        }
    }
    let works = call("storage", "exists", &json!({ "path": "x" }));
    socket.send(2, "room.invoke_tool", &works).await;
    assert_eq!(socket.answer(2).await["type"], "json");
}

/// Sends empty fragments of a message that never ends, as fast as possible; returns how many bytes
/// were accepted before the connection ended.
async fn taken_of_nothing(server: &TestServer, enough: usize) -> usize {
    let mut socket = RawSocket::join(server).await;
    socket.fragment(2, b"x").await;
    let nothing = [0x00, 0x80, 0, 0, 0, 0].repeat(10_000);
    let mut taken = 0;
    while taken < enough && socket.are_taken(&nothing).await {
        taken += nothing.len();
    }
    taken
}

#[tokio::test]
async fn a_message_of_empty_frames_is_paced_and_ends_in_time() {
    // Far more than the kernel buffers, which holds some megabytes of unread data.
    const MUCH: usize = 64 << 20;
    let mut config = config();
    config.limits.max_bytes_per_second = 64 << 10;
    let server = TestServer::start_with(config).await;
    let taken = taken_of_nothing(&server, MUCH).await;
    assert!(taken < MUCH, "{} MiB are taken", taken >> 20);
}

#[tokio::test]
async fn a_message_that_never_ends_has_its_time_however_fast_it_comes() {
    let mut config = config();
    config.message_timeout = Duration::from_millis(200);
    config.limits.max_bytes_per_second = u64::MAX;
    let server = TestServer::start_with(config).await;
    let ends = taken_of_nothing(&server, usize::MAX);
    let ended = tokio::time::timeout(PATIENCE, ends).await;
    ended.expect("the connection is gone");
}

#[tokio::test]
async fn a_message_has_the_time_for_which_the_server_makes_it_wait() {
    const RATE: usize = 128 << 10;
    let mut config = Config::default();
    config.message_timeout = MESSAGE;
    config.limits.max_bytes_per_second = RATE as u64;
    let server = TestServer::start_with(config).await;
    let mut socket = RawSocket::join(&server).await;
    // A burst may take two seconds' worth, and each message takes three and a half: in one frame,
    // in fragments, and in packets.
    let exists = call("storage", "exists", &json!({ "path": "x" })).to_string();
    let exists = exists + &" ".repeat(7 * RATE / 2);
    let begin = [&1_u32.to_be_bytes()[..], b"room.invoke_tool"].concat();
    let body = [&(exists.len() as u64).to_be_bytes()[..], exists.as_bytes()].concat();
    let packet = |id: u64| [&id.to_be_bytes()[..], &1_u32.to_be_bytes(), &body].concat();
    socket.packet(1, 0, &begin).await;
    socket.frame(2, &packet(1)).await;
    assert_eq!(socket.answer(1).await["type"], "json");

    socket.packet(2, 0, &begin).await;
    let packet = packet(2);
    let (last, fragments) = {
        let mut fragments: Vec<_> = packet.chunks(20_000).collect();
        (fragments.pop().unwrap(), fragments)
    };
    for (number, fragment) in fragments.into_iter().enumerate() {
        socket
            .fragment(if number == 0 { 2 } else { 0 }, fragment)
            .await;
    }
    socket.frame(0, last).await;
    assert_eq!(socket.answer(2).await["type"], "json");

    let parts = body.chunks(20_000);
    let count = u32::try_from(parts.len()).unwrap();
    let begin = [&count.to_be_bytes()[..], b"room.invoke_tool"].concat();
    socket.packet(3, 0, &begin).await;
    for (number, part) in (1..).zip(parts) {
        socket.packet(3, number, part).await;
    }
    assert_eq!(socket.answer(3).await["type"], "json");
}

#[tokio::test]
async fn who_takes_something_all_the_time_is_kept() {
    // A packet takes longer than the time for which a peer may read nothing.
    const STEP: Duration = Duration::from_millis(40);
    const STEP_BYTES: usize = 2 << 10;
    let server = TestServer::start_with(config()).await;
    let put = Write::PutFile {
        room: RoomId::new(server.key.project_id.as_str(), "room"),
        path: "f".to_owned(),
        data: vec![7; 4 << 20].into(),
        mime_type: String::new(),
        overwrite: true,
        at: Timestamp(0),
    };
    server.store.commit(&[put]).unwrap();
    let mut slow = RawSocket::narrow(&server).await;
    let open = json!({ "toolkit": "storage", "tool": "download", "tool_call_id": "d", "arguments": { "type": "control", "method": "open" } });
    slow.send(1, "room.invoke_tool", &open).await;
    let start = json!({ "kind": "start", "path": "f", "chunk_size": 1 << 20 });
    let chunk =
        |headers| json!({ "tool_call_id": "d", "chunk": { "type": "binary", "headers": headers } });
    slow.send(2, "room.tool_call_request_chunk", &chunk(start))
        .await;
    slow.answer(2).await;
    for id in 3..7 {
        let pull = chunk(json!({ "kind": "pull" }));
        slow.send(id, "room.tool_call_request_chunk", &pull).await;
    }
    let mut taken = 0;
    while taken < 400 << 10 {
        let some = slow.some(STEP_BYTES).await;
        assert!(some > 0, "dropped after {} KiB", taken >> 10);
        taken += some;
        slow.bytes(PONG).await;
        tokio::time::sleep(STEP).await;
    }
}

/// A peer that reads little of what it is sent, and shows that it is alive.
async fn reads_nothing(server: &TestServer) -> tokio::task::JoinHandle<()> {
    let mut socket = RawSocket::narrow(server).await;
    let enable = call("messaging", "enable", &json!({}));
    socket.send(1, "room.invoke_tool", &enable).await;
    socket.answer(1).await;
    tokio::spawn(async move {
        loop {
            socket.bytes(PONG).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    })
}

#[tokio::test]
async fn edits_do_not_wait_for_somebody_who_does_not_read() {
    /// Well below a second for each message, and well above the time that they take.
    const SOON: Duration = Duration::from_secs(20);
    let server = TestServer::start().await;
    let deaf = reads_nothing(&server).await;
    let author = server.join("schreïber").await;
    let start = SyncOpenStart::new(DocPath::parse("a.document").unwrap());
    let stream = author.sync().open(&start).await.unwrap();
    let mut editor = MeshDocument::new(MeshSchema::builtin("document").unwrap(), 5);
    let text = json!("ü".repeat(8 << 10)).to_string();
    let talks = async {
        for _ in 0..128 {
            let input = Content::Json(json!({ "type": "t", "message_json": text }));
            let said = author.invoke("messaging", "broadcast", input).await;
            assert_eq!(said, Ok(Content::Empty));
        }
        for number in 0..20 {
            let before = editor.state_vector();
            let element = json!({ "body": { "text": "größer" } });
            editor
                .append_child(Target::Root, element, &mut || format!("e{number}"))
                .unwrap();
            let update = editor.encode_diff(&before).unwrap();
            assert_eq!(stream.send(&update).await.unwrap().notice, None);
        }
    };
    let done = tokio::time::timeout(SOON, talks).await;
    done.expect("nobody else's reading is waited for");
    deaf.abort();
    server.stop().await;
}
