//! Help texts and invalid arguments.

use std::fs::OpenOptions;

use tempfile::TempDir;

use crate::{meshagent, run};

#[test]
fn help_names_every_command_and_flag() {
    let home = TempDir::new().unwrap();
    for (arguments, expected) in [
        (
            &["--help"][..],
            &["serve", "token", "room", "--version"][..],
        ),
        (
            &["serve", "--help"],
            &[
                "--listen",
                "--data-dir",
                "--max-message-bytes",
                "--log-format",
                "MESHAGENT_API_KEY",
            ],
        ),
        (
            &["token", "--help"],
            &[
                "--input",
                "--output",
                "--key",
                "--project-id",
                "--data-dir",
                "kind: ParticipantToken",
            ],
        ),
        (&["room", "--help"], &["connect", "sync", "storage"]),
        (
            &["room", "connect", "--help"],
            &[
                "--room",
                "--identity",
                "--role",
                "--meshagent-token",
                "--template",
                "--env",
                "-e",
                "--project-id",
            ],
        ),
        (
            &["room", "sync", "--help"],
            &[
                "create",
                "get",
                "grep",
                "inspect",
                "update",
                "ls",
                "export",
                "delete",
                "validate",
                "--quiet",
                "Exit codes:",
            ],
        ),
        (
            &["room", "storage", "--help"],
            &["ls", "cp", "get", "rm", "exists", "mv", "Exit codes:"],
        ),
    ] {
        let ran = run(&mut meshagent(home.path(), arguments));
        assert_eq!(
            (ran.code, ran.stderr.as_str()),
            (Some(0), ""),
            "{arguments:?}"
        );
        for word in expected {
            assert!(
                ran.stdout.contains(word),
                "{word} is not in the help of {arguments:?}:\n{}",
                ran.stdout
            );
        }
    }
    let ran = run(&mut meshagent(home.path(), &["--version"]));
    assert_eq!(
        ran.stdout,
        concat!(
            "meshagent ",
            env!("CARGO_PKG_VERSION"),
            " (room server and tools, not the Python package)\n"
        )
    );
}

#[test]
fn errors_name_invalid_arguments() {
    let home = TempDir::new().unwrap();
    for (arguments, expected) in [
        (&["frob"][..], "'frob'"),
        (
            &["serve", "--listen", "here"],
            "expected an IP address and a port",
        ),
        (
            &["serve", "--listen", "8081"],
            "tip: use '--listen 127.0.0.1:8081'",
        ),
        (
            &["sync", "get", "plan"],
            "tip: did you mean 'meshagent room sync'?",
        ),
        (
            &["room", "inspect", "plan"],
            "tip: did you mean 'meshagent room sync inspect'?",
        ),
        (&["serve", "--frob"], "--frob"),
        (&["token"], "--input"),
        (
            &["room", "connect", "--room", "r", "--rom", "r", "--", "true"],
            "--rom",
        ),
        (&["room", "connect", "--room", "r"], "COMMAND"),
        (&["room", "connect", "--", "true"], "--room"),
        (
            &["room", "connect", "--room", "My Room", "--", "true"],
            "1 to 63",
        ),
        (&["room", "connect", "--room", "-r", "--", "true"], "--room"),
        (
            &["room", "connect", "--room", "r-", "--", "true"],
            "1 to 63",
        ),
        (
            &[
                "room",
                "connect",
                "--room",
                "r",
                "--identity",
                " ",
                "--",
                "true",
            ],
            "--identity",
        ),
        (
            &["room", "connect", "--room", "r", "-e", "NAME", "--", "true"],
            "NAME=VALUE",
        ),
        (
            &["room", "connect", "--room", "r", "-e", "=x", "--", "true"],
            "NAME=VALUE",
        ),
        (
            &[
                "room",
                "connect",
                "--room",
                "r",
                "--meshagent-token",
                "all",
                "--",
                "true",
            ],
            "agentDefault",
        ),
        (
            &[
                "room",
                "connect",
                "--room",
                "r",
                "--meshagent-token",
                r#"{"sync": 1}"#,
                "--",
                "true",
            ],
            "`sync`",
        ),
        (
            &[
                "room",
                "connect",
                "--room",
                "r",
                "--meshagent-token",
                r#"{"sync": {"path": []}}"#,
                "--",
                "true",
            ],
            "`path` in `sync`; did you mean `paths`?",
        ),
        (
            &[
                "room",
                "connect",
                "--room",
                "r",
                "--template",
                "x",
                "--",
                "true",
            ],
            "--template",
        ),
    ] {
        let ran = run(&mut meshagent(home.path(), arguments));
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (Some(2), ""),
            "{arguments:?}"
        );
        assert!(
            ran.stderr.contains(expected),
            "{arguments:?} does not name {expected}:\n{}",
            ran.stderr
        );
    }
}

#[test]
fn no_arguments_show_the_help() {
    let home = TempDir::new().unwrap();
    let ran = run(&mut meshagent(home.path(), &[]));
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("Usage: meshagent"), "{}", ran.stderr);
}

#[test]
fn help_fails_if_stdout_is_full() {
    let home = TempDir::new().unwrap();
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["serve", "--help"],
        &["help", "room", "sync"],
        &["room", "sync", "get", "-h"],
    ] {
        for room in ["", "\u{9b}ü"] {
            let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
            let mut command = meshagent(home.path(), arguments);
            let ran = command
                .env("MESHAGENT_ROOM", room)
                .stdout(full)
                .output()
                .unwrap();
            let stderr = String::from_utf8(ran.stderr).unwrap();
            assert_eq!(ran.status.code(), Some(1), "{arguments:?}: {stderr}");
            assert!(stderr.contains("stdout"), "{arguments:?}: {stderr}");
        }
    }
}

#[test]
fn errors_name_expected_numbers_and_roles() {
    let home = TempDir::new().unwrap();
    let connect = ["room", "connect", "--room", "r", "--role"];
    let grep = ["room", "sync", "grep", "-", "a"];
    let watch = ["room", "sync", "watch", "--room", "r", "a"];
    for (arguments, option, wrong, expected) in [
        (&grep[..], "--before", "zwölf", "a whole number, at least 0"),
        (&grep, "--after", "-1", "a whole number, at least 0"),
        (&watch, "--count", "0", "a whole number, at least 1"),
        (&watch, "--count", "x", "a whole number, at least 1"),
        (&connect[..4], "--role", "admin", "agent, tool, user"),
        (&connect[..4], "--role", "Ägent", "agent, tool, user"),
    ] {
        let argument = format!("{option}={wrong}");
        let mut arguments = arguments.to_vec();
        arguments.extend([&*argument, "--", "true"]);
        let ran = run(&mut meshagent(home.path(), &arguments));
        assert_eq!(ran.code, Some(2), "{argument}: {}", ran.stderr);
        for text in [option, wrong, expected] {
            assert!(ran.stderr.contains(text), "{argument}: {}", ran.stderr);
        }
    }
}
