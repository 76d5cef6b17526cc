//! Shutdown of `meshagent serve`: the process exits some seconds after its grace, whatever its
//! peers do.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use meshagent_client::Connection;
use serde_json::json;
use tempfile::TempDir;

use crate::KEY;
use crate::raw::RawSocket;
use crate::serve::{Server, serve_with};
use crate::stress::{alone, room_url, token};

/// Maximum time for the shutdown, including the grace of one second.
const MAX_SHUTDOWN: Duration = Duration::from_secs(12);

fn serve(home: &TempDir) -> Command {
    let patient = ["--handshake-timeout", "300", "--http-timeout", "300"];
    let mut command = serve_with(home.path(), &patient);
    command.args(["--shutdown-grace", "1"]);
    command
}

/// Stops the server; returns its exit status and the time for the shutdown.
fn terminated(mut server: Server) -> (ExitStatus, Duration) {
    let started = Instant::now();
    server.ask_to_stop();
    loop {
        if let Some(status) = server.ended() {
            return (status, started.elapsed());
        }
        assert!(
            started.elapsed() < MAX_SHUTDOWN * 2,
            "the process has not ended after {:?}",
            started.elapsed()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn plain(server: &Server, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.url().trim_start_matches("http://")).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    stream
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn open_sockets_do_not_block_shutdown() {
    let _machine = alone();
    let home = TempDir::new().unwrap();
    let server = Server::start(&mut serve(&home));
    let half_a_head = plain(&server, "GET /healthz HTTP/1.1\r\nho");
    let project = crate::PROJECT_ID;
    let half_a_body = plain(
        &server,
        &format!(
            "POST /accounts/projects/{project}/rooms/room/connect HTTP/1.1\r\nhost: x\r\n\
             authorization: Bearer {KEY}\r\ncontent-length: 1000\r\n\r\n{{\"email\":"
        ),
    );
    let peers = runtime().block_on(async {
        let client = Connection::connect(&room_url(server.url()), &token("ann"))
            .await
            .unwrap();
        let data = vec![b'x'; 24 << 20];
        client.storage().upload("ä.bin", data, true).await.unwrap();
        let url = client.storage().download_url("ä.bin").await.unwrap();
        let text = "ü".repeat(4 << 20);
        let json = json!({ "document": { "content": [{ "body": { "text": text } }] } });
        client
            .sync()
            .create("a.document", Some(json), None)
            .await
            .unwrap();
        let address = server.url().trim_start_matches("http://");
        let target = url.split_once(address).unwrap().1;
        let mut download = plain(
            &server,
            &format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n"),
        );
        download.read_exact(&mut [0; 12]).unwrap();
        let idle = RawSocket::join(server.url(), "idle", None).await;
        let mut within_a_frame = RawSocket::join(server.url(), "slow", None).await;
        within_a_frame
            .bytes(&[0x82, 0xfe, 0x10, 0, 0, 0, 0, 0, 1])
            .await;
        let mut deaf = RawSocket::join(server.url(), "deaf", Some(4096)).await;
        for id in 0..4 {
            deaf.invoke(id, "sync", "describe", &json!({ "path": "a.document" }))
                .await;
        }
        // All data has arrived before the server stops.
        let _answer = client.storage().list("").await.unwrap();
        (client, download, idle, within_a_frame, deaf)
    });
    let (status, took) = terminated(server);
    assert!(
        status.success() && took < MAX_SHUTDOWN,
        "{status} after {took:?}"
    );
    drop((half_a_head, half_a_body, peers));
}

#[test]
fn busy_room_does_not_block_shutdown_and_keeps_acknowledged_data() {
    let _machine = alone();
    let home = TempDir::new().unwrap();
    let server = Server::start(&mut serve(&home));
    let client_runtime = runtime();
    let socket = client_runtime.block_on(async {
        let client = Connection::connect(&room_url(server.url()), &token("ann"))
            .await
            .unwrap();
        let element = json!({ "body": { "text": "héllo wörld 😀".repeat(4) } });
        let json = json!({ "document": { "content": vec![element; 8_000] } });
        client
            .sync()
            .create("large.document", Some(json), None)
            .await
            .unwrap();
        client.close().await;
        let mut socket = RawSocket::join(server.url(), "busy", None).await;
        let check = json!({
            "path": "large.document",
            "patch": [
                { "op": "copy", "from": "/document/content/0", "path": "/document/content/0" },
            ],
            "dry_run": true,
        });
        for id in 0..400 {
            socket.invoke(id, "sync", "patch", &check).await;
        }
        socket
    });
    let (status, took) = terminated(server);
    assert!(took < MAX_SHUTDOWN, "{status} after {took:?}");
    drop(socket);
    let server = Server::start(&mut serve(&home));
    client_runtime.block_on(async {
        let client = Connection::connect(&room_url(server.url()), &token("ann"))
            .await
            .unwrap();
        let found = client.storage().exists("large.document").await.unwrap();
        assert!(found, "it was acknowledged");
        client.close().await;
    });
    server.kill();
}

/// Has the server refuse so many requests, each of which it logs.
pub(crate) fn log_lines(server: &Server, count: usize) {
    let refused = "GET /rooms/room?token=bad HTTP/1.1\r\nhost: x\r\n\
                   connection: Upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    for _ in 0..count {
        let mut stream = plain(server, refused);
        stream
            .set_read_timeout(Some(Duration::from_mins(1)))
            .unwrap();
        stream.read_exact(&mut [0; 12]).unwrap();
    }
}

/// Requests are logged until the pipe and the queue of lines are full.
#[test]
fn unread_log_delays_neither_requests_nor_shutdown() {
    let _machine = alone();
    let home = TempDir::new().unwrap();
    let server = Server::start_with_log(serve(&home).args(["--log", "trace"]), Stdio::piped());
    log_lines(&server, 10_000);
    let (status, took) = terminated(server);
    assert!(took < MAX_SHUTDOWN, "{took:?}");
    assert_eq!(status.code(), Some(0));
}
