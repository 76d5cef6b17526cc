//! Attacks on calls and messages: reused ids, unread answers, packets without data.

use crate::attack::{Attack, AttackResult};
use crate::socket::{message, packet};
use crate::stage::{Stage, verdict};

pub(crate) const ATTACKS: fn() -> Vec<Attack> = || {
    vec![
        Attack::new(
            "call-duplicates",
            "50,000 streamed calls with the same id",
            |stage| Box::pin(duplicates(stage)),
        )
        .in_short(),
        Attack::new(
            "call-streams",
            "streamed calls that never start, 4,096 on each of 100 connections, with ids of 4 KB",
            |stage| Box::pin(streams(stage)),
        ),
        Attack::new(
            "call-unread-answers",
            "30,000 calls of room.list_toolkits on each of 10 connections that read no answer",
            |stage| Box::pin(unread_answers(stage)),
        )
        .in_short(),
        Attack::new(
            "call-unknown",
            "100,000 messages of unknown types and tools",
            |stage| Box::pin(unknown(stage)),
        ),
        Attack::new(
            "packet-reused-ids",
            "complete and interrupted messages in turn, all with the id 0",
            |stage| Box::pin(reused_ids(stage)),
        ),
        Attack::new(
            "packet-headers",
            "500,000 header packets, none followed by data",
            |stage| Box::pin(headers(stage)),
        ),
        Attack::new(
            "packet-empty",
            "a message that announces 4 billion packets, of which a million arrive, each empty",
            |stage| Box::pin(empty(stage)),
        ),
    ]
};

async fn duplicates(stage: &Stage<'_>) -> AttackResult {
    let mut socket = stage.attacker().await?;
    stage.begin().await?;
    let mut last = 0;
    let mut reader = None;
    for number in 0..stage.scaled(50_000, 3_000) {
        last = socket.open_call("sync", "open", "the same").await?;
        if number == 0 {
            reader = Some(socket.take_reader()?);
        }
        // Unread answers would slow the calls (back-pressure).
        if let Some(reader) = &mut reader
            && number % 100 == 99
        {
            for _ in 0..100 {
                reader.next().await?;
            }
        }
    }
    Ok(format!("{last} sent"))
}

async fn streams(stage: &Stage<'_>) -> AttackResult {
    let mut crowd = stage.crowd(stage.scaled(100, 10), false).await?;
    for socket in &mut crowd {
        socket.drain();
    }
    let name = "ж".repeat(2 << 10);
    stage.begin().await?;
    for number in 0..stage.scaled(4_096, 200) {
        for socket in &mut crowd {
            let call = format!("{number}{name}");
            socket.open_call("sync", "open", &call).await?;
        }
    }
    stage.hold().await;
    Ok("all sent".to_owned())
}

async fn unread_answers(stage: &Stage<'_>) -> AttackResult {
    let mut crowd = stage.crowd(10, true).await?;
    let bytes: Vec<u8> = (1..=stage.scaled(30_000, 1_000) as u64)
        .flat_map(|id| message(id, "room.list_toolkits", "{}", b""))
        .collect();
    stage.begin().await?;
    let sending = crowd.iter_mut().map(|socket| socket.bytes(&bytes));
    let mut sending: Vec<_> = sending.map(Box::pin).collect();
    // The server pauses reads from a connection that does not read, so some sends never end.
    let all = async {
        for one in &mut sending {
            one.await?;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        sent = all => sent?,
        () = stage.hold() => return Ok("reads paused".to_owned()),
    }
    Ok("all sent".to_owned())
}

async fn unknown(stage: &Stage<'_>) -> AttackResult {
    let mut socket = stage.attacker().await?;
    socket.drain();
    let (kind, tool) = ("k".repeat(256), "t".repeat(2 << 10));
    stage.begin().await?;
    for _ in 0..stage.scaled(50_000, 2_000) {
        socket.message(&kind, "{}", b"").await?;
        socket.call(&tool, &tool, "{}").await?;
    }
    Ok("all sent".to_owned())
}

async fn reused_ids(stage: &Stage<'_>) -> AttackResult {
    let mut socket = stage.attacker().await?;
    let whole = message(0, "room.list_toolkits", "{}", b"");
    let mut interrupted = Vec::new();
    packet(
        &mut interrupted,
        0,
        0,
        &[&9_u32.to_be_bytes(), b"room.invoke_tool"],
    );
    packet(&mut interrupted, 0, 1, &[&vec![b'{'; 20_000]]);
    let both = [interrupted, whole].concat();
    socket.drain();
    stage.begin().await?;
    for _ in 0..stage.scaled(20_000, 2_000) {
        socket.bytes(&both).await?;
    }
    let mut other = stage.attacker().await?;
    let answer = other.ask("storage", "exists", r#"{"path":"a"}"#).await?;
    Ok(verdict(&answer))
}

async fn headers(stage: &Stage<'_>) -> AttackResult {
    let mut socket = stage.attacker().await?;
    socket.drain();
    let mut bytes = Vec::new();
    for id in 0..1_000 {
        packet(
            &mut bytes,
            id,
            0,
            &[&u32::MAX.to_be_bytes(), b"room.invoke_tool"],
        );
    }
    stage.begin().await?;
    for _ in 0..stage.scaled(500, 20) {
        socket.bytes(&bytes).await?;
    }
    Ok("all sent".to_owned())
}

async fn empty(stage: &Stage<'_>) -> AttackResult {
    let mut socket = stage.attacker().await?;
    socket.drain();
    let mut bytes = Vec::new();
    packet(
        &mut bytes,
        7,
        0,
        &[&u32::MAX.to_be_bytes(), b"room.invoke_tool"],
    );
    for index in 1..=stage.scaled(1_000_000, 50_000) {
        packet(&mut bytes, 7, u32::try_from(index)?, &[]);
    }
    stage.begin().await?;
    socket.bytes(&bytes).await?;
    stage.hold().await;
    Ok("all sent".to_owned())
}
