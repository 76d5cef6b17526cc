//! Attacks by updates: small on the wire, large or slow to apply.

use serde_json::Value;

use crate::attack::{Attack, AttackResult};
use crate::forge::{Ops, Place, update};
use crate::socket::Socket;
use crate::stage::{Stage, verdict};

const CLIENT: u64 = 5_000_000_011;
/// A schema whose root holds rich texts, and elements with one attribute for any string.
pub(crate) const RICH: &str = r##"{"$root_tag_ref":"#/$defs/page","type":"object","additionalProperties":false,"required":["page"],
"properties":{"page":{"type":"object","additionalProperties":false,"required":["children"],"properties":{"children":{"type":"array","items":{"anyOf":[{"$ref":"#/$defs/text"},{"$ref":"#/$defs/box"}]}}}}},
"$defs":{
"page":{"type":"object","additionalProperties":false,"required":["page"],"properties":{"page":{"type":"object","properties":{"children":{"type":"array","items":{"anyOf":[{"$ref":"#/$defs/text"},{"$ref":"#/$defs/box"}]}}}}}},
"box":{"type":"object","additionalProperties":false,"required":["box"],"properties":{"box":{"type":"object","properties":{"value":{"type":"string"},"children":{"type":"array","items":{"anyOf":[{"$ref":"#/$defs/text"},{"$ref":"#/$defs/box"}]}}}}}},
"text":{"type":"object","additionalProperties":false,"required":["text"],"properties":{"text":{"type":"object","properties":{}}}}}}"##;

pub(crate) const ATTACKS: fn() -> Vec<Attack> = || {
    vec![
        Attack::new(
            "edit-violations",
            "75 KB of updates under a schema with a 20 KB tag: a chain of 100 elements, 4,000 \
             unknown attributes",
            |stage| Box::pin(violations(stage)),
        )
        .in_short(),
        Attack::new(
            "edit-same-place",
            "3.3 MB of updates: N elements by N client ids at one place",
            |stage| Box::pin(same_place(stage)),
        )
        .in_short(),
        Attack::new(
            "edit-same-place-backwards",
            "the same with descending client ids, in updates of 100 KB",
            |stage| Box::pin(same_place_backwards(stage)),
        ),
        Attack::new(
            "edit-collected",
            "an update of 20 million garbage-collected operations in as many structs (40 MB)",
            |stage| Box::pin(collected(stage)),
        ),
        Attack::new(
            "edit-clients",
            "an update by 5 million clients of one operation each (45 MB), then compaction with \
             all authors",
            |stage| Box::pin(clients(stage)),
        ),
        Attack::new(
            "edit-delete-ranges",
            "an update that deletes 8 million ranges of missing operations",
            |stage| Box::pin(delete_ranges(stage)),
        ),
        Attack::new(
            "edit-delete-clients",
            "an update that deletes one operation of each of 3 million clients",
            |stage| Box::pin(delete_clients(stage)),
        ),
        Attack::new(
            "edit-delete-one-by-one",
            "300,000 characters, every other one deleted, then an edit and an open",
            |stage| Box::pin(every_other_character(stage)),
        )
        .with_documents(128),
        Attack::new(
            "edit-pasted-chinese",
            "a text of 400,000 Chinese characters, every 12th deleted, then 200 edits",
            |stage| Box::pin(pasted_chinese(stage)),
        )
        .with_documents(128),
        Attack::new(
            "edit-marks",
            "400,000 formatting marks in one text, then characters between them",
            |stage| Box::pin(marks(stage)),
        )
        .with_documents(256),
        Attack::new(
            "edit-embeds",
            "500,000 embedded objects in one text",
            |stage| Box::pin(embeds(stage)),
        )
        .with_documents(256),
        Attack::new(
            "edit-deep",
            "2,000 chains of 250 nested elements, each with an unknown attribute at its end",
            |stage| Box::pin(deep(stage)),
        )
        .with_documents(512),
        Attack::new(
            "edit-wide-value",
            "16 attributes of 10 million values each, then a description",
            |stage| Box::pin(wide_value(stage)),
        ),
        Attack::new(
            "edit-gaps",
            "8 MB of updates after a gap, in each of 60 documents",
            |stage| Box::pin(gaps(stage)),
        ),
        Attack::new(
            "edit-undo-storm",
            "an element created and deleted 20,000 times, with an update for each step",
            |stage| Box::pin(undo_storm(stage)),
        )
        .in_short(),
        Attack::new(
            "edit-emoji",
            "40,000 inserts in the middle of emoji, right-to-left and combining characters",
            |stage| Box::pin(emoji(stage)),
        )
        .with_documents(128),
        Attack::new(
            "edit-replaced-value",
            "one attribute of 100 KB set 2,000 times",
            |stage| Box::pin(replaced_value(stage)),
        ),
        Attack::new(
            "edit-malformed",
            "30,000 updates that are truncated, refer to themselves, or are not valid base64",
            |stage| Box::pin(malformed(stage)),
        )
        .in_short(),
        Attack::new(
            "edit-same-ids",
            "100,000 elements with the same `$id`",
            |stage| Box::pin(same_ids(stage)),
        )
        .with_documents(128),
    ]
};

/// Opens a document by the call `open`.
async fn open(stage: &Stage<'_>, path: &str) -> anyhow::Result<Socket> {
    let mut socket = stage.attacker().await?;
    socket.open_document("open", path).await?;
    while socket.next().await?.kind != "room.tool_call_response_chunk" {}
    Ok(socket)
}

/// Opens a document with this schema by the call `open`.
async fn open_with(stage: &Stage<'_>, path: &str, schema: &str) -> anyhow::Result<Socket> {
    let mut socket = stage.attacker().await?;
    socket.open_call("sync", "open", "open").await?;
    let start = format!(r#"{{"kind":"start","path":"{path}","schema":{schema}}}"#);
    socket.chunk("open", &start, b"").await?;
    loop {
        let message = socket.next().await?;
        if message.kind == "room.tool_call_response_chunk" {
            let chunk = &message.header["chunk"];
            anyhow::ensure!(chunk["type"] == "binary", "{}", verdict(chunk));
            return Ok(socket);
        }
    }
}

/// Sends one update and waits for its answer.
async fn send(socket: &mut Socket, update: &[u8]) -> anyhow::Result<Value> {
    let id = socket.update("open", update).await?;
    socket.answer(id).await
}

/// Opens a document, discards its state, and returns the state's size in bytes.
async fn open_and_read(stage: &Stage<'_>, path: &str) -> anyhow::Result<usize> {
    let mut socket = stage.attacker().await?;
    socket.open_document("look", path).await?;
    loop {
        let message = socket.next().await?;
        if message.kind == "room.tool_call_response_chunk" {
            return Ok(message.payload.len());
        }
    }
}

async fn violations(stage: &Stage<'_>) -> AttackResult {
    let schema = |tag: &str| {
        let children = format!(
            r##"{{"c":{{"type":"array","items":{{"anyOf":[{{"$ref":"#/$defs/b"}},{{"$ref":"#/$defs/{tag}"}}]}}}}}}"##
        );
        format!(
            r##"{{"$root_tag_ref":"#/$defs/{tag}","$defs":{{
            "{tag}":{{"properties":{{"{tag}":{{"properties":{children}}}}}}},
            "b":{{"properties":{{"b":{{"properties":{children}}}}}}}}}}}"##
        )
    };
    let mut ops = Ops::new(CLIENT, 0);
    let mut place = Place::Root;
    let mut last = (0, 0);
    for _ in 0..100 {
        last = ops.element_with_id(place, "b");
        place = Place::In(last);
    }
    for number in 0..4000 {
        ops.attribute(last, &format!("u{number}"), "");
    }
    let update = ops.finish();
    stage.begin().await?;
    // If a tag of 20 KB is refused, an allowed one takes its place.
    let mut tag = "t".repeat(20 << 10);
    let mut socket = match open_with(stage, "a.bad", &schema(&tag)).await {
        Ok(socket) => socket,
        Err(_refused) => {
            tag.truncate(250);
            open_with(stage, "a.bad", &schema(&tag)).await?
        }
    };
    let result = verdict(&send(&mut socket, &update).await?);
    Ok(format!("with a tag of {} bytes: {result}", tag.len()))
}

async fn same_place(stage: &Stage<'_>) -> AttackResult {
    let mut socket = open(stage, "a.document").await?;
    let count = stage.scaled(73_000, 20_000) as u64;
    let groups = (0..count).map(|number| {
        let mut ops = Ops::new(CLIENT + number, 0);
        ops.element_with_id(Place::Root, "body");
        ops
    });
    let update = update(groups, &[]);
    stage.begin().await?;
    Ok(verdict(&send(&mut socket, &update).await?))
}

async fn same_place_backwards(stage: &Stage<'_>) -> AttackResult {
    let mut socket = open(stage, "a.document").await?;
    let updates: Vec<Vec<u8>> = (0..33_u64)
        .map(|number| {
            let groups = (0..2_200_u64).map(|one| {
                let mut ops = Ops::new(CLIENT - number * 2_200 - one, 0);
                ops.element_with_id(Place::Root, "body");
                ops
            });
            update(groups, &[])
        })
        .collect();
    stage.begin().await?;
    let mut last = 0;
    for update in &updates {
        last = socket.update("open", update).await?;
    }
    Ok(verdict(&socket.answer(last).await?))
}

async fn collected(stage: &Stage<'_>) -> AttackResult {
    let mut socket = open(stage, "a.document").await?;
    let mut ops = Ops::new(CLIENT, 0);
    for _ in 0..20_000_000 {
        ops.collected(1);
    }
    let update = ops.finish();
    stage.begin().await?;
    Ok(verdict(&send(&mut socket, &update).await?))
}

async fn clients(stage: &Stage<'_>) -> AttackResult {
    let mut socket = open(stage, "a.document").await?;
    let groups = (0..5_000_000).map(|number| {
        let mut ops = Ops::new(300_000_000 + number, 0);
        ops.collected(1);
        ops
    });
    let update = update(groups, &[]);
    stage.begin().await?;
    let result = verdict(&send(&mut socket, &update).await?);
    // A log of this length needs compaction immediately.
    stage.hold().await;
    Ok(result)
}

async fn delete_ranges(stage: &Stage<'_>) -> AttackResult {
    let mut socket = open(stage, "a.document").await?;
    let ranges: Vec<_> = (0..8_000_000).map(|n| (CLIENT, n * 2, 1)).collect();
    let update = update([], &ranges);
    drop(ranges);
    stage.begin().await?;
    Ok(verdict(&send(&mut socket, &update).await?))
}

async fn delete_clients(stage: &Stage<'_>) -> AttackResult {
    let mut socket = open(stage, "a.document").await?;
    let ranges: Vec<_> = (0..3_000_000).map(|n| (CLIENT + n, 0, 1)).collect();
    let update = update([], &ranges);
    drop(ranges);
    stage.begin().await?;
    Ok(verdict(&send(&mut socket, &update).await?))
}

async fn every_other_character(stage: &Stage<'_>) -> AttackResult {
    let mut socket = open_with(stage, "a.rich", RICH).await?;
    let mut ops = Ops::new(CLIENT, 0);
    let element = ops.element_with_id(Place::Root, "text");
    let text = ops.text_node(Place::In(element));
    let first = ops.next();
    let last = ops.characters(Place::In(text), &"ab".repeat(150_000));
    let next = ops.next();
    let written = ops.finish();
    let ranges: Vec<_> = (0..150_000).map(|n| (CLIENT, first + n * 2, 1)).collect();
    let deleted = update([], &ranges);
    stage.begin().await?;
    send(&mut socket, &written).await?;
    let result = verdict(&send(&mut socket, &deleted).await?);
    let mut ops = Ops::new(CLIENT, next);
    ops.characters(Place::After(last), "end");
    send(&mut socket, &ops.finish()).await?;
    open_and_read(stage, "a.rich").await?;
    Ok(result)
}

async fn pasted_chinese(stage: &Stage<'_>) -> AttackResult {
    let mut socket = open_with(stage, "a.rich", RICH).await?;
    let count = stage.scaled(400_000, 40_000);
    let mut ops = Ops::new(CLIENT, 0);
    let element = ops.element_with_id(Place::Root, "text");
    let text = ops.text_node(Place::In(element));
    let first = ops.next();
    let mut last = ops.characters(
        Place::In(text),
        &"汉字测试文本编辑协作服务".repeat(count / 12),
    );
    let mut next = ops.next();
    let written = ops.finish();
    let deleted: Vec<_> = (0..count as u64 / 12)
        .map(|n| (CLIENT, first + n * 12, 1))
        .collect();
    stage.begin().await?;
    send(&mut socket, &written).await?;
    let mut result = verdict(&send(&mut socket, &update([], &deleted)).await?);
    for _ in 0..200 {
        let mut ops = Ops::new(CLIENT, next);
        last = ops.characters(Place::After(last), "字");
        next = ops.next();
        result = verdict(&send(&mut socket, &ops.finish()).await?);
    }
    open_and_read(stage, "a.rich").await?;
    Ok(result)
}

async fn marks(stage: &Stage<'_>) -> AttackResult {
    let mut socket = open_with(stage, "a.rich", RICH).await?;
    let mut ops = Ops::new(CLIENT, 0);
    let element = ops.element_with_id(Place::Root, "text");
    let text = ops.text_node(Place::In(element));
    let mut last = ops.characters(Place::In(text), "x");
    for number in 0..stage.scaled(200_000, 20_000) {
        last = ops.mark(Place::After(last), "bold", "true");
        if number % 50 == 0 {
            last = ops.characters(Place::After(last), "é");
        }
        last = ops.mark(Place::After(last), "bold", "null");
    }
    let mut next = ops.next();
    let written = ops.finish();
    stage.begin().await?;
    let mut result = verdict(&send(&mut socket, &written).await?);
    for _ in 0..50 {
        let mut ops = Ops::new(CLIENT, next);
        last = ops.characters(Place::After(last), "y");
        next = ops.next();
        result = verdict(&send(&mut socket, &ops.finish()).await?);
    }
    open_and_read(stage, "a.rich").await?;
    Ok(result)
}

async fn embeds(stage: &Stage<'_>) -> AttackResult {
    let mut socket = open_with(stage, "a.rich", RICH).await?;
    let mut ops = Ops::new(CLIENT, 0);
    let element = ops.element_with_id(Place::Root, "text");
    let text = ops.text_node(Place::In(element));
    let mut place = Place::In(text);
    for _ in 0..500_000 {
        place = Place::After(ops.embed(place, r#"{"image":""}"#));
    }
    let update = ops.finish();
    stage.begin().await?;
    let result = verdict(&send(&mut socket, &update).await?);
    open_and_read(stage, "a.rich").await?;
    Ok(result)
}

async fn deep(stage: &Stage<'_>) -> AttackResult {
    let mut socket = open_with(stage, "a.rich", RICH).await?;
    let updates: Vec<Vec<u8>> = (0..stage.scaled(2_000, 200) as u64)
        .map(|number| {
            let mut ops = Ops::new(CLIENT + number, 0);
            let mut place = Place::Root;
            let mut last = (0, 0);
            for _ in 0..250 {
                last = ops.element_with_id(place, "box");
                place = Place::In(last);
            }
            ops.attribute(last, "unknown", "");
            ops.finish()
        })
        .collect();
    stage.begin().await?;
    let mut result = String::new();
    for update in &updates {
        result = verdict(&send(&mut socket, update).await?);
    }
    let described = socket
        .ask("sync", "describe", r#"{"path":"a.rich"}"#)
        .await?;
    Ok(format!("{result}; described: {}", verdict(&described)))
}

async fn wide_value(stage: &Stage<'_>) -> AttackResult {
    let mut socket = open_with(stage, "a.rich", RICH).await?;
    let mut list = vec![117];
    crate::forge::unsigned(&mut list, 10_000_000);
    list.extend(std::iter::repeat_n(126, 10_000_000));
    let updates: Vec<Vec<u8>> = (0..16)
        .map(|number| {
            let mut ops = Ops::new(CLIENT + number, 0);
            let element = ops.element_with_id(Place::Root, "box");
            ops.values(Place::Key(element, "value"), 1, &list);
            ops.finish()
        })
        .collect();
    drop(list);
    stage.begin().await?;
    let mut result = String::new();
    for update in &updates {
        result = verdict(&send(&mut socket, update).await?);
    }
    let id = socket
        .call("sync", "describe", r#"{"path":"a.rich"}"#)
        .await?;
    Ok(format!(
        "{result}; described: {}",
        verdict(&socket.answer(id).await?)
    ))
}

async fn gaps(stage: &Stage<'_>) -> AttackResult {
    let mut sockets = Vec::new();
    for number in 0..stage.scaled(60, 20) {
        sockets.push(open(stage, &format!("{number}.document")).await?);
    }
    let pieces: Vec<Vec<u8>> = (0..8_u64)
        .map(|number| {
            let mut ops = Ops::new(CLIENT, 10 + number * 2);
            ops.characters(Place::After((CLIENT, 5)), &"é".repeat((1 << 19) - 100));
            ops.finish()
        })
        .collect();
    stage.begin().await?;
    let mut result = String::new();
    for piece in &pieces {
        for socket in &mut sockets {
            result = verdict(&send(socket, piece).await?);
        }
    }
    Ok(result)
}

async fn undo_storm(stage: &Stage<'_>) -> AttackResult {
    let mut socket = open(stage, "a.document").await?;
    socket.drain();
    let mut clock = 0;
    stage.begin().await?;
    for _ in 0..stage.scaled(20_000, 2_000) {
        let mut ops = Ops::new(CLIENT, clock);
        ops.element_with_id(Place::Root, "body");
        let next = ops.next();
        socket.update("open", &ops.finish()).await?;
        let deleted = update([], &[(CLIENT, clock, next - clock)]);
        socket.update("open", &deleted).await?;
        clock = next;
    }
    Ok("all sent".to_owned())
}

async fn emoji(stage: &Stage<'_>) -> AttackResult {
    let mut socket = open_with(stage, "a.rich", RICH).await?;
    let mut ops = Ops::new(CLIENT, 0);
    let element = ops.element_with_id(Place::Root, "text");
    let text = ops.text_node(Place::In(element));
    let first = ops.next();
    let piece = "👩‍👩‍👧שלוםe\u{301}🏳️‍🌈مرحبا";
    let written = piece.repeat(8_000);
    let units = written.encode_utf16().count() as u64;
    ops.characters(Place::In(text), &written);
    let written = ops.finish();
    let step = units / 40_000;
    let cuts = (0..40_000).map(|number| {
        let mut ops = Ops::new(CLIENT + 1 + number, 0);
        // The position is inside a character wherever one has two units.
        ops.characters(Place::After((CLIENT, first + number * step)), "ب");
        ops
    });
    let cuts = update(cuts, &[]);
    stage.begin().await?;
    send(&mut socket, &written).await?;
    let result = verdict(&send(&mut socket, &cuts).await?);
    open_and_read(stage, "a.rich").await?;
    Ok(result)
}

async fn replaced_value(stage: &Stage<'_>) -> AttackResult {
    let mut socket = open(stage, "a.document").await?;
    socket.drain();
    let mut ops = Ops::new(CLIENT, 0);
    let element = ops.element_with_id(Place::Root, "body");
    let mut clock = ops.next();
    socket.update("open", &ops.finish()).await?;
    let value = "ש".repeat(50 << 10);
    stage.begin().await?;
    let mut left = None;
    for _ in 0..stage.scaled(2_000, 200) {
        let mut ops = Ops::new(CLIENT, clock);
        let mut encoded = vec![119];
        crate::forge::unsigned(&mut encoded, value.len() as u64);
        encoded.extend_from_slice(value.as_bytes());
        let place = left.map_or(Place::Key(element, "text"), Place::After);
        left = Some(ops.values(place, 1, &encoded));
        clock = ops.next();
        let before: Vec<_> = (clock > 3)
            .then_some((CLIENT, clock - 2, 1))
            .into_iter()
            .collect();
        socket.update("open", &update([ops], &before)).await?;
    }
    Ok("all sent".to_owned())
}

async fn malformed(stage: &Stage<'_>) -> AttackResult {
    let mut socket = open(stage, "a.document").await?;
    socket.drain();
    let mut ops = Ops::new(CLIENT, 0);
    ops.element_with_id(Place::After((CLIENT, 0)), "body");
    let itself = ops.finish();
    let mut ops = Ops::new(CLIENT, 0);
    ops.element_with_id(Place::Root, "body");
    let cut = ops.finish();
    // Announces 2^50 clients.
    let huge = crate::forge::state_vector(1 << 50, [(1, 1)]);
    stage.begin().await?;
    for number in 0..stage.scaled(10_000, 1_000) {
        socket.update("open", &itself).await?;
        socket.update("open", &cut[..number % cut.len()]).await?;
        socket.update("open", &huge).await?;
        socket
            .chunk("open", r#"{"kind":"sync"}"#, "нет".as_bytes())
            .await?;
    }
    Ok("all sent".to_owned())
}

async fn same_ids(stage: &Stage<'_>) -> AttackResult {
    let mut socket = open(stage, "a.document").await?;
    let mut ops = Ops::new(CLIENT, 0);
    let mut place = Place::Root;
    for _ in 0..stage.scaled(100_000, 10_000) {
        let element = ops.element(place, "body");
        ops.attribute(element, "$id", "one");
        place = Place::After(element);
    }
    let update = ops.finish();
    stage.begin().await?;
    Ok(verdict(&send(&mut socket, &update).await?))
}
