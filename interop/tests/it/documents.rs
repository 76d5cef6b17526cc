//! One document, three implementations: what Python, npm or the server wrote reads the same in the
//! other two.

use anyhow::Result;
use meshagent_testing::{Script, SdkClient};
use serde_json::{Value, json};

use crate::scenario::{SDKS, canonical, eventually_shows, golden_schema, scenario};

const ROOM: &str = "documents";

/// Attributes of all types, nesting, and text.
fn sample_document() -> Value {
    json!({ "doc": { "children": [
        { "item": { "s": "ünï 😀 \"quoted\" \u{1}", "n": 1.5, "b": true, "children": [
            { "item": { "s": "", "n": -7, "b": false, "children": [] } },
            { "item": { "n": 4_294_967_296_123_i64, "children": [] } },
        ] } },
        { "text": { "lang": "de", "children": [
            { "text": { "delta": [{ "insert": "Grüße aus Köln, 世界 😀" }] } },
        ] } },
        { "item": { "s": null, "children": [] } },
    ] } })
}

#[test]
fn what_one_sdk_writes_the_other_and_the_server_read() {
    scenario(|s| {
        for script in SDKS {
            let path = format!("by-{script:?}");
            let mut writer = s.client(script, ROOM, "writer")?;
            writer.call("open", &json!({ "path": path, "schema": golden_schema()? }))?;
            let document = sample_document();
            for child in document["doc"]["children"].as_array().into_iter().flatten() {
                write_element(&mut writer, &path, None, child)?;
            }
            let expected = canonical(&document);
            eventually_shows(&mut writer, &path, &document)?;
            writer.call("close", &json!({ "path": path }))?;

            assert_eq!(
                s.describe(ROOM, &path)?,
                expected,
                "{script:?} seen by the server"
            );
            for reader in SDKS {
                let seen = s.look(reader, ROOM, &path)?;
                assert_eq!(seen, expected, "{script:?} seen by {reader:?}");
            }
        }
        Ok(())
    });
}

#[test]
fn what_the_server_writes_both_sdks_read() {
    scenario(|s| {
        let mut author = s.client(Script::PythonClient, ROOM, "author")?;
        let document = sample_document();
        let request = json!({ "path": "by-server", "json": document, "schema": golden_schema()? });
        author.call("create", &request)?;
        let expected = canonical(&document);
        assert_eq!(s.describe(ROOM, "by-server")?, expected);
        for reader in SDKS {
            assert_eq!(s.look(reader, ROOM, "by-server")?, expected, "{reader:?}");
        }

        // And `open` with initial JSON, which counts only for whoever comes first.
        let other = json!({ "doc": { "children": [] } });
        let request = json!({
            "path": "by-open", "initial_json": document, "schema": golden_schema()?,
        });
        author.call("open", &request)?;
        let mut second = s.client(Script::NodeClient, ROOM, "second")?;
        let late = json!({ "path": "by-open", "initial_json": other });
        assert_eq!(canonical(&second.call("open", &late)?), expected);
        Ok(())
    });
}

#[test]
fn create_with_a_schema_from_both_sdks() {
    scenario(|s| {
        let schema = golden_schema()?;
        for script in SDKS {
            let mut client = s.client(script, ROOM, "author")?;
            let document =
                json!({ "doc": { "children": [{ "item": { "n": 4, "children": [] } }] } });
            for (path, op, key) in [
                ("made", "create", "json"),
                ("opened", "open", "initial_json"),
            ] {
                let path = format!("{path}-{script:?}");
                let request = json!({ "path": path, key: document, "schema": schema });
                client.call(op, &request)?;
                assert_eq!(s.describe(ROOM, &path)?, canonical(&document), "{path}");
                let taken = client.refused("create", &json!({ "path": path, "json": document }))?;
                assert_eq!(taken.code, Some(1004), "{path}: {taken}");
            }
        }
        Ok(())
    });
}

#[test]
fn describe_by_a_raw_tool_call_shows_root_attributes_and_no_ids() {
    scenario(|s| {
        let mut node = s.client(Script::NodeClient, ROOM, "raw")?;
        let document = json!({ "doc": { "title": "A title", "children": [
            { "item": { "s": "x", "children": [] } },
        ] } });
        let create = json!({ "path": "./titled", "json": document, "schema": golden_schema()? });
        node.call("create", &create)?;
        let call = json!({
            "toolkit": "sync",
            "tool": "describe",
            "input": { "path": "titled", "schema_path": null },
        });
        assert_eq!(
            canonical(&node.call("invoke", &call)?),
            canonical(&document)
        );

        // Both SDKs can open it: their root has no attributes.
        let without_title = json!({ "doc": { "children": document["doc"]["children"] } });
        for script in SDKS {
            assert_eq!(
                s.look(script, ROOM, "titled")?,
                canonical(&without_title),
                "{script:?}"
            );
        }

        // An attribute that npm sets on its root wins over ours.
        node.call("open", &json!({ "path": "titled" }))?;
        let set = json!({ "path": "titled", "name": "title", "value": "Another" });
        node.call("set", &set)?;
        node.call("close", &json!({ "path": "titled" }))?;
        assert_eq!(
            s.describe(ROOM, "titled")?["doc"]["title"],
            json!("Another")
        );
        Ok(())
    });
}

/// Writes an element and what is in it, one edit after the other, as an application would.
fn write_element(
    client: &mut SdkClient,
    path: &str,
    parent: Option<&Value>,
    element: &Value,
) -> Result<()> {
    for (tag, properties) in element.as_object().into_iter().flatten() {
        let mut attributes = properties.clone();
        let children = attributes
            .as_object_mut()
            .and_then(|fields| fields.remove("children"));
        let append = json!({
            "path": path, "node": parent, "tag": tag, "attributes": attributes,
        });
        let id = client.call("append", &append)?;
        for (index, child) in children
            .iter()
            .filter_map(|c| c.as_array())
            .flatten()
            .enumerate()
        {
            match child["text"]["delta"][0]["insert"].as_str() {
                Some(text) if index == 0 => {
                    // In two steps, the second in front of the first: positions count the same there.
                    let (head, tail) = text.split_at(text.find(' ').unwrap_or(0));
                    for part in [tail, head] {
                        let insert = json!({ "path": path, "node": id, "index": 0, "text": part });
                        client.call("text_insert", &insert)?;
                    }
                }
                _ => write_element(client, path, Some(&id), child)?,
            }
        }
    }
    Ok(())
}
