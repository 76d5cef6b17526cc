//! Attacks on HTTP before and beside the WebSocket: endless heads and bodies, request floods.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::attack::{Attack, AttackResult};
use crate::socket::Socket;
use crate::stage::{Stage, token};

pub(crate) const ATTACKS: fn() -> Vec<Attack> = || {
    vec![
        Attack::new(
            "http-half-bodies",
            "400 half-sent bodies at the connect endpoint, without a token",
            |stage| Box::pin(half_bodies(stage)),
        )
        .in_short(),
        Attack::new(
            "http-readyz",
            "a flood of GET /readyz by 40 sockets",
            |stage| Box::pin(flood(stage, "/readyz")),
        )
        .in_short(),
        Attack::new(
            "http-metrics",
            "a flood of GET /metrics by 40 sockets",
            |stage| Box::pin(flood(stage, "/metrics")),
        ),
        Attack::new(
            "http-slow-heads",
            "500 sockets that send one byte of their request head every second",
            |stage| Box::pin(slow_heads(stage)),
        )
        .in_short(),
        Attack::new(
            "http-headers",
            "200 requests with 90 headers of 4 KB, 200 with 5,000 headers",
            |stage| Box::pin(headers(stage)),
        ),
        Attack::new(
            "http-query",
            "300 handshakes with a query of 60 KB, and with one of 1 MB",
            |stage| Box::pin(query(stage)),
        ),
        Attack::new(
            "http-pipelined",
            "20 sockets that each pipeline 20,000 requests for /metrics and do not read",
            |stage| Box::pin(pipelined(stage)),
        )
        .in_short(),
        Attack::new(
            "http-chunked",
            "100 endless bodies of one-byte chunks at the connect endpoint",
            |stage| Box::pin(chunked(stage)),
        ),
        Attack::new(
            "http-bad-tokens",
            "a flood of handshakes with tokens of 100 KB whose signature is invalid",
            |stage| Box::pin(bad_tokens(stage)),
        )
        .in_short(),
    ]
};

/// The headers of a WebSocket handshake.
const UPGRADE: &str = "\
connection: upgrade\r\nupgrade: websocket\r\n\
sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn connect_path(stage: &Stage<'_>) -> String {
    let project = &stage.key().project_id;
    format!("/accounts/projects/{project}/rooms/arena/connect")
}

async fn half_bodies(stage: &Stage<'_>) -> AttackResult {
    let path = connect_path(stage);
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: 2000000\r\n\r\n"
    );
    let body = vec![b' '; 1_999_000];
    stage.begin().await?;
    let mut sockets = Vec::new();
    let mut refused = 0;
    for _ in 0..400 {
        let mut socket = Socket::connect(stage.address(), false).await?;
        socket.bytes(head.as_bytes()).await?;
        // After a refused head the server may not read the body.
        let sending = tokio::time::timeout(Duration::from_millis(200), socket.bytes(&body));
        if !matches!(sending.await, Ok(Ok(()))) {
            refused += 1;
        }
        sockets.push(socket);
        if stage
            .begun()
            .is_some_and(|begun| begun.at.elapsed() > stage.pace.attack / 2)
        {
            break;
        }
    }
    let result = format!("{} sent, {refused} of them incompletely", sockets.len());
    stage.hold().await;
    Ok(result)
}

async fn flood(stage: &Stage<'_>, path: &str) -> AttackResult {
    let address = stage.address();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let lasts = Duration::from_secs(stage.scaled(8, 1) as u64);
    stage.begin().await?;
    let until = Instant::now() + lasts;
    let mut flood = JoinSet::new();
    for _ in 0..40 {
        let request = request.clone();
        flood.spawn(async move {
            let mut answered = 0;
            while Instant::now() < until {
                let mut socket = Socket::connect(address, false).await?;
                for _ in 0..50 {
                    socket.bytes(request.as_bytes()).await?;
                    let head = socket.head().await?;
                    let length = head
                        .lines()
                        .find_map(|line| line.strip_prefix("content-length: "))
                        .and_then(|length| length.parse().ok());
                    socket.rest(length.unwrap_or(0)).await?;
                    answered += 1;
                    if Instant::now() > until {
                        break;
                    }
                }
            }
            anyhow::Ok(answered)
        });
    }
    let mut answered = 0;
    while let Some(one) = flood.join_next().await {
        answered += one??;
    }
    Ok(format!("{answered} answers"))
}

async fn slow_heads(stage: &Stage<'_>) -> AttackResult {
    stage.begin().await?;
    let mut sockets = Vec::new();
    for _ in 0..stage.scaled(500, 300) {
        let mut socket = Socket::connect(stage.address(), false).await?;
        socket
            .bytes(b"GET /rooms/arena HTTP/1.1\r\nhost: localhost\r\nx-slow: ")
            .await?;
        sockets.push(socket);
    }
    let mut dropped = 0;
    for _ in 0..stage.scaled(14, 1) {
        sleep(Duration::from_secs(1)).await;
        let before = sockets.len();
        let mut kept = Vec::new();
        for mut socket in sockets {
            if socket.bytes(b"x").await.is_ok() {
                kept.push(socket);
            }
        }
        sockets = kept;
        dropped += before - sockets.len();
    }
    Ok(format!("{dropped} of {} dropped", dropped + sockets.len()))
}

/// Sends each request on a socket of its own, and returns the last answer.
async fn each(stage: &Stage<'_>, times: usize, request: &str) -> AttackResult {
    let mut last = String::new();
    for _ in 0..times {
        let mut socket = Socket::connect(stage.address(), false).await?;
        let answer = async {
            socket.bytes(request.as_bytes()).await?;
            socket.head().await
        };
        last = match tokio::time::timeout(Duration::from_secs(5), answer).await {
            Ok(Ok(head)) => head.lines().next().unwrap_or_default().to_owned(),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => "no answer".to_owned(),
        };
    }
    Ok(last)
}

async fn headers(stage: &Stage<'_>) -> AttackResult {
    let long = format!("x-long: {}\r\n", "v".repeat(4 << 10)).repeat(90);
    let many = "x-many: v\r\n".repeat(5_000);
    let requests =
        [long, many].map(|headers| format!("GET / HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n"));
    stage.begin().await?;
    let mut result = String::new();
    for request in &requests {
        result = each(stage, stage.scaled(200, 20), request).await?;
    }
    Ok(result)
}

async fn query(stage: &Stage<'_>) -> AttackResult {
    let requests = [60 << 10, 1 << 20].map(|bytes| {
        let query = "%41".repeat(bytes / 3);
        format!("GET /rooms/arena?token={query} HTTP/1.1\r\nhost: localhost\r\n{UPGRADE}\r\n")
    });
    stage.begin().await?;
    let mut result = String::new();
    for request in &requests {
        result = each(stage, stage.scaled(150, 15), request).await?;
    }
    Ok(result)
}

async fn pipelined(stage: &Stage<'_>) -> AttackResult {
    let requests =
        "GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(stage.scaled(20_000, 2_000));
    stage.begin().await?;
    let mut flood = JoinSet::new();
    for _ in 0..20 {
        let mut socket = Socket::connect(stage.address(), true).await?;
        let requests = requests.clone();
        flood.spawn(async move {
            socket.bytes(requests.as_bytes()).await?;
            anyhow::Ok(socket)
        });
    }
    stage.hold().await;
    Ok("not read".to_owned())
}

async fn chunked(stage: &Stage<'_>) -> AttackResult {
    let path = connect_path(stage);
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n");
    let body = "1\r\n \r\n".repeat(10_000);
    stage.begin().await?;
    let mut flood = JoinSet::new();
    for _ in 0..stage.scaled(100, 20) {
        let mut socket = Socket::connect(stage.address(), false).await?;
        let (head, body) = (head.clone(), body.clone());
        flood.spawn(async move {
            socket.bytes(head.as_bytes()).await?;
            loop {
                socket.bytes(body.as_bytes()).await?;
                sleep(Duration::from_millis(20)).await;
            }
            #[expect(unreachable_code, reason = "it determines the task's type")]
            anyhow::Ok(())
        });
    }
    stage.hold().await;
    let ended = flood.try_join_next().is_some();
    Ok(if ended { "dropped" } else { "still read" }.to_owned())
}

async fn bad_tokens(stage: &Stage<'_>) -> AttackResult {
    let mut token = token(&"n".repeat(50 << 10)).encode(b"another secret");
    token.push('A');
    let request = format!(
        "GET /rooms/arena HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
         {UPGRADE}\r\n"
    );
    stage.begin().await?;
    each(stage, stage.scaled(2_000, 200), &request).await
}
