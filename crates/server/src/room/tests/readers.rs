//! Readers are cursors: a reader that does not keep up costs little, and receives merged changes
//! later.

use meshagent_document::{MeshDocument, MeshSchema};
use serde_json::json;

use super::{Editor, World, count, shown};
use crate::config::Config;

#[test]
fn what_arrives_while_the_disk_is_busy_reaches_readers_as_one_change() {
    let mut world = World::new();
    let (writer, reader) = (world.join("writer"), world.join("reader"));
    world.open(&writer, "w", json!({ "path": "a.document" }));
    world.open(&reader, "r", json!({ "path": "a.document" }));
    let editor = Editor::new(1);
    world.update(&writer, "w", &editor.append("body", "first"));
    world.run();
    for n in 0..10 {
        world.update(&writer, "w", &editor.append("body", &format!("n{n}")));
    }
    world.settle();
    let changes = reader.changes("r");
    assert_eq!(
        changes.len(),
        2,
        "one for the first batch, one for all that came meanwhile"
    );
    assert_eq!(
        shown(&changes)["document"]["content"]
            .as_array()
            .unwrap()
            .len(),
        11
    );
}

#[test]
fn a_large_update_keeps_its_place_among_small_ones() {
    let mut world = World::new();
    let (writer, reader) = (world.join("writer"), world.join("reader"));
    world.open(&writer, "w", json!({ "path": "a.document" }));
    let state = world.open(&reader, "r", json!({ "path": "a.document" }));
    let editor = Editor::new(1);
    // All are in one batch, and each builds on the previous one. The update that deletes is sent
    // alone.
    world.update(&writer, "w", &editor.append("body", "first"));
    let large = "large".repeat(100_000);
    world.update(&writer, "w", &editor.append("body", &large));
    world.update(&writer, "w", &editor.append("body", "last"));
    world.update(&writer, "w", &editor.remove(0));
    world.settle();
    let schema = MeshSchema::builtin("document").unwrap();
    let mut replica = MeshDocument::new(schema, 99);
    for update in [vec![state], reader.changes("r")].concat() {
        if !update.is_empty() {
            let applied = replica.apply_update(&update).unwrap();

            assert!(!applied.gap, "every change can be shown when it comes");
        }
    }
    assert_eq!(replica.element_count(), 2);
}

#[test]
fn changes_that_delete_are_never_merged() {
    let mut world = World::new();
    let (writer, reader) = (world.join("writer"), world.join("reader"));
    world.open(&writer, "w", json!({ "path": "a.document" }));
    let state = world.open(&reader, "r", json!({ "path": "a.document" }));
    let editor = Editor::new(1);
    for id in ["x", "y", "z"] {
        world.update(&writer, "w", &editor.append("body", id));
    }
    world.settle();
    let mut updates = vec![state];
    updates.extend(reader.changes("r"));
    world.update(&writer, "w", &editor.append("body", "first"));
    world.run();
    // All of these are in one batch.
    world.update(&writer, "w", &editor.remove(0));
    world.update(&writer, "w", &editor.remove(1));
    world.update(&writer, "w", &editor.append("body", "second"));
    world.update(&writer, "w", &editor.append("body", "third"));
    world.settle();
    let changes = reader.changes("r");
    assert_eq!(
        changes.len(),
        4,
        "the first, each deletion, and the two insertions as one"
    );
    updates.extend(changes);
    let left = ["x", "y", "z", "first", "second", "third"].map(|id| count(&updates, id));
    assert_eq!(left, [0, 1, 0, 1, 1, 1]);
}

#[test]
fn a_reader_that_does_not_read_is_brought_up_to_date_by_one_change() {
    let mut config = Config::default();
    config.limits.max_outbox_bytes = 16 << 10;
    let mut world = World::with_config(config);
    let (writer, slow) = (world.join("writer"), world.join("slow"));
    world.open(&writer, "w", json!({ "path": "a.document" }));
    let state = world.open(&slow, "s", json!({ "path": "a.document" }));
    let editor = Editor::new(1);
    for n in 0..500 {
        world.update(&writer, "w", &editor.append("body", &format!("n{n}")));
        world.settle();
        writer.take();
    }
    let (queued, lagging) = slow.outbox.queued();
    assert!(
        queued < 32 << 10,
        "{queued} bytes are queued for a reader that reads nothing"
    );
    assert!(lagging);

    let mut updates = vec![state];
    updates.extend(slow.changes("s"));
    let seen = shown(&updates)["document"]["content"]
        .as_array()
        .unwrap()
        .len();
    assert!(seen < 500);
    world.room.handle_drained(slow.conn);
    world.settle();
    let rest = slow.changes("s");
    assert_eq!(rest.len(), 1, "one merged change");
    updates.extend(rest);
    assert_eq!(
        shown(&updates)["document"]["content"]
            .as_array()
            .unwrap()
            .len(),
        500
    );

    // Now the reader keeps up again.
    world.update(&writer, "w", &editor.append("body", "last"));
    world.settle();
    assert_eq!(count(&[updates, slow.changes("s")].concat(), "last"), 1);
}

#[test]
fn a_reader_too_far_behind_gets_the_whole_state() {
    let mut config = Config::default();
    config.limits.max_outbox_bytes = 4 << 10;
    let mut world = World::with_config(config);
    let (writer, slow) = (world.join("writer"), world.join("slow"));
    world.open(&writer, "w", json!({ "path": "a.document" }));
    world.open(&slow, "s", json!({ "path": "a.document" }));
    let editor = Editor::new(1);
    world.update(&writer, "w", &editor.append("body", "one"));
    // More bytes than the recent changes that a document keeps.
    let long = "x".repeat(300 << 10);
    for _ in 0..6 {
        world.update(&writer, "w", &editor.set_first("text", &long));
        world.settle();
        writer.take();
    }
    let mut updates = slow.changes("s");
    world.room.handle_drained(slow.conn);
    world.settle();
    updates.extend(slow.changes("s"));
    assert_eq!(
        shown(&updates)["document"]["content"][0]["body"]["text"]
            .as_str()
            .unwrap()
            .len(),
        long.len()
    );
}

#[test]
fn a_reader_behind_many_small_deletions_gets_them_in_portions() {
    let mut config = Config::default();
    config.limits.max_outbox_bytes = 16 << 10;
    let mut world = World::with_config(config);
    let (writer, slow) = (world.join("writer"), world.join("slow"));
    world.open(&writer, "w", json!({ "path": "a.document" }));
    let mut updates = vec![world.open(&slow, "s", json!({ "path": "a.document" }))];
    let editor = Editor::new(1);
    for n in 0..1000 {
        world.update(&writer, "w", &editor.append("body", &format!("n{n}")));
        world.settle();
        world.update(&writer, "w", &editor.remove(0));
        world.settle();
        writer.take();
    }
    world.update(&writer, "w", &editor.append("body", "last"));
    world.settle();
    let mut portions = 0;
    while count(&updates, "last") == 0 {
        let (queued, _) = slow.outbox.queued();
        assert!(queued < 32 << 10, "{queued} bytes are queued");
        updates.extend(slow.changes("s"));
        world.room.handle_drained(slow.conn);
        world.settle();
        portions += 1;
        assert!(portions < 1000, "it never gets the last change");
    }
    assert!(portions > 5, "{portions}");
    assert_eq!(
        shown(&updates)["document"]["content"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
}

#[test]
fn what_becomes_durable_together_with_a_readers_state_reaches_it_too() {
    let mut config = Config::default();
    config.limits.max_outbox_bytes = 4 << 10;
    let mut world = World::with_config(config);
    let (writer, slow) = (world.join("writer"), world.join("slow"));
    world.open(&writer, "w", json!({ "path": "a.document" }));
    let mut updates = vec![world.open(&slow, "s", json!({ "path": "a.document" }))];
    let editor = Editor::new(1);
    world.update(&writer, "w", &editor.append("body", "one"));
    // More bytes than the recent changes that a document keeps.
    for _ in 0..6 {
        let long = "x".repeat(300 << 10);
        world.update(&writer, "w", &editor.set_first("text", &long));
        world.settle();
        writer.take();
    }
    updates.extend(slow.changes("s"));
    // The reader awaits the state with "two", which waits for the disk. "three" gets into the same
    // batch.
    world.update(&writer, "w", &editor.append("body", "two"));
    world.room.handle_drained(slow.conn);
    world.update(&writer, "w", &editor.append("body", "three"));
    world.settle();
    updates.extend(slow.changes("s"));
    world.room.handle_drained(slow.conn);
    world.settle();
    updates.extend(slow.changes("s"));
    let seen = ["one", "two", "three"].map(|id| count(&updates, id));
    assert_eq!(seen, [1, 1, 1]);
}

#[test]
fn a_client_that_comes_back_gets_what_it_lacks() {
    let mut world = World::new();
    let (writer, other) = (world.join("writer"), world.join("other"));
    world.open(&writer, "w", json!({ "path": "a.document" }));
    let editor = Editor::new(1);
    let first = editor.append("body", "one");
    world.update(&writer, "w", &first);
    world.update(&writer, "w", &editor.append("body", "two"));
    world.settle();

    let mut replica = MeshDocument::new(MeshSchema::builtin("document").unwrap(), 5);
    replica.apply_update(&first).unwrap();
    let vector = base64::Engine::encode(&super::STANDARD, replica.state_vector());
    let difference = world.open(
        &other,
        "o",
        json!({ "path": "a.document", "vector": vector }),
    );
    assert_eq!(
        (
            count(&[first, difference.clone()], "one"),
            count(std::slice::from_ref(&difference), "one")
        ),
        (1, 0)
    );
    replica.apply_update(&difference).unwrap();
    assert_eq!(
        replica.to_json(false)["document"]["content"]
            .as_array()
            .unwrap()
            .len(),
        2
    );

    world.begin_open(
        &other,
        "bad",
        json!({ "path": "a.document", "vector": "/////w8=" }),
    );
    world.settle();
    assert_eq!(
        super::code(&other.chunks("bad")[0]),
        Some(1002),
        "a hostile vector costs only that open"
    );
}
