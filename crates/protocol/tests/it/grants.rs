//! What grants allow.

use meshagent_protocol::{ApiScope, StorageGrant, SyncGrant};
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
        (json!({"paths": [{"path": "*x"}]}), false),
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
fn storage_path_grants_cover_what_is_below() {
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
    // What leads to a path that can be listed can be listed.
    assert!(grant.can_list_directory(""));
    assert!(grant.can_list_directory("in"));
    assert!(!grant.can_list_directory("other"));

    let all = storage(json!({}));
    assert!(all.can_write("x") && all.can_delete("", true) && all.can_list_directory(""));
    assert!(!all.can_write("a//b"));
    let none = storage(json!({"paths": []}));
    assert!(!none.can_read("x") && !none.can_list_directory(""));
    // A path that is not canonical spoils the whole list, as in the SDK.
    let spoilt = storage(json!({"paths": [{"path": "a"}, {"path": "b/../c"}]}));
    assert!(!spoilt.can_read("a") && !spoilt.can_list_directory(""));
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
fn scopes_keep_what_they_do_not_know_and_drop_defaults() {
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
