//! `meshagent room sync import`: small and large exports, and interruptions.
//!
//! `IMPORT_MEGABYTES=1024 MESHAGENT_BIN=target/release/meshagent cargo test -p meshagent-cli
//! import` is the full size.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use meshagent_client::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::serve::Server;
use crate::stress::{alone, room_url, setting, token};
use crate::{KEY, Ran, meshagent, run};

const FOLDER: &str = ".threads/anthropic";
const PATIENCE: Duration = Duration::from_mins(10);
const MAX_KILOBYTES: u64 = 200 << 10;

#[test]
fn conversations_become_threads_and_list_entries() {
    let world = World::new(&[]);
    let message = |fields: Value| {
        let mut message = json!({ "sender": "human", "created_at": "2025-01-01T00:00:01Z" });
        for (name, value) in fields.as_object().unwrap() {
            message[name] = value.clone();
        }
        message
    };
    let messages = json!([
        message(json!({ "uuid": "m1", "text": "ignored", "content": [
            { "type": "text", "text": " two " },
            { "type": "tool_use", "text": "no" },
            7,
            { "type": "text", "text": "parts\n" },
        ] })),
        message(json!({
            "uuid": "m2", "sender": "Assistant", "text": " Grüße \u{1f600} ", "content": [],
        })),
        "no message",
        message(json!({
            "text": "no",
            "content": [{ "type": "image", "start_timestamp": "2025-02-02T00:00:00Z" }],
            "created_at": null,
            "attachments": [{ "file_name": "a.pdf" }, { "file_name": "A.PDF" }, {}],
            "files": null,
        })),
        message(json!({
            "sender": "tool",
            "files": [{ "file_name": "b" }, { "file_name": "c" }],
            "created_at": 5,
        })),
        message(json!({ "uuid": "empty", "text": "  " })),
    ]);
    let export = json!([
        { "uuid": "not a uuid", "name": " Plans ", "created_at": "2025-01-01T00:00:00Z",
          "updated_at": "2025-01-02T00:00:00Z", "chat_messages": messages },
        5,
        { "uuid": "6F1F3DC1F7A54DB184AAC0E1C8CF93C3", "name": null, "chat_messages": [],
          "created_at": "2025-03-03T00:00:00Z" },
        { "uuid": "urn:uuid:6f1f3dc1-f7a5-4db1-84aa-c0e1c8cf93c3", "chat_messages": [],
          "created_at": "2025-03-03T00:00:00Z" },
        { "name": "no id", "chat_messages": [] },
        { "uuid": "no messages", "chat_messages": {} },
        { "uuid": "last", "chat_messages": [{ "text": "over the limit" }] },
    ]);
    // An invalid conversation does not affect the others.
    let text =
        export
            .to_string()
            .replacen(",5,", r#",5,{"uuid":"\ud800","chat_messages":[nul]},"#, 1);
    fs::write(world.file(), format!("\u{feff}{text}\n")).unwrap();

    let ran = run(&mut world.import(&["--limit", "7", "--user-name", "Ada"]));
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (
            Some(0),
            "Imported 3 thread(s); skipped existing: 0; skipped invalid: 4; messages: 4.\n"
        ),
        "{}",
        ran.stderr
    );
    let warnings: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(warnings.len(), 4, "{warnings:?}");
    for (number, reason) in [
        (1, "not a JSON object"),
        (2, "hex escape"),
        (5, "`uuid` is missing"),
        (6, "`chat_messages` is missing or not a list"),
    ] {
        let begins = format!("warning: skipped conversations[{number}]: ");
        assert!(
            warnings
                .iter()
                .any(|line| line.starts_with(&begins) && line.contains(reason)),
            "no warning with {reason:?} for {number}: {warnings:?}"
        );
    }

    // `uuid5(NAMESPACE_URL, "not a uuid")`.
    let first = "27adbbd5-52b8-5654-aaae-03f7f54959f1";
    let second = "6f1f3dc1-f7a5-4db1-84aa-c0e1c8cf93c3";
    world.in_room(async |room| {
        let message = |id: &str, text: &str, created_at: &str, author: &str| {
            json!({ "message": {
                "id": id, "text": text, "created_at": created_at, "author_name": author,
                "attachments": [],
            } })
        };
        let id = |number: usize| format!("not a uuid:message:{number}");
        let expected = json!({ "thread": { "name": first, "properties": [
            { "members": { "items": [
                { "member": { "name": "Ada" } },
                { "member": { "name": "assistant" } },
                { "member": { "name": "tool" } },
            ] } },
            { "messages": { "external_thread_id": "not a uuid", "items": [
                message("m1", "two parts", "2025-01-01T00:00:01Z", "Ada"),
                message("m2", "Grüße \u{1f600}", "2025-01-01T00:00:01Z", "assistant"),
                message(&id(3), "attached file a.pdf", "2025-02-02T00:00:00Z", "Ada"),
                message(&id(4), "attached files b, c", "2025-01-02T00:00:00Z", "tool"),
            ] } },
        ] } });
        assert_eq!(room.describe(&format!("{first}.thread")).await, expected);
        let line = |name: &str, file: &str, created_at: &str, modified_at: &str| {
            json!({ "thread": {
                "name": name, "path": format!("{FOLDER}/{file}.thread"),
                "created_at": created_at, "modified_at": modified_at,
            } })
        };
        let time = "2025-03-03T00:00:00Z";
        let urn = format!("urn:uuid:{second}");
        let expected = json!({ "thread_list": { "threads": [
            line("Plans", first, "2025-01-01T00:00:00Z", "2025-01-02T00:00:00Z"),
            line("6F1F3DC1F7A54DB184AAC0E1C8CF93C3", second, time, time),
            line(&urn, &format!("{second} 2"), time, time),
        ] } });
        assert_eq!(room.describe("index.threadl").await, expected);
    });

    // Without the limit, the rest is imported. With other names and from a pipe, all threads are
    // replaced, and the list has one entry for each.
    let ran = run(&mut world.import(&[]));
    let expected = "Imported 1 thread(s); skipped existing: 3; skipped invalid: 4; messages: 1.\n";
    assert_eq!(ran.stdout, expected, "{}", ran.stderr);
    let mut again = world.command(&[
        "--file",
        "-",
        "--overwrite",
        "--human-name",
        "Bob",
        "--include-empty-messages",
    ]);
    let ran = run(again.stdin(File::open(world.file()).unwrap()));
    let expected = "Imported 4 thread(s); skipped existing: 0; skipped invalid: 4; messages: 6.\n";
    assert_eq!(ran.stdout, expected, "{}", ran.stderr);
    world.in_room(async |room| {
        let thread = room.describe(&format!("{first}.thread")).await;
        assert_eq!(
            thread["thread"]["properties"][0]["members"]["items"][0]["member"]["name"],
            "Bob"
        );
        let list = room.describe("index.threadl").await;
        assert_eq!(
            list["thread_list"]["threads"].as_array().map(Vec::len),
            Some(4)
        );
    });
}

#[test]
fn invalid_export_is_refused() {
    let world = World::new(&[]);
    for (text, code, expected) in [
        ("", 2, "not a JSON list"),
        ("{}", 2, "not a JSON list"),
        ("[] []", 2, "unexpected data after the list"),
        (r#"[{"uuid": "a", "chat_messages": []}"#, 2, "truncated"),
        (
            r#"[{"uuid": "b", "chat_messages": []}, {"uuid": "c", "chat_messages": ["#,
            2,
            "truncated",
        ),
    ] {
        fs::write(world.file(), text).unwrap();
        let ran = run(&mut world.import(&[]));
        assert_eq!(ran.code, Some(code), "{text}: {}", ran.stderr);
        assert!(ran.stderr.contains(expected), "{text}: {}", ran.stderr);
    }
    // The conversations before the end of the truncated file are imported.
    assert_eq!(world.listed(), 1);

    let ran = run(&mut world.command(&["--file", "missing.json"]));
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    let ran = run(&mut world.import(&["--thread-dir", " / "]));
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    let ran = run(&mut world.import(&["--limit", "0"]));
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
}

/// One conversation is larger than one request should be, another exceeds the document limit.
#[test]
fn large_conversation_is_uploaded_in_parts_and_a_too_large_one_leaves_nothing() {
    let world = World::new(&["--max-document-bytes", "12000000"]);
    let messages = |count: usize| -> Vec<Value> {
        let text = "x".repeat(100_000);
        let message =
            |number| json!({ "uuid": format!("m{number}"), "text": format!("{number} {text}") });
        (0..count).map(message).collect()
    };
    let export = json!([
        { "uuid": uuid(1), "chat_messages": messages(100) },
        { "uuid": uuid(2), "chat_messages": messages(130) },
        { "uuid": uuid(3), "chat_messages": messages(1) },
    ]);
    fs::write(world.file(), export.to_string()).unwrap();
    // A partial thread, as a killed import leaves it.
    world.in_room(async |room| {
        let path = format!("{FOLDER}/{}.thread.part", uuid(1));
        let json = json!({ "thread": {} });
        room.0.sync().create(&path, Some(json), None).await.unwrap();
    });
    let ran = run(&mut world.import(&[]));
    let expected =
        "Imported 2 thread(s); skipped existing: 0; skipped invalid: 1; messages: 101.\n";
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (Some(0), expected),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("conversations[1]") && ran.stderr.contains("12000000 bytes"),
        "{}",
        ran.stderr
    );
    world.in_room(async |room| {
        let thread = room.describe(&format!("{}.thread", uuid(1))).await;
        let items = &thread["thread"]["properties"][1]["messages"]["items"];
        let items = items.as_array().unwrap();
        assert_eq!(items.len(), 100);
        for (number, item) in items.iter().enumerate() {
            let text = item["message"]["text"].as_str().unwrap();
            assert!(
                text.starts_with(&format!("{number} x")) && text.len() > 100_000,
                "message {number}"
            );
        }
        let mut names = room.names().await;
        names.sort();
        let thread = |number| format!("{}.thread", uuid(number));
        assert_eq!(
            names,
            [thread(1), thread(3), "index.threadl".to_owned()],
            "parts are left"
        );
    });
}

#[test]
fn import_from_an_open_pipe_ends_with_the_server() {
    let world = World::new(&[]);
    let conversation = json!({ "uuid": uuid(0), "chat_messages": [] });
    fs::write(world.file(), format!("[{conversation},")).unwrap();
    let (mut import, feeding) = world.spawn_with_pipe(u64::MAX);
    world.wait_for_thread(0, &mut import);
    let kill = ["-s", "KILL", &world.server.id().to_string()];
    assert!(Command::new("kill").args(kill).status().unwrap().success());
    let (ran, _) = finish(import);
    assert_eq!(ran.code, Some(5), "{}", ran.stderr);
    assert!(ran.stdout.starts_with("Imported "), "{}", ran.stdout);
    drop(feeding.join());
}

#[test]
fn large_export_uses_little_memory_and_can_be_resumed() {
    let _machine = alone();
    let megabytes: usize = setting("IMPORT_MEGABYTES", 60);
    let world = World::new(&["--durability", "os"]);
    let ends = write_large(&world.file(), megabytes << 20);
    let conversations = ends.len();
    assert!(conversations > 100, "{conversations} conversations");

    // The import is killed, then interrupted by Ctrl-C, then completed. The pipe gets only a part
    // of the export, so that the first two can't complete it.
    let (quarter, half) = (conversations / 4, conversations / 2);
    let (mut import, feeding) = world.spawn_with_pipe(ends[quarter]);
    world.wait_for_thread(quarter / 2, &mut import);
    import.kill().unwrap();
    import.wait().unwrap();
    drop(feeding.join());

    let (mut import, feeding) = world.spawn_with_pipe(ends[half]);
    world.wait_for_thread(half - 1, &mut import);
    signal(&import, "INT");
    let (ran, _) = finish(import);
    drop(feeding.join());
    assert_eq!(ran.code, Some(130), "{}", ran.stderr);
    assert!(ran.stdout.starts_with("Imported "), "{}", ran.stdout);
    assert!(ran.stderr.contains("error: interrupted"), "{}", ran.stderr);
    assert!(!ran.stderr.contains('\r'), "a bar without a terminal");
    let listed = world.listed();
    assert!(
        listed >= half && listed < conversations,
        "{listed} of {conversations} threads are listed"
    );

    let (ran, peak) = finish(world.spawn());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let counts: Vec<usize> = ran
        .stdout
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect();
    assert_eq!(
        (counts[0] + counts[1], counts[1] >= listed, counts[2]),
        (conversations, true, 0),
        "{}",
        ran.stdout
    );
    assert!(
        peak > 1 << 10 && peak < MAX_KILOBYTES,
        "the import took {peak} kB"
    );

    world.in_room(async |room| {
        let list = room.describe("index.threadl").await;
        let lines = list["thread_list"]["threads"].as_array().unwrap();
        assert_eq!(lines.len(), conversations);
        for (number, line) in lines.iter().enumerate() {
            assert_eq!(
                line["thread"]["path"],
                format!("{FOLDER}/{}.thread", uuid(number))
            );
        }
        for number in (0..conversations).step_by(conversations / 40) {
            let thread = room.describe(&format!("{}.thread", uuid(number))).await;
            let items = &thread["thread"]["properties"][1]["messages"]["items"];
            let items = items.as_array().unwrap();
            assert_eq!(items.len(), message_count(number), "conversation {number}");
        }
        let names = room.names().await;
        assert_eq!(
            names.len(),
            conversations + 1,
            "more than threads and their list"
        );
    });
}

/// Writes an export like a real one, with each text twice and many irrelevant fields. Returns the
/// position of the end of each conversation.
fn write_large(path: &Path, bytes: usize) -> Vec<u64> {
    let mut file = BufWriter::new(File::create(path).unwrap());
    let (mut written, mut ends) = (0, Vec::new());
    let text = "All work and no play makes \"Jack\" a dull boy.\n".repeat(40);
    let file_content = "x".repeat(4 << 10);
    while written < bytes {
        let number = ends.len();
        let messages: Vec<Value> = (0..message_count(number))
            .map(|message| {
                json!({
                    "uuid": format!("{number}-{message}"),
                    "sender": if message % 2 == 0 { "human" } else { "assistant" },
                    "created_at": "2025-03-01T10:00:00Z",
                    "text": text,
                    "content": [{ "type": "text", "text": text, "citations": [] }],
                    "attachments": [{ "file_name": "a.txt", "extracted_content": file_content }],
                    "files": [],
                })
            })
            .collect();
        let conversation = json!({
            "uuid": uuid(number),
            "name": format!("Conversation {number}"),
            "created_at": "2025-03-01T09:00:00Z",
            "updated_at": "2025-03-01T11:00:00Z",
            "chat_messages": messages,
        });
        let conversation = conversation.to_string();
        let separator = if number == 0 { "[" } else { ",\n" };
        write!(file, "{separator}{conversation}").unwrap();
        written += separator.len() + conversation.len();
        ends.push(written as u64);
    }
    file.write_all(b"]").unwrap();
    file.flush().unwrap();
    ends
}

/// Every hundredth conversation has 6 MB of text.
fn message_count(number: usize) -> usize {
    if number % 100 == 20 { 3_300 } else { 20 }
}

fn uuid(number: usize) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

/// A server, and a folder for the export.
struct World {
    home: TempDir,
    server: Server,
}

struct InRoom(Connection);

impl InRoom {
    async fn describe(&self, name: &str) -> Value {
        self.0
            .sync()
            .describe(&format!("{FOLDER}/{name}"))
            .await
            .unwrap()
    }

    async fn names(&self) -> Vec<String> {
        let entries = self.0.storage().list(FOLDER).await.unwrap();
        entries.into_iter().map(|entry| entry.name).collect()
    }
}

impl World {
    fn new(arguments: &[&str]) -> Self {
        let home = TempDir::new().unwrap();
        let serve = ["serve", "--listen", "127.0.0.1:0"];
        let arguments = [&serve[..], arguments].concat();
        let server =
            Server::start(meshagent(home.path(), &arguments).env("MESHAGENT_API_KEY", KEY));
        Self { home, server }
    }

    fn file(&self) -> std::path::PathBuf {
        self.home.path().join("conversations.json")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let command = ["room", "sync", "import", "--room", "room"];
        let mut command = meshagent(self.home.path(), &[&command[..], arguments].concat());
        command
            .current_dir(self.home.path())
            .env("MESHAGENT_API_KEY", KEY)
            .env("MESHAGENT_API_URL", self.server.url());
        command
    }

    fn import(&self, arguments: &[&str]) -> Command {
        self.command(&[&["--file", "conversations.json"], arguments].concat())
    }

    fn spawn(&self) -> Child {
        let mut import = self.import(&[]);
        import
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// An import of the first bytes of the export, from a pipe that stays open until the
    /// import ends.
    fn spawn_with_pipe(&self, bytes: u64) -> (Child, JoinHandle<ChildStdin>) {
        let mut import = self.command(&["--file", "-"]);
        let import = import
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut import = import.spawn().unwrap();
        let mut pipe = import.stdin.take().unwrap();
        let file = File::open(self.file()).unwrap();
        let feeding = std::thread::spawn(move || {
            // Fails after the end of the import.
            let _fed = io::copy(&mut file.take(bytes), &mut pipe);
            pipe
        });
        (import, feeding)
    }

    fn in_room(&self, work: impl AsyncFnOnce(&InRoom)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let url = room_url(self.server.url());
            let room = Connection::connect(&url, &token("looker")).await.unwrap();
            let room = InRoom(room);
            work(&room).await;
            room.0.close().await;
        });
    }

    fn wait_for_thread(&self, number: usize, import: &mut Child) {
        let path = format!("{FOLDER}/{}.thread", uuid(number));
        let started = Instant::now();
        self.in_room(async |room| {
            while !room.0.storage().exists(&path).await.unwrap() {
                assert!(started.elapsed() < PATIENCE, "{path} does not come");
                assert!(import.try_wait().unwrap().is_none(), "the import ended");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }

    /// The number of entries in the list.
    fn listed(&self) -> usize {
        let mut count = 0;
        self.in_room(async |room| {
            let list = room.describe("index.threadl").await;
            count = list["thread_list"]["threads"]
                .as_array()
                .map_or(0, Vec::len);
        });
        count
    }
}

/// Waits for the end of an import that prints little; returns also its peak memory in kilobytes.
fn finish(mut import: Child) -> (Ran, u64) {
    let started = Instant::now();
    let mut peak = 0;
    while import.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < PATIENCE, "the import does not end");
        peak = peak.max(peak_kilobytes(import.id()));
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = import.wait_with_output().unwrap();
    let ran = Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    (ran, peak)
}

fn signal(process: &Child, name: &str) {
    let mut kill = Command::new("kill");
    let kill = kill.args(["-s", name, &process.id().to_string()]);
    assert!(kill.status().unwrap().success());
}

/// 0 if the process has ended.
fn peak_kilobytes(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.map_or(0, |number| number.parse().unwrap())
}
