//! Participants who see each other and send messages, across the two SDKs.

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshagent_testing::{Script, SdkClient, wait_until};
use serde_json::{Value, json};

use crate::scenario::scenario;

const ROOM: &str = "lobby";

#[test]
fn participants_see_each_other_and_exchange_messages() {
    scenario(|s| {
        let mut python = s.client(Script::PythonClient, ROOM, "pia")?;
        let mut node = s.client(Script::NodeClient, ROOM, "nil")?;
        let mut silent = s.client(Script::NodeClient, ROOM, "silent")?;
        python.call("enable", &json!({}))?;
        node.call("enable", &json!({}))?;

        let pia = other_participant(&mut node, "pia")?;
        let nil = other_participant(&mut python, "nil")?;
        assert_eq!(pia["role"], json!("agent"));
        assert_eq!(
            participants(&mut python)?.len(),
            1,
            "who has not enabled messaging is not listed"
        );

        let attachment = STANDARD.encode([0, 1, 2, 255]);
        let hello = json!({
            "to": nil["id"], "type": "greeting", "message": { "text": "hello" }, "attachment": attachment,
        });
        python.call("send", &hello)?;
        let message = next_message(&mut node, 0)?;
        assert_eq!(
            message,
            json!({
                "kind": "message", "type": "greeting", "message": { "text": "hello" },
                "from": pia["id"], "attachment": attachment,
            })
        );
        node.call(
            "broadcast",
            &json!({ "type": "news", "message": { "n": 1 } }),
        )?;
        let message = next_message(&mut python, 0)?;
        assert_eq!(
            (&message["type"], &message["message"]),
            (&json!("news"), &json!({ "n": 1 }))
        );
        assert_eq!(message["from"], nil["id"]);

        // Attributes that are set later arrive later; those that were set before are there at once.
        node.call(
            "set_attribute",
            &json!({ "name": "mood", "value": { "level": 3 } }),
        )?;
        wait_until("the attribute arrives", || {
            let nil = participants(&mut python)?.pop().context("nil is there")?;
            Ok((nil["attributes"]["mood"] == json!({ "level": 3 })).then_some(()))
        })?;
        silent.call("enable", &json!({}))?;
        let seen = other_participant(&mut silent, "nil")?;
        assert_eq!(seen["attributes"]["mood"], json!({ "level": 3 }));
        silent.call("disable", &json!({}))?;
        wait_until("a disabled participant is gone", || {
            Ok((participants(&mut python)?.len() == 1).then_some(()))
        })?;

        // Whoever leaves, in whatever way, is gone for the others.
        node.call("disconnect", &json!({}))?;
        wait_until("a disconnected participant is gone", || {
            Ok(participants(&mut python)?.is_empty().then_some(()))
        })?;
        let mut killed = s.client(Script::NodeClient, ROOM, "killed")?;
        killed.call("enable", &json!({}))?;
        other_participant(&mut python, "killed")?;
        drop(killed);
        wait_until("a killed participant is gone", || {
            Ok(participants(&mut python)?.is_empty().then_some(()))
        })
    });
}

#[test]
fn an_unknown_recipient_and_a_missing_grant_are_refused() {
    scenario(|s| {
        let send = json!({
            "toolkit": "messaging",
            "tool": "send",
            "input": { "to_participant_id": "nobody", "type": "t", "message_json": "{}", "attachment_base64": null },
        });
        let mut python = s.client(Script::PythonClient, ROOM, "sender")?;
        python.call("enable", &json!({}))?;
        let unknown = python.refused("invoke", &send)?;
        assert_eq!(unknown.code, Some(1003), "{unknown}");

        let scope = json!({ "messaging": { "send": false, "broadcast": false } });
        let mut mute = s.client_with_scope(Script::PythonClient, ROOM, "mute", &scope)?;
        let forbidden = mute.refused("invoke", &send)?;
        assert_eq!(forbidden.code, Some(1001), "{forbidden}");
        let shout = json!({ "type": "t", "message": {} });
        let forbidden = mute.refused("broadcast", &shout)?;
        assert_eq!(forbidden.code, Some(1001), "{forbidden}");
        Ok(())
    });
}

fn participants(client: &mut SdkClient) -> Result<Vec<Value>> {
    let list = client.call("participants", &json!({}))?;
    list.as_array().cloned().context("a list of participants")
}

/// Waits until the client sees a participant of this name.
fn other_participant(client: &mut SdkClient, name: &str) -> Result<Value> {
    wait_until(&format!("{name} is seen"), || {
        let list = participants(client)?;
        Ok(list
            .into_iter()
            .find(|other| other["attributes"]["name"] == json!(name)))
    })
}

fn next_message(client: &mut SdkClient, index: usize) -> Result<Value> {
    wait_until("a message arrives", || {
        let events = client.call("events", &json!({}))?;
        let all = events.as_array().context("a list of events")?;
        Ok(all
            .iter()
            .filter(|event| event["kind"] == "message")
            .nth(index)
            .cloned())
    })
}
