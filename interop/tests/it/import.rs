//! Our `room sync import` beside the published one: the same export, the same documents.
//!
//! `docs/import.md` has the differences; those that show in documents are stepped around here by name.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use meshagent_testing::{Finished, Script, Server, run_to_end};
use serde_json::{Value, json};

use crate::scenario::{Scenario, canonical, scenario, succeeded};

const THEIRS: &str = "theirs";
const OURS: &str = "ours";
const FOLDER: &str = ".threads/anthropic";

#[test]
fn import_makes_what_the_published_command_makes() {
    scenario(|s| {
        let export = export();
        fs::write(s.folder().join("conversations.json"), export.to_string())?;
        for flags in [
            &[][..],
            &[
                "--overwrite",
                "--user-name",
                " Ada ",
                "--assistant-name",
                "Claude",
            ],
            &[
                "--overwrite",
                "--human-name",
                "",
                "--include-empty-messages",
            ],
            &["--thread-dir", " ./old/claude/ ", "--limit", "3"],
        ] {
            let theirs = theirs(s, flags)?;
            let ours = ours(s, OURS, flags)?;
            succeeded("the published import", &theirs)?;
            succeeded("our import", &ours)?;
            // They say the same, and ours the number of messages besides.
            let said = theirs.stdout.lines().last().unwrap_or_default();
            let said = said.trim_end_matches('.');
            ensure!(
                !said.is_empty() && ours.stdout.starts_with(said),
                "{flags:?}: they say {said:?}, we say {:?}",
                ours.stdout
            );
            // Each that is skipped is named by its place.
            let places = |text: &str| {
                let places = text.split("conversations[").skip(1);
                let places = places.filter_map(|rest| rest.split(']').next());
                places.map(ToOwned::to_owned).collect::<Vec<_>>()
            };
            assert_eq!(places(&theirs.stdout), places(&ours.stderr), "{flags:?}");
            let folder = match flags {
                ["--thread-dir", ..] => "old/claude",
                _ => FOLDER,
            };
            compare(s, folder).with_context(|| format!("with {flags:?}"))?;
        }
        Ok(())
    });
}

#[test]
fn either_command_goes_on_where_the_other_one_stopped() {
    scenario(|s| {
        let export = export();
        fs::write(s.folder().join("conversations.json"), export.to_string())?;
        // One of the first three is no conversation. Theirs first, then ours in the same room; ours first, then theirs.
        succeeded("the published import", &theirs(s, &["--limit", "3"])?)?;
        let rest = ours(s, THEIRS, &[])?;
        succeeded("our import", &rest)?;
        ensure!(
            rest.stdout.contains("skipped existing: 2"),
            "{}",
            rest.stdout
        );
        succeeded("our import", &ours(s, OURS, &["--limit", "3"])?)?;
        let rest = published(s, OURS, &[])?;
        succeeded("the published import", &rest)?;
        ensure!(
            rest.stdout.contains("skipped existing: 2"),
            "{}",
            rest.stdout
        );
        compare(s, FOLDER)
    });
}

fn theirs(s: &Scenario, flags: &[&str]) -> Result<Finished> {
    published(s, THEIRS, flags)
}

fn published(s: &Scenario, room: &str, flags: &[&str]) -> Result<Finished> {
    s.cli(&[&arguments(room)[..], flags].concat())
}

fn ours(s: &Scenario, room: &str, flags: &[&str]) -> Result<Finished> {
    let mut ours = s.sdk.command(Server::binary()?);
    ours.args(arguments(room))
        .args(flags)
        .current_dir(s.folder())
        .envs(s.server.owner_environment());
    run_to_end(ours, &s.logs, "our import")
}

fn arguments(room: &str) -> [&str; 7] {
    [
        "room",
        "sync",
        "import",
        "--room",
        room,
        "--file",
        "conversations.json",
    ]
}

/// Both rooms have the same documents in the folder.
fn compare(s: &Scenario, folder: &str) -> Result<()> {
    let mut theirs = s.client(Script::NodeClient, THEIRS, "describer of theirs")?;
    let mut ours = s.client(Script::NodeClient, OURS, "describer of ours")?;
    let mut same = |path: &str| {
        let path = json!({ "path": path });
        let theirs = timeless(&canonical(&theirs.call("describe", &path)?));
        let ours = timeless(&canonical(&ours.call("describe", &path)?));
        ensure!(theirs == ours, "{path}: theirs is {theirs}, ours is {ours}");
        Ok(ours)
    };
    let list = same(&format!("{folder}/index.threadl"))?;
    let lines = list["thread_list"]["threads"].as_array();
    let lines = lines.context("the list's threads")?;
    ensure!(lines.len() >= 2, "{lines:?}");
    for line in lines {
        let path = line["thread"]["path"].as_str().context("a line's path")?;
        ensure!(same(path)?["thread"].is_object(), "{path} is no thread");
    }
    Ok(())
}

/// The document with times of the import made equal: those of conversations that have none in the export.
fn timeless(value: &Value) -> Value {
    match value {
        Value::String(text) if is_time(text) && !text.starts_with("2025-") => json!("now"),
        Value::Array(items) => items.iter().map(timeless).collect(),
        Value::Object(fields) => {
            let fields = fields.iter();
            Value::Object(
                fields
                    .map(|(name, value)| (name.clone(), timeless(value)))
                    .collect(),
            )
        }
        _ => value.clone(),
    }
}

/// `2026-01-31T12:00:00Z`, with or without parts of a second.
fn is_time(text: &str) -> bool {
    let shape = |c: char| if c.is_ascii_digit() { '0' } else { c };
    let shape: String = text.chars().map(shape).collect();
    shape.starts_with("0000-00-00T00:00:00") && shape.ends_with('Z')
}

/// What the rules make a difference for.
fn export() -> Value {
    let time = "2025-03-01T10:00:00.123456Z";
    let texts = json!([
        { "uuid": "m-1", "sender": "human", "text": "not this", "created_at": time,
          "content": [{ "type": "text", "text": "  two " }, { "type": "thinking", "text": "hm" }, 5, { "type": "text", "text": "parts \u{1f}" }] },
        { "uuid": " m-2 ", "sender": " ASSISTANT ", "text": "\tGrüße, 世界 \u{1f600}\n", "content": [], "created_at": " " },
        { "uuid": 7, "sender": "human", "text": "not this", "content": [{ "type": "tool_use", "start_timestamp": " ", "stop_timestamp": "2025-02-02" }] },
        null,
        { "sender": "Tool", "text": "from a tool", "content": "none" },
        { "text": "from nobody", "content": [[]], "created_at": 1.5e300 },
        { "uuid": "m-6", "sender": "human", "attachments": [{ "file_name": " a.pdf " }, {}, 1], "files": [{ "file_name": "A.pdf" }] },
        { "uuid": "m-7", "sender": "human", "content": [{ "type": "text", "text": " " }], "text": "not this",
          "files": [{ "file_name": "b" }, { "file_name": "c" }], "attachments": [{ "file_name": "a" }] },
        { "uuid": "m-8", "sender": "assistant", "text": "", "created_at": time },
    ]);
    json!([
        { "uuid": "6F1F3DC1-F7A5-4DB1-84AA-C0E1C8CF93C3", "name": " Plans ", "created_at": "2025-03-01T09:59:00Z",
          "updated_at": "2025-03-01T10:05:00Z", "chat_messages": texts, "account": { "uuid": "x" } },
        "no conversation",
        { "uuid": "0b0f5a52-6c1e-4b73-9d6e-5f5a3ddc1b11", "name": "", "created_at": "2025-03-02T09:59:00Z", "chat_messages": [] },
        { "uuid": "{6f1f3dc1f7a54db184aac0e1c8cf93c3}", "name": "the first one's id", "updated_at": "2025-03-03", "chat_messages": texts },
        { "uuid": "urn:uuid:6f1f3dc1-f7a5-4db1-84aa-c0e1c8cf93c3", "chat_messages": [{ "text": "third" }], "updated_at": "2025-03-04" },
        { "uuid": "chat 12", "name": "No times", "chat_messages": [{ "sender": "assistant", "text": "hello" }] },
        { "uuid": "a1234567-89ab-cdef-0123-456789abcdeg", "name": 5, "created_at": "2025-03-05", "chat_messages": texts },
        { "uuid": " ", "chat_messages": [] },
        { "chat_messages": [] },
        { "uuid": "x", "chat_messages": null },
        [],
    ])
}
