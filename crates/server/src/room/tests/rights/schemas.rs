//! Schemas: which files may be used as one, and which participants may define the documents of an
//! extension.

use serde_json::{Value, json};

use super::{Content, Guarded, assert_denied, code, text, upload};

const SCHEMA: &[u8] =
    br#"{"type":"object","additionalProperties":false,"description":"streng geheim"}"#;

#[test]
fn a_schema_path_takes_the_right_to_read_the_file() {
    let scopes = [
        json!({ "sync": {} }),
        json!({ "sync": {}, "storage": { "paths": [{ "path": "offen" }] } }),
        json!({ "sync": {}, "storage": { "files": { "paths": [
            { "path": "", "recursive": true, "actions": ["list", "write"] },
            { "path": "offen", "recursive": true, "actions": ["read"] },
        ] } } }),
    ];
    for (has_storage, scope) in scopes.into_iter().enumerate() {
        let mut room = Guarded::new(scope.clone(), &[], &[]);
        for path in ["geheim/schéma.json", "offen/schéma.json"] {
            upload(&mut room.world, &room.owner, path, SCHEMA, false);
        }
        for file in [
            "geheim/schéma.json",
            "/geheim/schéma.json/",
            "geheim/fehlt.json",
        ] {
            let create = json!({ "path": "neu", "schema_path": file });
            let refused = room.call("sync", "create", create);
            assert_denied(&refused, &["geheim/"], &format!("{scope} {file}"));
            room.world.begin_open(
                &room.guest,
                "c",
                json!({ "path": "neu", "schema_path": file }),
            );
            room.world.settle();
            let refused = &room.guest.chunks("c")[0];
            assert_denied(refused, &["geheim/"], &format!("{scope} {file}"));
        }
        if has_storage > 0 {
            let create = json!({ "path": "neu", "schema_path": "offen/schéma.json" });
            let answer = room.call("sync", "create", create);
            // The file is read. That it is not a schema is reported to participants that may read
            // it.
            assert_eq!(code(&answer), Some(1002), "{answer:?}");
            assert!(text(&answer).contains("offen/schéma.json"));
        }
        assert_eq!(room.paths(), ["geheim/schéma.json", "offen/schéma.json"]);
    }
}

#[test]
fn schemas_of_extensions_take_a_right_that_names_them() {
    let all = json!(["list", "read", "write", "delete"]);
    let rule = |path: &str| json!({ "path": path, "recursive": true, "actions": all });
    for (scope, allowed) in [
        (json!({}), true),
        (json!({ "paths": [{ "path": ".schemas" }] }), true),
        (
            json!({ "paths": [{ "path": ".schemas/" }, { "path": "" }] }),
            true,
        ),
        (json!({ "paths": [{ "path": ".schemas/plän.json" }] }), true),
        (json!({ "paths": [{ "path": "" }] }), false),
        (
            json!({ "paths": [{ "path": "" }, { "path": ".schemas" }] }),
            true,
        ),
        (
            json!({ "paths": [{ "path": "" }, { "path": ".schemas", "read_only": true }] }),
            false,
        ),
        (
            json!({ "paths": [{ "path": ".schemas", "read_only": true }, { "path": "" }] }),
            false,
        ),
        (json!({ "files": { "paths": [rule("")] } }), false),
        (
            json!({ "files": { "paths": [rule(""), rule(".schemas")] } }),
            true,
        ),
        (json!({ "files": { "paths": [rule(".schemas")] } }), true),
    ] {
        let scope = json!({ "storage": scope, "sync": {} });
        let mut room = Guarded::new(scope.clone(), &[], &[".schemas/plän.json", "x.json"]);
        let put = upload(
            &mut room.world,
            &room.guest,
            ".schemas/plän.json",
            b"{}",
            true,
        );
        let mut answers: Vec<Content> = put.last().into_iter().cloned().collect();
        answers.push(room.delete(".schemas/plän.json", false));
        let restored = upload(
            &mut room.world,
            &room.owner,
            ".schemas/plän.json",
            b"{}",
            true,
        );
        assert!(!restored.is_empty());
        for answer in &answers {
            if allowed {
                assert_eq!(code(answer), None, "{scope}: {answer:?}");
            } else {
                assert_denied(answer, &[".schemas"], &scope.to_string());
            }
        }
    }
    // The folder of schemas is not moved, replaced or deleted, nor is any entry of it.
    let scope = json!({ "storage": { "paths": [{ "path": "" }] }, "sync": {} });
    let mut room = Guarded::new(scope, &[], &[".schemas/plän.json", "x/plän.json", "y.txt"]);
    for answer in [
        room.rename("x", ".schemas", true),
        room.rename("x/plän.json", ".schemas/plän.json", true),
        room.rename("y.txt", ".schemas/neu.json", false),
        room.rename(".schemas", "weg", false),
        room.rename(".schemas/plän.json", "weg.json", false),
        room.delete(".schemas", true),
    ] {
        assert_denied(&answer, &[".schemas"], "a plain writer");
    }
    assert_eq!(room.rename("x", ".schemasx", false), Content::Empty);
    assert_eq!(
        room.paths(),
        [".schemas/plän.json", ".schemasx/plän.json", "y.txt"]
    );
}

#[test]
fn no_document_takes_the_place_of_a_schema_by_accident() {
    let create = |path: &str| json!({ "path": path, "json": { "a": 1 } });
    let cases: [(Value, bool); 5] = [
        (json!({}), true),
        (json!({ "paths": [{ "path": ".schemas/*" }] }), true),
        (
            json!({ "paths": [{ "path": ".schemas/neu.json" }, { "path": "*" }] }),
            true,
        ),
        (json!({ "paths": [{ "path": "*" }] }), false),
        (json!({ "paths": [{ "path": ".*" }] }), false),
    ];
    for (scope, allowed) in cases {
        let mut room = Guarded::new(json!({ "sync": scope }), &[], &[]);
        let answers = [room.call("sync", "create", create(".schemas/neu.json")), {
            room.world.begin_open(
                &room.guest,
                "c",
                json!({ "path": ".schemas/öffnen.json" , "initial_json": { "a": 1 } }),
            );
            room.world.settle();
            room.guest.chunks("c").remove(0)
        }];
        let open_is_covered = allowed && !scope.to_string().contains("neu.json\"");
        for (answer, allowed) in answers.iter().zip([allowed, open_is_covered]) {
            if allowed {
                assert_eq!(code(answer), None, "{scope}: {answer:?}");
            } else {
                assert_denied(answer, &[".schemas"], &scope.to_string());
            }
        }
    }
}

#[test]
fn no_folder_of_documents_takes_the_place_of_schemas_by_accident() {
    for (sync, allowed) in [
        (json!({}), true),
        (
            json!({ "paths": [{ "path": ".schemas/*" }, { "path": "*" }] }),
            true,
        ),
        (json!({ "paths": [{ "path": "*" }] }), false),
    ] {
        let scope = json!({ "sync": sync, "storage": {} });
        let mut room = Guarded::new(scope.clone(), &["ordner/neu.json"], &[]);
        let answer = room.rename("ordner", ".schemas", false);
        assert_eq!(code(&answer).is_none(), allowed, "{scope}: {answer:?}");
    }
}

#[test]
fn no_document_has_a_name_that_no_storage_grant_covers() {
    let mut room = Guarded::new(json!({ "sync": {}, "storage": {} }), &[], &[]);
    for path in [
        ".meshagent-upload-x",
        "a/.meshagent-directory",
        "é/.meshagent-upload-1/b",
    ] {
        let create = json!({ "path": path, "json": { "a": 1 } });
        let refused = room.call("sync", "create", create);
        assert_eq!(code(&refused), Some(1002), "{path}: {refused:?}");
    }
}
