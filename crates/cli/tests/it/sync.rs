//! `meshagent room sync`, with a server of the test.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::json;

use crate::room::{Home, PLAN, SCHEMA, json as parsed, refused};
use crate::{meshagent, run};

#[test]
fn create_read_update_and_delete_a_document() {
    let home = Home::new();
    let create = [
        "sync",
        "create",
        "notes/plan",
        "--schema",
        "schema.json",
        "--json-file",
        "-",
    ];
    assert_eq!(
        home.done_with(&create, PLAN.as_bytes()),
        "Created document at notes/plan\n"
    );
    assert_eq!(home.get("notes/plan"), PLAN);
    let found = [
        "sync",
        "grep",
        "notes/plan",
        "MILK",
        "--ignore-case",
        "--after",
        "1",
        "--compact",
    ];
    assert_eq!(
        home.done(&found),
        "[{\"item\": {\"s\": \"milk\", \"n\": 2}}, {\"item\": {\"s\": \"bread\"}}]\n"
    );
    assert_eq!(home.done(&["sync", "grep", "notes/plan", "tea"]), "[]\n");
    let minus = ["sync", "grep", "notes/plan", "--compact", "--", "-milk"];
    assert_eq!(home.done(&minus), "[]\n");
    let schema = home.done(&["sync", "inspect", "notes/plan"]);
    assert_eq!(parsed(&schema)["$root_tag_ref"], json!("#/$defs/doc"));

    let patch = r#"[{"op": "test", "path": "/doc/title", "value": "Plan"},
                    {"op": "remove", "path": "/doc/children/0"},
                    {"op": "add", "path": "/doc/children/-",
                     "value": {"item": {"s": "tea", "n": 0.5}}}]"#;
    let update = ["sync", "update", "notes/plan", "--patch-file", "-"];
    assert_eq!(
        home.done_with(&update, patch.as_bytes()),
        "Updated document at notes/plan\n"
    );
    let second = concat!(
        r#"{"doc": {"title": "Plan", "children": "#,
        r#"[{"item": {"s": "bread"}}, {"item": {"s": "tea", "n": 0.5}}]}}"#
    );
    assert_eq!(home.get("notes/plan"), second);

    // In another room, from the exported files.
    let export = [
        "sync",
        "export",
        "notes/plan",
        "--output",
        "plan.json",
        "--schema-output",
        "plan.schema",
    ];
    assert_eq!(home.done(&export), "");
    let again = [
        "sync",
        "create",
        "again",
        "--schema",
        "plan.schema",
        "--json-file",
        "plan.json",
    ];
    home.done(&[&again[..], &["--room", "other"]].concat());
    let get = home.done(&["sync", "get", "again", "--compact", "--room", "other"]);
    assert_eq!(get, format!("{second}\n"));
    assert_eq!(
        parsed(&home.done(&["sync", "export", "notes/plan"])),
        parsed(second)
    );

    assert_eq!(
        home.done(&["sync", "delete", "notes/plan"]),
        "Deleted document at notes/plan\n"
    );
    refused(
        &home.run(&["sync", "get", "notes/plan"]),
        3,
        &["notes/plan", "\nhint: "],
    );
}

#[test]
fn include_ids_shows_stable_ids() {
    let home = Home::new();
    home.create("plan");
    let get = ["sync", "get", "plan", "--include-ids", "--compact"];
    let before = parsed(&home.done(&get));
    let id = &before["doc"]["children"][1]["item"]["$id"];
    assert!(id.as_str().is_some_and(|id| !id.is_empty()), "{before}");
    home.done(&[
        "sync",
        "update",
        "plan",
        "--patch",
        r#"[{"op": "remove", "path": "/doc/children/0"}]"#,
    ]);
    assert_eq!(
        &parsed(&home.done(&get))["doc"]["children"][0]["item"]["$id"],
        id
    );
    let found = home.done(&["sync", "grep", "plan", "bread", "--include-ids"]);
    assert_eq!(&parsed(&found)[0]["item"]["$id"], id);
}

#[test]
fn ls_lists_documents_of_all_folders_without_files() {
    let home = Home::new();
    for path in ["notes/plan", "notes/deep/er/plan", "notebook", "other/plan"] {
        home.create(path);
    }
    home.done(&["storage", "cp", "schema.json", "room://notes/file.json"]);
    let all = "notebook\nnotes/deep/er/plan\nnotes/plan\nother/plan\n";
    assert_eq!(home.done(&["sync", "ls"]), all);
    assert_eq!(
        home.done(&["sync", "ls", "notes/"]),
        "notes/deep/er/plan\nnotes/plan\n"
    );
    assert_eq!(
        home.done(&["sync", "ls", "note"]),
        "notebook\nnotes/deep/er/plan\nnotes/plan\n"
    );
    assert_eq!(home.done(&["sync", "ls", "notes/plan"]), "notes/plan\n");
    let line = home.done(&["sync", "ls", "notebook", "--json"]);
    let found = parsed(&line);
    assert_eq!(found["path"], json!("notebook"));
    assert!(found["size"].as_u64() > Some(0), "{line}");
    let changed = found["updated_at"].as_str().unwrap().to_owned();
    let line = home.done(&["sync", "ls", "notebook", "--long"]);
    assert_eq!(
        line.split_whitespace().collect::<Vec<_>>(),
        [&found["size"].to_string(), &changed, "notebook"]
    );
    refused(
        &home.run(&["sync", "ls", "absent"]),
        3,
        &["absent", "\nhint: "],
    );
    assert_eq!(home.done(&["sync", "ls", "--room", "empty"]), "");
}

#[test]
fn violations_are_listed_and_change_nothing() {
    let home = Home::new();
    let wrong =
        r#"{"doc": {"colour": "red", "children": [{"item": {"n": "many"}}, {"paragraph": {}}]}}"#;
    let places = [
        "in 3 places",
        "/doc/colour: ",
        "/doc/children/0/item/n: ",
        "/doc/children/1",
        "\nhint: ",
    ];
    let create = [
        "sync",
        "create",
        "plan",
        "--schema",
        "schema.json",
        "--json",
        wrong,
    ];
    refused(&home.run(&create), 1, &places);
    refused(&home.run(&["sync", "get", "plan"]), 3, &[]);

    // `validate` lists the same without a server.
    fs::write(home.path().join("wrong.json"), wrong).unwrap();
    let validate = [
        "room",
        "sync",
        "validate",
        "wrong.json",
        "--schema",
        "schema.json",
    ];
    let mut command = meshagent(home.path(), &validate);
    refused(&run(command.current_dir(home.path())), 1, &places);
    let validate = ["sync", "validate", "-", "--schema", "schema.json"];
    assert_eq!(
        home.done_with(&validate, PLAN.as_bytes()),
        "stdin fits the schema\n"
    );

    home.create("plan");
    for (patch, words) in [
        (
            r#"[{"op": "remove", "path": "/doc/children/0"},
                {"op": "add", "path": "/doc/colour", "value": 1}]"#,
            "/doc/colour: ",
        ),
        (
            r#"[{"op": "remove", "path": "/doc/children/0"},
                {"op": "remove", "path": "/doc/absent"}]"#,
            "operation 1: \"/doc/absent\"",
        ),
        (
            r#"[{"op": "remove", "path": "/doc/children/0"},
                {"op": "test", "path": "/doc/title", "value": 1}]"#,
            "operation 1: ",
        ),
    ] {
        refused(
            &home.run(&["sync", "update", "plan", "--patch", patch]),
            1,
            &[words, "\nhint: "],
        );
    }
    assert_eq!(home.get("plan"), PLAN);
}

#[test]
fn exit_codes_classify_faults() {
    let home = Home::new();
    home.create("plan");
    for (code, arguments) in [
        (
            1,
            &["sync", "create", "plan", "--schema", "schema.json"][..],
        ),
        (1, &["sync", "delete", "folder"]),
        (2, &["sync", "update", "plan"]),
        (2, &["sync", "update", "plan", "--patch", "["]),
        (2, &["sync", "update", "plan", "--patch", "{}"]),
        (
            2,
            &["sync", "update", "plan", "--patch-file", "absent.json"],
        ),
        (
            2,
            &["sync", "create", "a", "--json", "{}", "--json-file", "b"],
        ),
        (
            2,
            &["sync", "create", "a", "--schema", "-", "--json-file", "-"],
        ),
        (2, &["sync", "get", "../plan"]),
        (2, &["sync", "get", "plan", "--room", "No Room"]),
        (2, &["sync", "grep", "plan", "("]),
        (2, &["sync", "grep", "plan", "--ignorecase"]),
        (3, &["sync", "get", "absent"]),
        (3, &["sync", "delete", "absent"]),
    ] {
        if code == 1 {
            home.done_with(&["storage", "cp", "-", "room://folder/file"], b"x");
        }
        refused(&home.run(arguments), code, &[]);
    }
    let elsewhere = || {
        let mut command = home.command(&["sync", "get", "plan"]);
        command.env("MESHAGENT_API_URL", "http://127.0.0.1:9");
        command
    };
    refused(&run(&mut elsewhere()), 5, &["127.0.0.1:9", "\nhint: "]);
    refused(&run(elsewhere().env("MESHAGENT_TOKEN", "x\ny")), 2, &[]);
    // No key, no server, no token.
    let mut lost = meshagent(
        &home.path().join("nowhere"),
        &["room", "sync", "ls", "--room", "r"],
    );
    refused(&run(&mut lost), 2, &["no API key", "\nhint: "]);
}

#[test]
fn token_from_the_environment_needs_no_key_and_limits_access() {
    let home = Home::new();
    home.create("plan");
    home.create("secret");
    let spec = "{version: v1, kind: ParticipantToken, identity: ada, room: r, \
                api: {storage: {}, sync: {paths: [{path: plan, read_only: true}]}}}";
    fs::write(home.path().join("token.yaml"), spec).unwrap();
    let mut token = meshagent(home.path(), &["token", "--input", "token.yaml"]);
    let jwt = run(token.current_dir(home.path()))
        .stdout
        .trim_end()
        .to_owned();

    let visitor = tempfile::TempDir::new().unwrap();
    let by_token = |arguments: &[&str]| {
        let mut command = meshagent(visitor.path(), &[&["room", "sync"], arguments].concat());
        let url = home.server().url();
        command
            .env("MESHAGENT_API_URL", url)
            .env("MESHAGENT_ROOM", "r")
            .env("MESHAGENT_TOKEN", &jwt);
        run(&mut command)
    };
    let ran = by_token(&["get", "plan", "--compact"]);
    assert_eq!(
        (ran.code, ran.stdout.trim_end()),
        (Some(0), PLAN),
        "{}",
        ran.stderr
    );
    let patch = [
        "--patch",
        r#"[{"op": "remove", "path": "/doc/children/0"}]"#,
    ];
    refused(
        &by_token(&[&["update", "plan"], &patch[..]].concat()),
        4,
        &["\nhint: "],
    );
    refused(&by_token(&["get", "secret"]), 4, &["\nhint: "]);
    refused(
        &by_token(&["get", "plan", "--room", "other"]),
        4,
        &["MESHAGENT_TOKEN"],
    );
    assert_eq!(home.get("plan"), PLAN);

    // --identity signs a new token with the key.
    let mut command = home.command(&["sync", "get", "secret", "--identity", "grace"]);
    assert_eq!(run(command.env("MESHAGENT_TOKEN", &jwt)).code, Some(0));
}

#[test]
fn output_is_plain_in_pipes_and_quiet_or_coloured_by_flags() {
    let home = Home::new();
    let create = [
        "sync",
        "create",
        "plan",
        "--schema",
        "schema.json",
        "--json",
        r#"{"doc": {"title": "Grüße"}}"#,
    ];
    assert_eq!(home.done(&[&create[..], &["--quiet"]].concat()), "");
    assert_eq!(
        home.done(&["sync", "get", "plan"]),
        "{\n  \"doc\": {\n    \"title\": \"Gr\\u00fc\\u00dfe\",\n    \"children\": []\n  }\n}\n"
    );
    let coloured = home.done(&["sync", "get", "plan", "--color", "always", "--compact"]);
    assert!(coloured.contains("\x1b["), "{coloured:?}");
    assert_eq!(
        home.done(&["sync", "export", "plan", "--color", "always"])
            .matches('\x1b')
            .count(),
        0
    );
}

#[test]
fn closed_pipe_is_not_a_failure() {
    let home = Home::new();
    // More than the buffer of a pipe.
    let long = json!({ "doc": { "title": "x".repeat(1 << 20), "children": [] } });
    fs::write(home.path().join("long.json"), long.to_string()).unwrap();
    home.done(&[
        "sync",
        "create",
        "long",
        "--schema",
        "schema.json",
        "--json-file",
        "long.json",
    ]);
    let mut child = home
        .command(&["sync", "get", "long"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "{\n");
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).as_ref()
        ),
        (Some(0), "")
    );
}

#[test]
fn server_chooses_or_infers_a_missing_schema() {
    let home = Home::new();
    home.done(&["sync", "create", "talk.thread"]);
    let schema = parsed(&home.done(&["sync", "inspect", "talk.thread"]));
    assert_eq!(schema["$root_tag_ref"], json!("#/$defs/thread"));
    home.done(&[
        "sync",
        "create",
        "free",
        "--json",
        r#"{"doc": {"title": "any"}}"#,
    ]);
    assert_eq!(home.get("free"), r#"{"doc": {"title": "any"}}"#);
    fs::write(
        home.path().join("broken.json"),
        SCHEMA.replace("$root_tag_ref", "root"),
    )
    .unwrap();
    let create = ["sync", "create", "new", "--schema", "broken.json"];
    refused(
        &home.run(&create),
        2,
        &["broken.json is not a valid schema", "\nhint: "],
    );
}

#[test]
fn if_version_prevents_lost_updates() {
    let home = Home::new();
    home.create("plan");
    let version = || {
        let seen = parsed(&home.done(&["sync", "get", "plan", "--version", "--compact"]));
        assert_eq!(seen["json"], parsed(&home.get("plan")));
        seen["version"].as_str().unwrap().to_owned()
    };
    let first = version();
    assert_eq!(version(), first, "nothing changed");
    let retitle = |title: &str| {
        json!([{ "op": "replace", "path": "/doc/title", "value": title }]).to_string()
    };
    let update = |title: &str, more: &[&str]| {
        home.run(
            &[
                &["sync", "update", "plan", "--patch", &retitle(title)],
                more,
            ]
            .concat(),
        )
    };

    let dry = update("dry", &["--dry-run", "--if-version", &first]);
    assert_eq!(
        parsed(&dry.stdout)["dry_run"],
        json!(true),
        "{}",
        dry.stderr
    );
    assert_eq!(version(), first, "nothing was changed");
    let seen = update("seen", &["--json", "--if-version", &first]);
    let answer = parsed(&seen.stdout);
    assert_eq!(answer["operations"][0]["result"], json!("applied"));
    assert_eq!(answer["version"], json!(version()));
    let late = update("late", &["--if-version", &first]);
    refused(
        &late,
        1,
        &["can't update \"plan\"", &version(), "get --version"],
    );
    assert!(home.get("plan").contains("seen"));

    // Some versions begin with a minus.
    let late = update("late", &["--if-version", "-another"]);
    refused(&late, 1, &["moved on"]);

    // A version conflict is reported before other faults of the patch.
    for patch in [
        r#"[{"op": "remove", "path": "/doc/children/7"}]"#,
        r#"[{"op": "test", "path": "/doc/title", "value": "Plan"}]"#,
        r#"[{"op": "add", "path": "/doc/colour", "value": "red"}]"#,
    ] {
        let update = ["sync", "update", "plan", "--if-version", &first, "--patch"];
        let moved_on = format!("moved on, its version is {:?} now", version());
        let late = home.run(&[&update[..], &[patch]].concat());
        refused(&late, 1, &[&moved_on, "get --version"]);
    }
}

#[test]
fn get_and_grep_read_json_from_stdin() {
    let home = Home::new();
    home.create("plan");
    let nowhere = tempfile::TempDir::new().unwrap();
    // No room, key or server is needed.
    let piped = |arguments: &[&str], json: &str| {
        fs::write(nowhere.path().join("json"), json).unwrap();
        let mut command = meshagent(nowhere.path(), &[&["room", "sync"], arguments].concat());
        run(command.stdin(fs::File::open(nowhere.path().join("json")).unwrap()))
    };
    let with_ids = home.done(&["sync", "get", "plan", "--include-ids"]);
    for options in [
        &["--compact"][..],
        &["--pretty", "--include-ids"],
        &["--include-ids", "--compact", "--color", "always"],
    ] {
        let get = |path| [&["get", path], options].concat();
        let printed = piped(&get("-"), &with_ids);
        assert_eq!((printed.code, printed.stderr.as_str()), (Some(0), ""));
        let expected = home.done(&[&["sync"], &get("plan")[..]].concat());
        assert_eq!(printed.stdout, expected, "{options:?}");
        for pattern in ["MILK", "Plan", "^2$", "tea", "^item$", "n"] {
            let grep = |path| {
                let around = ["--ignore-case", "--after", "1"];
                [&["grep", path, pattern], &around[..], options].concat()
            };
            let found = piped(&grep("-"), &with_ids);
            assert_eq!((found.code, found.stderr.as_str()), (Some(0), ""));
            let expected = home.done(&[&["sync"], &grep("plan")[..]].concat());
            assert_eq!(found.stdout, expected, "{pattern} {options:?}");
        }
    }
    let found = piped(&["grep", "-", "milk", "--compact"], PLAN);
    assert_eq!(found.stdout, "[{\"item\": {\"s\": \"milk\", \"n\": 2}}]\n");

    for json in [
        "",
        "{",
        "[]",
        "7",
        "{}",
        r#"{"doc": 7}"#,
        r#"{"a": {}, "b": {}}"#,
    ] {
        refused(&piped(&["get", "-"], json), 2, &["stdin", "\nhint: "]);
        refused(&piped(&["grep", "-", "x"], json), 2, &["stdin", "\nhint: "]);
    }
    refused(&piped(&["get", "-", "--version"], PLAN), 2, &["\nhint: "]);
    let words = ["missing room", "\nhint: pass --room"];
    refused(&piped(&["get", "plan"], PLAN), 2, &words);
    refused(&piped(&["grep", "plan", "x"], PLAN), 2, &words);
    let room = ["get", "plan", "--room", "No Room"];
    refused(&piped(&room, PLAN), 2, &["1 to 63"]);
}

#[test]
fn invalid_pattern_is_one_message() {
    let home = Home::new();
    home.create("plan");
    for pattern in ["(", "*a", "[z-a]", "(?=x)", "x{2000}{2000}"] {
        let ran = home.run(&["sync", "grep", "plan", pattern]);
        let message = format!("error: invalid pattern {pattern:?}: ");
        refused(&ran, 2, &[&message, "\nhint: "]);
        assert_eq!(ran.stderr.lines().count(), 2, "{}", ran.stderr);
        assert_eq!(ran.stderr.matches("error: ").count(), 1, "{}", ran.stderr);
    }
}

#[test]
fn examples_are_not_wrapped_on_a_narrow_terminal() {
    let home = tempfile::TempDir::new().unwrap();
    for command in ["get", "grep", "update", "watch", "edit"] {
        let examples = |columns: &str| {
            let mut help = meshagent(home.path(), &["room", "sync", command, "--help"]);
            let printed = run(help.env("COLUMNS", columns)).stdout;
            let (_, examples) = printed.split_once("\nExamples:\n").unwrap();
            examples.to_owned()
        };
        assert_eq!(examples("80"), examples("300"), "{command}");
    }
}
