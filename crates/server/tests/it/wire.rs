//! Bytes on the socket: close frames, packets out of order, answers to invalid messages.

use serde_json::json;

use crate::harness::{RawFrame, RawSocket, TestServer, call};

#[tokio::test]
async fn a_clients_close_frame_is_answered_with_1000() {
    let server = TestServer::start().await;
    for close in [&b""[..], &[0x03, 0xe8], &[0x03, 0xe9, b'b', b'y', b'e']] {
        let mut socket = RawSocket::join(&server).await;
        socket.frame(8, close).await;
        assert_eq!(socket.next().await, RawFrame::Close(vec![0x03, 0xe8]));
        assert_eq!(socket.next().await, RawFrame::End);
    }
    let mut socket = RawSocket::join(&server).await;
    socket.frame(9, b"are you there").await;
    assert_eq!(
        socket.next().await,
        RawFrame::Pong(b"are you there".to_vec())
    );
}

#[tokio::test]
async fn a_faulty_message_costs_only_itself() {
    let server = TestServer::start().await;
    let mut socket = RawSocket::join(&server).await;
    let works = call("storage", "exists", &json!({ "path": "x" }));

    // A packet out of order.
    socket
        .packet(
            1,
            0,
            &[&3_u32.to_be_bytes()[..], b"room.invoke_tool"].concat(),
        )
        .await;
    socket.packet(1, 2, b"too early").await;
    assert_eq!(socket.answer(1).await["code"], 1002);
    socket.packet(1, 3, b"the rest of it").await;

    // An absurd declared total allocates nothing and does no harm.
    socket
        .packet(
            2,
            0,
            &[&u32::MAX.to_be_bytes()[..], b"room.invoke_tool"].concat(),
        )
        .await;
    socket.packet(2, 1, b"some").await;
    socket.send(3, "room.invoke_tool", &works).await;
    assert_eq!(socket.answer(3).await["json"]["exists"], false);

    for (id, header) in [
        (
            4,
            json!({ "toolkit": 7, "tool": "exists", "arguments": { "type": "empty" } }),
        ),
        (
            5,
            json!({ "toolkit": "storage", "tool": "exists", "arguments": [] }),
        ),
        (
            6,
            json!({ "toolkit": "storage", "tool": "exists", "arguments": { "type": "unheard of" } }),
        ),
        (7, json!([1, 2])),
    ] {
        socket.send(id, "room.invoke_tool", &header).await;
        let answer = socket.answer(id).await;
        assert_eq!(answer["code"], 1002, "{header}: {answer}");
    }
    socket.send(8, "room.unheard_of", &json!({})).await;
    assert_eq!(socket.answer(8).await["type"], "error");
    // Nested deeper than the limit, then just within it.
    let nested = |depth: usize| {
        let text = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        format!(
            "{{\"toolkit\":\"storage\",\"tool\":\"exists\",\"arguments\":{{\"type\":\"json\",\"json\":{{\"path\":\"x\",\"x\":{text}}}}}}}"
        )
    };
    for (id, depth, refused) in [(9, 200, true), (10, 100, false)] {
        let header = nested(depth);
        socket
            .packet(
                id,
                0,
                &[&1_u32.to_be_bytes()[..], b"room.invoke_tool"].concat(),
            )
            .await;
        socket
            .packet(
                id,
                1,
                &[&(header.len() as u64).to_be_bytes()[..], header.as_bytes()].concat(),
            )
            .await;
        let answer = socket.answer(id).await;
        assert_eq!(
            answer["type"] == "error" && answer["text"].as_str().unwrap().contains("deep"),
            refused,
            "{answer}"
        );
    }
    socket.send(11, "room.invoke_tool", &works).await;
    assert_eq!(socket.answer(11).await["json"]["exists"], false);
}

#[tokio::test]
async fn message_ids_come_back_as_they_were() {
    let server = TestServer::start().await;
    let mut socket = RawSocket::join(&server).await;
    let works = call("storage", "exists", &json!({ "path": "x" }));
    // Ids repeat and use all eight bytes.
    for id in [0, 7, 7, u64::MAX] {
        socket.send(id, "room.invoke_tool", &works).await;
        assert_eq!(socket.answer(id).await["type"], "json");
    }
}

#[tokio::test]
async fn a_call_id_is_scoped_to_its_connection() {
    let server = TestServer::start().await;
    let (mut one, mut two) = (
        RawSocket::join(&server).await,
        RawSocket::join(&server).await,
    );
    let open = json!({ "toolkit": "sync", "tool": "open", "tool_call_id": "same", "arguments": { "type": "control", "method": "open" } });
    for socket in [&mut one, &mut two] {
        socket.send(1, "room.invoke_tool", &open).await;
        assert_eq!(socket.answer(1).await["method"], "open");
    }
    one.send(2, "room.invoke_tool", &open).await;
    assert_eq!(
        one.answer(2).await["code"],
        1002,
        "still in use on this connection"
    );
    // The first call continues: its start is accepted, with nothing but a kind and a path.
    let start = json!({ "tool_call_id": "same", "chunk": { "type": "binary", "headers": { "kind": "start", "path": "a.document" } } });
    one.send(3, "room.tool_call_request_chunk", &start).await;
    let (kind, _, state) = loop {
        let message = one.message().await;
        if message.0 != "storage.file.updated" {
            break message;
        }
    };
    assert_eq!(
        (kind.as_str(), &state["chunk"]["headers"]["kind"]),
        ("room.tool_call_response_chunk", &json!("state"))
    );
    assert_eq!(one.answer(3).await["type"], "empty");
    // The client closes, then the server.
    let close =
        json!({ "tool_call_id": "same", "chunk": { "type": "control", "method": "close" } });
    one.send(4, "room.tool_call_request_chunk", &close).await;
    let mut seen = [one.message().await, one.message().await]
        .map(|(kind, _, header)| (kind, header["chunk"]["method"].clone()));
    seen.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(seen[0].0, "__response__");
    assert_eq!(
        seen[1],
        ("room.tool_call_response_chunk".to_owned(), json!("close"))
    );
}
