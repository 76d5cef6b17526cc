//! Helpers for stress tests: tokens, seeded random numbers, and figures of a process.

use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use meshagent_protocol::{ApiKey, ApiScope, Grant, ParticipantToken};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::KEY;

/// Serializes stress tests, whose measurements would disturb each other.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    // A failed test leaves no state for other tests.
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A token for everything in the room `room`.
pub(crate) fn token(name: &str) -> String {
    let mut token = ParticipantToken::new(name);
    token.grants.push(Grant::Room("room".to_owned()));
    token.grants.push(Grant::Api(Box::new(ApiScope::full())));
    token.sign(&ApiKey::parse(KEY).unwrap())
}

/// The URL of the room `room` on a server.
pub(crate) fn room_url(server: &str) -> String {
    format!("{}/rooms/room", server.replacen("http", "ws", 1))
}

/// A setting from an environment variable, for longer runs.
pub(crate) fn setting<T: FromStr>(name: &str, default: T) -> T {
    let Ok(text) = std::env::var(name) else {
        return default;
    };
    let Ok(value) = text.parse() else {
        panic!("{name} is {text:?}; set it to a number");
    };
    value
}

/// A free port below the range for outgoing connections: otherwise a client that connects before
/// the server listens could connect to itself.
pub(crate) fn quiet_port(random: &mut Random) -> u16 {
    loop {
        let port = u16::try_from(10_000 + random.below(20_000)).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A small generator (`SplitMix64`, Steele et al. 2014).
#[derive(Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    /// An independent generator for one of several tasks.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.below(u64::MAX))
    }
}

/// Prints how to repeat the test, if it fails.
pub(crate) struct Repeat(pub(crate) String);

impl Drop for Repeat {
    #[expect(
        clippy::print_stderr,
        reason = "the test failed, and its output is shown"
    )]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("repeat with: {}", self.0);
        }
    }
}

/// The current memory of a process.
pub(crate) fn resident_kilobytes(process: u32) -> u64 {
    status_kilobytes(process, "VmRSS:")
}

/// The peak memory of a process.
pub(crate) fn peak_kilobytes(process: u32) -> u64 {
    status_kilobytes(process, "VmHWM:")
}

fn status_kilobytes(process: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.unwrap().trim().trim_end_matches("kB").trim();
    number.parse().unwrap()
}

/// Sends a GET request; returns the status and the body.
pub(crate) async fn http_get(server: &str, path: &str) -> (u16, String) {
    let host = server.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// The value of a metric without labels.
pub(crate) async fn metric(server: &str, name: &str) -> f64 {
    let (_, text) = http_get(server, "/metrics").await;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = value.unwrap_or_else(|| panic!("no {name} in {text}"));
    value.parse().unwrap()
}
