//! What a command says that fails, and its exit code: one rule for all commands.

use std::fs;

use crate::room::{Home, refused};
use crate::{KEY, meshagent, run};

const REFUSED: i32 = 1;
const USAGE: i32 = 2;
const NOT_FOUND: i32 = 3;
const UNREACHABLE: i32 = 5;

/// 3 is for what is not in the room; a file of this machine that is not there is a wrong argument.
#[test]
fn the_same_fault_has_the_same_code_and_a_hint() {
    let home = Home::new();
    home.create("plan");
    fs::write(home.path().join("not.json"), "{").unwrap();
    fs::write(home.path().join("no.schema"), "{}").unwrap();
    for (code, arguments, words) in [
        // Files of this machine.
        (USAGE, "storage cp nofile room://x", "can't read nofile"),
        (USAGE, "storage cp plan.txt no://x/y", "can't read plan.txt"),
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
            "no.schema is not a schema: \"$root_tag_ref\" is missing",
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
            "stdin can't be two files",
        ),
        // Paths.
        (
            USAGE,
            "sync create ../x --schema schema.json",
            "\"../x\" is not a path",
        ),
        (USAGE, "sync get ../x", "\"../x\" is not a path"),
        (
            USAGE,
            "sync update a//b --patch []",
            "\"a//b\" is not a path",
        ),
        (USAGE, "sync delete ../x", "\"../x\" is not a path"),
        (USAGE, "sync ls ../x", "\"../x\" is not a path"),
        (USAGE, "storage ls ../x", "\"../x\" is not a path"),
        (USAGE, "storage rm ../x", "\"../x\" is not a path"),
        (
            USAGE,
            "storage cp schema.json room://../x",
            "\"../x\" is not a path",
        ),
        (
            USAGE,
            "storage cp schema.json not.json room://x",
            "no folder",
        ),
        // A document without a name.
        (
            USAGE,
            "sync create  --schema schema.json",
            "the room's root is no document",
        ),
        (
            USAGE,
            "sync create / --schema schema.json",
            "the room's root is no document",
        ),
        (USAGE, "sync delete ", "the room's root is no document"),
        (REFUSED, "storage get ", "the room's root is a folder"),
        (REFUSED, "storage rm  -r", "can't remove the room's root"),
        // What the server can't guess.
        (USAGE, "sync create new", "--schema"),
        // What is not in the room.
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
    assert_eq!(home.done(&["sync", "ls"]), "plan\n", "something was made");
    // Without a schema and with a hint at one that the server has.
    home.done(&["sync", "create", "talk.thread"]);
}

/// Of the environment, and of servers that are not there.
#[test]
fn what_keeps_a_command_from_the_room_has_one_code() {
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
                &["MESHAGENT_API_KEY is not an API key", "hint: "],
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
                    "MESHAGENT_API_URL is \"foo\", which is not a server's address",
                    "hint: set it to http://HOST:PORT",
                ],
            ),
        ] {
            let mut command = meshagent(home.path(), arguments);
            refused(&run(command.envs(variables.iter().copied())), code, words);
        }
        // Which room is asked for by a flag or by the environment, and both are named.
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
            "can't make the data directory file/x",
        ),
        (["serve", "--log", "=="], "--log == is no filter"),
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
