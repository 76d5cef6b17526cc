//! `meshagent room connect`. With the URL in the environment, the server does not have to run.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use meshagent_protocol::{ApiScope, Role};
use tempfile::TempDir;

use crate::{KEY, KEY_ID, PROJECT_ID, SECRET, meshagent, run, verified};

fn connect(home: &Path, arguments: &[&str]) -> Command {
    let mut command = meshagent(
        home,
        &[&["room", "connect", "--room", "my-room"], arguments].concat(),
    );
    command
        .env("MESHAGENT_API_KEY", KEY)
        .env("MESHAGENT_API_URL", "http://127.0.0.1:9/");
    command
}

const SHOW: &str = r#"printf '%s\n' "$MESHAGENT_API_URL" "$MESHAGENT_PROJECT_ID" \
    "$MESHAGENT_ROOM" "$MESHAGENT_TOKEN""#;

#[test]
fn program_gets_what_an_sdk_needs() {
    let home = TempDir::new().unwrap();
    let ran = run(&mut connect(
        home.path(),
        &["--identity", "ada", "--", "sh", "-c", SHOW],
    ));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let [url, project, room, jwt] = ran.stdout.lines().collect::<Vec<_>>()[..] else {
        panic!("{}", ran.stdout)
    };
    assert_eq!(
        (url, project, room),
        ("http://127.0.0.1:9", PROJECT_ID, "my-room")
    );
    let token = verified(jwt);
    assert_eq!(
        (token.name.as_str(), token.room(), token.role()),
        ("ada", Some("my-room"), Role::Agent)
    );
    assert_eq!(token.api(), Some(&ApiScope::agent_default()));
}

#[test]
fn flags_shape_the_token_and_the_environment() {
    let home = TempDir::new().unwrap();
    let scope = r#"{"sync": {"paths": []}}"#;
    let flags = [
        "--role",
        "user",
        "--meshagent-token",
        scope,
        "-e",
        "MESHAGENT_ROOM=a=b",
        "--env",
        "X=",
        "sh",
        "-c",
        SHOW,
    ];
    let ran = run(connect(home.path(), &flags).env("USER", "grace"));
    let [_, _, room, jwt] = ran.stdout.lines().collect::<Vec<_>>()[..] else {
        panic!("{}{}", ran.stdout, ran.stderr)
    };
    assert_eq!(room, "a=b", "-e wins, and its value may contain =");
    let token = verified(jwt);
    assert_eq!((token.name.as_str(), token.role()), ("grace", Role::User));
    let api = token.api().unwrap();
    assert!(!api.sync.as_ref().unwrap().can_read("a") && api.storage.is_none());

    let show = ["--template", "none", "--", "sh", "-c", "env"];
    let ran = run(meshagent(
        home.path(),
        &[&["room", "connect", "--room", "r"], &show[..]].concat(),
    )
    .env("A", "1"));
    assert!(
        ran.code == Some(0) && !ran.stdout.contains("MESHAGENT_"),
        "{}{}",
        ran.stdout,
        ran.stderr
    );
}

/// The key could sign tokens for any participant.
#[test]
fn program_gets_the_token_and_never_the_key() {
    let home = TempDir::new().unwrap();
    let parts = [
        ("MESHAGENT_API_KEY", KEY),
        ("MESHAGENT_PROJECT_ID", PROJECT_ID),
        ("MESHAGENT_KEY_ID", KEY_ID),
        ("MESHAGENT_SECRET", SECRET),
    ];
    for template in ["agent", "none"] {
        let arguments = ["--template", template, "--", "sh", "-c", "env"];
        let ran = run(connect(home.path(), &arguments).envs(parts));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let names: Vec<&str> = ran
            .stdout
            .lines()
            .filter_map(|line| line.split('=').next())
            .filter(|name| name.starts_with("MESHAGENT_"))
            .collect();
        let secrets = ["MESHAGENT_API_KEY", "MESHAGENT_KEY_ID", "MESHAGENT_SECRET"];
        assert!(
            !names.iter().any(|name| secrets.contains(name)),
            "{names:?}"
        );
        assert!(!ran.stdout.contains(SECRET), "{}", ran.stdout);
        assert_eq!(names.contains(&"MESHAGENT_TOKEN"), template == "agent");
        assert!(names.contains(&"MESHAGENT_PROJECT_ID"));
    }
    // The caller may set it explicitly.
    let asked = [
        "-e",
        "MESHAGENT_SECRET=mine",
        "sh",
        "-c",
        "echo $MESHAGENT_SECRET",
    ];
    let ran = run(connect(home.path(), &asked).envs(parts));
    assert_eq!(ran.stdout, "mine\n", "{}", ran.stderr);
}

#[test]
fn exit_code_is_that_of_the_program() {
    let home = TempDir::new().unwrap();
    for code in [0, 1, 2, 7, 255] {
        let ran = run(&mut connect(
            home.path(),
            &["--", "sh", "-c", &format!("exit {code}")],
        ));
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(code), ""));
    }
    let ran = run(&mut connect(
        home.path(),
        &["--", "no-such-program", "--help"],
    ));
    assert_eq!(ran.code, Some(127));
    assert!(
        ran.stderr
            .starts_with("error: can't start no-such-program: "),
        "{}",
        ran.stderr
    );
    let directory = home.path().to_str().unwrap();
    assert_eq!(
        run(&mut connect(home.path(), &["--", directory])).code,
        Some(126)
    );
}

/// Whether this process ignores SIGINT, as one does that a shell started in the background. Its
/// children inherit that, and a shell among them can't trap the signal.
fn ignores_interrupts() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & (1 << 1) != 0)
}

#[test]
#[expect(clippy::print_stdout, reason = "what is left out is said")]
fn signals_reach_the_program() {
    let home = TempDir::new().unwrap();
    for (script, signal, code) in [
        (
            "trap 'exit 42' TERM; echo ready; for i in $(seq 1200); do sleep 0.05; done",
            "TERM",
            Some(42),
        ),
        (
            "trap 'exit 43' INT; echo ready; for i in $(seq 1200); do sleep 0.05; done",
            "INT",
            Some(43),
        ),
        ("echo ready; exec sleep 60", "KILL", None),
    ] {
        if signal == "INT" && ignores_interrupts() {
            println!("SIGINT is not tested: it is ignored here");
            continue;
        }
        let mut child = connect(home.path(), &["--", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        let kill = Command::new("kill")
            .args(["-s", signal, &child.id().to_string()])
            .status()
            .unwrap();
        assert!(kill.success());
        let status = child.wait().unwrap();
        // A shell reports the last one as 128 + 9.
        assert_eq!(
            (status.code(), status.signal()),
            (code, code.is_none().then_some(9)),
            "{signal}"
        );
    }
}

#[test]
fn missing_server_gets_a_hint() {
    let home = TempDir::new().unwrap();
    let mut command = meshagent(
        home.path(),
        &["room", "connect", "--room", "r", "--", "true"],
    );
    let ran = run(command.env("MESHAGENT_API_KEY", KEY));
    assert_eq!(ran.code, Some(5));
    assert!(
        ran.stderr
            .contains("hint: start one with `meshagent serve`"),
        "{}",
        ran.stderr
    );
    let ran = run(command.env_remove("MESHAGENT_API_KEY"));
    assert!(
        ran.code == Some(2) && ran.stderr.contains("`meshagent serve`"),
        "{}",
        ran.stderr
    );
}

#[test]
fn participant_is_named_after_the_user() {
    let home = TempDir::new().unwrap();
    for (variables, name) in [
        (&[("USER", "jürgen"), ("LOGNAME", "other")][..], "jürgen"),
        (&[("LOGNAME", "jürgen")], "jürgen"),
        (&[("USER", " "), ("LOGNAME", "jürgen")], "jürgen"),
        (&[], "meshagent"),
    ] {
        let mut command = connect(home.path(), &["--", "sh", "-c", SHOW]);
        let ran = run(command.envs(variables.iter().copied()));
        let jwt = ran.stdout.lines().last().unwrap();
        assert_eq!(verified(jwt).name, name, "{variables:?}");
    }
}
