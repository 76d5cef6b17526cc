//! The start and the end of a connection.

use std::time::Duration;

use fastwebsockets::OpCode;
use meshagent_client::{CallError, ConnectError, Connection, RoomEvent};
use meshagent_protocol::{ClientToServer, Content, ServerToClient};
use tokio::time::timeout;

use crate::peer::{connect, refuse};

#[tokio::test]
async fn the_room_says_who_is_who() {
    let (room, mut peer) = connect().await;
    assert_eq!(room.room_name(), "my-room");
    assert_eq!(room.local_participant_id(), "p");
    assert_eq!(room.session_id(), "s");
    assert_eq!(room.initial_attributes()["name"], "n");
    peer.ping().await;
    let (opcode, payload) = peer.control_frame().await;
    assert_eq!((opcode, &payload[..]), (OpCode::Pong, &b"hi"[..]));
}

#[tokio::test]
async fn refusals_carry_status_and_text() {
    let answer = "HTTP/1.1 403 Forbidden\r\ncontent-length: 21\r\n\r\n{\"error\":\"bad token\"}";
    let (error, head) = refuse(answer).await;
    assert!(
        matches!(&error, ConnectError::Refused { status: 403, text } if text == "bad token"),
        "{error:?}"
    );
    let head = head.to_lowercase();
    assert!(
        head.starts_with("get /rooms/my-room http/1.1\r\n"),
        "{head}"
    );
    for line in [
        "host: host.example:8080",
        "authorization: bearer token",
        "upgrade: websocket",
    ] {
        assert!(head.contains(line), "{head}");
    }

    let (error, _) = refuse("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
    assert!(
        matches!(&error, ConnectError::Refused { status: 404, text } if text == "Not Found"),
        "{error:?}"
    );
    let (error, _) = refuse("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 5\r\n\r\nproxy").await;
    assert!(
        matches!(&error, ConnectError::Refused { status: 502, text } if text == "proxy"),
        "{error:?}"
    );
    let (error, _) = refuse("hello").await;
    assert!(matches!(error, ConnectError::Http(_)), "{error:?}");
}

#[tokio::test]
async fn addresses_are_checked() {
    for (url, expected) in [
        ("ftp://h/rooms/r", "form"),
        ("ws://h/", "form"),
        ("/rooms/r", "form"),
        ("", "form"),
    ] {
        let error = Connection::connect(url, "t").await.unwrap_err();
        assert!(error.to_string().contains(expected), "{url}: {error}");
    }
    let (stream, _peer) = tokio::io::duplex(64);
    let seen = Connection::connect_over(stream, "ws://h/rooms/r", "a\nb").await;
    assert!(matches!(seen, Err(ConnectError::InvalidToken)));
}

#[tokio::test]
async fn closing_sends_a_close_frame_after_all_that_was_asked() {
    let (room, mut peer) = connect().await;
    let clone = room.clone();
    room.set_attributes(serde_json::Map::new()).await.unwrap();
    let read = async {
        let first = peer.recv().await.message;
        (first, peer.control_frame().await)
    };
    let ((), (first, (opcode, payload))) = tokio::join!(clone.close(), read);
    assert_eq!(first, ClientToServer::SetAttributes(serde_json::Map::new()));
    assert_eq!((opcode, &payload[..]), (OpCode::Close, &[3, 0xe8][..]));
    assert!(room.is_closed());
    let seen = room.invoke("t", "u", Content::Empty).await;
    assert_eq!(seen, Err(CallError::Disconnected));
}

#[tokio::test]
async fn closing_does_not_wait_for_a_server_that_does_not_read() {
    let (room, mut peer) = connect().await;
    let callers: Vec<_> = (0..3)
        .map(|_| {
            let room = room.clone();
            let large = Content::Text("🌿".repeat(2 << 20));
            tokio::spawn(async move { room.invoke("t", "u", large).await })
        })
        .collect();
    // The queues fill up; all tasks share one thread.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    let close = timeout(Duration::from_secs(20), room.close());
    let alive = async {
        // The peer answers, so the client does not declare the connection lost.
        loop {
            peer.ping().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        closed = close => closed.unwrap(),
        () = alive => {}
    }
    for caller in callers {
        assert_eq!(caller.await.unwrap(), Err(CallError::Disconnected));
    }
}

#[tokio::test]
async fn dropping_the_last_handle_closes() {
    let (room, mut peer) = connect().await;
    drop(room);
    assert_eq!(peer.control_frame().await.0, OpCode::Close);
}

#[tokio::test]
async fn dropping_the_last_handle_ends_a_connection_whose_server_does_not_read() {
    let (room, mut peer) = connect().await;
    let mut events = room.subscribe();
    let callers: Vec<_> = (0..3)
        .map(|_| {
            let room = room.clone();
            let large = Content::Text("🌿".repeat(2 << 20));
            tokio::spawn(async move { room.invoke("t", "u", large).await })
        })
        .collect();
    // The queues fill up; all tasks share one thread.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    for caller in callers {
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
    }
    drop(room);
    let end = timeout(Duration::from_secs(20), events.recv());
    let alive = async {
        // The peer answers, so the client does not declare the connection lost.
        loop {
            peer.ping().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        biased;
        end = end => {
            let end = end.unwrap();
            assert!(matches!(end, Some(Ok(RoomEvent::Disconnected { .. }))), "{end:?}");
        }
        () = alive => {}
    }
}

#[tokio::test]
async fn a_lost_connection_is_told_to_everybody_who_waits() {
    let (room, mut peer) = connect().await;
    let mut events = room.subscribe();
    let status = ServerToClient::RoomStatus {
        status: "s".to_owned(),
        message: "m".to_owned(),
    };
    let call = room.invoke("t", "u", Content::Empty);
    let lose = async {
        let (request, _) = peer.invoke().await;
        // Messages that were sent before the end are received.
        peer.send(status).await;
        drop(peer);
        request
    };
    let (seen, _) = tokio::join!(call, lose);
    assert_eq!(seen, Err(CallError::Disconnected));
    let status = RoomEvent::Status {
        status: "s".to_owned(),
        message: "m".to_owned(),
    };
    assert_eq!(events.recv().await, Some(Ok(status)));
    assert!(matches!(
        events.recv().await,
        Some(Ok(RoomEvent::Disconnected { .. }))
    ));
    assert_eq!(events.recv().await, None);
    assert_eq!(room.subscribe().recv().await, None);
}
