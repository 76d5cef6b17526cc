//! Connections that die silently, as behind a NAT, and clients that only read.

use std::time::Duration;

use meshagent_client::{RoomClient, RoomEvent, RoomStatus};
use tokio::time::timeout;

use crate::cable::Cable;
use crate::harness::{PATIENCE, TestServer};
use crate::live::{append, enter, texts, until};

#[tokio::test]
async fn a_reader_notices_a_connection_that_dies_without_a_word() {
    let server = TestServer::start().await;
    let cable = Cable::new(&server.address, Vec::new()).await;
    let reader = RoomClient::builder()
        .room_url(cable.room_url())
        .token(server.jwt("reader"))
        .ping_interval(Duration::from_millis(200));
    let reader = reader.connect().await.unwrap();
    let read = reader.sync().open("a.document").await.unwrap();
    let mut status = reader.status_changes();
    let mut events = reader.subscribe();

    cable.fall_silent();
    let writer = enter(&server, "writer").await;
    let written = writer.sync().open("a.document").await.unwrap();
    append(&written, "tea ☕");
    written.saved().await.unwrap();

    for expected in [RoomStatus::Reconnecting, RoomStatus::Connected] {
        let changed = timeout(PATIENCE, status.changed()).await;
        assert_eq!(changed.expect("the silence is noticed"), Some(expected));
    }
    until("what was missed is there", || texts(&read) == ["tea ☕"]).await;
    let reason = loop {
        let event = timeout(PATIENCE, events.recv()).await.unwrap();
        if let Some(Ok(RoomEvent::Disconnected { reason })) = event {
            break reason;
        }
    };
    assert_eq!(reason, "the server did not answer any more");
}

#[tokio::test]
async fn an_idle_connection_is_kept_by_the_answers_to_pings() {
    let server = TestServer::start().await;
    let cable = Cable::new(&server.address, Vec::new()).await;
    let interval = Duration::from_millis(200);
    let reader = RoomClient::builder()
        .room_url(cable.room_url())
        .token(server.jwt("reader"))
        .ping_interval(interval);
    let reader = reader.connect().await.unwrap();
    let mut status = reader.status_changes();
    // Longer than a connection without pongs would last.
    let changed = timeout(5 * interval, status.changed()).await;
    assert!(changed.is_err(), "{changed:?}");
}
