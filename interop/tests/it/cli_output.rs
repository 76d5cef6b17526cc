//! Our command line tool beside the published one: the same arguments, the same document, the same stdout.

use std::fs;

use anyhow::{Result, ensure};
use meshagent_testing::{Finished, Server, run_to_end};
use serde_json::{Value, json};

use crate::scenario::{Scenario, canonical, golden_schema, scenario, succeeded};

const ROOM: &str = "beside";

#[test]
fn both_tools_print_the_same() {
    scenario(|s| {
        let text = json!({ "text": { "delta": [{ "insert": "plain text" }] } });
        // One attribute for each element, since the published tool shuffles them.
        let first = json!({ "doc": { "children": [
            { "item": { "s": "high priority: Grüße, 世界 😀 \"\\\t\n\u{7f}", "children": [] } },
            { "item": { "n": 1e21, "children": [{ "item": { "s": "b1" } }] } },
            { "item": { "b": true, "children": [
                { "item": { "s": "b2", "children": [{ "item": { "n": 0.00001 } }] } },
                { "text": { "children": [text] } },
            ] } },
            { "item": { "n": -2.5 } },
            { "item": {} },
        ] } });
        let first = first.to_string();
        let schema = golden_schema()?;
        fs::write(s.folder().join("schema.json"), schema.to_string())?;
        // Each makes a document by the same command, and the other has to read it.
        for (tool, path) in [(Tool::Ours, "of-ours"), (Tool::Published, "of-theirs")] {
            let create = ["create", path, "--schema", "schema.json", "--json", &first];
            let created = done(s, tool, &create)?;
            assert_eq!(created, format!("Created document at {path}\n"));
            let printed = done(s, Tool::Ours, &["get", path])?;
            assert_eq!(printed, done(s, Tool::Published, &["get", path])?);
        }
        let path = "of-theirs";
        for args in [
            &["get", path, "--compact"][..],
            &["get", path, "--compact", "--pretty"],
            &["inspect", path],
            &["inspect", path, "--compact"],
            &["grep", path, "PRIORITY", "--compact"],
            &["grep", path, "PRIORITY", "--ignore-case"],
            &["grep", path, "b2", "--after", "1", "--compact"],
            &["grep", path, "^b[12]$", "--before", "9", "--compact"],
            &["grep", path, "True", "--compact"],
            &["grep", path, "世"],
        ] {
            let published = done(s, Tool::Published, args)?;
            let printed = done(s, Tool::Ours, args)?;
            assert_eq!(printed, published, "{args:?}");
        }
        Ok(())
    });
}

/// Where the bytes differ: attributes in another order, whole numbers with a fraction, `$id`s among the attributes.
#[test]
fn both_tools_mean_the_same() {
    scenario(|s| {
        let item =
            |s: &str, n: f64| json!({ "item": { "s": s, "n": n, "b": false, "children": [] } });
        let first =
            json!({ "doc": { "children": [item("a", 1.0), item("b", -1.5e15), item("c", 0.25)] } });
        let (first, schema) = (first.to_string(), golden_schema()?.to_string());
        fs::write(s.folder().join("schema.json"), schema)?;
        let create = ["create", "d", "--schema", "schema.json", "--json", &first];
        done(s, Tool::Ours, &create)?;
        for args in [
            &["get", "d"][..],
            &["get", "d", "--include-ids"],
            &["grep", "d", "[ab]", "--include-ids", "--compact"],
        ] {
            let published = parsed(&done(s, Tool::Published, args)?)?;
            assert_eq!(parsed(&done(s, Tool::Ours, args)?)?, published, "{args:?}");
        }
        Ok(())
    });
}

#[test]
fn both_tools_leave_the_same_document_after_a_patch() {
    scenario(|s| {
        // The published tool makes all elements anew, can't do so with texts, and does not see the root's attributes.
        let item = |s: &str| json!({ "item": { "s": s, "children": [] } });
        let first = json!({ "doc": { "children": [item("a"), item("b"), item("c")] } });
        let patches = [
            json!([]),
            json!([{ "op": "add", "path": "/doc/children/1", "value": item("x") }]),
            json!([
                { "op": "test", "path": "/doc/children/0/item/s", "value": "a" },
                { "op": "copy", "from": "/doc/children/1", "path": "/doc/children/-" },
                { "op": "move", "from": "/doc/children/0", "path": "/doc/children/2" },
            ]),
            json!([
                { "op": "replace", "path": "/doc/children/0/item/s", "value": "y" },
                { "op": "add", "path": "/doc/children/0/item/b", "value": true },
                { "op": "remove", "path": "/doc/children/1" },
            ]),
            json!([{ "op": "replace", "path": "", "value": { "doc": { "children": [item("z")] } } }]),
        ];
        let (first, schema) = (first.to_string(), golden_schema()?.to_string());
        fs::write(s.folder().join("schema.json"), schema)?;
        for path in ["ours", "theirs"] {
            let create = ["create", path, "--schema", "schema.json", "--json", &first];
            done(s, Tool::Ours, &create)?;
        }
        for patch in patches {
            let patch = patch.to_string();
            let printed = done(s, Tool::Ours, &["update", "ours", "--patch", &patch])?;
            let published = done(s, Tool::Published, &["update", "theirs", "--patch", &patch])?;
            assert_eq!(printed.replace("ours", "theirs"), published, "{patch}");
            let found = parsed(&done(s, Tool::Ours, &["get", "ours"])?)?;
            let expected = parsed(&done(s, Tool::Ours, &["get", "theirs"])?)?;
            assert_eq!(found, expected, "after {patch}");
        }
        Ok(())
    });
}

#[test]
fn both_tools_refuse_with_the_same_exit_code() {
    scenario(|s| {
        let schema = golden_schema()?.to_string();
        fs::write(s.folder().join("schema.json"), schema)?;
        let create = ["create", "here", "--schema", "schema.json"];
        done(s, Tool::Ours, &create)?;
        for args in [
            &create[..],
            &["create", "new", "--schema", "absent.json"],
            &["create", "new", "--schema", "schema.json", "--json", "{"],
            &[
                "create",
                "new",
                "--schema",
                "schema.json",
                "--json",
                r#"{"other": {}}"#,
            ],
            &["update", "here"],
            &["update", "here", "--patch", "{"],
            &["update", "here", "--patch", "{}"],
            &[
                "update",
                "here",
                "--patch",
                r#"[{"op": "leap", "path": ""}]"#,
            ],
            &["get"],
            &["get", "here", "--colour-blind"],
        ] {
            let published = run(s, Tool::Published, args)?;
            let printed = run(s, Tool::Ours, args)?;
            assert_eq!(printed.code, published.code, "{args:?}: {published:?}");
            ensure!(
                printed.code != Some(0) && printed.stdout.is_empty() && !printed.stderr.is_empty(),
                "{args:?}: {printed:?}"
            );
        }
        Ok(())
    });
}

#[derive(Clone, Copy, Debug)]
enum Tool {
    Ours,
    Published,
}

/// What `room sync ARGS` prints, which has to succeed.
fn done(s: &Scenario, tool: Tool, args: &[&str]) -> Result<String> {
    let finished = run(s, tool, args)?;
    succeeded(&format!("{tool:?}: {}", args.join(" ")), &finished)?;
    Ok(finished.stdout)
}

fn run(s: &Scenario, tool: Tool, args: &[&str]) -> Result<Finished> {
    let all = [&["room", "sync", args[0], "--room", ROOM], &args[1..]].concat();
    match tool {
        Tool::Published => s.cli(&all),
        Tool::Ours => {
            let mut ours = s.sdk.command(Server::binary()?);
            ours.args(&all)
                .current_dir(s.folder())
                .envs(s.server.owner_environment());
            run_to_end(ours, &s.logs, &format!("ours {}", args[0]))
        }
    }
}

fn parsed(text: &str) -> Result<Value> {
    Ok(canonical(&serde_json::from_str(text)?))
}
