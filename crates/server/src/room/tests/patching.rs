//! The tool `patch`: all or nothing, by its author, answered when durable; and the names of states.

use std::sync::Arc;

use meshagent_protocol::ApiScope;
use meshagent_store::{Author, Fault, RoomId, Store as _, StoreError, StoredDocument};
use serde_json::{Value, json};

use super::{Client, Content, Editor, World, code, invoke, text};

const PATH: &str = "a.document";

/// A world with a document of one element, and a participant that has it open.
fn world() -> (World, Client) {
    let mut world = World::new();
    let ann = world.join("ann");
    world.open(&ann, "w", json!({ "path": PATH }));
    world.update(&ann, "w", &Editor::new(1).append("body", "one"));
    world.settle();
    ann.take();
    (world, ann)
}

fn patch(operations: Value) -> Value {
    json!({ "path": PATH, "patch": operations })
}

/// Appends an element with a text by which a test can find it.
fn append(mark: &str) -> Value {
    json!({ "op": "add", "path": "/document/content/-", "value": { "body": { "text": mark } } })
}

fn json_of(content: Content) -> Value {
    match content {
        Content::Json(json) => json,
        other => panic!("expected JSON, found {other:?}"),
    }
}

impl World {
    fn patched(&mut self, client: &Client, input: Value) -> Content {
        self.call(client, "sync", "patch", input)
    }

    fn described(&mut self, client: &Client) -> Value {
        let input = json!({ "path": PATH, "with_version": true });
        json_of(self.call(client, "sync", "describe", input))
    }

    fn version(&mut self, client: &Client) -> String {
        let described = self.described(client);
        described["version"].as_str().unwrap().to_owned()
    }

    /// How often a text is in what `describe` shows.
    fn shows(&mut self, client: &Client, mark: &str) -> usize {
        self.described(client)["json"]
            .to_string()
            .matches(mark)
            .count()
    }

    fn stored(&self) -> StoredDocument {
        let room = RoomId::new("project", "room");
        self.store.inner().load(&room, PATH).unwrap().unwrap()
    }
}

#[test]
fn a_patch_is_told_and_shown_when_it_is_on_disk() {
    let (mut world, ann) = world();
    let reader = world.join("reader");
    let state = world.open(&reader, "r", json!({ "path": PATH }));
    let before = world.version(&ann);
    let operations = json!([
        { "op": "test", "path": "/document/content/0", "value": { "body": {} } },
        append("first"),
        append("second"),
    ]);
    let id = world.invoke(&ann, "sync", "patch", patch(operations));
    world.run();
    assert!(ann.take().is_empty() && reader.take().is_empty());
    world.commit();
    let answer = json_of(ann.answer(id));
    let results: Vec<&str> = answer["operations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["result"].as_str().unwrap())
        .collect();
    assert_eq!(results, ["no change", "applied", "applied"], "{answer}");
    assert!(answer.get("dry_run").is_none());
    let mut updates = vec![state];
    updates.extend(reader.changes("r"));
    let shown = super::shown(&updates).to_string();
    assert!(
        shown.contains("first") && shown.contains("second"),
        "{shown}"
    );
    assert_ne!(answer["version"], before.as_str());
    assert_eq!(answer["version"], world.version(&ann).as_str());
}

#[test]
fn the_author_has_its_own_patch_by_its_stream_too() {
    let (mut world, ann) = world();
    let id = world.invoke(&ann, "sync", "patch", patch(json!([append("mark")])));
    world.settle();
    let seen = ann.take();
    let has = |wanted: fn(&super::Seen) -> bool| seen.iter().filter(|one| wanted(one)).count();
    assert_eq!(
        has(|one| matches!(one, super::Seen::Chunk(call, _) if call == "w")),
        1,
        "{id}"
    );
    assert_eq!(
        has(|one| matches!(one, super::Seen::Answer(_, Content::Json(_)))),
        1
    );
}

#[test]
fn a_refused_patch_leaves_nothing() {
    let (mut world, ann) = world();
    let before = world.version(&ann);
    let commits = world.store.commits();
    for (last, expected, says) in [
        (
            json!({ "op": "test", "path": "/document/content/0", "value": 1 }),
            1005,
            "operation 1",
        ),
        (
            json!({ "op": "remove", "path": "/nowhere" }),
            1002,
            "operation 1",
        ),
        (json!({ "op": "paint", "path": "" }), 1002, "operation 1"),
        (
            json!({ "op": "add", "path": "/document/content/-", "value": { "unheard-of": {} } }),
            1002,
            "schema",
        ),
    ] {
        let refused = world.patched(&ann, patch(json!([append("lost"), last.clone()])));
        assert_eq!(code(&refused), Some(expected), "{last}: {refused:?}");
        assert!(text(&refused).contains(says), "{last}: {refused:?}");
        assert_eq!(world.shows(&ann, "lost"), 0, "{last}");
    }
    assert_eq!(world.version(&ann), before);
    assert_eq!(world.store.commits(), commits);
    let missing = world.patched(&ann, json!({ "path": "b.document", "patch": [] }));
    assert_eq!(code(&missing), Some(1003));
    let malformed = world.patched(&ann, json!({ "path": PATH, "patch": {} }));
    assert_eq!(code(&malformed), Some(1002));
}

#[test]
fn who_may_not_write_may_not_patch() {
    let (mut world, ann) = world();
    let read_only =
        ApiScope::from_json(&json!({ "sync": { "paths": [{ "path": "*", "read_only": true }] } }));
    let bob = world.join_with("bob", read_only.unwrap());
    let refused = world.patched(&bob, patch(json!([append("lost")])));
    assert_eq!(code(&refused), Some(1001));
    let nobody = world.join_with("nobody", ApiScope::default());
    let refused = world.patched(&nobody, patch(json!([])));
    assert_eq!(code(&refused), Some(1001));
    assert_eq!(world.shows(&ann, "lost"), 0);
}

#[test]
fn of_two_patches_for_one_version_one_wins() {
    let (mut world, ann) = world();
    let bob = world.join("bob");
    let version = world.version(&ann);
    let input = |mark| json!({ "path": PATH, "patch": [append(mark)], "if_version": version });
    let first = world.invoke(&ann, "sync", "patch", input("first"));
    let second = world.invoke(&bob, "sync", "patch", input("second"));
    world.run();
    assert!(bob.take().is_empty(), "why it lost is not on disk yet");
    world.settle();
    let won = json_of(ann.answer(first));
    let lost = bob.answer(second);
    assert_eq!(code(&lost), Some(1005));
    let now = won["version"].as_str().unwrap();
    assert!(text(&lost).contains(now), "{lost:?} tells {now}");
    assert_eq!(
        (world.shows(&ann, "first"), world.shows(&ann, "second")),
        (1, 0)
    );
    let mut again = input("second");
    again["if_version"] = now.into();
    json_of(world.patched(&bob, again));
    assert_eq!(world.shows(&ann, "second"), 1);
}

#[test]
fn a_dry_run_changes_nothing() {
    let (mut world, ann) = world();
    let before = world.version(&ann);
    let commits = world.store.commits();
    let dry = |operations| json!({ "path": PATH, "patch": operations, "dry_run": true });
    let copy =
        json!({ "op": "copy", "from": "/document/content/0", "path": "/document/content/-" });
    for operation in [append("dry"), copy] {
        let answer = json_of(world.patched(&ann, dry(json!([operation]))));
        assert_eq!(answer["dry_run"], true);
        assert_eq!(answer["version"], before.as_str());
        assert_eq!(answer["operations"][0]["result"], "applied");
    }
    let refused = world.patched(&ann, dry(json!([{ "op": "remove", "path": "/nowhere" }])));
    assert_eq!(code(&refused), Some(1002));
    assert_eq!(world.version(&ann), before);
    assert_eq!(world.store.commits(), commits);
    assert!(ann.changes("w").is_empty());
}

#[test]
fn a_patch_whose_commit_fails_is_nowhere() {
    let (mut world, ann) = world();
    let commits = world.store.commits();
    world
        .store
        .fail_commits(commits..commits + 1, Fault::Unavailable);
    let id = world.invoke(&ann, "sync", "patch", patch(json!([append("lost")])));
    world.run();
    // A description of a state that never became durable is refused.
    let reading = world.invoke(
        &ann,
        "sync",
        "describe",
        json!({ "path": PATH, "with_version": true }),
    );
    world.settle();
    let seen = ann.take();
    for id in [id, reading] {
        let is_told = |one: &super::Seen| matches!(one, super::Seen::Answer(to, content) if *to == id && code(content) == Some(1008));
        assert!(seen.iter().any(is_told), "{id}: {seen:?}");
    }
    // The next patch uses another client id: a client may know the lost operations by the previous
    // one.
    let kept = json_of(world.patched(&ann, patch(json!([append("kept")]))));
    assert_eq!(
        (world.shows(&ann, "kept"), world.shows(&ann, "lost")),
        (1, 0)
    );
    let stored = world.stored();
    let clients: Vec<u64> = stored
        .updates
        .iter()
        .flat_map(|one| &one.contributions)
        .flat_map(|part| &part.operations)
        .map(|run| run.client)
        .collect();
    assert_eq!(
        clients.len(),
        2,
        "the element's and the kept patch's: {clients:?}"
    );
    // Nor has the new state the name of the lost one.
    let mut other = World::new();
    other.store = world.store;
    let eve = other.join("eve");
    assert_eq!(kept["version"], other.version(&eve).as_str());
}

#[test]
fn a_patch_is_its_askers_in_one_write() {
    let (mut world, _) = world();
    let agent = world.join("agent");
    let before = world.stored().updates.len();
    let message = invoke(
        "sync",
        "patch",
        Content::Json(patch(json!([
            append("one-mark"),
            { "op": "remove", "path": "/document/content/0" },
            append("other-mark"),
        ]))),
        "p",
    );
    let super::ClientToServer::Invoke(mut message) = message else {
        panic!("it is an invoke")
    };
    message.on_behalf_of_id = Some("ann-id".to_owned());
    let id = world.send(&agent, super::ClientToServer::Invoke(message));
    world.settle();
    json_of(agent.answer(id));
    let stored = world.stored();
    assert_eq!(stored.updates.len(), before + 1);
    let [part] = &stored.updates[before].contributions[..] else {
        panic!(
            "one contribution: {:?}",
            stored.updates[before].contributions
        )
    };
    let author = Author {
        participant: "agent".to_owned(),
        role: "user".to_owned(),
        on_behalf_of: Some("ann".to_owned()),
        connection: "agent-id".to_owned(),
    };
    assert_eq!(part.author, author);
    let [run] = &part.operations[..] else {
        panic!("one run: {:?}", part.operations)
    };
    let mut replica = meshagent_document::MeshDocument::new(
        meshagent_document::MeshSchema::builtin("document").unwrap(),
        99,
    );
    for one in &stored.updates {
        replica.apply_update(&one.update).unwrap();
    }
    assert!(
        replica.clocks().any(|one| one == (run.client, run.end)),
        "{run:?}"
    );
}

#[test]
fn published_readers_get_a_patch_in_steps_they_can_follow() {
    let (mut world, ann) = world();
    json_of(world.patched(&ann, patch(json!([append("a"), append("b"), append("c")]))));
    let (one_by_one, at_once) = (world.join("old"), world.join("new"));
    let mut old = vec![world.open(&one_by_one, "o", json!({ "path": PATH }))];
    let mut new = vec![world.open(&at_once, "n", json!({ "path": PATH, "merge": true }))];
    let remove = |index| json!({ "op": "remove", "path": format!("/document/content/{index}") });
    json_of(world.patched(&ann, patch(json!([remove(3), remove(1)]))));
    let steps = one_by_one.changes("o");
    assert_eq!(steps.len(), 2, "an update that deletes goes out alone");
    old.extend(steps);
    new.extend(at_once.changes("n"));
    assert_eq!(new.len(), 2);
    assert_eq!(super::shown(&old), super::shown(&new));
}

#[test]
fn a_document_takes_no_more_by_patches_than_it_may() {
    let mut config = crate::config::Config::default();
    config.limits.max_document_bytes = 4000;
    let mut world = World::with_config(config);
    let ann = world.join("ann");
    world.open(&ann, "w", json!({ "path": PATH }));
    json_of(world.patched(&ann, patch(json!([append(&"x".repeat(500))]))));
    let before = world.version(&ann);
    let refused = world.patched(&ann, patch(json!([append(&"y".repeat(3600))])));
    assert_eq!(code(&refused), Some(1002), "{refused:?}");
    // The patch is small by itself, and large by what it copies.
    let copy =
        json!({ "op": "copy", "from": "/document/content/0", "path": "/document/content/-" });
    let refused = world.patched(&ann, patch(vec![copy.clone(); 8].into()));
    assert_eq!(code(&refused), Some(1002), "{refused:?}");
    assert_eq!(world.version(&ann), before);
    json_of(world.patched(&ann, patch(json!([copy]))));
    let remove = json!({ "op": "remove", "path": "/document/content/0" });
    json_of(world.patched(&ann, patch(json!([remove]))));
    assert_eq!(world.shows(&ann, &"x".repeat(500)), 1);
}

#[test]
fn a_version_changes_with_what_is_there_and_with_nothing_else() {
    let (mut world, ann) = world();
    let mut versions = vec![world.version(&ann)];
    let editor = Editor::new(2);
    for update in [editor.append("body", "two"), editor.remove(0)] {
        world.update(&ann, "w", &update);
        world.settle();
        // An echo changes nothing.
        world.update(&ann, "w", &update);
        world.settle();
        ann.take();
        let version = world.version(&ann);
        assert!(!versions.contains(&version), "a deletion counts, too");
        versions.push(version);
    }
    json_of(world.patched(&ann, patch(json!([append("mark")]))));
    let version = world.version(&ann);
    assert!(!versions.contains(&version));
    // A patch without effect, and an update that stays pending.
    json_of(world.patched(&ann, patch(json!([]))));
    let late = Editor::new(3);
    late.append("body", "never-sent");
    world.update(&ann, "w", &late.append("body", "waits"));
    world.settle();
    ann.take();
    assert_eq!(world.version(&ann), version);

    // A snapshot, an unload, another server.
    for n in 0..20 {
        world.update(&ann, "w", &Editor::new(10 + n).append("body", "more"));
        world.settle();
    }
    ann.take();
    let version = world.version(&ann);
    world.leave(&ann);
    world.unload();
    assert!(world.metric("meshagent_snapshots_total") > 0);
    let bob = world.join("bob");
    assert_eq!(world.version(&bob), version);
    let mut other = World::new();
    other.store = world.store;
    let eve = other.join("eve");
    assert_eq!(other.version(&eve), version);
}

#[test]
fn describe_shows_what_is_asked_for() {
    let (mut world, ann) = world();
    let mut ask = |more: Value| {
        let mut input = json!({ "path": PATH });
        input
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        json_of(world.call(&ann, "sync", "describe", input))
    };
    let bare = ask(json!({}));
    assert!(bare.get("document").is_some() && !bare.to_string().contains("$id"));
    let with_ids = ask(json!({ "include_ids": true }));
    assert_eq!(with_ids["document"]["content"][0]["body"]["$id"], "one");
    let full = ask(json!({ "with_version": true, "with_schema": true }));
    assert_eq!(full["json"], bare);
    assert!(full["version"].is_string());
    assert!(
        full["schema"]["properties"]["document"].is_object(),
        "{full}"
    );
    assert!(ask(json!({ "with_schema": true })).get("version").is_none());
}

#[test]
fn what_waits_for_the_servers_next_operations_is_not_let_in_by_a_patch() {
    let (mut world, ann) = world();
    json_of(world.patched(&ann, patch(json!([append("mark")]))));
    let reader = world.join("reader");
    let mut updates = vec![world.open(&reader, "r", json!({ "path": PATH }))];
    // With the replica's client id, an update can be made that waits for its next operations.
    let stored = world.stored();
    let run = stored.updates.last().unwrap().contributions[0].operations[0];
    let waiting = waiting_delete(run.client, run.end);
    world.update(&ann, "w", &waiting);
    world.settle();
    json_of(world.patched(&ann, patch(json!([append("second")]))));
    updates.extend(reader.changes("r"));
    let version = world.version(&ann);
    let shown = super::shown(&updates).to_string();
    assert!(shown.contains("second"), "{shown}");
    world.leave(&ann);
    world.leave(&reader);
    world.unload();
    let bob = world.join("bob");
    assert_eq!(world.version(&bob), version);
    assert_eq!(world.shows(&bob, "second"), 1);
}

/// An update that deletes operations of a client that have not arrived yet.
fn waiting_delete(client: u64, clock: u64) -> Vec<u8> {
    let mut update = vec![0, 1];
    for mut number in [client, 1, clock, 40] {
        while number > 127 {
            update.push((number & 127) as u8 | 128);
            number >>= 7;
        }
        update.push((number & 127) as u8);
    }
    update
}

#[test]
fn who_patches_while_a_document_is_read_again_is_answered_then() {
    let (mut world, ann) = world();
    world.update(&ann, "w", &Editor::new(2).append("body", "lost"));
    world.run();
    world.held = None;
    let failed = StoreError::Full("full".into());
    world
        .room
        .handle_committed(Err(Arc::new(failed)), world.now);
    let answer = world.patched(&ann, patch(json!([append("mark")])));
    json_of(answer);
    assert_eq!(
        (world.shows(&ann, "mark"), world.shows(&ann, "lost")),
        (1, 0)
    );
}

/// The pending element is placed behind the operation with which the server's next patch begins.
#[test]
fn what_a_patch_wakes_is_repaired_in_the_same_chunk() {
    use yrs::updates::decoder::Decode as _;
    use yrs::{ReadTxn as _, Transact as _, Update};

    for operations in [
        json!([append("eins")]),
        json!([append("eins"), append("zwei – 二"), append("drei 🌿")]),
    ] {
        let (mut world, ann) = world();
        let (mallory, reader) = (world.join("mallory"), world.join("reader"));
        let state = world.open(&mallory, "m", json!({ "path": PATH }));
        let mut seen = vec![world.open(&reader, "r", json!({ "path": PATH }))];
        let client = world.room.documents.iter().next().unwrap();
        let client = client.replica.client_id();
        let (server, forger) = (Editor::new(client), Editor::new(5));
        let take = |editor: &Editor, update: &[u8]| {
            let update = Update::decode_v1(update).unwrap();
            editor.doc.transact_mut().apply_update(update).unwrap();
        };
        take(&server, &state);
        server.append("body", "vorhergesagt");
        let whole = server.doc.transact();
        take(
            &forger,
            &whole.encode_state_as_update_v1(&yrs::StateVector::default()),
        );
        drop(whole);
        let update = forger.append("verboten", "geweckt");
        let id = world.update(&mallory, "m", &update);
        world.settle();
        let waits = json_of(mallory.answer(id));
        assert_eq!(waits["pending"], true, "{waits}");

        let answer = world.patched(&ann, patch(operations.clone()));
        assert!(matches!(answer, Content::Json(_)), "{answer:?}");
        let changes = reader.changes("r");
        assert!(!changes.is_empty());
        for change in changes {
            seen.push(change);
            let shown = super::shown(&seen).to_string();
            assert!(!shown.contains("verboten"), "{operations}: {shown}");
        }
        assert_eq!(world.shows(&ann, "geweckt"), 0);
        assert_eq!(world.shows(&ann, "eins"), 1);
        let late = world.join("late");
        let state = world.open(&late, "l", json!({ "path": PATH }));
        assert_eq!(super::shown(&[state]), super::shown(&seen));
    }
}

/// The cost does not depend on the size of the document: no copy of it is made.
#[test]
fn a_patch_that_moves_or_copies_costs_what_it_touches() {
    let (mut world, ann) = world();
    let many: Vec<Value> = (0..50)
        .map(|number| append(&format!("é{number}")))
        .collect();
    json_of(world.patched(&ann, patch(many.into())));
    let encodings = |world: &World| world.metric("meshagent_state_encodings_total");
    let before = encodings(&world);
    for operation in [
        json!({ "op": "move", "from": "/document/content/40", "path": "/document/content/0" }),
        json!({ "op": "copy", "from": "/document/content/40", "path": "/document/content/-" }),
    ] {
        for dry_run in [true, false] {
            let mut input = patch(json!([operation]));
            input["dry_run"] = dry_run.into();
            let answer = json_of(world.patched(&ann, input));
            assert_eq!(answer["operations"][0]["result"], "applied", "{answer}");
        }
    }
    assert_eq!(encodings(&world), before);
    assert_eq!(world.shows(&ann, "é39"), 1);
}

#[test]
fn neighbours_that_a_patch_deletes_go_in_one_change() {
    let (mut world, ann) = world();
    let many: Vec<Value> = (0..500).map(|_| append("é")).collect();
    json_of(world.patched(&ann, patch(many.into())));
    let reader = world.join("reader");
    let mut seen = vec![world.open(&reader, "r", json!({ "path": PATH }))];
    let all = json!([{ "op": "replace", "path": "/document/content", "value": [] }]);
    let id = world.invoke(&ann, "sync", "patch", patch(all));
    assert_eq!(world.room.staged.len(), 1);
    world.settle();
    json_of(ann.answer(id));
    let changes = reader.changes("r");
    assert_eq!(changes.len(), 1);
    seen.extend(changes);
    assert_eq!(super::shown(&seen)["document"]["content"], json!([]));
}
