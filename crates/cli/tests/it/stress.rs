//! What the tests of a server under stress share: tokens, numbers from a seed, a look at the
//! process.

use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use meshagent_protocol::{ApiKey, ApiScope, Grant, ParticipantToken};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::KEY;

/// Lets one test after the other have the machine: together they would measure each other.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    // A test that failed leaves nothing behind that others see.
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A token for everything in the room `room`.
pub(crate) fn token(name: &str) -> String {
    let mut token = ParticipantToken::new(name);
    token.grants.push(Grant::Room("room".to_owned()));
    token.grants.push(Grant::Api(Box::new(ApiScope::full())));
    token.sign(&ApiKey::parse(KEY).unwrap())
}

/// The address of the room `room` of a server.
pub(crate) fn room_url(server: &str) -> String {
    format!("{}/rooms/room", server.replacen("http", "ws", 1))
}

/// What an environment variable says, for longer runs than the usual one.
pub(crate) fn setting<T: FromStr>(name: &str, default: T) -> T {
    let Ok(text) = std::env::var(name) else {
        return default;
    };
    let Ok(value) = text.parse() else {
        panic!("{name} is {text:?}; set it to a number");
    };
    value
}

/// A port that nobody listens on, below those that the system gives to outgoing connections: a
/// client that tries to reach a server which is not there yet could else connect to itself.
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

    /// A generator of its own for one of many actors.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.below(u64::MAX))
    }
}

/// Says how to repeat the test, if it fails.
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

/// The memory that a process has now.
pub(crate) fn resident_kilobytes(process: u32) -> u64 {
    status_kilobytes(process, "VmRSS:")
}

/// The most that it ever had.
pub(crate) fn peak_kilobytes(process: u32) -> u64 {
    status_kilobytes(process, "VmHWM:")
}

fn status_kilobytes(process: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.unwrap().trim().trim_end_matches("kB").trim();
    number.parse().unwrap()
}

/// Asks a server; the status and the body of its answer.
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

/// The value of a metric that has no labels.
pub(crate) async fn metric(server: &str, name: &str) -> f64 {
    let (_, text) = http_get(server, "/metrics").await;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = value.unwrap_or_else(|| panic!("no {name} in {text}"));
    value.parse().unwrap()
}
