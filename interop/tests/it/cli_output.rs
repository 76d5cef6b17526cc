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
            if patch == "[]" {
                assert_eq!(printed, "Nothing was changed\n");
            } else {
                assert_eq!(printed.replace("ours", "theirs"), published, "{patch}");
            }
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

/// The published `room storage` asks for an HTTP interface that is not served here. But it does the same, by the same
/// code, with files of this machine, and prints the same of them; so ours does it in the room, and the published one
/// in a folder. `exists` it only has for what is elsewhere, and `mv` not at all.
#[test]
fn both_tools_print_the_same_of_files() {
    scenario(|s| {
        let site = s.folder().join("site");
        fs::create_dir_all(site.join("sub/deep"))?;
        for (name, text) in [
            ("a.txt", "Grüße\n"),
            ("b.csv", "1,2"),
            ("sub/c.txt", ""),
            ("sub/deep/d", "d"),
        ] {
            fs::write(site.join(name), text)?;
        }
        // Published: one line for all of it.
        storage(s, Tool::Ours, &["cp", "-r", "site", "room://site"])?;
        for (published, ours) in [
            (&["ls", "site"][..], &["ls", "room://site"][..]),
            (&["ls", "site", "-r"], &["ls", "site", "-r"]),
            (&["ls", "site/a.txt"], &["ls", "room://site/a.txt"]),
            (&["ls", "site/*.txt"], &["ls", "room://site/*.txt"]),
            (&["ls", "site/?.csv"], &["ls", "site/?.csv"]),
            (
                &["cp", "site/a.txt", "new/x"],
                &["cp", "site/a.txt", "room://new/x"],
            ),
            (
                &["cp", "site/a.txt", "new"],
                &["cp", "site/a.txt", "room://new"],
            ),
            (&["cp", "new/x", "x"], &["cp", "room://new/x", "y"]),
            (
                &["cp", "-r", "site/sub/deep", "new/"],
                &["cp", "-r", "site/sub/deep", "room://new/"],
            ),
            (&["ls", "-r", "new"], &["ls", "-r", "room://new"]),
            (&["get", "new/x"], &["get", "room://new/x"]),
            (&["get", "site/sub/c.txt"], &["get", "site/sub/c.txt"]),
            (&["rm", "new/x"], &["rm", "room://new/x"]),
            (&["rm", "site/*.csv"], &["rm", "room://site/*.csv"]),
            (&["rm", "-r", "site/sub"], &["rm", "-r", "room://site/sub"]),
            (&["ls", "site", "-r"], &["ls", "site", "-r"]),
        ] {
            let expected = storage(s, Tool::Published, published)?;
            let mut printed = storage(s, Tool::Ours, ours)?;
            match ours {
                // Published: a line end behind any text.
                ["get", ..] => printed.push('\n'),
                ["cp", "room://new/x", "y"] => printed = printed.replace("'y'", "'x'"),
                // Published: the folder; ours: each file in it.
                ["cp", "-r", ..] => printed = printed.replace("deep/d'", "deep'"),
                _ => {}
            }
            assert_eq!(printed, expected, "{ours:?}");
        }
        for args in [
            &["ls", "absent"][..],
            &["get", "absent"],
            &["rm", "absent"],
            &["rm", "site"],
            &["cp", "site", "other"],
            &["cp", "absent", "room://x"],
        ] {
            for tool in [Tool::Ours, Tool::Published] {
                let refused = run_in(s, tool, "storage", args)?;
                ensure!(refused.code != Some(0), "{tool:?} {args:?}: {refused:?}");
            }
        }
        // Once it is served, the two can be compared in a room.
        let published = run_in(s, Tool::Published, "storage", &["ls", "room://site"])?;
        ensure!(published.code != Some(0), "{published:?}");
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

/// What `room storage ARGS` prints, likewise.
fn storage(s: &Scenario, tool: Tool, args: &[&str]) -> Result<String> {
    let finished = run_in(s, tool, "storage", args)?;
    succeeded(&format!("{tool:?}: {}", args.join(" ")), &finished)?;
    Ok(finished.stdout)
}

fn run(s: &Scenario, tool: Tool, args: &[&str]) -> Result<Finished> {
    run_in(s, tool, "sync", args)
}

fn run_in(s: &Scenario, tool: Tool, group: &str, args: &[&str]) -> Result<Finished> {
    let all = [&["room", group, args[0], "--room", ROOM], &args[1..]].concat();
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
