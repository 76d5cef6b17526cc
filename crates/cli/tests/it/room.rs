//! Helpers for tests of `meshagent room`: a server, and commands that find it by its
//! data directory.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::serve::Server;
use crate::{Ran, meshagent, run};

/// A schema with the root `doc` (`title`) and elements `item` (`s`, `n`).
pub(crate) const SCHEMA: &str = r##"{
  "$root_tag_ref": "#/$defs/doc",
  "$defs": {
    "doc": {
      "type": "object", "additionalProperties": false, "required": ["doc"],
      "properties": { "doc": {
        "type": "object", "additionalProperties": false, "required": ["title", "children"],
        "properties": {
          "title": { "type": ["string", "null"] },
          "children": { "type": "array", "items": { "anyOf": [{ "$ref": "#/$defs/item" }] } } } } }
    },
    "item": {
      "type": "object", "additionalProperties": false, "required": ["item"],
      "properties": { "item": {
        "type": "object", "additionalProperties": false, "required": ["s", "n"],
        "properties": {
          "s": { "type": ["string", "null"] },
          "n": { "type": ["number", "null"] } } } }
    }
  }
}"##;

/// A document of that schema, in the compact format of the command.
pub(crate) const PLAN: &str = concat!(
    r#"{"doc": {"title": "Plan", "children": "#,
    r#"[{"item": {"s": "milk", "n": 2}}, {"item": {"s": "bread"}}]}}"#
);

/// A server with its data in a new home directory, in which commands run.
pub(crate) struct Home {
    directory: TempDir,
    server: Server,
}

impl Home {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("schema.json"), SCHEMA).unwrap();
        let server = Server::start(&mut meshagent(
            directory.path(),
            &["serve", "--listen", "127.0.0.1:0"],
        ));
        Self { directory, server }
    }

    /// Stops the server and starts another one at the same address.
    pub(crate) fn restart(self) -> Self {
        let Self { directory, server } = self;
        let url = server.url().to_owned();
        server.terminate();
        Self::at(directory, &url)
    }

    /// The same after the server was killed.
    pub(crate) fn after_kill(self) -> Self {
        let Self { directory, server } = self;
        let url = server.url().to_owned();
        server.kill();
        Self::at(directory, &url)
    }

    fn at(directory: TempDir, url: &str) -> Self {
        let address = url.trim_start_matches("http://");
        let serve = ["serve", "--listen", address];
        let server = Server::start(&mut meshagent(directory.path(), &serve));
        Self { directory, server }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// `meshagent room ARGUMENTS` in the room `r`.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = meshagent(self.path(), &[&["room"], arguments].concat());
        command.current_dir(self.path()).env("MESHAGENT_ROOM", "r");
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments))
    }

    /// The stdout of a command that must succeed with an empty stderr.
    pub(crate) fn done(&self, arguments: &[&str]) -> String {
        done(arguments, self.run(arguments))
    }

    /// The same for a command that reads stdin.
    pub(crate) fn done_with(&self, arguments: &[&str], stdin: &[u8]) -> String {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        let output = child.wait_with_output().unwrap();
        let ran = Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        };
        done(arguments, ran)
    }

    /// Creates a document of the schema.
    pub(crate) fn create(&self, path: &str) {
        let create = [
            "sync",
            "create",
            path,
            "--schema",
            "schema.json",
            "--json",
            PLAN,
        ];
        self.done(&create);
    }

    /// The document in the compact format.
    pub(crate) fn get(&self, path: &str) -> String {
        let text = self.done(&["sync", "get", path, "--compact"]);
        text.trim_end().to_owned()
    }
}

/// Checks that a command failed with this code, an empty stdout, and these words on stderr.
#[track_caller]
pub(crate) fn refused(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (Some(code), ""),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
    for word in words {
        assert!(
            ran.stderr.contains(word),
            "{word:?} is not in {}",
            ran.stderr
        );
    }
}

pub(crate) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[track_caller]
fn done(arguments: &[&str], ran: Ran) -> String {
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (Some(0), ""),
        "{arguments:?}"
    );
    ran.stdout
}
