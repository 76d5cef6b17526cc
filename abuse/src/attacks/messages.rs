//! Attacks by messages between participants, which the server holds for those that do not read.

use tokio::task::JoinSet;

use crate::attack::{Attack, AttackResult};
use crate::stage::{Stage, verdict};

pub(crate) const ATTACKS: fn() -> Vec<Attack> = || {
    vec![
        Attack::new(
            "message-broadcast",
            "one broadcast of 30 MB to 40 sockets that do not read",
            |stage| Box::pin(broadcast(stage, 40, 30 << 20, 1)),
        )
        .in_short(),
        Attack::new(
            "message-broadcasts",
            "5,000 broadcasts of 4 KB to 200 sockets that do not read",
            |stage| Box::pin(broadcast(stage, 200, 4 << 10, 5_000)),
        ),
        Attack::new(
            "message-attachment",
            "20 broadcasts with an attachment of 2 MB to 40 sockets that do not read",
            |stage| Box::pin(attachments(stage)),
        ),
        Attack::new(
            "message-self",
            "100 messages of 1 MB from a participant to itself, none read",
            |stage| Box::pin(to_self(stage)),
        ),
        Attack::new(
            "message-absent",
            "30,000 messages to absent participants with ids of 1 KB",
            |stage| Box::pin(to_absent(stage)),
        )
        .in_short(),
        Attack::new(
            "message-enable",
            "300 participants with 15 KB of attributes each enable messaging and receive those of \
             all others",
            |stage| Box::pin(enable(stage)),
        ),
        Attack::new(
            "message-attributes",
            "5,000 set_attributes of 15 KB, announced to 100 participants that do not read",
            |stage| Box::pin(attributes(stage)),
        )
        .in_short(),
        Attack::new(
            "message-attribute-names",
            "800 set_attributes of 1,900 names each, by four participants",
            |stage| Box::pin(attribute_names(stage)),
        ),
    ]
};

/// Returns sockets that have enabled messaging and then read nothing.
async fn nonreaders(stage: &Stage<'_>, count: usize) -> anyhow::Result<Vec<crate::socket::Socket>> {
    let mut crowd = stage.crowd(count, true).await?;
    for socket in &mut crowd {
        socket.ask("messaging", "enable", "{}").await?;
    }
    Ok(crowd)
}

async fn broadcast(
    stage: &Stage<'_>,
    receivers: usize,
    bytes: usize,
    times: usize,
) -> AttackResult {
    let _crowd = nonreaders(stage, stage.scaled(receivers, receivers.min(40))).await?;
    let mut sender = stage.attacker().await?;
    let input = format!(
        r#"{{"type":"t","message_json":"\"{}\""}}"#,
        "x".repeat(bytes)
    );
    stage.begin().await?;
    let mut last = 0;
    for _ in 0..stage.scaled(times, times.min(500)) {
        last = sender.call("messaging", "broadcast", &input).await?;
    }
    let result = verdict(&sender.answer(last).await?);
    stage.hold().await;
    Ok(result)
}

async fn attachments(stage: &Stage<'_>) -> AttackResult {
    let _crowd = nonreaders(stage, 40).await?;
    let mut sender = stage.attacker().await?;
    let attachment = "QUJD".repeat((2 << 20) / 3);
    let input =
        format!(r#"{{"type":"t","message_json":"{{}}","attachment_base64":"{attachment}"}}"#);
    stage.begin().await?;
    let mut last = 0;
    for _ in 0..stage.scaled(20, 4) {
        last = sender.call("messaging", "broadcast", &input).await?;
    }
    let result = verdict(&sender.answer(last).await?);
    stage.hold().await;
    Ok(result)
}

async fn to_self(stage: &Stage<'_>) -> AttackResult {
    let mut crowd = nonreaders(stage, 1).await?;
    let socket = &mut crowd[0];
    let to = socket.participant.clone();
    let message = "я".repeat(1 << 19);
    let input =
        format!(r#"{{"to_participant_id":"{to}","type":"t","message_json":"\"{message}\""}}"#);
    stage.begin().await?;
    for _ in 0..stage.scaled(100, 20) {
        socket.call("messaging", "send", &input).await?;
    }
    stage.hold().await;
    Ok("all sent".to_owned())
}

async fn to_absent(stage: &Stage<'_>) -> AttackResult {
    let mut socket = stage.attacker().await?;
    socket.drain();
    socket.call("messaging", "enable", "{}").await?;
    let to = "n".repeat(1 << 10);
    let input = format!(r#"{{"to_participant_id":"{to}","type":"t","message_json":"{{}}"}}"#);
    stage.begin().await?;
    for _ in 0..stage.scaled(30_000, 3_000) {
        socket.call("messaging", "send", &input).await?;
    }
    Ok("all sent".to_owned())
}

async fn enable(stage: &Stage<'_>) -> AttackResult {
    let mut crowd = stage.crowd(stage.scaled(300, 30), true).await?;
    let attributes = format!(r#"{{"about":"{}"}}"#, "x".repeat(15 << 10));
    for socket in &mut crowd {
        socket.message("set_attributes", &attributes, b"").await?;
    }
    stage.begin().await?;
    for socket in &mut crowd {
        socket.call("messaging", "enable", "{}").await?;
    }
    stage.hold().await;
    Ok("all sent".to_owned())
}

async fn attributes(stage: &Stage<'_>) -> AttackResult {
    let _crowd = nonreaders(stage, stage.scaled(100, 30)).await?;
    let mut sender = stage.attacker().await?;
    sender.ask("messaging", "enable", "{}").await?;
    stage.begin().await?;
    for number in 0..stage.scaled(5_000, 200) {
        let text = format!("{number}{}", "x".repeat(15 << 10));
        let attributes = format!(r#"{{"about":"{text}"}}"#);
        sender.message("set_attributes", &attributes, b"").await?;
    }
    stage.hold().await;
    Ok("all sent".to_owned())
}

async fn attribute_names(stage: &Stage<'_>) -> AttackResult {
    let mut senders = JoinSet::new();
    let names: Vec<String> = (0..1_900).map(|n| format!(r#""{n}":0"#)).collect();
    let attributes = format!("{{{}}}", names.join(","));
    let crowd = stage.crowd(4, false).await?;
    let times = stage.scaled(200, 10);
    stage.begin().await?;
    for mut socket in crowd {
        let attributes = attributes.clone();
        senders.spawn(async move {
            for _ in 0..times {
                socket.message("set_attributes", &attributes, b"").await?;
            }
            anyhow::Ok(socket)
        });
    }
    let sent: Vec<_> = senders.join_all().await;
    stage.hold().await;
    drop(sent);
    Ok("all sent".to_owned())
}
