//! Requests and readers at a path when a document arrives there or leaves.

use serde_json::json;

use super::*;

/// Stores a document that has no readers.
fn put_away(world: &mut World, path: &str, id: &str) {
    let editor = world.join("editor");
    world.open(&editor, "e", json!({ "path": path }));
    world.update(&editor, "e", &Editor::new(9).append("body", id));
    world.settle();
    world.leave(&editor);
    world.unload();
}

/// The move is on disk before the room has its result.
#[test]
fn document_that_was_opened_at_its_new_place_stays_open() {
    let mut world = world();
    put_away(&mut world, "taken.document", "replaced");
    put_away(&mut world, SOURCE, "moved");
    let (mover, opener) = (world.join("mover"), world.join("opener"));
    let moved = rename(&mut world, &mover, SOURCE, "taken.document");
    let result = write(&mut world);
    world.begin_open(&opener, "o", json!({ "path": "taken.document" }));
    world.run();
    let mut seen = Log::default();
    seen.take(&opener);
    assert_eq!(count(&seen.payloads("o"), "moved"), 1);
    let editor = Editor::new(1);
    let early = world.update(&opener, "o", &editor.append("body", "early"));
    tell(&mut world, result);
    let late = world.update(&opener, "o", &editor.append("body", "late"));
    world.settle();
    assert_eq!(mover.answer(moved), Content::Empty);
    seen.take(&opener);
    assert_eq!(seen.closed, [""; 0]);
    for id in [early, late] {
        assert_eq!(*seen.answer(id), Content::Empty);
    }
    everywhere(
        &mut world,
        "taken.document",
        &["moved", "early", "late"],
        "opened early",
    );
}

/// The answer waits for what was written to a document that another one then replaces.
#[test]
fn who_waits_for_a_document_gets_the_one_that_takes_its_place() {
    let mut world = world();
    put_away(&mut world, SOURCE, "moved");
    let (writer, mover) = (world.join("writer"), world.join("mover"));
    let (opener, reader) = (world.join("opener"), world.join("reader"));
    world.open(&writer, "w", json!({ "path": "taken.document" }));
    let moved = rename(&mut world, &mover, SOURCE, "taken.document");
    world.run();
    world.update(&writer, "w", &Editor::new(1).append("body", "replaced"));
    let vector = base64::Engine::encode(&crate::room::tests::STANDARD, [0]);
    let start = json!({ "path": "taken.document", "vector": vector, "identity": "" });
    let opened = world.begin_open(&opener, "o", start);
    let described = world.invoke(
        &reader,
        "sync",
        "describe",
        json!({ "path": "taken.document", "include_ids": true }),
    );
    world.settle();
    assert_eq!(mover.answer(moved), Content::Empty);
    let Content::Json(document) = reader.answer(described) else {
        panic!("it is described");
    };
    assert!(document.to_string().contains("moved"), "{document}");
    let mut seen = Log::default();
    seen.take(&opener);
    let Content::Json(notice) = seen.answer(opened) else {
        panic!("{:?}", seen.answer(opened));
    };
    assert!(notice["identity"].is_string(), "{notice}");
    let shown = seen.payloads("o");
    assert_eq!((count(&shown, "moved"), count(&shown, "replaced")), (1, 0));
}

/// One request wants to create a document, and others wait for it, when a document without readers
/// arrives at the path.
#[test]
fn who_waits_for_a_creator_gets_the_document_that_was_there_first() {
    let mut world = world();
    put_away(&mut world, SOURCE, "moved");
    let (creator, mover) = (world.join("creator"), world.join("mover"));
    let (opener, reader) = (world.join("opener"), world.join("reader"));
    rename(&mut world, &mover, SOURCE, "taken.document");
    world.run();
    let path = json!({ "path": "taken.document" });
    let created = world.invoke(&creator, "sync", "create", path.clone());
    world.run();
    let described = world.invoke(&reader, "sync", "describe", path);
    world.begin_open(
        &opener,
        "o",
        json!({ "path": "taken.document", "create": false }),
    );
    world.settle();
    assert_eq!(code(&creator.answer(created)), Some(1004));
    let described = reader.answer(described);
    assert!(matches!(described, Content::Json(_)), "{described:?}");
    assert_eq!(count(&[opener.state("o")], "moved"), 1);
}

/// An open waits until a document is read again, and the document is deleted meanwhile.
#[test]
fn who_may_create_a_document_is_not_told_otherwise() {
    let mut world = world();
    let (writer, opener) = (world.join("writer"), world.join("opener"));
    let other = world.join("other");
    world.open(&writer, "w", json!({ "path": SOURCE }));
    world.update(&writer, "w", &Editor::new(1).append("body", "lost"));
    world.run();
    world.held.take().expect("a batch is under way");
    let error = meshagent_store::StoreError::Unavailable("not now".into());
    let failed = Err(std::sync::Arc::new(error));
    world.room.handle_committed(failed, world.now);
    let opened = world.begin_open(&opener, "o", json!({ "path": SOURCE }));
    let deleted = world.invoke(&other, "storage", "delete", json!({ "path": SOURCE }));
    // The result of the read arrives after the deletion.
    let mut reads = Vec::new();
    while let Some(action) = world.room.poll_action() {
        match action {
            Action::Fetch(number, fetch) => reads.push((number, world.read(fetch))),
            Action::Commit(writes) => world.held = Some(writes),
        }
    }
    assert_eq!(reads.len(), 1);
    assert!(world.commit());
    for (number, result) in reads {
        world.room.handle_fetched(number, result, world.now);
    }
    world.pass_seconds(2);
    assert_eq!(other.answer(deleted), Content::Empty);
    let mut seen = Log::default();
    seen.take(&opener);
    let refused = seen.answer(opened);
    assert_eq!(code(refused), Some(1008), "{refused:?}");
}
