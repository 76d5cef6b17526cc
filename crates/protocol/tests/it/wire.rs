//! Every message with its bytes.

use bytes::Bytes;
use meshagent_protocol::{
    ClientToServer, Content, Control, Envelope, ErrorCode, Invoke, MAX_JSON_DEPTH, Message,
    MessageId, PacketLimits, PacketReader, ServerToClient, SharedChunk,
};
use serde_json::{Map, Value, json};

use crate::hex;
use crate::test;

fn object(json: Value) -> Map<String, Value> {
    json.as_object().unwrap().clone()
}

/// One packet per line: id, index, total and type in hex and text; then, for data, the length of
/// the header in hex, the header as text, the payload in hex.
fn dump(packets: &[Bytes]) -> String {
    let header = &packets[0];
    let mut dump = format!(
        "{} {} {} {}",
        hex::text(&header[..8]),
        hex::text(&header[8..12]),
        hex::text(&header[12..16]),
        std::str::from_utf8(&header[16..]).unwrap()
    );
    for packet in &packets[1..] {
        let length =
            usize::try_from(u64::from_be_bytes(packet[12..20].try_into().unwrap())).unwrap();
        dump += &format!(
            "\n{} {} {} {} {}",
            hex::text(&packet[..8]),
            hex::text(&packet[8..12]),
            hex::text(&packet[12..20]),
            std::str::from_utf8(&packet[20..20 + length]).unwrap(),
            hex::text(&packet[20 + length..])
        );
    }
    dump
}

fn assemble(packets: &[Bytes]) -> Message {
    let mut reader = PacketReader::new(PacketLimits::default());
    let mut messages: Vec<Message> = packets
        .iter()
        .filter_map(|packet| reader.handle_packet(packet).unwrap())
        .collect();
    assert_eq!(messages.len(), 1);
    messages.remove(0)
}

/// Checks a client's message and its bytes, in both directions.
fn check_client(message: ClientToServer, expected: &str) {
    let envelope = Envelope {
        id: MessageId::from(5),
        trace: None,
        message,
    };
    let mut packets = Vec::new();
    envelope.encode(&mut packets);
    assert_eq!(dump(&packets).trim_end(), expected);
    assert_eq!(Envelope::parse(assemble(&packets)), Ok(envelope));
}

/// Checks a server's message and its bytes, in both directions.
fn check_server(message: &ServerToClient, expected: &str) {
    let mut packets = Vec::new();
    message.encode(MessageId::from(9), &mut packets);
    assert_eq!(dump(&packets).trim_end(), expected);
    assert_eq!(
        ServerToClient::parse(&assemble(&packets)),
        Ok(Some(message.clone()))
    );
}

#[test]
fn whole_message_in_hex() {
    let mut packets = Vec::new();
    ServerToClient::Response {
        request: MessageId([0xff, 1, 2, 3, 4, 5, 6, 7]),
        content: Content::Empty,
    }
    .encode(MessageId::from(9), &mut packets);
    let packets: Vec<String> = packets.iter().map(|packet| hex::text(packet)).collect();
    assert_eq!(
        packets,
        [
            concat!(
                "ff01020304050607",
                "00000000",
                "00000001",
                "5f5f726573706f6e73655f5f"
            ),
            concat!(
                "ff01020304050607",
                "00000001",
                "0000000000000010",
                "7b2274797065223a22656d707479227d"
            ),
        ]
    );
}

#[test]
fn client_to_server() {
    check_client(
        ClientToServer::Invoke(Invoke {
            toolkit: "sync".to_owned(),
            tool: "open".to_owned(),
            arguments: Content::Control(Control::Open),
            tool_call_id: Some("c1".to_owned()),
            participant_id: None,
            on_behalf_of_id: None,
        }),
        r#"0000000000000005 00000000 00000001 room.invoke_tool
0000000000000005 00000001 0000000000000063 {"toolkit":"sync","tool":"open","arguments":{"type":"control","method":"open"},"tool_call_id":"c1"}"#,
    );
    check_client(
        ClientToServer::RequestChunk {
            tool_call_id: "c1".to_owned(),
            chunk: Content::Binary {
                headers: object(json!({"kind": "sync"})),
                data: Bytes::from_static(b"AAA="),
            },
        },
        r#"0000000000000005 00000000 00000001 room.tool_call_request_chunk
0000000000000005 00000001 0000000000000049 {"tool_call_id":"c1","chunk":{"type":"binary","headers":{"kind":"sync"}}} 4141413d"#,
    );
    check_client(
        ClientToServer::SetAttributes(object(json!({"z": 1, "a": {"b": null}}))),
        r#"0000000000000005 00000000 00000001 set_attributes
0000000000000005 00000001 0000000000000016 {"z":1,"a":{"b":null}}"#,
    );
    check_client(
        ClientToServer::ListToolkits,
        r"0000000000000005 00000000 00000001 room.list_toolkits
0000000000000005 00000001 0000000000000002 {}",
    );
}

#[test]
fn server_to_client() {
    check_server(
        &ServerToClient::RoomReady {
            room_name: "r".to_owned(),
            room_url: "http://h/rooms/r".to_owned(),
            session_id: "s".to_owned(),
        },
        r#"0000000000000009 00000000 00000001 room_ready
0000000000000009 00000001 0000000000000040 {"room_name":"r","room_url":"http://h/rooms/r","session_id":"s"}"#,
    );
    check_server(
        &ServerToClient::Connected {
            participant_id: "p".to_owned(),
            attributes: object(json!({"name": "n"})),
        },
        r#"0000000000000009 00000000 00000001 connected
0000000000000009 00000001 000000000000003d {"type":"init","participantId":"p","attributes":{"name":"n"}}"#,
    );
    check_server(
        &ServerToClient::RoomStatus {
            status: "s".to_owned(),
            message: "m".to_owned(),
        },
        r#"0000000000000009 00000000 00000001 room.status
0000000000000009 00000001 000000000000001c {"status":"s","message":"m"}"#,
    );
    check_server(
        &ServerToClient::Response {
            request: MessageId::from(3),
            content: Content::error(ErrorCode::NotFound, "no"),
        },
        r#"0000000000000003 00000000 00000001 __response__
0000000000000003 00000001 0000000000000028 {"type":"error","text":"no","code":1003}"#,
    );
    check_server(
        &ServerToClient::ResponseChunk {
            tool_call_id: "c".to_owned(),
            chunk: Content::close(),
        },
        r#"0000000000000009 00000000 00000001 room.tool_call_response_chunk
0000000000000009 00000001 0000000000000053 {"tool_call_id":"c","chunk":{"type":"control","method":"close","status_code":1000}}"#,
    );
    check_server(
        &ServerToClient::Messaging {
            from_participant_id: "p".to_owned(),
            kind: "chat".to_owned(),
            message: json!({"text": "hi"}),
            attachment: Bytes::from_static(&[1]),
        },
        r#"0000000000000009 00000000 00000001 messaging.send
0000000000000009 00000001 0000000000000041 {"from_participant_id":"p","type":"chat","message":{"text":"hi"}} 01"#,
    );
    check_server(
        &ServerToClient::FileUpdated {
            path: "a".to_owned(),
            participant_id: "p".to_owned(),
        },
        r#"0000000000000009 00000000 00000001 storage.file.updated
0000000000000009 00000001 0000000000000021 {"path":"a","participant_id":"p"}"#,
    );
    check_server(
        &ServerToClient::FileDeleted {
            path: "a".to_owned(),
            participant_id: "p".to_owned(),
        },
        r#"0000000000000009 00000000 00000001 storage.file.deleted
0000000000000009 00000001 0000000000000021 {"path":"a","participant_id":"p"}"#,
    );
    check_server(
        &ServerToClient::FileMoved {
            source_path: "a".to_owned(),
            destination_path: "b".to_owned(),
            participant_id: "p".to_owned(),
        },
        r#"0000000000000009 00000000 00000001 storage.file.moved
0000000000000009 00000001 000000000000003f {"source_path":"a","destination_path":"b","participant_id":"p"}"#,
    );
}

/// A message of the given type with this header.
fn message(kind: &str, header: &str) -> Message {
    let mut body = (header.len() as u64).to_be_bytes().to_vec();
    body.extend(header.as_bytes());
    Message {
        id: MessageId::from(4),
        kind: kind.to_owned(),
        body: body.into(),
    }
}

#[test]
fn trace_context_is_removed_from_header() {
    let header = r#"{"a":1,"__meshagent__":{"v":1,"otel":{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}},"b":2}"#;
    let envelope = Envelope::parse(message("set_attributes", header)).unwrap();
    let trace = envelope.trace.unwrap();
    assert_eq!(
        trace.to_string(),
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    );
    assert_eq!(
        envelope.message,
        ClientToServer::SetAttributes(object(json!({"a": 1, "b": 2})))
    );
    let mut packets = Vec::new();
    envelope.encode(&mut packets);
    assert_eq!(Envelope::parse(assemble(&packets)), Ok(envelope));

    // A malformed trace context has no effect on the message.
    for meta in [
        "null",
        "7",
        r#"{"otel":{"traceparent":7}}"#,
        r#"{"otel":{"traceparent":"00-00000000000000000000000000000000-b7ad6b7169203331-01"}}"#,
        r#"{"otel":{"traceparent":"00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}"#,
        r#"{"otel":{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x"}}"#,
        r#"{"otel":{"traceparent":"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}"#,
    ] {
        let header = format!(r#"{{"__meshagent__":{meta}}}"#);
        let envelope = Envelope::parse(message("room.list_toolkits", &header)).unwrap();
        assert_eq!(
            (envelope.trace, envelope.message),
            (None, ClientToServer::ListToolkits)
        );
    }
}

#[test]
fn additional_fields_of_sdks_are_ignored() {
    let header = r#"{"toolkit":"t","tool":"u","participant_id":null,"on_behalf_of_id":"","caller_context":{"x":1},"arguments":{"type":"empty"},"tool_call_id":"0"}"#;
    let envelope = Envelope::parse(message("room.invoke_tool", header)).unwrap();
    let ClientToServer::Invoke(invoke) = envelope.message else {
        panic!("not an invoke");
    };
    assert_eq!(invoke.arguments, Content::Empty);
    assert_eq!(
        (invoke.participant_id, invoke.on_behalf_of_id),
        (None, None)
    );
    assert_eq!(
        Envelope::parse(message("room.call", "")).unwrap().message,
        ClientToServer::Unknown {
            kind: "room.call".to_owned()
        }
    );
}

#[test]
fn errors_name_the_field() {
    let long = "x".repeat(257);
    let invoke = |rest: &str| format!(r#"{{"toolkit":"t","tool":"u",{rest}}}"#);
    let cases = [
        ("room.invoke_tool", "[]".to_owned(), "JSON object"),
        ("room.invoke_tool", "{\"a\":".to_owned(), "invalid JSON"),
        ("room.invoke_tool", "{}".to_owned(), "`toolkit` is missing"),
        (
            "room.invoke_tool",
            r#"{"toolkit":1}"#.to_owned(),
            "`toolkit` must be a string",
        ),
        (
            "room.invoke_tool",
            format!(r#"{{"toolkit":"{long}"}}"#),
            "`toolkit` must be",
        ),
        (
            "room.invoke_tool",
            invoke(r#""x":0"#),
            "`arguments` is missing",
        ),
        (
            "room.invoke_tool",
            invoke(r#""arguments":"x""#),
            "`arguments` must be an object",
        ),
        (
            "room.invoke_tool",
            invoke(r#""arguments":{}"#),
            "`type` is missing",
        ),
        (
            "room.invoke_tool",
            invoke(r#""arguments":{"type":"spam"}"#),
            "unsupported content type: spam",
        ),
        (
            "room.invoke_tool",
            invoke(r#""arguments":{"type":"json"}"#),
            "`json` is missing",
        ),
        (
            "room.invoke_tool",
            invoke(r#""arguments":{"type":"text","text":1}"#),
            "`text` must be",
        ),
        (
            "room.invoke_tool",
            invoke(r#""arguments":{"type":"binary","headers":[]}"#),
            "`headers` must be",
        ),
        (
            "room.invoke_tool",
            invoke(r#""arguments":{"type":"control","method":"x"}"#),
            "`method` must be",
        ),
        (
            "room.invoke_tool",
            invoke(r#""arguments":{"type":"control","method":"close","status_code":70000}"#),
            "`status_code` must be",
        ),
        (
            "room.invoke_tool",
            invoke(r#""arguments":{"type":"empty"},"tool_call_id":7"#),
            "`tool_call_id` must be",
        ),
        (
            "room.tool_call_request_chunk",
            r#"{"chunk":{"type":"empty"}}"#.to_owned(),
            "`tool_call_id` is missing",
        ),
        (
            "room.tool_call_request_chunk",
            r#"{"tool_call_id":"x","chunk":null}"#.to_owned(),
            "`chunk` is missing",
        ),
    ];
    for (kind, header, expected) in cases {
        let error = Envelope::parse(message(kind, &header)).unwrap_err();
        assert_eq!(error.id, MessageId::from(4));
        assert_eq!(error.code(), ErrorCode::InvalidRequest);
        assert!(error.text.contains(expected), "{header}: {}", error.text);
    }
    for body in [
        vec![],
        vec![0; 7],
        vec![0xff; 12],
        vec![0, 0, 0, 0, 0, 0, 0, 3, b'{', b'}'],
    ] {
        let message = Message {
            id: MessageId::from(4),
            kind: "room.invoke_tool".to_owned(),
            body: body.into(),
        };
        let error = Envelope::parse(message).unwrap_err();
        assert_eq!(error.text, "the message header is incomplete");
    }
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| {
        format!(
            "{{\"a\":{}{}}}",
            "[".repeat(depth - 1),
            "]".repeat(depth - 1)
        )
    };
    let parse = |depth| Envelope::parse(message("set_attributes", &nested(depth)));
    assert!(parse(MAX_JSON_DEPTH).is_ok());
    for depth in [MAX_JSON_DEPTH + 1, 200, 1_000_000] {
        let error = parse(depth).unwrap_err();
        assert!(
            error.text.contains("nested deeper than 128"),
            "{}",
            error.text
        );
    }
    // Brackets within strings do not nest.
    let text = format!(r#"{{"a":"\"{}\\"}}"#, "[".repeat(1000));
    assert!(Envelope::parse(message("set_attributes", &text)).is_ok());
}

#[test]
fn shared_chunk_equals_single_chunks() {
    let chunks = [
        Content::close(),
        Content::Empty,
        Content::Binary {
            headers: json!({"method": "sync", "path": "a/\u{1F600}\"\\.document"})
                .as_object()
                .unwrap()
                .clone(),
            // More than one packet.
            data: vec![7; 100_000].into(),
        },
    ];
    for chunk in chunks {
        let shared = SharedChunk::new(&chunk);
        assert_eq!(shared.content(), chunk);
        for call in ["c", "", "\"\\\n\u{7f}\u{1F600}", "a-longer-id-0123456789"] {
            let alone = ServerToClient::ResponseChunk {
                tool_call_id: call.to_owned(),
                chunk: chunk.clone(),
            };
            let id = MessageId::from(9);
            let expected: Vec<Bytes> = alone.packets(id).collect();
            assert_eq!(
                shared.packets(call, id).collect::<Vec<_>>(),
                expected,
                "{call:?}"
            );
        }
    }
}
