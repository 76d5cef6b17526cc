//! The default limits admit what real programs do: large documents, large updates, many requests at
//! once, many participants who come at the same time.

use std::thread;

use anyhow::{Result, anyhow, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshagent_testing::{Script, http_upgrade};
use serde_json::{Value, json};

use crate::scenario::{SDKS, eventually_shows, golden_schema, scenario};
use crate::wire::Wire;

const ROOM: &str = "large";
const MIB: usize = 1 << 20;

#[test]
fn four_megabytes_of_initial_json_and_one_update_of_eight() {
    scenario(|s| {
        let items: Vec<Value> = (0..4096)
            .map(|n| json!({ "item": { "n": n, "s": "x".repeat(1000), "children": [] } }))
            .collect();
        let large = json!({ "doc": { "children": items } });
        let text = "y".repeat(8 * MIB - 1024);
        for script in SDKS {
            let mut client = s.client(script, ROOM, "author")?;
            let path = format!("many-{script:?}");
            let create = json!({ "path": path, "json": large, "schema": golden_schema()? });
            client.call("create", &create)?;
            let described = client.call("describe", &json!({ "path": path }))?;
            ensure!(
                described["doc"]["children"]
                    .as_array()
                    .is_some_and(|all| all.len() == 4096)
            );

            let path = format!("long-{script:?}");
            client.call("open", &json!({ "path": path, "schema": golden_schema()? }))?;
            let append = json!({ "path": path, "tag": "item", "attributes": { "s": text } });
            client.call("append", &append)?;
            // The SDKs send the whole state back after `open`: that has to be admitted too.
            for reader in SDKS {
                let mut reader = s.client(reader, ROOM, "reader")?;
                reader.call("open", &json!({ "path": path }))?;
                let whole =
                    json!({ "doc": { "children": [{ "item": { "s": text, "children": [] } }] } });
                let shown = eventually_shows(&mut reader, &path, &whole);
                ensure!(shown.is_ok(), "the long text did not arrive");
                let append = json!({ "path": path, "tag": "item" });
                let id = reader.call("append", &append)?;
                reader.call("delete", &json!({ "path": path, "node": id }))?;
                reader.call("close", &json!({ "path": path }))?;
            }
            client.call("close", &json!({ "path": path }))?;
            let described = client.call("describe", &json!({ "path": path }))?;
            let kept = described["doc"]["children"][0]["item"]["s"]
                .as_str()
                .map(str::len);
            assert_eq!(kept, Some(text.len()));

            let data = STANDARD.encode(vec![7_u8; MIB]);
            let path = format!("file-{script:?}");
            client.call("upload", &json!({ "path": path, "data": data }))?;
            let file = client.call("download", &json!({ "path": path }))?;
            ensure!(file["data"] == json!(data), "the upload came back changed");
        }
        Ok(())
    });
}

#[test]
fn three_hundred_requests_before_the_first_answer() {
    scenario(|s| {
        let token = s.server.credentials().token("eager", ROOM);
        let mut wire = Wire::connect(s, ROOM, &token)?;
        let create = |n: usize| {
            let input = json!({ "path": format!("{n}.document"), "json": null, "schema": null, "schema_path": null });
            json!({ "toolkit": "sync", "tool": "create", "arguments": { "type": "json", "json": input } })
        };
        let ids = (0..300)
            .map(|n| wire.send("room.invoke_tool", &create(n), &[]))
            .collect::<Result<Vec<_>>>()?;
        for id in ids {
            let answer = wire.response(id)?;
            assert_eq!(answer["type"], json!("empty"), "{answer}");
        }
        let mut client = s.client(Script::NodeClient, ROOM, "counter")?;
        let listed = client.call("list", &json!({ "path": "" }))?;
        assert_eq!(listed.as_array().map(Vec::len), Some(300));
        Ok(())
    });
}

#[test]
fn two_hundred_handshakes_at_once_from_one_address() {
    scenario(|s| {
        let url = format!("{}/rooms/{ROOM}", s.server.url());
        let handshakes: Vec<_> = (0..200)
            .map(|n| {
                let token = s.server.credentials().token(&format!("guest {n}"), ROOM);
                let url = format!("{url}?token={token}");
                thread::spawn(move || http_upgrade(&url, &[]).map(|answer| answer.status))
            })
            .collect();
        for handshake in handshakes {
            let status = handshake
                .join()
                .map_err(|_| anyhow!("a handshake's thread panicked"))?;
            assert_eq!(status?, 101);
        }
        Ok(())
    });
}
