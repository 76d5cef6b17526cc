//! A server that goes away and comes back at the same place gets its clients back, whichever way it
//! went: the published SDKs come again only if they saw no close frame.

use anyhow::{Context as _, Result};
use meshagent_testing::{Script, SdkClient, Server, wait_until};
use serde_json::{Value, json};

use crate::scenario::{SDKS, canonical, eventually_shows, scenario};
use crate::wire::Wire;

const ROOM: &str = "durable";
const PATH: &str = "notes.document";

#[test]
fn clients_come_back_after_sigterm() {
    clients_come_back(Server::terminate);
}

#[test]
fn clients_come_back_after_kill_9() {
    clients_come_back(|server| {
        server.kill();
        Ok(())
    });
}

fn clients_come_back(end: fn(&mut Server) -> Result<()>) {
    scenario(|s| {
        let mut clients = SDKS
            .map(|script| s.client(script, ROOM, &format!("{script:?}")))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let mut wire = Wire::connect(s, ROOM, &s.server.credentials().token("wire", ROOM))?;
        for client in &mut clients {
            client.call("open", &json!({ "path": PATH }))?;
        }
        append(&mut clients[1], "before")?;
        let before = document(&["before"]);
        for client in &mut clients {
            eventually_shows(client, PATH, &before)?;
        }

        end(&mut s.server)?;
        assert_eq!(wire.end()?, 1006, "a close frame was sent");
        for client in &mut clients {
            wait_for_connection(client, false)?;
        }
        // The npm SDK loses what is edited now; the Python SDK sends it when it is back.
        append(&mut clients[0], "offline")?;
        s.server.start_again()?;
        for client in &mut clients {
            wait_for_connection(client, true)?;
        }
        let offline = document(&["before", "offline"]);
        for client in &mut clients {
            eventually_shows(client, PATH, &offline)?;
        }
        append(&mut clients[0], "python")?;
        eventually_shows(
            &mut clients[1],
            PATH,
            &document(&["before", "offline", "python"]),
        )?;
        append(&mut clients[1], "npm")?;
        let all = document(&["before", "offline", "python", "npm"]);
        for client in &mut clients {
            eventually_shows(client, PATH, &all)?;
        }
        assert_eq!(s.describe(ROOM, PATH)?, canonical(&all));
        Ok(())
    });
}

#[test]
fn what_was_acknowledged_before_kill_9_is_there_afterwards() {
    scenario(|s| {
        let mut node = s.client(Script::NodeClient, ROOM, "writer")?;
        node.call("open", &json!({ "path": PATH }))?;
        let mut expected = Vec::new();
        for round in 0..5 {
            for number in 0..20 {
                let text = format!("{round}.{number}");
                append(&mut node, &text)?;
                expected.push(text);
            }
            // The SDK closes a document only when everything it sent has been acknowledged.
            node.call("close", &json!({ "path": PATH }))?;
            s.server.kill();
            s.server.start_again()?;
            let texts: Vec<&str> = expected.iter().map(String::as_str).collect();
            assert_eq!(s.describe(ROOM, PATH)?, canonical(&document(&texts)));
            wait_for_connection(&mut node, true)?;
            node.call("open", &json!({ "path": PATH }))?;
        }
        Ok(())
    });
}

fn append(client: &mut SdkClient, text: &str) -> Result<()> {
    let body = json!({ "path": PATH, "tag": "body", "attributes": { "text": text } });
    client.call("append", &body)?;
    Ok(())
}

fn document(texts: &[&str]) -> Value {
    let bodies: Vec<Value> = texts
        .iter()
        .map(|text| json!({ "body": { "text": text } }))
        .collect();
    json!({ "document": { "content": bodies } })
}

fn wait_for_connection(client: &mut SdkClient, connected: bool) -> Result<()> {
    let name = client.name().to_owned();
    wait_until(&format!("{name} has connected = {connected}"), || {
        let status = client.call("status", &json!({}))?;
        let closed = status["closed"].as_bool().context("a status")?;
        anyhow::ensure!(!closed, "{name} has given up");
        Ok((status["connected"] == json!(connected)).then_some(()))
    })
}
