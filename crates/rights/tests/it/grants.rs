//! The rights in grants.

use meshagent_rights::{ApiScope, StorageGrant, SyncGrant};
use serde_json::{Value, json};

use crate::test;

fn sync(json: Value) -> SyncGrant {
    ApiScope::from_json(&json!({"sync": json}))
        .unwrap()
        .sync
        .unwrap()
}

fn storage(json: Value) -> StorageGrant {
    ApiScope::from_json(&json!({"storage": json}))
        .unwrap()
        .storage
        .unwrap()
}

#[test]
fn sync_grants() {
    let grant = sync(json!({"paths": [
        {"path": "a/private*", "read_only": true},
        {"path": "a/*"},
        {"path": "b"},
        {"path": "*", "read_only": true},
    ]}));
    for (path, read, write) in [
        ("a/private.document", true, false),
        ("a/x", true, true),
        ("b", true, true),
        ("b/c", true, false),
        ("B", true, false),
        ("", true, false),
    ] {
        assert_eq!(
            (grant.can_read(path), grant.can_write(path)),
            (read, write),
            "{path}"
        );
    }
    for (json, allowed) in [
        (json!({}), true),
        (json!({"paths": null}), true),
        (json!({"paths": []}), false),
        (json!({"paths": [{"path": "y"}]}), false),
    ] {
        let grant = sync(json.clone());
        assert_eq!(
            (grant.can_read("x"), grant.can_write("x")),
            (allowed, allowed),
            "{json}"
        );
    }
}

#[test]
fn sync_grant_of_folder_must_cover_everything_below() {
    let grant = sync(json!({"paths": [
        {"path": "a/geheim*", "read_only": true},
        {"path": "b/eins"},
        {"path": "a/*"},
        {"path": "ä*"},
        {"path": "c/d/e", "read_only": true},
        {"path": "c/*"},
        {"path": "zwei/eins"},
        {"path": "zwei/zwei"},
    ]}));
    for (folder, allowed, in_the_way) in [
        ("a", false, Some("a/geheim*")),
        ("a/geheim", false, Some("a/geheim*")),
        ("a/geheimnis/x", false, Some("a/geheim*")),
        ("a/offen", true, None),
        ("b", false, None),
        ("ä", true, None),
        ("ärger/x", true, None),
        ("A", false, None),
        ("c", false, Some("c/d/e")),
        ("c/d", false, Some("c/d/e")),
        ("c/d/e", true, None),
        ("c/d/f", true, None),
        ("zwei", false, None),
        ("", false, Some("a/geheim*")),
    ] {
        assert_eq!(
            (grant.can_write_below(folder), grant.in_the_way(folder)),
            (allowed, in_the_way),
            "{folder}"
        );
    }
    assert!(sync(json!({})).can_write_below("") && sync(json!({})).can_write_schemas(".schemas/x"));
    assert!(sync(json!({"paths": [{"path": "*"}]})).can_write_below(""));
    assert!(!sync(json!({"paths": []})).can_write_below("a"));
}

#[test]
fn storage_grants_report_denying_entry() {
    use meshagent_rights::FileAction::{Delete, List, Read, Write};
    let paths = storage(json!({"paths": [
        {"path": "in/é", "read_only": true}, {"path": "in/b"}, {"path": "in"},
    ]}));
    let rules = storage(json!({"files": {"paths": [
        {"path": "in", "recursive": true, "actions": ["read", "write", "delete"], "excluded_paths": ["in/é"]},
        {"path": "one", "recursive": false, "actions": ["write"]},
    ]}}));
    for (path, below, entry) in [
        ("in", false, Some("in/é")),
        ("/in/", false, Some("in/é")),
        ("in/b", true, None),
        ("in/e\u{301}", true, None),
        ("one", false, None),
        ("out", false, None),
    ] {
        for grant in [&paths, &rules] {
            assert_eq!(grant.can_write_subtree(path), below, "{path}");
            assert_eq!(grant.can_delete(path, true), below, "{path}");
            assert_eq!(grant.in_the_way(Write, path), entry, "{path}");
            assert_eq!(grant.in_the_way(Delete, path), entry, "{path}");
        }
    }
    // A read-only path may be read, with everything below it.
    assert!(paths.can_read_subtree("in") && paths.in_the_way(Read, "in").is_none());
    assert!(!rules.can_read_subtree("in"));
    assert_eq!(
        rules.in_the_way(List, "in"),
        None,
        "no rule permits listing"
    );
}

#[test]
fn storage_path_grants_cover_subtrees() {
    let grant = storage(json!({"paths": [
        {"path": "in/secret", "read_only": true},
        {"path": "/in/"},
    ]}));
    for (path, read, write) in [
        ("in", true, true),
        ("./in/x/y", true, true),
        ("/in/x/", true, true),
        ("in/secret", true, false),
        ("in/secret/x", true, false),
        ("inside", false, false),
        ("", false, false),
        ("in/../x", false, false),
        ("in/.meshagent-upload-1", false, false),
    ] {
        assert_eq!(
            (grant.can_read(path), grant.can_write(path)),
            (read, write),
            "{path}"
        );
        assert_eq!(grant.can_delete(path, false), write, "{path}");
        assert_eq!(grant.can_list(path), read, "{path}");
        assert!(!grant.can_presign(path), "{path}");
    }
    // A part of the subtree may not be deleted.
    assert!(!grant.can_delete("in", true));
    assert!(grant.can_delete("in/x", true));
    // Folders on the way to a listable path may be listed.
    assert!(grant.can_list_directory(""));
    assert!(grant.can_list_directory("in"));
    assert!(!grant.can_list_directory("other"));

    let all = storage(json!({}));
    assert!(all.can_write("x") && all.can_delete("", true) && all.can_list_directory(""));
    assert!(!all.can_write("a//b"));
    let none = storage(json!({"paths": []}));
    assert!(!none.can_read("x") && !none.can_list_directory(""));
}

#[test]
fn files_policies_replace_paths() {
    let grant = storage(json!({
        "paths": [{"path": "x"}],
        "files": {"paths": [
            {"path": "d", "recursive": true, "actions": ["list", "read", "presign"], "excluded_paths": ["d/no"]},
            {"path": "e/f", "recursive": false, "actions": ["read", "write", "delete"]},
        ]},
    }));
    assert!(!grant.can_read("x"));
    assert!(grant.can_read("d") && grant.can_read("d/a/b") && grant.can_presign("d/a"));
    assert!(!grant.can_read("d/no") && !grant.can_read("d/no/a") && grant.can_read("d/nope"));
    assert!(!grant.can_write("d/a"));
    assert!(!grant.can_read_subtree("d") && grant.can_read_subtree("d/a"));
    assert!(grant.can_write("e/f") && !grant.can_write("e/f/g") && !grant.can_delete("e/f", true));
    assert!(grant.can_list_directory("") && !grant.can_list_directory("e"));

    let rule = |path: &str| json!({"path": path, "recursive": true, "actions": []});
    for bad in [
        json!({"paths": [{"path": "d", "recursive": true}]}),
        json!({"paths": [{"path": "d", "recursive": true, "actions": ["fly"]}]}),
        json!({"paths": [], "more": 1}),
        json!({"paths": [rule("/d")]}),
        json!({"paths": [rule("a/../b")]}),
        json!({"paths": vec![rule("d"); 1001]}),
    ] {
        assert!(
            ApiScope::from_json(&json!({"storage": {"files": bad}})).is_err(),
            "{bad}"
        );
    }
}

#[test]
fn scopes_keep_unknown_fields_and_drop_defaults() {
    let scope = ApiScope::from_json(&json!({
        "zoo": {"x": 1},
        "sync": {"paths": [{"path": "a", "read_only": false}], "extra": 1},
        "messaging": {"broadcast": true, "send": false},
        "livekit": {},
        "storage": null,
    }))
    .unwrap();
    assert!(scope.storage.is_none());
    let messaging = scope.messaging.clone().unwrap();
    assert_eq!(
        (messaging.broadcast, messaging.list, messaging.send),
        (true, true, false)
    );
    assert_eq!(
        scope.to_json().to_string(),
        r#"{"livekit":{},"messaging":{"send":false},"sync":{"paths":[{"path":"a"}]},"zoo":{"x":1}}"#
    );
    for bad in [
        json!(null),
        json!([]),
        json!({"sync": []}),
        json!({"sync": {"paths": [{}]}}),
        json!({"sync": {"paths": [["a", false]]}}),
        json!({"storage": []}),
        json!({"storage": {"files": []}}),
        json!({"storage": {"files": {"paths": [["a", true, []]]}}}),
        json!({"messaging": []}),
        json!({"messaging": {"send": "no"}}),
    ] {
        assert!(ApiScope::from_json(&bad).is_err(), "{bad}");
    }
}

#[test]
fn grant_entries_are_normalised_like_paths() {
    for secret in ["/a/geheim/*", "./a/geheim/*", "//a/geheim/*", "a/geheim/*"] {
        let both = [
            json!({"path": secret, "read_only": true}),
            json!({"path": "*"}),
        ];
        let grant = sync(json!({"paths": both}));
        assert!(
            grant.can_read("a/geheim/ü") && !grant.can_write("a/geheim/ü"),
            "{secret}"
        );
        assert!(
            grant.can_write("a/offen") && !grant.can_write_below("a"),
            "{secret}"
        );
        assert_eq!(
            ApiScope::from_json(&json!({"sync": {"paths": both}}))
                .unwrap()
                .to_json(),
            json!({
                "sync": {"paths": [{"path": "a/geheim/*", "read_only": true}, {"path": "*"}]},
            })
        );
    }
    let grant =
        sync(json!({"paths": [{"path": "./ä.document", "read_only": true}, {"path": "/*"}]}));
    assert!(!grant.can_write("ä.document") && grant.can_write("b"));
    assert!(
        sync(json!({"paths": [{"path": "/.schemas/*"}, {"path": "*"}]}))
            .can_write_schemas(".schemas/x")
    );
    for folder in ["/a/geheim/", "./a/geheim", "a/geheim"] {
        let grant = storage(json!({"paths": [{"path": folder, "read_only": true}, {"path": "/"}]}));
        assert!(
            grant.can_read("a/geheim/ü") && !grant.can_write("a/geheim/ü"),
            "{folder}"
        );
        assert!(grant.can_write("a/offen"), "{folder}");
    }
}

#[test]
fn invalid_entry_invalidates_token() {
    let in_both = [
        "a/../b", "a//b", "a\\b", "a\u{7}", "a//*", "../*", "*geheim", "ä*b", "a*/b", "a**",
    ];
    let in_sync = ["a/", "/a/"];
    // An intended pattern would permit or protect only a file with that literal name.
    let in_storage = ["*", "/*", "a/*", "./a/geheim/*", ".meshagent-upload-1"];
    let long = "ü".repeat(600);
    for path in in_both.iter().chain(&in_sync).chain([&&*long]) {
        let scope = json!({"sync": {"paths": [{"path": path, "read_only": true}, {"path": "*"}]}});
        let error = ApiScope::from_json(&scope).unwrap_err().to_string();
        assert!(
            error.contains("sync") && error.contains(&format!("{path:?}")),
            "{path}: {error}"
        );
    }
    for path in in_both.iter().chain(&in_storage).chain([&&*long]) {
        let scope =
            json!({"storage": {"paths": [{"path": path, "read_only": true}, {"path": ""}]}});
        let error = ApiScope::from_json(&scope).unwrap_err().to_string();
        assert!(
            error.contains("storage") && error.contains(&format!("{path:?}")),
            "{path}: {error}"
        );
    }
    let rule = |path: &str, excluded: &str| {
        json!({"storage": {"files": {"paths": [
            {"path": path, "recursive": true, "actions": ["read"], "excluded_paths": [excluded]},
        ]}}})
    };
    assert!(ApiScope::from_json(&rule("d", "d/nein")).is_ok());
    for (path, excluded) in [
        ("d", "d/nein/*"),
        ("d", "/d/nein"),
        ("d/*", "d/nein"),
        ("*", "d"),
        ("d", "*"),
    ] {
        assert!(
            ApiScope::from_json(&rule(path, excluded)).is_err(),
            "{path} {excluded}"
        );
    }
    let many = vec![json!({"path": "a"}); 1001];
    assert!(ApiScope::from_json(&json!({"storage": {"paths": many}})).is_err());
}
