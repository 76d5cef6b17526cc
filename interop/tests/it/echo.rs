//! Every SDK publishes what it receives; none of that may go round again.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use meshagent_testing::{Script, wait_until};
use serde_json::json;

use crate::scenario::{Scenario, eventually_shows, golden_schema, scenario};

const ROOM: &str = "echoes";
const PATH: &str = "wall";
const BROADCASTS: &str = "meshagent_broadcasts_total";

#[test]
fn one_edit_among_many_clients_is_one_broadcast() {
    scenario(|s| {
        let mut clients = Vec::new();
        for script in [Script::NodeClient, Script::PythonClient] {
            for number in 0..3 {
                let mut client = s.client(script, ROOM, &format!("{script:?} {number}"))?;
                client.call("open", &json!({ "path": PATH, "schema": golden_schema()? }))?;
                clients.push(client);
            }
        }
        for author in [0, 3] {
            // One update each: the element, and later one attribute of it.
            let append = json!({ "path": PATH, "tag": "item" });
            let id = clients[author].call("append", &append)?;
            let before = settled_broadcasts(s)?;
            let mark = format!("by {}", clients[author].name());
            let set = json!({ "path": PATH, "node": id, "name": "s", "value": mark });
            clients[author].call("set", &set)?;
            let shown = clients[author].call("json", &json!({ "path": PATH }))?;
            for client in &mut clients {
                eventually_shows(client, PATH, &shown)?;
            }
            let after = settled_broadcasts(s)?;
            assert_eq!(
                (after - before).to_string(),
                "1",
                "broadcasts of one edit of {mark}"
            );
        }

        // Another client that opens the document sends all of it back; that is no edit at all.
        let before = settled_broadcasts(s)?;
        for script in [Script::NodeClient, Script::PythonClient] {
            s.look(script, ROOM, PATH)?;
        }
        assert_eq!((settled_broadcasts(s)? - before).to_string(), "0");
        Ok(())
    });
}

/// The number of broadcasts once it has not changed for half a second: echoes need a moment.
fn settled_broadcasts(s: &Scenario) -> Result<f64> {
    let mut last = s.server.metric(BROADCASTS)?;
    wait_until("the number of broadcasts rests", || {
        sleep(Duration::from_millis(500));
        let now = s.server.metric(BROADCASTS)?;
        let rests = now.to_bits() == last.to_bits();
        last = now;
        Ok(rests.then_some(now))
    })
}
