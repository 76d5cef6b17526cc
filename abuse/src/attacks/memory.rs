//! Attacks on the memory of open documents, and on its bounds.

use crate::attack::{Attack, AttackResult};
use crate::forge::{Ops, Place, update};
use crate::socket::Socket;
use crate::stage::{Stage, token, verdict};

use super::edits::RICH;

const CLIENT: u64 = 5_000_000_023;

pub(crate) const ATTACKS: fn() -> Vec<Attack> = || {
    vec![
        Attack::new(
            "memory-pending-deletions",
            "170,000 ranges of missing operations deleted, in each of 100 documents",
            |stage| Box::pin(pending_deletions(stage)),
        )
        .in_short(),
        Attack::new(
            "memory-splits",
            "20 texts of 4 MB; updates that delete every other character, as large as accepted",
            |stage| Box::pin(splits(stage)),
        )
        .with_documents(384),
        Attack::new(
            "memory-recent",
            "1 MB inserted and deleted in each of 800 documents, which stay open",
            |stage| Box::pin(recent(stage)),
        )
        .in_short(),
        Attack::new(
            "memory-patches",
            "a participant whose share is used up sends 100 patches of 40,000 operations",
            |stage| Box::pin(patches(stage)),
        )
        .with_documents(512),
    ]
};

/// Begins a document by a call of its own, and waits until it is open.
async fn open(socket: &mut Socket, call: &str, start: &str) -> anyhow::Result<()> {
    socket.open_call("sync", "open", call).await?;
    socket.chunk(call, start, b"").await?;
    loop {
        let message = socket.next().await?;
        if message.kind == "room.tool_call_response_chunk" && message.header["tool_call_id"] == call
        {
            let chunk = &message.header["chunk"];
            anyhow::ensure!(chunk["type"] == "binary", "{}", verdict(chunk));
            return Ok(());
        }
    }
}

/// How many of an attack's requests were accepted, and what the last one was answered with.
struct Tally {
    accepted: usize,
    last: String,
}

impl Tally {
    fn new() -> Self {
        Self {
            accepted: 0,
            last: "nothing was sent".to_owned(),
        }
    }

    fn note(&mut self, answer: &serde_json::Value) {
        self.last = verdict(answer);
        self.accepted += usize::from(self.last == "accepted");
    }

    fn result(self) -> String {
        format!("{} accepted; the last one: {}", self.accepted, self.last)
    }
}

async fn pending_deletions(stage: &Stage<'_>) -> AttackResult {
    let mut socket = stage.attacker().await?;
    let count = stage.scaled(100, 60);
    for number in 0..count {
        let start = format!(r#"{{"kind":"start","path":"{number}.document"}}"#);
        open(&mut socket, &format!("open-{number}"), &start).await?;
    }
    let ranges: Vec<_> = (0..170_000).map(|n| (CLIENT, n * 2, 1)).collect();
    let deleted = update([], &ranges);
    drop(ranges);
    stage.begin().await?;
    let mut tally = Tally::new();
    for number in 0..count {
        let id = socket.update(&format!("open-{number}"), &deleted).await?;
        tally.note(&socket.answer(id).await?);
    }
    Ok(tally.result())
}

async fn splits(stage: &Stage<'_>) -> AttackResult {
    let mut socket = stage.attacker().await?;
    let characters = stage.scaled(4 << 20, 1 << 18);
    let mut ops = Ops::new(CLIENT, 0);
    let element = ops.element_with_id(Place::Root, "text");
    let text = ops.text_node(Place::In(element));
    let first = ops.next();
    ops.characters(Place::In(text), &"ab".repeat(characters / 2));
    let written = ops.finish();
    let ranges: Vec<_> = (0..characters as u64 / 2)
        .map(|n| (CLIENT, first + n * 2, 1))
        .collect();
    // All of them in one update, which is refused, and in parts that are accepted: two splits for
    // each range, and some more for the first one.
    let mut deletions = vec![update([], &ranges)];
    let parts = ranges.chunks((1 << 19) - (1 << 12));
    deletions.extend(parts.map(|part| update([], part)));
    drop(ranges);
    stage.begin().await?;
    let mut tally = Tally::new();
    for number in 0..20 {
        let call = format!("open-{number}");
        let start = format!(r#"{{"kind":"start","path":"{number}.rich","schema":{RICH}}}"#);
        open(&mut socket, &call, &start).await?;
        let id = socket.update(&call, &written).await?;
        socket.answer(id).await?;
        for deleted in &deletions {
            let id = socket.update(&call, deleted).await?;
            tally.note(&socket.answer(id).await?);
        }
    }
    Ok(tally.result())
}

async fn recent(stage: &Stage<'_>) -> AttackResult {
    let mut socket = stage.attacker().await?;
    let mut ops = Ops::new(CLIENT, 0);
    let element = ops.element_with_id(Place::Root, "body");
    ops.attribute(element, "text", &"ж".repeat(500_000));
    let inserted = ops.finish();
    let deleted = update([], &[(CLIENT, 0, 1)]);
    stage.begin().await?;
    let mut tally = Tally::new();
    for number in 0..stage.scaled(800, 40) {
        let call = format!("open-{number}");
        let start = format!(r#"{{"kind":"start","path":"{number}.document"}}"#);
        open(&mut socket, &call, &start).await?;
        for update in [&inserted, &deleted] {
            let id = socket.update(&call, update).await?;
            tally.note(&socket.answer(id).await?);
        }
    }
    // A participant with nothing in memory still opens a document.
    let mut other = stage.join(&token("other"), false).await?;
    open(
        &mut other,
        "open",
        r#"{"kind":"start","path":"other.document"}"#,
    )
    .await?;
    Ok(tally.result())
}

async fn patches(stage: &Stage<'_>) -> AttackResult {
    let mut socket = stage.attacker().await?;
    let body = r#"{"body":{}},"#.repeat(50_000);
    let content = body.trim_end_matches(',');
    for number in 0..100 {
        let json = format!(r#"{{"document":{{"content":[{content}]}}}}"#);
        let input = format!(r#"{{"path":"{number}.document","json":{json}}}"#);
        if verdict(&socket.ask("sync", "create", &input).await?) != "accepted" {
            break;
        }
        let start = format!(r#"{{"kind":"start","path":"{number}.document"}}"#);
        open(&mut socket, &format!("open-{number}"), &start).await?;
    }
    let add = r#"{"op":"add","path":"/document/content/-","value":{"body":{}}},"#.repeat(40_000);
    let patch = add.trim_end_matches(',');
    let input = format!(r#"{{"path":"0.document","patch":[{patch}]}}"#);
    stage.begin().await?;
    let mut tally = Tally::new();
    for _ in 0..100 {
        tally.note(&socket.ask("sync", "patch", &input).await?);
    }
    Ok(tally.result())
}
