//! Durable before visible, and the handling of disk failures.

use meshagent_document::{MeshDocument, MeshSchema};
use meshagent_store::{Fault, RoomId, Store as _};
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
    let other = world.join("other");
    world.open(&writer, "w", json!({ "path": "a.document" }));
    world.update(&writer, "w", &Editor::new(1).append("body", "one"));
    world.run();

    // The state that the writer received is on disk, and serves others as well; the rest follows
    // it.
    world.begin_open(&other, "o", json!({ "path": "a.document" }));
    let mut early = vec![other.state("o")];
    assert_eq!(count(&early, "one"), 0);
    // An open with a vector asks for the newest state.
    world.begin_open(
        &late,
        "l",
        json!({ "path": "a.document", "vector": "AA==" }),
    );
    let describe = world.invoke(&late, "sync", "describe", json!({ "path": "a.document" }));
    world.run();
    assert!(late.chunks("l").is_empty());

    // What arrives while the first batch is in flight is in the next one, and reaches the late
    // reader, too.
    world.update(&writer, "w", &Editor::new(2).append("body", "two"));
    world.settle();
    early.extend(other.changes("o"));
    assert_eq!((count(&early, "one"), count(&early, "two")), (1, 1));
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
fn what_a_state_will_show_is_no_echo_before_it_is_on_disk() {
    let mut world = World::new();
    let (writer, late) = (world.join("writer"), world.join("late"));
    let state = world.open(&writer, "w", json!({ "path": "a.document" }));
    let update = Editor::new(1).append("body", "one");
    world.update(&writer, "w", &update);
    world.run();
    let from_nothing = json!({ "path": "a.document", "vector": "AA==" });
    world.begin_open(&late, "l", from_nothing);

    // The bytes that wait to be sent to the late reader, from a client that has received nothing
    // yet.
    let schema = MeshSchema::builtin("document").unwrap();
    let mut replica = MeshDocument::new(schema, 9);
    for update in [&state, &update] {
        replica.apply_update(update).unwrap();
    }
    let id = world.update(&writer, "w", &replica.encode_state());
    world.run();
    assert!(
        writer.take().is_empty(),
        "not acknowledged before the disk has it"
    );
    world.settle();
    assert_eq!(late.state("l"), replica.encode_state());
    assert_eq!(writer.answer(id), Content::Empty);
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

    // Readers saw nothing of it, and continue.
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
    // The next request that waits creates the document.
    let other = world.join("other");
    world.begin_open(&other, "o", json!({ "path": "a.document" }));
    world.settle();
    assert_eq!(code(&client.chunks("c")[0]), Some(1008));
    other.state("o");
}

#[test]
fn what_waits_for_the_disk_together_is_one_write_with_everybodys_part() {
    let mut world = World::new();
    let (ann, bob) = (world.join("ann"), world.join("bob"));
    let agent = super::invoke("sync", "open", Content::Control(super::Control::Open), "c");
    let super::ClientToServer::Invoke(mut agent) = agent else {
        panic!("it is an invoke")
    };
    agent.tool_call_id = Some("b".to_owned());
    agent.on_behalf_of_id = Some("ann-id".to_owned());
    world.open(&ann, "a", json!({ "path": "a.document" }));
    world.send(&bob, super::ClientToServer::Invoke(agent));
    world.start(&bob, "b", json!({ "path": "a.document" }));
    world.settle();
    // One update is with the disk, the others wait behind it.
    world.update(&ann, "a", &Editor::new(9).append("body", "zero"));
    world.run();
    let (first, second) = (Editor::new(1), Editor::new(2));
    for n in 0..2 {
        world.update(&ann, "a", &first.append("body", &format!("a{n}")));
        world.update(&bob, "b", &second.append("body", &format!("b{n}")));
    }
    world.update(&bob, "b", &second.remove(0));
    let before = world.store.commits();
    world.settle();
    assert_eq!(world.store.commits() - before, 2);
    assert_eq!(world.metric("meshagent_merged_updates_total"), 4);

    let stored = world
        .store
        .load(&RoomId::new("project", "room"), "a.document")
        .unwrap()
        .unwrap();
    let last = stored.updates.last().unwrap();
    let parts: Vec<_> = last
        .contributions
        .iter()
        .map(|part| {
            let author = &part.author;
            let operations: Vec<_> = part
                .operations
                .iter()
                .map(|run| (run.client, run.start))
                .collect();
            (
                author.participant.as_str(),
                author.on_behalf_of.as_deref(),
                operations,
            )
        })
        .collect();
    let of_ann = |clock| ("ann", None, vec![(1, clock)]);
    let of_bob = |clock| ("bob", Some("ann"), vec![(2, clock)]);
    let per_edit = stored.updates[1].contributions[0].operations[0].end;
    assert_eq!(
        parts,
        [of_ann(0), of_bob(0), of_ann(per_edit), of_bob(per_edit)],
        "the deletion is part of bob's second"
    );
    let everything: Vec<_> = stored
        .updates
        .iter()
        .map(|one| one.update.to_vec())
        .collect();
    let shown = ["zero", "a0", "a1", "b0", "b1"].map(|id| count(&everything, id));
    assert_eq!(
        shown.iter().sum::<usize>(),
        4,
        "all but the removed one: {shown:?}"
    );
}

#[test]
fn what_failed_takes_no_room_any_more() {
    let mut world = World::new();
    let writer = world.join("writer");
    world.open(&writer, "w", json!({ "path": "a.document" }));
    world.store.fail_commits(0..1000, Fault::Full);
    world.update(&writer, "w", &Editor::new(1).append("body", "one"));
    world.run();
    world.update(&writer, "w", &Editor::new(2).append("body", "two"));
    assert!(world.room.staged_bytes() > 0);
    world.commit();
    assert_eq!(world.room.staged_bytes(), 0);
}

#[test]
fn who_reads_while_a_document_is_read_again_is_answered_then() {
    let mut world = World::new();
    let (writer, reader) = (world.join("writer"), world.join("reader"));
    world.open(&writer, "w", json!({ "path": "a.document" }));
    world.update(&writer, "w", &Editor::new(1).append("body", "kept"));
    world.settle();
    for reads_fail in [false, true] {
        world.update(&writer, "w", &Editor::new(2).append("body", "lost"));
        world.run();
        world.held = None;
        let failed = meshagent_store::StoreError::Full("full".into());
        world
            .room
            .handle_committed(Err(std::sync::Arc::new(failed)), world.now);
        if reads_fail {
            let next = world.store.reads();
            world.store.fail_reads(next..next + 1, Fault::Unavailable);
        }
        let call = format!("r{reads_fail}");
        let describe = world.invoke(&reader, "sync", "describe", json!({ "path": "a.document" }));
        world.begin_open(&reader, &call, json!({ "path": "a.document" }));
        world.settle();
        let seen = reader.take();
        let described = seen.iter().find_map(|seen| match seen {
            super::Seen::Answer(id, content) if *id == describe => Some(content),
            _ => None,
        });
        let is_shown =
            matches!(described, Some(Content::Json(json)) if json.to_string().contains("body"));
        assert_eq!(is_shown, !reads_fail, "{described:?}");
        if reads_fail {
            assert_eq!(described.and_then(code), Some(1008));
        }
        world.pass_seconds(2);
    }
}

#[test]
fn what_is_merged_has_a_bound() {
    let mut config = crate::config::Config::default();
    config.limits.max_outbox_bytes = 16 << 20;
    let mut world = World::with_config(config);
    let (writer, reader) = (world.join("writer"), world.join("reader"));
    world.open(&writer, "w", json!({ "path": "a.document" }));
    let start = json!({ "path": "a.document", "merge": true });
    world.open(&reader, "r", start);
    world.update(&writer, "w", &Editor::new(1).append("body", "first"));
    world.run();
    for client in 2..8 {
        let id = client.to_string().repeat(400 << 10);
        world.update(&writer, "w", &Editor::new(client).append("body", &id));
    }
    world.settle();
    let changes = reader.changes("r");
    assert!(changes.len() > 3 && changes.iter().all(|change| change.len() <= 1 << 20));
}

#[test]
fn what_is_stored_after_an_unknown_outcome_is_acknowledged_and_shown() {
    for merges in [false, true] {
        let mut world = World::new();
        let (writer, reader) = (world.join("writer"), world.join("reader"));
        world.open(&writer, "w", json!({ "path": "ä.document" }));
        let start = json!({ "path": "ä.document", "merge": merges });
        world.open(&reader, "r", start);
        let editor = Editor::new(1);
        world.update(&writer, "w", &editor.append("body", "vorher"));
        world.settle();
        writer.take();
        let commits = world.store.commits();
        world.store.fail_commits(commits..commits + 1, Fault::Lost);
        let ids =
            ["größe 🌿", "以後"].map(|id| world.update(&writer, "w", &editor.append("body", id)));
        world.settle();
        let answers = writer.take();
        for id in ids {
            let answer = super::Seen::Answer(id, Content::Empty);
            assert!(answers.contains(&answer), "{answers:?}");
        }
        let after = world.update(&writer, "w", &editor.append("body", "nachher"));
        world.settle();
        assert_eq!(writer.answer(after), Content::Empty);
        let changes = reader.changes("r");
        let seen = ["vorher", "größe 🌿", "以後", "nachher"].map(|id| count(&changes, id));
        assert_eq!(seen, [1, 1, 1, 1], "merges: {merges}");
    }
}

#[test]
fn what_is_not_stored_after_an_unknown_outcome_is_refused_and_stays_out() {
    for fault in [Fault::Dropped, Fault::Late] {
        let mut world = World::new();
        let (writer, reader) = (world.join("writer"), world.join("reader"));
        world.open(&writer, "w", json!({ "path": "ä.document" }));
        world.open(&reader, "r", json!({ "path": "ä.document" }));
        let commits = world.store.commits();
        world.store.fail_commits(commits..commits + 1, fault);
        let editor = Editor::new(1);
        let lost = editor.append("body", "größe 🌿");
        let first = world.update(&writer, "w", &lost);
        world.run();
        // It builds on the one whose outcome is unknown.
        let second = world.update(&writer, "w", &editor.append("body", "以後"));
        world.settle();
        let answers = writer.take();
        for id in [first, second] {
            let is_refused = |seen: &super::Seen| matches!(seen, super::Seen::Answer(to, content) if *to == id && code(content) == Some(1008));
            assert!(answers.iter().any(is_refused), "{fault:?}: {answers:?}");
        }
        assert!(reader.take().is_empty(), "{fault:?}");
        let late = world.store.land().unwrap();
        assert!(late.iter().all(Result::is_err), "{late:?}");
        let again = world.update(&writer, "w", &lost);
        world.settle();
        assert_eq!(writer.answer(again), Content::Empty, "{fault:?}");
        assert_eq!(count(&reader.changes("r"), "größe 🌿"), 1, "{fault:?}");
    }
}

#[test]
fn a_creation_with_an_unknown_outcome_is_answered_by_what_is_stored() {
    for (fault, is_created) in [(Fault::Lost, true), (Fault::Dropped, false)] {
        for json in [json!(null), json!({ "document": { "content": [] } })] {
            let mut world = World::new();
            let client = world.join("client");
            let commits = world.store.commits();
            world.store.fail_commits(commits..commits + 1, fault);
            let input = json!({ "path": "größe.document", "json": json });
            let answer = world.call(&client, "sync", "create", input);
            let context = format!("{fault:?}, {json}: {answer:?}");
            assert_eq!(answer == Content::Empty, is_created, "{context}");
            assert_eq!(code(&answer), (!is_created).then_some(1008), "{context}");
            let room = RoomId::new("project", "room");
            let stored = world.store.load(&room, "größe.document").unwrap();
            assert_eq!(stored.is_some(), is_created, "{context}");
            assert_eq!(
                world.room.usage.documents(),
                u64::from(is_created),
                "{context}"
            );
        }
    }
}

/// Either two participants write under one client id, and the second is refused; or the second of
/// two large updates exceeds the bound. As long as the first update is not on disk, it is not a
/// reason for a refusal.
#[test]
fn a_refusal_that_rests_on_what_is_not_on_disk_waits_for_it() {
    type Second = fn() -> Vec<u8>;
    let cases: [(&str, Second, i64); 2] = [
        ("conflict", || Editor::new(1).append("body", "andere"), 1005),
        (
            "size",
            || Editor::new(2).append("body", &"ü".repeat(400)),
            1002,
        ),
    ];
    for (what, second, expected) in cases {
        for fails in [false, true] {
            let context = format!("{what}, the disk fails: {fails}");
            let mut config = crate::config::Config::default();
            config.limits.max_document_bytes = 1_000;
            let mut world = World::with_config(config);
            let (one, two) = (world.join("one"), world.join("two"));
            world.open(&one, "o", json!({ "path": "ä.document" }));
            world.open(&two, "t", json!({ "path": "ä.document" }));
            let editor = Editor::new(1);
            if fails {
                let next = world.store.commits();
                world.store.fail_commits(next..next + 1, Fault::Full);
            }
            let first = editor.append("body", &"größe".repeat(100));
            let first = world.update(&one, "o", &first);
            world.run();
            two.take();
            let second = world.update(&two, "t", &second());
            world.run();
            assert!(two.take().is_empty(), "{context}");
            world.settle();
            let codes = (code(&one.answer(first)), code(&two.answer(second)));
            if fails {
                assert_eq!(codes, (Some(1008), Some(1008)), "{context}");
            } else {
                assert_eq!(codes, (None, Some(expected)), "{context}");
            }
        }
    }
}
