//! What grants allow: in each direction, for files, documents and folders with any names.

mod events;
mod many;
mod moves;
mod schemas;

use std::collections::BTreeMap;

use meshagent_protocol::{ApiScope, ClientToServer};
use meshagent_store::{EntryKind, RoomId, Store as _};
use serde_json::{Value, json};

use super::files::upload;
use super::{Client, Content, World, code, text};

/// A room with these documents and files, and a guest with the scope to be tested.
struct Guarded {
    world: World,
    owner: Client,
    guest: Client,
}

impl Guarded {
    fn new(scope: Value, documents: &[&str], files: &[&str]) -> Self {
        let mut world = World::new();
        let owner = world.join("owner");
        for path in documents {
            let content = json!({ "path": path, "json": { "at": path } });
            let created = world.call(&owner, "sync", "create", content);
            assert_eq!(created, Content::Empty, "{path}");
        }
        for path in files {
            upload(&mut world, &owner, path, b"data", false);
        }
        let guest = world.join_with("guest", scope_of(scope));
        owner.take();
        Self {
            world,
            owner,
            guest,
        }
    }

    fn call(&mut self, toolkit: &str, tool: &str, input: Value) -> Content {
        self.world.call(&self.guest, toolkit, tool, input)
    }

    fn rename(&mut self, source: &str, destination: &str, overwrite: bool) -> Content {
        let input = json!({
            "source_path": source, "destination_path": destination, "overwrite": overwrite
        });
        self.call("storage", "move", input)
    }

    fn delete(&mut self, path: &str, recursive: bool) -> Content {
        self.call(
            "storage",
            "delete",
            json!({ "path": path, "recursive": recursive }),
        )
    }

    /// All entries of the room, by path.
    fn tree(&self) -> BTreeMap<String, EntryKind> {
        let room = RoomId::new("project", "room");
        let (mut tree, mut folders) = (BTreeMap::new(), vec![String::new()]);
        while let Some(folder) = folders.pop() {
            for entry in self
                .world
                .store
                .list(&room, &folder, usize::MAX)
                .unwrap()
                .unwrap_or_default()
            {
                let path = match folder.as_str() {
                    "" => entry.name,
                    folder => format!("{folder}/{}", entry.name),
                };
                match entry.kind {
                    EntryKind::Folder => folders.push(path),
                    kind => {
                        tree.insert(path, kind);
                    }
                }
            }
        }
        tree
    }

    fn paths(&self) -> Vec<String> {
        self.tree().into_keys().collect()
    }
}

fn scope_of(scope: Value) -> ApiScope {
    ApiScope::from_json(&scope).unwrap()
}

/// Checks that a right was missing, and that the text contains all these names.
#[track_caller]
fn assert_denied(answer: &Content, named: &[&str], what: &str) {
    assert_eq!(code(answer), Some(1001), "{what}: {answer:?}");
    let text = text(answer);
    for name in named {
        assert!(text.contains(name), "{what}: {name} is missing in {text}");
    }
}

#[test]
fn a_file_above_what_a_grant_names_is_not_shown() {
    let paths = json!({ "storage": { "paths": [{ "path": "datei/ü" }, { "path": "ordner/ü" }] } });
    let rules = json!({ "storage": { "files": { "paths": [
        { "path": "datei/ü", "recursive": true, "actions": ["list", "read"] },
        { "path": "ordner/ü", "recursive": true, "actions": ["list", "read"] },
    ] } } });
    for scope in [paths, rules] {
        let mut room = Guarded::new(scope, &[], &["datei", "ordner/ü"]);
        for (path, is_seen) in [("datei", false), ("ordner", true), ("ordner/ü", true)] {
            let exists = room.call("storage", "exists", json!({ "path": path }));
            assert_eq!(
                exists,
                Content::Json(json!({ "exists": is_seen })),
                "{path}"
            );
            let Content::Json(stat) = room.call("storage", "stat", json!({ "path": path })) else {
                panic!("{path}: no answer")
            };
            assert_eq!(stat["exists"], json!(is_seen), "{path}: {stat}");
            assert_eq!(
                stat.get("size").is_some_and(|size| !size.is_null()),
                path == "ordner/ü",
                "{path}: {stat}"
            );
        }
    }
}

#[test]
fn what_waits_when_a_token_expires_has_no_rights_any_more() {
    let mut world = World::new();
    let client = world.join("änn");
    let expires = world.now.0 / 1000 + 5;
    world
        .room
        .participants
        .get_mut(&client.conn)
        .unwrap()
        .expires = expires.try_into().ok();
    let create = |path: &str| json!({ "path": path, "json": { "document": { "content": [] } } });
    world.pass_seconds(4);
    let answer = world.call(&client, "sync", "create", create("ö.document"));
    assert_eq!(answer, Content::Empty);
    world.pass_seconds(1);
    for (toolkit, tool, input) in [
        ("sync", "create", create("ü.document")),
        ("sync", "describe", json!({ "path": "ö.document" })),
        ("storage", "delete", json!({ "path": "ö.document" })),
    ] {
        let answer = world.call(&client, toolkit, tool, input);
        // Not 1001, which would be final: the next connection has a new token.
        assert_eq!(code(&answer), Some(1006), "{tool}: {answer:?}");
    }
    assert_eq!(world.room.usage.documents(), 1);
    let attributes = json!({ "colour": "grün" }).as_object().unwrap().clone();
    world.send(&client, ClientToServer::SetAttributes(attributes));
    assert!(client.take().is_empty(), "it has no answer");
}
