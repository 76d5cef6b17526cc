//! `meshagent token`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use meshagent_protocol::Role;
use tempfile::TempDir;

use crate::{KEY, KEY_ID, PROJECT_ID, Ran, SECRET, meshagent, run, verified};

const SPEC: &str = r#"
version: v1
kind: ParticipantToken
identity: ada
room: my-room
role: agent
api:
  sync:
    paths:
      - path: "notes/*"
        read_only: true
  storage: {}
  queues: {list: true}
"#;

fn token(home: &Path, spec: &str, arguments: &[&str]) -> Ran {
    let input = home.join("token.yaml");
    fs::write(&input, spec).unwrap();
    let arguments = [&["token", "--input", input.to_str().unwrap()], arguments].concat();
    run(&mut meshagent(home, &arguments))
}

#[test]
fn file_becomes_a_token() {
    let home = TempDir::new().unwrap();
    let ran = token(home.path(), SPEC, &["--key", KEY]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let token = verified(ran.stdout.strip_suffix('\n').unwrap());
    assert_eq!(
        (token.name.as_str(), token.room(), token.role()),
        ("ada", Some("my-room"), Role::Agent)
    );
    assert_eq!(
        (token.project_id.as_deref(), token.key_id.as_deref()),
        (Some(PROJECT_ID), Some(KEY_ID))
    );
    let api = token.api().unwrap();
    let sync = api.sync.as_ref().unwrap();
    assert!(sync.can_read("notes/a") && !sync.can_write("notes/a") && !sync.can_read("a"));
    assert!(api.storage.is_some() && api.messaging.is_none());
    assert!(
        api.other.contains_key("queues"),
        "grants for toolkits of other servers are passed on"
    );
}

#[test]
fn vectors_token_comes_out_to_the_byte() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/vectors/tokens.json");
    let vectors: serde_json::Value = serde_json::from_slice(&fs::read(vectors).unwrap()).unwrap();
    for name in ["agent", "user"] {
        let vector = &vectors["python"][name];
        let grants = vector["json"]["grants"].as_array().unwrap();
        let scope = |name| {
            grants
                .iter()
                .find(|grant| grant["name"] == name)
                .map(|grant| &grant["scope"])
        };
        let spec = serde_json::json!({
            "version": "v1",
            "kind": "ParticipantToken",
            "identity": vector["json"]["name"],
            "room": scope("room"),
            "role": name,
            "api": scope("api"),
        });
        let home = TempDir::new().unwrap();
        // JSON is YAML too.
        let ran = token(home.path(), &spec.to_string(), &["--key", KEY]);
        assert_eq!(
            ran.stdout.trim_end(),
            vector["jwt"].as_str().unwrap(),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn output_file_is_for_its_owner_only() {
    let home = TempDir::new().unwrap();
    let output = home.path().join("token.jwt");
    fs::write(&output, "old").unwrap();
    let ran = token(
        home.path(),
        SPEC,
        &["--key", KEY, "--output", output.to_str().unwrap()],
    );
    assert_eq!(
        (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
        (Some(0), "", "")
    );
    assert_eq!(
        fs::metadata(&output).unwrap().permissions().mode() & 0o777,
        0o600
    );
    verified(&fs::read_to_string(&output).unwrap());
}

#[test]
fn output_may_be_a_pipe() {
    let home = TempDir::new().unwrap();
    for output in ["-", "/dev/stdout"] {
        let ran = token(home.path(), SPEC, &["--key", KEY, "--output", output]);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{output}");
        verified(ran.stdout.trim_end());
    }
}

#[test]
fn key_comes_from_the_environment_whole_or_in_parts() {
    let home = TempDir::new().unwrap();
    let input = home.path().join("token.yaml");
    fs::write(&input, SPEC).unwrap();
    let base = || meshagent(home.path(), &["token", "--input", input.to_str().unwrap()]);
    let ran = run(base().env("MESHAGENT_API_KEY", KEY));
    verified(ran.stdout.trim_end());
    let parts = [
        ("MESHAGENT_PROJECT_ID", PROJECT_ID),
        ("MESHAGENT_KEY_ID", KEY_ID),
        ("MESHAGENT_SECRET", SECRET),
    ];
    let ran = run(base().envs(parts));
    verified(ran.stdout.trim_end());

    let ran = run(base()
        .envs(parts)
        .env("MESHAGENT_API_KEY", KEY)
        .env("MESHAGENT_SECRET", "other"));
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
    assert_eq!(
        ran.stderr,
        "error: MESHAGENT_SECRET contradicts MESHAGENT_API_KEY\n\
         hint: unset MESHAGENT_SECRET: MESHAGENT_API_KEY says it all\n"
    );
    let ran = run(base()
        .env("MESHAGENT_API_KEY", KEY)
        .args(["--project-id", KEY_ID]));
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.stderr.contains("--project-id is") && ran.stderr.contains(PROJECT_ID),
        "{}",
        ran.stderr
    );
    let ran = run(&mut base());
    assert!(
        ran.code == Some(1) && ran.stderr.contains("hint: set MESHAGENT_API_KEY"),
        "{}",
        ran.stderr
    );
}

#[test]
fn wrong_files_are_refused_with_the_reason() {
    let home = TempDir::new().unwrap();
    for (from, to, expected) in [
        ("version: v1", "version: v2", "v1"),
        (
            "kind: ParticipantToken",
            "kind: Service",
            "ParticipantToken",
        ),
        ("identity: ada", "identity: ''", "identity"),
        ("identity: ada", "", "identity"),
        ("identity: ada", "identity: [ada]", "identity"),
        ("room: my-room", "room: My Room", "1 to 63"),
        ("role: agent", "role: owner", "owner"),
        ("role: agent", "rolle: agent", "rolle"),
        ("api:", "api: 1\nx:", "x"),
        ("storage: {}", "storage: 7", "`storage`"),
        ("version: v1", "version: [", "token.yaml"),
    ] {
        let ran = token(home.path(), &SPEC.replace(from, to), &["--key", KEY]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{to}");
        assert!(
            ran.stderr.contains(expected),
            "{to:?} does not name {expected}:\n{}",
            ran.stderr
        );
        assert!(ran.stderr.contains("\nhint: "), "{}", ran.stderr);
    }
    let ran = run(&mut meshagent(
        home.path(),
        &["token", "--input", "nowhere.yaml", "--key", KEY],
    ));
    assert!(
        ran.code == Some(1) && ran.stderr.starts_with("error: reading nowhere.yaml: "),
        "{}",
        ran.stderr
    );
}
