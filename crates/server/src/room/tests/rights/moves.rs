//! Moving and deleting: the rights to everything that is removed, placed or replaced.

use serde_json::{Value, json};

use super::{Content, Guarded, assert_denied, code};

/// One attempt in a room of its own: a move, and the names that a refusal has to contain.
struct Move<'a> {
    source: &'a str,
    destination: &'a str,
    overwrite: bool,
    /// `None` if the move is allowed.
    refused: Option<&'a [&'a str]>,
}

fn yes<'a>(source: &'a str, destination: &'a str) -> Move<'a> {
    Move {
        source,
        destination,
        overwrite: false,
        refused: None,
    }
}

fn no<'a>(source: &'a str, destination: &'a str, named: &'a [&'a str]) -> Move<'a> {
    Move {
        refused: Some(named),
        ..yes(source, destination)
    }
}

impl Move<'_> {
    fn over(self) -> Self {
        Self {
            overwrite: true,
            ..self
        }
    }
}

fn check(scope: &Value, documents: &[&str], files: &[&str], moves: &[Move<'_>]) {
    for attempt in moves {
        let mut room = Guarded::new(scope.clone(), documents, files);
        let before = room.tree();
        let answer = room.rename(attempt.source, attempt.destination, attempt.overwrite);
        let what = format!("{} -> {}", attempt.source, attempt.destination);
        match attempt.refused {
            None => {
                assert_eq!(answer, Content::Empty, "{what}");
                assert_ne!(room.tree(), before, "{what}");
            }
            Some(named) => {
                assert_denied(&answer, named, &what);
                assert_eq!(room.tree(), before, "{what}");
            }
        }
    }
}

#[test]
fn folders_do_not_carry_read_only_parts_out_or_in() {
    let scope = json!({
        "sync": {},
        "storage": { "paths": [
            { "path": "häuser/geheim", "read_only": true },
            { "path": "häuser" },
            { "path": "ziel" },
        ] },
    });
    let files = [
        "häuser/offen/a.txt",
        "häuser/geheim/c.txt",
        "häuser/geheimnis.txt",
        "ziel/x.txt",
        "ziel/ordner/geheim/c.txt",
        "anderswo/y.txt",
    ];
    check(
        &scope,
        &["häuser/offen/plan", "häuser/geheim/plan"],
        &files,
        &[
            no("häuser", "ziel/h", &["häuser", "häuser/geheim"]),
            no("/häuser/", "ziel/h", &["häuser/geheim"]),
            no("häuser/geheim", "ziel/h", &["häuser/geheim"]),
            no(
                "häuser/geheim/c.txt",
                "ziel/c.txt",
                &["häuser/geheim/c.txt"],
            ),
            no("häuser/geheim/plan", "ziel/plan", &["häuser/geheim/plan"]),
            yes("häuser/offen", "ziel/offen"),
            yes("./häuser/offen/", "/ziel/offen/"),
            yes("häuser/geheimnis.txt", "ziel/geheimnis.txt"),
            // In the other direction, nothing arrives or is replaced.
            no(
                "ziel/x.txt",
                "häuser/geheim/neu.txt",
                &["häuser/geheim/neu.txt"],
            ),
            no(
                "ziel/x.txt",
                "häuser/geheim/c.txt",
                &["häuser/geheim/c.txt"],
            )
            .over(),
            no("ziel/ordner", "häuser", &["häuser/geheim"]).over(),
            no("ziel/ordner", "häuser", &["häuser/geheim"]),
            no("ziel/ordner/geheim", "häuser/geheim", &["häuser/geheim"]),
            yes("ziel/ordner", "häuser/offen/ordner"),
            // Nothing leaves what the grant covers, or arrives from elsewhere.
            no("ziel/x.txt", "anderswo/x.txt", &["anderswo/x.txt"]),
            no("anderswo/y.txt", "ziel/y.txt", &["anderswo/y.txt"]),
            no("anderswo", "ziel/anderswo", &["anderswo"]),
        ],
    );
}

#[test]
fn rules_decide_for_all_that_a_folder_holds() {
    let all = ["list", "read", "write", "delete"];
    let scope = json!({
        "sync": {},
        "storage": { "files": { "paths": [
            { "path": "f", "recursive": true, "actions": all, "excluded_paths": ["f/geheim", "f/日本/秘"] },
            { "path": "einzeln.txt", "recursive": false, "actions": all },
            { "path": "ordner.txt", "recursive": false, "actions": all },
            { "path": "z", "recursive": true, "actions": ["list", "read", "write"] },
            { "path": "blind", "recursive": true, "actions": ["list", "delete"] },
        ] } },
    });
    let files = [
        "f/offen/a.txt",
        "f/geheim/b.txt",
        "f/日本/秘/c.txt",
        "einzeln.txt",
        "ordner.txt/inhalt",
        "z/da.txt",
        "z/ordner/a.txt",
        "blind/x.txt",
        "blind/tief/y.txt",
    ];
    check(
        &scope,
        &[],
        &files,
        &[
            no("f", "z/f", &["f/geheim"]),
            no("f/日本", "z/日本", &["f/日本/秘"]),
            no("f/geheim", "z/g", &["f/geheim"]),
            no("f/日本/秘/c.txt", "z/c", &["f/日本/秘/c.txt"]),
            yes("f/offen", "z/offen"),
            yes("f/offen/a.txt", "z/neu.txt"),
            yes("einzeln.txt", "z/e.txt"),
            // A rule for one file does not apply below a folder of that name.
            no("ordner.txt", "z/o", &["ordner.txt"]),
            // The right to write does not include the right to destroy.
            no("f/offen/a.txt", "z/da.txt", &["z/da.txt"]).over(),
            yes("f/offen/a.txt", "z/neu.txt").over(),
            no("f/offen", "z/ordner", &["z/ordner"]).over(),
            // What may not be read may not be moved to where it can be read.
            no("blind/x.txt", "f/offen/x.txt", &["blind/x.txt"]),
            no("blind", "f/offen/blind", &["blind"]),
            no("z/da.txt", "f/offen/da.txt", &["z/da.txt"]),
        ],
    );
}

#[test]
fn documents_stay_within_the_sync_grant() {
    let scope = json!({
        "storage": {},
        "sync": { "paths": [
            { "path": "frei/fest*", "read_only": true },
            { "path": "frei/*" },
            { "path": "lesbar/*", "read_only": true },
        ] },
    });
    let documents = [
        "frei/plan",
        "frei/plän",
        "frei/ordner/eins",
        "frei/ordner/zwei",
        "frei/mit/fest",
        "frei/fest/plan",
        "lesbar/plan",
        "geheim/plan",
        "gemischt/tief/plan",
    ];
    let files = [
        "frei/datei.txt",
        "geheim/datei.txt",
        "gemischt/datei.txt",
        "dateien/plan",
        "dateien/ordner/x",
        "lose/tief/datei.txt",
    ];
    check(
        &scope,
        &documents,
        &files,
        &[
            yes("frei/plan", "frei/neu"),
            yes("frei/plän", "frei/ordner/plän"),
            yes("frei/ordner", "frei/anderer"),
            // Out of the grant, and into it.
            no("frei/plan", "anderswo/plan", &["anderswo/plan"]),
            no("frei/plan", "Frei/plan", &["Frei/plan"]),
            no("frei/plan", "frei", &["\"frei\""]),
            no("geheim/plan", "frei/plan2", &["geheim/plan"]),
            no("lesbar/plan", "frei/plan2", &["lesbar/plan"]),
            no("frei/plan", "lesbar/plan2", &["lesbar/plan2"]),
            no("frei/fest/plan", "frei/plan2", &["frei/fest/plan"]),
            no("frei/plan", "frei/festes", &["frei/festes"]),
            // The same in folders.
            no("frei/ordner", "anderswo", &["anderswo/eins"]),
            no("geheim", "frei/geheim", &["geheim/plan"]),
            no("lesbar", "frei/lesbar", &["lesbar/plan"]),
            no("gemischt", "frei/gemischt", &["gemischt/tief/plan"]),
            no("frei/fest", "frei/offen", &["frei/fest/plan"]),
            // The sync grant does not concern files.
            yes("geheim/datei.txt", "frei/datei2.txt"),
            yes("frei/datei.txt", "geheim/datei2.txt"),
            yes("lose", "frei/lose"),
            yes("dateien/ordner", "geheim/ordner"),
            // What is replaced is destroyed.
            yes("frei/datei.txt", "frei/plan").over(),
            yes("frei/ordner/eins", "frei/plan").over(),
            no("frei/datei.txt", "geheim/plan", &["geheim/plan"]).over(),
            no("frei/datei.txt", "lesbar/plan", &["lesbar/plan"]).over(),
            no("dateien", "geheim", &["geheim/plan"]).over(),
            yes("frei/datei.txt", "geheim/datei.txt").over(),
        ],
    );
}

#[test]
fn documents_take_a_sync_grant_at_all() {
    let scope = json!({ "storage": {} });
    check(
        &scope,
        &["plan", "ordner/plän"],
        &["datei.txt", "dateien/ä.txt"],
        &[
            no("plan", "plan2", &["plan"]),
            no("ordner", "ordner2", &["ordner/plän"]),
            no("datei.txt", "plan", &["plan"]).over(),
            yes("datei.txt", "neu.txt"),
            yes("dateien", "ordner2"),
        ],
    );
    // The same without a storage grant.
    check(
        &json!({ "sync": {} }),
        &["plan"],
        &[],
        &[no("plan", "plan2", &["storage grant"])],
    );
}

#[test]
fn deleting_a_document_takes_the_right_to_write_it() {
    let scope = json!({
        "storage": {},
        "sync": { "paths": [{ "path": "frei/*" }, { "path": "lesbar/*", "read_only": true }] },
    });
    let documents = [
        "frei/plän",
        "frei/tief/plan",
        "lesbar/plan",
        "geheim/a/plan",
    ];
    let files = ["geheim/datei.txt", "dateien/a/b.txt"];
    for (path, recursive, refused) in [
        ("frei/plän", false, None),
        ("/frei/plän/", true, None),
        ("frei", true, None),
        ("lesbar/plan", false, Some("lesbar/plan")),
        ("lesbar", true, Some("lesbar/plan")),
        ("geheim/a/plan", true, Some("geheim/a/plan")),
        ("geheim", true, Some("geheim/a/plan")),
        ("geheim/datei.txt", false, None),
        ("dateien", true, None),
    ] {
        let mut room = Guarded::new(scope.clone(), &documents, &files);
        let before = room.tree();
        let answer = room.delete(path, recursive);
        match refused {
            None => {
                assert_eq!(answer, Content::Empty, "{path}");
                assert!(room.tree().len() < before.len(), "{path}");
            }
            Some(named) => {
                assert_denied(&answer, &[named], path);
                assert_eq!(room.tree(), before, "{path}");
            }
        }
    }
    let mut room = Guarded::new(json!({ "storage": {} }), &documents, &files);
    assert_denied(&room.delete("frei/plän", false), &["frei/plän"], "no sync");
}

#[test]
fn deleting_a_folder_spares_what_may_not_be_deleted() {
    let by_paths = json!({ "sync": {}, "storage": { "paths": [
        { "path": "a/é", "read_only": true }, { "path": "a" },
    ] } });
    let by_rules = json!({ "sync": {}, "storage": { "files": { "paths": [{
        "path": "a", "recursive": true, "actions": ["delete"], "excluded_paths": ["a/é"],
    }] } } });
    for scope in [by_paths, by_rules] {
        let mut room = Guarded::new(scope, &["a/é/plan"], &["a/b/x.txt", "a/é/y.txt"]);
        assert_denied(&room.delete("a", true), &["a/é"], "the folder above");
        assert_denied(&room.delete("a/é", true), &["a/é"], "itself");
        assert_denied(&room.delete("a/é/y.txt", false), &["a/é/y.txt"], "a file");
        // With another Unicode composition it is another name, which no entry has.
        let other = room.delete("a/e\u{301}/y.txt", false);
        assert_eq!(code(&other), Some(3001), "{other:?}");
        let up = room.delete("a/b/../é/y.txt", false);
        assert!(matches!(code(&up), Some(1002 | 3004)), "{up:?}");
        assert_eq!(room.delete("a/b", true), Content::Empty);
        assert_eq!(room.paths(), ["a/é/plan", "a/é/y.txt"]);
    }
}

#[test]
fn a_document_that_comes_into_the_folder_meanwhile_counts() {
    let scope = json!({ "storage": {}, "sync": { "paths": [{ "path": "frei/*" }] } });
    for tool in ["move", "delete"] {
        let mut room = Guarded::new(scope.clone(), &[], &["ordner/datei.txt"]);
        // Both are in the same batch, and the document comes first.
        let create = json!({ "path": "ordner/plän", "json": { "a": 1 } });
        room.world.invoke(&room.owner, "sync", "create", create);
        room.world.run();
        let input = json!({
            "source_path": "ordner", "destination_path": "frei/ordner",
            "path": "ordner", "recursive": true,
        });
        let id = room.world.invoke(&room.guest, "storage", tool, input);
        room.world.settle();
        assert_denied(&room.guest.answer(id), &["ordner/plän"], tool);
        assert_eq!(room.paths(), ["ordner/datei.txt", "ordner/plän"], "{tool}");
    }
}

#[test]
fn a_refusal_names_nothing_that_may_not_be_listed() {
    let scope = json!({ "storage": { "files": { "paths": [
        { "path": "a", "recursive": true, "actions": ["read", "write", "delete"] },
    ] } } });
    let mut room = Guarded::new(scope, &["a/tief/heimlich"], &["a/x.txt"]);
    for answer in [room.delete("a", true), room.rename("a", "a2", false)] {
        assert_denied(&answer, &["\"a"], "a");
        assert!(!format!("{answer:?}").contains("heimlich"), "{answer:?}");
    }
}
