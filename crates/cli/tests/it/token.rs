//! `meshagent token`.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use meshagent_protocol::{ApiKey, ApiScope, Grant, ParticipantToken, Role};
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
fn file_is_signed_as_a_token() {
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
fn token_equals_the_golden_vector() {
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
        // JSON is valid YAML.
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
fn only_the_owner_can_read_the_output_file() {
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
fn replaced_output_file_drops_old_permissions() {
    let home = TempDir::new().unwrap();
    let (real, link) = (home.path().join("real"), home.path().join("link"));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let write = |path: &Path| {
        let output = path.to_str().unwrap();
        token(home.path(), SPEC, &["--key", KEY, "--output", output])
    };
    // A file that others may read, and that a reader has open.
    fs::write(&real, "old").unwrap();
    fs::set_permissions(&real, PermissionsExt::from_mode(0o666)).unwrap();
    let mut reader = fs::File::open(&real).unwrap();
    let ran = write(&real);
    assert_eq!((ran.code, mode(&real)), (Some(0), 0o600), "{}", ran.stderr);
    let mut seen = String::new();
    reader.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "old");

    // Links to a file or to nothing are refused, because their creator chose the target.
    fs::set_permissions(&real, PermissionsExt::from_mode(0o644)).unwrap();
    for target in [real.as_path(), Path::new("nowhere")] {
        let _gone = fs::remove_file(&link);
        std::os::unix::fs::symlink(target, &link).unwrap();
        let before = fs::read(&real).unwrap();
        let ran = write(&link);
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        assert!(
            ran.stderr.contains("symbolic link") && ran.stderr.contains("\nhint: "),
            "{}",
            ran.stderr
        );
        assert!(fs::read(&real).unwrap() == before && mode(&real) == 0o644);
        assert!(!home.path().join("nowhere").exists());
    }

    // Everybody may create links there.
    let shared = Path::new("/dev/shm");
    if shared.is_dir() {
        let place = TempDir::new_in(shared).unwrap();
        let link = place.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let ran = write(&link);
        assert_eq!((ran.code, mode(&real)), (Some(2), 0o644), "{}", ran.stderr);
        let around = format!("/dev/..{}", link.display());
        let ran = write(Path::new(&around));
        assert_eq!((ran.code, mode(&real)), (Some(2), 0o644), "{}", ran.stderr);
    }
}

#[test]
fn secret_that_is_not_utf8_is_not_printed() {
    use std::os::unix::ffi::OsStrExt as _;
    let home = TempDir::new().unwrap();
    fs::write(home.path().join("spec.yaml"), SPEC).unwrap();
    let secret = std::ffi::OsStr::from_bytes(b"streng-geheim-\xff");
    for name in ["MESHAGENT_API_KEY", "MESHAGENT_SECRET"] {
        let mut command = meshagent(home.path(), &["token", "--input", "spec.yaml"]);
        let ran = run(command.current_dir(home.path()).env(name, secret));
        assert_eq!(ran.code, Some(2), "{name}: {}", ran.stderr);
        assert!(ran.stderr.contains(name), "{}", ran.stderr);
        assert!(!ran.stderr.contains("geheim"), "{}", ran.stderr);
    }
}

#[test]
fn output_can_be_a_pipe() {
    let home = TempDir::new().unwrap();
    for output in ["-", "/dev/stdout"] {
        let ran = token(home.path(), SPEC, &["--key", KEY, "--output", output]);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{output}");
        verified(ran.stdout.trim_end());
    }
}

#[test]
fn key_is_read_from_the_environment_whole_or_in_parts() {
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
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""));
    assert_eq!(
        ran.stderr,
        "error: MESHAGENT_SECRET contradicts MESHAGENT_API_KEY\n\
         hint: unset MESHAGENT_SECRET; MESHAGENT_API_KEY contains its value\n"
    );
    let ran = run(base()
        .env("MESHAGENT_API_KEY", KEY)
        .args(["--project-id", KEY_ID]));
    assert_eq!(ran.code, Some(2));
    assert!(
        ran.stderr.contains("--project-id is") && ran.stderr.contains(PROJECT_ID),
        "{}",
        ran.stderr
    );
    let ran = run(&mut base());
    assert!(
        ran.code == Some(2) && ran.stderr.contains("hint: set MESHAGENT_API_KEY"),
        "{}",
        ran.stderr
    );
}

#[test]
fn invalid_files_are_refused_with_a_reason() {
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
        ("room: my-room", "", "room"),
        ("room: my-room", "room: ''", "1 to 63"),
        ("role: agent", "role: owner", "owner"),
        ("role: agent", "rolle: agent", "rolle"),
        ("api:", "api: 1\nx:", "x"),
        ("storage: {}", "storage: 7", "`storage`"),
        ("version: v1", "version: [", "token.yaml"),
    ] {
        let ran = token(home.path(), &SPEC.replace(from, to), &["--key", KEY]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{to}");
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
        ran.code == Some(2)
            && ran.stderr.starts_with("error: can't read nowhere.yaml: ")
            && ran.stderr.contains("\nhint: "),
        "{}",
        ran.stderr
    );
}

/// An error is one line that names the file or variable, a hint another one.
#[test]
fn errors_about_tokens_are_lines() {
    let home = crate::room::Home::new();
    let at = |name: &str| home.path().join(name);
    let error = |command: &mut std::process::Command, code: i32| {
        let ran = run(command);
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (Some(code), ""),
            "{}",
            ran.stderr
        );
        let lines: Vec<String> = ran.stderr.lines().map(str::to_owned).collect();
        assert!(
            lines.len() == 2 && lines[0].starts_with("error: ") && lines[1].starts_with("hint: "),
            "{}",
            ran.stderr
        );
        lines
    };
    // Files for `meshagent token`.
    fs::write(
        at("spec.yaml"),
        SPEC.replace("identity: ada", "identity: [ada]"),
    )
    .unwrap();
    fs::write(at("keys.yaml"), format!("{SPEC}more: 1\n")).unwrap();
    fs::write(at("empty.yaml"), "").unwrap();
    fs::write(at("binary.yaml"), b"\xff\x00").unwrap();
    let of_file = |file: &str| {
        let mut command = meshagent(home.path(), &["token", "--input", file, "--key", KEY]);
        error(command.current_dir(home.path()), 2)[0].clone()
    };
    for (file, expected) in [
        ("absent.yaml", "error: can't read absent.yaml: No such file"),
        (".", "error: can't read .: Is a directory"),
        (
            "spec.yaml",
            "error: spec.yaml is not a valid token file: line 4 column 11: expected",
        ),
        (
            "keys.yaml",
            "error: keys.yaml is not a valid token file: line 14 column 1: unknown field",
        ),
        (
            "empty.yaml",
            "error: empty.yaml is not a valid token file: ",
        ),
        (
            "binary.yaml",
            "error: binary.yaml is not a valid token file: ",
        ),
    ] {
        let line = of_file(file);
        assert!(line.starts_with(expected), "{line}");
    }

    // Tokens in the environment.
    let key = fs::read(at(".local/share/meshagent/credentials.json")).unwrap();
    let key: serde_json::Value = serde_json::from_slice(&key).unwrap();
    let key = ApiKey::parse(key["api_key"].as_str().unwrap()).unwrap();
    let signed = |room: Option<&str>, exp: Option<u64>, nbf: Option<u64>| {
        let mut token = ParticipantToken::new("ada");
        let room = room.map(|room| Grant::Room(room.to_owned()));
        token.grants.push(Grant::Api(Box::new(ApiScope::full())));
        token.grants.extend(room);
        (token.exp, token.nbf) = (exp, nbf);
        token.sign(&key)
    };
    let with = |jwt: &str, code| {
        error(
            home.command(&["sync", "ls"]).env("MESHAGENT_TOKEN", jwt),
            code,
        )
    };
    fs::write(at("token.jwt"), signed(Some("r"), None, None)).unwrap();
    let line = of_file("token.jwt");
    assert!(
        line.contains("token.jwt is not a valid token file: it contains a signed token"),
        "{line}"
    );
    let [line, hint] = &with("token.jwt", 2)[..] else {
        panic!()
    };
    assert!(
        line.contains("the name of the file \"token.jwt\", not a token"),
        "{line}"
    );
    assert!(
        hint.contains("export MESHAGENT_TOKEN=\"$(cat 'token.jwt')\""),
        "{hint}"
    );
    for text in ["geheim", "a.b.c", "\n"] {
        let [line, hint] = &with(text, 2)[..] else {
            panic!()
        };
        assert!(
            line == "error: MESHAGENT_TOKEN is not a token" && hint.contains("unset it"),
            "{line}"
        );
        assert!(!line.contains("geheim"));
    }
    for (jwt, expected) in [
        (
            signed(Some("r"), Some(1_000_000_000), None),
            ": the token in MESHAGENT_TOKEN expired at 2001-09-09T01:46:40",
        ),
        (
            signed(Some("r"), None, Some(4_000_000_000)),
            ": the token in MESHAGENT_TOKEN is not valid before 2096",
        ),
        (
            signed(Some("other"), None, None),
            ": the token in MESHAGENT_TOKEN is for the room \"other\"",
        ),
        (
            signed(None, None, None),
            ": the token in MESHAGENT_TOKEN is for no room",
        ),
    ] {
        let line = with(&jwt, 4)[0].clone();
        assert!(line.contains(expected), "{line}");
    }
    let ran = run(home
        .command(&["sync", "ls"])
        .env("MESHAGENT_TOKEN", signed(Some("r"), None, None) + "\n"));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
}

/// A misspelt restriction would have no effect.
#[test]
fn misspelt_scope_keys_are_refused_with_a_suggestion() {
    let home = TempDir::new().unwrap();
    for (api, expected) in [
        (
            "{sync: {path: [{path: a}]}}",
            "`path` in `api.sync`; did you mean `paths`?",
        ),
        (
            "{sync: {paths: [{path: a}, {path: b, readonly: true}]}}",
            "`readonly` in `api.sync.paths[1]`; did you mean `read_only`?",
        ),
        ("{snyc: {}}", "`snyc` in `api`; did you mean `sync`?"),
        (
            "{storage: {file: {}}}",
            "`file` in `api.storage`; did you mean `files`?",
        ),
        (
            "{storage: {files: {paths: [{path: a, recursive: true, actions: [], exclude: []}]}}}",
            "`exclude` in `api.storage.files.paths[0]`; did you mean `excluded_paths`?",
        ),
        (
            "{messaging: {brodcast: false}}",
            "`brodcast` in `api.messaging`; did you mean `broadcast`?",
        ),
        // Also keys for toolkits of other servers.
        (
            "{queues: {sends: []}}",
            "`sends` in `api.queues`; did you mean `send`?",
        ),
        (
            "{memory: {memories: [{name: a, permissions: {dropp: false}}]}}",
            "`dropp` in `api.memory.memories[0].permissions`; did you mean `drop`?",
        ),
        (
            "{llm: {Models: []}}",
            "`Models` in `api.llm`; did you mean `models`?",
        ),
        (
            "{secrets: {list: true}}",
            "`list` in `api.secrets`; it has no keys",
        ),
        ("{sync: {xyz: 1}}", "`xyz` in `api.sync`; known keys: paths"),
    ] {
        let (before, _) = SPEC.split_once("api:").unwrap();
        let ran = token(home.path(), &format!("{before}api: {api}"), &["--key", KEY]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{api}");
        let expected = format!("unknown key {expected}");
        assert!(
            ran.stderr.contains(&expected),
            "{api}: no {expected}:\n{}",
            ran.stderr
        );
    }
}

/// Newer SDKs may sign keys that this server does not know.
#[test]
fn unknown_keys_of_a_signed_token_are_ignored() {
    let scope = serde_json::json!({
        "newer": {},
        "sync": { "paths": [{ "path": "a", "newer": 1 }], "newer": {} }
    });
    let mut signed = ParticipantToken::new("ada");
    let scope = ApiScope::from_json(&scope).unwrap();
    signed.grants.push(Grant::Api(Box::new(scope)));
    let signed = verified(&signed.sign(&ApiKey::parse(KEY).unwrap()));
    let sync = signed.api().unwrap().sync.as_ref().unwrap();
    assert!(sync.can_write("a") && !sync.can_read("b"));
}

/// All keys of the published SDK's `ParticipantTokenSpec`, including the aliases of `dataset`.
#[test]
fn published_scope_keys_are_accepted() {
    let home = TempDir::new().unwrap();
    let (before, _) = SPEC.split_once("api:").unwrap();
    for dataset in ["dataset", "datasets", "database"] {
        let api = PUBLISHED.replace("dataset", dataset);
        let ran = token(home.path(), &format!("{before}api:{api}"), &["--key", KEY]);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
        let api = verified(ran.stdout.trim_end()).api().unwrap().to_json();
        assert_eq!(api["queues"]["send"], serde_json::json!(["a"]));
        assert!(api[dataset].is_object() && api["sync"]["paths"].is_array());
    }
}

const PUBLISHED: &str = "
  livekit: {breakout_rooms: [a]}
  queues: {send: [a], receive: null, list: true}
  messaging: {broadcast: true, list: true, send: false}
  dataset: {list_tables: true,
    tables: [{name: a, namespace: [b], write: true, read: true, alter: false}]}
  sqlite: {create_database: false, list_databases: true,
    databases: [{name: a, namespace: [b], create_table: true, drop: true, inspect: true,
      list_tables: true, execute: true,
      tables: [{database: a, table: b, namespace: [c], write: true, read: true, alter: true}]}]}
  memory: {list: true,
    memories: [{name: a, namespace: [b],
      permissions: {create: true, drop: true, inspect: true, query: true, upsert: true,
        ingest: true, recall: true, optimize: true}}]}
  sync: {paths: [{path: a, read_only: true}]}
  storage: {paths: [{path: a, read_only: true}],
    files: {paths: [{path: a, recursive: true, actions: [read], excluded_paths: [a/b]}]}}
  containers: {logs: true, pull: [a], run: [a], use_containers: true,
    registry: {list: [a], pull: [a], run: [a], write: [a]}}
  developer: {logs: true}
  agents: {register_agent: true, register_public_toolkit: true, register_private_toolkit: true,
    call: true, use_agents: true, use_tools: true, allowed_toolkits: [a]}
  llm: {models: [a]}
  admin: {config: true}
  secrets: {}
  tunnels: {ports: [a]}
  services: {list: true}
";
