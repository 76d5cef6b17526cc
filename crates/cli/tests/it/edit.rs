//! `meshagent room sync edit`.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use meshagent_protocol::ApiKey;
use rustix::pty::{self, OpenptFlags};
use serde_json::{Value, json};

use crate::meshagent;
use crate::room::{Home, PLAN, refused};
use crate::watch::Watching;

/// `edit` with a shell command as the editor, to which the file is `$1`.
fn editing(home: &Home, editor: &str) -> Command {
    fs::write(home.path().join("editor"), editor).unwrap();
    let mut command = home.command(&["sync", "edit", "plan"]);
    command
        .env("EDITOR", "sh ./editor")
        .env("TMPDIR", home.path());
    command
}

fn edit(home: &Home, editor: &str) -> crate::Ran {
    crate::run(&mut editing(home, editor))
}

/// The path of the binary, quoted for a shell.
fn program(home: &Home) -> String {
    let command = home.command(&[]);
    command.get_program().to_string_lossy().into_owned()
}

/// The kept files in the home directory, which is `TMPDIR`.
fn drafts(home: &Home) -> Vec<PathBuf> {
    let files = fs::read_dir(home.path()).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let is_draft = |file: &PathBuf| {
        let name = file.file_name().unwrap().to_string_lossy();
        name.starts_with("meshagent-")
    };
    files.filter(is_draft).collect()
}

/// Checks that a hint names the only kept file and that it contains a text; deletes the file.
#[track_caller]
fn assert_kept(home: &Home, stderr: &str, written: &str) {
    let hint = stderr.split("your text is in ").nth(1);
    let path = hint.unwrap_or_else(|| panic!("{stderr}"));
    let path = Path::new(path.lines().next().unwrap());
    assert_eq!(drafts(home), [path], "{stderr}");
    assert!(stderr.contains("\nhint: "), "{stderr}");
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(written), "{text}");
    fs::remove_file(path).unwrap();
}

#[test]
fn editor_gets_no_control_characters() {
    let home = Home::new();
    let note = "ü\u{9b}31m\u{7f}\u{202e}\u{2028}\u{85}\u{1b}[2J👩\u{200d}👩";
    let json = serde_json::json!({ "list": { "note": note, "shop": "milk" } }).to_string();
    home.done(&["sync", "create", "plan", "--json", &json]);
    let before = home.get("plan");
    // The file for the editor, byte for byte.
    let ran = edit(&home, "cp \"$1\" seen; sed -i s/milk/tea/ \"$1\"");
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let seen = fs::read_to_string(home.path().join("seen")).unwrap();
    let steers =
        |char: char| char != '\n' && (char.is_control() || "\u{202e}\u{2028}".contains(char));
    assert!(!seen.contains(steers), "{seen:?}");
    assert!(seen.contains('ü') && seen.contains("\u{200d}"), "{seen:?}");
    assert_eq!(home.get("plan"), before.replace("milk", "tea"));
}

#[test]
fn edit_changes_only_edited_parts() {
    let home = Home::new();
    home.create("plan");
    let ran = edit(&home, "sed -i s/milk/tea/ \"$1\"");
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert_eq!(ran.stdout, "Updated document at plan\n");
    assert_eq!(home.get("plan"), PLAN.replace("milk", "tea"));

    // A concurrent edit while the editor is open.
    let meshagent = program(&home);
    let patch = r#"[{"op": "replace", "path": "/doc/title", "value": "Theirs"}]"#;
    let ran = edit(
        &home,
        &format!(
            "sed -i s/bread/cake/ \"$1\"\n\
             {meshagent} room sync update --room r plan --patch '{patch}' >/dev/null"
        ),
    );
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let expected = PLAN.replace("milk", "tea").replace("bread", "cake");
    assert_eq!(home.get("plan"), expected.replace("Plan", "Theirs"));
    assert_eq!(edit(&home, "true").stdout, "Nothing was changed\n");
    assert!(drafts(&home).is_empty(), "what arrived is not kept");
}

#[test]
fn edit_keeps_text_that_violates_the_schema() {
    let home = Home::new();
    home.create("plan");
    let ran = edit(&home, "sed -i 's/\"milk\"/7/' \"$1\"");
    refused(&ran, 1, &["/doc/children/0/item/s", "inspect"]);
    assert_kept(&home, &ran.stderr, "\"s\": 7");
    assert_eq!(home.get("plan"), PLAN);
    let ran = edit(&home, "echo nonsense > \"$1\"");
    refused(&ran, 2, &["not valid JSON"]);
    assert_kept(&home, &ran.stderr, "nonsense");
    let ran = edit(&home, "sed -i s/milk/tea/ \"$1\"; exit 3");
    refused(&ran, 1, &["the editor failed"]);
    assert_kept(&home, &ran.stderr, "tea");
    let ran = edit(&home, "exit 3");
    refused(&ran, 1, &["the editor failed", "\nhint: "]);
    assert!(drafts(&home).is_empty(), "nothing was written");
    assert_eq!(home.get("plan"), PLAN);
    let mut command = home.command(&["sync", "edit", "plan"]);
    refused(
        &crate::run(&mut command),
        2,
        &["error: no editor: VISUAL and EDITOR are not set"],
    );
}

#[test]
fn edit_keeps_text_that_the_server_refuses() {
    let home = Home::new();
    home.create("plan");
    // The token is read-only.
    let spec = "{version: v1, kind: ParticipantToken, identity: ada, room: r, \
                api: {storage: {}, sync: {paths: [{path: plan, read_only: true}]}}}";
    fs::write(home.path().join("token.yaml"), spec).unwrap();
    let mut token = meshagent(home.path(), &["token", "--input", "token.yaml"]);
    let jwt = crate::run(token.current_dir(home.path())).stdout;
    let mut command = editing(&home, "sed -i s/milk/tea/ \"$1\"");
    let ran = crate::run(command.env("MESHAGENT_TOKEN", jwt.trim_end()));
    refused(&ran, 4, &["grants"]);
    assert_kept(&home, &ran.stderr, "tea");
    assert_eq!(home.get("plan"), PLAN);

    // The document is deleted while the editor is open.
    let delete = format!(
        "sed -i s/milk/tea/ \"$1\"\n{} room sync delete --room r plan --quiet",
        program(&home)
    );
    let ran = edit(&home, &delete);
    refused(&ran, 3, &["can't change \"plan\""]);
    assert_kept(&home, &ran.stderr, "tea");
}

#[test]
fn edit_keeps_text_that_the_server_repairs() {
    let home = Home::new();
    home.create("plan");
    // Both use the same $id, which must be unique.
    let item = |s: &str| json!({ "item": { "$id": "same", "s": s } });
    let mut mine: Value = serde_json::from_str(PLAN).unwrap();
    let children = mine["doc"]["children"].as_array_mut().unwrap();
    children.push(item("mine"));
    let theirs = json!([{ "op": "add", "path": "/doc/children/0", "value": item("theirs") }]);
    let both = format!(
        "echo '{mine}' > \"$1\"\n{} room sync update --room r plan --quiet --patch '{theirs}'",
        program(&home),
    );
    let ran = edit(&home, &both);
    refused(
        &ran,
        1,
        &[
            "your changes to \"plan\" were not saved: others changed \"plan\"",
            "  /doc/children/3/item: ",
        ],
    );
    assert_kept(&home, &ran.stderr, "mine");
}

/// A proxy that can drop the server's responses.
struct Proxy {
    url: String,
    connections: Arc<Mutex<Vec<Arc<Proxied>>>>,
}

struct Proxied {
    client: TcpStream,
    server: TcpStream,
    is_mute: AtomicBool,
}

impl Proxy {
    fn to(server: &str) -> Self {
        let server = server.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let connections = Arc::<Mutex<Vec<_>>>::default();
        let made = connections.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let connection = Arc::new(Proxied {
                    client: client.unwrap(),
                    server: TcpStream::connect(&server).unwrap(),
                    is_mute: AtomicBool::new(false),
                });
                made.lock().unwrap().push(connection.clone());
                let requests = connection.clone();
                thread::spawn(move || requests.carry_requests());
                thread::spawn(move || connection.carry_answers());
            }
        });
        Self { url, connections }
    }

    /// Drops all further responses on the open connections.
    fn mute(&self) {
        for connection in &*self.connections.lock().unwrap() {
            connection.is_mute.store(true, Ordering::SeqCst);
        }
    }

    /// Closes all connections.
    fn cut(&self) {
        for connection in self.connections.lock().unwrap().drain(..) {
            connection.end();
        }
    }
}

impl Proxied {
    fn carry_requests(&self) {
        // If one side closes, both are closed.
        let _copied = io::copy(&mut &self.client, &mut &self.server);
        self.end();
    }

    fn carry_answers(&self) {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = (&self.server).read(&mut buffer) {
            let is_mute = self.is_mute.load(Ordering::SeqCst);
            if !is_mute && (&self.client).write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        self.end();
    }

    fn end(&self) {
        for side in [&self.client, &self.server] {
            // The connection may be closed already.
            let _closed = side.shutdown(Shutdown::Both);
        }
    }
}

/// Runs `edit` while the server's response is lost and another client applies a patch; returns the
/// exit code and stderr.
fn edit_with_lost_response(home: &Home, mine: &Value, theirs: &Value) -> (Option<i32>, String) {
    let proxy = Proxy::to(home.server().url());
    let wait = format!("touch open; until [ -e go ]; do sleep 0.05; done; echo '{mine}' > \"$1\"");
    let mut child = editing(home, &wait)
        .env("MESHAGENT_API_URL", &proxy.url)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while !home.path().join("open").exists() {
        thread::sleep(Duration::from_millis(10));
    }
    proxy.mute();
    home.done(&["sync", "update", "plan", "--patch", &theirs.to_string()]);
    let mut watching = Watching::start(home, &["sync", "watch", "plan", "--json"]);
    assert_eq!(watching.line()["event"], "connected");
    fs::write(home.path().join("go"), "").unwrap();
    while watching.line()["name"] != "title" {}
    proxy.cut();
    let mut messages = String::new();
    let mut stderr = child.stderr.take().unwrap();
    stderr.read_to_string(&mut messages).unwrap();
    (child.wait().unwrap().code(), messages)
}

#[test]
fn edit_keeps_repaired_text_after_a_lost_response() {
    let home = Home::new();
    home.create("plan");
    let item = |s: &str| json!({ "item": { "$id": "same", "s": s } });
    let mut mine: Value = serde_json::from_str(PLAN).unwrap();
    mine["doc"]["title"] = "My plan".into();
    let children = mine["doc"]["children"].as_array_mut().unwrap();
    children.push(item("mine"));
    let theirs = json!([{ "op": "add", "path": "/doc/children/0", "value": item("theirs") }]);
    let (code, messages) = edit_with_lost_response(&home, &mine, &theirs);
    assert_eq!(code, Some(1), "{messages}");
    let error = "\nerror: your changes to \"plan\" may not have been saved: \
                 the server's answer was lost";
    assert!(messages.contains(error), "{messages}");
    assert_kept(&home, &messages, "mine");
    assert!(!home.get("plan").contains("mine"));
}

#[test]
fn edit_succeeds_after_a_lost_response_if_the_change_is_saved() {
    let home = Home::new();
    home.create("plan");
    let mut mine: Value = serde_json::from_str(PLAN).unwrap();
    mine["doc"]["title"] = "My plan".into();
    let children = mine["doc"]["children"].as_array_mut().unwrap();
    children.push(json!({ "item": { "s": "mine" } }));
    let theirs = json!([{ "op": "replace", "path": "/doc/children/0/item/s", "value": "theirs" }]);
    let (code, messages) = edit_with_lost_response(&home, &mine, &theirs);
    assert_eq!(code, Some(0), "{messages}");
    assert!(drafts(&home).is_empty(), "it arrived");
}

/// An `edit` whose editor kills the server and then saves, with the first line on stderr.
fn editing_until_the_server_is_gone(home: &Home) -> (Child, BufReader<ChildStderr>, String) {
    let stop = format!("sed -i s/milk/tea/ \"$1\"; kill -9 {}", home.server().id());
    let mut child = editing(home, &stop)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut messages = String::new();
    stderr.read_line(&mut messages).unwrap();
    (child, stderr, messages)
}

#[test]
fn edit_waits_for_a_lost_server_with_a_timeout() {
    for is_interrupted in [true, false] {
        let home = Home::new();
        home.create("plan");
        let (mut child, mut stderr, mut messages) = editing_until_the_server_is_gone(&home);
        assert!(messages.starts_with("disconnected; waiting"), "{messages}");
        if is_interrupted {
            interrupt(&child);
        }
        stderr.read_to_string(&mut messages).unwrap();
        let code = if is_interrupted { 130 } else { 5 };
        assert_eq!(child.wait().unwrap().code(), Some(code), "{messages}");
        // The change may be stored, without an acknowledgement.
        let error = "\nerror: your changes to \"plan\" may not have been saved: ";
        assert!(messages.contains(error), "{messages}");
        assert!(
            messages.contains("\nhint: check the document"),
            "{messages}"
        );
        assert_kept(&home, &messages, "tea");
    }
}

#[test]
fn edit_reports_an_unknown_outcome_if_the_reconnect_is_refused() {
    let home = Home::new();
    home.create("plan");
    let (mut child, mut stderr, mut messages) = editing_until_the_server_is_gone(&home);
    // With another secret, the token is invalid.
    let file = home.path().join(".local/share/meshagent/credentials.json");
    let credentials: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let mut key = ApiKey::parse(credentials["api_key"].as_str().unwrap()).unwrap();
    key.secret = key.secret.chars().rev().collect();
    let credentials = json!({ "api_key": key.encode().unwrap() });
    fs::write(&file, credentials.to_string()).unwrap();
    let home = home.after_kill();
    stderr.read_to_string(&mut messages).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(4), "{messages}");
    let error = "\nerror: your changes to \"plan\" may not have been saved: ";
    assert!(messages.contains(error), "{messages}");
    assert_kept(&home, &messages, "tea");
}

#[test]
fn edit_continues_after_a_reconnect() {
    let home = Home::new();
    home.create("plan");
    let (child, mut stderr, mut messages) = editing_until_the_server_is_gone(&home);
    let home = home.after_kill();
    stderr.read_to_string(&mut messages).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{messages}");
    assert_eq!(output.stdout, b"Updated document at plan\n");
    assert_eq!(home.get("plan"), PLAN.replace("milk", "tea"));
    assert!(drafts(&home).is_empty(), "it arrived");
}

#[test]
fn edit_ignores_ctrl_c_while_the_editor_is_open() {
    let home = Home::new();
    home.create("plan");
    let wait = "touch open; until [ -e go ]; do sleep 0.05; done; sed -i s/milk/tea/ \"$1\"";
    let child = editing(&home, wait).stdout(Stdio::piped()).spawn().unwrap();
    while !home.path().join("open").exists() {
        thread::sleep(Duration::from_millis(10));
    }
    interrupt(&child);
    fs::write(home.path().join("go"), "").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"Updated document at plan\n");
    assert_eq!(home.get("plan"), PLAN.replace("milk", "tea"));
}

/// Sends SIGINT, as the terminal does for Ctrl-C.
fn interrupt(child: &Child) {
    let mut kill = Command::new("kill");
    let kill = kill.args(["-s", "INT", &child.id().to_string()]);
    assert!(kill.status().unwrap().success());
}

/// An editor script: the first edit violates the schema, the second one does not.
const SECOND_THOUGHTS: &str = r#"if [ -e tried ]
then sed -i 's/7/"tea"/' "$1"
else touch tried && sed -i 's/"milk"/7/' "$1"
fi"#;

/// An `edit` with a terminal as stdin, which asks questions.
struct AtTerminal {
    child: Child,
    person: File,
}

impl AtTerminal {
    fn edit(home: &Home) -> Self {
        let terminal = pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        pty::grantpt(&terminal).unwrap();
        pty::unlockpt(&terminal).unwrap();
        let name = pty::ptsname(&terminal, Vec::new()).unwrap();
        let input = File::open(name.to_str().unwrap()).unwrap();
        fs::write(home.path().join("editor"), SECOND_THOUGHTS).unwrap();
        let mut command = home.command(&["sync", "edit", "plan"]);
        command
            .env("EDITOR", "sh ./editor")
            .env("TMPDIR", home.path())
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self {
            child: command.spawn().unwrap(),
            person: terminal.into(),
        }
    }

    /// Types an answer to the question, and waits for the end of the command.
    fn answer(self, typed: &str) -> crate::Ran {
        self.when_asked(|terminal| terminal.person.write_all(typed.as_bytes()).unwrap())
    }

    fn when_asked(mut self, answer: impl FnOnce(&mut Self)) -> crate::Ran {
        const QUESTION: &str = "Press Enter to edit again";
        let mut stderr = self.child.stderr.take().unwrap();
        let mut messages = String::new();
        let mut byte = [0];
        while !messages.ends_with(QUESTION) {
            let read = stderr.read(&mut byte).unwrap();
            assert_eq!(read, 1, "it ended without a question: {messages}");
            messages.push(char::from(byte[0]));
        }
        answer(&mut self);
        stderr.read_to_string(&mut messages).unwrap();
        let mut stdout = String::new();
        let mut out = self.child.stdout.take().unwrap();
        out.read_to_string(&mut stdout).unwrap();
        crate::Ran {
            code: self.child.wait().unwrap().code(),
            stdout,
            stderr: messages,
        }
    }
}

#[test]
fn user_can_edit_again_after_a_violation() {
    let home = Home::new();
    home.create("plan");
    let ran = AtTerminal::edit(&home).answer("\n");
    assert_eq!(ran.stdout, "Updated document at plan\n", "{}", ran.stderr);
    assert_eq!(ran.code, Some(0));
    assert!(
        ran.stderr.contains("/doc/children/0/item/s"),
        "{}",
        ran.stderr
    );
    assert_eq!(home.get("plan"), PLAN.replace("milk", "tea"));

    // If the user stops, the text is kept.
    let milk = r#"[{"op": "replace", "path": "/doc/children/0/item/s", "value": "milk"}]"#;
    home.done(&["sync", "update", "plan", "--patch", milk]);
    let first_try = || {
        fs::remove_file(home.path().join("tried")).unwrap();
        AtTerminal::edit(&home)
    };
    let end_of_file = "\x04";
    let ran = first_try().answer(end_of_file);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
    assert!(ran.stderr.contains("nothing was changed"), "{}", ran.stderr);
    assert_kept(&home, &ran.stderr, "7");
    let ran = first_try().when_asked(|terminal| interrupt(&terminal.child));
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(130), ""));
    assert!(ran.stderr.contains("nothing was changed"), "{}", ran.stderr);
    assert_kept(&home, &ran.stderr, "7");
    assert_eq!(home.get("plan"), PLAN);
}
