//! A document or file and a folder with the same path.

use std::fs;

use serde_json::json;

use crate::room::{Home, json as parsed, refused};

/// A document and a folder `notes`, which contains a document, a file and a folder.
fn home() -> Home {
    let home = Home::new();
    home.create("notes");
    home.create("notes/plan");
    home.done_with(&["storage", "cp", "-", "room://notes/a.txt"], b"a");
    home.done_with(&["storage", "cp", "-", "room://notes/a.txt/b"], b"b");
    home
}

#[test]
fn ls_shows_both() {
    let home = home();
    assert_eq!(home.done(&["storage", "ls"]), "notes\nnotes/\n");
    let both = "notes\nnotes/\n  a.txt\n  a.txt/\n  plan\n";
    assert_eq!(home.done(&["storage", "ls", "notes"]), both);
    let all = "notes\nnotes/\n  a.txt\n  a.txt/\n    b\n  plan\n";
    assert_eq!(home.done(&["storage", "ls", "notes", "-r"]), all);
    assert_eq!(
        home.done(&["storage", "ls", "notes/"]),
        "a.txt\na.txt/\nplan\n"
    );
    let lines = home.done(&["storage", "ls", "notes", "--json"]);
    let entries: Vec<_> = lines.lines().map(parsed).collect();
    assert_eq!(
        (&entries[0]["path"], &entries[0]["is_folder"]),
        (&json!("notes"), &json!(false))
    );
    assert_eq!(
        (&entries[1]["path"], &entries[1]["is_folder"]),
        (&json!("notes"), &json!(true))
    );
    refused(
        &home.run(&["storage", "ls", "notes/plan/"]),
        3,
        &["no folder \"notes/plan\"", "\nhint: omit the /"],
    );
    assert_eq!(home.done(&["sync", "ls", "notes"]), "notes\nnotes/plan\n");
    assert_eq!(home.done(&["sync", "ls", "notes/"]), "notes/plan\n");
}

#[test]
fn rm_removes_what_the_path_says() {
    let home = home();
    assert_eq!(home.done(&["storage", "rm", "notes"]), "Removed 'notes'\n");
    assert_eq!(home.done(&["storage", "ls"]), "notes/\n");

    home.create("notes");
    refused(
        &home.run(&["storage", "rm", "notes/"]),
        1,
        &["\"notes\" is a folder", "hint: use -r"],
    );
    assert_eq!(
        home.done(&["storage", "rm", "-r", "notes/"]),
        "Removed 'notes/'\n"
    );
    assert_eq!(home.done(&["storage", "ls", "-r"]), "notes\n");
    refused(
        &home.run(&["storage", "rm", "-r", "notes/"]),
        3,
        &["no folder \"notes\""],
    );

    home.create("notes/plan");
    // Patterns remove no folders.
    assert_eq!(
        home.done(&["storage", "rm", "-r", "no*"]),
        "Removed 'notes'\n"
    );
    assert_eq!(home.done(&["storage", "ls", "-r"]), "notes/\n  plan\n");
    refused(&home.run(&["storage", "rm", "-r", "no*"]), 3, &["no*"]);

    home.create("notes");
    assert_eq!(
        home.done(&["storage", "rm", "-r", "notes"]),
        "Removed 'notes'\nRemoved 'notes/'\n"
    );
    assert_eq!(home.done(&["storage", "ls"]), "");
}

#[test]
fn cp_and_mv_take_what_the_path_says() {
    let home = home();
    let ran = home.run(&["storage", "cp", "-r", "room://notes/", "copy", "--quiet"]);
    let words = ["\n  copy/a.txt/b: a file has the path of its folder\n"];
    refused(&ran, 1, &words);
    home.done(&["storage", "rm", "-r", "notes/a.txt/"]);
    let ran = home.run(&["storage", "cp", "-r", "room://notes", "copy", "--quiet"]);
    refused(
        &ran,
        1,
        &[
            "\n  notes: a live document",
            "\n  notes/plan: a live document",
        ],
    );
    assert_eq!(
        fs::read_to_string(home.path().join("copy/a.txt")).unwrap(),
        "a"
    );
    refused(
        &home.run(&["storage", "mv", "notes/", "old"]),
        1,
        &["a document or file has the same path", "\nhint: move"],
    );
    home.done(&["storage", "mv", "notes", "old"]);
    assert_eq!(home.done(&["storage", "ls"]), "notes/\nold\n");
    home.done(&["storage", "mv", "notes/", "older"]);
    assert_eq!(home.done(&["storage", "ls"]), "old\nolder/\n");
}
