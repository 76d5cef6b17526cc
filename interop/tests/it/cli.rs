//! The published command line tool, with the three settings that `serve` prints.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use meshagent_testing::{Finished, Script};
use serde_json::{Value, json};

use crate::samples::find_samples;
use crate::scenario::{Scenario, canonical, golden_schema, scenario, succeeded};

const ROOM: &str = "myroom";

#[test]
fn create_get_grep_inspect_and_update() {
    scenario(|s| {
        let schema = golden_schema()?;
        fs::write(s.folder().join("schema.json"), schema.to_string())?;
        let first = json!({ "doc": { "children": [
            { "item": { "s": "high priority", "n": 1, "b": true, "children": [] } },
            { "item": { "s": "low", "children": [{ "item": { "s": "priority too", "children": [] } }] } },
        ] } });
        fs::write(s.folder().join("first.json"), first.to_string())?;

        let create = [
            "create",
            "docs/plan",
            "--schema",
            "schema.json",
            "--json-file",
            "first.json",
        ];
        sync(s, &create)?;
        assert_eq!(sync_json(s, &["get", "docs/plan"])?, canonical(&first));
        assert_eq!(sync_json(s, &["inspect", "docs/plan"])?, canonical(&schema));
        let found = sync_json(s, &["grep", "docs/plan", "priority"])?;
        assert_eq!(found.as_array().map(Vec::len), Some(2), "{found}");

        sync(s, &["update", "docs/plan", "--patch", "[]"])?;
        assert_eq!(sync_json(s, &["get", "docs/plan"])?, canonical(&first));
        let patch = json!([
            { "op": "remove", "path": "/doc/children/0" },
            { "op": "add", "path": "/doc/children/-", "value": { "item": { "n": 2.5, "children": [] } } },
        ]);
        sync(s, &["update", "docs/plan", "--patch", &patch.to_string()])?;
        s.server.restart()?;
        let second = json!({ "doc": { "children": [
            { "item": { "s": "low", "children": [{ "item": { "s": "priority too", "children": [] } }] } },
            { "item": { "n": 2.5, "children": [] } },
        ] } });
        assert_eq!(sync_json(s, &["get", "docs/plan"])?, canonical(&second));

        let again = s.cli(&command(&create))?;
        ensure!(
            again.code == Some(1),
            "a second create is refused: {again:?}"
        );
        Ok(())
    });
}

#[test]
fn create_with_json_that_the_schema_forbids_names_the_violations_and_leaves_nothing() {
    scenario(|s| {
        fs::write(s.folder().join("schema.json"), golden_schema()?.to_string())?;
        let refused = s.cli(&command(&[
            "create",
            "my/path",
            "--schema",
            "./schema.json",
            "--json",
            r#"{"key":"value"}"#,
        ]))?;
        ensure!(refused.code == Some(1), "{refused:?}");
        ensure!(
            refused.stdout.contains("key"),
            "no violation is named: {}",
            refused.stdout
        );
        let several = json!({ "doc": { "colour": "red", "children": [
            { "item": { "n": "many" } },
            { "paragraph": {} },
        ] } });
        let refused = s.cli(&command(&[
            "create",
            "my/path",
            "--schema",
            "./schema.json",
            "--json",
            &several.to_string(),
        ]))?;
        ensure!(refused.code == Some(1), "{refused:?}");
        for place in ["colour", "/children/0", "paragraph"] {
            ensure!(
                refused.stdout.contains(place),
                "{place} is not named: {}",
                refused.stdout
            );
        }

        let mut client = s.client(Script::PythonClient, ROOM, "looker")?;
        assert_eq!(
            client.call("exists", &json!({ "path": "my/path" }))?,
            json!(false)
        );
        let missing = client.refused("describe", &json!({ "path": "my/path" }))?;
        assert_eq!(missing.code, Some(1003));
        Ok(())
    });
}

#[test]
fn import_makes_a_thread_of_each_conversation_of_an_export() {
    scenario(|s| {
        write_export(s)?;
        sync(s, &["import", "--file", "./conversations.json"])?;
        s.server.restart()?;

        let folder = ".threads/anthropic";
        let list = sync_json(s, &["get", &format!("{folder}/index.threadl")])?;
        let threads = list["thread_list"]["threads"]
            .as_array()
            .context("the list's threads")?;
        assert_eq!(threads.len(), 2, "{list}");
        assert_eq!(threads[0]["thread"]["name"], json!("Plans"));

        let path = format!("{folder}/6f1f3dc1-f7a5-4db1-84aa-c0e1c8cf93c3.thread");
        let thread = s.describe(ROOM, &path)?;
        // The root's own attribute is one that only `describe` can show to this SDK.
        assert_eq!(
            thread["thread"]["name"],
            json!("6f1f3dc1-f7a5-4db1-84aa-c0e1c8cf93c3")
        );
        let opened = sync_json(s, &["get", &path])?;
        let texts = serde_json::to_string(&opened)?;
        ensure!(
            texts.contains("What shall we do?") && texts.contains("Wait for rain."),
            "{texts}"
        );

        let again = s.cli(&command(&["import", "--file", "./conversations.json"]))?;
        succeeded("a second import", &again)?;
        ensure!(
            again.stdout.contains("skipped existing: 2"),
            "{}",
            again.stdout
        );
        let over = s.cli(&command(&[
            "import",
            "--file",
            "./conversations.json",
            "--overwrite",
        ]))?;
        succeeded("an import that overwrites", &over)?;
        ensure!(over.stdout.contains("2 thread(s)"), "{}", over.stdout);
        Ok(())
    });
}

#[test]
fn the_commands_of_the_page_run_as_printed() {
    let Some(samples) = find_samples() else {
        return;
    };
    scenario(|s| {
        fs::write(
            s.folder().join("briefing.schema.json"),
            golden_schema()?.to_string(),
        )?;
        write_export(s)?;
        let sample = samples.first("CLI commands", "bash")?;
        let lines: Vec<&str> = sample
            .code
            .lines()
            .filter(|line| !line.is_empty())
            .collect();
        ensure!(lines.len() == 7, "the page's commands are {lines:?}");
        for line in lines {
            let finished = shell(s, line)?;
            succeeded(line, &finished)?;
        }
        // The page's `create` comes with JSON that no schema with elements allows in this flat form.
        fs::write(s.folder().join("schema.json"), golden_schema()?.to_string())?;
        let create = samples.first("create(", "bash")?;
        let refused = shell(s, &create.code)?;
        ensure!(refused.code == Some(1), "{refused:?}");
        Ok(())
    });
}

#[test]
fn the_published_room_connect_runs_a_command_as_a_participant() {
    scenario(|s| {
        let program = "\
import asyncio
from meshagent.api import RoomClient
async def main():
    async with RoomClient() as room:
        print('in', room.room_name, 'as', room.local_participant.get_attribute('name'))
        document = await room.sync.open(path='notes.document')
        document.root.append_child(tag_name='heading', attributes={'text': 'from the published CLI'})
        await room.sync.close(path='notes.document')
asyncio.run(main())
";
        fs::write(s.folder().join("program.py"), program)?;
        let room = ["room", "connect", "--room=other-room"];
        // With an identity the CLI makes the token itself; without one it asks the server for it.
        for identity in [Some("--identity=writer"), None] {
            let mut args = room.to_vec();
            args.extend(identity);
            args.extend(["--", "python3", "program.py"]);
            let finished = s.cli(&args)?;
            succeeded("the program", &finished)?;
            ensure!(
                finished.stdout.contains("in other-room as"),
                "{}",
                finished.stdout
            );
            if identity.is_some() {
                ensure!(finished.stdout.contains("as writer"), "{}", finished.stdout);
            }
        }
        s.server.restart()?;
        let heading = json!({ "heading": { "text": "from the published CLI" } });
        let expected = json!({ "document": { "content": [heading, heading] } });
        assert_eq!(
            s.look(Script::NodeClient, "other-room", "notes.document")?,
            expected
        );
        Ok(())
    });
}

/// `room sync SUBCOMMAND --room ROOM ARGS`.
fn command<'a>(args: &[&'a str]) -> Vec<&'a str> {
    let mut command = vec!["room", "sync", args[0], "--room", ROOM];
    command.extend(&args[1..]);
    command
}

fn sync(s: &Scenario, args: &[&str]) -> Result<String> {
    let finished = s.cli(&command(args))?;
    succeeded(&args.join(" "), &finished)?;
    Ok(finished.stdout)
}

fn sync_json(s: &Scenario, args: &[&str]) -> Result<Value> {
    let output = sync(s, &[args, &["--compact"]].concat())?;
    let value: Value = serde_json::from_str(&output).with_context(|| format!("JSON: {output}"))?;
    Ok(canonical(&value))
}

/// A command line of the page, by the shell, with the published tool first on the path.
fn shell(s: &Scenario, line: &str) -> Result<Finished> {
    let mut bash = s.sdk.command("bash");
    bash.args(["-ec", line])
        .current_dir(s.folder())
        .envs(s.server.owner_environment())
        .env("HOME", s.folder());
    meshagent_testing::run_to_end(bash, &s.logs, "page command")
}

/// An export as Claude makes them, with two conversations.
fn write_export(s: &Scenario) -> Result<()> {
    let message = |uuid: &str, sender: &str, text: &str| {
        json!({
            "uuid": uuid,
            "sender": sender,
            "text": text,
            "content": [{ "type": "text", "text": text }],
            "created_at": "2025-03-01T10:00:00Z",
            "attachments": [],
            "files": [],
        })
    };
    let export = json!([
        {
            "uuid": "6f1f3dc1-f7a5-4db1-84aa-c0e1c8cf93c3",
            "name": "Plans",
            "created_at": "2025-03-01T09:59:00Z",
            "updated_at": "2025-03-01T10:05:00Z",
            "chat_messages": [
                message("m-1", "human", "What shall we do?"),
                message("m-2", "assistant", "Wait for rain."),
            ],
        },
        {
            "uuid": "0b0f5a52-6c1e-4b73-9d6e-5f5a3ddc1b11",
            "name": "",
            "created_at": "2025-03-02T09:59:00Z",
            "updated_at": "2025-03-02T10:05:00Z",
            "chat_messages": [message("m-3", "human", "Grüße, 世界")],
        },
    ]);
    fs::write(s.folder().join("conversations.json"), export.to_string())?;
    Ok(())
}
