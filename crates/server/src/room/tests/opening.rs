//! Creating, opening and describing documents; schemas; loading and eviction.

use bytes::Bytes;
use meshagent_document::MeshSchema;
use meshagent_ledger::Kind;
use meshagent_store::{RoomId, Store as _, Write};
use serde_json::json;

use super::{
    Action, Content, Control, Editor, Fetch, FetchResult, Seen, World, code, count, shown, text,
};

#[test]
fn initial_json_without_a_schema_gets_one_read_off_it() {
    let mut world = World::new();
    let client = world.join("client");
    let created = world.call(
        &client,
        "sync",
        "create",
        json!({ "path": "my/path", "json": { "key": "value" } }),
    );
    assert_eq!(created, Content::Empty);
    let described = world.call(&client, "sync", "describe", json!({ "path": "./my/path" }));
    assert_eq!(
        described,
        Content::Json(json!({ "document": { "key": "value" } }))
    );
    let again = world.call(
        &client,
        "sync",
        "create",
        json!({ "path": "/my/path", "json": { "key": "value" } }),
    );
    assert_eq!(code(&again), Some(1004));
    let refused = world.call(
        &client,
        "sync",
        "create",
        json!({ "path": "null", "json": { "key": null } }),
    );
    assert_eq!(code(&refused), Some(1002));
    let root = world.call(
        &client,
        "sync",
        "create",
        json!({ "path": ".", "json": { "key": 1 } }),
    );
    assert_eq!(code(&root), Some(1002));
}

#[test]
fn a_document_without_any_schema_is_refused_with_the_file_that_would_help() {
    let mut world = World::new();
    let client = world.join("client");
    let refused = world.call(&client, "sync", "create", json!({ "path": "plan.todo" }));
    assert_eq!(code(&refused), Some(1003));
    assert!(
        text(&refused).contains(".schemas/todo.json"),
        "{}",
        text(&refused)
    );
    let refused = world.call(
        &client,
        "sync",
        "create",
        json!({ "path": "plan", "schema_path": "my.json" }),
    );
    assert_eq!(code(&refused), Some(1003));
    assert!(text(&refused).contains("my.json"));
    let missing = world.call(&client, "sync", "describe", json!({ "path": "plan.todo" }));
    assert_eq!(code(&missing), Some(1003));
    world.begin_open(
        &client,
        "c",
        json!({ "path": "plan.todo", "create": false }),
    );
    world.settle();
    assert_eq!(code(&client.chunks("c")[0]), Some(1003));
}

#[test]
fn violations_of_initial_json_are_all_listed_and_leave_no_document() {
    let mut world = World::new();
    let client = world.join("client");
    let json = json!({ "document": { "content": [{ "body": { "text": 1 } }, { "nope": {} }] } });
    let refused = world.call(
        &client,
        "sync",
        "create",
        json!({ "path": "a.document", "json": json }),
    );
    assert_eq!(code(&refused), Some(1002));
    let text = text(&refused);
    assert!(
        text.contains("/document/content/0/body/text") && text.contains("/document/content/1"),
        "{text}"
    );
    let exists = world.call(
        &client,
        "storage",
        "exists",
        json!({ "path": "a.document" }),
    );
    assert_eq!(exists, Content::Json(json!({ "exists": false })));
}

#[test]
fn racing_creators_get_one_document() {
    let mut world = World::new();
    let (one, two) = (world.join("one"), world.join("two"));
    world.begin_open(&one, "s", json!({ "path": "a.document" }));
    world.begin_open(&two, "s", json!({ "path": "a.document" }));
    let create = world.invoke(&two, "sync", "create", json!({ "path": "a.document" }));
    world.run();
    world.settle();
    one.state("s");
    let seen = two.take();
    assert!(
        seen.iter()
            .any(|seen| matches!(seen, Seen::Chunk(_, Content::Binary { .. })))
    );
    assert!(seen.iter().any(|seen| matches!(seen, Seen::Answer(id, content) if *id == create && code(content) == Some(1004))));
    world.update(&one, "s", &Editor::new(1).append("body", "one"));
    world.settle();
    assert_eq!(count(&two.changes("s"), "one"), 1);
}

#[test]
fn a_document_is_let_go_after_its_last_reader_and_comes_back_the_same() {
    let mut world = World::new();
    let client = world.join("client");
    world.open(&client, "c", json!({ "path": "a.document" }));
    let editor = Editor::new(1);
    for n in 0..40 {
        world.update(&client, "c", &editor.append("body", &format!("n{n}")));
        world.settle();
    }
    assert_eq!(world.metric("meshagent_documents"), 1);
    world.chunk(&client, "c", Content::Control(Control::close()));
    world.pass_seconds(20);
    assert_eq!(
        world.metric("meshagent_documents"),
        1,
        "somebody may come back"
    );
    world.pass_seconds(20);
    assert_eq!(world.metric("meshagent_documents"), 0);

    let stored = RoomId::new("project", "room");
    let stored = meshagent_store::Store::load(&world.store, &stored, "a.document")
        .unwrap()
        .unwrap();
    assert!(
        stored.snapshot.is_some() && stored.updates.is_empty(),
        "the log was folded before it went"
    );
    let state = world.open(&client, "again", json!({ "path": "a.document" }));
    assert_eq!(
        shown(&[state])["document"]["content"]
            .as_array()
            .unwrap()
            .len(),
        40
    );

    world.leave(&client);
    world.pass_seconds(40);
    assert!(world.room.is_idle());
}

#[test]
fn a_close_while_the_document_is_being_read_is_answered() {
    let mut world = World::new();
    let client = world.join("client");
    world.begin_open(&client, "c", json!({ "path": "a.document" }));
    let Some(Action::Fetch(number, Fetch::Document { .. })) = world.room.poll_action() else {
        panic!("the document is read first")
    };
    let close = world.chunk(&client, "c", Content::Control(Control::close()));
    let seen = client.take();
    assert!(
        seen.iter()
            .any(|seen| matches!(seen, Seen::Answer(id, Content::Empty) if *id == close))
    );
    assert!(seen.iter().any(|seen| matches!(
        seen,
        Seen::Chunk(_, Content::Control(Control::Close { .. }))
    )));
    let nothing = Ok(FetchResult::Document(None));
    world.room.handle_fetched(number, nothing, world.now);
    world.settle();
    assert!(client.chunks("c").is_empty(), "nothing follows the close");
    world.pass_seconds(40);
    assert_eq!(world.metric("meshagent_documents"), 0);
}

#[test]
fn what_no_schema_can_be_read_off_is_told_once() {
    let mut world = World::new();
    let client = world.join("zoë");
    for json in [
        json!({ "liste": { "ü": null } }),
        json!({ "liste": { "a": [], "b": [] } }),
        json!({ "liste": { "a": { "b": 1 } } }),
    ] {
        let create = json!({ "path": "plan", "json": json });
        let refused = world.call(&client, "sync", "create", create);
        let text = text(&refused);
        assert_eq!(code(&refused), Some(1002), "{text}");
        assert_eq!(text.matches("send a schema").count(), 1, "{text}");
        assert!(
            text.ends_with("send a schema") && !text.contains(": :"),
            "{text}"
        );
    }
}

#[test]
fn a_schema_file_is_weighed_before_it_is_read_and_parsed() {
    let mut world = World::new();
    let client = world.join("jörg");
    let list = |bytes: usize| -> Bytes {
        let zeros = "0,".repeat(bytes.saturating_sub(3) / 2);
        format!("[{zeros}0]").into()
    };
    for (name, bytes, says) in [
        // The file is not even read.
        ("größ.json", 5 << 20, "4194304 bytes at most"),
        // The values of this file would take some hundred megabytes.
        ("nested.json", 4 << 20, "in memory"),
    ] {
        let data = if name == "nested.json" {
            let many = "{\"\":0},".repeat(bytes / 7 - 1);
            Bytes::from(format!("[{many}0]"))
        } else {
            list(bytes)
        };
        put_file(&mut world, name, data);
        let create = json!({ "path": "neu", "schema_path": name });
        let id = world.invoke(&client, "sync", "create", create);
        let mut read_bytes = 0;
        while let Some(action) = world.room.poll_action() {
            let Action::Fetch(number, fetch) = action else {
                panic!("{action:?}")
            };
            let result = world.read(fetch);
            read_bytes += result.as_ref().map_or(0, FetchResult::bytes);
            world.room.handle_fetched(number, result, world.now);
        }
        let answer = client.answer(id);
        assert_eq!(code(&answer), Some(1002), "{name}: {answer:?}");
        assert!(text(&answer).contains(says), "{name}: {answer:?}");
        assert!(read_bytes <= 4 << 20, "{name}: {read_bytes} bytes read");
    }
    assert_eq!(world.room.usage.ledger().held_of(Kind::Parsed), 0);
    // A schema file with many spaces is accepted, even if it is longer than a schema may be without
    // them.
    let mut schema = MeshSchema::builtin("document")
        .unwrap()
        .to_json()
        .to_string();
    schema.push_str(&" ".repeat(2 << 20));
    put_file(&mut world, "spaces.json", schema.into());
    let create = json!({ "path": "neu", "schema_path": "spaces.json" });
    assert_eq!(
        world.call(&client, "sync", "create", create),
        Content::Empty
    );
}

#[test]
fn the_identity_of_a_document_is_its_own_whatever_its_id() {
    let mut world = World::new();
    let identity = |world: &mut World, path: &str| {
        let client = world.join("ä");
        let start = json!({ "path": path, "identity": "" });
        let asked = world.begin_open(&client, "o", start);
        world.settle();
        let seen = client.take();
        let answer = seen.iter().find_map(|seen| match seen {
            Seen::Answer(id, Content::Json(json)) if *id == asked => Some(json),
            _ => None,
        });
        let identity = answer.unwrap()["identity"].as_str().unwrap().to_owned();
        world.room.handle_leave(client.conn, world.now);
        identity
    };
    let first = identity(&mut world, "a.document");
    world.unload();
    assert_eq!(identity(&mut world, "a.document"), first, "read again");
    // A restored store may assign an id again.
    let mut restored = World::new();
    restored.pass_seconds(5);
    let other = identity(&mut restored, "a.document");
    assert_eq!(
        other.split('-').next(),
        first.split('-').next(),
        "the same id"
    );
    assert_ne!(other, first);
}

fn put_file(world: &mut World, path: &str, data: Bytes) {
    let write = Write::PutFile {
        room: RoomId::new("project", "room"),
        path: path.to_owned(),
        data,
        mime_type: "application/json".to_owned(),
        overwrite: true,
        at: world.now,
    };
    world.store.commit(&[write]).unwrap().remove(0).unwrap();
}

/// A client may use a call's id again after the call has ended. The second call does not receive
/// what the first one requested.
#[test]
fn a_call_gets_nothing_of_the_one_before_with_its_id() {
    for path in ["first.document", "missing.document"] {
        let mut world = World::new();
        let client = world.join("client");
        for path in ["first.document", "second.document"] {
            let input = json!({ "path": path, "json": { "document": { "content": [] } } });
            let created = world.call(&client, "sync", "create", input);
            assert_eq!(created, Content::Empty);
        }
        world.unload();
        let start = json!({ "path": path, "create": false });
        let first = world.begin_open(&client, "c", start);
        let Some(Action::Fetch(number, fetch)) = world.room.poll_action() else {
            panic!("it is read")
        };
        world.chunk(&client, "c", Content::Control(Control::close()));
        let second = world.begin_open(&client, "c", json!({ "path": "second.document" }));
        let early = world.update(&client, "c", &Editor::new(1).append("body", "early"));
        let result = world.read(fetch);
        world.room.handle_fetched(number, result, world.now);
        let is_answer = |seen: &Seen, to: u64| matches!(seen, Seen::Answer(id, _) if *id == to);
        let mut seen = client.take();
        assert!(seen.iter().any(|seen| is_answer(seen, first)), "{path}");
        for request in [second, early] {
            let answered = seen.iter().any(|seen| is_answer(seen, request));
            assert!(!answered, "{path}: {seen:?}");
        }
        world.settle();
        seen.extend(client.take());
        for request in [second, early] {
            let answered = Seen::Answer(request, Content::Empty);
            assert!(seen.contains(&answered), "{path}: {seen:?}");
        }
        for (path, expected) in [("first.document", 0), ("second.document", 1)] {
            let state = world.open(&client, path, json!({ "path": path }));
            assert_eq!(count(&[state], "early"), expected, "{path}");
        }
    }
}

/// The call is closed, or its id is another call's, before it is known that there is no document.
#[test]
fn creation_is_on_behalf_of_who_its_own_call_names() {
    for second in [None, Some("zoë")] {
        let mut world = World::new();
        let client = world.join("client");
        let begin = |world: &mut World, path: &str, behalf: &str| {
            let open = super::invoke("sync", "open", Content::Control(Control::Open), "c");
            let super::ClientToServer::Invoke(mut open) = open else {
                panic!("it is an invoke")
            };
            open.on_behalf_of_id = Some(behalf.to_owned());
            world.send(&client, super::ClientToServer::Invoke(open));
            world.start(&client, "c", json!({ "path": path }));
        };
        begin(&mut world, "first.document", "änn");
        let Some(Action::Fetch(number, fetch)) = world.room.poll_action() else {
            panic!("it is read")
        };
        world.chunk(&client, "c", Content::Control(Control::close()));
        if let Some(behalf) = second {
            begin(&mut world, "second.document", behalf);
        }
        let result = world.read(fetch);
        world.room.handle_fetched(number, result, world.now);
        world.settle();
        let room = RoomId::new("project", "room");
        let stored = world.store.load(&room, "first.document").unwrap().unwrap();
        let author = &stored.updates[0].contributions[0].author;
        assert_eq!(author.on_behalf_of.as_deref(), Some("änn"), "{second:?}");
    }
}
