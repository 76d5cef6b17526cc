//! Output on a terminal: colour, unescaped characters, and the progress line.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use rustix::pty::{self, OpenptFlags};
use serde_json::json;

use crate::room::Home;

/// A pseudo-terminal between a command and the test.
pub(crate) struct Terminal {
    screen: File,
    name: String,
}

impl Terminal {
    pub(crate) fn new() -> Self {
        let terminal = pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        pty::grantpt(&terminal).unwrap();
        pty::unlockpt(&terminal).unwrap();
        let name = pty::ptsname(&terminal, Vec::new()).unwrap();
        Self {
            screen: terminal.into(),
            name: name.into_string().unwrap(),
        }
    }

    pub(crate) fn end(&self) -> Stdio {
        let end = File::options().write(true).open(&self.name).unwrap();
        end.into()
    }

    /// Reads until no command has the terminal open, with line ends as they were written.
    pub(crate) fn read_to_end(&mut self) -> String {
        let mut bytes = Vec::new();
        // Ends with an error when the other end is closed.
        let _end = self.screen.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).replace("\r\n", "\n")
    }

    /// Reads up to an expected text, with line ends as they were written.
    pub(crate) fn read_until(&mut self, expected: &str) -> String {
        let (mut bytes, mut byte) = (Vec::new(), [0]);
        loop {
            let text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
            if text.ends_with(expected) {
                return text;
            }
            // When no command has the terminal open, reading fails or ends.
            let read = self.screen.read(&mut byte).unwrap_or(0);
            assert_eq!(read, 1, "{expected:?} does not come: {text:?}");
            bytes.push(byte[0]);
            // The progress line is drawn repeatedly.
            assert!(bytes.len() < 10_000, "{expected:?} does not come: {text:?}");
        }
    }
}

/// The output of a command on a terminal, up to an expected text.
fn shown(command: &mut Command, expected: &str) -> String {
    let mut terminal = Terminal::new();
    let mut child = command.stdout(terminal.end()).spawn().unwrap();
    let text = terminal.read_until(expected);
    assert!(child.wait().unwrap().success(), "{text}");
    text
}

#[test]
fn colour_depends_on_terminal_flag_and_no_color() {
    let home = Home::new();
    let create = ["sync", "create", "plan", "--json", r#"{"doc": {"s": "ü"}}"#];
    let coloured = shown(&mut home.command(&create), "\x1b[0m\n");
    assert_eq!(coloured, "\x1b[32mCreated document at plan\x1b[0m\n");

    let coloured = "{\x1b[36m\"doc\"\x1b[0m: {\x1b[36m\"s\"\x1b[0m: \x1b[32m\"ü\"\x1b[0m}}\n";
    let plain = "{\"doc\": {\"s\": \"ü\"}}\n";
    for (variable, flag, expected) in [
        (None, None, coloured),
        (Some("1"), None, plain),
        (Some("0"), None, plain),
        // As <https://no-color.org> specifies.
        (Some(""), None, coloured),
        (Some("1"), Some("always"), coloured),
        (None, Some("never"), plain),
        (Some("1"), Some("auto"), plain),
    ] {
        let mut get = home.command(&["sync", "get", "plan", "--compact"]);
        get.envs(variable.map(|value| ("NO_COLOR", value)));
        if let Some(flag) = flag {
            get.args(["--color", flag]);
        }
        assert_eq!(shown(&mut get, "}}\n"), *expected, "{variable:?} {flag:?}");
    }
    // A pipe gets colour only by a flag, and only ASCII.
    let piped = home.done(&["sync", "get", "plan", "--compact"]);
    assert_eq!(piped, plain.replace('ü', "\\u00fc"));
    let piped = home.done(&["sync", "get", "plan", "--compact", "--color", "always"]);
    assert_eq!(piped, coloured.replace('ü', "\\u00fc"));
}

#[test]
fn import_draws_and_erases_a_progress_line() {
    let home = Home::new();
    let mut terminal = Terminal::new();
    let import = ["sync", "import", "--file", "-"];
    let mut child = home
        .command(&import)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(terminal.end())
        .spawn()
        .unwrap();
    let mut export = child.stdin.take().unwrap();
    let conversation =
        |uuid: &str| json!({ "uuid": uuid, "chat_messages": [{ "text": "x".repeat(600) }] });
    let mut feed = |text: &str| export.write_all(text.as_bytes()).unwrap();

    // The import waits, because the export stays open.
    feed(&format!("[{},", conversation("a")));
    let drawn = terminal.read_until("0.6 kB read, 1 thread\x1b[K");
    assert!(
        drawn.starts_with('\r') && !drawn.contains('\n'),
        "{drawn:?}"
    );
    // The line is erased before a message.
    feed(&format!("{{}},{},", conversation("b")));
    let warned = terminal.read_until("1.2 kB read, 2 threads\x1b[K");
    assert!(
        warned.contains("\r\x1b[Kwarning: skipped conversations[1]: ") && warned.contains("\n\r"),
        "{warned:?}"
    );
    feed(&format!("{}]", conversation("c")));
    drop(export);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let summary = "Imported 3 thread(s); skipped existing: 0; skipped invalid: 1; messages: 3.\n";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), summary);
    let rest = terminal.read_to_end();
    assert!(rest.ends_with("\r\x1b[K"), "{rest:?}");
}
