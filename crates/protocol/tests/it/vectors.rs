//! The golden vectors, recorded from the published SDKs.

use bytes::Bytes;
use meshagent_protocol::{
    Body, Content, Control, ErrorCode, MessageId, PacketLimits, PacketReader,
};
use serde_json::{Map, Value, json};

use crate::hex;
use crate::test;

pub(crate) fn load(name: &str) -> Value {
    let json = match name {
        "contents.json" => include_str!("../../../../testdata/vectors/contents.json"),
        "packets.json" => include_str!("../../../../testdata/vectors/packets.json"),
        "tokens.json" => include_str!("../../../../testdata/vectors/tokens.json"),
        _ => panic!("no vectors for {name}"),
    };
    serde_json::from_str(json).unwrap()
}

fn contents() -> Vec<(&'static str, Content)> {
    let headers = |json: Value| json.as_object().unwrap().clone();
    vec![
        ("empty", Content::Empty),
        ("text", Content::Text("héllo \"wörld\" 😀\n".to_owned())),
        (
            "json",
            Content::Json(json!({"a": 1, "b": [true, null, 1.5, "ü"], "c": {"d": {}}})),
        ),
        (
            "link",
            Content::Link {
                name: "a link".to_owned(),
                url: "https://example.com/x?y=1".to_owned(),
            },
        ),
        (
            "file",
            Content::File {
                name: "f.bin".to_owned(),
                mime_type: "application/octet-stream".to_owned(),
                data: Bytes::from_static(&[0, 1, 2, 255]),
            },
        ),
        (
            "binary",
            Content::Binary {
                headers: headers(json!({"kind": "sync", "path": "a/b"})),
                data: Bytes::from_static(&[0xde, 0xad, 0xbe, 0xef]),
            },
        ),
        (
            "binary_empty",
            Content::Binary {
                headers: headers(json!({"kind": "start"})),
                data: Bytes::new(),
            },
        ),
        (
            "error",
            Content::Error {
                text: "went wrong".to_owned(),
                code: None,
            },
        ),
        (
            "error_code",
            Content::error(ErrorCode::NotFound, "not here"),
        ),
        ("control_open", Content::Control(Control::Open)),
        ("control_close", Content::close()),
        (
            "control_close_abnormal",
            Content::Control(Control::Close {
                status_code: Control::INVALID_DATA,
                message: Some("bad data".to_owned()),
            }),
        ),
        (
            "raw",
            Content::Raw {
                outputs: vec![json!({"type": "x"})],
            },
        ),
    ]
}

#[test]
fn contents_of_both_sdks_are_read_and_written_like_npm() {
    let vectors = load("contents.json");
    let mut seen = 0;
    for (name, content) in contents() {
        for sdk in ["python", "npm"] {
            let Some(hex) = vectors[sdk][name].as_str() else {
                assert_eq!((sdk, name), ("npm", "raw"));
                continue;
            };
            let body = Body::parse(&hex::bytes(hex).into()).unwrap();
            assert!(!body.header.contains_key("__meshagent__"));
            let read = Content::from_parts(body.header, body.payload).unwrap();
            assert_eq!(read, content, "{sdk} {name}");
            seen += 1;
            if sdk == "npm" {
                assert_eq!(hex::text(&pack(&content)), hex, "{name}");
            }
        }
    }
    let in_file = |sdk: &str| vectors[sdk].as_object().map_or(0, Map::len);
    assert_eq!(seen, in_file("python") + in_file("npm"));
}

/// The body of a message with a content.
fn pack(content: &Content) -> Vec<u8> {
    let body = Body {
        header: content.header(),
        payload: content.payload(),
        trace: None,
    };
    let mut packets = Vec::new();
    body.encode(MessageId::from(1), "t", &mut packets);
    packets[1..]
        .iter()
        .flat_map(|packet| &packet[12..])
        .copied()
        .collect()
}

#[test]
fn packets_of_both_sdks_are_read() {
    let vectors = load("packets.json");
    for (sdk, first_id) in [("python", 1), ("npm", 0)] {
        for (bytes, packets) in vectors[sdk].as_object().unwrap() {
            let bytes: usize = bytes.parse().unwrap();
            let expected: Vec<u8> = (0..bytes).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let packets: Vec<Vec<u8>> = packets
                .as_array()
                .unwrap()
                .iter()
                .map(|packet| hex::bytes(packet.as_str().unwrap()))
                .collect();
            let mut reader = PacketReader::new(PacketLimits::default());
            let (last, others) = packets.split_last().unwrap();
            for packet in others {
                assert_eq!(reader.handle_packet(packet), Ok(None));
            }
            let message = reader.handle_packet(last).unwrap().unwrap();
            assert_eq!(message.id, MessageId::from(first_id));
            assert_eq!(message.kind, "room.invoke_tool");
            assert_eq!(message.body, expected);

            // Up to 1,024 bytes the packets equal the SDKs', byte for byte.
            if bytes <= 1024 {
                let mut ours = Vec::new();
                message.encode(&mut ours);
                assert_eq!(ours, packets, "{sdk} {bytes}");
            }
        }
    }
}
