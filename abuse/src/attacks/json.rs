//! Attacks by JSON: small on the wire, large after parsing.

use meshagent_protocol::{Grant, ParticipantToken};

use crate::attack::{Attack, AttackResult};
use crate::socket::invocation;
use crate::stage::{ARENA, Stage, verdict};

pub(crate) const ATTACKS: fn() -> Vec<Attack> = || {
    vec![
        Attack::new(
            "json-zeros",
            "28 MiB of `[0,0,…]` from a participant without any grant",
            |stage| Box::pin(without_grant(stage, "0,", 28 << 20)),
        )
        .in_short(),
        Attack::new(
            "json-objects",
            "53 MiB of `{\"\":0},` from a participant without any grant",
            |stage| Box::pin(without_grant(stage, r#"{"":0},"#, 53 << 20)),
        )
        .in_short(),
        Attack::new(
            "json-nested",
            "40 MiB of arrays nested 100 deep, from a participant with all rights",
            |stage| Box::pin(nested(stage)),
        ),
        Attack::new(
            "json-many",
            "20 participants repeatedly send 2 MiB of `[[],[],…]` at the same time",
            |stage| Box::pin(many(stage)),
        ),
        Attack::new(
            "json-message",
            "a message whose `message_json` is JSON again: 16 MiB of `[[],[],…]`",
            |stage| Box::pin(message(stage)),
        ),
        Attack::new(
            "json-content",
            "a document created from 24 MiB of `[[],…]` as the value of an attribute",
            |stage| Box::pin(content(stage)),
        ),
    ]
};

/// Returns a JSON list of about `bytes` bytes that repeats `piece`.
fn list(piece: &str, bytes: usize) -> String {
    let mut list = String::with_capacity(bytes + 16);
    list.push('[');
    list.push_str(&piece.repeat(bytes / piece.len()));
    list.pop();
    list.push(']');
    list
}

async fn without_grant(stage: &Stage<'_>, piece: &str, bytes: usize) -> AttackResult {
    let mut token = ParticipantToken::new("nobody");
    token.grants.push(Grant::Room(ARENA.to_owned()));
    token.grants.push(Grant::Api(Box::default()));
    let mut socket = stage.join(&token, false).await?;
    let input = list(piece, bytes);
    stage.begin().await?;
    Ok(verdict(&socket.ask("sync", "create", &input).await?))
}

async fn nested(stage: &Stage<'_>) -> AttackResult {
    let mut socket = stage.attacker().await?;
    let piece = format!("{}{},", "[".repeat(100), "]".repeat(100));
    let input = list(&piece, 40 << 20);
    stage.begin().await?;
    Ok(verdict(&socket.ask("sync", "describe", &input).await?))
}

async fn many(stage: &Stage<'_>) -> AttackResult {
    let mut crowd = stage.crowd(20, false).await?;
    let header = invocation("sync", "describe", &list("[],", 2 << 20));
    stage.begin().await?;
    for _ in 0..stage.scaled(10, 2) {
        for socket in &mut crowd {
            socket.drain();
            socket.message("room.invoke_tool", &header, b"").await?;
        }
    }
    stage.hold().await;
    Ok("all sent".to_owned())
}

async fn message(stage: &Stage<'_>) -> AttackResult {
    let mut socket = stage.attacker().await?;
    socket.ask("messaging", "enable", "{}").await?;
    let text = list("[],", 16 << 20);
    let to = socket.participant.clone();
    let input = format!(r#"{{"to_participant_id":"{to}","type":"t","message_json":"{text}"}}"#);
    stage.begin().await?;
    Ok(verdict(&socket.ask("messaging", "send", &input).await?))
}

async fn content(stage: &Stage<'_>) -> AttackResult {
    let mut socket = stage.attacker().await?;
    let text = list("[],", 24 << 20);
    let json = format!(r#"{{"document":{{"content":[{{"body":{{"text":{text}}}}}]}}}}"#);
    let input = format!(r#"{{"path":"a.document","json":{json}}}"#);
    stage.begin().await?;
    Ok(verdict(&socket.ask("sync", "create", &input).await?))
}
