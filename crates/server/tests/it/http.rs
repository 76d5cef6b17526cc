//! HTTP peers that send slowly or incompletely, or do not read the response: each has a time limit,
//! and holds little memory meanwhile.

use std::time::{Duration, Instant};

use meshagent_server::Config;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{PATIENCE, TestServer};

/// Time that a busy machine may add.
const SLACK: Duration = Duration::from_secs(15);

fn config() -> Config {
    let mut config = Config::default();
    config.http_timeout = Duration::from_secs(1);
    config.handshake_timeout = Duration::from_secs(1);
    config
}

fn connect_head(server: &TestServer, bearer: &str, length: usize) -> String {
    format!(
        "POST /accounts/projects/{}/rooms/room/connect HTTP/1.1\r\nhost: x\r\n\
         authorization: Bearer {bearer}\r\ncontent-length: {length}\r\n\r\n",
        server.key.project_id
    )
}

/// Sends the beginning of a request; returns the connection and the beginning of the response.
async fn begin(server: &TestServer, head: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut first))
        .await
        .unwrap()
        .unwrap();
    (stream, String::from_utf8_lossy(&first).into_owned())
}

/// Sends bytes, and reads until the connection ends; returns the response and how long that took.
async fn exchange(server: &TestServer, sent: &[u8]) -> (String, Duration) {
    let started = Instant::now();
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(sent).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    // The connection may be reset after the response, since not everything was read.
    let _ = read.expect("the server lets go");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    (answer, started.elapsed())
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or(answer)
}

#[tokio::test]
async fn connect_authenticates_before_it_reads_and_reads_little() {
    let server = TestServer::start_with(config()).await;
    let key = server.key.encode().unwrap();
    let half = "{\"email\": \"jörg@";
    for (bearer, length, body, expected) in [
        // Without a valid token the server does not wait for the body.
        ("", 1_000_000, half, "401"),
        ("a.b.c", 1_000_000, half, "403"),
        ("ma-x-y-z", 100, half, "403"),
        // With one the body may be small, and has a time limit.
        (key.as_str(), 100_000, half, "413"),
        (key.as_str(), 100, half, "408"),
        (key.as_str(), 7, "not json", "400"),
    ] {
        let sent = connect_head(&server, bearer, length) + body;
        let (answer, took) = exchange(&server, sent.as_bytes()).await;
        assert_eq!(status(&answer), expected, "{bearer} {length}: {answer}");
        assert!(took < SLACK, "{bearer} {length}: {took:?}");
    }
    // The same for chunks without a declared total.
    let head =
        connect_head(&server, &key, 0).replace("content-length: 0", "transfer-encoding: chunked");
    let chunks = format!("1000\r\n{}\r\n", " ".repeat(4096)).repeat(3);
    let (answer, _) = exchange(&server, (head + &chunks).as_bytes()).await;
    assert_eq!(status(&answer), "413", "{answer}");
}

#[tokio::test]
async fn a_head_is_bounded() {
    let server = TestServer::start_with(config()).await;
    let sent = format!(
        "GET /healthz HTTP/1.1\r\nhost: x\r\nx: {}",
        "ü".repeat(100_000)
    );
    let (answer, took) = exchange(&server, sent.as_bytes()).await;
    assert!(answer.is_empty() || status(&answer) == "431", "{answer}");
    assert!(took < SLACK, "{took:?}");
}

#[tokio::test]
async fn a_connection_that_is_kept_alive_for_nothing_is_let_go() {
    let server = TestServer::start_with(config()).await;
    let (answer, took) = exchange(&server, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(status(&answer), "200");
    assert!(took < SLACK, "{took:?}");
}

#[tokio::test]
async fn a_download_that_is_not_taken_is_ended() {
    let server = TestServer::start_with(config()).await;
    let client = server.join("ann").await;
    let data: Vec<u8> = (0..24_u32 << 18).flat_map(u32::to_le_bytes).collect();
    client
        .storage()
        .upload("größe.bin", data.clone(), true)
        .await
        .unwrap();
    let url = client.storage().download_url("größe.bin").await.unwrap();
    let target = url.split_once(&server.address).unwrap().1;
    let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");

    // A peer that reads receives the file.
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let head = answer.len() - data.len();
    assert!(answer[..head].ends_with(b"\r\n\r\n"));
    assert!(answer[head..] == data, "another content");

    // A peer that stops reading is disconnected: the rest that it can read was in the buffers.
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.read_exact(&mut [0; 12]).await.unwrap();
    let started = Instant::now();
    loop {
        let (_, _, metrics) = server.http("GET /metrics", &[], "").await;
        if metrics.contains("\nmeshagent_http_connections 1\n") {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "{metrics}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.len() < data.len(), "{} bytes", rest.len());
}

/// Sends bytes that need not be a request; returns the response until the connection ends.
async fn raw(server: &TestServer, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    read.unwrap().unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_host_is_no_longer_than_a_name_may_be() {
    let server = TestServer::start().await;
    for (bytes, status) in [(255, "101"), (20_000, "400")] {
        let host = "a".repeat(bytes);
        let request = format!(
            "GET /rooms/room?token={} HTTP/1.1\r\nhost: {host}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            server.jwt("ann")
        );
        // A close frame makes the server end an accepted connection.
        let close = [0x88, 0x80, 0, 0, 0, 0];
        let answer = raw(&server, &[request.as_bytes(), &close].concat()).await;
        assert_eq!(
            answer.split(' ').nth(1),
            Some(status),
            "{bytes}: {answer:.300}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn heads_that_are_not_complete_take_no_more_than_their_part() {
    let mut config = Config::default();
    config.limits.max_held_bytes = 16 << 20;
    let server = TestServer::start_with(config).await;
    let head = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}", "b".repeat(40 << 10));
    let mut waiting = Vec::new();
    for _ in 0..60 {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        waiting.push(stream);
    }
    let mut ended = 0;
    for stream in &mut waiting {
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_millis(20), stream.read(&mut byte));
        ended += usize::from(read.await.is_ok());
    }
    let (_, _, metrics) = server.http("GET /metrics", &[], "").await;
    let held = metrics
        .lines()
        .find_map(|line| line.strip_prefix("meshagent_held_bytes{kind=\"head\"} "))
        .unwrap_or_else(|| panic!("{metrics}"));
    let held: usize = held.parse().unwrap();
    // All heads together may take a sixteenth of what the server may hold, so only some fit.
    assert!(held <= 1 << 20, "{held} bytes");
    assert!(
        (20..60).contains(&ended),
        "{ended} of 60 were ended, {held} bytes"
    );
    server.stop().await;
}

#[tokio::test]
async fn nobody_is_told_to_go_on_before_the_token_is_looked_at() {
    let server = TestServer::start_with(config()).await;
    let key = server.key.encode().unwrap();
    for (bearer, expected) in [
        ("", "401"),
        ("a.b.c", "403"),
        ("ma-x-y-z", "403"),
        (&*key, "100"),
    ] {
        let body = "{\"email\": \"jörg@example.org\"}";
        let head = connect_head(&server, bearer, body.len());
        let head = head.replace(
            "host: x\r\n",
            "host: x\r\nexpect: 100-continue\r\nconnection: close\r\n",
        );
        let (mut stream, first) = begin(&server, &head).await;
        assert_eq!(status(&first), expected, "{bearer}");
        if expected == "100" {
            stream.write_all(body.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.contains("HTTP/1.1 200"), "{answer}");
        }
    }
}

#[tokio::test]
async fn a_host_that_is_none_or_two_is_refused() {
    let server = TestServer::start().await;
    let room = format!("GET /rooms/room?token={}", server.jwt("ann"));
    let connect = format!(
        "POST /accounts/projects/{}/rooms/room/connect",
        server.key.project_id
    );
    let key = server.key.encode().unwrap();
    for (hosts, is_good) in [
        (&["a.example:80"][..], true),
        (&["[::1]:8080"], true),
        (&["xn--bcher-kva.example"], true),
        (&["a_b.example"], true),
        (&["a.example", "b.example"], false),
        (&["a.example", "a.example"], false),
        (&["a.example/x"], false),
        (&["a.example, b.example"], false),
        (&["ann@a.example"], false),
        (&["a.example?x"], false),
        (&["a\"b"], false),
        (&["<b>"], false),
        (&["a b"], false),
        (&["bücher.example"], false),
        (&["a.example:80:90"], false),
        (&["a.example:x"], false),
        (&["[::1"], false),
    ] {
        let hosts_text = format!("host: {}\r\n", hosts.join("\r\nhost: "));
        for (request, good) in [(&*room, "101"), (&*connect, "200"), ("GET /healthz", "200")] {
            let head = format!(
                "{request} HTTP/1.1\r\n{hosts_text}authorization: Bearer {}\r\nconnection: {}\r\nupgrade: websocket\r\n\
                 sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                if request == room {
                    server.jwt("ann")
                } else {
                    key.clone()
                },
                if request == room { "Upgrade" } else { "close" },
            );
            let (_stream, first) = begin(&server, &head).await;
            let expected = if is_good { good } else { "400" };
            assert_eq!(status(&first), expected, "{hosts:?} {request}");
        }
    }
}

#[tokio::test]
async fn silent_peers_keep_nobody_from_an_answer() {
    let mut config = Config::default();
    config.limits.max_http_connections = 8;
    // No connection reaches its own time limit during the test.
    config.handshake_timeout = 10 * PATIENCE;
    let server = TestServer::start_with(config).await;
    let health = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    for sent in [
        &b""[..],
        "GET /healthz HTTP/1.1\r\nhost: x\r\nx: ü".as_bytes(),
        health,
    ] {
        let mut silent = Vec::new();
        for _ in 0..40 {
            let mut stream = TcpStream::connect(&server.address).await.unwrap();
            stream.write_all(sent).await.unwrap();
            silent.push(stream);
        }
        let (status, _, _) = server.http("GET /readyz", &[], "").await;
        assert_eq!(status, 200);
        for stream in &mut silent {
            if sent == health {
                let mut answer = [0; 12];
                let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer));
                read.await.unwrap().unwrap();
                assert_eq!(&answer, b"HTTP/1.1 200");
            }
        }
    }
    server.stop().await;
}

/// The head of the response to a WebSocket handshake in this version of HTTP.
async fn handshake_head(server: &TestServer, version: &str) -> String {
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let token = server.token("läser").sign(&server.key);
    let request = format!(
        "GET /rooms/room?token={token} HTTP/{version}\r\nhost: x\r\nconnection: Upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    let read = async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap();
    String::from_utf8(head).unwrap().to_lowercase()
}

#[tokio::test]
async fn a_handshake_beside_many_idle_sockets_is_answered_by_the_standard() {
    let mut config = Config::default();
    config.limits.max_http_connections = 8;
    config.handshake_timeout = 10 * PATIENCE;
    let server = TestServer::start_with(config).await;
    let mut idle = Vec::new();
    for _ in 0..6 {
        idle.push(TcpStream::connect(&server.address).await.unwrap());
    }
    // RFC 6455, section 4.2.2. Strict clients refuse `upgrade, close`.
    let head = handshake_head(&server, "1.1").await;
    assert!(head.starts_with("http/1.1 101"), "{head}");
    let mut lines = head.lines().filter(|line| line.starts_with("connection:"));
    assert_eq!(lines.next(), Some("connection: upgrade"), "{head}");
    assert_eq!(lines.next(), None, "{head}");
    // Connections with other requests do not keep their place.
    let health = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(health).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer))
        .await
        .expect("the connection ends")
        .unwrap();
    assert!(
        answer.to_lowercase().contains("connection: close"),
        "{answer}"
    );
    drop(idle);
    server.stop().await;
}

#[tokio::test]
async fn http_1_0_has_no_websockets() {
    let server = TestServer::start().await;
    let head = handshake_head(&server, "1.0").await;
    assert!(head.contains(" 426 "), "{head}");
}

#[tokio::test]
async fn addresses_begin_as_the_proxy_says() {
    let server = TestServer::start().await;
    let bearer = format!("Bearer {}", server.key.encode().unwrap());
    let request = format!(
        "POST /accounts/projects/{}/rooms/room/connect",
        server.key.project_id
    );
    for (proto, scheme) in [
        ("https", "https"),
        ("wss", "https"),
        ("HTTPS", "https"),
        ("https, http", "https"),
        ("http", "http"),
        ("http, https", "http"),
        ("ftp", "http"),
        ("", "http"),
    ] {
        let headers = [("authorization", &*bearer), ("x-forwarded-proto", proto)];
        let (status, _, body) = server.http(&request, &headers, "").await;
        let expected = format!("\"room_url\":\"{scheme}://{}/rooms/room\"", server.address);
        assert!(status == 200 && body.contains(&expected), "{proto}: {body}");
    }
}
