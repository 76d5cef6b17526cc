//! The tools of an attack: sockets into the attacked room, tokens, a time limit.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use meshagent_protocol::{ApiKey, ApiScope, Grant, ParticipantToken};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until, timeout};

use crate::server::{Memory, Server};
use crate::socket::Socket;

/// The attacked room.
pub(crate) const ARENA: &str = "arena";
/// A room without attackers.
pub(crate) const ELSEWHERE: &str = "elsewhere";

/// The durations of the full and of the short form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) is_short: bool,
    /// The time before the attack, with the innocent participants alone.
    pub(crate) baseline: Duration,
    /// The limit of an attack.
    pub(crate) attack: Duration,
    /// The time after the attack until memory must be free again.
    pub(crate) aftermath: Duration,
}

impl Pace {
    pub(crate) const FULL: Self = Self {
        is_short: false,
        baseline: Duration::from_secs(3),
        attack: Duration::from_secs(20),
        aftermath: Duration::from_mins(1),
    };
    pub(crate) const SHORT: Self = Self {
        is_short: true,
        baseline: Duration::from_millis(500),
        attack: Duration::from_secs(3),
        aftermath: Duration::ZERO,
    };
}

#[derive(Debug)]
pub(crate) struct Stage<'a> {
    server: &'a Server,
    pub(crate) pace: Pace,
    begun: OnceCell<Begun>,
    signal: watch::Sender<bool>,
}

/// The state immediately before the attack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    pub(crate) memory: Memory,
    pub(crate) baseline_from: Instant,
    pub(crate) at: Instant,
}

impl<'a> Stage<'a> {
    pub(crate) fn new(server: &'a Server, pace: Pace) -> Self {
        Self {
            server,
            pace,
            begun: OnceCell::new(),
            signal: watch::Sender::new(false),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address
    }

    pub(crate) fn key(&self) -> &ApiKey {
        &self.server.key
    }

    /// Ends the preparations: measures the innocent participants alone, then starts the attack.
    pub(crate) async fn begin(&self) -> Result<()> {
        let baseline_from = Instant::now();
        sleep(self.pace.baseline).await;
        let memory = self.server.memory()?;
        self.server.forget_peaks();
        let begun = Begun {
            memory,
            baseline_from,
            at: Instant::now(),
        };
        if self.begun.set(begun).is_err() {
            bail!("the attack has already begun");
        }
        self.signal.send_replace(true);
        Ok(())
    }

    /// Returns the beginning of the attack, or `None` during the preparations.
    pub(crate) fn begun(&self) -> Option<Begun> {
        self.begun.get().copied()
    }

    /// Waits until the attack has reached its time limit.
    pub(crate) async fn time_is_up(&self) {
        let mut signal = self.signal.subscribe();
        // This stage owns the sender, so the wait cannot fail.
        let _ = signal.wait_for(|has_begun| *has_begun).await;
        if let Some(begun) = self.begun() {
            sleep_until((begun.at + self.pace.attack).into()).await;
        }
    }

    /// Returns `full`, or `short` in the short form.
    pub(crate) fn scaled(&self, full: usize, short: usize) -> usize {
        if self.pace.is_short { short } else { full }
    }

    /// Waits while connections stay open, until most attacks have had their effect.
    pub(crate) async fn hold(&self) {
        let seconds = self.scaled(6, 1) as u64;
        sleep(Duration::from_secs(seconds)).await;
    }

    /// Joins the attacked room with all rights.
    pub(crate) async fn attacker(&self) -> Result<Socket> {
        self.join(&token("mallory"), false).await
    }

    /// Joins the room of a token.
    pub(crate) async fn join(
        &self,
        token: &ParticipantToken,
        has_small_buffer: bool,
    ) -> Result<Socket> {
        let room = token.room().context("the token has no room grant")?;
        let socket = Socket::connect(self.address(), has_small_buffer).await?;
        socket.join(room, &token.sign(self.key())).await
    }

    /// Joins the attacked room `count` times.
    pub(crate) async fn crowd(&self, count: usize, has_small_buffer: bool) -> Result<Vec<Socket>> {
        let mut crowd = Vec::with_capacity(count);
        for _ in 0..count {
            crowd.push(self.join(&token("crowd"), has_small_buffer).await?);
        }
        Ok(crowd)
    }

    /// Creates a document in the attacked room from JSON.
    pub(crate) async fn create(&self, path: &str, json: &str) -> Result<()> {
        let mut socket = self.attacker().await?;
        let input = format!(r#"{{"path":"{path}","json":{json}}}"#);
        expect_accepted(&socket.ask("sync", "create", &input).await?)
    }

    /// Stores a file of `bytes` bytes in the attacked room.
    pub(crate) async fn upload(&self, path: &str, bytes: usize) -> Result<()> {
        self.upload_data(path, &vec![7; bytes]).await
    }

    /// Stores a file in the attacked room.
    pub(crate) async fn upload_data(&self, path: &str, data: &[u8]) -> Result<()> {
        let mut socket = self.attacker().await?;
        socket.open_call("storage", "upload", "up").await?;
        let start = format!(r#"{{"kind":"start","path":"{path}","overwrite":true}}"#);
        let mut last = socket.chunk("up", &start, b"").await?;
        for piece in data.chunks(1 << 20) {
            expect_accepted(&socket.answer(last).await?)?;
            last = socket.chunk("up", r#"{"kind":"data"}"#, piece).await?;
        }
        expect_accepted(&socket.answer(last).await?)?;
        let close = r#"{"tool_call_id":"up","chunk":{"type":"control","method":"close"}}"#;
        let closed = socket
            .message("room.tool_call_request_chunk", close, b"")
            .await?;
        expect_accepted(&socket.answer(closed).await?)?;
        // The file is stored when the server closes the call.
        loop {
            let message = socket.next().await?;
            if message.header["chunk"]["method"] == "close" {
                return Ok(());
            }
        }
    }

    /// Sends a plain GET, and returns the first line of the answer.
    pub(crate) async fn get(&self, path: &str) -> Result<String> {
        let mut socket = Socket::connect(self.address(), false).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        socket.bytes(request.as_bytes()).await?;
        let head = timeout(Duration::from_secs(10), socket.head()).await??;
        Ok(head.lines().next().unwrap_or_default().to_owned())
    }
}

/// Creates a token for the attacked room with all rights.
pub(crate) fn token(name: &str) -> ParticipantToken {
    token_for(name, ARENA)
}

/// Creates a token for a room with all rights.
pub(crate) fn token_for(name: &str, room: &str) -> ParticipantToken {
    let mut token = ParticipantToken::new(name);
    token.grants.push(Grant::Room(room.to_owned()));
    token.grants.push(Grant::Api(Box::new(ApiScope::full())));
    token
}

/// Summarizes an answer in a few words.
pub(crate) fn verdict(answer: &Value) -> String {
    if answer["type"] != "error" {
        return "accepted".to_owned();
    }
    let mut text = answer["text"].as_str().unwrap_or_default().to_owned();
    text.truncate(text.floor_char_boundary(60));
    format!("{}: {text}", answer["code"])
}

fn expect_accepted(answer: &Value) -> Result<()> {
    match verdict(answer).as_str() {
        "accepted" => Ok(()),
        refused => bail!("the preparations were refused: {refused}"),
    }
}
