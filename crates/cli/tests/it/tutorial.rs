//! Runs the commands of `docs/tutorial.md` and compares their output.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::meshagent;
use crate::serve::Server;

const PAGE: &str = include_str!("../../../../docs/tutorial.md");

/// A command of the page, which may have several lines, and its output there.
struct Step {
    command: String,
    shown: String,
}

fn steps() -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut is_console = false;
    for line in PAGE.lines() {
        if line.starts_with("```") {
            is_console = line == "```console";
        } else if !is_console {
        } else if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step {
                command: command.to_owned(),
                shown: String::new(),
            });
        } else if let Some(step) = steps.last_mut() {
            let (text, rest) = match line.strip_prefix("> ") {
                Some(rest) => (&mut step.command, rest),
                None => (&mut step.shown, line),
            };
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(rest);
        }
    }
    steps
}

#[test]
fn tutorial_commands_print_the_shown_output() {
    let home = TempDir::new().unwrap();
    let program = PathBuf::from(meshagent(home.path(), &[]).get_program());
    let steps = steps();
    assert!(steps.len() > 20, "the page has commands");
    let serve = &steps[0].command;
    assert_eq!(serve, "meshagent serve");
    let server = Server::start(&mut meshagent(
        home.path(),
        &["serve", "--listen", "127.0.0.1:0"],
    ));

    // One shell for all commands, because they share variables and jobs; a marker separates their
    // outputs.
    let mut script = String::new();
    for step in &steps[1..] {
        script.push_str(&step.command);
        script.push_str("\ncode=$?; echo; echo '=== done'; (exit $code)\n");
    }
    let (status, output) = shell(home.path(), &program, &script);
    let mut outputs = output.split("\n=== done\n");
    for step in &steps[1..] {
        let printed = outputs.next().unwrap_or_default().trim_end_matches('\n');
        assert!(
            fits(printed, &step.shown),
            "$ {}\nprints\n{printed}\nand the page says\n{}",
            step.command,
            step.shown
        );
    }
    assert!(status, "the last command succeeds");
    server.terminate();
}

/// Runs a script; returns whether it succeeded, and its output.
fn shell(home: &Path, program: &Path, script: &str) -> (bool, String) {
    let bin = home.join("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(program, bin.join("meshagent")).unwrap();
    fs::write(home.join("script"), script).unwrap();
    let log = File::create(home.join("log")).unwrap();
    let status = Command::new("sh")
        .arg("script")
        .current_dir(home)
        .env_clear()
        .env("HOME", home)
        .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .status()
        .unwrap();
    let output = fs::read_to_string(home.join("log")).unwrap();
    (status.success(), output)
}

/// Compares output with that of the page, where `…` stands for the rest of a line.
fn fits(printed: &str, shown: &str) -> bool {
    let (printed, shown): (Vec<&str>, Vec<&str>) =
        (printed.lines().collect(), shown.lines().collect());
    printed.len() == shown.len()
        && printed
            .iter()
            .zip(&shown)
            .all(|(printed, shown)| match shown.strip_suffix('…') {
                Some(start) => printed.starts_with(start),
                None => printed == shown,
            })
}

/// The document in `docs/schemas.md` fits the schema there; variants of it do not.
#[test]
fn schema_example_is_valid() {
    const PAGE: &str = include_str!("../../../../docs/schemas.md");
    let mut blocks = PAGE.split("```json\n").skip(1);
    let mut block = || blocks.next().and_then(|rest| rest.split("```").next());
    let (schema, document) = (block().unwrap(), block().unwrap());
    let home = TempDir::new().unwrap();
    fs::write(home.path().join("form.schema.json"), schema).unwrap();
    let late = document.replace("open", "late");
    for (content, code) in [(document, 0), (&*late, 1)] {
        fs::write(home.path().join("form.json"), content).unwrap();
        let validate = ["validate", "form.json", "--schema", "form.schema.json"];
        let mut command = meshagent(home.path(), &["room", "sync"]);
        let ran = command
            .args(validate)
            .current_dir(home.path())
            .output()
            .unwrap();
        assert_eq!(ran.status.code(), Some(code), "{content}: {ran:?}");
    }
}
