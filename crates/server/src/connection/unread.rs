//! A connection of which nothing is read yet.

use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;

/// How often a connection is looked at that has sent something and waits for its room.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Waits until the peer has closed the connection, of which nothing is read yet.
pub(super) async fn peer_closes(stream: &TcpStream) {
    loop {
        match stream.ready(Interest::READABLE).await {
            Ok(ready) if !ready.is_read_closed() => {}
            _ => return,
        }
        // Something came before the end, if that has come.
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
