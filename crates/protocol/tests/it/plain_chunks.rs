//! The short way for the usual chunk: what it takes is what the general parser gives.

use bytes::Bytes;
use meshagent_protocol::{Envelope, Message, MessageId};
use proptest::prelude::*;

use crate::test;

const CHUNK: &str = "room.tool_call_request_chunk";

fn message(kind: &str, header: &[u8], payload: &[u8]) -> Message {
    let mut body = (header.len() as u64).to_be_bytes().to_vec();
    body.extend_from_slice(header);
    body.extend_from_slice(payload);
    Message {
        id: MessageId::from(7),
        kind: kind.to_owned(),
        body: Bytes::from(body),
    }
}

/// Whether the short way takes the message, after a comparison with the general parser.
fn is_taken(message: &Message) -> bool {
    let Some((envelope, _)) = Envelope::parse_plain_chunk(message) else {
        return false;
    };
    assert_eq!(Envelope::parse(message.clone()), Ok(envelope));
    true
}

#[test]
fn usual_chunks_are_taken() {
    for header in [
        r#"{"tool_call_id":"c1","chunk":{"type":"binary","headers":{"kind":"sync"}}}"#,
        r#" { "chunk" : { "headers" : {"kind":"sync"} , "type":"binary" } , "tool_call_id" : "ä\u00e9😀" } "#,
        r#"{"tool_call_id":"c1","chunk":{"type":"bin\u0061ry","headers":{"kind":""}}}"#,
    ] {
        for payload in [&b""[..], b"AAA=", &vec![0xff; 70_000]] {
            assert!(
                is_taken(&message(CHUNK, header.as_bytes(), payload)),
                "{header}"
            );
        }
    }
}

#[test]
fn other_forms_are_left_to_the_general_parser() {
    let long = format!(
        r#"{{"tool_call_id":"{}","chunk":{{"type":"binary","headers":{{"kind":"sync"}}}}}}"#,
        "x".repeat(257)
    );
    let deep = format!(
        r#"{{"tool_call_id":"c","chunk":{{"type":"binary","headers":{{"kind":{}{}}}}}}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    for header in [
        "",
        "[]",
        r#"["c1",["binary",["sync"]]]"#,
        r#"{"tool_call_id":"c1","chunk":["binary",["sync"]]}"#,
        r#"{"tool_call_id":"c1","chunk":{"type":"binary","headers":["sync"]}}"#,
        "{",
        r#"{"tool_call_id":"c1"}"#,
        r#"{"tool_call_id":"","chunk":{"type":"binary","headers":{"kind":"sync"}}}"#,
        r#"{"tool_call_id":7,"chunk":{"type":"binary","headers":{"kind":"sync"}}}"#,
        r#"{"tool_call_id":"c1","chunk":{"type":"json","headers":{"kind":"sync"}}}"#,
        r#"{"tool_call_id":"c1","chunk":{"type":"binary","headers":null}}"#,
        r#"{"tool_call_id":"c1","chunk":{"type":"binary","headers":{"kind":"sync","vector":"AA=="}}}"#,
        r#"{"tool_call_id":"c1","tool_call_id":"c2","chunk":{"type":"binary","headers":{"kind":"sync"}}}"#,
        r#"{"tool_call_id":"c1","chunk":{"type":"binary","headers":{"kind":"sync"}},"__meshagent__":{"v":1}}"#,
        &long,
        &deep,
    ] {
        assert!(
            !is_taken(&message(CHUNK, header.as_bytes(), b"AAA=")),
            "{header}"
        );
    }
    let header = br#"{"tool_call_id":"c1","chunk":{"type":"binary","headers":{"kind":"sync"}}}"#;
    assert!(!is_taken(&message("room.invoke_tool", header, b"")));
    let mut short = message(CHUNK, header, b"");
    short.body.truncate(7);
    assert!(!is_taken(&short));
    short = message(CHUNK, header, b"");
    short.body.truncate(20);
    assert!(!is_taken(&short));
}

proptest! {
    /// A header of the usual form in which any bytes are replaced, removed or repeated.
    #[test]
    fn damaged_headers_give_the_same(
        edits in prop::collection::vec((0_usize..90, 0_usize..4, any::<u8>()), 0..4),
    ) {
        let header = r#"{"tool_call_id":"ä-1","chunk":{"type":"binary","headers":{"kind":"sync"}}}"#;
        let mut header = header.as_bytes().to_vec();
        for (at, kind, byte) in edits {
            let at = at % header.len();
            match kind {
                0 => header[at] = byte,
                1 => drop(header.remove(at)),
                2 => header.insert(at, header[at]),
                _ => header.insert(at, b"\"{}[],:\\ "[usize::from(byte) % 9]),
            }
        }
        is_taken(&message(CHUNK, &header, b"AAA="));
    }
}
