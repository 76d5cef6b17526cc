//! A client's session against a scripted server.

use meshagent_protocol::client_session::{Event, MalformedInput};
use meshagent_protocol::{
    Calls, ClientSession, ClientToServer, Content, Control, DuplicateCall, Envelope, ErrorCode,
    MessageId, PacketLimits, PacketReader, ServerToClient, UnknownStream,
};
use serde_json::{Map, json};

use crate::test;

struct Pair {
    client: ClientSession,
    reader: PacketReader,
}

impl Pair {
    fn new() -> Self {
        Self {
            client: ClientSession::new(PacketLimits::default()),
            reader: PacketReader::new(PacketLimits::default()),
        }
    }

    /// The messages that the client has sent.
    fn sent(&mut self) -> Vec<Envelope> {
        let mut sent = Vec::new();
        while let Some(packet) = self.client.poll_transmit() {
            if let Some(message) = self.reader.handle_packet(&packet).unwrap() {
                sent.push(Envelope::parse(message).unwrap());
            }
        }
        sent
    }

    /// The events after a message of the server.
    fn receive(&mut self, message: &ServerToClient) -> Vec<Event> {
        let mut packets = Vec::new();
        message.encode(MessageId::from(1 << 40), &mut packets);
        for packet in packets {
            self.client.handle_packet(&packet);
        }
        std::iter::from_fn(|| self.client.poll_event()).collect()
    }

    fn answer(&mut self, request: MessageId, content: Content) -> Vec<Event> {
        self.receive(&ServerToClient::Response { request, content })
    }
}

#[test]
fn connection_is_usable_after_both_messages() {
    let mut pair = Pair::new();
    let events = pair.receive(&ServerToClient::RoomReady {
        room_name: "r".to_owned(),
        room_url: "u".to_owned(),
        session_id: "s".to_owned(),
    });
    assert!(matches!(&events[..], [Event::Ready { room_name, .. }] if room_name == "r"));
    assert!(!pair.client.is_connected());
    let events = pair.receive(&ServerToClient::Connected {
        participant_id: "p".to_owned(),
        attributes: Map::new(),
    });
    assert!(matches!(&events[..], [Event::Connected { .. }]));
    assert!(pair.client.is_connected());
    let status = ServerToClient::RoomStatus {
        status: "s".to_owned(),
        message: "m".to_owned(),
    };
    assert_eq!(pair.receive(&status), [Event::Message(status)]);
}

#[test]
fn answers_may_come_in_any_order() {
    let mut pair = Pair::new();
    let first = pair.client.invoke("a", "b", Content::Json(json!({"x": 1})));
    let second = pair.client.invoke("c", "d", Content::Empty);
    let sent = pair.sent();
    assert_eq!(sent.len(), 2);
    let error = Content::error(ErrorCode::NotFound, "no");
    assert_eq!(
        pair.answer(sent[1].id, error.clone()),
        [Event::Response {
            request: second,
            content: error,
        }]
    );
    assert_eq!(
        pair.answer(sent[0].id, Content::Empty),
        [Event::Response {
            request: first,
            content: Content::Empty,
        }]
    );
    // A second answer, or one without a request, is ignored.
    assert_eq!(pair.answer(sent[0].id, Content::Empty), []);
    assert_eq!(pair.client.pending_requests(), 0);
}

#[test]
fn stream_from_open_to_close() {
    let mut pair = Pair::new();
    let stream = pair.client.open_stream("sync", "open");
    let request = pair.client.send_chunk(stream, Content::Empty).unwrap();
    let sent = pair.sent();
    let ClientToServer::Invoke(invoke) = &sent[0].message else {
        panic!("not an invoke: {sent:?}");
    };
    assert_eq!(invoke.arguments, Content::Control(Control::Open));
    let tool_call_id = invoke.tool_call_id.clone().unwrap();
    let chunk = |chunk| ServerToClient::ResponseChunk {
        tool_call_id: tool_call_id.clone(),
        chunk,
    };
    assert_eq!(
        sent[1].message,
        ClientToServer::RequestChunk {
            tool_call_id: tool_call_id.clone(),
            chunk: Content::Empty,
        }
    );
    assert_eq!(
        pair.answer(sent[0].id, Content::Control(Control::Open)),
        [Event::StreamOpened { stream }]
    );
    assert_eq!(
        pair.answer(sent[1].id, Content::Empty),
        [Event::ChunkAnswered {
            stream,
            request,
            content: Content::Empty,
        }]
    );
    let text = Content::Text("hi".to_owned());
    assert_eq!(
        pair.receive(&chunk(text.clone())),
        [Event::Chunk {
            stream,
            chunk: text.clone(),
        }]
    );
    pair.client.close_stream(stream);
    pair.client.close_stream(stream);
    assert_eq!(pair.sent().len(), 1);
    assert_eq!(
        pair.client.send_chunk(stream, Content::Empty),
        Err(UnknownStream)
    );
    // Chunks in transit still arrive until the server closes the stream.
    assert_eq!(pair.receive(&chunk(text.clone())).len(), 1);
    assert_eq!(
        pair.receive(&chunk(Content::close())),
        [Event::StreamClosed {
            stream,
            error: None,
        }]
    );
    assert_eq!(pair.receive(&chunk(text)), []);
    assert_eq!(pair.client.open_streams(), 0);
}

#[test]
fn streams_end_by_rejections_errors_and_abnormal_closes() {
    let mut pair = Pair::new();
    let stream = pair.client.open_stream("t", "u");
    let sent = pair.sent();
    let refusal = Content::error(ErrorCode::NotFound, "no");
    assert_eq!(
        pair.answer(sent[0].id, refusal.clone()),
        [Event::StreamRefused {
            stream,
            content: refusal.clone(),
        }]
    );
    let abnormal = Content::Control(Control::Close {
        status_code: Control::INVALID_DATA,
        message: Some("no".to_owned()),
    });
    for (end, expected) in [(refusal, 1003), (abnormal, 1007)] {
        let stream = pair.client.open_stream("t", "u");
        let sent = pair.sent();
        let ClientToServer::Invoke(invoke) = &sent[0].message else {
            panic!("not an invoke: {sent:?}");
        };
        let events = pair.receive(&ServerToClient::ResponseChunk {
            tool_call_id: invoke.tool_call_id.clone().unwrap(),
            chunk: end,
        });
        let [
            Event::StreamClosed {
                stream: closed,
                error: Some(error),
            },
        ] = &events[..]
        else {
            panic!("not closed: {events:?}");
        };
        assert_eq!(
            (*closed, error.code, error.text.as_str()),
            (stream, Some(expected), "no")
        );
        assert_eq!(
            pair.client.send_chunk(stream, Content::Empty),
            Err(UnknownStream)
        );
    }
}

#[test]
fn malformed_input_is_reported_and_has_no_other_effect() {
    let mut pair = Pair::new();
    pair.client.handle_packet(&[1, 2, 3]);
    assert!(matches!(
        pair.client.poll_event(),
        Some(Event::Malformed(MalformedInput::Packet(_)))
    ));
    let request = pair.client.invoke("a", "b", Content::Empty);
    let sent = pair.sent();
    let content = Content::Empty;
    assert_eq!(
        pair.answer(sent[0].id, content.clone()),
        [Event::Response { request, content }]
    );
}

#[test]
fn duplicate_call_is_rejected() {
    let mut calls = Calls::new();
    calls.open("a", 1).unwrap();
    assert!(
        matches!(calls.open("a", 2), Err(DuplicateCall { tool_call_id, .. }) if tool_call_id == "a")
    );
    *calls.get_mut("a").unwrap() += 10;
    calls.open("b", 5).unwrap();
    assert_eq!(
        (calls.get("a"), calls.get("c"), calls.len()),
        (Some(&11), None, 2)
    );
    assert_eq!(calls.remove("a"), Some(11));
    calls.open("a", 3).unwrap();
    let mut all: Vec<_> = calls.iter().collect();
    all.sort_unstable();
    assert_eq!(all, [("a", &3), ("b", &5)]);
}
