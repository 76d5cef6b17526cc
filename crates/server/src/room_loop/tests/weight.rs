//! The estimate of turns that go through a whole document.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshagent_document::{MeshDocument, MeshSchema, Target};
use meshagent_store::MemoryStore;
use serde_json::json;

use super::{RoomInput, World};
use crate::config::Config;

/// The refusal measures the document, whatever others have edited since.
#[test]
fn edit_beyond_a_share_is_as_heavy_as_its_document() {
    let mut config = Config::default();
    config.limits.max_open_bytes = 2 << 20;
    let mut world = World::with_config(config);
    let store = MemoryStore::new();
    let [author, other] = ["äuthor", "öther"].map(|name| world.join(name));
    world.open(&author);
    world.open_at(&author, "second", "b.document");
    world.open(&other);
    world.settle(&store);
    let schema = || MeshSchema::builtin("document").unwrap();
    let mut replicas = [1, 2].map(|client| MeshDocument::new(schema(), client));
    let mut number = 0;
    let mut edit = |replica: &mut MeshDocument, count: usize| {
        let mut id = || {
            number += 1;
            format!("ï{number}")
        };
        let before = replica.state_vector();
        for _ in 0..count {
            let body = json!({ "body": {} });
            replica.append_child(Target::Root, body, &mut id).unwrap();
        }
        replica.encode_diff(&before).unwrap()
    };
    let sync = json!({ "kind": "sync" });
    let [own, others] = &mut replicas;
    let first = edit(own, 700);
    world.chunk(&author, &sync, &STANDARD.encode(&first));
    world.settle(&store);
    for count in [300, 300] {
        world.chunk(&author, &sync, &STANDARD.encode(edit(own, count)));
        world.settle(&store);
        let update = edit(others, 100);
        world.chunk(&other, &sync, &STANDARD.encode(update));
        world.settle(&store);
        author.answered();
    }
    world.chunk(&author, &sync, &STANDARD.encode(edit(own, 300)));
    let bytes = world.weighs();
    assert!(bytes >= first.len(), "{bytes} of {} bytes", first.len());
}

#[test]
fn a_reader_that_is_to_get_a_large_state_is_no_light_work() {
    let store = MemoryStore::new();
    let mut world = World::new();
    let (writer, slow) = (world.join("schreïber"), world.join_with("längsam", 4 << 10));
    world.open(&writer);
    world.open(&slow);
    world.settle(&store);
    let mut editor = MeshDocument::new(MeshSchema::builtin("document").unwrap(), 5);
    let mut bytes = 0;
    // More than a document keeps of recent changes.
    for number in 0..10 {
        let before = editor.state_vector();
        let element = json!({ "body": { "text": "é".repeat(100_000) } });
        editor
            .append_child(Target::Root, element, &mut || format!("e{number}"))
            .unwrap();
        let update = editor.encode_diff(&before).unwrap();
        bytes += update.len();
        world.chunk(
            &writer,
            &json!({ "kind": "sync" }),
            &STANDARD.encode(update),
        );
        world.settle(&store);
        // The writer reads its answers.
        writer.answered();
    }
    let mut drained = false;
    for (_, cost) in slow.outbox.try_take() {
        drained |= slow.outbox.written(cost);
    }
    assert!(drained, "it had fallen behind");
    world.hand_in(RoomInput::Drained(slow.conn));
    let weighs = world.weighs();
    assert!(weighs >= bytes / 10 * 9, "{weighs} for {bytes} bytes");
}

#[test]
fn leaving_is_as_heavy_as_the_calls_that_end() {
    let (store, mut world) = (MemoryStore::new(), World::new());
    let [few, many] = ["wenige", "vïele"].map(|name| world.join(name));
    world.open(&few);
    for number in 0..4_096 {
        world.open_at(&many, &format!("ö{number}"), "a.document");
        world.settle(&store);
    }
    for (member, expected) in [(few, false), (many, true)] {
        world.hand_in(RoomInput::Leave(member.conn));
        let bytes = world.weighs();
        assert_eq!(crate::lane::is_heavy(bytes), expected, "{bytes}");
        world.settle(&store);
    }
}
