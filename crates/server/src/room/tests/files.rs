//! Toolkit `storage`: files and folders, and the effects of deletions and moves on open documents.

use meshagent_protocol::ServerToClient;
use serde_json::{Value, json};

use super::{Bytes, Client, Content, Control, World, code, events, invoke};

pub(super) fn upload(
    world: &mut World,
    client: &Client,
    path: &str,
    data: &'static [u8],
    overwrite: bool,
) -> Vec<Content> {
    let open = invoke("storage", "upload", Content::Control(Control::Open), path);
    world.send(client, open);
    let headers = |json: Value| json.as_object().unwrap().clone();
    let start = headers(
        json!({ "kind": "start", "path": path, "overwrite": overwrite, "size": data.len(), "mime_type": "text/plain" }),
    );
    world.chunk(
        client,
        path,
        Content::Binary {
            headers: start,
            data: Bytes::new(),
        },
    );
    if !data.is_empty() {
        let data = Content::Binary {
            headers: headers(json!({ "kind": "data" })),
            data: Bytes::from_static(data),
        };
        world.chunk(client, path, data);
    }
    world.chunk(client, path, Content::Control(Control::close()));
    world.settle();
    client.chunks(path)
}

fn download(world: &mut World, client: &Client, path: &str) -> Vec<Content> {
    let open = invoke(
        "storage",
        "download",
        Content::Control(Control::Open),
        "download",
    );
    world.send(client, open);
    let headers = json!({ "kind": "start", "path": path, "chunk_size": 4 })
        .as_object()
        .unwrap()
        .clone();
    world.chunk(
        client,
        "download",
        Content::Binary {
            headers,
            data: Bytes::new(),
        },
    );
    world.settle();
    let mut chunks = client.chunks("download");
    while !matches!(
        chunks.last(),
        Some(Content::Control(_) | Content::Error { .. })
    ) {
        let headers = json!({ "kind": "pull" }).as_object().unwrap().clone();
        world.chunk(
            client,
            "download",
            Content::Binary {
                headers,
                data: Bytes::new(),
            },
        );
        world.run();
        chunks.extend(client.chunks("download"));
    }
    chunks
}

#[test]
fn a_file_goes_in_and_comes_out() {
    let mut world = World::new();
    let client = world.join("client");
    let chunks = upload(&mut world, &client, "notes/a b.txt", b"hello world", false);
    assert!(matches!(&chunks[0], Content::Binary { headers, .. } if headers["kind"] == "pull"));
    assert!(matches!(
        chunks.last(),
        Some(Content::Control(Control::Close {
            status_code: 1000,
            ..
        }))
    ));

    let chunks = download(&mut world, &client, "notes/a b.txt");
    let data: Vec<u8> = chunks
        .iter()
        .filter_map(|chunk| match chunk {
            Content::Binary { headers, data } if headers["kind"] == "data" => Some(data.to_vec()),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(data, b"hello world");
    assert!(
        matches!(&chunks[0], Content::Binary { headers, .. } if headers["size"] == 11 && headers["mime_type"] == "text/plain")
    );

    let again = upload(&mut world, &client, "notes/a b.txt", b"x", false);
    assert_eq!(code(again.last().unwrap()), Some(3005));
    upload(&mut world, &client, "notes/a b.txt", b"", true);
    let listed = world.call(&client, "storage", "list", json!({ "path": "notes" }));
    let Content::Json(listed) = listed else {
        panic!("{listed:?}")
    };
    assert_eq!(
        (&listed["files"][0]["name"], &listed["files"][0]["size"]),
        (&json!("a b.txt"), &json!(0))
    );
    let missing = download(&mut world, &client, "nothing");
    assert_eq!(code(&missing[0]), Some(3001));
}

#[test]
fn deleting_and_moving_a_document_ends_its_streams_with_a_close() {
    let mut world = World::new();
    let (client, other) = (world.join("client"), world.join("other"));
    world.open(&client, "one", json!({ "path": "docs/one.document" }));
    world.open(&other, "two", json!({ "path": "docs/two.document" }));
    client.take();
    other.take();

    let moved = world.call(
        &client,
        "storage",
        "move",
        json!({ "source_path": "docs/one.document", "destination_path": "docs/three.document" }),
    );
    assert_eq!(moved, Content::Empty);
    // The client's own answer was taken. The end of the stream was sent before it.
    let update = world.update(
        &client,
        "one",
        &super::Editor::new(1).append("body", "late"),
    );
    world.settle();
    assert_eq!(code(&client.answer(update)), Some(1006), "the call is over");
    let exists = |world: &mut World, path: &str| {
        world.call(&client, "storage", "exists", json!({ "path": path }))
            == Content::Json(json!({ "exists": true }))
    };
    assert!(!exists(&mut world, "docs/one.document") && exists(&mut world, "docs/three.document"));

    let needs_flag = world.call(
        &client,
        "storage",
        "delete",
        json!({ "path": "docs", "recursive": null }),
    );
    assert_eq!(code(&needs_flag), Some(3002));
    let deleted = world.call(
        &client,
        "storage",
        "delete",
        json!({ "path": "docs", "recursive": true }),
    );
    assert_eq!(deleted, Content::Empty);
    let seen = other.take();
    let closed = seen.iter().any(|seen| matches!(seen, super::Seen::Chunk(call, Content::Control(Control::Close { .. })) if call == "two"));
    assert!(closed, "{seen:?}");
    let deletions = seen
        .iter()
        .filter(|seen| matches!(seen, super::Seen::Other(ServerToClient::FileDeleted { .. })));
    assert_eq!(deletions.count(), 3, "two documents and the folder");
    assert!(!exists(&mut world, "docs"));
}

#[test]
fn everybody_hears_of_changes_the_author_too() {
    let mut world = World::new();
    let (author, other) = (world.join("author"), world.join("other"));
    world.call(&author, "sync", "create", json!({ "path": "a.document" }));
    let id = world.invoke(
        &author,
        "storage",
        "delete",
        json!({ "path": "a.document" }),
    );
    world.settle();
    let heard = events(&other);
    assert!(
        matches!(&heard[0], ServerToClient::FileUpdated { path, participant_id } if path == "a.document" && *participant_id == author.id)
    );
    assert!(matches!(&heard[1], ServerToClient::FileDeleted { path, .. } if path == "a.document"));
    let own = author.take();
    assert!(
        own.iter()
            .any(|seen| matches!(seen, super::Seen::Answer(to, Content::Empty) if *to == id))
    );
    assert!(
        own.iter()
            .any(|seen| matches!(seen, super::Seen::Other(ServerToClient::FileDeleted { .. })))
    );
}

#[test]
fn paths_that_lead_out_are_refused() {
    let mut world = World::new();
    let client = world.join("client");
    let long = "x".repeat(1025);
    for path in ["../up", "a/../b", "a\u{0}b", "a\u{1b}b", long.as_str()] {
        let answer = world.call(&client, "storage", "exists", json!({ "path": path }));
        assert!(
            matches!(code(&answer), Some(1002 | 3004)),
            "{path:?}: {answer:?}"
        );
        let answer = world.call(&client, "sync", "describe", json!({ "path": path }));
        assert!(
            matches!(code(&answer), Some(1002 | 3004)),
            "{path:?}: {answer:?}"
        );
    }
}

#[test]
fn an_upload_beyond_the_limit_is_refused_and_leaves_nothing() {
    let mut config = crate::config::Config::default();
    config.limits.max_file_bytes = 4;
    let mut world = World::with_config(config);
    let client = world.join("client");
    let chunks = upload(&mut world, &client, "big", b"12345", false);
    assert_eq!(code(&chunks[0]), Some(1002));
    let exists = world.call(&client, "storage", "exists", json!({ "path": "big" }));
    assert_eq!(exists, Content::Json(json!({ "exists": false })));
}

#[test]
fn a_document_is_no_file_to_download_whether_it_is_in_memory_or_not() {
    let mut world = World::new();
    let client = world.join("client");
    world.open(&client, "one", json!({ "path": "one.document" }));
    let open = download(&mut world, &client, "one.document");
    assert_eq!(code(&open[0]), Some(1002), "{open:?}");
    world.chunk(&client, "one", Content::Control(Control::close()));
    world.unload();
    let stored = download(&mut world, &client, "one.document");
    assert_eq!(code(&stored[0]), Some(1002), "{stored:?}");
}
