//! Durable before visible, and what happens when the disk fails.

use meshagent_store::Fault;
use serde_json::json;

use super::{Content, Editor, World, code, count};

#[test]
fn an_update_is_acknowledged_and_shown_only_when_it_is_on_disk() {
    let mut world = World::new();
    let (writer, reader) = (world.join("writer"), world.join("reader"));
    world.open(&writer, "w", json!({ "path": "a.document" }));
    world.open(&reader, "r", json!({ "path": "a.document" }));
    writer.take();

    let id = world.update(&writer, "w", &Editor::new(1).append("body", "one"));
    world.run();
    assert!(
        writer.take().is_empty(),
        "not acknowledged before the disk has it"
    );
    assert!(reader.take().is_empty(), "not shown before the disk has it");

    world.commit();
    assert_eq!(writer.answer(id), Content::Empty);
    assert_eq!(count(&reader.changes("r"), "one"), 1);
}

#[test]
fn a_state_that_shows_what_is_not_on_disk_waits_for_it() {
    let mut world = World::new();
    let (writer, late) = (world.join("writer"), world.join("late"));
    world.open(&writer, "w", json!({ "path": "a.document" }));
    world.update(&writer, "w", &Editor::new(1).append("body", "one"));
    world.run();

    world.begin_open(&late, "l", json!({ "path": "a.document" }));
    let describe = world.invoke(&late, "sync", "describe", json!({ "path": "a.document" }));
    world.run();
    assert!(late.chunks("l").is_empty());

    // What arrives while the first batch is under way is in the next one, and reaches the late one too.
    world.update(&writer, "w", &Editor::new(2).append("body", "two"));
    world.settle();
    let seen = late.take();
    let mut updates = Vec::new();
    let mut described = None;
    for seen in seen {
        match seen {
            super::Seen::Chunk(_, Content::Binary { data, .. }) => {
                updates.push(base64::Engine::decode(&super::STANDARD, data).unwrap());
            }
            super::Seen::Answer(id, content) if id == describe => described = Some(content),
            _ => {}
        }
    }
    assert_eq!((count(&updates, "one"), count(&updates, "two")), (1, 1));
    assert!(matches!(described, Some(Content::Json(_))));
}

#[test]
fn a_failed_commit_is_told_to_the_writer_and_seen_by_nobody() {
    let mut world = World::new();
    let (writer, reader) = (world.join("writer"), world.join("reader"));
    world.open(&writer, "w", json!({ "path": "a.document" }));
    world.open(&reader, "r", json!({ "path": "a.document" }));
    let kept = world.update(&writer, "w", &Editor::new(1).append("body", "kept"));
    world.settle();
    assert_eq!(writer.answer(kept), Content::Empty);

    let commits = world.store.commits();
    world
        .store
        .fail_commits(commits..commits + 1, Fault::Unavailable);
    let lost = world.update(&writer, "w", &Editor::new(2).append("body", "lost"));
    world.run();
    let dependent = world.update(&writer, "w", &Editor::new(3).append("body", "dependent"));
    world.settle();
    let answers = writer.take();
    for id in [lost, dependent] {
        let answered = answers.iter().any(|seen| matches!(seen, super::Seen::Answer(to, content) if *to == id && code(content) == Some(1008)));
        assert!(answered, "{id} is told that the disk failed: {answers:?}");
    }

    // Readers saw nothing of it and go on.
    let after = world.update(&writer, "w", &Editor::new(4).append("body", "after"));
    world.settle();
    assert_eq!(writer.answer(after), Content::Empty);
    let changes = reader.changes("r");
    assert_eq!(
        ["kept", "lost", "dependent", "after"].map(|id| count(&changes, id)),
        [1, 0, 0, 1]
    );

    let late = world.join("late");
    let state = world.open(&late, "l", json!({ "path": "a.document" }));
    assert_eq!(
        ["kept", "lost", "after"].map(|id| count(std::slice::from_ref(&state), id)),
        [1, 0, 1]
    );
}

#[test]
fn a_document_that_cannot_be_created_does_not_exist() {
    let mut world = World::new();
    let client = world.join("client");
    let commits = world.store.commits();
    world
        .store
        .fail_commits(commits..commits + 1, Fault::Unavailable);
    world.begin_open(&client, "c", json!({ "path": "a.document" }));
    // The next one who waits creates it.
    let other = world.join("other");
    world.begin_open(&other, "o", json!({ "path": "a.document" }));
    world.settle();
    assert_eq!(code(&client.chunks("c")[0]), Some(1008));
    other.state("o");
}
