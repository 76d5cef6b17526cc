//! Patches and replacements: which elements they change, and which they leave untouched.

mod random;

use serde_json::{Value, json};

use super::convergence::Random;
use super::{counter, document};
use crate::document::{MeshDocument, PatchError, Target};
use crate::test;

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
fn patch_supports_all_six_operations() {
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

/// The message shows where the values differ, however long they are.
#[test]
fn failed_test_shows_both_values() {
    let mut ours = sample();
    let mut message = |path: &str, value: &Value| {
        let patch = json!([{"op": "test", "path": path, "value": value}]);
        let error = ours.apply_patch(&patch, &mut counter()).unwrap_err();
        let message = error.to_string();
        assert!(message.chars().count() < 350, "{message}");
        let values = message.split_once(": expected ").unwrap().1;
        let (expected, found) = values.split_once(", found ").unwrap();
        assert_ne!(expected, found);
        (expected.to_owned(), found.to_owned())
    };
    let mut other = sample().to_json(false)["doc"]["children"].take();
    other[1]["item"]["s"] = "später".into();
    let (expected, found) = message("/doc/children", &other);
    assert!(expected.contains("\"später\"") && !found.contains("später"));
    assert!(expected.starts_with('…') == found.starts_with('…'));
    let long = "ö".repeat(10_000);
    let (expected, _) = message("/doc/title", &json!(long));
    assert!(
        expected.starts_with("\"öö") && expected.ends_with("ö…"),
        "{expected}"
    );
    let (expected, found) = message("/doc/children", &json!([]));
    assert_eq!(expected, "[]");
    assert!(found.starts_with("[{\"item\": {"), "{found}");
}

#[test]
fn failing_operation_changes_nothing_and_is_reported() {
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
        "operation 1: test failed at \"/doc/title\": expected \"T\", found \"U\"",
    );
    check(
        json!({"op": "test", "path": "/doc/title", "value": ["ü\n", null, {"b": 1, "a": {}}]}),
        "expected [\"ü\\n\", null, {\"a\": {}, \"b\": 1}], found \"U\"",
    );
    check(
        json!({"op": "remove", "path": "/doc/children/9"}),
        "operation 1: \"/doc/children/9\"",
    );
    check(
        json!({"op": "remove", "path": "/doc/children/01"}),
        "does not exist",
    );
    check(
        json!({"op": "add", "path": "/doc/children/4", "value": 1}),
        "does not exist",
    );
    check(
        json!({"op": "replace", "path": "/doc/nope", "value": 1}),
        "does not exist",
    );
    check(
        json!({"op": "swap", "path": ""}),
        "operation 1 is malformed",
    );
    check(
        json!({"op": "add", "path": "doc", "value": 1}),
        "begin with",
    );
    for pointer in ["/doc/~2", "/doc/a~", "/doc/~", "/~/title", "/doc/a~~0"] {
        check(
            json!({"op": "add", "path": pointer, "value": 1}),
            "operation 1 is malformed: in a pointer, \"~\" must be followed by",
        );
        check(
            json!({"op": "copy", "from": pointer, "path": "/doc/title"}),
            "operation 1 is malformed: in a pointer, \"~\" must be followed by",
        );
    }
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
fn replacing_with_equal_content_is_a_no_op() {
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

#[test]
fn adjacent_deletions_are_one_step() {
    let mut ours = document(1);
    let items: Vec<Value> = (0..10)
        .map(|number| json!({"item": {"s": format!("é{number}"), "children": []}}))
        .collect();
    let json = json!({"doc": {"title": "T", "children": items}});
    ours.insert_json(&json, &mut counter()).unwrap();
    // Another replica has deleted a child in the range.
    let gone = json!([{"op": "remove", "path": "/doc/children/4"}]);
    ours.apply_patch(&gone, &mut counter()).unwrap();
    let mut other = document(2);
    other.apply_update(&ours.encode_state()).unwrap();
    let remove = |index: usize| json!({"op": "remove", "path": format!("/doc/children/{index}")});
    // The second to the sixth, and the last.
    let patch = json!([
        remove(8),
        remove(5),
        remove(4),
        remove(3),
        remove(2),
        remove(1)
    ]);
    let outcome = ours.apply_patch_in_steps(&patch, &mut counter()).unwrap();
    assert_eq!(outcome.changed, [true; 6]);
    assert_eq!(outcome.steps.len(), 2);
    for step in &outcome.steps {
        assert!(step.operations.is_empty());
        other.apply_update(&step.update).unwrap();
    }
    assert_eq!(other.to_json(true), ours.to_json(true));
    assert_eq!(ours.element_count(), 3);
}

#[test]
fn steps_equal_patch_and_report_each_operation() {
    let mut ours = sample();
    let mut other = document(2);
    other.apply_update(&ours.encode_state()).unwrap();
    let patch = json!([
        {"op": "test", "path": "/doc/title", "value": "T"},
        {"op": "replace", "path": "/doc/title", "value": "U"},
        {"op": "replace", "path": "/doc/children/0/item/s", "value": "x"},
        {"op": "add", "path": "/doc/children/0/item/s", "value": "x"},
        {"op": "add", "path": "/doc/children/-", "value": {"item": {"s": "new", "children": []}}},
        {"op": "remove", "path": "/doc/children/1"},
    ]);
    let expected = [false, true, false, false, true, true];
    assert_eq!(ours.check_patch(&patch, &mut counter()).unwrap(), expected);
    assert_eq!(ours.to_json(true), other.to_json(true));

    let mut clock = ours.clocks().find(|(client, _)| *client == 1).unwrap().1;
    let outcome = ours.apply_patch_in_steps(&patch, &mut counter()).unwrap();
    assert_eq!(outcome.changed, expected);
    assert_eq!(outcome.steps.len(), 3);
    for step in &outcome.steps {
        assert_eq!(step.operations.start, clock);
        clock = step.operations.end;
        other.apply_update(&step.update).unwrap();
    }
    assert_eq!(other.to_json(true), ours.to_json(true));
    assert!(ours.clocks().any(|one| one == (1, clock)));

    let back_and_forth = json!([
        {"op": "replace", "path": "/doc/title", "value": "V"},
        {"op": "replace", "path": "/doc/title", "value": "U"},
    ]);
    assert_eq!(
        ours.check_patch(&back_and_forth, &mut counter()).unwrap(),
        [false; 2]
    );
    let outcome = ours.apply_patch_in_steps(&back_and_forth, &mut counter());
    let outcome = outcome.unwrap();
    assert!(outcome.steps.is_empty());
    assert_eq!(outcome.changed, [false; 2]);
}

#[test]
fn only_changes_of_a_patch_are_checked() {
    let mut ours = sample();
    let before = ours.encode_state();
    let mut check = |patch: Value, expected: &[&str]| {
        let error = ours.apply_patch(&patch, &mut counter()).unwrap_err();
        let PatchError::Invalid(violations) = error else {
            panic!("{error}");
        };
        let found: Vec<String> = violations.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}");
        }
        assert_eq!(ours.encode_state(), before);
    };
    let first = json!({"op": "add", "path": "/doc/children/0", "value": {"item": {"n": 1}}});
    check(
        json!([first, {"op": "add", "path": "/doc/children/1/item/n", "value": "1"}]),
        &["/doc/children/1/item/n: expected number"],
    );
    check(
        json!([{"op": "add", "path": "/doc/children/0", "value": {"item": {"n": "1", "x~/y": 1}}}]),
        &[
            "/doc/children/0/item/n: expected number",
            "/doc/children/0/item/x~0~1y: expected a property",
        ],
    );
    check(
        json!([first, {"op": "move", "from": "/doc/children/1", "path": "/doc/title"}]),
        &["/doc/title: expected string or null, found an object"],
    );
    check(
        json!([first, {"op": "move", "from": "/doc/children/1/item", "path": "/doc/children/1/text"}]),
        &[
            "/doc/children/1/text/s: expected a property",
            "/doc/children/1/text/children/0: expected one child",
        ],
    );
    check(
        json!([{"op": "move", "from": "/doc/children", "path": "/doc/others"}]),
        &["/doc/others: expected a property"],
    );
    check(
        json!([{"op": "move", "from": "/doc", "path": "/other"}]),
        &["document: expected an object with the single key \"doc\""],
    );
    // An existing `$id`, in a list that no operation has opened, and twice in one patch.
    let new =
        |id: &str| json!({"op": "add", "path": "/doc/children/-", "value": {"item": {"$id": id}}});
    check(
        json!([new("b")]),
        &["/doc/children/3/item/$id: expected a unique $id"],
    );
    check(
        json!([new("new"), new("new")]),
        &["/doc/children/4/item/$id: expected a unique $id"],
    );
    // The `$id` of a deleted element may be used again: that is a move.
    let patch = json!([{"op": "remove", "path": "/doc/children/0"}, new("b")]);
    ours.apply_patch(&patch, &mut counter()).unwrap();
    assert_eq!(ids(&ours), ["c", "t", "b"]);
}

#[test]
fn copied_bytes_are_limited() {
    let mut ours = sample();
    let before = ours.encode_state();
    let copy =
        json!({"op": "copy", "from": "/doc/children/0", "path": "/doc/children/0/item/children/-"});
    let patch = Value::Array(vec![copy; 40]);
    let error = ours.apply_patch(&patch, &mut counter()).unwrap_err();
    assert!(error.to_string().contains("copies more than"), "{error}");
    let deep = "/doc".to_owned() + &"/children/0/item".repeat(400);
    let patch = json!([{"op": "test", "path": deep, "value": 1}]);
    let error = ours.apply_patch(&patch, &mut counter()).unwrap_err();
    assert!(error.to_string().contains("960 levels"), "{error}");
    assert_eq!(ours.encode_state(), before);
}

#[test]
fn elements_deeper_than_json_are_untouched() {
    let mut ours = document(1);
    let mut next = counter();
    let mut parent = Target::Root;
    for level in 0..300 {
        let id = format!("e{level}");
        let element = json!({"item": {"$id": id}});
        ours.append_child(parent, element, &mut next).unwrap();
        parent = Target::Id(id);
    }
    let json = ours.to_json(true);
    let deepest = "/doc".to_owned() + &"/children/0/item".repeat(255);
    assert_eq!(
        json.pointer(&format!("{deepest}/$id")),
        Some(&"e254".into())
    );
    let patch = json!([
        {"op": "test", "path": "", "value": json},
        {"op": "test", "path": format!("{deepest}/children"), "value": []},
        {"op": "add", "path": format!("{deepest}/n"), "value": 1},
        {"op": "add", "path": "/doc/children/0/item/n", "value": 2},
        {"op": "add", "path": "/doc/children/-", "value": {"item": {}}},
    ]);
    ours.apply_patch(&patch, &mut next).unwrap();
    assert_eq!(ours.node("e254").unwrap().attribute("n"), Some(1.into()));
    assert_eq!(ours.element_count(), 301);
    let patch = json!([{"op": "add", "path": format!("{deepest}/children/0/item/n"), "value": 1}]);
    let error = ours.apply_patch(&patch, &mut next).unwrap_err();
    assert!(matches!(error, PatchError::NotFound { .. }), "{error}");
    let json = ours.to_json(true);
    assert_eq!(ours.replace_json(&json, &mut next).unwrap(), None);
    assert!(ours.node("e299").is_some());
}

/// Nested items.
fn chain(levels: usize) -> Value {
    (1..levels).fold(
        json!({"item": {}}),
        |inner, _| json!({"item": {"children": [inner]}}),
    )
}

#[test]
fn deep_values_are_rejected() {
    let mut ours = sample();
    let mut patch = |patch: Value| {
        let error = ours.apply_patch(&patch, &mut counter()).unwrap_err();
        assert!(error.to_string().contains("960 levels"), "{error}");
    };
    let below = |levels: usize| "/doc".to_owned() + &"/children/0/item".repeat(levels);
    let first = json!({"op": "add", "path": "/doc/children/0", "value": chain(300)});
    let path = below(300) + "/children";
    patch(json!([{"op": "add", "path": "/doc/children/0", "value": chain(400)}]));
    patch(json!([first, {"op": "add", "path": path, "value": [chain(20)]}]));
    patch(
        json!([first, {"op": "replace", "path": path.trim_end_matches("/children"), "value": chain(30)["item"]}]),
    );
    // On top of existing levels, by moves and by copies.
    for op in ["move", "copy"] {
        let other = json!({"op": "add", "path": "/doc/children/1", "value": chain(20)});
        patch(json!([
            first, {"op": "add", "path": path, "value": []}, other,
            {"op": op, "from": "/doc/children/1", "path": format!("{path}/0")},
        ]));
    }
    let mut document = document(1);
    let json = json!({"doc": {"children": [chain(250)]}});
    document.insert_json(&json, &mut counter()).unwrap();
    let from = json!({"op": "move", "from": "/doc/children/1", "path": format!("{}/children/0", below(100))});
    let error = document.apply_patch(
        &json!([{"op": "add", "path": "/doc/children/0", "value": chain(100)}, {"op": "add", "path": below(100) + "/children", "value": []}, from]),
        &mut counter(),
    );
    assert!(error.unwrap_err().to_string().contains("960 levels"));
    let error = document.replace_json(&json!({"doc": {"children": [chain(400)]}}), &mut counter());
    assert!(error.unwrap_err().to_string().contains("960 levels"));
}

#[test]
fn values_of_maximal_depth_are_accepted() {
    let mut ours = sample();
    let low = "/doc".to_owned() + &"/children/0/item".repeat(300) + "/children";
    let patch = json!([
        {"op": "add", "path": "/doc/children/0", "value": chain(300)},
        {"op": "add", "path": low, "value": [chain(17)]},
        {"op": "test", "path": format!("{low}/0"), "value": chain(17)},
        {"op": "move", "from": "/doc/children/1", "path": format!("{low}/0")},
        {"op": "copy", "from": "/doc/children/0", "path": "/doc/children/1"},
    ]);
    ours.apply_patch(&patch, &mut counter()).unwrap();
    assert_eq!(ids(&ours).len(), 4);
    assert_eq!(ours.element_count(), 2 + 2 * (300 + 17 + 2));
    let json = ours.to_json(true);
    assert_eq!(ours.replace_json(&json, &mut counter()).unwrap(), None);
}

/// Other programs write an element before its `$id`.
#[test]
fn elements_without_id_are_untouched() {
    use yrs::{Doc, Transact, WriteTxn, Xml, XmlElementPrelim, XmlFragment};
    let foreign = Doc::with_client_id(9);
    let update = {
        let mut transaction = foreign.transact_mut();
        let root = transaction.get_or_insert_xml_fragment("xml");
        for (n, id) in [Some("a"), None, Some("b"), None].into_iter().enumerate() {
            let child = root.push_back(&mut transaction, XmlElementPrelim::empty("item"));
            child.insert_attribute(&mut transaction, "n", i64::try_from(n).unwrap());
            if let Some(id) = id {
                child.insert_attribute(&mut transaction, "$id", id);
            }
        }
        transaction.encode_update_v1()
    };
    let numbers = |document: &MeshDocument| -> Vec<Value> {
        let json = document.to_json(true);
        let children = json["doc"]["children"].as_array().unwrap().iter();
        children.map(|child| child["item"]["n"].clone()).collect()
    };
    let new = |n: i32, path: &str| {
        let path = format!("/doc/children/{path}");
        json!({"op": "add", "path": path, "value": {"item": {"n": n}}})
    };
    let mut ours = document(1);
    ours.apply_update(&update).unwrap();
    let json = ours.to_json(true);
    assert_eq!(ours.replace_json(&json, &mut counter()).unwrap(), None);
    let patch = json!([
        {"op": "test", "path": "/doc/children/1/item/n", "value": 1},
        new(10, "-"), new(11, "2"), new(12, "-"), new(13, "1"),
    ]);
    ours.apply_patch(&patch, &mut counter()).unwrap();
    assert_eq!(numbers(&ours), [0, 13, 1, 11, 2, 3, 10, 12]);
    let patch = json!([{"op": "move", "from": "/doc/children/4", "path": "/doc/children/0"}]);
    ours.apply_patch(&patch, &mut counter()).unwrap();
    assert_eq!(numbers(&ours), [2, 0, 13, 1, 11, 3, 10, 12]);
    let before = ours.encode_state();
    for operation in [
        json!({"op": "remove", "path": "/doc/children/3"}),
        json!({"op": "replace", "path": "/doc/children/3/item/n", "value": 5}),
        json!({"op": "move", "from": "/doc/children/3", "path": "/doc/children/0"}),
        json!({"op": "add", "path": "/doc/children/3/item/children/0", "value": {"item": {}}}),
    ] {
        let patch = json!([operation]);
        let error = ours.apply_patch(&patch, &mut counter()).unwrap_err();
        let expected = "/doc/children/3/item: expected an element with an $id";
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(ours.encode_state(), before);
    }
}

/// A random element list; some `$id`s may be those of `known` elements.
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
fn replace_reaches_any_state() {
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
            let mut stack = vec![ours.root()];
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
            // Identified elements keep their `$id`s; the others get new ones.
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
