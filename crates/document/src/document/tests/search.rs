//! Finding elements.

use serde_json::json;

use super::{counter, document};
use crate::test;

#[test]
fn greps_like_the_published_cli() {
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
    assert!(ours.grep("(?=x)", false, 0, 0).is_err());
    assert!(
        ours.grep(&"(a{1000}){1000}".repeat(3), false, 0, 0)
            .is_err()
    );
}
