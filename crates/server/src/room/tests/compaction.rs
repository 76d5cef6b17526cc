//! What the store keeps of a document: not much more than its content, at any time and after any
//! failure.

use meshagent_store::{Fault, RoomId, Store as _};
use serde_json::json;

use super::{Editor, World, count, shown};

/// The bytes that the store keeps of a document, and those of its merged state.
fn stored_and_merged(world: &World, path: &str) -> (usize, usize) {
    let stored = world
        .store
        .inner()
        .load(&RoomId::new("project", "room"), path)
        .unwrap()
        .unwrap();
    let updates: Vec<Vec<u8>> = stored
        .snapshot
        .iter()
        .chain(stored.updates.iter().map(|one| &one.update))
        .map(|update| update.to_vec())
        .collect();
    let mut replica = meshagent_document::MeshDocument::new(
        meshagent_document::MeshSchema::builtin("document").unwrap(),
        7,
    );
    for update in updates.iter().filter(|update| !update.is_empty()) {
        replica.apply_update(update).unwrap();
    }
    let kept = updates.iter().map(Vec::len).sum();
    (kept, replica.encode_state().len())
}

const SLACK: usize = 128 << 10;

#[test]
fn what_is_kept_stays_within_twice_the_merged_state() {
    let mut world = World::new();
    let writer = world.join("writer");
    world.open(&writer, "w", json!({ "path": "a.document" }));
    let editor = Editor::new(1);
    world.update(&writer, "w", &editor.append("body", "one"));
    let mut most = 0;
    for n in 0..400 {
        // Each change replaces the previous one, so the merged state hardly grows.
        let text = n.to_string().repeat(3000);
        world.update(&writer, "w", &editor.set_first("text", &text));
        if n % 4 == 0 {
            world.update(&writer, "w", &editor.append("body", &format!("n{n}")));
        }
        world.settle();
        writer.take();
        if world.room.is_worn() {
            world.room.handle_timeout(world.now);
            world.settle();
        }
        let (kept, merged) = stored_and_merged(&world, "a.document");
        assert!(kept <= 2 * merged + SLACK, "{kept} bytes kept for {merged}");
        most = most.max(100 * kept / (2 * merged + SLACK));
    }
    assert!(most > 40, "the bound was never near: {most} %");
    assert!(world.metric("meshagent_snapshots_total") > 5);
}

#[test]
fn a_document_that_was_emptied_shrinks_in_the_store_too() {
    let mut world = World::new();
    let writer = world.join("writer");
    world.open(&writer, "w", json!({ "path": "a.document" }));
    let editor = Editor::new(1);
    world.update(&writer, "w", &editor.append("body", "one"));
    world.update(
        &writer,
        "w",
        &editor.set_first("text", &"x".repeat(1 << 20)),
    );
    world.settle();
    world.pass_seconds(2);
    world.update(&writer, "w", &editor.remove(0));
    world.settle();
    assert!(stored_and_merged(&world, "a.document").0 > 1 << 20);
    world.pass_seconds(31);
    let (kept, merged) = stored_and_merged(&world, "a.document");
    assert!(kept <= 2 * merged + SLACK, "{kept} bytes kept for {merged}");
}

#[test]
fn who_made_what_outlives_the_updates() {
    let config = crate::config::Config {
        provenance_kept: std::time::Duration::from_hours(1),
        ..crate::config::Config::default()
    };
    let mut world = World::with_config(config);
    let (ann, bob) = (world.join("ann"), world.join("bob"));
    world.open(&ann, "a", json!({ "path": "a.document" }));
    world.open(&bob, "b", json!({ "path": "a.document" }));
    let (first, second) = (Editor::new(1), Editor::new(2));
    for n in 0..30 {
        world.update(&ann, "a", &first.append("body", &format!("a{n}")));
        world.settle();
        world.update(&bob, "b", &second.append("body", &format!("b{n}")));
        world.settle();
    }
    let room = RoomId::new("project", "room");
    let document = world
        .store
        .load(&room, "a.document")
        .unwrap()
        .unwrap()
        .document;
    let close = super::Content::Control(super::Control::close());
    world.chunk(&ann, "a", close.clone());
    world.chunk(&bob, "b", close);
    world.pass_seconds(40);
    let stored = world.store.load(&room, "a.document").unwrap().unwrap();
    assert!(stored.updates.is_empty(), "the log was folded");
    let records = world.store.provenance(document).unwrap();
    let of = |name: &str, client| {
        let mut of = records.iter().filter(|record| {
            record.author.participant == name
                && record
                    .operations
                    .is_some_and(|run| run.client == client && run.start == 0 && run.end >= 30)
        });
        assert!(of.next().is_some(), "{name} in {records:?}");
        assert!(of.next().is_none(), "one record for each run of operations");
    };
    of("ann", 1);
    of("bob", 2);

    // Two hours later the author is still known, but no longer the operations.
    world.now.0 += 2 * 3600 * 1000;
    ann.take();
    world.open(&ann, "a", json!({ "path": "a.document" }));
    for n in 0..20 {
        world.update(&ann, "a", &first.append("body", &format!("c{n}")));
        world.settle();
    }
    world.chunk(&ann, "a", super::Content::Control(super::Control::close()));
    world.pass_seconds(40);
    let records = world.store.provenance(document).unwrap();
    let of_bob: Vec<_> = records
        .iter()
        .filter(|record| record.author.participant == "bob")
        .collect();
    assert_eq!(of_bob.len(), 1);
    assert!(
        of_bob[0].operations.is_none() && of_bob[0].author.connection.is_empty(),
        "{of_bob:?}"
    );
    assert!(
        records
            .iter()
            .any(|record| record.author.participant == "ann" && record.operations.is_some())
    );
}

#[test]
fn a_snapshot_that_fails_costs_nothing_and_comes_later() {
    let mut world = World::new();
    let writer = world.join("writer");
    world.open(&writer, "w", json!({ "path": "a.document" }));
    let editor = Editor::new(1);
    world.update(&writer, "w", &editor.append("body", "one"));
    for _ in 0..3 {
        world.update(
            &writer,
            "w",
            &editor.set_first("text", &"x".repeat(100 << 10)),
        );
        world.settle();
    }
    assert!(world.room.is_worn());
    let next = world.store.commits();
    world.store.fail_commits(next..next + 1, Fault::Full);
    world.pass_seconds(1);
    let room = RoomId::new("project", "room");
    let stored = world.store.load(&room, "a.document").unwrap().unwrap();
    assert!(stored.snapshot.is_none());
    world.pass_seconds(1);
    let stored = world.store.load(&room, "a.document").unwrap().unwrap();
    assert!(stored.snapshot.is_some());
    let late = world.join("late");
    let state = world.open(&late, "l", json!({ "path": "a.document" }));
    assert_eq!(count(std::slice::from_ref(&state), "one"), 1);
    let text = &shown(&[state])["document"]["content"][0]["body"]["text"];
    assert_eq!(text.as_str().map(str::len), Some(100 << 10));
}
