//! Help, and arguments that make no sense.

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
        concat!("meshagent ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn wrong_arguments_are_named() {
    let home = TempDir::new().unwrap();
    for (arguments, expected) in [
        (&["frob"][..], "'frob'"),
        (&["serve", "--listen", "here"], "--listen"),
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
