//! The limits of one document, of one reader and of the whole server.

use meshagent_ledger::Kind;
use meshagent_store::{RoomId, Store as _, Timestamp, Write};
use serde_json::{Value, json};

use super::{Content, Control, Editor, World, code, count, shown, text};
use crate::config::Config;
use crate::outbox::Outbox;

fn long(kilobytes: usize) -> String {
    "x".repeat(kilobytes << 10)
}

/// Writes a document of approximately `kilobytes`.
fn write(world: &mut World, path: &str, kilobytes: usize) -> (super::Client, Editor) {
    let writer = world.join("writer");
    let editor = Editor::new(1);
    world.open(&writer, "w", json!({ "path": path }));
    world.update(&writer, "w", &editor.append("body", "first"));
    world.update(&writer, "w", &editor.set_first("text", &long(kilobytes)));
    world.settle();
    writer.take();
    (writer, editor)
}

#[test]
fn a_crowd_that_opens_a_document_costs_one_encoding() {
    let mut world = World::new();
    let (writer, editor) = write(&mut world, "a.document", 400);
    let encodings = |world: &World| world.metric("meshagent_state_encodings_total");
    let before = encodings(&world);
    let crowd: Vec<_> = (0..50).map(|n| world.join(&format!("c{n}"))).collect();
    for client in &crowd {
        world.begin_open(client, "s", json!({ "path": "a.document" }));
    }
    world.settle();
    assert_eq!(encodings(&world) - before, 1);
    let shared = world.room.usage.shared_bytes();
    assert!(shared < 2 << 20, "{shared} bytes for 50 readers of 400 kB");

    // While an author types, there is one state for each durable version; what is in flight follows
    // it.
    world.update(&writer, "w", &editor.append("body", "on disk"));
    world.settle();
    world.update(&writer, "w", &editor.append("body", "on its way"));
    world.run();
    let before = encodings(&world);
    for client in &crowd {
        client.take();
        world.begin_open(client, "again", json!({ "path": "a.document" }));
    }
    assert!(encodings(&world) - before <= 1);
    world.settle();
    for client in &crowd {
        let updates = client.updates("again");
        assert_eq!(count(&updates[..1], "on disk"), 1, "in the state itself");
        assert_eq!(count(&updates, "on its way"), 1);
    }
}

#[test]
fn who_opens_a_document_finds_all_that_was_acknowledged() {
    let mut world = World::new();
    let (writer, editor) = write(&mut world, "a.document", 400);
    for n in 0..20 {
        let id = world.update(&writer, "w", &editor.append("body", &format!("n{n}")));
        world.settle();
        assert_eq!(writer.answer(id), Content::Empty);
        let late = world.join(&format!("c{n}"));
        let state = world.open(&late, "s", json!({ "path": "a.document" }));
        assert_eq!(count(&[state], &format!("n{n}")), 1);
    }
}

#[test]
fn an_echo_of_what_was_just_sent_is_not_looked_into() {
    let mut world = World::new();
    let (writer, editor) = write(&mut world, "a.document", 1);
    let reader = world.join("reader");
    let state = world.open(&reader, "r", json!({ "path": "a.document" }));
    world.update(&writer, "w", &editor.append("body", "news"));
    world.settle();
    let change = reader.changes("r").remove(0);
    let commits = world.store.commits();
    for echo in [&state, &change] {
        let id = world.update(&reader, "r", echo);
        assert_eq!(reader.answer(id), Content::Empty, "answered at once");
    }
    assert_eq!(world.metric("meshagent_echoes_unread_total"), 2);
    assert_eq!(world.metric("meshagent_updates_total{outcome=\"echo\"}"), 2);
    // An update with the same content in other bytes is an echo, too.
    let other = shown_again(&[state, change]);
    let id = world.update(&reader, "r", &other);
    world.settle();
    assert_eq!(reader.answer(id), Content::Empty);
    assert_eq!(world.metric("meshagent_echoes_unread_total"), 2);
    assert_eq!(world.metric("meshagent_updates_total{outcome=\"echo\"}"), 3);
    assert_eq!(world.store.commits(), commits);
    assert!(writer.changes("w").is_empty());
}

/// The content of all updates in one.
fn shown_again(updates: &[Vec<u8>]) -> Vec<u8> {
    let updates: Vec<&[u8]> = updates.iter().map(Vec::as_slice).collect();
    meshagent_document::merge_updates(&updates).unwrap()
}

#[test]
fn a_document_at_its_bound_takes_deletions_only() {
    let mut config = Config::default();
    config.limits.max_document_bytes = 100 << 10;
    let mut world = World::with_config(config);
    let (writer, editor) = write(&mut world, "a.document", 60);
    let other = Editor::new(2);
    other.append("body", "other");
    let id = world.update(&writer, "w", &other.set_first("text", &long(60)));
    world.settle();
    // This update has a gap; what is pending counts, too.
    assert_eq!(code(&writer.answer(id)), Some(1002));
    let id = world.update(&writer, "w", &editor.set_first("more", &long(60)));
    world.settle();
    let refused = writer.answer(id);
    assert_eq!(code(&refused), Some(1002));
    assert!(
        text(&refused).contains("102400 bytes at most; delete"),
        "{refused:?}"
    );

    // The refused update is part of the editor's replica, but not of this deletion.
    let id = world.update(&writer, "w", &editor.remove(0));
    world.settle();
    assert!(code(&writer.answer(id)).is_none());
    let id = world.update(&writer, "w", &Editor::new(3).append("body", "small"));
    world.settle();
    assert_eq!(writer.answer(id), Content::Empty);
}

#[test]
fn whole_state_with_two_new_edits_fits_into_a_document_of_more_than_half_its_bound() {
    let mut config = Config::default();
    config.limits.max_document_bytes = 100 << 10;
    let mut world = World::with_config(config);
    let (writer, editor) = write(&mut world, "a.document", 60);
    // These edits are missing here. They arrive together with everything that is known.
    editor.append("body", "é");
    editor.append("body", "new");
    let id = world.update(&writer, "w", &editor.state());
    world.settle();
    assert_eq!(writer.answer(id), Content::Empty);
    // What was known is not stored again, so there is space for more.
    let id = world.update(&writer, "w", &editor.append("body", &long(30)));
    world.settle();
    assert_eq!(writer.answer(id), Content::Empty);
    world.leave(&writer);
    world.unload();
    let reader = world.join("reader");
    let state = world.open(&reader, "r", json!({ "path": "a.document" }));
    assert!(state.len() < 91 << 10, "{}", state.len());
    assert_eq!(count(&[state], "new"), 1);
}

#[test]
fn there_are_only_so_many_documents() {
    let mut config = Config::default();
    config.limits.max_documents = 2;
    let mut world = World::with_config(config);
    let client = world.join("client");
    let create = |world: &mut World, path: &str| {
        world.call(
            &client,
            "sync",
            "create",
            json!({ "path": path, "json": { "document": { "content": [] } } }),
        )
    };
    assert_eq!(create(&mut world, "a.document"), Content::Empty);
    assert_eq!(create(&mut world, "b.document"), Content::Empty);
    let refused = create(&mut world, "c.document");
    assert_eq!(code(&refused), Some(1008));
    assert!(text(&refused).contains("delete some first"));
    assert_eq!(code(&create(&mut world, "a.document")), Some(1004));
    let deleted = world.call(
        &client,
        "storage",
        "delete",
        json!({ "path": "a.document" }),
    );
    assert_eq!(deleted, Content::Empty);
    // A creation that fails does not count.
    world.store.fail_commits(
        world.store.commits()..world.store.commits() + 1,
        meshagent_store::Fault::Full,
    );
    assert_eq!(code(&create(&mut world, "c.document")), Some(1008));
    assert_eq!(create(&mut world, "c.document"), Content::Empty);
    assert_eq!(code(&create(&mut world, "d.document")), Some(1008));
}

#[test]
fn open_calls_have_a_bound_and_ended_ones_make_room() {
    let mut config = Config::default();
    config.limits.max_streams = 2;
    let mut world = World::with_config(config);
    let (one, two) = (world.join("one"), world.join("two"));
    world.open(&one, "a", json!({ "path": "a.document" }));
    world.open(&two, "a", json!({ "path": "a.document" }));
    let open = super::invoke("sync", "open", Content::Control(Control::Open), "b");
    let id = world.send(&one, open.clone());
    assert_eq!(code(&one.answer(id)), Some(1008));
    world.leave(&two);
    let id = world.send(&one, open);
    assert_eq!(one.answer(id), Content::Control(Control::Open));
    world.chunk(&one, "a", Content::Control(Control::close()));
    world.leave(&one);
    assert_eq!(world.room.usage.streams(), 0);
}

#[test]
fn a_large_answer_waits_until_the_one_before_it_was_read() {
    let mut config = Config::default();
    config.limits.max_outbox_bytes = 64 << 10;
    let mut world = World::with_config(config);
    let _writer = write(&mut world, "a.document", 400);
    let slow = world.join("slow");
    let asked: Vec<u64> = (0..20)
        .map(|_| world.invoke(&slow, "sync", "describe", json!({ "path": "a.document" })))
        .collect();
    world.settle();
    let mut answered = Vec::new();
    // Each time the client reads there is one answer more, and never all of them together.
    for round in 0..100 {
        let mut read = 0;
        for (item, cost) in slow.outbox.try_take() {
            if let crate::outbox::Outgoing::Shared {
                request: Some(request),
                ..
            } = item
            {
                answered.push(u64::from_be_bytes(request.0));
                read += 1;
            }
            slow.outbox.written(cost);
        }
        assert!(
            read <= 1,
            "{read} large answers were queued in round {round}"
        );
        world.room.handle_drained(slow.conn);
        world.settle();
    }
    assert_eq!(answered, asked);
}

#[test]
fn a_large_folder_is_listed_once_at_a_time() {
    let mut config = Config::default();
    config.limits.max_outbox_bytes = 16 << 10;
    let mut world = World::with_config(config);
    let room = RoomId::new("project", "room");
    let files: Vec<_> = (0..500)
        .map(|n| Write::PutFile {
            room: room.clone(),
            path: format!("folder/file-{n}"),
            data: "x".into(),
            mime_type: String::new(),
            overwrite: false,
            at: world.now,
        })
        .collect();
    meshagent_store::Store::commit(&world.store, &files).unwrap();
    let client = world.join("client");
    let asked: Vec<u64> = (0..30)
        .map(|_| world.invoke(&client, "storage", "list", json!({ "path": "folder" })))
        .collect();
    world.settle();
    let mut answered = Vec::new();
    while answered.len() < asked.len() {
        let seen = client.take();
        assert_eq!(
            seen.len(),
            1,
            "one list at a time, and the connection lives"
        );
        for seen in seen {
            if let super::Seen::Answer(id, Content::Json(list)) = seen {
                assert_eq!(list["files"].as_array().unwrap().len(), 500);
                answered.push(id);
            }
        }
        world.room.handle_drained(client.conn);
        world.settle();
    }
    assert_eq!(answered, asked);
}

#[test]
fn states_wait_for_memory_that_others_have() {
    let mut config = Config::default();
    config.limits.max_shared_bytes = 800 << 10;
    let mut world = World::with_config(config);
    let paths = ["a.document", "b.document", "c.document"];
    for path in paths {
        let (writer, _) = write(&mut world, path, 400);
        world.leave(&writer);
    }
    // The state that was cached for the writers is dropped.
    world.pass_seconds(15);
    let readers: Vec<_> = (0..3).map(|n| world.join(&format!("r{n}"))).collect();
    for (reader, path) in readers.iter().zip(paths) {
        world.begin_open(reader, "s", json!({ "path": path }));
    }
    world.settle();
    let has_state = |reader: &super::Client| reader.outbox.queued().0 > 400 << 10;
    assert_eq!(readers.iter().filter(|reader| has_state(reader)).count(), 1);
    assert!(world.room.usage.shared_bytes() <= 800 << 10);
    // Each state is sent when there is memory for it: after the previous one was read.
    let mut seen = 0;
    for _ in 0..60 {
        for reader in &readers {
            for chunk in reader.chunks("s") {
                if let Content::Binary { headers, .. } = chunk {
                    assert_eq!(headers["kind"], "state");
                    seen += 1;
                }
            }
        }
        assert!(world.room.usage.shared_bytes() <= 800 << 10);
        world.pass_seconds(1);
    }
    assert_eq!(seen, 3);
}

#[test]
fn who_asks_for_it_gets_all_changes_of_a_moment_as_one() {
    let mut world = World::new();
    let (writer, editor) = write(&mut world, "a.document", 1);
    let (plain, ours) = (world.join("plain"), world.join("ours"));
    let mut seen = vec![world.open(&plain, "p", json!({ "path": "a.document" }))];
    let mut merged = vec![world.open(&ours, "o", json!({ "path": "a.document", "merge": true }))];
    // One update is with the disk while five wait; two of them delete.
    world.update(&writer, "w", &editor.append("body", "x"));
    world.run();
    world.update(&writer, "w", &editor.append("body", "y"));
    world.update(&writer, "w", &editor.remove(0));
    world.update(&writer, "w", &editor.append("body", "z"));
    world.update(&writer, "w", &editor.remove(0));
    world.update(&writer, "w", &editor.set_first("text", "end"));
    world.settle();
    let (one_by_one, at_once) = (plain.changes("p"), ours.changes("o"));
    assert_eq!((one_by_one.len(), at_once.len()), (6, 2));
    seen.extend(one_by_one);
    merged.extend(at_once);
    assert_eq!(shown(&seen), shown(&merged));
    assert_eq!((count(&merged, "y"), count(&merged, "x")), (1, 0));
}

#[test]
fn what_is_queued_and_shared_is_measured() {
    let world = World::new();
    let ledger = std::sync::Arc::clone(world.room.usage.ledger());
    let outbox = Outbox::new(1 << 20, &ledger.account("ann"));
    let message = super::ServerToClient::Response {
        request: super::MessageId::from(1),
        content: Content::Text(long(10)),
    };
    outbox.push(message);
    assert!(ledger.held_of(Kind::Queued) >= 10 << 10);
    drop(outbox);
    assert_eq!(ledger.held_of(Kind::Queued), 0);
}

#[test]
fn a_description_that_fits_no_message_is_refused() {
    let mut config = Config::default();
    config.limits.max_message_bytes = 200 << 10;
    let mut world = World::with_config(config);
    let _small = write(&mut world, "small.document", 100);
    let _large = write(&mut world, "large.document", 400);
    let reader = world.join("reader");
    let answers = ["small.document", "large.document"]
        .map(|path| world.call(&reader, "sync", "describe", json!({ "path": path })));
    assert!(matches!(answers[0], Content::Json(_)));
    assert_eq!(code(&answers[1]), Some(1002));
    // The document can still be opened.
    let state = world.open(&reader, "r", json!({ "path": "large.document" }));
    assert!(state.len() > 400 << 10);
}

/// A measurement goes through the whole document, so it must be much rarer than checks of the
/// bound.
#[test]
fn at_the_bound_a_document_is_not_measured_for_each_who_asks() {
    const PAIRS: u64 = 200;
    let mut config = Config::default();
    config.limits.max_document_bytes = 40_000;
    let mut world = World::with_config(config);
    let writer = world.join("writer");
    world.open(&writer, "w", json!({ "path": "a.document" }));
    let editor = Editor::new(1);
    world.update(&writer, "w", &editor.append("body", &"é".repeat(12_000)));
    world.settle();
    let large = Editor::new(9).append("body", &"ü".repeat(10_000));
    let encodings = "meshagent_state_encodings_total";
    let before = world.metric(encodings);
    for pair in 0..PAIRS {
        let small = world.update(&writer, "w", &editor.append("body", &format!("{pair}")));
        world.settle();
        assert_eq!(writer.answer(small), Content::Empty, "pair {pair}");
        let refused = world.update(&writer, "w", &large);
        world.settle();
        assert_eq!(code(&writer.answer(refused)), Some(1002), "pair {pair}");
    }
    let measured = world.metric(encodings) - before;
    assert!(measured <= PAIRS / 4, "{measured} times for {PAIRS} pairs");
    // A deletion makes space.
    world.now.0 += 1_000;
    world.update(&writer, "w", &editor.remove(0));
    world.settle();
    let taken = world.update(&writer, "w", &large);
    world.settle();
    assert_eq!(writer.answer(taken), Content::Empty);
}

/// Each description is made separately, so a commit is not followed by all that there is space for.
#[test]
fn descriptions_that_waited_are_made_one_after_the_other() {
    let mut config = Config::default();
    config.limits.max_outbox_bytes = 64 << 10;
    let mut world = World::with_config(config);
    let (writer, editor) = write(&mut world, "a.document", 400);
    let asking: Vec<super::Client> = (0..8)
        .map(|number| world.join(&format!("é{number}")))
        .collect();
    let mut asked = Vec::new();
    for (number, client) in asking.iter().enumerate() {
        let describe = json!({ "path": "a.document" });
        world.invoke(client, "sync", "describe", describe);
        // No two consecutive descriptions are the same.
        let describe = json!({ "path": "a.document", "include_ids": number % 2 == 0 });
        asked.push(world.invoke(client, "sync", "describe", describe));
    }
    world.settle();
    for client in &asking {
        assert_eq!(answered(client), 1);
    }
    let mut told = 0;
    let mut commits = 0;
    while told < asked.len() {
        world.update(&writer, "w", &editor.append("body", &format!("ü{commits}")));
        world.settle();
        let now: usize = asking.iter().map(answered).sum();
        assert_eq!(now, 1, "made after a commit");
        told += now;
        commits += 1;
    }
}

/// The number of answers from the room since the last call.
fn answered(client: &super::Client) -> usize {
    let mut answers = 0;
    for (item, cost) in client.outbox.try_take() {
        let request = matches!(
            item,
            crate::outbox::Outgoing::Shared {
                request: Some(_),
                ..
            }
        );
        answers += usize::from(request);
        client.outbox.written(cost);
    }
    answers
}

/// A document with many elements, which take much more memory than text.
fn wide(path: &str, elements: usize) -> Value {
    let content = vec![json!({ "body": {} }); elements];
    json!({ "path": path, "json": { "document": { "content": content } } })
}

#[test]
fn the_documents_in_memory_have_a_bound_for_each_participant_and_together() {
    let mut config = Config::default();
    config.limits.max_open_bytes = 8 << 20;
    let mut world = World::with_config(config);
    let names = ["jörg", "zoë", "łukasz"];
    let clients = names.map(|name| world.join(name));
    let mut made = Vec::new();
    for (client, name) in clients.iter().zip(names) {
        let refused = loop {
            assert!(made.len() < 100, "nothing is refused");
            let path = format!("{name}/{}.document", made.len());
            let answer = world.call(client, "sync", "create", wide(&path, 500));
            if code(&answer).is_some() {
                break answer;
            }
            world.open(client, &path, json!({ "path": path }));
            made.push(path);
        };
        assert_eq!(code(&refused), Some(1008), "{refused:?}");
        let scope = if name == "łukasz" {
            "for all clients"
        } else {
            "this participant"
        };
        assert!(text(&refused).contains(scope), "{name}: {refused:?}");
        let bytes = world.room.usage.open().bytes();
        assert!(bytes <= 8 << 20, "{bytes} bytes");
    }
    assert!(made.len() > 6, "only {}", made.len());
    // Documents without readers are unloaded for others, and loaded again on request.
    for client in &clients {
        world.leave(client);
    }
    let reader = world.join("ann");
    for path in made.iter().chain(&made) {
        let answer = world.call(&reader, "sync", "describe", json!({ "path": path }));
        assert_eq!(code(&answer), None, "{path}: {answer:?}");
        let bytes = world.room.usage.open().bytes();
        assert!(bytes <= 8 << 20, "{bytes} bytes");
    }
    world.unload();
    assert_eq!(world.room.usage.open().bytes(), 0);
}

#[test]
fn what_a_document_grows_by_is_counted_and_a_large_one_is_always_served() {
    let mut config = Config::default();
    config.limits.max_open_bytes = 1 << 20;
    let mut world = World::with_config(config);
    let (writer, editor) = write(&mut world, "a.document", 4_000);
    world.pass_seconds(1);
    let bytes = world.room.usage.open().bytes();
    assert!(bytes > 4_000 << 10, "{bytes} bytes");
    let refused = world.call(&writer, "sync", "create", wide("b.document", 1));
    assert_eq!(code(&refused), Some(1008), "{refused:?}");
    let id = world.update(&writer, "w", &editor.append("body", "noch eins"));
    world.settle();
    assert_eq!(writer.answer(id), Content::Empty);
    world.leave(&writer);
    world.unload();
    // The document is larger than the bound for all documents.
    let reader = world.join("zoë");
    world.open(&reader, "r", json!({ "path": "a.document" }));
    world.leave(&reader);
    world.unload();
    assert_eq!(world.room.usage.open().bytes(), 0);
}

#[test]
fn one_batch_has_one_move_whatever_the_ones_before_were() {
    let mut world = World::new();
    let mover = world.join("mover");
    let file = |path: String| Write::PutFile {
        room: RoomId::new("project", "room"),
        path,
        data: "x".into(),
        mime_type: String::new(),
        overwrite: false,
        at: Timestamp(0),
    };
    let mut files: Vec<_> = (0..300)
        .map(|number| file(format!("ä0/{number}")))
        .collect();
    files.push(file("klein0".to_owned()));
    world.store.commit(&files).unwrap();
    for name in ["klein", "ä"] {
        let mut moved = 0;
        for _ in 0..10 {
            while world.room.accepts_requests() {
                let [from, to] = [moved, moved + 1].map(|number| format!("{name}{number}"));
                let input = json!({ "source_path": from, "destination_path": to });
                world.invoke(&mover, "storage", "move", input);
                moved += 1;
            }
            world.run();
            let batch = world.held.iter().flatten();
            let moves = batch.filter(|write| write.may_touch_many()).count();
            assert_eq!(moves, 1, "{name}");
            world.commit();
        }
        world.settle();
        let seen = mover.take();
        let is_done = |seen: &&super::Seen| matches!(seen, super::Seen::Answer(_, Content::Empty));
        assert_eq!(seen.iter().filter(is_done).count(), moved);
    }
}
