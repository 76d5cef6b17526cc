//! A write that the store refuses although the replica has it already, while the rest of its batch
//! stands.

use meshagent_store::{RoomId, Store as _, Written};
use serde_json::json;

use super::{Content, Editor, World, code, count, shown};
use crate::config::Config;

/// An update of this size is a write of its own.
const LARGE_BYTES: usize = 300 << 10;

fn large(name: &str) -> String {
    format!("{name}-{}", "ü".repeat(LARGE_BYTES / 2))
}

fn world() -> World {
    let mut config = Config {
        snapshot_every: 4,
        ..Config::default()
    };
    config.limits.max_outbox_bytes = 16 << 20;
    World::with_config(config)
}

#[test]
fn a_refused_update_is_shown_to_nobody_and_what_builds_on_it_is_refused() {
    let mut world = world();
    let (writer, other) = (world.join("writer"), world.join("other"));
    let reader = world.join("reader");
    for (client, call) in [(&writer, "w"), (&other, "o"), (&reader, "r")] {
        world.open(client, call, json!({ "path": "a.document" }));
    }
    let mine = Editor::new(1);
    let theirs = Editor::new(2);
    world.update(&writer, "w", &mine.append("body", "kept"));
    world.settle();
    writer.take();
    let mut changes = reader.changes("r");

    let appends = world.store.appends();
    // The first append is in flight, and the second one is "before".
    world.store.refuse_appends(appends + 2..appends + 3);
    world.update(&other, "o", &theirs.append("body", "under-way"));
    world.run();
    let before = world.update(&other, "o", &theirs.append("body", &large("before")));
    let refused_update = mine.append("body", &large("refused"));
    let behind_update = mine.append("body", "behind");
    let refused = world.update(&writer, "w", &refused_update);
    let behind = world.update(&writer, "w", &behind_update);
    let independent_update = theirs.append("body", "independent");
    let independent = world.update(&other, "o", &independent_update);
    world.commit();
    // These wait for the batch of which a part is refused.
    let next = world.update(&other, "o", &theirs.append("body", "next"));
    let describe = world.invoke(&reader, "sync", "describe", json!({ "path": "a.document" }));
    world.settle();

    let mut answers = [writer.take(), other.take(), reader.take()]
        .into_iter()
        .flatten()
        .filter_map(|seen| match seen {
            super::Seen::Answer(id, content) => Some((id, content)),
            super::Seen::Chunk(call, Content::Binary { data, .. }) if call == "r" => {
                let update = base64::Engine::decode(&super::STANDARD, data).unwrap();
                changes.push(update);
                None
            }
            _ => None,
        })
        .collect::<std::collections::HashMap<u64, Content>>();
    assert_eq!(answers[&before], Content::Empty);
    for id in [refused, behind, independent, next] {
        assert!(code(&answers[&id]).is_some(), "{:?}", answers[&id]);
    }
    let described = answers.remove(&describe).unwrap();
    let refused_name = large("refused");
    let Content::Error {
        code: described, ..
    } = described
    else {
        panic!("it asked for a version that was refused");
    };
    assert_eq!(described, Some(1008));

    // What is on disk is shown to all readers, and nothing else: neither the refused update nor
    // what can't be shown without it.
    let late = world.join("late");
    let state = world.open(&late, "l", json!({ "path": "a.document" }));
    for seen in [&changes, &vec![state]] {
        let names = ["kept", "under-way", "independent", "behind", "next"];
        let counts = names.map(|id| count(seen, id));
        assert_eq!(counts, [1, 1, 0, 0, 0], "{}", shown(seen).to_string().len());
        assert_eq!(count(seen, &large("before")), 1);
        assert_eq!(count(seen, &refused_name), 0);
    }
    // When all of it is sent again, as our client does, it is accepted.
    for (client, call, update) in [
        (&writer, "w", &refused_update),
        (&writer, "w", &behind_update),
        (&other, "o", &independent_update),
    ] {
        let id = world.update(client, call, update);
        world.settle();
        assert_eq!(client.answer(id), Content::Empty);
    }
    world.pass_seconds(2);
    let room = RoomId::new("project", "room");
    let stored = world.store.load(&room, "a.document").unwrap().unwrap();
    let stored: Vec<Vec<u8>> = stored
        .snapshot
        .iter()
        .chain(stored.updates.iter().map(|one| &one.update))
        .map(|update| update.to_vec())
        .collect();
    changes.extend(reader.changes("r"));
    for seen in [&stored, &changes] {
        let names = ["kept", "under-way", "independent", "behind", &refused_name];
        assert_eq!(names.map(|id| count(seen, id)), [1; 5]);
    }
}

/// Otherwise it would be pending on disk, beyond any bound, and become visible when the refused
/// update is sent again.
#[test]
fn what_is_behind_a_refused_update_is_not_on_disk() {
    let room = RoomId::new("project", "room");
    let mut config = Config::default();
    config.limits.max_pending_bytes = 0;
    let mut world = World::with_config(config);
    let [writer, other] = ["writer", "other"].map(|name| world.join(name));
    let patcher = world.join("patcher");
    for (client, call) in [(&writer, "w"), (&other, "o")] {
        world.open(client, call, json!({ "path": "ä.document" }));
    }
    let appends = world.store.appends();
    world.store.refuse_appends(appends + 1..appends + 2);
    let (mine, theirs) = (Editor::new(1), Editor::new(2));
    world.update(&writer, "w", &mine.append("body", "unterwegs"));
    world.run();
    let refused_update = mine.append("body", &large("abgelehnt"));
    let refused = world.update(&writer, "w", &refused_update);
    let behind = world.update(&writer, "w", &mine.append("body", "dahinter"));
    let independent = world.update(&other, "o", &theirs.append("body", "別の"));
    let operations = json!([{
        "op": "add", "path": "/document/content/-", "value": { "body": { "$id": "geflickt" } }
    }]);
    let patch = json!({ "path": "ä.document", "patch": operations });
    let patched = world.invoke(&patcher, "sync", "patch", patch);
    world.settle();

    let seen = [writer.take(), other.take(), patcher.take()];
    let codes = [refused, behind, independent, patched].map(|id| {
        let answer = seen.iter().flatten().find_map(|seen| match seen {
            super::Seen::Answer(to, content) if *to == id => Some(content),
            _ => None,
        });
        answer.and_then(code)
    });
    assert_eq!(codes, [Some(1005), Some(1008), Some(1008), Some(1008)]);
    let waiting = |world: &World| {
        let documents = world.room.documents.iter();
        documents
            .map(|document| document.replica.pending_bytes())
            .sum::<usize>()
    };
    assert_eq!(waiting(&world), 0);
    let on_disk = |world: &World| {
        let stored = world.store.load(&room, "ä.document").unwrap().unwrap();
        let updates: Vec<Vec<u8>> = stored
            .updates
            .iter()
            .map(|one| one.update.to_vec())
            .collect();
        ["unterwegs", "dahinter", "別の", "geflickt"].map(|id| count(&updates, id))
    };
    assert_eq!(on_disk(&world), [1, 0, 0, 0]);
    // Only the refused update is sent again. The sender of the next one knows that it is lost.
    let again = world.update(&writer, "w", &refused_update);
    world.settle();
    assert_eq!(writer.answer(again), Content::Empty);
    assert_eq!(on_disk(&world), [1, 0, 0, 0]);
}

/// The parts of the patch are too long to be merged with others' updates.
#[test]
fn a_patch_that_the_store_refuses_leaves_nothing_of_it() {
    let mut answers = Vec::new();
    for refused in 0..3 {
        let mut world = world();
        let [patcher, reader] = ["patcher", "reader"].map(|name| world.join(name));
        let mut seen = vec![world.open(&reader, "r", json!({ "path": "ä.document" }))];
        let appends = world.store.appends();
        world
            .store
            .refuse_appends(appends + refused..appends + refused + 1);
        let names = ["eins".to_owned(), large("zwei"), "三".to_owned()];
        let add = |name: &String| {
            let body = json!({ "body": { "$id": name } });
            json!({ "op": "add", "path": "/document/content/-", "value": body })
        };
        let operations: Vec<_> = names.iter().map(add).collect();
        let patch = json!({ "path": "ä.document", "patch": operations });
        let answer = world.call(&patcher, "sync", "patch", patch);
        world.pass_seconds(2);
        let expected = [usize::from(code(&answer).is_none()); 3];
        seen.extend(reader.changes("r"));
        let late = world.join("late");
        let state = world.open(&late, "l", json!({ "path": "ä.document" }));
        for seen in [seen, vec![state]] {
            let found = [0, 1, 2].map(|index| count(&seen, &names[index]));
            assert_eq!(found, expected, "append {refused} is refused");
        }
        answers.push(code(&answer));
    }
    // The patch is one append.
    assert_eq!(answers, [Some(1005), None, None]);
}

/// The store reports that a document which is in memory does not exist: it was deleted without the
/// room.
#[test]
fn a_document_that_the_store_does_not_have_any_more_ends() {
    let mut world = world();
    let writer = world.join("writer");
    world.open(&writer, "w", json!({ "path": "a.document" }));
    let delete = meshagent_store::Write::Delete {
        room: RoomId::new("project", "room"),
        path: "a.document".to_owned(),
        recursive: false,
        reach: meshagent_store::Reach::EVERYTHING,
    };
    let deleted = world.store.commit(&[delete]).unwrap();
    assert!(
        matches!(deleted[0], Ok(Written::Deleted { .. })),
        "{deleted:?}"
    );
    let lost = world.update(&writer, "w", &Editor::new(1).append("body", "lost"));
    world.settle();
    let seen = writer.take();
    let is_refused = |seen: &super::Seen| matches!(seen, super::Seen::Answer(id, content) if *id == lost && code(content).is_some());
    assert!(seen.iter().any(is_refused), "{seen:?}");
    let is_closed = |seen: &super::Seen| matches!(seen, super::Seen::Chunk(call, Content::Control(super::Control::Close { .. })) if call == "w");
    assert!(seen.iter().any(is_closed), "{seen:?}");
    let state = world.open(&writer, "again", json!({ "path": "a.document" }));
    assert_eq!(count(&[state], "lost"), 0);
}

/// The compaction happens when the head has what the store is about to refuse.
#[test]
fn a_snapshot_does_not_bring_to_the_disk_what_was_refused() {
    let mut world = world();
    let (writer, reader) = (world.join("writer"), world.join("reader"));
    for (client, call) in [(&writer, "w"), (&reader, "r")] {
        world.open(client, call, json!({ "path": "ä.document" }));
    }
    let editor = Editor::new(1);
    for id in ["1", "2", "3", "4"] {
        world.update(&writer, "w", &editor.append("body", id));
        world.settle();
    }
    assert!(world.room.is_worn(), "there is nothing to fold");
    let appends = world.store.appends();
    world.store.refuse_appends(appends..appends + 1);
    let update = editor.append("body", "abgelehnt – 拒否");
    let refused = world.update(&writer, "w", &update);
    world.room.handle_timeout(world.now);
    world.settle();
    assert!(code(&writer.answer(refused)).is_some());
    let room = RoomId::new("project", "room");
    let on_disk = |world: &World| {
        let stored = world.store.load(&room, "ä.document").unwrap().unwrap();
        let updates = stored.updates.iter().map(|one| one.update.to_vec());
        let snapshot = stored.snapshot.iter().map(|state| state.to_vec());
        snapshot.chain(updates).collect::<Vec<Vec<u8>>>()
    };
    assert_eq!(count(&on_disk(&world), "abgelehnt – 拒否"), 0);

    let again = world.update(&writer, "w", &update);
    world.settle();
    assert_eq!(writer.answer(again), Content::Empty);
    world.pass_seconds(2);
    assert!(world.metric("meshagent_snapshots_total") > 0);
    let stored = world.store.load(&room, "ä.document").unwrap().unwrap();
    assert!(stored.snapshot.is_some(), "the log is folded after all");
    for seen in [on_disk(&world), reader.changes("r")] {
        for id in ["1", "4", "abgelehnt – 拒否"] {
            assert_eq!(count(&seen, id), 1, "{id}");
        }
    }
}

#[test]
fn refusals_that_wait_for_the_disk_are_charged_to_who_gets_them() {
    const TIMES: usize = 100;
    let mut world = world();
    let (writer, other) = (world.join("writer"), world.join("other"));
    for (client, call) in [(&writer, "w"), (&other, "o")] {
        world.open(client, call, json!({ "path": "a.document" }));
    }
    let held = |world: &World| world.room.participants[&other.conn].account.held();
    let before = held(&world);
    let under_way = Editor::new(1).append("body", "größer");
    world.update(&writer, "w", &under_way);
    world.run();
    let refused: Vec<u64> = (0..TIMES)
        .map(|_| world.update(&other, "o", b"k\xc3\xa4se"))
        .collect();
    let waiting = held(&world) - before;
    assert!(waiting > TIMES * 256, "{waiting} bytes");
    world.settle();
    let answered = other.take().into_iter().filter(|seen| {
        matches!(seen, super::Seen::Answer(id, content) if refused.contains(id) && code(content) == Some(1002))
    });
    assert_eq!(answered.count(), TIMES);
    assert_eq!(held(&world), before);
}
