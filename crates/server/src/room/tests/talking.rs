//! Toolkit `messaging`: which participants see each other, and who receives which messages.

use meshagent_protocol::{ClientToServer, ServerToClient};
use serde_json::json;

use super::{Content, Seen, World, code, events};

#[test]
fn participants_see_each_other_while_messaging_is_enabled() {
    let mut world = World::new();
    let (ann, ben, shy) = (world.join("ann"), world.join("ben"), world.join("shy"));
    world.invoke(&ann, "messaging", "enable", json!({}));
    let alone = events(&ann);
    assert!(
        matches!(&alone[0], ServerToClient::Messaging { kind, message, .. } if kind == "messaging.enabled" && message["participants"] == json!([]))
    );

    world.invoke(&ben, "messaging", "enable", json!({}));
    let others = events(&ben);
    assert!(
        matches!(&others[0], ServerToClient::Messaging { message, .. } if message["participants"] == json!([
            { "id": "ann-id", "role": "user", "attributes": { "name": "ann" } }
        ]))
    );
    assert!(
        matches!(&events(&ann)[0], ServerToClient::Messaging { kind, message, .. } if kind == "participant.enabled" && message["id"] == "ben-id")
    );

    let attributes = json!({ "name": "ben", "mood": "calm" })
        .as_object()
        .unwrap()
        .clone();
    world.send(&ben, ClientToServer::SetAttributes(attributes));
    assert!(
        matches!(&events(&ann)[0], ServerToClient::Messaging { kind, message, from_participant_id, .. }
        if kind == "participant.attributes" && from_participant_id == "ben-id" && *message == json!({ "attributes": { "mood": "calm" } }))
    );

    world.leave(&ben);
    assert!(
        matches!(&events(&ann)[0], ServerToClient::Messaging { kind, message, .. } if kind == "participant.disabled" && message["id"] == "ben-id")
    );
    assert!(
        events(&shy).is_empty(),
        "who did not enable messaging hears nothing"
    );
}

#[test]
fn messages_reach_one_or_all_others() {
    let mut world = World::new();
    let (ann, ben, cid) = (world.join("ann"), world.join("ben"), world.join("cid"));
    for client in [&ann, &ben, &cid] {
        world.invoke(client, "messaging", "enable", json!({}));
    }
    for client in [&ann, &ben, &cid] {
        client.take();
    }
    let sent = world.call(&ann, "messaging", "send", json!({
        "to_participant_id": "ben-id", "type": "hello", "message_json": "{\"a\":1}", "attachment_base64": "AQID"
    }));
    assert_eq!(sent, Content::Empty);
    assert!(
        matches!(&events(&ben)[0], ServerToClient::Messaging { from_participant_id, kind, message, attachment }
        if from_participant_id == "ann-id" && kind == "hello" && *message == json!({ "a": 1 }) && attachment[..] == [1, 2, 3])
    );
    assert!(events(&cid).is_empty());

    world.call(
        &ann,
        "messaging",
        "broadcast",
        json!({ "type": "all", "message_json": "{}" }),
    );
    assert_eq!(
        (events(&ann).len(), events(&ben).len(), events(&cid).len()),
        (0, 1, 1)
    );

    let nobody = world.call(
        &ann,
        "messaging",
        "send",
        json!({ "to_participant_id": "zed", "type": "x", "message_json": "{}" }),
    );
    assert_eq!(code(&nobody), Some(1003));
}

#[test]
fn nobody_speaks_as_the_server_about_participants() {
    let mut world = World::new();
    let (liar, ear) = (world.join("liar"), world.join("ear"));
    for client in [&liar, &ear] {
        world.invoke(client, "messaging", "enable", json!({}));
    }
    world.settle();
    ear.take();
    for kind in [
        "messaging.enabled",
        "participant.enabled",
        "participant.disabled",
        "participant.attributes",
    ] {
        let message = json!({ "type": kind, "message_json": "{}", "to_participant_id": "ear-id" });
        for tool in ["send", "broadcast"] {
            let answer = world.call(&liar, "messaging", tool, message.clone());
            assert_eq!(code(&answer), Some(1002), "{tool} {kind}: {answer:?}");
        }
    }
    assert!(ear.take().is_empty());
}

#[test]
fn a_disable_is_not_overtaken_by_the_enable_before_it() {
    let mut world = World::new();
    let (ann, ben) = (world.join("ann"), world.join("ben"));
    let enabled = world.call(&ben, "messaging", "enable", json!({}));
    assert_eq!(enabled, Content::Empty);
    // Ann's queue is full for a moment.
    ann.outbox.push(ServerToClient::RoomStatus {
        status: "x".to_owned(),
        message: "y".repeat(2 << 20),
    });
    let asked = ["enable", "enable", "disable"]
        .map(|tool| world.invoke(&ann, "messaging", tool, json!({})));
    world.settle();
    let mut seen = ann.take();
    world.room.handle_drained(ann.conn);
    world.settle();
    seen.extend(ann.take());
    // Ann receives all her answers, and no introductions.
    seen.retain(|seen| !matches!(seen, Seen::Other(ServerToClient::RoomStatus { .. })));
    assert_eq!(seen, asked.map(|id| Seen::Answer(id, Content::Empty)));
    assert!(events(&ben).is_empty(), "she was never there");
    let to = json!({ "to_participant_id": ann.id, "type": "t", "message_json": "{}" });
    let sent = world.call(&ben, "messaging", "send", to);
    assert_eq!(code(&sent), Some(1003));
}

/// A participant that receives many messages can still edit, and sees others' edits.
#[test]
fn what_others_say_keeps_nobody_from_documents() {
    const SAID: usize = 300 << 10;
    let mut config = crate::config::Config::default();
    config.limits.max_outbox_bytes = 128 << 10;
    let mut world = World::with_config(config);
    let (loud, reader) = (world.join("läut"), world.join("leser"));
    let writer = world.join("schreïber");
    for client in [&loud, &reader] {
        world.invoke(client, "messaging", "enable", json!({}));
    }
    for (client, call) in [(&writer, "w"), (&reader, "r")] {
        world.open(client, call, json!({ "path": "a.document" }));
    }
    let message = json!("ü".repeat(8 << 10)).to_string();
    for _ in 0..30 {
        let input = json!({ "type": "t", "message_json": message });
        world.invoke(&loud, "messaging", "broadcast", input);
    }
    let (queued, _) = reader.outbox.queued();
    // One participant takes at most twice the mark, and one message.
    assert!((256 << 10..SAID).contains(&queued), "{queued} bytes");
    let update = super::Editor::new(1).append("body", "größer");
    world.update(&writer, "w", &update);
    world.settle();
    let waits = reader.outbox.wait_for_room();
    let mut waits = std::pin::pin!(waits);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(waits.as_mut().poll(&mut context).is_ready());
    assert_eq!(reader.changes("r").len(), 1);
    let lost = events(&reader);
    assert!(
        matches!(&lost[0], ServerToClient::RoomStatus { status, .. } if status == "messages_lost"),
        "{lost:?}"
    );
}
