//! Hostile text in names, in documents and from a server, which tries to control a terminal or to
//! forge messages: every command escapes it.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::thread;

use meshagent_protocol::{Content, Control, PacketLimits, PacketReader, ServerToClient};
use serde_json::{Value, json};

use crate::room::{Home, PLAN, refused};
use crate::terminal::Terminal;
use crate::{KEY, meshagent, run};

/// Sets the window title and colours, clears the screen by C1 controls, deletes characters, changes
/// the direction, and forges a line.
const BAD: &str =
    "\u{1b}]0;owned\u{7}\u{1b}[31m\u{9b}2J\u{7f}\u{8}\u{202e}\u{2066}\r\nhint: run this\u{2028}";
/// An api scope whose JSON escapes the controls, so that they are in the decoded text only.
const SCOPE: &str = r#"{"\u001b]0;owned\u0007\u001b[2J\u202e\nhint: run this": {}}"#;

/// Hostile text in paths, which may contain direction controls only.
const PATH: &str = "b\u{f6}se\u{202e}nalp";
const FILE: &str = "ordner\u{2066}/datei\u{202e}gpj.txt";

/// The output of a command or shell script on a terminal, stdout and stderr together.
fn screen(command: &mut Command) -> (String, ExitStatus) {
    let mut terminal = Terminal::new();
    command.stdout(terminal.end()).stderr(terminal.end());
    let mut child = command.spawn().unwrap();
    // Otherwise reading from the terminal would not end.
    command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let text = terminal.read_to_end();
    (text, child.wait().unwrap())
}

/// Describes the control characters in a text, except those that commands print themselves.
fn harm(text: &str) -> Option<String> {
    // Colours and the progress line.
    let own = [
        ("\u{1b}[32m", ""),
        ("\u{1b}[36m", ""),
        ("\u{1b}[0m", ""),
        ("\r\u{1b}[K", ""),
        ("\u{1b}[K", ""),
        ("\r[", "["),
    ];
    let rest = own.iter().fold(text.to_owned(), |text, (own, plain)| {
        text.replace(own, plain)
    });
    let is_bad = |char: char| {
        char != '\n' && char.is_control()
            || matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}')
            || matches!(char, '\u{2066}'..='\u{2069}' | '\u{2028}')
    };
    let bad: Vec<char> = rest.chars().filter(|char| is_bad(*char)).collect();
    (!bad.is_empty()).then(|| format!("{bad:?} in {text:?}"))
}

#[track_caller]
fn assert_harmless(text: &str, what: &str) {
    assert_eq!(harm(text), None, "{what}");
    assert!(!text.contains("\nhint: run this"), "{what}: {text:?}");
}

/// The names of the commands that a help text lists.
fn commands(home: &Path, of: &[&str]) -> Vec<String> {
    let help = run(&mut meshagent(home, &[of, &["--help"]].concat())).stdout;
    let (_, listed) = help.split_once("Commands:\n").unwrap();
    let names = listed
        .lines()
        .take_while(|line| line.starts_with("  "))
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help");
    names.map(str::to_owned).collect()
}

/// A home directory with hostile input files, and a room with hostile content.
fn hostile_home() -> Home {
    let home = Home::new();
    let write = |name: &str, text: &str| fs::write(home.path().join(name), text).unwrap();
    write(
        "doc.json",
        &json!({ "doc": { "s": BAD, "t": "owned" } }).to_string(),
    );
    write(
        "wrong.json",
        &json!({ "doc": { "title": 1, BAD: BAD, "children": [{ BAD: {} }] } }).to_string(),
    );
    write(
        "patch.json",
        &json!([{ "op": "replace", "path": format!("/doc/{BAD}"), "value": BAD }]).to_string(),
    );
    write(
        "good.json",
        &json!([{ "op": "replace", "path": "/doc/s", "value": format!("{BAD}2") }]).to_string(),
    );
    write(
        "test.json",
        &json!([{ "op": "test", "path": "/doc/s", "value": BAD.to_owned() + "x" }]).to_string(),
    );
    write("export.json", &json!([
        { "uuid": BAD, "name": BAD, "chat_messages": [{ "text": BAD }] },
        { BAD: BAD },
        { "uuid": "a", "name": BAD, "chat_messages": [{ BAD: BAD, "sender": BAD, "text": BAD }] },
    ]).to_string());
    write(
        "token.yaml",
        &format!(
            "version: v1\nkind: ParticipantToken\nidentity: a\napi: {{{}: 1}}\n",
            json!(BAD)
        ),
    );
    write("spec.yaml", &format!("version: v1\nkind: {}\n", json!(BAD)));
    write("bad.txt", BAD);
    write("editor", "cat wrong.json > \"$1\"");
    home.done(&["sync", "create", PATH, "--json-file", "doc.json"]);
    home.done(&[
        "sync",
        "create",
        "plan",
        "--schema",
        "schema.json",
        "--json",
        PLAN,
    ]);
    let target = format!("room://{FILE}");
    home.done(&["storage", "cp", "bad.txt", &target]);
    home
}

#[test]
fn commands_escape_hostile_names_and_content() {
    let home = hostile_home();
    let file = format!("room://{FILE}");
    let missing = format!("{PATH}\u{202e}x");
    let steps: Vec<(&str, Vec<&str>)> = vec![
        ("sync", vec!["create", PATH, "--json-file", "doc.json"]),
        (
            "sync",
            vec!["create", "b\u{202e}", "--json-file", "doc.json"],
        ),
        (
            "sync",
            vec![
                "create",
                "new",
                "--schema",
                "schema.json",
                "--json-file",
                "wrong.json",
            ],
        ),
        ("sync", vec!["create", "new", "--json", BAD]),
        ("sync", vec!["create", BAD]),
        ("sync", vec!["get", PATH]),
        (
            "sync",
            vec!["get", PATH, "--include-ids", "--version", "--compact"],
        ),
        ("sync", vec!["get", PATH, "--color", "always"]),
        ("sync", vec!["get", &missing]),
        ("sync", vec!["grep", PATH, "owned"]),
        ("sync", vec!["grep", PATH, "(\u{202e}\u{1b}"]),
        ("sync", vec!["inspect", PATH]),
        ("sync", vec!["update", PATH, "--patch-file", "patch.json"]),
        ("sync", vec!["update", PATH, "--patch-file", "test.json"]),
        (
            "sync",
            vec!["update", PATH, "--patch-file", "good.json", "--dry-run"],
        ),
        (
            "sync",
            vec![
                "update",
                PATH,
                "--patch-file",
                "good.json",
                "--if-version",
                BAD,
            ],
        ),
        ("sync", vec!["update", PATH, "--patch-file", "good.json"]),
        ("sync", vec!["update", PATH, "--patch", BAD]),
        ("sync", vec!["edit", "plan"]),
        ("sync", vec!["watch", &missing]),
        ("sync", vec!["import", "--file", "export.json"]),
        ("sync", vec!["import", "--file", BAD]),
        ("sync", vec!["ls"]),
        ("sync", vec!["ls", "--long"]),
        ("sync", vec!["ls", "--json"]),
        ("sync", vec!["ls", &missing]),
        (
            "sync",
            vec!["export", PATH, "--schema-output", "schema.out"],
        ),
        (
            "sync",
            vec![
                "export",
                PATH,
                "--output",
                "out.json",
                "--schema-output",
                "-",
            ],
        ),
        ("sync", vec!["delete", "b\u{202e}"]),
        ("sync", vec!["delete", &missing]),
        (
            "sync",
            vec!["validate", "wrong.json", "--schema", "schema.json"],
        ),
        (
            "sync",
            vec!["validate", "bad.txt", "--schema", "schema.json"],
        ),
        ("storage", vec!["ls"]),
        ("storage", vec!["ls", "-r", "--long"]),
        ("storage", vec!["ls", "-r", "--json"]),
        ("storage", vec!["cp", &file, "-"]),
        ("storage", vec!["cp", &file, "out\u{202e}.txt"]),
        ("storage", vec!["cp", "-r", "room://", "copies"]),
        ("storage", vec!["cp", &missing, "copies"]),
        ("storage", vec!["get", FILE]),
        ("storage", vec!["get", PATH]),
        ("storage", vec!["exists", FILE]),
        ("storage", vec!["exists", &missing]),
        ("storage", vec!["mv", FILE, "b\u{202e}.txt"]),
        ("storage", vec!["mv", FILE, "b"]),
        ("storage", vec!["rm", "b\u{202e}.txt"]),
        ("storage", vec!["rm", &missing]),
    ];
    let mut faults = Vec::new();
    for (toolkit, arguments) in &steps {
        let mut command = home.command(&[&[*toolkit], &arguments[..]].concat());
        command
            .env("EDITOR", "sh ./editor")
            .env("TMPDIR", home.path());
        let (shown, _) = screen(&mut command);
        let what = format!("{toolkit} {arguments:?}");
        faults.extend(harm(&shown).map(|harm| format!("{what}: {harm}")));
        // The output is the content of a file, whose lines are kept.
        let is_file = arguments[0] == "get" || arguments.contains(&"-");
        // Each command prints something.
        if shown.is_empty() || !is_file && shown.contains("\nhint: run this") {
            faults.push(format!("{what}: {shown:?}"));
        }
    }
    for toolkit in ["sync", "storage"] {
        for name in commands(home.path(), &["room", toolkit]) {
            let is_tried = steps
                .iter()
                .any(|(of, step)| *of == toolkit && step[0] == name);
            assert!(is_tried, "{toolkit} {name}");
        }
    }
    let others: Vec<Vec<&str>> = vec![
        vec!["token", "--key", KEY, "--input", "token.yaml"],
        vec!["token", "--key", KEY, "--input", "spec.yaml"],
        vec!["token", "--key", BAD, "--input", "spec.yaml"],
        vec!["token", "--input", BAD],
        vec!["room", "connect", "--room", "r", "--", BAD],
        vec!["room", "connect", "--room", BAD, "--", "true"],
        vec!["room", "connect", "--room", "r", "--meshagent-token", SCOPE],
        vec!["room", "sync", "get", "x", "--room", BAD],
        vec!["serve", "--listen", BAD],
        vec!["serve", "--log", BAD],
        vec!["completions", BAD],
        vec!["man", BAD],
        vec![BAD],
    ];
    // Clap removes whole escape sequences from a text before checks, but prints them.
    let sequence = "\u{1b}]0;owned\u{7}\u{1b}[2J";
    let alone = [
        vec![sequence],
        vec!["serve", "--log", sequence],
        vec!["room", "sync", "get", "x", "--room", sequence, "--frob"],
        vec!["room", "sync", "get", "--help"],
    ];
    for arguments in others.iter().chain(&alone) {
        let mut command = meshagent(home.path(), arguments);
        command.env("TERM", "xterm").env_remove("NO_COLOR");
        command.env("MESHAGENT_ROOM", sequence);
        let (shown, _) = screen(command.current_dir(home.path()));
        let shown = shown.replace("\u{1b}[1m", "").replace("\u{1b}[4m", "");
        faults.extend(harm(&shown).map(|harm| format!("{arguments:?}: {harm}")));
        if shown.contains("\nhint: run this") {
            faults.push(format!("{arguments:?}: {shown:?}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    for name in commands(home.path(), &[]) {
        let is_tried = name == "room" || others.iter().any(|arguments| arguments[0] == name);
        assert!(is_tried, "{name}");
    }
}

#[test]
fn watch_escapes_hostile_changes() {
    for as_json in [false, true] {
        let home = hostile_home();
        let mut terminal = Terminal::new();
        let mut watch = home.command(&["sync", "watch", PATH, "--count", "1"]);
        if as_json {
            watch.arg("--json");
        }
        let mut child = watch
            .stdout(terminal.end())
            .stderr(terminal.end())
            .spawn()
            .unwrap();
        drop(watch);
        let begin = terminal.read_until(if as_json { "\"}\n" } else { "connected\n" });
        let update = ["sync", "update", PATH, "--patch-file", "good.json"];
        home.done(&update);
        let shown = begin + &terminal.read_to_end();
        assert!(child.wait().unwrap().success());
        assert_harmless(&shown, "watch");
        assert!(shown.contains("owned"), "{shown:?}");
    }
}

#[test]
fn pipes_get_every_byte() {
    let home = hostile_home();
    let get = home.command(&["storage", "get", FILE]).output().unwrap();
    assert_eq!(get.stdout, BAD.as_bytes());
    let cp = home
        .command(&["storage", "cp", &format!("room://{FILE}"), "-"])
        .output()
        .unwrap();
    assert_eq!(cp.stdout, BAD.as_bytes());
    let listed = home.done(&["sync", "ls"]);
    assert!(listed.lines().any(|line| line == PATH), "{listed:?}");
    let json: Value = serde_json::from_str(&home.done(&["sync", "get", PATH])).unwrap();
    assert_eq!(json["doc"]["s"], json!(BAD));
    let exported: Value = serde_json::from_str(&home.done(&["sync", "export", PATH])).unwrap();
    assert_eq!(exported["doc"]["s"], json!(BAD));
}

#[test]
fn commands_escape_responses_of_a_hostile_server() {
    let home = hostile_home();
    let url = hostile_proxy(home.server().url());
    let mut faults = Vec::new();
    let file = format!("room://{FILE}");
    for arguments in [
        vec!["sync", "create", "neu", "--json-file", "doc.json"],
        vec!["sync", "get", PATH],
        vec!["sync", "get", "missing"],
        vec!["sync", "grep", PATH, "owned"],
        vec!["sync", "inspect", PATH],
        vec!["sync", "update", PATH, "--patch-file", "good.json"],
        vec!["sync", "update", PATH, "--patch-file", "test.json"],
        vec!["sync", "edit", "plan"],
        vec!["sync", "watch", "missing"],
        vec!["sync", "import", "--file", "export.json"],
        vec!["sync", "ls"],
        vec!["sync", "ls", "--long"],
        vec!["sync", "export", PATH],
        vec!["sync", "delete", "missing"],
        vec!["storage", "ls", "-r", "--long"],
        vec!["storage", "ls", "--json"],
        vec!["storage", "cp", &file, "-"],
        vec!["storage", "cp", "-r", "room://", "copies"],
        vec!["storage", "cp", "room://*", "copies/"],
        vec!["storage", "get", FILE],
        vec!["storage", "exists", FILE],
        vec!["storage", "mv", "missing", "b"],
        vec!["storage", "rm", "missing"],
    ] {
        let is_file = arguments[1] == "get" || arguments.contains(&"-");
        let mut command = home.command(&arguments);
        command
            .env("MESHAGENT_API_URL", &url)
            .env("EDITOR", "sh ./editor")
            .env("TMPDIR", home.path());
        let (shown, _) = screen(&mut command);
        faults.extend(harm(&shown).map(|harm| format!("{arguments:?}: {harm}")));
        if !is_file && shown.contains("\nhint: run this") {
            faults.push(format!("{arguments:?}: {shown:?}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn commands_escape_refusals_of_a_hostile_server() {
    let home = Home::new();
    for status in ["403 Forbidden", "404 Not Found", "500 Oh"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{BAD}",
            BAD.len()
        );
        let server = thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut head = [0; 64];
            let _read = client.read(&mut head).unwrap();
            client.write_all(answer.as_bytes()).unwrap();
            let _rest = io::copy(&mut client, &mut io::sink());
        });
        let mut command = home.command(&["sync", "get", "plan"]);
        let (shown, status_code) = screen(command.env("MESHAGENT_API_URL", &url));
        assert!(!status_code.success());
        assert_harmless(&shown, status);
        assert!(shown.contains("owned"), "{shown:?}");
        server.join().unwrap();
    }
}

#[test]
fn a_state_that_cannot_be_read_ends_each_command() {
    let home = Home::new();
    home.create("plan");
    let url = proxy(home.server().url(), |content| {
        if let Content::Binary { data, .. } = content {
            *data = "!!!".into();
        }
    });
    for command in ["export", "watch", "edit"] {
        let mut command = home.command(&["sync", command, "plan"]);
        command.env("MESHAGENT_API_URL", &url).env("EDITOR", "true");
        refused(&run(&mut command), 1, &["can't open \"plan\"", "base64"]);
    }
}

/// A proxy that appends hostile text to each text from the server.
fn hostile_proxy(server: &str) -> String {
    proxy(server, spoil)
}

fn proxy(server: &str, spoil: fn(&mut Content)) -> String {
    let server = server.trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(&server).unwrap());
            let (to_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || {
                let _ended = io::copy(&mut &client, &mut &to_server);
                let _gone = to_server.shutdown(Shutdown::Both);
            });
            thread::spawn(move || {
                let _ended = spoil_answers(&server, &to_client, spoil);
                let _gone = to_client.shutdown(Shutdown::Both);
            });
        }
    });
    url
}

fn spoil_answers(
    mut server: &TcpStream,
    mut client: &TcpStream,
    spoil: fn(&mut Content),
) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        server.read_exact(&mut byte)?;
        head.extend(byte);
    }
    client.write_all(&head)?;
    let mut packets = PacketReader::new(PacketLimits::default());
    loop {
        let mut head = [0; 2];
        server.read_exact(&mut head)?;
        let mut length = [0; 8];
        match head[1] {
            126 => server.read_exact(&mut length[6..])?,
            127 => server.read_exact(&mut length)?,
            short => length[7] = short,
        }
        let mut payload = vec![0; usize::try_from(u64::from_be_bytes(length)).unwrap()];
        server.read_exact(&mut payload)?;
        if head[0] != 0x82 {
            write_frame(client, head[0], &payload)?;
        } else if let Some(message) = packets.handle_packet(&payload).unwrap() {
            let Some(mut received) = ServerToClient::parse(&message).unwrap() else {
                continue;
            };
            match &mut received {
                ServerToClient::Response { content, .. } => spoil(content),
                ServerToClient::ResponseChunk { chunk, .. } => spoil(chunk),
                ServerToClient::RoomStatus { status, message } => {
                    status.push_str(BAD);
                    message.push_str(BAD);
                }
                _ => {}
            }
            let mut spoilt = Vec::new();
            received.encode(message.id, &mut spoilt);
            for packet in spoilt {
                write_frame(client, 0x82, &packet)?;
            }
        }
    }
}

fn spoil(content: &mut Content) {
    match content {
        Content::Json(value) => spoil_value(value),
        Content::Error { text, .. } => text.push_str(BAD),
        Content::Control(Control::Close { message, .. }) => *message = Some(BAD.to_owned()),
        _ => {}
    }
}

fn spoil_value(value: &mut Value) {
    match value {
        Value::String(text) => text.push_str(BAD),
        Value::Array(items) => items.iter_mut().for_each(spoil_value),
        Value::Object(fields) => fields.values_mut().for_each(spoil_value),
        _ => {}
    }
}

fn write_frame(mut client: &TcpStream, opcode: u8, payload: &[u8]) -> io::Result<()> {
    let mut frame = vec![opcode];
    if let short @ 0..126 = payload.len() {
        frame.push(u8::try_from(short).unwrap());
    } else {
        frame.push(127);
        frame.extend((payload.len() as u64).to_be_bytes());
    }
    frame.extend(payload);
    client.write_all(&frame)
}

/// Names of participants, paths and texts of requests are logged on one line.
#[test]
fn log_lines_cannot_be_forged() {
    use crate::serve::Server;
    for format in ["text", "json"] {
        let home = tempfile::TempDir::new().unwrap();
        let log = home.path().join("log");
        let serve = [
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--log",
            "debug",
            "--log-format",
            format,
        ];
        let file = fs::File::create(&log).unwrap();
        let server = Server::start_with_log(&mut meshagent(home.path(), &serve), file);
        let forged = format!("ada\n2026-01-01T00:00:00.000000Z  INFO forged: joined{BAD}");
        let command = |arguments: &[&str]| {
            let mut command = meshagent(home.path(), &[&["room"], arguments].concat());
            command.env("MESHAGENT_ROOM", "r");
            run(&mut command)
        };
        let ran = command(&["sync", "ls", "--identity", &forged]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let path = format!("plan{PATH}");
        let ran = command(&["sync", "get", &path, "--identity", &forged]);
        assert_eq!(ran.code, Some(3), "{}", ran.stderr);
        let patch =
            json!([{ "op": "replace", "path": format!("/doc/{BAD}"), "value": 1 }]).to_string();
        command(&["sync", "create", "plan", "--json", r#"{"doc": {"a": 1}}"#]);
        command(&[
            "sync",
            "update",
            "plan",
            "--patch",
            &patch,
            "--identity",
            &forged,
        ]);
        server.terminate();
        let text = fs::read_to_string(&log).unwrap();
        assert!(text.contains("joined") && text.contains("forged"), "{text}");
        for line in text.lines() {
            assert!(
                !line.starts_with("2026-01-01T00") && !line.starts_with("hint: "),
                "{line:?}"
            );
            assert_harmless(line, format);
        }
    }
}
