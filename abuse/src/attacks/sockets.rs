//! Attacks by WebSocket frames and connections: incomplete, fragmented, too many.

use tokio::task::JoinSet;

use meshagent_protocol::{ApiScope, Grant, StorageGrant, StoragePathGrant};

use crate::attack::{Attack, AttackResult};
use crate::socket::{BINARY, CONTINUATION, PING, Socket, packet};
use crate::stage::{ARENA, Stage, token, token_for, verdict};

pub(crate) const ATTACKS: fn() -> Vec<Attack> = || {
    vec![
        Attack::new(
            "frame-half",
            "500 frames of 4 MB without their last bytes",
            |stage| Box::pin(half_frames(stage)),
        )
        .in_short(),
        Attack::new(
            "frame-fragments",
            "messages in 3 million fragments of one byte",
            |stage| Box::pin(fragments(stage)),
        ),
        Attack::new(
            "frame-half-fragmented",
            "400 fragmented messages of 4 MB that lack their last fragment",
            |stage| Box::pin(half_fragmented(stage)),
        ),
        Attack::new(
            "frame-pings",
            "100 sockets that send pings of 125 bytes and read no pong",
            |stage| Box::pin(pings(stage)),
        )
        .in_short(),
        Attack::new(
            "frame-forbidden",
            "frames that RFC 6455 forbids: unmasked, with a reserved opcode, a continuation of \
             nothing, 2^62 bytes long",
            |stage| Box::pin(forbidden(stage)),
        )
        .in_short(),
        Attack::new("frame-empty", "3 million empty binary frames", |stage| {
            Box::pin(empty(stage))
        }),
        Attack::new(
            "message-half",
            "400 connections that each send 3 MB of an endless message",
            |stage| Box::pin(half_messages(stage)),
        )
        .in_short(),
        Attack::new(
            "message-half-small",
            "500 connections that each send 60 KB of an endless message",
            |stage| Box::pin(half_small(stage)),
        ),
        Attack::new(
            "join-leave",
            "participants that join and disconnect, 40 at a time, for 10 s",
            |stage| Box::pin(join_leave(stage)),
        )
        .in_short(),
        Attack::new(
            "join-rooms",
            "400 rooms with one participant each, all at the same time",
            |stage| Box::pin(join_rooms(stage)),
        ),
        Attack::new(
            "token-grants",
            "100 participants with tokens of 200 KB (4,000 path grants each) that then call a tool",
            |stage| Box::pin(token_grants(stage)),
        ),
        Attack::new(
            "token-names",
            "tokens whose names are 100 KB and 1 MB long",
            |stage| Box::pin(token_names(stage)),
        )
        .in_short(),
    ]
};

async fn half_frames(stage: &Stage<'_>) -> AttackResult {
    let mut crowd = stage.crowd(stage.scaled(500, 300), false).await?;
    let mut frame = Vec::new();
    packet(&mut frame, 1, 0, &[&vec![0; (4 << 20) - 16]]);
    frame.truncate(frame.len() - 8);
    send_to_all(stage, &mut crowd, &frame).await
}

/// Sends the same bytes on each connection, then waits.
async fn send_to_all(stage: &Stage<'_>, crowd: &mut [Socket], bytes: &[u8]) -> AttackResult {
    stage.begin().await?;
    let mut sent = 0;
    tokio::select! {
        done = async {
            for socket in &mut *crowd {
                socket.bytes(bytes).await?;
                sent += 1;
            }
            anyhow::Ok(())
        } => done?,
        () = stage.hold() => {}
    }
    let result = format!("{sent} of {} sent", crowd.len());
    stage.hold().await;
    Ok(result)
}

async fn fragments(stage: &Stage<'_>) -> AttackResult {
    let mut socket = stage.attacker().await?;
    let mut bytes = Vec::new();
    crate::socket::frame(&mut bytes, BINARY, false, &[b"x"]);
    for _ in 0..100_000 {
        crate::socket::frame(&mut bytes, CONTINUATION, false, &[b"x"]);
    }
    crate::socket::frame(&mut bytes, CONTINUATION, true, &[b"x"]);
    socket.drain();
    stage.begin().await?;
    for _ in 0..stage.scaled(30, 1) {
        socket.bytes(&bytes).await?;
    }
    Ok("all sent".to_owned())
}

async fn half_fragmented(stage: &Stage<'_>) -> AttackResult {
    let mut crowd = stage.crowd(stage.scaled(400, 100), false).await?;
    let piece = vec![0; 1 << 20];
    stage.begin().await?;
    let mut sent = 0;
    tokio::select! {
        done = async {
            for socket in &mut crowd {
                socket.frame(BINARY, false, &piece).await?;
                socket.frame(CONTINUATION, false, &piece).await?;
                socket.frame(CONTINUATION, false, &piece).await?;
                sent += 1;
            }
            anyhow::Ok(())
        } => done?,
        () = stage.hold() => {}
    }
    let result = format!("{sent} of {} sent", crowd.len());
    stage.hold().await;
    Ok(result)
}

async fn pings(stage: &Stage<'_>) -> AttackResult {
    let crowd = stage.crowd(stage.scaled(100, 20), true).await?;
    let mut bytes = Vec::new();
    for _ in 0..1_000 {
        crate::socket::frame(&mut bytes, PING, true, &[&[b'p'; 125]]);
    }
    let times = stage.scaled(200, 20);
    let mut flood = JoinSet::new();
    stage.begin().await?;
    for mut socket in crowd {
        let bytes = bytes.clone();
        flood.spawn(async move {
            for _ in 0..times {
                socket.bytes(&bytes).await?;
            }
            anyhow::Ok(socket)
        });
    }
    stage.hold().await;
    Ok("flooded".to_owned())
}

async fn forbidden(stage: &Stage<'_>) -> AttackResult {
    let frames: [&[u8]; 7] = [
        // Not masked.
        &[0x82, 3, 1, 2, 3],
        // A continuation of nothing.
        &[0x80, 0x81, 0, 0, 0, 0, b'x'],
        // A reserved opcode.
        &[0x8b, 0x81, 0, 0, 0, 0, b'x'],
        // Reserved bits.
        &[0xf2, 0x81, 0, 0, 0, 0, b'x'],
        // 2^62 bytes.
        &[0x82, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        // A ping that is too long, and a fragmented one.
        &[0x89, 0xfe, 0xff, 0xff, 0, 0, 0, 0],
        &[0x09, 0x81, 0, 0, 0, 0, b'x'],
    ];
    stage.begin().await?;
    let mut ended = 0;
    for frame in frames {
        for _ in 0..stage.scaled(20, 3) {
            let mut socket = stage.attacker().await?;
            socket.bytes(frame).await?;
            // The connection ends immediately or not at all.
            let rest = socket.rest(1 << 20);
            let waiting = std::time::Duration::from_millis(50);
            if tokio::time::timeout(waiting, rest).await.is_ok() {
                ended += 1;
            }
        }
    }
    let all = frames.len() * stage.scaled(20, 3);
    Ok(format!("{ended} of {all} connections ended"))
}

async fn empty(stage: &Stage<'_>) -> AttackResult {
    let mut socket = stage.attacker().await?;
    socket.drain();
    let mut bytes = Vec::new();
    for _ in 0..10_000 {
        crate::socket::frame(&mut bytes, BINARY, true, &[]);
    }
    stage.begin().await?;
    for _ in 0..stage.scaled(300, 10) {
        socket.bytes(&bytes).await?;
    }
    Ok("all sent".to_owned())
}

/// Leaves messages incomplete after this many packets of this many bytes.
async fn unfinished(stage: &Stage<'_>, count: usize, packets: u32, bytes: usize) -> AttackResult {
    let mut crowd = stage.crowd(count, false).await?;
    let mut begin = Vec::new();
    let total = (packets + 1).to_be_bytes();
    packet(&mut begin, 1, 0, &[&total, b"room.invoke_tool"]);
    for index in 1..=packets {
        packet(&mut begin, 1, index, &[&vec![b' '; bytes]]);
    }
    send_to_all(stage, &mut crowd, &begin).await
}

async fn half_messages(stage: &Stage<'_>) -> AttackResult {
    unfinished(stage, stage.scaled(400, 200), 3, 1 << 20).await
}

async fn half_small(stage: &Stage<'_>) -> AttackResult {
    unfinished(stage, stage.scaled(500, 100), 60, 1 << 10).await
}

async fn join_leave(stage: &Stage<'_>) -> AttackResult {
    let jwt = token("visitor").sign(stage.key());
    let address = stage.address();
    let until = std::time::Duration::from_secs(stage.scaled(10, 2) as u64);
    stage.begin().await?;
    let until = tokio::time::Instant::now() + until;
    let mut visitors = JoinSet::new();
    for _ in 0..40 {
        let jwt = jwt.clone();
        visitors.spawn(async move {
            let mut joined = 0;
            while tokio::time::Instant::now() < until {
                let socket = Socket::connect(address, false).await?;
                let mut socket = socket.join(ARENA, &jwt).await?;
                socket.call("messaging", "enable", "{}").await?;
                socket.open_document("open", "a.document").await?;
                joined += 1;
            }
            anyhow::Ok(joined)
        });
    }
    let mut joined = 0;
    while let Some(one) = visitors.join_next().await {
        joined += one??;
    }
    Ok(format!("{joined} joins"))
}

async fn join_rooms(stage: &Stage<'_>) -> AttackResult {
    stage.begin().await?;
    let mut crowd = Vec::new();
    for number in 0..stage.scaled(400, 100) {
        let token = token_for("alone", &format!("room-{number}"));
        let mut socket = stage.join(&token, false).await?;
        socket.open_document("open", "a.document").await?;
        crowd.push(socket);
    }
    stage.hold().await;
    Ok("all joined".to_owned())
}

async fn token_grants(stage: &Stage<'_>) -> AttackResult {
    let paths = (0..4_000).map(|number| StoragePathGrant {
        path: format!("folder/{number}/with a name"),
        read_only: false,
    });
    let mut scope = ApiScope::full();
    scope.storage = Some(StorageGrant {
        paths: Some(paths.collect()),
        files: None,
    });
    let mut token = meshagent_protocol::ParticipantToken::new("granted");
    token.grants.push(Grant::Room(ARENA.to_owned()));
    token.grants.push(Grant::Api(Box::new(scope)));
    stage.begin().await?;
    let mut crowd = Vec::new();
    for _ in 0..stage.scaled(100, 10) {
        match stage.join(&token, false).await {
            Ok(socket) => crowd.push(socket),
            Err(refused) => return Ok(format!("{refused:#}")),
        }
    }
    let mut result = String::new();
    for _ in 0..stage.scaled(20, 2) {
        for socket in &mut crowd {
            let input = r#"{"path":"folder/none"}"#;
            result = verdict(&socket.ask("storage", "exists", input).await?);
        }
    }
    Ok(result)
}

async fn token_names(stage: &Stage<'_>) -> AttackResult {
    let long = token(&"n".repeat(100 << 10));
    let longer = token(&"n".repeat(1 << 20));
    stage.begin().await?;
    let mut crowd = Vec::new();
    let mut result = String::new();
    for _ in 0..stage.scaled(100, 10) {
        for token in [&long, &longer] {
            match stage.join(token, false).await {
                Ok(mut socket) => {
                    socket.call("messaging", "enable", "{}").await?;
                    crowd.push(socket);
                }
                Err(refused) => result = format!("{refused:#}"),
            }
        }
    }
    Ok(format!("{} joined, last refusal: {result}", crowd.len()))
}
