//! A room whose server drops connections or refuses them.

use std::time::Duration;

use meshagent_client::{CallError, DocumentEnd, OpenError, RoomEnd, RoomStatus};
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use crate::peer::{Peer, listen, read_head};

#[tokio::test]
async fn a_server_that_drops_whom_it_lets_in_is_asked_less_and_less_often() {
    let (server, room) = listen().await;
    let serve = async {
        let mut dropped = None;
        // The shortest pauses that the random part of 100 ms, 200 ms and so on allows. A slow
        // machine makes them longer, but nothing makes them shorter.
        let shortest = [0, 50, 100, 200, 400, 800].map(Duration::from_millis);
        for shortest in shortest {
            let (stream, _) = server.accept().await.unwrap();
            if let Some(dropped) = dropped {
                let wait = Instant::now() - dropped;
                assert!(wait >= shortest, "{wait:?}, not {shortest:?}");
            }
            let peer = Peer::accept(stream).await;
            dropped = Some(Instant::now());
            drop(peer);
        }
    };
    let (room, ()) = tokio::join!(room.connect(), serve);
    room.unwrap().close().await;
}

#[tokio::test]
async fn why_there_is_no_connection_any_more_is_told_to_each_call() {
    let (server, room) = listen().await;
    let serve = async {
        let (stream, _) = server.accept().await.unwrap();
        drop(Peer::accept(stream).await);
        // The token has expired meanwhile.
        let (stream, _) = server.accept().await.unwrap();
        let (mut stream, _) = read_head(stream).await;
        let answer =
            "HTTP/1.1 403 Forbidden\r\ncontent-length: 26\r\n\r\n{\"error\":\"token expired!\"}";
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream
    };
    let (room, _stream) = tokio::join!(room.connect(), serve);
    let room = room.unwrap();
    let end = RoomEnd::Refused {
        status: 403,
        text: "token expired!".to_owned(),
    };
    let ended = CallError::Ended(end.clone());
    assert_eq!(room.connection().await.unwrap_err(), ended);
    let described = room.sync().describe("a.document").await;
    assert_eq!(described, Err(ended.clone()));
    assert_eq!(room.storage().exists("a.txt").await, Err(ended));
    let opened = room.sync().open("a.document").await.unwrap_err();
    assert!(
        matches!(&opened, OpenError::Ended(DocumentEnd::RoomEnded(why)) if *why == end),
        "{opened:?}"
    );
    let reason = "the server refuses the connection with status 403: token expired!".to_owned();
    assert_eq!(room.status(), RoomStatus::Ended { reason });
}

#[tokio::test]
async fn who_has_left_a_room_is_told_so() {
    let (server, room) = listen().await;
    let serve = async {
        let (stream, _) = server.accept().await.unwrap();
        Peer::accept(stream).await
    };
    let (room, peer) = tokio::join!(room.connect(), serve);
    let room = room.unwrap();
    drop(peer);
    room.close().await;
    let described = room.sync().describe("a.document").await;
    assert_eq!(described, Err(CallError::Ended(RoomEnd::Left)));
    let opened = room.sync().open("a.document").await.unwrap_err();
    assert!(
        matches!(opened, OpenError::Ended(DocumentEnd::Closed)),
        "{opened:?}"
    );
}
