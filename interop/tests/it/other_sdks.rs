//! What the SDKs of other languages put on the wire: Dart and .NET give the token in the query, cut
//! message ids to 16 bits and open with nothing but a path; browsers offer the token as a subprotocol.

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshagent_testing::{Script, http_upgrade};
use serde_json::json;

use crate::scenario::{eventually_shows, golden_schema, golden_update, scenario};
use crate::wire::Wire;

const ROOM: &str = "others";

#[test]
fn dart_and_dotnet_open_edit_and_close_with_16_bit_message_ids() {
    scenario(|s| {
        let mut python = s.client(Script::PythonClient, ROOM, "python")?;
        python.call(
            "open",
            &json!({ "path": "shared", "schema": golden_schema()? }),
        )?;

        let token = s.server.credentials().token("dart", ROOM);
        let mut dart = Wire::connect(s, ROOM, &token)?;
        // Ids go 65534, 65535, 0, 1 and so are used again.
        dart.truncate_ids(16, 65_534);
        let (opened, started) = dart.open("1", &json!({ "kind": "start", "path": "shared" }))?;
        assert_eq!(opened, json!({ "type": "control", "method": "open" }));
        ensure!(
            started["type"] != "error",
            "the start chunk is answered by {started}"
        );
        let (state, _) = dart.chunk("1")?;
        assert_eq!(state["type"], json!("binary"));
        let headers = state["headers"]
            .as_object()
            .context("the state's headers")?;
        let keys: Vec<&str> = headers.keys().map(String::as_str).collect();
        assert_eq!(keys.len(), 3, "{keys:?}");
        assert_eq!(
            (&headers["kind"], &headers["path"]),
            (&json!("state"), &json!("shared"))
        );
        assert_eq!(headers["schema"]["$root_tag_ref"], json!("#/$defs/doc"));

        let update = golden_update()?;
        let stored = dart.sync("1", update.as_bytes())?;
        ensure!(
            stored["type"] != "error",
            "the update is answered by {stored}"
        );
        let expected = json!({ "doc": { "children": [{ "item": { "s": "a", "children": [] } }] } });
        eventually_shows(&mut python, "shared", &expected)?;
        let again = dart.sync("1", update.as_bytes())?;
        ensure!(again["type"] != "error", "an echo is answered by {again}");

        python.call("append", &json!({ "path": "shared", "tag": "item" }))?;
        let (headers, payload) = dart.chunk("1")?;
        assert_eq!(
            headers["headers"],
            json!({ "kind": "sync", "path": "shared" })
        );
        ensure!(!STANDARD.decode(payload)?.is_empty());

        let closed = dart.close_stream("1")?;
        ensure!(
            closed["type"] != "error",
            "the close is answered by {closed}"
        );
        while dart.chunk("1")?.0["type"] != "control" {}
        Ok(())
    });
}

#[test]
fn an_open_without_create_makes_the_document() {
    scenario(|s| {
        let token = s.server.credentials().token("dart", ROOM);
        let mut dart = Wire::connect(s, ROOM, &token)?;
        dart.truncate_ids(16, 0);
        let start = json!({ "kind": "start", "path": "new.document" });
        dart.open("a", &start)?;
        assert_eq!(dart.chunk("a")?.0["headers"]["kind"], json!("state"));
        assert_eq!(
            s.describe(ROOM, "new.document")?,
            json!({ "document": { "content": [] } })
        );

        // With `create` false it is not made, and the stream says why.
        let start = json!({ "kind": "start", "path": "absent.document", "create": false });
        let (opened, started) = dart.open("b", &start)?;
        let refusal = [opened, started]
            .into_iter()
            .find(|answer| answer["type"] == "error");
        let refusal = match refusal {
            Some(refusal) => refusal,
            None => dart.chunk("b")?.0,
        };
        assert_eq!(refusal["code"], json!(1003), "{refusal}");
        Ok(())
    });
}

#[test]
fn bytes_that_are_no_update_are_refused_and_change_nothing_and_no_bytes_are_a_no_op() {
    scenario(|s| {
        let token = s.server.credentials().token("careless", ROOM);
        let mut wire = Wire::connect(s, ROOM, &token)?;
        let schema = golden_schema()?;
        let start = json!({ "kind": "start", "path": "kept", "schema": schema });
        wire.open("1", &start)?;
        let (_, before) = wire.chunk("1")?;
        let refused = wire.sync("1", b"some bytes")?;
        assert_eq!(
            (&refused["type"], &refused["code"]),
            (&json!("error"), &json!(1002))
        );
        let nothing = wire.sync("1", b"")?;
        ensure!(
            nothing["type"] != "error",
            "no bytes are answered by {nothing}"
        );

        // The stream goes on, and the document is as it was.
        wire.open("2", &json!({ "kind": "start", "path": "kept" }))?;
        assert_eq!(wire.chunk("2")?.1, before);
        let stored = wire.sync("1", golden_update()?.as_bytes())?;
        ensure!(
            stored["type"] != "error",
            "an update is answered by {stored}"
        );
        assert_eq!(wire.chunk("2")?.0["headers"]["kind"], json!("sync"));
        Ok(())
    });
}

#[test]
fn a_token_offered_as_subprotocol_is_taken_and_the_subprotocol_echoed() {
    scenario(|s| {
        let token = s.server.credentials().token("browser", ROOM);
        let protocol = format!("meshagent-room.{token}");
        let mut browser = s.wire("browser")?;
        let url = s.server.socket_url(ROOM);
        let answer = browser.call("connect", &json!({ "url": url, "protocols": [protocol] }))?;
        assert_eq!(answer, json!({ "status": 101, "protocol": protocol }));

        let http_url = format!("{}/rooms/{ROOM}", s.server.url());
        let wrong = http_upgrade(
            &http_url,
            &[("sec-websocket-protocol", "meshagent-room.x.y.z")],
        )?;
        assert_eq!(wrong.status, 403);
        Ok(())
    });
}

#[test]
fn unknown_tools_and_calls_are_refused_and_cost_only_the_request() {
    scenario(|s| {
        let token = s.server.credentials().token("curious", ROOM);
        let mut wire = Wire::connect(s, ROOM, &token)?;
        for (toolkit, tool) in [("sync", "explode"), ("nowhere", "create")] {
            let refused = wire.invoke(toolkit, tool, &json!({}))?;
            assert_eq!(
                refused["type"],
                json!("error"),
                "{toolkit}.{tool}: {refused}"
            );
        }
        for path in ["a/../b", "", ".", "a\u{0}b", "a\\b"] {
            let input =
                json!({ "path": path, "json": { "key": 1 }, "schema": null, "schema_path": null });
            let refused = wire.invoke("sync", "create", &input)?;
            assert_eq!(refused["type"], json!("error"), "{path:?}: {refused}");
        }
        let nowhere = wire.sync("no such call", b"")?;
        assert_eq!(nowhere["type"], json!("error"), "{nowhere}");
        wire.open("1", &json!({ "kind": "start", "path": "x.document" }))?;
        wire.chunk("1")?;
        let (twice, _) = wire.open("1", &json!({ "kind": "start", "path": "x.document" }))?;
        assert_eq!(twice["type"], json!("error"), "{twice}");
        let going_on = wire.sync("1", b"")?;
        ensure!(
            going_on["type"] != "error",
            "the first call goes on: {going_on}"
        );
        Ok(())
    });
}
