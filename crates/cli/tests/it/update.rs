//! Messages of `meshagent room sync update`.

use crate::room::{Home, refused};

#[test]
fn invalid_patch_has_a_hint() {
    let home = Home::new();
    home.create("plan");
    for patch in ["[", "{}", "[7]", r#"[{"op": "frob"}]"#] {
        let ran = home.run(&["sync", "update", "plan", "--patch", patch]);
        refused(&ran, 2, &["\nhint: ", "RFC 6902"]);
    }
    let ran = home.run(&["sync", "update", "plan", "--patch", "{}"]);
    let message = "invalid patch: expected an array of operations, found an object";
    refused(&ran, 2, &[message]);
    let ran = home.run(&["sync", "update", "plan", "--patch-file", "absent"]);
    refused(&ran, 2, &["absent", "\nhint: "]);
}

#[test]
fn update_reports_that_nothing_changed() {
    let home = Home::new();
    home.create("plan");
    for patch in [
        "[]",
        r#"[{"op": "test", "path": "/doc/title", "value": "Plan"}]"#,
        r#"[{"op": "replace", "path": "/doc/title", "value": "Plan"}]"#,
    ] {
        let update = ["sync", "update", "plan", "--patch", patch];
        assert_eq!(home.done(&update), "Nothing was changed\n", "{patch}");
    }
}

#[test]
fn failed_test_shows_both_values() {
    let home = Home::new();
    home.create("plan");
    let patch = r#"[{"op": "test", "path": "/doc/children", "value": [{"item": {"s": "tea"}}]}]"#;
    refused(
        &home.run(&["sync", "update", "plan", "--patch", patch]),
        1,
        &[
            "test failed at \"/doc/children\": expected [{\"item\": {\"s\": \"tea\"}}], \
             found [{\"item\": {\"n\": 2, \"s\": \"milk\"}}, {\"item\": {\"s\": \"bread\"}}]",
        ],
    );
}
