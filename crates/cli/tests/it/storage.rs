//! `meshagent room storage`, with a server of the test.

use std::fs;

use serde_json::json;

use crate::room::{Home, json as parsed, refused};

#[test]
fn copy_list_move_and_remove_files() {
    let home = Home::new();
    // Binary data, larger than one chunk of an upload.
    let data: Vec<u8> = (0..600_000_u32).map(|n| (n * 7 % 251) as u8).collect();
    fs::create_dir_all(home.path().join("site/sub")).unwrap();
    fs::write(home.path().join("site/big.bin"), &data).unwrap();
    fs::write(home.path().join("site/sub/a.txt"), "a\n").unwrap();
    fs::write(home.path().join("site/sub/b.txt"), "").unwrap();

    refused(
        &home.run(&["storage", "cp", "site", "room://www"]),
        1,
        &["folder", "hint: use -r"],
    );
    let copied = home.done(&["storage", "cp", "-r", "site", "room://www"]);
    assert!(
        copied.contains("Copied 'site/big.bin' to 'www/big.bin'\n"),
        "{copied}"
    );
    assert_eq!(home.done(&["storage", "ls"]), "www/\n");
    let tree = "www/\n  big.bin\n  sub/\n    a.txt\n    b.txt\n";
    assert_eq!(home.done(&["storage", "ls", "-r", "room://"]), tree);
    assert_eq!(
        home.done(&["storage", "ls", "room://www/sub/?.txt"]),
        "a.txt\nb.txt\n"
    );
    let line = parsed(&home.done(&["storage", "ls", "www/big.bin", "--json"]));
    assert_eq!(
        (&line["path"], &line["size"], &line["is_folder"]),
        (&json!("www/big.bin"), &json!(600_000), &json!(false))
    );
    assert_eq!(home.done(&["storage", "get", "www/sub/a.txt"]), "a\n");

    home.done(&["storage", "cp", "-r", "room://www", "back"]);
    assert_eq!(fs::read(home.path().join("back/big.bin")).unwrap(), data);
    assert_eq!(
        fs::read_to_string(home.path().join("back/sub/a.txt")).unwrap(),
        "a\n"
    );
    home.done(&["storage", "cp", "room://www/sub/*.txt", "."]);
    assert!(home.path().join("a.txt").exists() && home.path().join("b.txt").exists());
    home.done(&["storage", "cp", "a.txt", "b.txt", "room://copies/"]);
    home.done(&[
        "storage",
        "cp",
        "room://copies/a.txt",
        "room://copies/c.txt",
    ]);
    assert_eq!(
        home.done(&["storage", "ls", "copies"]),
        "a.txt\nb.txt\nc.txt\n"
    );

    let moved = home.done(&["storage", "mv", "copies/c.txt", "www/"]);
    assert_eq!(moved, "Moved 'copies/c.txt' to 'www/c.txt'\n");
    refused(
        &home.run(&["storage", "mv", "copies/a.txt", "www/c.txt"]),
        1,
        &["\nhint: "],
    );
    home.done(&["storage", "mv", "copies/a.txt", "www/c.txt", "--overwrite"]);

    assert_eq!(
        home.done(&["storage", "rm", "room://www/*.txt"]),
        "Removed 'www/c.txt'\n"
    );
    refused(
        &home.run(&["storage", "rm", "www"]),
        1,
        &["folder", "hint: use -r"],
    );
    assert_eq!(
        home.done(&["storage", "rm", "-r", "www"]),
        "Removed 'www'\n"
    );
    refused(&home.run(&["storage", "rm", "www"]), 3, &["www"]);
    refused(
        &home.run(&["storage", "cp", "room://www", "x"]),
        3,
        &["www"],
    );
    refused(
        &home.run(&["storage", "cp", "absent", "room://x"]),
        2,
        &["absent", "hint: paths in the room need the prefix room://"],
    );
    refused(
        &home.run(&["storage", "cp", "a.txt", "b.txt", "room://x"]),
        2,
        &["which is not a folder"],
    );
}

#[test]
fn cp_without_a_path_in_the_room_is_refused() {
    let home = Home::new();
    fs::write(home.path().join("ä.txt"), "a\n").unwrap();
    for destination in ["b.txt", "kitchen://b.txt", "room:/b.txt", "-"] {
        refused(
            &home.run(&["storage", "cp", "ä.txt", destination]),
            2,
            &[
                "neither the source nor the destination is in the room",
                "\nhint: ",
            ],
        );
    }
    let left = fs::read_dir(home.path()).unwrap();
    let names: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        !names
            .iter()
            .any(|name| name == "b.txt" || name == "kitchen:"),
        "{names:?}"
    );
}

#[test]
fn cp_reads_stdin_and_writes_stdout() {
    let home = Home::new();
    let copied = home.done_with(&["storage", "cp", "-", "room://now.txt"], b"now\n");
    assert_eq!(copied, "Copied 'stdin' to 'now.txt'\n");
    assert_eq!(
        home.done(&["storage", "cp", "room://now.txt", "-"]),
        "now\n"
    );
    // Replaced.
    home.done_with(&["storage", "cp", "-", "room://now.txt"], b"");
    assert_eq!(home.done(&["storage", "get", "now.txt"]), "");
}

#[test]
fn exists_prints_and_exits_with_the_result() {
    let home = Home::new();
    home.done_with(&["storage", "cp", "-", "room://a/b"], b"x");
    for path in ["a", "a/b", "room://a/b"] {
        assert_eq!(
            home.done(&["storage", "exists", path]),
            format!("'{path}' exists in remote storage.\n")
        );
    }
    let ran = home.run(&["storage", "exists", "a/c"]);
    let message = "'a/c' does NOT exist in remote storage.\n";
    assert_eq!(
        (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
        (Some(3), message, "")
    );
    let ran = home.run(&["storage", "exists", "a/c", "--quiet"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(3), ""));
}

#[test]
fn documents_are_listed_and_moved_and_not_copied() {
    let home = Home::new();
    home.create("plan");
    let before = home.get("plan");
    assert_eq!(home.done(&["storage", "ls"]), "plan\n");
    let refusal = ["live document", "hint: `meshagent room sync get`"];
    refused(&home.run(&["storage", "get", "plan"]), 1, &refusal);
    refused(
        &home.run(&["storage", "cp", "room://plan", "x"]),
        1,
        &["sync export"],
    );
    home.done(&["storage", "mv", "plan", "old/plan"]);
    home.done_with(&["storage", "cp", "-", "room://old/z"], b"z");
    refused(&home.run(&["storage", "get", "old/plan"]), 1, &refusal);
    refused(&home.run(&["storage", "get", "old"]), 1, &["folder"]);
    // Other files are copied.
    let ran = home.run(&["storage", "cp", "-r", "room://old", "copy", "--quiet"]);
    refused(&ran, 1, &["old/plan", "sync export"]);
    assert!(home.path().join("copy/z").exists() && !home.path().join("copy/plan").exists());
    assert_eq!(home.get("old/plan"), before);
    // `delete` refuses a file.
    home.done_with(&["storage", "cp", "-", "room://file"], b"x");
    refused(&home.run(&["sync", "delete", "file"]), 1, &["storage rm"]);
    assert_eq!(
        home.done(&["storage", "ls", "-r"]),
        "file\nold/\n  plan\n  z\n"
    );
}

/// The content of a replaced document would be lost, and `--overwrite` is meant for files.
#[test]
fn mv_never_replaces_a_document() {
    let home = Home::new();
    home.done_with(&["storage", "cp", "-", "room://in.txt"], b"file");
    home.create("lists/shopping");
    home.create("other");
    let before = home.get("lists/shopping");
    let words = [
        "can't replace \"lists/shopping\": it is a live document",
        "hint: `meshagent room sync delete`",
    ];
    for (source, destination) in [
        ("in.txt", "lists/shopping"),
        ("other", "room://lists/shopping"),
    ] {
        let mv = ["storage", "mv", source, destination, "--overwrite"];
        refused(&home.run(&mv), 1, &words);
    }
    // Nor by a file in a moved folder.
    home.done_with(
        &["storage", "cp", "-", "room://new/lists/shopping"],
        b"file",
    );
    home.done_with(&["storage", "cp", "-", "room://new/lists/a"], b"file");
    refused(
        &home.run(&["storage", "mv", "new/lists", "", "--overwrite"]),
        1,
        &words,
    );
    let cp = ["storage", "cp", "schema.json", "room://lists/shopping"];
    refused(
        &home.run(&cp),
        1,
        &["is a document", "\nhint: choose another"],
    );
    assert_eq!(home.get("lists/shopping"), before);
    assert_eq!(home.done(&["storage", "get", "in.txt"]), "file");

    // Nor by a folder with the path of a document.
    home.create("lists/shopping/week");
    home.done_with(&["storage", "cp", "-", "room://shopping/week"], b"file");
    refused(
        &home.run(&["storage", "mv", "shopping", "lists/", "--overwrite"]),
        1,
        &["can't replace \"lists/shopping/week\": it is a live document"],
    );

    // Other documents are kept, and files are replaced.
    home.done_with(&["storage", "cp", "-", "room://lists/a"], b"old");
    home.done(&["storage", "rm", "new/lists/shopping"]);
    home.done(&["storage", "mv", "new/lists", "", "--overwrite"]);
    assert_eq!(home.done(&["storage", "get", "lists/a"]), "file");
    home.done(&["storage", "mv", "lists/shopping", "in.txt", "--overwrite"]);
    assert_eq!(home.get("in.txt"), before);
}
