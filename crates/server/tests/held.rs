//! The memory that a message takes in the server at its peak, whatever its content: at most 64
//! bytes for each of its bytes, plus 1 MiB.
//!
//! The whole server runs in this process over a store in memory, and all allocations are counted.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]
#![expect(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "the figures are for people"
)]
#![allow(
    clippy::unused_self,
    dead_code,
    reason = "the harness is that of the other tests"
)]

#[path = "it/harness.rs"]
mod harness;

use harness::{PATIENCE, RawSocket, TestServer};
use meshagent_protocol::{ApiScope, Grant, ParticipantToken};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const BYTES_PER_BYTE: usize = 64;
const BYTES_AT_ONCE: usize = 1 << 20;
const PACKET_BYTES: usize = 64 << 10;
/// The approximate size to which a part of each hostile message is repeated.
const LONG: usize = 3 << 19;

/// Measures the peak of allocations since its start.
struct Meter {
    before: usize,
}

impl Meter {
    fn start() -> Self {
        ALLOCATOR.reset_peak_usage();
        Self {
            before: ALLOCATOR.current_usage(),
        }
    }

    fn peak(&self) -> usize {
        ALLOCATOR.peak_usage().saturating_sub(self.before)
    }
}

fn repeat(part: &str) -> String {
    part.repeat(LONG / part.len() + 1)
}

/// A JSON array that repeats a value.
fn array(part: &str) -> String {
    let mut parts = repeat(&format!("{part},"));
    parts.pop();
    format!("[{parts}]")
}

fn call(toolkit: &str, tool: &str, json: &str) -> String {
    format!(
        r#"{{"toolkit":"{toolkit}","tool":"{tool}","tool_call_id":"t","arguments":{{"type":"json","json":{json}}}}}"#
    )
}

async fn join(server: &TestServer, scope: &ApiScope) -> RawSocket {
    let mut token = ParticipantToken::new("raw");
    token.grants.push(Grant::Room("room".to_owned()));
    token.grants.push(Grant::Api(Box::new(scope.clone())));
    let target = format!("/rooms/room?token={}", token.sign(&server.key));
    let mut socket = RawSocket::connect(server, &target, &[]).await.unwrap();
    for kind in ["room_ready", "connected"] {
        assert_eq!(socket.message().await.0, kind);
    }
    socket
}

/// Sends a message with its header in packets, without copying it.
async fn send(socket: &mut RawSocket, id: u64, kind: &str, header: &[u8]) {
    let packets = u32::try_from((8 + header.len()).div_ceil(PACKET_BYTES)).unwrap();
    let begin = [&packets.to_be_bytes()[..], kind.as_bytes()].concat();
    socket.packet(id, 0, &begin).await;
    let (first, rest) = header.split_at(header.len().min(PACKET_BYTES - 8));
    let first = [&(header.len() as u64).to_be_bytes()[..], first].concat();
    socket.packet(id, 1, &first).await;
    for (number, part) in (2..).zip(rest.chunks(PACKET_BYTES)) {
        socket.packet(id, number, part).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_makes_the_server_hold_more_than_its_share() {
    let server = TestServer::start().await;
    let shapes: Vec<(String, String)> = [
        "0",
        "[]",
        "[0]",
        "[[0]]",
        "{}",
        r#"{"":0}"#,
        r#"{"a":{"":[0]}}"#,
        r#""ä""#,
        r#""\u00e4""#,
        "1e5",
        "null",
    ]
    .into_iter()
    .map(|part| (part.to_owned(), array(part)))
    .chain([
        ("digits".to_owned(), format!("[{}]", repeat("7"))),
        (
            "a long string".to_owned(),
            format!(r#"["{}"]"#, repeat("ä")),
        ),
        ("escapes".to_owned(), format!(r#"["{}"]"#, repeat(r"\n"))),
        (
            "one key often".to_owned(),
            format!("{{{}\"k\":0}}", repeat(r#""k":0,"#)),
        ),
        ("cut off".to_owned(), format!("[{}", repeat("{\"\":0},"))),
    ])
    .collect();
    for (scope, name) in [
        (ApiScope::default(), "nobody"),
        (ApiScope::full(), "somebody"),
    ] {
        for (toolkit, tool) in [
            ("sync", "create"),
            ("sync", "patch"),
            ("sync", "describe"),
            ("storage", "list"),
            ("storage", "move"),
            ("messaging", "broadcast"),
            ("elsewhere", "anything"),
        ] {
            for (shape, json) in &shapes {
                // The shape as the document, as the patch and as any other value.
                let input =
                    format!(r#"{{"path":"p.document","json":{{"a":{json}}},"patch":{json}}}"#);
                let input = if tool == "broadcast" {
                    format!(
                        r#"{{"type":"t","message_json":{}}}"#,
                        serde_json::Value::from(json.as_str())
                    )
                } else {
                    input
                };
                let header = call(toolkit, tool, &input);
                drop(input);
                let mut socket = join(&server, &scope).await;
                let meter = Meter::start();
                send(&mut socket, 1, "room.invoke_tool", header.as_bytes()).await;
                let answered = tokio::time::timeout(PATIENCE, socket.answer(1)).await;
                let answer = answered.unwrap();
                let (peak, length) = (meter.peak(), header.len());
                let allowed = length * BYTES_PER_BYTE + BYTES_AT_ONCE;
                let case = format!("{name} sends {shape} to {toolkit}.{tool}");
                println!(
                    "{:6.1} bytes per byte: {case}: {:.80}",
                    peak as f64 / length as f64,
                    answer.to_string()
                );
                assert!(peak <= allowed, "{case}: {peak} bytes for {length}");
            }
        }
    }
    server.stop().await;
}

/// A message of a kind: its body after the length of the header.
struct Hostile {
    case: &'static str,
    kind: &'static str,
    header: Vec<u8>,
    payload: Vec<u8>,
    /// The call that must be open.
    call: Option<(&'static str, &'static str)>,
    /// Chunks that are sent before.
    before: Vec<String>,
}

impl Hostile {
    fn new(case: &'static str, kind: &'static str, header: String) -> Self {
        Self {
            case,
            kind,
            header: header.into_bytes(),
            payload: Vec::new(),
            call: None,
            before: Vec::new(),
        }
    }

    fn chunk(case: &'static str, call: (&'static str, &'static str), headers: &str) -> Self {
        let mut chunk = Self::new(case, "room.tool_call_request_chunk", chunk(headers));
        chunk.call = Some(call);
        chunk
    }

    fn after(mut self, headers: &[&str]) -> Self {
        self.before = headers.iter().map(|headers| chunk(headers)).collect();
        self
    }

    fn with(mut self, payload: Vec<u8>) -> Self {
        self.payload = payload;
        self
    }
}

fn chunk(headers: &str) -> String {
    format!(r#"{{"tool_call_id":"t","chunk":{{"type":"binary","headers":{headers}}}}}"#)
}

/// Sends a message with a payload.
async fn send_all(socket: &mut RawSocket, id: u64, kind: &str, body: &[u8]) {
    let packets = u32::try_from(body.len().div_ceil(PACKET_BYTES)).unwrap();
    let begin = [&packets.to_be_bytes()[..], kind.as_bytes()].concat();
    socket.packet(id, 0, &begin).await;
    for (number, part) in (1..).zip(body.chunks(PACKET_BYTES)) {
        socket.packet(id, number, part).await;
    }
}

fn hostile() -> Vec<Hostile> {
    const OPEN: (&str, &str) = ("sync", "open");
    const UPLOAD: (&str, &str) = ("storage", "upload");
    const DOWNLOAD: (&str, &str) = ("storage", "download");
    // The most that is parsed into values.
    let few = |part: &str| {
        format!(
            "[{}{part}]",
            format!("{part},").repeat(300_000 / part.len())
        )
    };
    let (objects, numbers) = (few(r#"{"":0}"#), few("0"));
    let begin = r#"{"kind":"start","path":"o.document"}"#;
    let upload = r#"{"kind":"start","path":"ä.bin","overwrite":true}"#;
    let start = |more: &str| format!(r#"{{"kind":"start","path":"p.document",{more}}}"#);
    let bytes: Vec<u8> = (0..=250_u8).cycle().take(LONG).collect();
    // Structs of many clients, each almost empty.
    let update: Vec<u8> = [&[0xff, 0xff, 0x3f][..], &bytes].concat();
    let base64 = |bytes: &[u8]| meshagent_protocol::encode_base64(bytes).to_vec();
    vec![
        Hostile::new(
            "attributes",
            "set_attributes",
            format!(r#"{{"ä":{objects}}}"#),
        ),
        Hostile::new(
            "attributes of numbers",
            "set_attributes",
            format!(r#"{{"ä":{numbers}}}"#),
        ),
        Hostile::new(
            "an unknown kind",
            "room.elsewhere",
            format!(r#"{{"ä":{objects}}}"#),
        ),
        Hostile::new("no JSON", "room.invoke_tool", repeat("ä{")),
        Hostile::new("no text", "room.invoke_tool", String::new()).with(bytes.clone()),
        Hostile::new(
            "a chunk of no call",
            "room.tool_call_request_chunk",
            chunk(&format!(r#"{{"a":{objects}}}"#)),
        ),
        Hostile::chunk(
            "initial JSON",
            OPEN,
            &start(&format!(r#""initial_json":{objects}"#)),
        ),
        Hostile::chunk("a schema", OPEN, &start(&format!(r#""schema":{objects}"#))),
        Hostile::chunk(
            "a vector",
            OPEN,
            &start(&format!(r#""vector":"{}""#, repeat("/////w8B"))),
        ),
        Hostile::chunk(
            "a long path",
            OPEN,
            &format!(r#"{{"kind":"start","path":"{}"}}"#, repeat("ä/")),
        ),
        Hostile::chunk("no update", OPEN, r#"{"kind":"sync"}"#)
            .after(&[begin])
            .with(base64(&update)),
        Hostile::chunk("an update of zeros", OPEN, r#"{"kind":"sync"}"#)
            .after(&[begin])
            .with(base64(&vec![0; LONG])),
        Hostile::chunk("no base64", OPEN, r#"{"kind":"sync"}"#)
            .after(&[begin])
            .with(bytes.clone()),
        Hostile::chunk(
            "headers of an update",
            OPEN,
            &format!(r#"{{"kind":"sync","a":{objects}}}"#),
        )
        .after(&[begin]),
        Hostile::chunk(
            "an upload's start",
            UPLOAD,
            &format!(r#"{{"kind":"start","path":"a","name":{objects}}}"#),
        ),
        Hostile::chunk("an upload's piece", UPLOAD, r#"{"kind":"data"}"#)
            .after(&[upload])
            .with(bytes.clone()),
        Hostile::chunk(
            "headers of a piece",
            UPLOAD,
            &format!(r#"{{"kind":"data","a":{numbers}}}"#),
        )
        .after(&[upload]),
        Hostile::chunk(
            "a download's start",
            DOWNLOAD,
            &format!(r#"{{"kind":"start","path":"ä","chunk_size":{numbers}}}"#),
        ),
        Hostile::chunk(
            "a pull",
            DOWNLOAD,
            &format!(r#"{{"kind":"pull","a":{objects}}}"#),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_chunk_and_no_attribute_makes_the_server_hold_more_than_its_share() {
    let server = TestServer::start().await;
    for hostile in hostile() {
        let mut socket = join(&server, &ApiScope::full()).await;
        if let Some((toolkit, tool)) = hostile.call {
            let open = format!(
                r#"{{"toolkit":"{toolkit}","tool":"{tool}","tool_call_id":"t","arguments":{{"type":"control","method":"open"}}}}"#
            );
            send(&mut socket, 1, "room.invoke_tool", open.as_bytes()).await;
            socket.answer(1).await;
        }
        for (id, chunk) in (2..).zip(&hostile.before) {
            send(
                &mut socket,
                id,
                "room.tool_call_request_chunk",
                chunk.as_bytes(),
            )
            .await;
            socket.answer(id).await;
        }
        let header_bytes = (hostile.header.len() as u64).to_be_bytes();
        let body = [&header_bytes[..], &hostile.header, &hostile.payload].concat();
        let (case, kind) = (hostile.case, hostile.kind);
        drop((hostile.header, hostile.payload));
        let meter = Meter::start();
        send_all(&mut socket, 10, kind, &body).await;
        // Some have no answer; the request after them has one.
        let exists = call("storage", "exists", r#"{"path":"ä"}"#);
        send(&mut socket, 11, "room.invoke_tool", exists.as_bytes()).await;
        let answered = tokio::time::timeout(PATIENCE, socket.answer(11)).await;
        answered.unwrap();
        let (peak, length) = (meter.peak(), body.len());
        println!("{:6.1} bytes per byte: {case}", peak as f64 / length as f64);
        let allowed = length * BYTES_PER_BYTE + BYTES_AT_ONCE;
        assert!(peak <= allowed, "{case}: {peak} bytes for {length}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_many_are_sent_is_held_once() {
    let server = TestServer::start().await;
    let scope = ApiScope::full();
    let mut deaf = Vec::new();
    for _ in 0..20 {
        let mut socket = join(&server, &scope).await;
        send(
            &mut socket,
            1,
            "room.invoke_tool",
            call("messaging", "enable", "{}").as_bytes(),
        )
        .await;
        socket.answer(1).await;
        deaf.push(socket);
    }
    let mut speaker = join(&server, &scope).await;
    let text = serde_json::Value::from(format!("\"{}\"", repeat("ä"))).to_string();
    let broadcast = call(
        "messaging",
        "broadcast",
        &format!(r#"{{"type":"t","message_json":{text}}}"#),
    );
    drop(text);
    let meter = Meter::start();
    for id in 1..=3 {
        send(&mut speaker, id, "room.invoke_tool", broadcast.as_bytes()).await;
        speaker.answer(id).await;
    }
    let (peak, length) = (meter.peak(), broadcast.len());
    // Three unread messages, the text of the incoming one, and a packet in flight to each reader.
    let allowed = 8 * length + 20 * (512 << 10) + BYTES_AT_ONCE;
    println!(
        "{peak} bytes for 3 messages of {length} to {} readers",
        deaf.len()
    );
    assert!(peak <= allowed, "{peak} bytes");
    drop(deaf);
    server.stop().await;
}
