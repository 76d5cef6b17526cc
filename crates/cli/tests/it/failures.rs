//! Errors, hints and exit codes, which are the same for all commands.

use std::fs;

use crate::room::{Home, refused};
use crate::{KEY, meshagent, run};

const REFUSED: i32 = 1;
const USAGE: i32 = 2;
const NOT_FOUND: i32 = 3;
const UNREACHABLE: i32 = 5;

/// Code 3 is for missing entries of the room; a missing local file is an invalid argument.
#[test]
fn equal_faults_have_equal_codes_and_a_hint() {
    let home = Home::new();
    home.create("plan");
    fs::write(home.path().join("not.json"), "{").unwrap();
    fs::write(home.path().join("array.json"), "[]").unwrap();
    fs::write(home.path().join("no.schema"), "{}").unwrap();
    for (code, arguments, words) in [
        // Local files.
        (USAGE, "storage cp nofile room://x", "can't read nofile"),
        (
            USAGE,
            "storage cp plan.txt room://x/y",
            "can't read plan.txt",
        ),
        (
            USAGE,
            "storage cp plan.txt no://x/y",
            "can't copy \"plan.txt\" to \"no://x/y\": neither",
        ),
        (
            USAGE,
            "sync update plan --patch-file nofile",
            "can't read nofile",
        ),
        (
            USAGE,
            "sync create new --json-file nofile",
            "can't read nofile",
        ),
        (
            USAGE,
            "sync create new --schema nofile",
            "can't read nofile",
        ),
        (
            USAGE,
            "sync validate nofile --schema schema.json",
            "can't read nofile",
        ),
        (USAGE, "sync import --file nofile", "can't import nofile"),
        (
            USAGE,
            "sync export plan --output no/where",
            "can't write no/where",
        ),
        (
            USAGE,
            "sync validate schema.json --schema no.schema",
            "no.schema is not a valid schema: \"$root_tag_ref\" is missing",
        ),
        // JSON.
        (
            USAGE,
            "sync update plan --patch {",
            "--patch is not valid JSON",
        ),
        (
            USAGE,
            "sync update plan --patch-file not.json",
            "not.json is not valid JSON",
        ),
        (
            USAGE,
            "sync create new --json [",
            "--json is not valid JSON",
        ),
        (
            USAGE,
            "sync validate - --schema -",
            "stdin can't be read twice",
        ),
        (
            USAGE,
            "sync create new --json []",
            "--json is not the content of a document: expected an object, found an array",
        ),
        (
            USAGE,
            "sync create new --json null --schema schema.json",
            "expected an object, found null",
        ),
        (
            REFUSED,
            "sync validate array.json --schema schema.json",
            "\n  \"\" (the whole document): expected ",
        ),
        // Paths.
        (
            USAGE,
            "sync create ../x --schema schema.json",
            "invalid path \"../x\"",
        ),
        (USAGE, "sync get ../x", "invalid path \"../x\""),
        (
            USAGE,
            "sync update a//b --patch []",
            "invalid path \"a//b\"",
        ),
        (USAGE, "sync delete ../x", "invalid path \"../x\""),
        (USAGE, "sync ls ../x", "invalid path \"../x\""),
        (USAGE, "storage ls ../x", "invalid path \"../x\""),
        (USAGE, "storage rm ../x", "invalid path \"../x\""),
        (
            USAGE,
            "storage cp schema.json room://../x",
            "invalid path \"../x\"",
        ),
        (
            USAGE,
            "storage cp schema.json not.json room://x",
            "can't copy 2 sources to room://x, which is not a folder",
        ),
        // A document without a name.
        (
            USAGE,
            "sync create  --schema schema.json",
            "the room's root is not a document",
        ),
        (
            USAGE,
            "sync create / --schema schema.json",
            "the room's root is not a document",
        ),
        (USAGE, "sync delete ", "the room's root is not a document"),
        (REFUSED, "storage get ", "the room's root is a folder"),
        (REFUSED, "storage rm  -r", "can't remove the room's root"),
        // The server has no schema for this document.
        (USAGE, "sync create new", "--schema"),
        // Missing entries of the room.
        (NOT_FOUND, "storage cp room://nofile x", "nofile"),
        (NOT_FOUND, "storage get nofile", "nofile"),
        (NOT_FOUND, "storage rm nofile", "nofile"),
        (NOT_FOUND, "storage mv nofile x", "nofile"),
        (NOT_FOUND, "storage ls nofile", "nofile"),
        (NOT_FOUND, "sync get nofile", "nofile"),
        (NOT_FOUND, "sync delete nofile", "nofile"),
        (NOT_FOUND, "sync update nofile --patch []", "nofile"),
        (NOT_FOUND, "sync inspect nofile", "nofile"),
        (NOT_FOUND, "sync export nofile", "nofile"),
        (NOT_FOUND, "sync ls nofile", "nofile"),
    ] {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let ran = home.run(&arguments);
        refused(&ran, code, &[words, "\nhint: "]);
        assert!(!ran.stderr.contains(": : "), "{}", ran.stderr);
    }
    assert_eq!(
        home.done(&["sync", "ls"]),
        "plan\n",
        "a document was created"
    );
    // The server has a schema for this extension.
    home.done(&["sync", "create", "talk.thread"]);
}

/// Faults of the environment, and unreachable servers.
#[test]
fn faults_before_joining_have_equal_codes() {
    let home = tempfile::TempDir::new().unwrap();
    let connect = ["room", "connect", "--room", "r", "--", "true"];
    let ls = ["room", "storage", "ls", "--room", "r"];
    let get = ["room", "sync", "get", "--room", "r", "plan"];
    for arguments in [&connect[..], &ls, &get] {
        for (variables, code, words) in [
            (
                &[("MESHAGENT_API_KEY", KEY)][..],
                UNREACHABLE,
                &["no server is running", "hint: start one"][..],
            ),
            (&[], USAGE, &["no API key", "hint: set MESHAGENT_API_KEY"]),
            (
                &[("MESHAGENT_API_KEY", "key")],
                USAGE,
                &["MESHAGENT_API_KEY is not a valid API key", "hint: "],
            ),
            (
                &[("MESHAGENT_KEY_ID", "x")],
                USAGE,
                &["the environment sets MESHAGENT_KEY_ID", "hint: "],
            ),
            (
                &[
                    ("MESHAGENT_API_KEY", KEY),
                    ("MESHAGENT_PROJECT_ID", "other"),
                ],
                USAGE,
                &["MESHAGENT_PROJECT_ID", "hint: "],
            ),
            (
                &[("MESHAGENT_API_KEY", KEY), ("MESHAGENT_API_URL", "foo")],
                USAGE,
                &[
                    "invalid MESHAGENT_API_URL \"foo\"",
                    "hint: set it to http://HOST:PORT",
                ],
            ),
        ] {
            let mut command = meshagent(home.path(), arguments);
            refused(&run(command.envs(variables.iter().copied())), code, words);
        }
        // A flag or a variable names the room, so the error names both.
        let arguments: Vec<&str> = arguments
            .iter()
            .copied()
            .filter(|word| !["--room", "r"].contains(word))
            .collect();
        let ran = run(&mut meshagent(home.path(), &arguments));
        refused(&ran, USAGE, &["--room", "MESHAGENT_ROOM"]);
    }
    fs::write(home.path().join("file"), "").unwrap();
    for (arguments, words) in [
        (
            ["serve", "--data-dir", "file/x"],
            "can't create the data directory file/x",
        ),
        (["serve", "--log", "=="], "invalid log filter \"==\""),
        (["serve", "--log", ""], "invalid log filter \"\""),
        (
            ["serve", "--log", "verböse"],
            "invalid log filter \"verböse\"",
        ),
        (
            ["serve", "--log", "very_verbose"],
            "invalid log filter \"very_verbose\"",
        ),
        (
            ["serve", "--log", "meshagent_server=verbose"],
            "invalid log filter \"meshagent_server=verbose\"",
        ),
        (
            ["serve", "--log", "info,meshagent_server="],
            "invalid log filter \"info,meshagent_server=\"",
        ),
        (
            ["serve", "--log", "meshagent_server=debug,informatio"],
            "invalid log filter \"meshagent_server=debug,informatio\"",
        ),
    ] {
        let ran = run(meshagent(home.path(), &arguments).current_dir(home.path()));
        refused(&ran, USAGE, &[words, "\nhint: "]);
    }
    let url = [
        ("MESHAGENT_API_KEY", KEY),
        ("MESHAGENT_API_URL", "http://127.0.0.1:9"),
    ];
    let ran = run(meshagent(home.path(), &ls).envs(url));
    refused(&ran, UNREACHABLE, &["can't join", "\nhint: "]);
}

/// An error says where its value comes from.
#[test]
fn values_of_the_environment_are_named() {
    let home = tempfile::TempDir::new().unwrap();
    let ls = ["room", "storage", "ls"];
    for room in ["Kein Raum", ""] {
        let ran = run(meshagent(home.path(), &ls).env("MESHAGENT_ROOM", room));
        refused(&ran, USAGE, &["for 'MESHAGENT_ROOM'"]);
        assert!(!ran.stderr.contains("for '--room"), "{}", ran.stderr);
        let room = format!("--room={room}");
        let mut command = meshagent(home.path(), &[&ls[..], &[&room]].concat());
        let ran = run(command.env("MESHAGENT_ROOM", "r"));
        refused(&ran, USAGE, &["--room"]);
        assert!(!ran.stderr.contains("MESHAGENT_ROOM"), "{}", ran.stderr);
    }
    let data_dir = home.path().join("tätig");
    let mut command = meshagent(home.path(), &ls);
    command
        .env("MESHAGENT_ROOM", "r")
        .env("MESHAGENT_DATA_DIR", &data_dir);
    let file = data_dir.join("credentials.json");
    let place = format!("{} (from MESHAGENT_DATA_DIR)", file.display());
    let words = ["MESHAGENT_API_KEY", "MESHAGENT_SECRET", &place];
    refused(&run(&mut command), USAGE, &words);
    let ran = run(command.env("MESHAGENT_API_KEY", KEY));
    let place = format!("{} (from MESHAGENT_DATA_DIR)", data_dir.display());
    refused(&ran, UNREACHABLE, &["no server is running", &place]);
}

#[test]
fn wrong_path_in_the_url_is_an_unreachable_server() {
    let home = Home::new();
    for path in ["/wrong", "/falsch/ü"] {
        let url = format!("{}{path}", home.server().url());
        let mut command = home.command(&["storage", "ls"]);
        let ran = run(command.env("MESHAGENT_API_URL", url));
        refused(
            &ran,
            UNREACHABLE,
            &["can't join", "\nhint: check that MESHAGENT_API_URL"],
        );
    }
}

/// `inspect` needs a document, which these commands don't have.
#[test]
fn hints_fit_the_command() {
    let home = Home::new();
    fs::write(home.path().join("wrong.json"), r#"{"doc": {"title": 7}}"#).unwrap();
    for arguments in [
        "sync validate wrong.json --schema schema.json",
        "sync create new --schema schema.json --json-file wrong.json",
    ] {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let ran = home.run(&arguments);
        refused(&ran, REFUSED, &["violates the schema", "\nhint: "]);
        assert!(!ran.stderr.contains("inspect"), "{}", ran.stderr);
    }
}
