//! A server that was restored from an older copy lacks what its clients have. What each of them does then, and
//! what mends it, as `docs/operations.md` tells.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use meshagent_client::RoomClient;
use meshagent_document::Target;
use meshagent_testing::{Script, SdkClient, run_to_end, wait_until};
use serde_json::{Value, json};

use crate::scenario::{SDKS, Scenario, canonical, scenario, succeeded};

const ROOM: &str = "restored";
const PATH: &str = "notes.document";
const COPY: &str = "copy.db";

#[test]
fn published_clients_send_nothing_again_until_they_send_their_whole_state() {
    for script in SDKS {
        scenario(|s| {
            let mut client = restored(s, script)?;
            // It shows what the server lacks, and what it writes now reaches nobody.
            append(&mut client, "after")?;
            wait_until("the log and the metrics tell it", || {
                let is_told = s.server.metric("meshagent_clients_ahead_total")? > 0.0
                    && s.logs.tails(1000).contains(AHEAD_LINE);
                Ok(is_told.then_some(()))
            })?;
            assert_eq!(s.describe(ROOM, PATH)?, document(&["before ⚓"]));
            wait_until("the client is told", || {
                let events = client.call("events", &json!({}))?;
                let events = events.as_array().context("events")?;
                let is_told = |event: &Value| event["status"] == "ahead";
                Ok(events.iter().any(is_told).then_some(()))
            })?;
            // The workaround.
            client.call("sync_state", &json!({ "path": PATH }))?;
            eventually_describes(s, &["before ⚓", "lost ü", "lost too", "after"])?;
            append(&mut client, "again")?;
            eventually_describes(s, &["before ⚓", "lost ü", "lost too", "after", "again"])?;
            client.call("close", &json!({ "path": PATH }))?;
            Ok(())
        });
    }
}

#[test]
fn published_clients_that_open_the_document_again_go_on_from_what_the_server_has() {
    for script in SDKS {
        scenario(|s| {
            let mut client = restored(s, script)?;
            client.call("close", &json!({ "path": PATH }))?;
            let view = client.call("open", &json!({ "path": PATH }))?;
            assert_eq!(canonical(&view), document(&["before ⚓"]));
            append(&mut client, "after")?;
            eventually_describes(s, &["before ⚓", "after"])
        });
    }
}

#[test]
fn all_that_published_clients_have_together_is_there_when_each_has_sent_its_state() {
    scenario(|s| {
        let mut clients = SDKS
            .map(|script| s.client(script, ROOM, &format!("{script:?}")))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        for client in &mut clients {
            client.call("open", &json!({ "path": PATH }))?;
        }
        append(&mut clients[0], "before")?;
        eventually_describes(s, &["before"])?;
        copy(s)?;
        append(&mut clients[0], "by python")?;
        eventually_describes(s, &["before", "by python"])?;
        append(&mut clients[1], "by npm")?;
        eventually_describes(s, &["before", "by python", "by npm"])?;
        restore(s)?;
        for client in &mut clients {
            wait_for_connection(client)?;
        }
        // Both write on, and then the one relays what the other wrote before that one does.
        append(&mut clients[0], "python again")?;
        append(&mut clients[1], "npm again")?;
        for client in clients.iter_mut().rev() {
            client.call("sync_state", &json!({ "path": PATH }))?;
        }
        let all = ["before", "by python", "by npm", "python again", "npm again"];
        wait_until("all is there", || {
            let shown = s.describe(ROOM, PATH)?.to_string();
            Ok(all.iter().all(|text| shown.contains(text)).then_some(()))
        })?;
        assert_eq!(
            s.server
                .metric("meshagent_update_conflicts_total")?
                .to_string(),
            "0"
        );
        Ok(())
    });
}

#[test]
fn our_client_sends_what_is_missing_by_itself() {
    scenario(|s| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let builder = RoomClient::builder()
            .api_url(s.server.url())
            .room(ROOM)
            .token(s.server.credentials().token("ours", ROOM));
        let room = runtime.block_on(builder.connect())?;
        let ours = runtime.block_on(room.sync().open(PATH))?;
        let saved = || -> Result<()> {
            let saved = async { tokio::time::timeout(Duration::from_mins(1), ours.saved()).await };
            Ok(runtime.block_on(saved)??)
        };
        let write = |text: &str| -> Result<()> {
            ours.edit(|d| d.append_child(Target::Root, body(text)))??;
            Ok(())
        };
        write("before ⚓")?;
        write("to be deleted")?;
        saved()?;
        copy(s)?;
        write("lost ü")?;
        let second = ours.read(|d| {
            let second = d.root().children().nth(1);
            second.and_then(|child| child.id().map(str::to_owned))
        });
        ours.edit(|d| d.delete(&second.unwrap_or_default()))??;
        saved()?;
        let mut other = s.client(Script::NodeClient, ROOM, "other")?;
        other.call("open", &json!({ "path": PATH }))?;
        append(&mut other, "lost by another")?;
        wait_until("ours shows it", || {
            let shown = ours.read(|d| d.to_json(false)).to_string();
            Ok(shown.contains("lost by another").then_some(()))
        })?;
        other.call("disconnect", &json!({}))?;

        // Nothing is written afterwards: the missing part comes with the reconnect.
        restore(s)?;
        eventually_describes(s, &["before ⚓", "lost ü", "lost by another"])?;
        write("after")?;
        saved()?;
        eventually_describes(s, &["before ⚓", "lost ü", "lost by another", "after"])
    });
}

/// What the log says of a client that has what the server lacks.
const AHEAD_LINE: &str = "operations that the server lacks";

/// A connected client that has two edits more than the server, which was restored.
fn restored(s: &mut Scenario, script: Script) -> Result<SdkClient> {
    let mut client = s.client(script, ROOM, "editor")?;
    client.call("open", &json!({ "path": PATH }))?;
    append(&mut client, "before ⚓")?;
    eventually_describes(s, &["before ⚓"])?;
    copy(s)?;
    append(&mut client, "lost ü")?;
    append(&mut client, "lost too")?;
    eventually_describes(s, &["before ⚓", "lost ü", "lost too"])?;
    restore(s)?;
    wait_for_connection(&mut client)?;
    assert_eq!(s.describe(ROOM, PATH)?, document(&["before ⚓"]));
    let shown = client.call("json", &json!({ "path": PATH }))?;
    assert_eq!(
        canonical(&shown),
        document(&["before ⚓", "lost ü", "lost too"])
    );
    Ok(client)
}

/// Copies the database as `docs/operations.md` says, while the server runs.
fn copy(s: &Scenario) -> Result<()> {
    let program =
        "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('VACUUM INTO ?', [sys.argv[2]])";
    let mut python = s.sdk.command("python3");
    python
        .args(["-c", program])
        .arg(database(s))
        .arg(s.folder().join(COPY));
    let finished = run_to_end(python, &s.logs, "copy")?;
    succeeded("the copy", &finished)
}

/// Puts the copy in place of the database.
fn restore(s: &mut Scenario) -> Result<()> {
    s.server.terminate()?;
    let database = database(s);
    for suffix in ["-wal", "-shm"] {
        let mut file = database.clone().into_os_string();
        file.push(suffix);
        if Path::new(&file).exists() {
            fs::remove_file(file)?;
        }
    }
    fs::copy(s.folder().join(COPY), database)?;
    s.server.start_again()
}

fn database(s: &Scenario) -> std::path::PathBuf {
    s.folder().join("data/meshagent.db")
}

fn append(client: &mut SdkClient, text: &str) -> Result<()> {
    let body = json!({ "path": PATH, "tag": "body", "attributes": { "text": text } });
    client.call("append", &body)?;
    Ok(())
}

fn body(text: &str) -> Value {
    json!({ "body": { "text": text } })
}

fn document(texts: &[&str]) -> Value {
    let bodies: Vec<Value> = texts.iter().map(|text| body(text)).collect();
    canonical(&json!({ "document": { "content": bodies } }))
}

fn eventually_describes(s: &Scenario, texts: &[&str]) -> Result<()> {
    let expected = document(texts);
    let mut last = Value::Null;
    let shown = wait_until(&format!("the server shows {texts:?}"), || {
        last = s.describe(ROOM, PATH).unwrap_or_default();
        Ok((last == expected).then_some(()))
    });
    shown.with_context(|| format!("the last that it showed was {last}"))
}

fn wait_for_connection(client: &mut SdkClient) -> Result<()> {
    wait_until("the client is back", || {
        let status = client.call("status", &json!({}))?;
        ensure!(status["closed"] == json!(false), "the client has given up");
        let is_streaming = client.call("is_streaming", &json!({ "path": PATH }))?;
        let is_back = status["connected"] == json!(true) && is_streaming == json!(true);
        Ok(is_back.then_some(()))
    })
}
