//! The gate for inbound updates: echoes, grants, gaps, and bytes that are not an update.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshagent_document::{MeshDocument, MeshSchema};
use meshagent_protocol::ApiScope;
use meshagent_store::{Store as _, Write};
use serde_json::json;

use super::{Bytes, Content, Editor, World, code, count, sync_chunk, text};

fn read_only() -> ApiScope {
    ApiScope::from_json(&json!({ "sync": { "paths": [{ "path": "*", "read_only": true }] } }))
        .unwrap()
}

#[test]
fn an_echo_is_acknowledged_and_goes_nowhere() {
    let mut world = World::new();
    let clients: Vec<_> = (0..5).map(|n| world.join(&format!("client{n}"))).collect();
    for client in &clients {
        world.open(client, "s", json!({ "path": "a.document" }));
    }
    world.update(&clients[0], "s", &Editor::new(1).append("body", "one"));
    world.settle();
    let commits = world.store.commits();

    // Each of the others sends back the change that it received.
    for client in &clients[1..] {
        let received = client.changes("s");
        assert_eq!(received.len(), 1);
        let echo = world.update(client, "s", &received[0]);
        world.settle();
        assert_eq!(client.answer(echo), Content::Empty);
    }
    assert_eq!(
        world.store.commits(),
        commits,
        "nothing was written for the echoes"
    );
    assert_eq!(world.metric("meshagent_broadcasts_total"), 1);
    assert_eq!(world.metric("meshagent_updates_total{outcome=\"echo\"}"), 4);
    assert!(
        clients[0].chunks("s").is_empty(),
        "the author is not sent its own change"
    );
}

#[test]
fn a_read_only_participant_may_echo_but_not_write() {
    let mut world = World::new();
    let writer = world.join("writer");
    world.open(&writer, "w", json!({ "path": "a.document" }));
    world.update(&writer, "w", &Editor::new(1).append("body", "one"));
    world.settle();

    let reader = world.join_with("reader", read_only());
    let state = world.open(&reader, "r", json!({ "path": "a.document" }));
    let echo = world.update(&reader, "r", &state);
    world.settle();
    assert_eq!(reader.answer(echo), Content::Empty);

    let own = Editor::new(2);
    let write = world.update(&reader, "r", &own.append("body", "two"));
    world.settle();
    assert_eq!(code(&reader.answer(write)), Some(1001));
    // An update that builds on the refused one is refused as well, gap or not, and nothing of it is
    // kept.
    let later = world.update(&reader, "r", &own.append("body", "three"));
    world.settle();
    assert_eq!(code(&reader.answer(later)), Some(1001));

    let late = world.join("late");
    let state = world.open(&late, "l", json!({ "path": "a.document" }));
    assert_eq!(
        ["one", "two", "three"].map(|id| count(std::slice::from_ref(&state), id)),
        [1, 0, 0]
    );
}

#[test]
fn a_gap_is_kept_and_shown_when_the_missing_part_arrives() {
    let mut world = World::new();
    let (offline, reader) = (world.join("offline"), world.join("reader"));
    world.open(&offline, "o", json!({ "path": "a.document" }));
    world.open(&reader, "r", json!({ "path": "a.document" }));
    let editor = Editor::new(1);
    let (first, second) = (editor.append("body", "one"), editor.append("body", "two"));

    let gap = world.update(&offline, "o", &second);
    world.settle();
    match offline.answer(gap) {
        Content::Json(json) => assert_eq!(json["pending"], true),
        other => panic!(
            "expected a json content, which no published client takes for a failure: {other:?}"
        ),
    }
    assert!(reader.take().is_empty(), "shown to nobody");

    // The pending update outlives the document's time in memory.
    world.leave(&offline);
    world.leave(&reader);
    world.pass_seconds(40);
    assert_eq!(world.metric("meshagent_documents"), 0);

    let (back, reader) = (world.join("back"), world.join("reader"));
    let state = world.open(&reader, "r", json!({ "path": "a.document" }));
    assert_eq!(count(std::slice::from_ref(&state), "two"), 0);
    world.open(&back, "b", json!({ "path": "a.document" }));
    let missing = world.update(&back, "b", &first);
    world.settle();
    let mut own = back.take();
    assert!(
        own.iter()
            .any(|seen| matches!(seen, super::Seen::Answer(id, Content::Empty) if *id == missing))
    );
    let mut updates = vec![state];
    updates.extend(reader.changes("r"));
    assert_eq!((count(&updates, "one"), count(&updates, "two")), (1, 1));
    // The sender of the missing part has not seen what was pending for it.
    own.retain(|seen| matches!(seen, super::Seen::Chunk(..)));
    assert_eq!(own.len(), 1);
}

/// A replica of the schema for `.document`, which reports violations.
struct Judge(MeshDocument);

impl Judge {
    fn new(state: &[u8]) -> Self {
        let mut judge = Self(MeshDocument::new(
            MeshSchema::builtin("document").unwrap(),
            77,
        ));
        judge.sees(state);
        judge
    }

    fn sees(&mut self, update: &[u8]) {
        self.0.apply_update(update).unwrap();
        assert_eq!(self.0.violations(), []);
    }
}

#[test]
fn what_breaks_the_schema_is_taken_out_in_the_same_step() {
    let mut world = World::new();
    let (writer, reader) = (world.join("writer"), world.join("reader"));
    world.open(&writer, "w", json!({ "path": "a.document" }));
    let mut judge = Judge::new(&world.open(&reader, "r", json!({ "path": "a.document" })));
    let editor = Editor::new(1);
    let mut own: Vec<Vec<u8>> = Vec::new();
    let mut send = |world: &mut World, update: Vec<u8>| {
        let id = world.update(&writer, "w", &update);
        own.push(update);
        world.settle();
        let seen = writer.take();
        for seen in &seen {
            if let super::Seen::Chunk(_, Content::Binary { data, .. }) = seen {
                own.push(STANDARD.decode(data).unwrap());
            }
        }
        let answer = seen.into_iter().find_map(|seen| match seen {
            super::Seen::Answer(request, content) if request == id => Some(content),
            _ => None,
        });
        (answer.unwrap(), super::shown(&own))
    };

    let (answer, _) = send(&mut world, editor.append("body", "one"));
    assert_eq!(answer, Content::Empty);
    judge.sees(&reader.changes("r")[0]);
    for (update, pointer) in [
        (
            editor.append("nonsense", "two"),
            "/document/content/1/nonsense",
        ),
        (editor.append("body", "one"), "/document/content/1/body"),
        (
            editor.set_first("nonsense", "x"),
            "/document/content/0/body/nonsense",
        ),
    ] {
        let (answer, shown) = send(&mut world, update);
        let Content::Json(answer) = answer else {
            panic!("expected a json content, which ends no published client's stream: {answer:?}");
        };
        assert_eq!(answer["violations"][0]["pointer"], pointer, "{answer}");
        assert_eq!(answer["violation_count"], 1);
        let changes = reader.changes("r");
        assert_eq!(changes.len(), 1, "one step");
        judge.sees(&changes[0]);
        assert_eq!(shown, judge.0.to_json(true), "the writer is brought back");
        assert_eq!(judge.0.element_count(), 1);
    }
    assert_eq!(
        world.metric("meshagent_updates_total{outcome=\"repaired\"}"),
        3
    );

    // The repaired state is on disk, and the writer can build on it.
    world.leave(&writer);
    world.leave(&reader);
    world.pass_seconds(40);
    assert_eq!(world.metric("meshagent_documents"), 0);
    let back = world.join("back");
    judge.sees(&world.open(&back, "b", json!({ "path": "a.document" })));
    let next = world.update(&back, "b", &editor.append("body", "three"));
    world.settle();
    assert_eq!(back.answer(next), Content::Empty);
}

#[test]
fn a_stored_document_that_breaks_its_schema_is_repaired_before_it_is_seen() {
    let mut world = World::new();
    let client = world.join("client");
    world.open(&client, "c", json!({ "path": "a.document" }));
    let editor = Editor::new(1);
    world.update(&client, "c", &editor.append("body", "one"));
    world.settle();
    world.leave(&client);
    world.pass_seconds(40);
    // Append as a server with fewer checks would have done.
    let room = meshagent_store::RoomId::new("project", "room");
    let stored = world.store.load(&room, "a.document").unwrap().unwrap();
    let write = Write::Append {
        document: stored.document,
        end: None,
        update: editor.append("nonsense", "two").into(),
        contributions: Vec::new(),
        at: world.now,
    };
    world.store.commit(&[write]).unwrap();

    let commits = world.store.commits();
    let reader = world.join("reader");
    let mut judge = Judge::new(&world.open(&reader, "r", json!({ "path": "a.document" })));
    assert_eq!(judge.0.element_count(), 1);
    assert_eq!(world.store.commits(), commits + 1, "the repair is on disk");
    world.update(&reader, "r", &Editor::new(2).append("body", "three"));
    world.settle();
    let other = world.join("other");
    judge.sees(&world.open(&other, "o", json!({ "path": "a.document" })));
    assert_eq!(judge.0.element_count(), 2);
}

#[test]
fn what_waits_for_a_missing_update_has_a_bound() {
    let mut config = crate::config::Config::default();
    config.limits.max_pending_bytes = 1_600;
    let mut world = World::with_config(config);
    let client = world.join("client");
    world.open(&client, "c", json!({ "path": "a.document" }));
    let editor = Editor::new(1);
    let missing = editor.append("body", "missing");
    let mut answers = Vec::new();
    for n in 0..20 {
        let id = world.update(&client, "c", &editor.append("body", &format!("n{n}")));
        world.settle();
        answers.push(code(&client.answer(id)));
    }
    let kept = answers.iter().take_while(|code| code.is_none()).count();
    assert!((2..10).contains(&kept), "{answers:?}");
    assert!(
        answers[kept..].iter().all(|code| *code == Some(1005)),
        "{answers:?}"
    );

    // An update without a gap makes no space for those with one.
    world.update(&client, "c", &Editor::new(3).append("body", "fits"));
    let more = world.update(&client, "c", &editor.append("body", "more"));
    world.settle();
    assert_eq!(code(&client.answer(more)), Some(1005));

    // The pending updates become visible, and there is space again.
    world.update(&client, "c", &missing);
    let next = world.update(&client, "c", &Editor::new(2).append("body", "next"));
    world.settle();
    assert_eq!(client.answer(next), Content::Empty);
    let other = world.join("other");
    let state = world.open(&other, "o", json!({ "path": "a.document" }));
    let elements = super::shown(&[state])["document"]["content"]
        .as_array()
        .unwrap()
        .len();
    assert_eq!(elements, kept + 3);
}

#[test]
fn bytes_that_are_no_update_change_nothing() {
    let mut world = World::new();
    let client = world.join("client");
    let before = world.open(&client, "c", json!({ "path": "a.document" }));
    let commits = world.store.commits();
    let payloads: [&'static [u8]; 5] = [
        b"some bytes",
        b"!!!!",
        b"AAEC",
        b"AQ==",
        b"//////////8PAA==",
    ];
    for payload in payloads {
        let id = world.chunk(&client, "c", sync_chunk(Bytes::from_static(payload)));
        world.settle();
        assert_eq!(code(&client.answer(id)), Some(1002), "{payload:?}");
    }
    let empty = world.chunk(&client, "c", sync_chunk(Bytes::new()));
    assert_eq!(client.answer(empty), Content::Empty, "no bytes are a no-op");
    assert_eq!(world.store.commits(), commits);
    let other = world.join("other");
    assert_eq!(
        world.open(&other, "o", json!({ "path": "a.document" })),
        before
    );
}

#[test]
fn requests_that_fit_nothing_cost_only_themselves() {
    let mut world = World::new();
    let client = world.join("client");
    world.open(&client, "c", json!({ "path": "a.document" }));

    let unknown = world.invoke(&client, "sync", "explode", json!({}));
    assert_eq!(code(&client.answer(unknown)), Some(1003));
    let unknown = world.invoke(&client, "queues", "list", json!({}));
    assert_eq!(code(&client.answer(unknown)), Some(1003));
    let not_streamed = world.invoke(&client, "sync", "open", json!({ "path": "a.document" }));
    assert_eq!(code(&client.answer(not_streamed)), Some(1002));
    let no_call = world.update(&client, "nobody", b"");
    assert_eq!(code(&client.answer(no_call)), Some(1006));
    let second_start = world.begin_open(&client, "c", json!({ "path": "b.document" }));
    let answers = client.take();
    let refused = answers.iter().filter(
        |seen| matches!(seen, super::Seen::Answer(_, content) if code(content) == Some(1002)),
    );
    assert_eq!(
        refused.count(),
        2,
        "the duplicate call and the second start: {answers:?}, {second_start}"
    );

    // The first call continues.
    let update = world.update(&client, "c", &Editor::new(1).append("body", "one"));
    world.settle();
    assert_eq!(client.answer(update), Content::Empty);
}

#[test]
fn grants_decide_over_paths() {
    let mut world = World::new();
    let scope = ApiScope::from_json(&json!({ "sync": { "paths": [
        { "path": "notes/read*", "read_only": true },
        { "path": "notes/*" },
    ] } }));
    let client = world.join_with("client", scope.unwrap());
    let describe = world.call(&client, "sync", "describe", json!({ "path": "other" }));
    assert_eq!(code(&describe), Some(1001));
    let create = world.call(
        &client,
        "sync",
        "create",
        json!({ "path": "notes/read-me", "json": { "a": 1 } }),
    );
    assert_eq!(code(&create), Some(1001));
    assert!(text(&create).contains("read-only"));
    let create = world.call(
        &client,
        "sync",
        "create",
        json!({ "path": "notes/mine", "json": { "a": 1 } }),
    );
    assert_eq!(create, Content::Empty);
    world.begin_open(&client, "c", json!({ "path": "notes/read-me" }));
    world.settle();
    assert_eq!(
        code(&client.chunks("c")[0]),
        Some(1001),
        "an open that may not create says so"
    );

    let nobody = world.join_with("nobody", ApiScope::default());
    for (toolkit, tool) in [
        ("sync", "describe"),
        ("storage", "exists"),
        ("messaging", "enable"),
    ] {
        let answer = world.call(&nobody, toolkit, tool, json!({ "path": "notes/mine" }));
        assert_eq!(code(&answer), Some(1001), "{toolkit}.{tool}");
    }
}

#[test]
fn documents_have_bounds_that_an_update_does_not_cross() {
    let mut config = crate::config::Config::default();
    config.limits.max_document_elements = 3;
    let mut world = World::with_config(config);
    let (client, reader) = (world.join("client"), world.join("reader"));
    world.open(&client, "c", json!({ "path": "a.document" }));
    world.open(&reader, "r", json!({ "path": "a.document" }));
    let editor = Editor::new(1);
    for name in ["one", "two", "three"] {
        let id = world.update(&client, "c", &editor.append("body", name));
        world.settle();
        assert_eq!(client.answer(id), Content::Empty);
    }
    reader.take();
    let id = world.update(&client, "c", &editor.append("body", "four"));
    world.settle();
    let answer = client.answer(id);
    assert_eq!(code(&answer), Some(1002));
    assert!(text(&answer).contains("limited to 3"), "{answer:?}");
    assert!(reader.take().is_empty());
    let created = world.call(
        &client,
        "sync",
        "create",
        json!({ "path": "b.document", "json": { "document": { "content": [
            { "body": {} }, { "body": {} }, { "body": {} }, { "body": {} },
        ] } } }),
    );
    assert_eq!(code(&created), Some(1002));
    assert!(text(&created).contains("limited to 3"), "{created:?}");
}
