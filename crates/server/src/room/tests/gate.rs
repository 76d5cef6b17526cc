//! The gate for inbound updates: echoes, grants, gaps, and bytes that are no update.

use meshagent_protocol::ApiScope;
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

    // Each of the others publishes what it received, and the whole state as after an open.
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
    // What builds on it is refused as well, gap or not, and nothing of it is kept.
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

    // It outlives the document's time in memory.
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
    // Who brought the missing part has not seen what waited for it.
    own.retain(|seen| matches!(seen, super::Seen::Chunk(..)));
    assert_eq!(own.len(), 1);
}

#[test]
fn what_waits_for_a_missing_update_has_a_bound() {
    let mut config = crate::config::Config::default();
    config.limits.max_pending_bytes = 200;
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

    // What was kept becomes visible, and there is room again.
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
    assert_eq!(elements, kept + 2);
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
    assert_eq!(code(&client.answer(no_call)), Some(1002));
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

    // The first call goes on.
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
