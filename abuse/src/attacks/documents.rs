//! Attacks on whole documents: schemas, descriptions, patches, creations, opens, a large document.

use std::fmt::Write as _;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::attack::{Attack, AttackResult};
use crate::forge::{Ops, Place, state_vector};
use crate::stage::{ELSEWHERE, Stage, token, token_for, verdict};

pub(crate) const ATTACKS: fn() -> Vec<Attack> = || {
    vec![
        Attack::new("schema-elements", "a schema of 100,000 elements", |stage| {
            Box::pin(schema_elements(stage))
        })
        .in_short(),
        Attack::new(
            "schema-references",
            "a schema of 1,000 elements, each of which allows all others as children",
            |stage| Box::pin(schema_references(stage)),
        ),
        Attack::new(
            "schema-infer",
            "a schema inferred from JSON of 60,000 elements, each with a tag of its own",
            |stage| Box::pin(schema_infer(stage)),
        ),
        Attack::new(
            "schema-file",
            "a file of 47 MB of `[0,0,…]` as the schema of 20 documents",
            |stage| Box::pin(schema_file(stage)),
        )
        .in_short(),
        Attack::new(
            "schemas-many",
            "400 open documents, each with its own schema of 100 KB",
            |stage| Box::pin(schemas_many(stage)),
        ),
        Attack::new(
            "describe-unread",
            "60 participants describe a document of 20 MB and do not read the answer",
            |stage| Box::pin(describe_unread(stage)),
        )
        .with_documents(128),
        Attack::new(
            "document-large",
            "a room with a large document, edited in small steps, beside rooms that do heavy work",
            |stage| Box::pin(large_document(stage)),
        )
        .with_documents(256),
        Attack::new(
            "patch-wide",
            "a patch of 200,000 operations, most of them tests",
            |stage| Box::pin(patch_wide(stage)),
        ),
        Attack::new(
            "patch-copies",
            "a patch that copies the whole content into itself 40 times",
            |stage| Box::pin(patch_copies(stage)),
        )
        .in_short(),
        Attack::new(
            "patch-pointers",
            "patches with pointers of 1 MB, in one segment or in 500,000",
            |stage| Box::pin(patch_pointers(stage)),
        ),
        Attack::new(
            "patch-storm",
            "500 patches in flight together that each insert an element before 50,000 others",
            |stage| Box::pin(patch_storm(stage)),
        )
        .with_documents(128),
        Attack::new(
            "create-many",
            "3,000 documents with content, created without waiting for the answers",
            |stage| Box::pin(create_many(stage)),
        ),
        Attack::new(
            "open-large",
            "documents of 200,000 empty elements (2 MB of JSON each), opened until one is refused",
            |stage| Box::pin(open_large(stage)),
        ),
        Attack::new(
            "open-absent",
            "20,000 opens of documents that do not exist and may not be created",
            |stage| Box::pin(open_absent(stage)),
        )
        .in_short(),
        Attack::new(
            "open-streams",
            "one participant opens a document of 1 MB 4,096 times and does not read",
            |stage| Box::pin(open_streams(stage)),
        )
        .with_documents(64),
        Attack::new(
            "open-vectors",
            "20 opens with a state vector of 2 million clients",
            |stage| Box::pin(open_vectors(stage)),
        ),
        Attack::new(
            "open-bad-vectors",
            "5,000 opens with state vectors that announce more than they hold, or an impossible \
             number",
            |stage| Box::pin(open_bad_vectors(stage)),
        )
        .in_short(),
        Attack::new(
            "open-early-chunks",
            "40 opens, each followed by 250 chunks of 40 KB before the document can be open",
            |stage| Box::pin(open_early_chunks(stage)),
        ),
    ]
};

/// Returns the JSON of a document with `texts` texts of `bytes` bytes each.
fn content(texts: usize, bytes: usize) -> String {
    let body = format!(r#"{{"body":{{"text":"{}"}}}},"#, "ж".repeat(bytes / 2));
    let mut content = body.repeat(texts);
    content.pop();
    format!(r#"{{"document":{{"content":[{content}]}}}}"#)
}

async fn schema_elements(stage: &Stage<'_>) -> AttackResult {
    let mut schema = String::from(r##"{"$root_tag_ref":"#/$defs/e0","$defs":{"##);
    for number in 0..stage.scaled(100_000, 50_000) {
        let comma = if number > 0 { "," } else { "" };
        write!(
            schema,
            r#"{comma}"e{number}":{{"properties":{{"e{number}":{{"properties":{{}}}}}}}}"#
        )?;
    }
    schema.push_str("}}");
    let mut socket = stage.attacker().await?;
    let input = format!(r#"{{"path":"a.many","json":{{"e0":{{}}}},"schema":{schema}}}"#);
    stage.begin().await?;
    Ok(verdict(&socket.ask("sync", "create", &input).await?))
}

async fn schema_references(stage: &Stage<'_>) -> AttackResult {
    let mut references = String::new();
    for number in 0..1_000 {
        let comma = if number > 0 { "," } else { "" };
        write!(references, r##"{comma}{{"$ref":"#/$defs/e{number}"}}"##)?;
    }
    let mut schema = String::from(r##"{"$root_tag_ref":"#/$defs/e0","$defs":{"##);
    for number in 0..1_000 {
        let comma = if number > 0 { "," } else { "" };
        write!(
            schema,
            r#"{comma}"e{number}":{{"properties":{{"e{number}":{{"properties":{{"c":{{"type":"array","items":{{"anyOf":[{references}]}}}}}}}}}}}}"#
        )?;
    }
    schema.push_str("}}");
    let mut socket = stage.attacker().await?;
    let input = format!(r#"{{"path":"a.many","json":{{"e0":{{}}}},"schema":{schema}}}"#);
    stage.begin().await?;
    Ok(verdict(&socket.ask("sync", "create", &input).await?))
}

async fn schema_infer(stage: &Stage<'_>) -> AttackResult {
    let mut json = String::from(r#"{"root":{"c":["#);
    for number in 0..60_000 {
        let comma = if number > 0 { "," } else { "" };
        write!(json, r#"{comma}{{"e{number}":{{"a{number}":1}}}}"#)?;
    }
    json.push_str("]}}");
    let mut socket = stage.attacker().await?;
    let input = format!(r#"{{"path":"inferred","json":{json}}}"#);
    stage.begin().await?;
    Ok(verdict(&socket.ask("sync", "create", &input).await?))
}

async fn schema_file(stage: &Stage<'_>) -> AttackResult {
    let mut zeros = String::from("[");
    zeros.push_str(&"0,".repeat(stage.scaled(47, 12) << 19));
    zeros.push_str("0]");
    stage.upload_data("zeros.json", zeros.as_bytes()).await?;
    let mut socket = stage.attacker().await?;
    stage.begin().await?;
    let mut result = String::new();
    for number in 0..20 {
        let input = format!(r#"{{"path":"by-file/{number}","schema_path":"zeros.json"}}"#);
        result = verdict(&socket.ask("sync", "create", &input).await?);
    }
    Ok(result)
}

async fn schemas_many(stage: &Stage<'_>) -> AttackResult {
    let mut socket = stage.attacker().await?;
    socket.drain();
    stage.begin().await?;
    for document in 0..stage.scaled(400, 50) {
        let mut schema = String::from(r##"{"$root_tag_ref":"#/$defs/e0","$defs":{"##);
        for number in 0..1_000 {
            let comma = if number > 0 { "," } else { "" };
            write!(
                schema,
                r#"{comma}"e{number}":{{"properties":{{"e{number}":{{"properties":{{"a{document}":{{"type":"string"}}}}}}}}}}"#
            )?;
        }
        schema.push_str("}}");
        let call = format!("c{document}");
        socket.open_call("sync", "open", &call).await?;
        let start = format!(r#"{{"kind":"start","path":"{document}.many","schema":{schema}}}"#);
        socket.chunk(&call, &start, b"").await?;
    }
    stage.hold().await;
    Ok("all sent".to_owned())
}

async fn describe_unread(stage: &Stage<'_>) -> AttackResult {
    stage.create("a.document", &content(20, 1 << 20)).await?;
    let mut crowd = stage.crowd(60, true).await?;
    stage.begin().await?;
    for socket in &mut crowd {
        socket
            .call("sync", "describe", r#"{"path":"a.document"}"#)
            .await?;
    }
    stage.hold().await;
    Ok("all sent".to_owned())
}

/// Edits one large document while other rooms do heavy work, which must not delay its room.
async fn large_document(stage: &Stage<'_>) -> AttackResult {
    stage
        .create("large.document", &content(40_000, 400))
        .await?;
    let mut writer = stage.attacker().await?;
    writer.open_document("open", "large.document").await?;
    writer.drain();
    let mut others = Vec::new();
    for number in 0..3 {
        let token = token_for("heavy", &format!("heavy-{number}"));
        let mut socket = stage.join(&token, false).await?;
        let input = format!(r#"{{"path":"a.document","json":{}}}"#, content(20_000, 400));
        socket.ask("sync", "create", &input).await?;
        socket.drain();
        others.push(socket);
    }
    stage.begin().await?;
    let until = Instant::now() + Duration::from_secs(stage.scaled(10, 1) as u64);
    let mut clock = 0;
    while Instant::now() < until {
        for other in &mut others {
            other
                .call("sync", "describe", r#"{"path":"a.document"}"#)
                .await?;
        }
        for _ in 0..20 {
            let mut ops = Ops::new(5_000_000_011, clock);
            ops.element_with_id(Place::Root, "body");
            clock = ops.next();
            writer.update("open", &ops.finish()).await?;
            sleep(Duration::from_millis(20)).await;
        }
    }
    Ok("all sent".to_owned())
}

async fn patch_wide(stage: &Stage<'_>) -> AttackResult {
    stage.create("a.document", &content(1_000, 100)).await?;
    let mut socket = stage.attacker().await?;
    let mut patch = String::new();
    for number in 0..200_000 {
        let child = number % 1_000;
        match number % 50 {
            0 => write!(
                patch,
                r#"{{"op":"replace","path":"/document/content/{child}/body/text","value":"{number}"}},"#
            )?,
            _ => write!(
                patch,
                r#"{{"op":"test","path":"/document/content/{child}/body/$none","value":null}},"#
            )?,
        }
    }
    patch.pop();
    let input = format!(r#"{{"path":"a.document","patch":[{patch}]}}"#);
    stage.begin().await?;
    Ok(verdict(&socket.ask("sync", "patch", &input).await?))
}

async fn patch_copies(stage: &Stage<'_>) -> AttackResult {
    stage.create("a.document", &content(100, 1_000)).await?;
    let mut socket = stage.attacker().await?;
    let copies = [
        r#"{"op":"copy","from":"/document/content","path":"/document/content/0/body/text"},"#,
        r#"{"op":"copy","from":"/document/content/0","path":"/document/content/1/body/text"},"#,
    ];
    let mut patch = copies.concat().repeat(40);
    patch.pop();
    let input = format!(r#"{{"path":"a.document","patch":[{patch}]}}"#);
    stage.begin().await?;
    Ok(verdict(&socket.ask("sync", "patch", &input).await?))
}

async fn patch_pointers(stage: &Stage<'_>) -> AttackResult {
    stage.create("a.document", &content(10, 100)).await?;
    let mut socket = stage.attacker().await?;
    let pointers = ["/a".repeat(500_000), format!("/{}", "~0".repeat(500_000))];
    let patches = pointers.map(|pointer| {
        let operation = format!(r#"{{"op":"add","path":"{pointer}","value":1}}"#);
        format!(r#"{{"path":"a.document","patch":[{operation},{operation}]}}"#)
    });
    stage.begin().await?;
    let mut result = String::new();
    for _ in 0..stage.scaled(20, 4) {
        for input in &patches {
            result = verdict(&socket.ask("sync", "patch", input).await?);
        }
    }
    Ok(result)
}

async fn patch_storm(stage: &Stage<'_>) -> AttackResult {
    stage.create("a.document", &content(50_000, 20)).await?;
    let mut socket = stage.attacker().await?;
    let add = r#"{"op":"add","path":"/document/content/0","value":{"body":{"text":"ה"}}}"#;
    let input = format!(r#"{{"path":"a.document","patch":[{add}]}}"#);
    stage.begin().await?;
    let mut last = 0;
    for _ in 0..stage.scaled(500, 50) {
        last = socket.call("sync", "patch", &input).await?;
    }
    Ok(verdict(&socket.answer(last).await?))
}

async fn create_many(stage: &Stage<'_>) -> AttackResult {
    let mut socket = stage.attacker().await?;
    let json = content(20, 200);
    stage.begin().await?;
    let mut last = 0;
    for number in 0..stage.scaled(3_000, 300) {
        let input = format!(r#"{{"path":"many/{number}.document","json":{json}}}"#);
        last = socket.call("sync", "create", &input).await?;
    }
    Ok(verdict(&socket.answer(last).await?))
}

async fn open_large(stage: &Stage<'_>) -> AttackResult {
    let mut socket = stage.attacker().await?;
    let mut elements = r#"{"body":{}},"#.repeat(200_000);
    elements.pop();
    stage.begin().await?;
    for number in 0..stage.scaled(40, 4) {
        let input = format!(
            r#"{{"path":"large/{number}.document","json":{{"document":{{"content":[{elements}]}}}}}}"#
        );
        let result = verdict(&socket.ask("sync", "create", &input).await?);
        if result != "accepted" {
            stage.hold().await;
            return Ok(format!("{number} were opened; {result}"));
        }
        socket
            .open_document(
                &format!("large{number}"),
                &format!("large/{number}.document"),
            )
            .await?;
    }
    stage.hold().await;
    Ok("all were opened".to_owned())
}

async fn open_absent(stage: &Stage<'_>) -> AttackResult {
    let mut socket = stage.attacker().await?;
    socket.drain();
    stage.begin().await?;
    for number in 0..stage.scaled(20_000, 2_000) {
        let call = format!("c{number}");
        socket.open_call("sync", "open", &call).await?;
        let start =
            format!(r#"{{"kind":"start","path":"absent/{number}.document","create":false}}"#);
        socket.chunk(&call, &start, b"").await?;
    }
    Ok("all sent".to_owned())
}

async fn open_streams(stage: &Stage<'_>) -> AttackResult {
    stage.create("a.document", &content(10, 100 << 10)).await?;
    let mut socket = stage.join(&token("mallory"), true).await?;
    stage.begin().await?;
    for number in 0..stage.scaled(4_096, 400) {
        socket
            .open_document(&format!("c{number}"), "a.document")
            .await?;
    }
    Ok("all sent".to_owned())
}

async fn open_vectors(stage: &Stage<'_>) -> AttackResult {
    stage.create("a.document", &content(10, 100)).await?;
    let mut socket = stage.attacker().await?;
    let clients = stage.scaled(2_000_000, 500_000) as u64;
    let vector = state_vector(clients, (0..clients).map(|client| (client, 1)));
    let vector = meshagent_protocol::encode_base64(&vector);
    let vector = String::from_utf8_lossy(&vector);
    let start = format!(r#"{{"kind":"start","path":"a.document","vector":"{vector}"}}"#);
    stage.begin().await?;
    let mut last = 0;
    for number in 0..stage.scaled(20, 4) {
        let call = format!("c{number}");
        socket.open_call("sync", "open", &call).await?;
        last = socket.chunk(&call, &start, b"").await?;
    }
    Ok(verdict(&socket.answer(last).await?))
}

async fn open_bad_vectors(stage: &Stage<'_>) -> AttackResult {
    stage.create("a.document", &content(10, 100)).await?;
    let mut socket = stage.attacker().await?;
    socket.drain();
    let vectors = [
        state_vector(1 << 52, [(1, 1)]),
        state_vector(u64::from(u32::MAX), []),
        state_vector(1, [(u64::MAX >> 2, u64::MAX >> 2)]),
        vec![0xff; 64],
        Vec::new(),
    ];
    stage.begin().await?;
    for number in 0..stage.scaled(5_000, 500) {
        let vector = meshagent_protocol::encode_base64(&vectors[number % vectors.len()]);
        let vector = String::from_utf8_lossy(&vector);
        let call = format!("c{number}");
        socket.open_call("sync", "open", &call).await?;
        let start = format!(r#"{{"kind":"start","path":"a.document","vector":"{vector}"}}"#);
        socket.chunk(&call, &start, b"").await?;
    }
    Ok("all sent".to_owned())
}

async fn open_early_chunks(stage: &Stage<'_>) -> AttackResult {
    // The server must read the schema from a file first.
    let mut crowd = JoinSet::new();
    let mut sockets = stage.crowd(stage.scaled(40, 8), false).await?;
    for socket in &mut sockets {
        socket.drain();
    }
    let payload = vec![b'A'; 40 << 10];
    stage.begin().await?;
    for (number, mut socket) in sockets.into_iter().enumerate() {
        let payload = payload.clone();
        crowd.spawn(async move {
            socket.open_call("sync", "open", "open").await?;
            let start = format!(
                r#"{{"kind":"start","path":"{number}.early","schema_path":"{ELSEWHERE}.json","initial_json":{{}}}}"#
            );
            socket.chunk("open", &start, b"").await?;
            for _ in 0..250 {
                socket.chunk("open", r#"{"kind":"sync"}"#, &payload).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = crowd.join_next().await {
        ended??;
    }
    stage.hold().await;
    Ok("all sent".to_owned())
}
