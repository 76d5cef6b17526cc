//! The memory that a connection which does not read makes a room hold: approximately one answer,
//! however many it requests; and to which account it is charged.

use std::sync::Arc;
use std::time::Duration;

use meshagent_ledger::{Account, Held, Kind};
use meshagent_protocol::{ClientToServer, Content, ServerToClient};
use meshagent_store::{RoomId, Store as _, Timestamp, Write};
use serde_json::{Map, Value, json};

use super::{Client, Control, Editor, STANDARD, Seen, World, invoke, sync_chunk};
use crate::config::Config;
use base64::Engine as _;
use bytes::Bytes;

const MIB: usize = 1 << 20;
/// The mark of these tests' outboxes, in bytes.
const MARK: usize = 64 << 10;

fn world() -> World {
    let mut config = Config::default();
    config.limits.max_outbox_bytes = MARK;
    World::with_config(config)
}

/// Nearly the longest attributes that a participant may have.
fn attributes() -> Map<String, Value> {
    Map::from_iter([("about".to_owned(), "é".repeat(8_000).into())])
}

fn document(bytes: usize) -> Value {
    let text = "é".repeat(bytes / 2);
    json!({ "document": { "content": [{ "body": { "text": text } }] } })
}

fn held(world: &World, client: &Client) -> usize {
    world.room.participants[&client.conn].account.held()
}

/// Reads until nothing more arrives. Returns the number of answers.
fn read_all(world: &mut World, client: &Client) -> usize {
    let mut answers = 0;
    loop {
        let seen = client.take();
        if seen.is_empty() {
            return answers;
        }
        let is_answer = |seen: &&Seen| matches!(seen, Seen::Answer(..));
        answers += seen.iter().filter(is_answer).count();
        world.room.handle_drained(client.conn);
        world.settle();
    }
}

#[test]
fn who_asks_again_and_again_who_is_there_has_one_answer_in_the_queue() {
    let mut world = world();
    let mut others = Vec::new();
    for number in 0..20 {
        let other = world.join(&format!("ön {number}"));
        world.invoke(&other, "messaging", "enable", json!({}));
        world.send(&other, ClientToServer::SetAttributes(attributes()));
        others.push(other);
    }
    let deaf = world.join("deaf");
    world.invoke(&deaf, "messaging", "enable", json!({}));
    let one = deaf.outbox.queued_bytes();
    assert!(one > 20 * 16_000, "{one}");
    for _ in 1..50 {
        world.invoke(&deaf, "messaging", "enable", json!({}));
    }
    let queued = deaf.outbox.queued_bytes();
    assert!(queued <= MARK + one, "{queued} bytes, one answer has {one}");
    assert_eq!(read_all(&mut world, &deaf), 50);
}

#[test]
fn tiny_documents_with_a_large_schema_are_sent_one_after_the_other_and_share_it() {
    let mut world = world();
    let element = |tag: &str, text: &str| {
        let inner = json!({ "description": text, "properties": {} });
        json!({ "properties": Map::from_iter([(tag.to_owned(), inner)]) })
    };
    let schema = json!({
        "$root_tag_ref": "#/$defs/root",
        "$defs": { "root": element("root", &"é".repeat(200_000)) },
    });
    let writer = world.join("writer");
    for number in 0..20 {
        let created = world.call(
            &writer,
            "sync",
            "create",
            json!({ "path": format!("{number}.x"), "schema": schema }),
        );
        assert_eq!(created, Content::Empty);
    }
    let deaf = world.join("deaf");
    for number in 0..20 {
        let path = format!("{number}.x");
        world.begin_open(&deaf, &path, json!({ "path": path }));
        let describe = json!({ "path": path, "with_schema": true });
        world.invoke(&deaf, "sync", "describe", describe);
    }
    world.settle();
    let queued = deaf.outbox.queued_bytes();
    let one = schema.to_string().len();
    assert!(
        queued <= MARK + one + 4_096,
        "{queued} bytes, a schema has {one}"
    );
    // Two answers for each open, one for each description.
    assert_eq!(read_all(&mut world, &deaf), 60);
}

#[test]
fn who_is_in_the_news_all_the_time_pays_until_they_are_read() {
    let mut world = World::new();
    let (loud, reader) = (world.join("loud"), world.join("reader"));
    for client in [&loud, &reader] {
        world.invoke(client, "messaging", "enable", json!({}));
    }
    world.send(&loud, ClientToServer::SetAttributes(attributes()));
    loud.take();
    reader.take();
    let before = held(&world, &loud);
    for _ in 0..10 {
        world.invoke(&loud, "messaging", "disable", json!({}));
        world.invoke(&loud, "messaging", "enable", json!({}));
    }
    loud.take();
    let after = held(&world, &loud);
    assert!(after >= before + 10 * 16_000, "{before} then {after}");
    let news = reader.take();
    assert_eq!(news.len(), 20);
    assert!(
        news.iter()
            .all(|seen| matches!(seen, Seen::Other(ServerToClient::Messaging { .. })))
    );
    drop(news);
    assert_eq!(held(&world, &loud), before);
}

#[test]
fn who_moves_files_all_the_time_pays_until_others_have_read_of_it() {
    let mut world = World::new();
    let (mover, reader) = (world.join("mover"), world.join("reader"));
    let files = (0..500).map(|number| Write::PutFile {
        room: RoomId::new("project", "room"),
        path: format!("ä/{number}"),
        data: "x".into(),
        mime_type: String::new(),
        overwrite: false,
        at: Timestamp(0),
    });
    let files: Vec<_> = files.collect();
    world.store.commit(&files).unwrap();
    let before = held(&world, &mover);
    for (from, to) in [("ä", "ö"), ("ö", "ü")] {
        let input = json!({ "source_path": from, "destination_path": to });
        assert_eq!(world.call(&mover, "storage", "move", input), Content::Empty);
    }
    mover.take();
    let after = held(&world, &mover);
    assert!(after >= before + 1_000 * 256, "{before} then {after}");
    drop(reader.take());
    assert_eq!(held(&world, &mover), before);
}

#[test]
fn introductions_wait_for_memory_that_others_have() {
    let mut config = Config::default();
    config.limits.max_shared_bytes = MIB;
    let mut world = World::with_config(config);
    let crowd: Vec<_> = (0..40)
        .map(|number| {
            let one = world.join(&format!("ön {number}"));
            world.send(&one, ClientToServer::SetAttributes(attributes()));
            one
        })
        .collect();
    let answers = |one: &Client| {
        let seen = one.take();
        let is_answer = |seen: &&Seen| matches!(seen, Seen::Answer(_, Content::Empty));
        seen.iter().filter(is_answer).count()
    };
    for one in &crowd {
        world.invoke(one, "messaging", "enable", json!({}));
        let shared = world.room.usage.shared_bytes();
        assert!(shared <= 2 * MIB, "{shared} bytes");
    }
    let mut answered = 0;
    for _ in 0..crowd.len() {
        answered += crowd.iter().map(answers).sum::<usize>();
        if answered == crowd.len() {
            return;
        }
        world.pass_seconds(1);
    }
    panic!("{answered} of {} are answered", crowd.len());
}

#[test]
fn attributes_of_many_never_fill_the_server() {
    let mut config = Config::default();
    config.limits.max_held_bytes = 8 * MIB;
    let mut world = World::with_config(config);
    let others: Vec<_> = (0..100)
        .map(|number| {
            let other = world.join(&format!("ön {number}"));
            world.send(&other, ClientToServer::SetAttributes(attributes()));
            other
        })
        .collect();
    let state = world.room.usage.ledger().held_of(Kind::State);
    // Half of the bound, and the reserve for peers that hold little.
    assert!(state <= 5 * MIB, "{state} bytes");
    let late = world.join("late");
    assert!(
        world.room.participants[&late.conn]
            .account
            .try_charge(Kind::Received, MIB)
            .is_ok()
    );
    drop(others);
}

#[test]
fn states_that_one_participant_does_not_read_leave_room_for_others() {
    let bytes = 300_000;
    let mut config = Config::default();
    config.limits.max_shared_bytes = bytes / 3 * 4 * 3;
    let mut world = World::with_config(config);
    let writer = world.join("writer");
    for path in ["ä.document", "b.document", "c.document"] {
        let input = json!({ "path": path, "json": document(bytes) });
        assert_eq!(world.call(&writer, "sync", "create", input), Content::Empty);
    }
    let (first, second) = (world.join("same"), world.join("same"));
    let other = world.join("other");
    world.begin_open(&first, "a", json!({ "path": "ä.document" }));
    world.begin_open(&second, "b", json!({ "path": "b.document" }));
    world.settle();
    assert!(first.outbox.queued_bytes() > bytes);
    assert!(second.outbox.queued_bytes() < bytes, "it waits");
    world.open(&other, "c", json!({ "path": "c.document" }));
    first.state("a");
    // The first second requests the memory of unused states, the second one gets it.
    world.pass_seconds(2);
    second.state("b");
}

#[test]
fn an_open_that_waits_keeps_nothing_to_create_a_document_with() {
    let mut world = world();
    let writer = world.join("writer");
    let input = json!({ "path": "ä.document", "json": document(2 * MARK) });
    assert_eq!(world.call(&writer, "sync", "create", input), Content::Empty);
    let deaf = world.join("deaf");
    world.begin_open(&deaf, "first", json!({ "path": "ä.document" }));
    world.settle();
    let account = Arc::clone(&world.room.participants[&deaf.conn].account);
    let charge = account.try_charge(Kind::Received, 4 * MIB).unwrap();
    let before = account.held();
    let open = invoke("sync", "open", Content::Control(Control::Open), "second");
    world.send(&deaf, open);
    world.room.hold(Held::from(charge));
    world.start(
        &deaf,
        "second",
        json!({ "path": "ä.document", "initial_json": document(4 * MIB) }),
    );
    assert!(
        account.held() + 3 * MIB < before,
        "{} of {before}",
        account.held()
    );
    // The document was opened nevertheless, after the first answer was read.
    assert_eq!(read_all(&mut world, &deaf), 4);
}

/// Its peer may take minutes to read, and the permit to exceed the bounds is the server's only one.
#[tokio::test]
async fn early_chunk_does_not_exceed_the_bounds_while_its_peer_reads() {
    for is_full in [true, false] {
        let mut config = Config::default();
        config.limits.max_held_bytes = 16 * MIB;
        let mut world = World::with_config(config);
        let clients = [world.join("früh"), world.join("other")];
        let account = |client: &Client| Arc::clone(&world.room.participants[&client.conn].account);
        let accounts = clients.each_ref().map(account);
        let start = json!({ "path": "ä.document" });
        world.call(&clients[0], "sync", "create", start.clone());
        world.unload();
        let common = Arc::clone(world.room.usage.common());
        let fill = |mib: usize| common.charge_anyway(Kind::Shared, mib * MIB);
        let exceeding = async |account: &Arc<Account>| {
            let mut charge = account.try_charge(Kind::Received, 60 << 10).unwrap();
            let grown = charge.grow(2 * MIB);
            tokio::time::timeout(Duration::from_secs(20), grown)
                .await
                .expect("the permit");
            charge
        };
        let full = fill(16);
        let charge = exceeding(&accounts[0]).await;
        let full = is_full.then_some(full);
        world.begin_open(&clients[0], "c", start);
        world.room.hold(Held::from(charge));
        let early = world.update(&clients[0], "c", &Editor::new(1).append("body", "früh"));
        let full = full.unwrap_or_else(|| fill(13));
        let other = exceeding(&accounts[1]).await;
        drop((full, other));
        world.settle();
        let answer = clients[0].answer(early);
        if is_full {
            assert_eq!(super::code(&answer), Some(1008), "{answer:?}");
        } else {
            assert_eq!(answer, Content::Empty);
        }
    }
}

#[test]
fn the_answer_to_a_gap_does_not_grow_with_the_document() {
    for (clients, is_listed) in [(10, true), (3_000, false)] {
        let mut world = World::new();
        let writer = world.join("writer");
        let input = json!({ "path": "ä.document" });
        world.call(&writer, "sync", "create", input);
        world.open(&writer, "w", json!({ "path": "ä.document" }));
        let updates: Vec<Vec<u8>> = (0..clients)
            .map(|client| Editor::new(1_000 + client).append("body", &format!("é{client}")))
            .collect();
        let updates: Vec<&[u8]> = updates.iter().map(Vec::as_slice).collect();
        let all = meshagent_document::merge_updates(&updates).unwrap();
        let sent = world.update(&writer, "w", &all);
        world.settle();
        writer.answer(sent);
        let editor = Editor::new(7);
        editor.append("body", "lost");
        let gap = editor.append("body", "é");
        let sent = world.chunk(&writer, "w", sync_chunk(STANDARD.encode(&gap)));
        world.settle();
        let Content::Json(answer) = writer.answer(sent) else {
            panic!("expected a notice")
        };
        assert_eq!(answer["pending"], true);
        assert_eq!(
            answer.get("state_vector").is_some(),
            is_listed,
            "{clients} clients"
        );
        assert!(answer.to_string().len() < 16 << 10);
    }
}

#[test]
fn a_folder_that_is_too_large_is_not_listed_and_no_more_of_it_is_read() {
    let mut config = Config::default();
    config.limits.max_list_entries = 10;
    let mut world = World::with_config(config);
    let writer = world.join("writer");
    let list = |world: &mut World| world.call(&writer, "storage", "list", json!({ "path": "ö" }));
    for number in 0..11 {
        // A folder is one entry, whatever is in it.
        for path in [
            format!("ö/{number}/a.document"),
            format!("ö/{number}/b.document"),
        ] {
            let created = world.call(&writer, "sync", "create", json!({ "path": path }));
            assert_eq!(created, Content::Empty);
        }
        let content = list(&mut world);
        if number == 10 {
            assert_eq!(super::code(&content), Some(1002), "{content:?}");
            assert!(super::text(&content).contains("10 entries"));
        } else {
            let Content::Json(listed) = content else {
                panic!("{content:?}")
            };
            assert_eq!(listed["files"].as_array().unwrap().len(), number + 1);
        }
    }
}

#[test]
fn what_is_pulled_and_not_taken_is_charged_and_waits_for_memory() {
    let mut world = World::new();
    let file = Write::PutFile {
        room: RoomId::new("project", "room"),
        path: "ä".to_owned(),
        data: vec![7; 4 * MIB].into(),
        mime_type: String::new(),
        overwrite: true,
        at: Timestamp(0),
    };
    world.store.commit(&[file]).unwrap();
    let binary = |headers: Value| Content::Binary {
        headers: headers.as_object().unwrap().clone(),
        data: Bytes::new(),
    };
    // One participant with many connections.
    let crowd: Vec<_> = (0..300).map(|_| world.join("greedy")).collect();
    for one in &crowd {
        let open = invoke("storage", "download", Content::Control(Control::Open), "d");
        world.send(one, open);
        let start = json!({ "kind": "start", "path": "ä", "chunk_size": MIB - 2048 });
        world.chunk(one, "d", binary(start));
        world.settle();
        for _ in 0..2 {
            world.chunk(one, "d", binary(json!({ "kind": "pull" })));
            world.settle();
        }
    }
    let queued: usize = crowd.iter().map(|one| one.outbox.queued_bytes()).sum();
    let held = world.room.usage.ledger().held();
    let max = Config::default().limits.max_held_bytes;
    assert!(
        held + MIB >= queued,
        "{queued} bytes are queued, {held} are charged"
    );
    assert!(held <= max / 8 * 3, "{held} bytes");
    // The other downloads continue when these have read.
    let mut read = 0;
    let mut rounds = 0;
    while read < crowd.len() * 2 {
        for one in &crowd {
            let seen = one.take();
            let is_data = |seen: &&Seen| matches!(seen, Seen::Chunk(_, Content::Binary { data, .. }) if !data.is_empty());
            read += seen.iter().filter(is_data).count();
            drop(seen);
            world.room.handle_drained(one.conn);
            world.settle();
        }
        world.pass_seconds(1);
        rounds += 1;
        assert!(rounds < 20, "{read} parts came");
    }
}
