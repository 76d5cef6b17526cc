//! Attacks on storage: unread downloads, endless uploads, large folders, repeated moves.

use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::attack::{Attack, AttackResult};
use crate::socket::Socket;
use crate::stage::{Stage, token, token_for, verdict};

const FILE_BYTES: usize = 48 << 20;

pub(crate) const ATTACKS: fn() -> Vec<Attack> = || {
    vec![
        Attack::new(
            "download-unpulled",
            "one connection starts 80 downloads of a 48 MB file and pulls nothing",
            |stage| Box::pin(unpulled(stage)),
        )
        .in_short(),
        Attack::new(
            "download-crowd",
            "20 participants start 40 downloads each of a 48 MB file and pull nothing",
            |stage| Box::pin(crowd(stage)),
        ),
        Attack::new(
            "download-links",
            "80 downloads of a 48 MB file through a link, by sockets that do not read",
            |stage| Box::pin(links(stage)),
        ),
        Attack::new(
            "download-restarts",
            "a download of a 48 MB file started 300 times and closed after one chunk",
            |stage| Box::pin(restarts(stage)),
        ),
        Attack::new(
            "download-tiny-pieces",
            "a download of 1 MB in chunks of one byte, with 50,000 pulls in advance",
            |stage| Box::pin(tiny_pieces(stage)),
        ),
        Attack::new(
            "upload-unfinished",
            "unfinished uploads of 40 MB in each of 30 rooms",
            |stage| Box::pin(unfinished(stage)),
        ),
        Attack::new(
            "upload-tiny-pieces",
            "an upload in 100,000 chunks of one byte",
            |stage| Box::pin(upload_tiny_pieces(stage)),
        ),
        Attack::new(
            "upload-names",
            "4,000 uploads started on one connection, with names and media types of 50 KB",
            |stage| Box::pin(upload_names(stage)),
        ),
        Attack::new(
            "storage-list",
            "a folder of 3,000 entries listed 2,000 times by a participant that does not read",
            |stage| Box::pin(list(stage)),
        ),
        Attack::new(
            "storage-moves",
            "a folder of 200 documents moved back and forth 2,000 times",
            |stage| Box::pin(moves(stage)),
        ),
        Attack::new(
            "storage-moves-many",
            "36 participants move folders of 20,000 files with long paths back and forth, and 20 \
             others observe them",
            |stage| Box::pin(moves_many(stage)),
        )
        .in_short(),
        Attack::new(
            "storage-moves-edited",
            "an open document moved and edited in turn, 2,000 times",
            |stage| Box::pin(moves_edited(stage)),
        )
        .in_short(),
        Attack::new(
            "storage-paths",
            "paths of 1 MB, of 500,000 folders, and with names that no file system accepts",
            |stage| Box::pin(paths(stage)),
        )
        .in_short(),
    ]
};

async fn unpulled(stage: &Stage<'_>) -> AttackResult {
    stage.upload("big", FILE_BYTES).await?;
    let mut socket = stage.attacker().await?;
    socket.drain();
    stage.begin().await?;
    for number in 0..80 {
        let call = format!("d{number}");
        socket.open_call("storage", "download", &call).await?;
        let start = r#"{"kind":"start","path":"big","chunk_size":65536}"#;
        socket.chunk(&call, start, b"").await?;
    }
    stage.hold().await;
    Ok("all sent".to_owned())
}

async fn crowd(stage: &Stage<'_>) -> AttackResult {
    stage.upload("big", FILE_BYTES).await?;
    let mut sockets = Vec::new();
    for number in 0..stage.scaled(20, 5) {
        let mut socket = stage.join(&token(&format!("crowd{number}")), false).await?;
        socket.drain();
        sockets.push(socket);
    }
    stage.begin().await?;
    for socket in &mut sockets {
        for number in 0..40 {
            let call = format!("d{number}");
            socket.open_call("storage", "download", &call).await?;
            let start = r#"{"kind":"start","path":"big","chunk_size":65536}"#;
            socket.chunk(&call, start, b"").await?;
        }
    }
    stage.hold().await;
    Ok("all sent".to_owned())
}

async fn links(stage: &Stage<'_>) -> AttackResult {
    stage.upload("big", FILE_BYTES).await?;
    let mut socket = stage.attacker().await?;
    let answer = socket
        .ask("storage", "download_url", r#"{"path":"big"}"#)
        .await?;
    let url = answer["json"]["url"]
        .as_str()
        .with_context(|| format!("expected a link, found {answer}"))?;
    let path = url
        .find("/rooms/")
        .map(|at| &url[at..])
        .with_context(|| format!("expected a link to a room, found {url:?}"))?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stage.begin().await?;
    let mut sockets = Vec::new();
    for _ in 0..80 {
        let mut socket = Socket::connect(stage.address(), true).await?;
        socket.bytes(request.as_bytes()).await?;
        sockets.push(socket);
    }
    stage.hold().await;
    Ok("all sent".to_owned())
}

async fn restarts(stage: &Stage<'_>) -> AttackResult {
    stage.upload("big", FILE_BYTES).await?;
    let mut socket = stage.attacker().await?;
    socket.drain();
    stage.begin().await?;
    for number in 0..stage.scaled(300, 30) {
        let call = format!("d{number}");
        socket.open_call("storage", "download", &call).await?;
        socket
            .chunk(&call, r#"{"kind":"start","path":"big"}"#, b"")
            .await?;
        socket.chunk(&call, r#"{"kind":"pull"}"#, b"").await?;
        let close =
            format!(r#"{{"tool_call_id":"{call}","chunk":{{"type":"control","method":"close"}}}}"#);
        socket
            .message("room.tool_call_request_chunk", &close, b"")
            .await?;
    }
    Ok("all sent".to_owned())
}

async fn tiny_pieces(stage: &Stage<'_>) -> AttackResult {
    stage.upload("small", 1 << 20).await?;
    let mut socket = stage.attacker().await?;
    socket.open_call("storage", "download", "d").await?;
    let started = socket
        .chunk(
            "d",
            r#"{"kind":"start","path":"small","chunk_size":1}"#,
            b"",
        )
        .await?;
    socket.answer(started).await?;
    socket.drain();
    stage.begin().await?;
    for _ in 0..stage.scaled(50_000, 5_000) {
        socket.chunk("d", r#"{"kind":"pull"}"#, b"").await?;
    }
    Ok("all sent".to_owned())
}

async fn unfinished(stage: &Stage<'_>) -> AttackResult {
    let rooms = stage.scaled(30, 30);
    let mut sockets = Vec::new();
    for number in 0..rooms {
        let token = token_for("mallory", &format!("uploads-{number}"));
        let mut socket = stage.join(&token, false).await?;
        socket.drain();
        sockets.push(socket);
    }
    let pieces = stage.scaled(40, 40);
    let mut uploads = JoinSet::new();
    stage.begin().await?;
    for mut socket in sockets {
        uploads.spawn(async move {
            socket.open_call("storage", "upload", "up").await?;
            socket
                .chunk("up", r#"{"kind":"start","path":"never"}"#, b"")
                .await?;
            let piece = vec![1; 1 << 20];
            for _ in 0..pieces {
                socket.chunk("up", r#"{"kind":"data"}"#, &piece).await?;
            }
            anyhow::Ok(socket)
        });
    }
    let held = uploads.join_all().await;
    stage.hold().await;
    drop(held);
    Ok("all sent".to_owned())
}

async fn upload_tiny_pieces(stage: &Stage<'_>) -> AttackResult {
    let mut socket = stage.attacker().await?;
    socket.open_call("storage", "upload", "up").await?;
    socket
        .chunk("up", r#"{"kind":"start","path":"tiny"}"#, b"")
        .await?;
    socket.drain();
    stage.begin().await?;
    for _ in 0..stage.scaled(100_000, 5_000) {
        socket.chunk("up", r#"{"kind":"data"}"#, b"x").await?;
    }
    Ok("all sent".to_owned())
}

async fn upload_names(stage: &Stage<'_>) -> AttackResult {
    let mut socket = stage.attacker().await?;
    socket.drain();
    let name = "n".repeat(50 << 10);
    stage.begin().await?;
    for number in 0..stage.scaled(4_000, 400) {
        let call = format!("u{number}");
        socket.open_call("storage", "upload", &call).await?;
        let start = format!(
            r#"{{"kind":"start","path":"f{number}","name":"{name}","mime_type":"{name}"}}"#
        );
        socket.chunk(&call, &start, b"").await?;
    }
    stage.hold().await;
    Ok("all sent".to_owned())
}

/// Creates `count` documents in the folder `many`.
async fn fill_folder(stage: &Stage<'_>, count: usize) -> anyhow::Result<()> {
    let mut socket = stage.attacker().await?;
    let mut last = 0;
    for number in 0..count {
        let json = r#"{"document":{"content":[]}}"#;
        let input = format!(r#"{{"path":"many/{number} файл.document","json":{json}}}"#);
        last = socket.call("sync", "create", &input).await?;
    }
    socket.answer(last).await?;
    Ok(())
}

async fn list(stage: &Stage<'_>) -> AttackResult {
    fill_folder(stage, stage.scaled(3_000, 300)).await?;
    let mut socket = stage.join(&token("mallory"), true).await?;
    stage.begin().await?;
    for _ in 0..stage.scaled(2_000, 500) {
        socket.call("storage", "list", r#"{"path":"many"}"#).await?;
    }
    Ok("all sent".to_owned())
}

async fn moves(stage: &Stage<'_>) -> AttackResult {
    fill_folder(stage, 200).await?;
    let mut socket = stage.attacker().await?;
    let (to, back) = (
        r#"{"source_path":"many","destination_path":"other/many"}"#,
        r#"{"source_path":"other/many","destination_path":"many"}"#,
    );
    stage.begin().await?;
    let mut last = 0;
    for _ in 0..stage.scaled(1_000, 50) {
        socket.call("storage", "move", to).await?;
        last = socket.call("storage", "move", back).await?;
    }
    Ok(verdict(&socket.answer(last).await?))
}

async fn moves_many(stage: &Stage<'_>) -> AttackResult {
    // Each moves as much as one move may touch.
    const MOVERS: usize = 36;
    let files = stage.scaled(20_000, 800) / MOVERS;
    let mut filling = JoinSet::new();
    for mover in 0..MOVERS {
        let mut socket = stage.join(&token(&format!("mover{mover}")), false).await?;
        filling.spawn(async move {
            fill_with_files(&mut socket, mover, files).await?;
            anyhow::Ok((mover, socket))
        });
    }
    let mut movers = Vec::new();
    while let Some(filled) = filling.join_next().await {
        movers.push(filled??);
    }
    let mut observers = stage.crowd(stage.scaled(20, 4), false).await?;
    for socket in &mut observers {
        socket.drain();
    }
    stage.begin().await?;
    let mut moving = JoinSet::new();
    for (mover, mut socket) in movers {
        let times = stage.scaled(100, 4);
        moving.spawn(async move {
            let mut last = 0;
            for _ in 0..times {
                for (from, to) in [("from", "tö"), ("tö", "from")] {
                    let input = format!(
                        r#"{{"source_path":"{from}{mover}","destination_path":"{to}{mover}"}}"#
                    );
                    last = socket.call("storage", "move", &input).await?;
                }
            }
            anyhow::Ok(verdict(&socket.answer(last).await?))
        });
    }
    let mut result = String::new();
    while let Some(moved) = moving.join_next().await {
        result = moved??;
    }
    drop(observers);
    Ok(result)
}

/// Stores empty files in a mover's folder, with names of almost the maximum length.
async fn fill_with_files(socket: &mut Socket, mover: usize, files: usize) -> anyhow::Result<()> {
    const BATCH: usize = 100;
    let name = "ö".repeat(440);
    for first in (0..files).step_by(BATCH) {
        let mut left = 0;
        for number in first..files.min(first + BATCH) {
            let call = format!("u{number}");
            socket.open_call("storage", "upload", &call).await?;
            let start = format!(
                r#"{{"kind":"start","path":"from{mover}/{name} {number} файл","overwrite":true}}"#
            );
            socket.chunk(&call, &start, b"").await?;
            let close = format!(
                r#"{{"tool_call_id":"{call}","chunk":{{"type":"control","method":"close"}}}}"#
            );
            socket
                .message("room.tool_call_request_chunk", &close, b"")
                .await?;
            left += 1;
        }
        while left > 0 {
            let message = socket.next().await?;
            left -= usize::from(message.header["chunk"]["method"] == "close");
        }
    }
    Ok(())
}

async fn moves_edited(stage: &Stage<'_>) -> AttackResult {
    use crate::forge::{Ops, Place};
    let mut socket = stage.attacker().await?;
    socket.open_document("open", "a.document").await?;
    while socket.next().await?.kind != "room.tool_call_response_chunk" {}
    socket.drain();
    stage.begin().await?;
    let mut clock = 0;
    let until = Instant::now() + Duration::from_secs(stage.scaled(15, 2) as u64);
    for number in 0..stage.scaled(2_000, 200) {
        if Instant::now() > until {
            break;
        }
        let (from, to) = if number % 2 == 0 {
            ("a", "b")
        } else {
            ("b", "a")
        };
        let input =
            format!(r#"{{"source_path":"{from}.document","destination_path":"{to}.document"}}"#);
        socket.call("storage", "move", &input).await?;
        let mut ops = Ops::new(5_000_000_011, clock);
        ops.element_with_id(Place::Root, "body");
        clock = ops.next();
        socket.update("open", &ops.finish()).await?;
    }
    Ok("all sent".to_owned())
}

async fn paths(stage: &Stage<'_>) -> AttackResult {
    let mut socket = stage.attacker().await?;
    let paths = [
        "p".repeat(1 << 20),
        "a/".repeat(500_000),
        "../".repeat(300),
        format!("{}\\u0000", "\\uD83D\\uDE42".repeat(200)),
        "%2e%2e/".repeat(100),
    ];
    stage.begin().await?;
    let mut result = String::new();
    for _ in 0..stage.scaled(20, 3) {
        for path in &paths {
            for tool in ["exists", "list", "delete", "download_url"] {
                let input = format!(r#"{{"path":"{path}"}}"#);
                result = verdict(&socket.ask("storage", tool, &input).await?);
            }
            let create = format!(r#"{{"path":"{path}","json":{{"a":{{}}}}}}"#);
            socket.ask("sync", "create", &create).await?;
        }
    }
    Ok(result)
}
