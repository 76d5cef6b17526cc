//! A log that can't be written keeps nobody from working.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;

use crate::serve::{Server, serve_with};
use crate::stop::log_lines;
use crate::stress::{alone, room_url, token};

/// More lines than a pipe holds.
const JOINS: usize = 500;

/// Joins with long names, one log line each at least, then edits. Returns the server.
fn work(log: Stdio, home: &TempDir) -> Server {
    let options = ["--log", "trace", "--shutdown-grace", "5"];
    let server = Server::start_with_log(&mut serve_with(home.path(), &options), log);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        for number in 0..JOINS {
            let name = format!("{number} {}", "ö".repeat(100));
            let url = room_url(server.url());
            let client = meshagent_client::Connection::connect(&url, &token(&name))
                .await
                .unwrap();
            if number == 0 || number + 1 == JOINS {
                let path = format!("datei {number}");
                client.storage().upload(&path, "é", true).await.unwrap();
            }
            client.close().await;
        }
    });
    server
}

fn works(log: Stdio) {
    let _machine = alone();
    let home = TempDir::new().unwrap();
    work(log, &home).terminate();
}

#[test]
fn server_works_while_stderr_is_full() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    works(full.into());
}

#[test]
fn server_works_after_the_reader_of_its_log_has_gone() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    works(writer.into());
}

#[test]
fn server_works_while_nobody_reads_its_log_and_counts_lost_lines() {
    let _machine = alone();
    let home = TempDir::new().unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let server = work(writer.into(), &home);
    log_lines(&server, 10_000);
    // Now somebody reads it.
    let (found, is_found) = std::sync::mpsc::channel();
    let reading = std::thread::spawn(move || {
        let mut text = Vec::new();
        let mut piece = vec![0; 1 << 16];
        let mut was_found = false;
        while let Ok(count @ 1..) = reader.read(&mut piece) {
            text.extend_from_slice(&piece[..count]);
            if !was_found && String::from_utf8_lossy(&text).contains("lines of the log were lost") {
                was_found = true;
                found.send(()).unwrap();
            }
        }
    });
    is_found.recv_timeout(Duration::from_mins(1)).unwrap();
    server.terminate();
    reading.join().unwrap();
}

#[test]
fn server_starts_while_stdout_is_full() {
    let _machine = alone();
    let home = TempDir::new().unwrap();
    let log = home.path().join("log");
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = serve_with(home.path(), &[]);
    let child = command
        .stdout(full)
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let server = Server::without_output(child);
    let started = std::time::Instant::now();
    loop {
        let text = std::fs::read_to_string(&log).unwrap();
        if text.contains("can't write the server's address to stdout") {
            break;
        }
        assert!(started.elapsed().as_secs() < 60, "{text}");
        std::thread::sleep(Duration::from_millis(20));
    }
    server.terminate();
}
