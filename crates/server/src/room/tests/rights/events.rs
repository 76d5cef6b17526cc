//! Which events participants receive: of files, documents and other participants.

use meshagent_protocol::{ClientToServer, ServerToClient};
use serde_json::{Value, json};

use super::super::events;
use super::{Client, Guarded, scope_of, upload};

/// The storage events that a client received, one text for each.
fn heard(client: &Client) -> Vec<String> {
    let told = events(client).into_iter().filter_map(|event| match event {
        ServerToClient::FileUpdated { path, .. } => Some(format!("+{path}")),
        ServerToClient::FileDeleted { path, .. } => Some(format!("-{path}")),
        ServerToClient::FileMoved {
            source_path,
            destination_path,
            ..
        } => Some(format!("{source_path}>{destination_path}")),
        _ => None,
    });
    told.collect()
}

#[test]
fn only_who_may_see_a_path_hears_of_it() {
    let scopes = [
        ("all", json!({ "storage": {}, "sync": {} })),
        (
            "inside",
            json!({ "storage": { "paths": [{ "path": "in", "read_only": true }] } }),
        ),
        (
            "rules",
            json!({ "storage": { "files": { "paths": [
            { "path": "in", "recursive": true, "actions": ["list"], "excluded_paths": ["in/é"] },
        ] } } }),
        ),
        // Readers of documents receive their events, too, but not those of files.
        (
            "reader",
            json!({ "sync": { "paths": [{ "path": "in/*", "read_only": true }] } }),
        ),
        (
            "writer",
            json!({ "storage": { "files": { "paths": [
            { "path": "in", "recursive": true, "actions": ["write"] },
        ] } } }),
        ),
        ("none", json!({ "messaging": {} })),
    ];
    let mut room = Guarded::new(json!({}), &[], &[]);
    let listeners: Vec<(&str, Client)> = scopes
        .into_iter()
        .map(|(name, scope)| (name, room.world.join_with(name, scope_of(scope))))
        .collect();
    let check = |room: &mut Guarded, act: &dyn Fn(&mut Guarded), expected: [&[&str]; 6]| {
        act(room);
        for ((name, listener), expected) in listeners.iter().zip(expected) {
            assert_eq!(heard(listener), expected, "{name}");
        }
    };
    let put = |path: &'static str| {
        move |room: &mut Guarded| {
            upload(&mut room.world, &room.owner, path, b"data", true);
        }
    };
    let call = |toolkit: &'static str, tool: &'static str, input: Value| {
        move |room: &mut Guarded| {
            let answer = room.world.call(&room.owner, toolkit, tool, input.clone());
            assert_eq!(answer, super::Content::Empty);
        }
    };
    let document = |path: &str| json!({ "path": path, "json": { "a": 1 } });
    let rename = |from: &str, to: &str| json!({ "source_path": from, "destination_path": to });

    let f: &[&str] = &["+in/f"];
    check(&mut room, &put("in/f"), [f, f, f, &[], &[], &[]]);
    let f: &[&str] = &["+in/é/g"];
    check(&mut room, &put("in/é/g"), [f, f, &[], &[], &[], &[]]);
    let f: &[&str] = &["+out/h"];
    check(&mut room, &put("out/h"), [f, &[], &[], &[], &[], &[]]);
    let f: &[&str] = &["+in/plän"];
    let act = call("sync", "create", document("in/plän"));
    check(&mut room, &act, [f, f, f, f, &[], &[]]);
    let f: &[&str] = &["+out/plan"];
    let act = call("sync", "create", document("out/plan"));
    check(&mut room, &act, [f, &[], &[], &[], &[], &[]]);

    // A participant that sees only one end of a move receives a deletion or an update.
    let f: &[&str] = &["in/f>in/f2"];
    let act = call("storage", "move", rename("in/f", "in/f2"));
    check(&mut room, &act, [f, f, f, &[], &[], &[]]);
    let gone: &[&str] = &["-in/plän"];
    let act = call("storage", "move", rename("in/plän", "out/plän"));
    check(
        &mut room,
        &act,
        [&["in/plän>out/plän"], gone, gone, gone, &[], &[]],
    );
    let new: &[&str] = &["+in/plan"];
    let act = call("storage", "move", rename("out/plan", "in/plan"));
    check(
        &mut room,
        &act,
        [&["out/plan>in/plan"], new, new, new, &[], &[]],
    );
    let act = call("storage", "move", rename("in/f2", "in/é/f"));
    let f: &[&str] = &["in/f2>in/é/f"];
    check(&mut room, &act, [f, f, &["-in/f2"], &[], &[], &[]]);

    // Events of a folder reach the participants that may list it, and no others.
    let act = call(
        "storage",
        "delete",
        json!({ "path": "in", "recursive": true }),
    );
    let f: &[&str] = &["-in/plan", "-in/é/f", "-in/é/g", "-in"];
    check(
        &mut room,
        &act,
        [f, f, &["-in/plan", "-in"], &["-in/plan"], &[], &[]],
    );
    let act = call(
        "storage",
        "delete",
        json!({ "path": "out", "recursive": true }),
    );
    check(
        &mut room,
        &act,
        [&["-out/h", "-out/plän", "-out"], &[], &[], &[], &[], &[]],
    );
}

#[test]
fn who_may_not_list_participants_hears_of_none() {
    let mut room = Guarded::new(json!({ "messaging": { "list": false } }), &[], &[]);
    let world = &mut room.world;
    world.invoke(&room.guest, "messaging", "enable", json!({}));
    let seen = events(&room.guest);
    assert_eq!(seen.len(), 1, "its own list, which is empty: {seen:?}");
    let witness = world.join("witness");
    world.invoke(&witness, "messaging", "enable", json!({}));
    let late = world.join("spät");
    world.invoke(&late, "messaging", "enable", json!({}));
    let attributes = json!({ "mood": "ruhig" }).as_object().unwrap().clone();
    world.send(&late, ClientToServer::SetAttributes(attributes));
    world.invoke(&late, "messaging", "disable", json!({}));
    world.invoke(&late, "messaging", "enable", json!({}));
    world.leave(&late);
    assert_eq!(events(&witness).len(), 6, "its own list, and the rest");
    assert_eq!(
        events(&room.guest),
        [],
        "neither that it came nor that it left"
    );
    // A message reaches the participant that it names.
    let message = json!({
        "to_participant_id": room.guest.id, "type": "hallo", "message_json": "{}"
    });
    world.call(&witness, "messaging", "send", message);
    let seen = events(&room.guest);
    assert!(
        matches!(&seen[0], ServerToClient::Messaging { kind, .. } if kind == "hallo"),
        "{seen:?}"
    );
}

#[test]
fn a_name_is_the_tokens() {
    let mut room = Guarded::new(json!({ "messaging": {} }), &[], &[]);
    let world = &mut room.world;
    let witness = world.join("witness");
    world.invoke(&witness, "messaging", "enable", json!({}));
    world.invoke(&room.guest, "messaging", "enable", json!({}));
    witness.take();
    for name in [json!("owner"), json!(null), json!(["guest"]), json!("")] {
        let attributes = json!({ "name": name, "mood": name });
        let attributes = attributes.as_object().unwrap().clone();
        world.send(&room.guest, ClientToServer::SetAttributes(attributes));
        for event in events(&witness) {
            let ServerToClient::Messaging { message, .. } = event else {
                panic!("{event:?}");
            };
            assert_eq!(message, json!({ "attributes": { "mood": name } }));
        }
    }
    // Participants that come later see the token's name, too.
    let late = world.join("late");
    world.invoke(&late, "messaging", "enable", json!({}));
    let seen = format!("{:?}", events(&late));
    assert!(
        seen.contains(r#""name": String("guest")"#) && !seen.contains(r#""name": String("owner")"#),
        "{seen}"
    );
}
