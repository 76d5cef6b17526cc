//! Storage events of many files for many participants: encoded once, and sent a slice at a time.

use meshagent_protocol::ServerToClient;
use meshagent_store::{RoomId, Store as _, Write};
use serde_json::json;

use super::{Client, World};
use crate::outbox::Outgoing;

const FILES: usize = 3_000;
const LISTENERS: usize = 20;

/// The events that were queued for a client: the address of each one's shared bytes, and its path.
fn heard(client: &Client) -> Vec<(*const u8, String)> {
    let mut heard = Vec::new();
    for (item, cost) in client.outbox.try_take() {
        client.outbox.written(cost);
        let Outgoing::Shared { message, .. } = &item else {
            continue;
        };
        let place = message.body().0.as_ptr();
        if let Some(ServerToClient::FileDeleted { path, .. }) = item.into_message() {
            heard.push((place, path));
        }
    }
    heard
}

#[test]
fn a_folder_with_much_in_it_is_told_of_in_slices_and_encoded_once() {
    let mut world = World::new();
    let owner = world.join("owner");
    let listeners: Vec<Client> = (0..LISTENERS)
        .map(|number| world.join(&format!("lïstener{number}")))
        .collect();
    let files: Vec<Write> = (0..FILES)
        .map(|number| Write::PutFile {
            room: RoomId::new("project", "room"),
            path: format!("ördner/{number:05}"),
            data: "x".into(),
            mime_type: String::new(),
            overwrite: false,
            at: world.now,
        })
        .collect();
    world.store.commit(&files).unwrap();
    world.invoke(
        &owner,
        "storage",
        "delete",
        json!({ "path": "ördner", "recursive": true }),
    );
    world.run();
    let writes = world.held.take().unwrap();
    let result = world.store.commit(&writes).map_err(std::sync::Arc::new);
    world.room.handle_committed(result, world.now);
    let mut told: Vec<Vec<(*const u8, String)>> = vec![Vec::new(); LISTENERS];
    let mut slices = 0;
    loop {
        let mut in_slice = 0;
        for (listener, told) in listeners.iter().zip(&mut told) {
            let heard = heard(listener);
            in_slice += heard.len();
            told.extend(heard);
        }
        slices += 1;
        assert!(
            in_slice <= FILES * LISTENERS / 8,
            "{in_slice} in slice {slices}"
        );
        if !world.room.has_news() {
            break;
        }
        // A request between two slices is answered before the rest.
        if slices == 2 {
            let asked = world.invoke(&owner, "nöne", "x", json!({}));
            owner.answer(asked);
        }
        world.room.tell_news(|| true);
    }
    let mut expected: Vec<String> = (0..FILES)
        .map(|number| format!("ördner/{number:05}"))
        .collect();
    expected.push("ördner".to_owned());
    for told in &told {
        let paths: Vec<&String> = told.iter().map(|(_, path)| path).collect();
        assert!(paths.iter().copied().eq(&expected), "{}", paths.len());
    }
    // The first listener's events are released after each slice, so an address may occur again. But
    // within a slice, all listeners share the bytes of the first one.
    let encoded = |told: &[(*const u8, String)]| -> Vec<*const u8> {
        told.iter().map(|(place, _)| *place).collect()
    };
    for other in &told[1..] {
        assert_eq!(encoded(other), encoded(&told[0]));
    }
}

/// The disk may take so long that the participant has left before its request is done.
#[test]
fn news_of_who_has_left_are_charged_to_the_server() {
    let mut world = World::new();
    let (mover, listener) = (world.join("mover"), world.join("listener"));
    let file = Write::PutFile {
        room: RoomId::new("project", "room"),
        path: "ä".to_owned(),
        data: "x".into(),
        mime_type: String::new(),
        overwrite: false,
        at: world.now,
    };
    world.store.commit(&[file]).unwrap();
    world.invoke(&mover, "storage", "delete", json!({ "path": "ä" }));
    world.run();
    world.leave(&mover);
    world.settle();
    assert!(world.room.usage.shared_bytes() > 0);
    let heard = heard(&listener);
    assert_eq!(heard.len(), 1);
    drop(heard);
    assert_eq!(world.room.usage.shared_bytes(), 0);
}
