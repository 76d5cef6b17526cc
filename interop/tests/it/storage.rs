//! Room storage through both SDKs: files, folders, documents among them, events, download links.

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshagent_testing::{SdkClient, http_request, wait_until};
use serde_json::{Value, json};

use crate::scenario::{SDKS, golden_schema, scenario};

const ROOM: &str = "files";

#[test]
fn files_are_uploaded_listed_moved_downloaded_and_deleted() {
    scenario(|s| {
        for script in SDKS {
            let folder = format!("{script:?}");
            let path = |name: &str| json!({ "path": format!("{folder}/{name}") });
            let mut client = s.client(script, ROOM, "owner")?;
            // More than one of the chunks that are pulled, and an empty file.
            let data: Vec<u8> = (0..300_000_u32).map(|n| (n * 7 % 251) as u8).collect();
            for (name, data) in [
                ("big.bin", data.as_slice()),
                ("sub/empty.txt", &[]),
                ("a%b_.txt", b"x"),
            ] {
                let mut request = path(name);
                request["data"] = json!(STANDARD.encode(data));
                client.call("upload", &request)?;
            }
            let mut again = path("big.bin");
            again["data"] = json!(STANDARD.encode("small"));
            let refused = client.refused("upload", &again)?;
            ensure!(
                matches!(refused.code, Some(3005 | 1004) | None),
                "{script:?}: {refused}"
            );
            let file = client.call("download", &path("big.bin"))?;
            assert_eq!(file["name"], json!("big.bin"));
            assert_eq!(file["mime_type"], json!("application/octet-stream"));
            ensure!(
                file["data"] == json!(STANDARD.encode(&data)),
                "the file came back changed"
            );
            again["overwrite"] = json!(true);
            client.call("upload", &again)?;
            let file = client.call("download", &path("big.bin"))?;
            assert_eq!(file["data"], json!(STANDARD.encode("small")));
            let empty = client.call("download", &path("sub/empty.txt"))?;
            assert_eq!(
                (&empty["data"], &empty["mime_type"]),
                (&json!(""), &json!("text/plain"))
            );

            let stat = client.call("stat", &path("big.bin"))?;
            let expected = json!({ "name": "big.bin", "is_folder": false, "size": 5, "created": true, "updated": true });
            assert_eq!(stat, expected);
            assert_eq!(client.call("stat", &path("sub"))?["is_folder"], json!(true));
            assert_eq!(client.call("stat", &path("absent"))?, Value::Null);
            for (name, exists) in [
                ("big.bin", true),
                ("sub", true),
                ("absent", false),
                ("BIG.BIN", false),
            ] {
                assert_eq!(client.call("exists", &path(name))?, json!(exists), "{name}");
            }
            assert_eq!(
                names(&mut client, &folder)?,
                ["a%b_.txt", "big.bin", "sub/"]
            );

            let move_path = |source: &str, destination: &str| json!({ "source": format!("{folder}/{source}"), "destination": format!("{folder}/{destination}") });
            client.call("move_path", &move_path("big.bin", "moved/b.bin"))?;
            client.call("move_path", &move_path("sub", "moved/sub"))?;
            assert_eq!(
                names(&mut client, &format!("{folder}/moved"))?,
                ["b.bin", "sub/"]
            );
            let needs_recursive = client.refused("delete_path", &path("moved"))?;
            assert_eq!(needs_recursive.code, Some(3002), "{needs_recursive}");
            let mut recursive = path("moved");
            recursive["recursive"] = json!(true);
            client.call("delete_path", &recursive)?;
            client.call("delete_path", &path("a%b_.txt"))?;
            assert_eq!(
                client.call("exists", &json!({ "path": folder }))?,
                json!(false)
            );
            for op in ["download", "delete_path"] {
                let missing = client.refused(op, &path("big.bin"))?;
                assert_eq!(missing.code, Some(3001), "{op}: {missing}");
            }
        }
        Ok(())
    });
}

#[test]
fn a_download_url_answers_a_plain_get() {
    scenario(|s| {
        for script in SDKS {
            let mut client = s.client(script, ROOM, "owner")?;
            for name in ["plain.txt", "with space & ünïcode 世界.txt"] {
                let path = format!("{script:?}/{name}");
                let data = format!("content of {name}");
                let upload = json!({ "path": path, "data": STANDARD.encode(&data) });
                client.call("upload", &upload)?;
                let url = client.call("download_url", &json!({ "path": path }))?;
                let url = url.as_str().context("a URL")?;
                let answer = http_request("GET", url, &[], &[])?;
                assert_eq!((answer.status, answer.text()), (200, data), "{url}");
                ensure!(
                    answer
                        .header("content-type")
                        .is_some_and(|kind| kind.starts_with("text/plain"))
                );
                let forged = url.replace("plain.txt", "other.txt");
                if forged != url {
                    let refused = http_request("GET", &forged, &[], &[])?;
                    ensure!(
                        refused.status >= 400,
                        "a changed URL answers {}",
                        refused.status
                    );
                }
            }
            s.server.restart()?;
        }
        Ok(())
    });
}

#[test]
fn every_participant_hears_of_changes_to_files_and_documents() {
    scenario(|s| {
        let [mut python, mut node] = {
            let [python, node] = SDKS;
            [s.client(python, ROOM, "p")?, s.client(node, ROOM, "n")?]
        };
        python.call("upload", &json!({ "path": "f.txt", "data": "" }))?;
        node.call(
            "move_path",
            &json!({ "source": "f.txt", "destination": "g.txt" }),
        )?;
        python.call("delete_path", &json!({ "path": "g.txt" }))?;
        node.call("create", &json!({ "path": "d.document" }))?;
        python.call(
            "move_path",
            &json!({ "source": "d.document", "destination": "e.document" }),
        )?;
        node.call("delete_path", &json!({ "path": "e.document" }))?;
        let expected = [
            json!({ "kind": "file.updated", "path": "f.txt" }),
            json!({ "kind": "file.moved", "source_path": "f.txt", "destination_path": "g.txt" }),
            json!({ "kind": "file.deleted", "path": "g.txt" }),
            json!({ "kind": "file.updated", "path": "d.document" }),
            json!({ "kind": "file.moved", "source_path": "d.document", "destination_path": "e.document" }),
            json!({ "kind": "file.deleted", "path": "e.document" }),
        ];
        let mut authors = Vec::new();
        for client in [&mut python, &mut node] {
            let mut events = wait_until("six events", || {
                let events = client.call("events", &json!({}))?;
                Ok(events
                    .as_array()
                    .filter(|events| events.len() >= 6)
                    .cloned())
            })?;
            let ids: Vec<Value> = events
                .iter_mut()
                .map(|event| event["participant_id"].take())
                .collect();
            for event in &mut events {
                event
                    .as_object_mut()
                    .map(|fields| fields.remove("participant_id"));
            }
            assert_eq!(events, expected);
            authors.push(ids);
        }
        // Each event names who did it, and names the same for everyone.
        assert_eq!(authors[0], authors[1]);
        assert_eq!(authors[0][0], authors[0][2]);
        assert_ne!(authors[0][0], authors[0][1]);
        Ok(())
    });
}

#[test]
fn documents_are_seen_moved_and_deleted_by_their_path_open_or_not() {
    scenario(|s| {
        for script in SDKS {
            let folder = format!("{script:?}");
            let at = |name: &str| format!("{folder}/{name}");
            let mut client = s.client(script, ROOM, "owner")?;
            client.call("open", &json!({ "path": at("a.document") }))?;
            let body = json!({ "path": at("a.document"), "tag": "body", "attributes": { "text": "kept" } });
            client.call("append", &body)?;
            client.call("close", &json!({ "path": at("a.document") }))?;
            assert_eq!(
                client.call("exists", &json!({ "path": at("a.document") }))?,
                json!(true)
            );
            let stat = client.call("stat", &json!({ "path": at("a.document") }))?;
            assert_eq!(
                (&stat["name"], &stat["is_folder"]),
                (&json!("a.document"), &json!(false))
            );
            assert_eq!(names(&mut client, &folder)?, ["a.document"]);

            let moved = json!({ "source": at("a.document"), "destination": at("b.document") });
            client.call("move_path", &moved)?;
            let kept = json!({ "document": { "content": [{ "body": { "text": "kept" } }] } });
            assert_eq!(s.describe(ROOM, &at("b.document"))?, kept);
            client.refused("describe", &json!({ "path": at("a.document") }))?;

            client.call("open", &json!({ "path": at("b.document") }))?;
            client.call("delete_path", &json!({ "path": at("b.document") }))?;
            client.refused("describe", &json!({ "path": at("b.document") }))?;
            // The open stream has ended by a close, so that the SDK can close it and open it anew.
            client.call("close", &json!({ "path": at("b.document") }))?;
            let empty = client.call("open", &json!({ "path": at("b.document") }))?;
            assert_eq!(empty, json!({ "document": { "content": [] } }));
        }
        Ok(())
    });
}

#[test]
fn a_deployed_schema_is_the_one_of_its_extension() {
    scenario(|s| {
        for script in SDKS {
            let name = format!("{script:?}").to_lowercase();
            let path = format!("x.{name}");
            let mut client = s.client(script, ROOM, "author")?;
            let missing = client.refused("open", &json!({ "path": path }))?;
            assert_eq!(missing.code, Some(1003), "{missing}");
            ensure!(
                missing.message.contains(&format!(".schemas/{name}.json")),
                "{missing}"
            );

            client.call(
                "deploy_schema",
                &json!({ "name": name, "schema": golden_schema()? }),
            )?;
            let opened = client.call("open", &json!({ "path": path }))?;
            assert_eq!(opened, json!({ "doc": { "children": [] } }));
            client.call("append", &json!({ "path": path, "tag": "item" }))?;
            client.call("close", &json!({ "path": path }))?;
            s.server.restart()?;
            let expected = json!({ "doc": { "children": [{ "item": { "children": [] } }] } });
            assert_eq!(s.describe(ROOM, &path)?, expected);
        }
        Ok(())
    });
}

/// The names in a folder, sorted, those of folders with a slash.
fn names(client: &mut SdkClient, folder: &str) -> Result<Vec<String>> {
    let entries = client.call("list", &json!({ "path": folder }))?;
    let mut names: Vec<String> = entries
        .as_array()
        .context("a list of entries")?
        .iter()
        .map(|entry| {
            let slash = if entry["is_folder"] == json!(true) {
                "/"
            } else {
                ""
            };
            format!("{}{slash}", entry["name"].as_str().unwrap_or_default())
        })
        .collect();
    names.sort();
    Ok(names)
}
