//! The estimate of turns that go through a whole document.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshagent_document::{MeshDocument, MeshSchema, Target};
use meshagent_store::MemoryStore;
use serde_json::json;

use super::{RoomInput, World};

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
