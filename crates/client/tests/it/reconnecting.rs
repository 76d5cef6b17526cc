//! A room whose server comes and goes, or does not want us.

use std::time::Duration;

use meshagent_client::{RoomBuilder, RoomClient};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::peer::Peer;

async fn listen() -> (TcpListener, RoomBuilder) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let room = RoomClient::builder()
        .room_url(format!("ws://{address}/rooms/my-room"))
        .token("token");
    (listener, room)
}

#[tokio::test]
async fn a_server_that_drops_whom_it_lets_in_is_asked_less_and_less_often() {
    let (server, room) = listen().await;
    let serve = async {
        let mut dropped = None;
        // What a random part may leave of 100 ms, 200 ms and so on. A slow machine makes it longer, nothing makes it shorter.
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
