//! Clients that have what the server lacks, and what a close reports about lost updates.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshagent_protocol::{ApiScope, Content, Control, ServerToClient};
use meshagent_store::Fault;
use serde_json::json;
use yrs::updates::encoder::Encode as _;
use yrs::{ReadTxn as _, Transact as _};

use super::{Client, Editor, Seen, World, code, count, text};
use crate::config::Config;

const PATH: &str = "späť.document";
const AHEAD: &str = "meshagent_clients_ahead_total";

fn vector(editor: &Editor) -> String {
    STANDARD.encode(editor.doc.transact().state_vector().encode_v1())
}

/// The statuses that a client received, in order.
fn statuses(seen: &[Seen]) -> Vec<&str> {
    let statuses = seen.iter().filter_map(|seen| match seen {
        Seen::Other(ServerToClient::RoomStatus { status, message }) => {
            assert!(message.contains(PATH), "{message}");
            Some(&status[..])
        }
        _ => None,
    });
    statuses.collect()
}

#[test]
fn a_refused_open_creates_nothing() {
    let mut world = World::new();
    let client = world.join("client");
    // The last one claims 2³²−1 entries.
    let long = STANDARD.encode([0xff, 0xff, 0xff, 0xff, 0x0f]);
    let bad = ["AQ==", "AAAA", "/////w8=", long.as_str()];
    for (at, vector) in bad.into_iter().enumerate() {
        let (path, call) = (format!("ñ{at}.document"), format!("c{at}"));
        world.begin_open(&client, &call, json!({ "path": path, "vector": vector }));
        world.settle();
        assert_eq!(code(&client.chunks(&call)[0]), Some(1002), "{vector}");
        let exists = world.call(&client, "storage", "exists", json!({ "path": path }));
        assert_eq!(
            exists,
            Content::Json(json!({ "exists": false })),
            "{vector}"
        );
    }
    assert_eq!(world.store.commits(), 0);
    assert_eq!(world.metric("meshagent_documents"), 0);
}

#[test]
fn an_open_that_is_ahead_of_the_document_says_so() {
    let mut world = World::new();
    let client = world.join("client");
    let editor = Editor::new(1);
    let first = editor.append("body", "one");
    world.open(&client, "c", json!({ "path": PATH }));
    world.update(&client, "c", &first);
    world.settle();
    let before = vector(&editor);
    let second = editor.append("body", "two");

    let back = world.join("back");
    let start = json!({ "path": PATH, "vector": before });
    let id = world.begin_open(&back, "b", start);
    world.settle();
    let seen = back.take();
    assert!(statuses(&seen).is_empty(), "it has what is here");
    assert!(
        seen.iter()
            .any(|seen| matches!(seen, Seen::Answer(answered, Content::Empty) if *answered == id))
    );

    let ahead = world.join("ahead");
    let id = world.begin_open(
        &ahead,
        "a",
        json!({ "path": PATH, "vector": vector(&editor) }),
    );
    world.settle();
    let seen = ahead.take();
    assert_eq!(statuses(&seen), ["ahead"]);
    let answer = seen.iter().find_map(|seen| match seen {
        Seen::Answer(answered, Content::Json(json)) if *answered == id => Some(json),
        _ => None,
    });
    let answer = answer.expect("a json content, which no published client takes for a failure");
    assert_eq!(
        (&answer["ahead"], &answer["state_vector"]),
        (&json!(2), &json!(before))
    );
    assert_eq!(world.metric(AHEAD), 1);

    // The status is sent once for each stream, and by now the client has sent what was missing.
    let id = world.update(&ahead, "a", &second);
    world.settle();
    assert_eq!(ahead.answer(id), Content::Empty);
    assert_eq!(world.metric(AHEAD), 1);
}

/// This is the case after a restore from a backup that is older than the document.
#[test]
fn an_open_of_a_document_that_is_missing_says_so() {
    let mut world = World::new();
    let editor = Editor::new(1);
    editor.append("body", "größe");
    for (name, vector, ahead) in [
        ("ahead", vector(&editor), 1),
        ("fresh", vector(&Editor::new(2)), 0),
    ] {
        let client = world.join(name);
        let before = world.metric(AHEAD);
        let start = json!({ "path": PATH, "vector": vector, "create": false });
        world.begin_open(&client, "c", start);
        world.settle();
        let seen = client.take();
        assert_eq!(statuses(&seen).len(), ahead, "{name}");
        assert_eq!(world.metric(AHEAD) - before, ahead as u64, "{name}");
        let is_refused =
            |seen: &Seen| matches!(seen, Seen::Answer(_, content) if code(content) == Some(1003));
        assert!(seen.iter().any(is_refused), "{name}: {seen:?}");
    }
}

/// Our own client opens a document again after its stream ended.
#[test]
fn a_document_that_was_deleted_or_moved_is_not_taken_for_one_that_a_restore_lost() {
    for tool in ["delete", "move"] {
        let mut world = World::new();
        let client = world.join("client");
        world.open(&client, "c", json!({ "path": PATH }));
        let editor = Editor::new(1);
        world.update(&client, "c", &editor.append("body", "größe"));
        world.settle();
        let input = match tool {
            "delete" => json!({ "path": PATH, "recursive": false }),
            _ => {
                json!({ "source_path": PATH, "destination_path": "wo/anders", "overwrite": false })
            }
        };
        let answer = world.call(&client, "storage", tool, input);
        assert_eq!(answer, Content::Empty, "{tool}");
        client.take();
        let start = json!({ "path": PATH, "vector": vector(&editor), "create": false });
        world.begin_open(&client, "d", start);
        world.settle();
        assert_eq!(statuses(&client.take()), Vec::<String>::new(), "{tool}");
        assert_eq!(world.metric(AHEAD), 0, "{tool}");
    }
}

#[test]
fn the_first_gap_of_a_stream_says_so() {
    let mut world = World::new();
    let client = world.join("client");
    world.open(&client, "c", json!({ "path": PATH }));
    let editor = Editor::new(1);
    let missing = editor.append("body", "missing");
    for id in ["two", "three"] {
        world.update(&client, "c", &editor.append("body", id));
        world.settle();
    }
    assert_eq!(statuses(&client.take()), ["ahead"]);
    assert_eq!(world.metric(AHEAD), 1);
    assert_eq!(world.metric("meshagent_updates_total{outcome=\"gap\"}"), 2);
    let id = world.update(&client, "c", &missing);
    world.settle();
    assert_eq!(client.answer(id), Content::Empty);
}

/// Published clients look at nothing else, and may be gone when an answer arrives.
#[test]
fn a_close_comes_when_all_that_was_sent_before_it_is_on_disk_or_refused() {
    for (what, status) in [("kept", 1000), ("failed", 1007), ("moved", 1000)] {
        let mut world = World::new();
        let client = world.join("client");
        world.open(&client, "c", json!({ "path": PATH }));
        let commits = world.store.commits();
        match what {
            "failed" => world
                .store
                .fail_commits(commits..commits + 1, Fault::Unavailable),
            "moved" => {
                let input = json!({
                    "source_path": PATH, "destination_path": "wo/anders", "overwrite": false
                });
                world.invoke(&client, "storage", "move", input);
                world.run();
            }
            _ => {}
        }
        let editor = Editor::new(1);
        world.update(&client, "c", &editor.append("body", "größe – 極"));
        let closes =
            [(); 2].map(|()| world.chunk(&client, "c", Content::Control(Control::close())));
        let late = world.update(&client, "c", &editor.append("body", "zu spät"));
        if what == "moved" {
            // The document is moved; the update that was sent to it is in the next batch.
            world.commit();
        } else {
            world.run();
        }
        let seen = client.take();
        let is_close = |seen: &Seen| {
            matches!(
                seen,
                Seen::Chunk(_, Content::Control(Control::Close { .. }))
            )
        };
        assert!(!seen.iter().any(is_close), "{what}: {seen:?}");
        let is_refused = |seen: &Seen| matches!(seen, Seen::Answer(id, content) if *id == late && code(content).is_some());
        assert!(seen.iter().any(is_refused), "{what}: {seen:?}");
        world.settle();
        let rest = client.take();
        let ended = rest.iter().filter_map(|seen| match seen {
            Seen::Chunk(_, Content::Control(Control::Close { status_code, .. })) => {
                Some(*status_code)
            }
            _ => None,
        });
        assert_eq!(ended.collect::<Vec<_>>(), [status], "{what}: {rest:?}");
        let answered = |id: u64| {
            let mut all = seen.iter().chain(&rest);
            all.any(|seen| matches!(seen, Seen::Answer(answer, _) if *answer == id))
        };
        assert!(closes.into_iter().all(answered), "{what}: {rest:?}");
    }
}

/// Closes a call and returns the server's close.
fn close(world: &mut World, client: &Client, call: &str) -> (u16, String) {
    client.take();
    world.chunk(client, call, Content::Control(Control::close()));
    world.settle();
    match client.chunks(call).pop() {
        Some(Content::Control(Control::Close {
            status_code,
            message,
        })) => (status_code, message.unwrap_or_default()),
        other => panic!("expected a close, found {other:?}"),
    }
}

#[test]
fn a_close_says_what_was_not_kept() {
    let mut world = World::new();
    let client = world.join("client");
    let editor = Editor::new(1);
    world.open(&client, "kept", json!({ "path": PATH }));
    world.update(&client, "kept", &editor.append("body", "one"));
    world.settle();
    assert_eq!(close(&mut world, &client, "kept"), (1000, String::new()));

    world.open(&client, "broken", json!({ "path": PATH }));
    for name in ["größe", "weight"] {
        world.update(&client, "broken", &editor.set_first(name, "x"));
        world.settle();
    }
    let (status, message) = close(&mut world, &client, "broken");
    assert_eq!(status, 1007, "{message}");
    assert!(
        message.contains("/document/content/0/body/größe") && message.contains("(and 1 more)"),
        "{message}"
    );

    // The published CLI also writes the children of a new element as an attribute. Nothing is lost
    // with it.
    world.open(&client, "cli", json!({ "path": "a.thread" }));
    let child = Editor::new(3);
    world.update(&client, "cli", &child.append("messages", "m"));
    world.update(&client, "cli", &child.set_first("items", "[]"));
    world.settle();
    assert_eq!(close(&mut world, &client, "cli"), (1000, String::new()));
    let repaired = "meshagent_updates_total{outcome=\"repaired\"}";
    assert_eq!(world.metric(repaired), 3);

    // A client that takes merged changes reads the answers.
    world.open(&client, "ours", json!({ "path": PATH, "merge": true }));
    world.update(&client, "ours", &editor.set_first("colour", "x"));
    world.settle();
    assert_eq!(close(&mut world, &client, "ours").0, 1000);

    let scope = json!({ "sync": { "paths": [{ "path": "*", "read_only": true }] } });
    let reader = world.join_with("reader", ApiScope::from_json(&scope).unwrap());
    world.open(&reader, "r", json!({ "path": PATH }));
    world.update(&reader, "r", &Editor::new(2).append("body", "two"));
    world.settle();
    let (status, message) = close(&mut world, &reader, "r");
    assert!(status == 1007 && message.contains("read-only"), "{message}");
    assert_eq!(close_of_unknown(&mut world, &reader), Some(1006));
}

fn close_of_unknown(world: &mut World, client: &Client) -> Option<i64> {
    let id = world.chunk(client, "unknown", Content::Control(Control::close()));
    let answer = client.answer(id);
    assert!(text(&answer).contains("unknown"));
    code(&answer)
}

#[test]
fn the_servers_patches_have_one_client_id_which_nobody_else_has() {
    let mut world = World::new();
    let client = world.join("client");
    world.open(&client, "c", json!({ "path": PATH }));
    let patch = |world: &mut World, mark: String| {
        let value = json!({ "body": { "text": mark } });
        // With a copy operation, the patch is first tried on a copy of the document.
        let operations = json!([
            { "op": "add", "path": "/document/content/-", "value": value },
            { "op": "copy", "from": "/document/content/0", "path": "/document/content/-" },
        ]);
        let input = json!({ "path": PATH, "patch": operations });
        let answer = world.call(&client, "sync", "patch", input);
        assert!(matches!(answer, Content::Json(_)), "{answer:?}");
    };
    for number in 0..5 {
        patch(&mut world, format!("größer {number}"));
    }
    let late = world.join("late");
    let state = world.open(&late, "l", json!({ "path": PATH }));
    assert_eq!(state[0], 1, "operations of one client");
}

#[test]
fn client_of_a_document_with_many_clients_fills_a_gap_by_its_whole_state() {
    let mut config = Config::default();
    config.limits.max_document_bytes = 200 << 10;
    let mut world = World::with_config(config);
    let client = world.join("client");
    world.open(&client, "w", json!({ "path": "a.document" }));
    // Too many clients for the server to list their clocks.
    let updates: Vec<Vec<u8>> = (0..1_025)
        .map(|number| Editor::new(1_000 + number).append("body", &format!("é{number}")))
        .collect();
    let updates: Vec<&[u8]> = updates.iter().map(Vec::as_slice).collect();
    let state = meshagent_document::merge_updates(&updates).unwrap();
    let editor = Editor::new(1);
    editor.take(&state);
    let first = editor.append("body", "long");
    let long = editor.set_first("text", &"ö".repeat(45 << 10));
    for update in [state, first, long] {
        let id = world.update(&client, "w", &update);
        world.settle();
        assert_eq!(client.answer(id), Content::Empty);
    }
    let is_more_than_half = editor.state().len() > 100 << 10;
    assert!(is_more_than_half, "{}", editor.state().len());
    // This update is not sent, as if a restored server had lost it.
    editor.append("body", "lost");
    let id = world.update(&client, "w", &editor.append("body", "next"));
    world.settle();
    let Content::Json(answer) = client.answer(id) else {
        panic!("the answer lists what is missing");
    };
    assert_eq!(answer["pending"], true);
    assert_eq!(answer.get("state_vector"), None);
    let id = world.update(&client, "w", &editor.state());
    world.settle();
    assert_eq!(client.answer(id), Content::Empty);
    let reader = world.join("reader");
    let state = world.open(&reader, "r", json!({ "path": "a.document" }));
    for id in ["lost", "next"] {
        assert_eq!(count(std::slice::from_ref(&state), id), 1, "{id}");
    }
}
