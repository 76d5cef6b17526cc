//! Detecting that a peer has closed a connection while nothing is read from it.

use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;

/// Interval of checks of a connection that has sent something and waits for its room.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Waits until the peer has closed the connection, without reading from it.
pub(super) async fn peer_closes(stream: &TcpStream) {
    loop {
        match stream.ready(Interest::READABLE).await {
            Ok(ready) if !ready.is_read_closed() => {}
            _ => return,
        }
        // Unread data keeps the socket readable, so the end can only be found by polling.
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
