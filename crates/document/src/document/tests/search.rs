//! Search by regular expression.

use serde_json::{Value, json};

use super::{counter, document};
use crate::test;

#[test]
fn grep_matches_like_published_cli() {
    let mut ours = document(1);
    let json = json!({"doc": {"title": "Find me", "children": [
        {"item": {"$id": "1", "s": "alpha"}},
        {"item": {"$id": "2", "s": "beta", "children": [{"item": {"$id": "5", "n": 42}}]}},
        {"item": {"$id": "3", "b": true}},
        {"text": {"$id": "4", "children": [{"text": {"delta": [{"insert": "some Text"}]}}]}},
    ]}});
    ours.insert_json(&json, &mut counter()).unwrap();
    let check = |pattern: &str, ignore_case: bool, around: (usize, usize), expected: &[&str]| {
        let found = ours.grep(pattern, ignore_case, around.0, around.1).unwrap();
        let found: Vec<&str> = found
            .iter()
            .map(|element| element.id().unwrap_or("root"))
            .collect();
        assert_eq!(found, expected, "{pattern}");
        // The same in the printed JSON.
        let printed = ours.to_json(true);
        let found = crate::grep_json(&printed, pattern, ignore_case, around.0, around.1).unwrap();
        let id = |element: &Value| {
            let (_, content) = element.as_object()?.iter().next()?;
            content["$id"].as_str().map(str::to_owned)
        };
        let found: Vec<String> = found
            .into_iter()
            .map(|element| id(element).unwrap_or_else(|| "root".to_owned()))
            .collect();
        assert_eq!(found, expected, "{pattern}");
    };
    check("^alpha$", false, (0, 0), &["1"]);
    check("ALPHA", false, (0, 0), &[]);
    check("ALPHA", true, (0, 0), &["1"]);
    check("find", true, (1, 1), &["root"]);
    check("beta", false, (1, 1), &["1", "2", "3"]);
    check("beta|42", false, (0, 1), &["2", "3", "5"]);
    check("^4", false, (0, 0), &["5", "4"]);
    check("True", false, (0, 0), &["3"]);
    check("some T", false, (9, 0), &["1", "2", "3", "4"]);
    check("^text$", false, (0, 0), &["4"]);
    check("insert|delta", false, (0, 0), &[]);
    assert!(ours.grep("(?=x)", false, 0, 0).is_err());
    assert!(
        ours.grep(&"(a{1000}){1000}".repeat(3), false, 0, 0)
            .is_err()
    );
}

#[test]
fn grep_json_skips_other_shapes() {
    for json in [
        json!([]),
        json!("x"),
        json!({ "a": "x" }),
        json!({ "x": {}, "y": {} }),
    ] {
        assert!(
            crate::grep_json(&json, "x", false, 0, 0)
                .unwrap()
                .is_empty()
        );
    }
    let json = json!({ "doc": { "children": ["x", { "a": "x" }, { "item": { "s": "x" } }] } });
    let found = crate::grep_json(&json, "x", false, 0, 0).unwrap();
    assert_eq!(found, [&json!({ "item": { "s": "x" } })]);
}
