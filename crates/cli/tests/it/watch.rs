//! `meshagent room sync watch`.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Lines, Read as _};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::room::{Home, refused};

/// A command that prints lines; killed when the test fails.
pub(crate) struct Watching {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watching {
    pub(crate) fn start(home: &Home, arguments: &[&str]) -> Self {
        Self::spawn(&mut home.command(arguments))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    pub(crate) fn line(&mut self) -> Value {
        let line = self.lines.next().expect("another line").unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _killed = self.child.kill();
        let _waited = self.child.wait();
    }
}

fn retitle(home: &Home, title: &str) {
    let patch = json!([{ "op": "replace", "path": "/doc/title", "value": title }]).to_string();
    home.done(&["sync", "update", "plan", "--patch", &patch]);
}

#[test]
fn watch_prints_changes_across_a_restart() {
    let home = Home::new();
    home.create("plan");
    let mut watching = Watching::start(&home, &["sync", "watch", "plan", "--json", "--count", "4"]);
    assert_eq!(watching.line(), json!({ "event": "connected" }));
    retitle(&home, "New plan");
    let title = |old: &str, new: &str| {
        json!({
            "event": "change", "origin": "remote", "change": "attribute", "id": null,
            "name": "title", "old": old, "new": new,
        })
    };
    assert_eq!(watching.line(), title("Plan", "New plan"));

    let home = home.restart();
    retitle(&home, "Newer plan");
    assert_eq!(watching.line(), json!({ "event": "disconnected" }));
    // Missed changes may be printed before or after `connected`.
    let seen = [watching.line(), watching.line()];
    assert!(seen.contains(&title("New plan", "Newer plan")), "{seen:?}");
    assert!(seen.contains(&json!({ "event": "connected" })), "{seen:?}");

    home.done(&[
        "sync",
        "update",
        "plan",
        "--patch",
        r#"[{"op": "remove", "path": "/doc/children/0"}]"#,
    ]);
    let line = watching.line();
    assert_eq!(
        (&line["change"], &line["tag"]),
        (&json!("deleted"), &json!("item"))
    );
    let add = r#"[{"op": "add", "path": "/doc/children/-", "value": {"item": {"s": "tea"}}}]"#;
    home.done(&["sync", "update", "plan", "--patch", add]);
    let mut line = watching.line();
    assert!(line["id"].take().is_string(), "{line}");
    assert_eq!(
        line,
        json!({
            "event": "change", "origin": "remote", "change": "inserted", "id": null, "tag": "item",
            "parent": null, "index": 1, "element": { "item": { "s": "tea" } },
        })
    );
    assert!(
        watching.lines.next().is_none(),
        "it ends after as many as were asked for"
    );
    assert!(watching.child.wait().unwrap().success());
}

#[test]
fn watch_prints_readable_lines() {
    let home = Home::new();
    home.create("plan");
    let mut command = home.command(&["sync", "watch", "plan", "--count", "1"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut message = String::new();
    BufReader::new(child.stderr.take().unwrap())
        .read_line(&mut message)
        .unwrap();
    assert_eq!(message, "connected\n");
    retitle(&home, "New plan");
    let output = child.wait_with_output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed, "~ (root) title: \"Plan\" -> \"New plan\"\n");
    refused(
        &home.run(&["sync", "watch", "nowhere"]),
        3,
        &["can't open \"nowhere\""],
    );
}

#[test]
fn watch_prints_content_and_position() {
    let home = Home::new();
    home.create("plan");
    let watch = |arguments: &[&str]| {
        let arguments = [&["sync", "watch", "plan"], arguments].concat();
        let mut command = home.command(&arguments);
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        stderr.read_line(&mut String::new()).unwrap();
        child
    };
    let patch = |patch: Value| {
        home.done(&["sync", "update", "plan", "--patch", &patch.to_string()]);
    };
    let printed = |child: Child| {
        let output = child.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let long = "long ".repeat(1000);
    let item = json!({ "item": { "$id": "tea", "s": "a\nb", "n": 1 } });
    let child = watch(&["--count", "1"]);
    patch(json!([{ "op": "add", "path": "/doc/children/1", "value": item }]));
    assert_eq!(
        printed(child),
        "+ item tea in (root) at 1: s: \"a\\nb\", n: 1\n"
    );
    let child = watch(&["--count", "1"]);
    let item = json!({ "item": { "$id": "long", "s": long } });
    patch(json!([{ "op": "add", "path": "/doc/children/-", "value": item }]));
    let line = printed(child);
    let content = line.strip_prefix("+ item long in (root) at 3: s: \"long long ");
    let content = content.unwrap_or_else(|| panic!("{line}"));
    assert!(content.ends_with("…\n") && content.len() < 100, "{line}");

    // The new position of a moved element.
    let to_front = json!([{ "op": "move", "from": "/doc/children/3", "path": "/doc/children/0" }]);
    let child = watch(&["--count", "1"]);
    patch(to_front);
    let line = printed(child);
    let content = line.strip_prefix("> item long from (root) to (root) at 0: s: \"long long ");
    assert!(
        content.is_some_and(|content| content.ends_with("…\n")),
        "{line}"
    );
    let mut watching = Watching::start(&home, &["sync", "watch", "plan", "--json"]);
    assert_eq!(watching.line()["event"], "connected");
    // A moved element with a change by the same patch.
    patch(json!([
        { "op": "move", "from": "/doc/children/0", "path": "/doc/children/2" },
        { "op": "replace", "path": "/doc/children/2/item/s", "value": "kürzer" },
    ]));
    let line = watching.line();
    assert_eq!(
        (
            &line["change"],
            &line["index"],
            &line["element"]["item"]["s"]
        ),
        (&json!("moved"), &json!(2), &json!("kürzer"))
    );
}

#[test]
fn watch_reports_the_end_of_a_document() {
    let home = Home::new();
    home.create("plan");
    let mut watching = Watching::start(&home, &["sync", "watch", "plan", "--json"]);
    assert_eq!(watching.line(), json!({ "event": "connected" }));
    home.done(&["sync", "delete", "plan"]);
    assert_eq!(
        watching.line(),
        json!({ "event": "ended", "reason": "deleted or moved" })
    );
    assert!(watching.lines.next().is_none());
    assert_eq!(watching.child.wait().unwrap().code(), Some(3));

    // Without --json, on stderr.
    home.create("plan");
    let mut command = home.command(&["sync", "watch", "plan"]);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut messages = String::new();
    stderr.read_line(&mut messages).unwrap();
    home.done(&["storage", "mv", "plan", "elsewhere"]);
    stderr.read_to_string(&mut messages).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    let expected =
        "connected\nended: deleted or moved\nerror: \"plan\" was deleted or moved\nhint: ";
    assert!(messages.starts_with(expected), "{messages}");
}

#[test]
fn watch_reads_several_paths_from_stdin() {
    let home = Home::new();
    for path in ["a", "b"] {
        home.create(path);
    }
    let retitle = |path: &str| {
        let patch = r#"[{"op": "replace", "path": "/doc/title", "value": "New"}]"#;
        home.done(&["sync", "update", path, "--patch", patch]);
    };
    fs::write(home.path().join("paths"), "a\n\nb\n").unwrap();
    let paths = || File::open(home.path().join("paths")).unwrap();
    let mut command = home.command(&["sync", "watch", "-", "--json"]);
    let mut watching = Watching::spawn(command.stdin(paths()));
    let line = |event: &str, path: &str| json!({ "event": event, "path": path });
    assert_eq!(watching.line(), line("connected", "a"));
    assert_eq!(watching.line(), line("connected", "b"));
    for path in ["b", "a"] {
        retitle(path);
        let line = watching.line();
        assert_eq!((&line["path"], &line["new"]), (&json!(path), &json!("New")));
    }
    for path in ["a", "b"] {
        home.done(&["sync", "delete", path]);
        let line = watching.line();
        assert_eq!(
            (&line["event"], &line["path"]),
            (&json!("ended"), &json!(path))
        );
    }
    assert_eq!(watching.child.wait().unwrap().code(), Some(3));

    home.create("a");
    fs::write(home.path().join("paths"), "a\n").unwrap();
    let mut command = home.command(&["sync", "watch", "-", "--count", "1"]);
    let command = command.stdin(paths()).stderr(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut message = String::new();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    stderr.read_line(&mut message).unwrap();
    assert_eq!(message, "a: connected\n");
    retitle("a");
    let output = child.wait_with_output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed, "a: ~ (root) title: \"Plan\" -> \"New\"\n");
    refused(
        &home.run(&["sync", "watch", "-"]),
        2,
        &["stdin", "\nhint: "],
    );
}

#[test]
fn watch_ignores_duplicate_paths() {
    let home = Home::new();
    for path in ["a", "b"] {
        home.create(path);
    }
    fs::write(home.path().join("paths"), "a\n/a\nb\n./a\n").unwrap();
    let mut command = home.command(&["sync", "watch", "-", "--json", "--count", "2"]);
    let paths = File::open(home.path().join("paths")).unwrap();
    let mut watching = Watching::spawn(command.stdin(paths));
    for path in ["a", "b"] {
        let connected = json!({ "event": "connected", "path": path });
        assert_eq!(watching.line(), connected);
    }
    for path in ["a", "b"] {
        let patch = r#"[{"op": "replace", "path": "/doc/title", "value": "New"}]"#;
        home.done(&["sync", "update", path, "--patch", patch]);
        let line = watching.line();
        assert_eq!((&line["path"], &line["new"]), (&json!(path), &json!("New")));
    }
    assert!(watching.lines.next().is_none());
    assert!(watching.child.wait().unwrap().success());
    fs::write(home.path().join("paths"), "a\na//b\n").unwrap();
    let mut command = home.command(&["sync", "watch", "-"]);
    let paths = File::open(home.path().join("paths")).unwrap();
    refused(&crate::run(command.stdin(paths)), 2, &["\"a//b\""]);
}

#[test]
fn watch_continues_without_missing_documents() {
    let home = Home::new();
    for path in ["a", "übrig"] {
        home.create(path);
    }
    fs::write(home.path().join("paths"), "a\nfehlt\nübrig\n").unwrap();
    let paths = || File::open(home.path().join("paths")).unwrap();
    let mut command = home.command(&["sync", "watch", "-", "--json", "--count", "2"]);
    let mut watching = Watching::spawn(command.stdin(paths()));
    let connected = |path: &str| json!({ "event": "connected", "path": path });
    assert_eq!(watching.line(), connected("a"));
    let reason = "the document does not exist";
    let ended = json!({ "event": "ended", "path": "fehlt", "reason": reason });
    assert_eq!(watching.line(), ended);
    assert_eq!(watching.line(), connected("übrig"));
    for path in ["übrig", "a"] {
        let patch = r#"[{"op": "replace", "path": "/doc/title", "value": "New"}]"#;
        home.done(&["sync", "update", path, "--patch", patch]);
        let line = watching.line();
        assert_eq!((&line["path"], &line["new"]), (&json!(path), &json!("New")));
    }
    assert!(watching.child.wait().unwrap().success());

    // Without any document, the command ends.
    fs::write(home.path().join("paths"), "fehlt\nauch\n").unwrap();
    let mut command = home.command(&["sync", "watch", "-", "--quiet"]);
    let ran = crate::run(command.stdin(paths()));
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(3), ""));
    for line in [
        "fehlt: ended: the document does not exist\n",
        "auch: ended: the document does not exist\n",
        "error: can't open \"fehlt\"",
    ] {
        assert!(ran.stderr.contains(line), "{}", ran.stderr);
    }
}
