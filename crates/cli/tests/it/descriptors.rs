//! A server with a low limit on open files: it lowers its limits, logs that once, and answers
//! health checks.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::serve::{Server, serve_with, under_limit};
use crate::stress::{alone, http_get, token};
use crate::{meshagent, run};

/// No step takes this long; a test that hangs fails.
const PATIENCE: Duration = Duration::from_mins(1);

/// A server with a hard limit on open files.
fn serve_with_files(home: &Path, files: u64, options: &[&str]) -> Command {
    under_limit(&serve_with(home, options), home, &format!("-n {files}"))
}

/// Sends a handshake; returns the connection and the status of the response.
async fn join(server: &str) -> (TcpStream, String) {
    let host = server.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).await.unwrap();
    let request = format!(
        "GET /rooms/room?token={} HTTP/1.1\r\nhost: {host}\r\n\
         connection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        token("gast – 客")
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    let read = timeout(PATIENCE, stream.read_exact(&mut head)).await;
    read.expect("every handshake has an answer").unwrap();
    let status = String::from_utf8_lossy(&head[9..]).into_owned();
    (stream, status)
}

#[test]
fn health_checks_succeed_with_few_descriptors() {
    let _machine = alone();
    let home = TempDir::new().unwrap();
    let log = home.path().join("log");
    let mut command = serve_with_files(home.path(), 256, &[]);
    let server = Server::start_with_log(&mut command, File::create(&log).unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut connections = Vec::new();
        let (mut joined, mut refused) = (0, 0);
        for _ in 0..300 {
            let (stream, status) = join(server.url()).await;
            match &*status {
                "101" => joined += 1,
                "503" => refused += 1,
                _ => panic!("{status}"),
            }
            connections.push(stream);
            if refused > 20 {
                break;
            }
        }
        assert!((100..256).contains(&joined), "{joined} joined");
        for path in ["/readyz", "/healthz"] {
            let (status, _) = timeout(PATIENCE, http_get(server.url(), path))
                .await
                .unwrap();
            assert_eq!(status, 200, "{path}");
        }
    });
    server.terminate();
    let log = fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("files open"))
        .collect();
    assert!(
        lines.len() == 1 && lines[0].contains("--max-connections") && lines[0].contains("256"),
        "{lines:?}"
    );
    assert!(!log.contains("no connection accepted"), "{log}");
}

#[test]
fn enough_descriptors_log_nothing_and_too_few_are_refused() {
    let home = TempDir::new().unwrap();
    let log = home.path().join("log");
    let options = ["--max-connections", "100"];
    let mut command = serve_with_files(home.path(), 256, &options);
    Server::start_with_log(&mut command, File::create(&log).unwrap()).terminate();
    let text = fs::read_to_string(&log).unwrap();
    assert!(!text.contains("--max-connections"), "{text}");
    let ran = run(&mut serve_with_files(home.path(), 40, &options));
    assert!(
        ran.code == Some(2) && ran.stderr.contains("40") && ran.stderr.contains("ulimit -n"),
        "{:?} {}",
        ran.code,
        ran.stderr
    );
}

#[test]
fn limit_of_zero_is_refused() {
    let home = TempDir::new().unwrap();
    for option in [
        "--max-connections",
        "--max-participants-per-room",
        "--max-message-bytes",
        "--max-held-bytes",
        "--max-streams",
        "--max-messages-per-second",
        "--max-documents",
        "--handshake-timeout",
        "--ping-interval",
        "--connect-token-ttl",
    ] {
        for value in ["0", "-1", "zwölf", ""] {
            let argument = format!("{option}={value}");
            let ran = run(&mut meshagent(
                home.path(),
                &["serve", &argument, "--listen", "127.0.0.1:1"],
            ));
            assert_eq!(ran.code, Some(2), "{argument}: {}", ran.stderr);
            assert!(
                ran.stderr.contains(option) && ran.stderr.contains("at least 1"),
                "{argument}: {}",
                ran.stderr
            );
        }
    }
}
