//! Who may do what: tokens that don't open a room, and grants that limit what is done inside.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshagent_testing::{Credentials, Script, http_upgrade};
use serde_json::{Value, json};

use crate::scenario::{
    SDKS, Scenario, canonical, eventually_shows, golden_schema, golden_update, scenario,
};
use crate::wire::Wire;

const ROOM: &str = "guarded";

#[test]
fn tokens_that_do_not_open_the_room_are_refused_with_403() {
    scenario(|s| {
        let credentials = s.server.credentials().clone();
        let api = json!({ "sync": {} });
        let good = credentials.claims("someone", ROOM, &api);
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let with = |key: &str, value: Value| {
            let mut claims = good.clone();
            claims[key] = value;
            credentials.sign(&claims)
        };
        let without = |key: &str| {
            let mut claims = good.clone();
            claims.as_object_mut().map(|fields| fields.remove(key));
            credentials.sign(&claims)
        };
        let room_grant = |grant: Option<Value>| {
            let role = json!({ "name": "role", "scope": "agent" });
            let mut grants = vec![role, json!({ "name": "api", "scope": api })];
            grants.extend(grant);
            with("grants", json!(grants))
        };
        let hs256 = json!({ "alg": "HS256", "typ": "JWT" });
        let secret = &credentials.secret;
        let unsigned = {
            let signed = Credentials::sign_with(&json!({ "alg": "none" }), &good, secret);
            let end = signed.rfind('.').context("a signature")?;
            signed[..=end].to_owned()
        };
        let refused = [
            ("no token", String::new()),
            ("no JWT", "not.a.token".to_owned()),
            ("an API key", credentials.api_key()),
            (
                "signed by another secret",
                Credentials::sign_with(&hs256, &good, "another secret"),
            ),
            ("expired", with("exp", json!(now - 3600))),
            ("not valid yet", with("nbf", json!(now + 3600))),
            ("alg none, unsigned", unsigned),
            (
                "alg none, signed",
                Credentials::sign_with(&json!({ "alg": "none" }), &good, secret),
            ),
            (
                "alg HS512",
                Credentials::sign_with(&json!({ "alg": "HS512" }), &good, secret),
            ),
            (
                "no alg",
                Credentials::sign_with(&json!({ "typ": "JWT" }), &good, secret),
            ),
            (
                "another key's id",
                with("kid", json!("123e4567-e89b-12d3-a456-426614174000")),
            ),
            (
                "another project",
                with("sub", json!("123e4567-e89b-12d3-a456-426614174000")),
            ),
            ("no name", without("name")),
            ("no grants", without("grants")),
            ("no room grant", room_grant(None)),
            (
                "another room",
                room_grant(Some(json!({ "name": "room", "scope": "elsewhere" }))),
            ),
            (
                "a room grant that is no text",
                room_grant(Some(json!({ "name": "room", "scope": 7 }))),
            ),
            (
                "a room grant without scope",
                room_grant(Some(json!({ "name": "room" }))),
            ),
        ];
        let url = format!("{}/rooms/{ROOM}", s.server.url());
        let statuses = |token: &str| -> Result<[u16; 2]> {
            let header = format!("Bearer {token}");
            let by_header = http_upgrade(&url, &[("authorization", &header)])?;
            let by_query = http_upgrade(&format!("{url}?token={token}"), &[])?;
            Ok([by_header.status, by_query.status])
        };
        for (what, token) in &refused {
            assert_eq!(statuses(token)?, [403, 403], "{what}");
        }
        assert_eq!(
            statuses(&credentials.sign(&good))?,
            [101, 101],
            "a good token"
        );
        assert_eq!(
            statuses(&with("exp", json!(now + 3600)))?,
            [101, 101],
            "not expired yet"
        );
        assert_eq!(
            statuses(&without("kid"))?,
            [101, 101],
            "without the key's id"
        );

        // On 403 the SDKs give up instead of trying for ever.
        for script in SDKS {
            let mut client = s.unconnected_client(script, ROOM, "refused", &refused[3].1)?;
            let error = client.refused("connect", &json!({}))?;
            ensure!(error.message.contains("403"), "{script:?}: {error}");
        }
        Ok(())
    });
}

#[test]
fn a_read_only_path_can_be_read_and_echoed_but_not_changed() {
    scenario(|s| {
        make_document(s, "open/notes")?;
        let scope = json!({ "sync": { "paths": [{ "path": "open/*", "read_only": true }] } });
        let update = golden_update()?;

        let credentials = s.server.credentials();
        let token = credentials.sign(&credentials.claims("reader", ROOM, &scope));
        let mut reader = Wire::connect(s, ROOM, &token)?;
        reader.open("1", &json!({ "kind": "start", "path": "open/notes" }))?;
        let (_, state) = reader.chunk("1")?;
        let echo = reader.sync("1", state.as_bytes())?;
        ensure!(echo["type"] != "error", "an echo is answered by {echo}");
        let refused = reader.sync("1", update.as_bytes())?;
        assert_eq!(
            (&refused["type"], &refused["code"]),
            (&json!("error"), &json!(1001))
        );
        let create = json!({ "path": "open/new", "json": { "key": 1 }, "schema": null, "schema_path": null });
        assert_eq!(
            reader.invoke("sync", "create", &create)?["code"],
            json!(1001)
        );
        assert_eq!(s.describe(ROOM, "open/notes")?, first_document());

        // Both SDKs open it and follow it, although all that they publish is refused or an echo.
        for script in SDKS {
            let mut reader = s.client_with_scope(script, ROOM, "reader", &scope)?;
            reader.call("open", &json!({ "path": "open/notes", "create": false }))?;
            let append = json!({ "path": "open/notes", "tag": "item" });
            reader.call("append", &append)?;
            let close = json!({ "path": "open/notes" });
            if script == Script::PythonClient {
                // What was not kept is told at the close, which is all that this SDK looks at.
                let told = reader.refused("close", &close)?;
                ensure!(told.message.contains("read-only"), "{told:?}");
            } else {
                reader.call("close", &close)?;
            }
            assert_eq!(
                s.describe(ROOM, "open/notes")?,
                first_document(),
                "{script:?}"
            );
        }
        let mut follower = s.client_with_scope(Script::PythonClient, ROOM, "reader", &scope)?;
        follower.call("open", &json!({ "path": "open/notes", "create": false }))?;
        let mut author = s.client(Script::NodeClient, ROOM, "author")?;
        author.call("open", &json!({ "path": "open/notes" }))?;
        let append = json!({ "path": "open/notes", "tag": "item", "attributes": { "s": "news" } });
        author.call("append", &append)?;
        let second = author.call("json", &json!({ "path": "open/notes" }))?;
        eventually_shows(&mut follower, "open/notes", &second)
    });
}

#[test]
fn no_paths_and_no_sync_grant_mean_nothing_and_the_first_match_decides() {
    scenario(|s| {
        make_document(s, "notes")?;
        for scope in [
            json!({ "sync": { "paths": [] } }),
            json!({ "storage": {} }),
            json!({}),
        ] {
            for script in SDKS {
                let mut client = s.client_with_scope(script, ROOM, "nobody", &scope)?;
                for (op, arguments) in [
                    ("describe", json!({ "path": "notes" })),
                    ("open", json!({ "path": "notes" })),
                    ("create", json!({ "path": "mine", "json": { "key": 1 } })),
                ] {
                    let error = client.refused(op, &arguments)?;
                    assert_eq!(
                        error.code,
                        Some(1001),
                        "{script:?} with {scope}: {op}: {error}"
                    );
                }
            }
        }
        // Prefixes end in `*`; the first entry that matches decides, whatever comes after.
        let scope = json!({ "sync": { "paths": [
            { "path": "notes", "read_only": true },
            { "path": "note*" },
            { "path": "exact" },
        ] } });
        let mut client = s.client_with_scope(Script::PythonClient, ROOM, "some", &scope)?;
        let document = json!({ "key": 1 });
        client.call("create", &json!({ "path": "notebook", "json": document }))?;
        client.call("create", &json!({ "path": "exact", "json": document }))?;
        client.call("describe", &json!({ "path": "/notes" }))?;
        for path in ["exactly", "exact/below", "Exact", "other"] {
            let error = client.refused("create", &json!({ "path": path, "json": document }))?;
            assert_eq!(error.code, Some(1001), "{path}: {error}");
        }
        Ok(())
    });
}

#[test]
fn storage_grants_cover_a_folder_and_what_is_below() {
    scenario(|s| {
        let data = STANDARD.encode("data");
        let mut owner = s.client(Script::NodeClient, ROOM, "owner")?;
        for path in ["in/a.txt", "inside.txt", "out/b.txt"] {
            owner.call("upload", &json!({ "path": path, "data": data }))?;
        }
        let scope = json!({ "storage": { "paths": [{ "path": "in", "read_only": true }] } });
        for script in SDKS {
            let mut guest = s.client_with_scope(script, ROOM, "guest", &scope)?;
            let file = guest.call("download", &json!({ "path": "in/a.txt" }))?;
            assert_eq!(file["data"], json!(data));
            for (op, arguments) in [
                ("upload", json!({ "path": "in/new.txt", "data": data })),
                ("delete_path", json!({ "path": "in/a.txt" })),
                ("download", json!({ "path": "inside.txt" })),
                ("download", json!({ "path": "out/b.txt" })),
                ("download_url", json!({ "path": "out/b.txt" })),
            ] {
                let error = guest.refused(op, &arguments)?;
                assert_eq!(
                    error.code,
                    Some(1001),
                    "{script:?}: {op} {arguments}: {error}"
                );
            }
        }
        Ok(())
    });
}

fn make_document(s: &Scenario, path: &str) -> Result<()> {
    let mut author = s.client(Script::NodeClient, ROOM, "maker")?;
    let create = json!({ "path": path, "json": first_document(), "schema": golden_schema()? });
    author.call("create", &create)?;
    Ok(())
}

fn first_document() -> Value {
    canonical(&json!({ "doc": { "children": [{ "item": { "s": "first", "children": [] } }] } }))
}
