//! From JSON to JSON: what a patch or a new state changes, and what it leaves alone.

use serde_json::{Value, json};

use super::convergence::Random;
use super::{counter, document};
use crate::document::{MeshDocument, PatchError, Target};

fn sample() -> MeshDocument {
    let mut document = document(1);
    let json = json!({"doc": {"title": "T", "children": [
        {"item": {"$id": "a", "s": "x", "children": [{"item": {"$id": "b", "n": 1, "children": []}}]}},
        {"item": {"$id": "c", "children": []}},
        {"text": {"$id": "t", "children": [{"text": {"delta": [{"insert": "a😀b", "attributes": {}}]}}]}},
    ]}});
    document.insert_json(&json, &mut counter()).unwrap();
    document
}

/// The `$id`s of the root's children.
fn ids(document: &MeshDocument) -> Vec<&str> {
    let children = document.root().children();
    children.map(|child| child.id().unwrap()).collect()
}

#[test]
fn all_six_operations() {
    let mut ours = sample();
    let mut other = document(2);
    other.apply_update(&ours.encode_state()).unwrap();
    let patch = json!([
        {"op": "test", "path": "/doc/children/1", "value": {"item": {"children": []}}},
        {"op": "add", "path": "/doc/children/0", "value": {"item": {"s": "new", "children": []}}},
        {"op": "replace", "path": "/doc/title", "value": "U"},
        {"op": "remove", "path": "/doc/children/2"},
        {"op": "move", "from": "/doc/children/1/item/children/0", "path": "/doc/children/-"},
        {"op": "copy", "from": "/doc/children/3", "path": "/doc/children/0/item/children/0"},
        {"op": "add", "path": "/doc/children/1/item/n", "value": 5},
    ]);
    let update = ours.apply_patch(&patch, &mut counter()).unwrap().unwrap();
    assert_eq!(
        ours.to_json(false),
        json!({"doc": {"title": "U", "children": [
            {"item": {"s": "new", "children": [{"item": {"n": 1, "children": []}}]}},
            {"item": {"s": "x", "n": 5, "children": []}},
            {"text": {"children": [{"text": {"delta": [{"insert": "a😀b", "attributes": {}}]}}]}},
            {"item": {"n": 1, "children": []}},
        ]}})
    );
    assert_eq!(ids(&ours)[1..], ["a", "t", "b"]);
    other.apply_update(&update).unwrap();
    assert_eq!(other.to_json(true), ours.to_json(true));
}

#[test]
fn concurrent_patches_to_different_elements_both_survive() {
    let mut ours = sample();
    let mut other = document(2);
    other.apply_update(&ours.encode_state()).unwrap();
    let mut first = ours.to_json(false);
    first["doc"]["children"][0]["item"]["s"] = "mine".into();
    let mine = ours.replace_json(&first, &mut counter()).unwrap().unwrap();
    let patch = json!([
        {"op": "replace", "path": "/doc/children/1/item", "value": {"s": "theirs", "children": []}},
        {"op": "add", "path": "/doc/children/0/item/children/0/item/b", "value": true},
    ]);
    let theirs = other.apply_patch(&patch, &mut counter()).unwrap().unwrap();
    ours.apply_update(&theirs).unwrap();
    other.apply_update(&mine).unwrap();
    assert_eq!(ours.to_json(true), other.to_json(true));
    assert_eq!(ids(&ours), ["a", "c", "t"]);
    assert_eq!(ours.node("a").unwrap().attribute("s"), Some("mine".into()));
    assert_eq!(
        ours.node("c").unwrap().attribute("s"),
        Some("theirs".into())
    );
    assert_eq!(ours.node("b").unwrap().attribute("b"), Some(true.into()));
}

#[test]
fn a_failing_operation_changes_nothing_and_is_named() {
    let mut ours = sample();
    let before = ours.encode_state();
    let mut check = |operation: Value, expected: &str| {
        let good = json!({"op": "replace", "path": "/doc/title", "value": "U"});
        let error = ours
            .apply_patch(&json!([good, operation]), &mut counter())
            .unwrap_err();
        let found = error.to_string();
        assert!(found.contains(expected), "{found}");
        assert_eq!(ours.encode_state(), before);
    };
    check(
        json!({"op": "test", "path": "/doc/title", "value": "T"}),
        "operation 1: the value",
    );
    check(
        json!({"op": "remove", "path": "/doc/children/9"}),
        "operation 1: \"/doc/children/9\"",
    );
    check(
        json!({"op": "remove", "path": "/doc/children/01"}),
        "leads nowhere",
    );
    check(
        json!({"op": "add", "path": "/doc/children/4", "value": 1}),
        "leads nowhere",
    );
    check(
        json!({"op": "replace", "path": "/doc/nope", "value": 1}),
        "leads nowhere",
    );
    check(
        json!({"op": "swap", "path": ""}),
        "operation 1 is malformed",
    );
    check(
        json!({"op": "add", "path": "doc", "value": 1}),
        "begins with",
    );
    check(
        json!({"op": "move", "from": "/doc/children", "path": "/doc/children/0"}),
        "into itself",
    );
    check(
        json!({"op": "add", "path": "/doc/title", "value": 1}),
        "/doc/title: expected string",
    );
    let error = ours.apply_patch(&json!({}), &mut counter()).unwrap_err();
    assert!(matches!(error, PatchError::Malformed { .. }));
}

#[test]
fn replacing_with_the_same_is_nothing() {
    let mut ours = sample();
    for include_ids in [false, true] {
        let json = ours.to_json(include_ids);
        assert_eq!(ours.replace_json(&json, &mut counter()).unwrap(), None);
    }
    let text = json!([{"text": {"delta": [
        {"insert": "a", "attributes": {}}, {"insert": "😀", "attributes": {"bold": true}},
        {"insert": "b", "attributes": {}},
    ]}}]);
    let patch = json!([{"op": "replace", "path": "/doc/children/2/text/children", "value": text}]);
    ours.apply_patch(&patch, &mut counter()).unwrap();
    assert_eq!(
        ours.to_json(false)["doc"]["children"][2]["text"]["children"],
        text
    );
    ours.set_attribute(Target::Root, "title", "later".into())
        .unwrap();
}

/// A random element list, some of whose ids may be those of `known` elements.
fn random_children(random: &mut Random, known: &mut Vec<String>, depth: usize) -> Vec<Value> {
    let count = random.below(4);
    (0..count)
        .map(|_| {
            if random.below(5) == 0 {
                let text: String = (0..random.below(6))
                    .map(|_| ['a', 'é', '😀'][random.below(3)])
                    .collect();
                let mut runs = Vec::new();
                if !text.is_empty() {
                    let bold = if random.below(2) == 0 {
                        json!({})
                    } else {
                        json!({"bold": true})
                    };
                    runs.push(json!({"insert": text, "attributes": bold}));
                }
                return json!({"text": {"children": [{"text": {"delta": runs}}]}});
            }
            let mut content = serde_json::Map::new();
            if !known.is_empty() && random.below(2) == 0 {
                content.insert("$id".into(), known.remove(random.below(known.len())).into());
            }
            if random.below(2) == 0 {
                content.insert("n".into(), random.below(3).into());
            }
            let children = match depth {
                0 => Vec::new(),
                _ => random_children(random, known, depth - 1),
            };
            content.insert("children".into(), children.into());
            json!({"item": content})
        })
        .collect()
}

#[test]
fn any_state_is_reached_from_any_other() {
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let mut ours = document(1);
        let mut other = document(2);
        let mut next = counter();
        let start = json!({"doc": {"children": random_children(&mut random, &mut Vec::new(), 3)}});
        ours.insert_json(&start, &mut next).unwrap();
        other.apply_update(&ours.encode_state()).unwrap();
        for _ in 0..4 {
            let mut known = Vec::new();
            let mut stack: Vec<_> = ours.root().children().collect();
            while let Some(element) = stack.pop() {
                if element.tag() == "item" {
                    known.push(element.id().unwrap().to_owned());
                }
                stack.extend(element.children());
            }
            known.sort();
            let wanted = json!({"doc": {"children": random_children(&mut random, &mut known, 3)}});
            let update = ours.replace_json(&wanted, &mut next);
            let update = update.unwrap_or_else(|error| panic!("seed {seed}: {error:?} {wanted}"));
            let mut expected = wanted.clone();
            let mut found = ours.to_json(true);
            // Named elements keep their names; the others get new ones.
            super::super::patch::strip_ids(&mut expected);
            super::super::patch::strip_ids(&mut found);
            assert_eq!(found, expected, "seed {seed}");
            if let Some(update) = update {
                other.apply_update(&update).unwrap();
            }
            assert_eq!(other.to_json(true), ours.to_json(true), "seed {seed}");
            assert_eq!(ours.violations(), [], "seed {seed}");
        }
    }
}
