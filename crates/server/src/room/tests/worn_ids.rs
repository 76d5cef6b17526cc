//! The client id of a room's patches when it has no operations left.

use serde_json::json;

use super::{Content, World, code};

/// An update of `count` collected operations of a client, from `clock` on.
fn blank(client: u8, clock: u32, count: u32) -> Vec<u8> {
    let mut update = vec![1, 1, client];
    for (mut number, kind) in [(clock, Some(0)), (count, None)] {
        while number >= 0x80 {
            update.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
            number >>= 7;
        }
        update.push(u8::try_from(number).unwrap());
        update.extend(kind);
    }
    update.push(0);
    update
}

#[test]
fn a_patch_takes_another_client_id_when_the_last_one_has_no_operations_left() {
    const STEP: u32 = 1 << 24;
    const END: u32 = (1 << 31) - 1;
    let mut world = World::new();
    let writer = world.join("writer");
    world.open(&writer, "a", json!({ "path": "a.document" }));
    for clock in (0..END).step_by(STEP as usize) {
        let id = world.update(&writer, "a", &blank(7, clock, STEP.min(END - clock)));
        world.settle();
        assert_eq!(writer.answer(id), Content::Empty, "{clock}");
    }
    // As if the room's own patches had used the operations.
    let id = world.room.documents.id_at("a.document").unwrap();
    let document = world.room.documents.get_mut(id).unwrap();
    document.replica.set_client_id(7);
    let value = json!({ "body": { "text": "größer" } });
    let add = json!({ "op": "add", "path": "/document/content/-", "value": value });
    let patch = json!({ "path": "a.document", "patch": [add] });
    let answer = world.call(&writer, "sync", "patch", patch);
    assert_eq!(code(&answer), None, "{answer:?}");
    let document = world.room.documents.get(id).unwrap();
    assert_ne!(document.replica.client_id(), 7);
}
