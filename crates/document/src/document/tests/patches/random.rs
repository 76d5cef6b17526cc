//! Random patches, compared with plain JSON that is patched by RFC 6902 and then replaces
//! the document.

use serde_json::{Map, Value, json};

use super::super::convergence::Random;
use super::super::{counter, document};
use super::random_children;
use crate::document::patch::strip_ids;
use crate::document::{MeshDocument, PatchError, ReplaceError};
use crate::test;

/// The outcome of a patch.
#[derive(Debug, PartialEq)]
enum Outcome {
    Applied,
    Failed(usize),
    Invalid,
}

fn outcome(result: &Result<Option<Vec<u8>>, PatchError>) -> Outcome {
    match result {
        Ok(_) => Outcome::Applied,
        Err(
            PatchError::Malformed { index, .. }
            | PatchError::NotFound { index, .. }
            | PatchError::TestFailed { index, .. },
        ) => Outcome::Failed(*index),
        Err(PatchError::Invalid(_)) => Outcome::Invalid,
        Err(error @ PatchError::Edit(_)) => panic!("{error:?}"),
    }
}

/// RFC 6902, literally.
fn apply(json: &mut Value, operation: &Value) -> Option<()> {
    let path = operation["path"].as_str()?;
    match operation["op"].as_str()? {
        "add" => add(json, path, operation["value"].clone()),
        "copy" => {
            let mut copy = json.pointer(operation["from"].as_str()?)?.clone();
            strip_ids(&mut copy);
            add(json, path, copy)
        }
        "move" => {
            let from = operation["from"].as_str()?;
            if path.starts_with(&format!("{from}/")) {
                return None;
            }
            let moved = remove(json, from)?;
            add(json, path, moved)
        }
        "remove" => remove(json, path).map(drop),
        "replace" => {
            *json.pointer_mut(path)? = operation["value"].clone();
            Some(())
        }
        "test" => {
            let (mut found, mut expected) =
                (json.pointer(path)?.clone(), operation["value"].clone());
            strip_ids(&mut found);
            strip_ids(&mut expected);
            (found == expected).then_some(())
        }
        _ => None,
    }
}

fn add(json: &mut Value, path: &str, value: Value) -> Option<()> {
    let Some((parent, token)) = path.rsplit_once('/') else {
        *json = value;
        return Some(());
    };
    match json.pointer_mut(parent)? {
        Value::Object(members) => {
            members.insert(token.to_owned(), value);
        }
        Value::Array(items) => {
            let at = match token {
                "-" => items.len(),
                token => token.parse().ok().filter(|&at| at <= items.len())?,
            };
            items.insert(at, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(json: &mut Value, path: &str) -> Option<Value> {
    let Some((parent, token)) = path.rsplit_once('/') else {
        return Some(json.take());
    };
    match json.pointer_mut(parent)? {
        Value::Object(members) => members.shift_remove(token),
        Value::Array(items) => {
            let at = token.parse().ok().filter(|&at| at < items.len())?;
            Some(items.remove(at))
        }
        _ => None,
    }
}

/// All locations in a value, by kind.
#[derive(Default)]
struct Places {
    /// Children of elements, `…/children/3`.
    children: Vec<String>,
    /// Child lists, `…/children`.
    lists: Vec<String>,
    /// All locations.
    all: Vec<String>,
    ids: Vec<String>,
}

fn places(json: &Value) -> Places {
    let mut places = Places::default();
    let mut stack = vec![(String::new(), json)];
    while let Some((pointer, value)) = stack.pop() {
        if let Some((_, token)) = pointer.rsplit_once('/') {
            let is_text = pointer.contains("/text/");
            if token == "children" && value.is_array() && !is_text {
                places.lists.push(pointer.clone());
            }
            if token.parse::<usize>().is_ok() && !is_text {
                places.children.push(pointer.clone());
            }
            if let Some(id) = value.as_str().filter(|_| token == "$id") {
                places.ids.push(id.to_owned());
            }
        }
        match value {
            Value::Array(items) => {
                let items = items.iter().enumerate();
                stack.extend(items.map(|(at, item)| (format!("{pointer}/{at}"), item)));
            }
            Value::Object(members) => {
                let members = members.iter();
                stack.extend(members.map(|(key, member)| (format!("{pointer}/{key}"), member)));
            }
            _ => {}
        }
        places.all.push(pointer);
    }
    places
}

fn pick(random: &mut Random, list: &[String]) -> String {
    match list.len() {
        0 => String::new(),
        length => list[random.below(length)].clone(),
    }
}

/// A location in some child list, possibly one beyond its end.
fn slot(random: &mut Random, json: &Value, places: &Places) -> String {
    let list = pick(random, &places.lists);
    let length = json
        .pointer(&list)
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    match random.below(8) {
        0 => format!("{list}/-"),
        1 => format!("{list}/{}", length + random.below(2)),
        _ => format!("{list}/{}", random.below(length + 1)),
    }
}

fn element(random: &mut Random, places: &Places) -> Value {
    // Some of them are existing or deleted elements.
    let mut known: Vec<String> = Vec::new();
    for _ in 0..random.below(3) {
        let id = pick(random, &places.ids);
        if !known.contains(&id) && !id.is_empty() {
            known.push(id);
        }
    }
    let children = random_children(random, &mut known, 2);
    let first = children.into_iter().next();
    first.unwrap_or_else(|| json!({"item": {"s": "new", "children": []}}))
}

fn operation(random: &mut Random, json: &Value) -> Value {
    let places = places(json);
    let child = pick(random, &places.children);
    let value = match random.below(3) {
        0 => json!(random.below(3)),
        1 => json!("x"),
        _ => Value::Null,
    };
    match random.below(24) {
        0..4 => {
            let (path, value) = (slot(random, json, &places), element(random, &places));
            json!({"op": "add", "path": path, "value": value})
        }
        4..7 => json!({"op": "remove", "path": child}),
        7..10 => {
            let path = slot(random, json, &places);
            json!({"op": "move", "from": child, "path": path})
        }
        10 => json!({"op": "copy", "from": child, "path": slot(random, json, &places)}),
        11 | 12 => json!({"op": "add", "path": format!("{child}/item/n"), "value": value}),
        13 => json!({"op": "replace", "path": child, "value": element(random, &places)}),
        14 => {
            let content = element(random, &places);
            let content = content.get("item").cloned().unwrap_or_default();
            json!({"op": "replace", "path": format!("{child}/item"), "value": content})
        }
        15 => {
            let (from, path) = (pick(random, &places.lists), pick(random, &places.lists));
            json!({"op": "move", "from": from, "path": path})
        }
        16 => {
            let mut known = places.ids.clone();
            let children = random_children(random, &mut known, 2);
            let path = pick(random, &places.lists);
            json!({"op": "replace", "path": path, "value": children})
        }
        17 => {
            let (path, from) = (pick(random, &places.all), pick(random, &places.all));
            let op = ["add", "copy", "move", "remove", "replace", "test"][random.below(6)];
            json!({"op": op, "path": path, "from": from, "value": value})
        }
        18 => {
            let mut path = pick(random, &places.all);
            path.push_str(["/n", "/0", "/-", "/x", "/$id"][random.below(5)]);
            json!({"op": "add", "path": path, "value": value})
        }
        19 => {
            let value = match random.below(3) {
                0 => "named".to_owned(),
                _ => pick(random, &places.ids),
            };
            json!({"op": "add", "path": format!("{child}/item/$id"), "value": value})
        }
        20 => json!({"op": "remove", "path": pick(random, &places.all)}),
        21 => {
            // Moved away and back.
            let from = pick(random, &places.all);
            json!({"op": "move", "from": from, "path": "/doc/title"})
        }
        22 => json!({"op": "move", "from": "/doc/title", "path": slot(random, json, &places)}),
        _ => {
            let path = pick(random, &places.all);
            let mut value = json.pointer(&path).cloned().unwrap_or_default();
            if random.below(8) == 0 {
                value = json!({"other": value});
            }
            json!({"op": "test", "path": path, "value": value})
        }
    }
}

/// Checks that elements with an `$id` of an existing element keep it.
fn check_ids(before: &MeshDocument, wanted: &Value, found: &Value, context: &str) {
    let mut stack = vec![(wanted, found)];
    while let Some((wanted, found)) = stack.pop() {
        match (wanted, found) {
            (Value::Object(wanted), Value::Object(found)) => {
                for (name, value) in wanted {
                    if name != "$id" {
                        stack.push((value, &found[name]));
                    }
                    let id = value.get("$id").and_then(Value::as_str);
                    let element = id.and_then(|id| before.node(id));
                    if element.is_some_and(|element| element.tag() == name) {
                        assert_eq!(found[name]["$id"], value["$id"], "{context}");
                    }
                }
            }
            (Value::Array(wanted), Value::Array(found)) => stack.extend(wanted.iter().zip(found)),
            _ => {}
        }
    }
}

/// Completes JSON that fits the schema to the form that a document prints.
fn complete(json: &mut Value) {
    let mut stack = vec![json];
    while let Some(element) = stack.pop() {
        let content = element.as_object_mut().unwrap();
        let (tag, content) = content.iter_mut().next().unwrap();
        let content: &mut Map<String, Value> = content.as_object_mut().unwrap();
        let children = content.entry("children").or_insert(json!([]));
        if tag != "text" {
            stack.extend(children.as_array_mut().unwrap());
            continue;
        }
        let delta = children.pointer("/0/text/delta").and_then(Value::as_array);
        let mut runs: Vec<(String, Map<String, Value>)> = Vec::new();
        for run in delta.into_iter().flatten() {
            let text = run["insert"].as_str().unwrap();
            let attributes = run.get("attributes").and_then(Value::as_object);
            let mut attributes = attributes.cloned().unwrap_or_default();
            attributes.retain(|_, value| !value.is_null());
            match runs.last_mut() {
                Some((before, formats)) if *formats == attributes => before.push_str(text),
                _ if text.is_empty() => {}
                _ => runs.push((text.to_owned(), attributes)),
            }
        }
        let runs = runs.into_iter();
        let runs = runs.map(|(text, attributes)| json!({"insert": text, "attributes": attributes}));
        let runs: Vec<Value> = runs.collect();
        *children = json!([{"text": {"delta": runs}}]);
    }
}

fn run(seed: u64, counts: &mut [usize; 3]) {
    let mut random = Random::new(seed);
    let mut ours = document(1);
    let mut next = counter();
    let start = json!({"doc": {"children": random_children(&mut random, &mut Vec::new(), 3)}});
    ours.insert_json(&start, &mut next).unwrap();
    for round in 0..4 {
        let mut expected = ours.to_json(true);
        let mut failed = None;
        let mut patch = Vec::new();
        for index in 0..=random.below(5) {
            let operation = operation(&mut random, &expected);
            if apply(&mut expected, &operation).is_none() && failed.is_none() {
                failed = Some(index);
            }
            patch.push(operation);
        }
        let patch = Value::Array(patch);
        let before = ours.encode_state();
        let context = format!(
            "seed {seed}, round {round}: {patch} on {}",
            ours.to_json(true)
        );

        let [mut old, mut replaced, mut other] = [2, 3, 4].map(document);
        for replica in [&mut old, &mut replaced, &mut other] {
            replica.apply_update(&before).unwrap();
        }
        let mut fresh = {
            let mut serial = 0;
            move || {
                serial += 1;
                format!("fresh-{seed}-{round}-{serial}")
            }
        };
        let wanted = match (
            failed,
            replaced.replace_json(&expected, &mut counter_from("r")),
        ) {
            (Some(index), _) => Outcome::Failed(index),
            (None, Ok(_)) => Outcome::Applied,
            (None, Err(ReplaceError::Invalid(_))) => Outcome::Invalid,
            (None, Err(error)) => panic!("{error:?} {context}"),
        };
        assert_bounded(&ours, &patch, &context);
        let result = ours.apply_patch(&patch, &mut fresh);
        assert_eq!(outcome(&result), wanted, "{result:?} {context}");
        let Ok(update) = result else {
            counts[if wanted == Outcome::Invalid { 1 } else { 2 }] += 1;
            assert_eq!(ours.encode_state(), before, "{context}");
            continue;
        };
        counts[0] += 1;
        let found = ours.to_json(true);
        assert_eq!(update.is_none(), ours.encode_state() == before, "{context}");
        if let Some(update) = update {
            other.apply_update(&update).unwrap();
        }
        assert_eq!(other.to_json(true), found, "{context}");
        assert_eq!(ours.violations(), [], "{context}");
        complete(&mut expected);
        let mut stripped = [expected.clone(), found.clone(), replaced.to_json(true)];
        stripped.iter_mut().for_each(strip_ids);
        assert_eq!(stripped[1], stripped[0], "{context}");
        assert_eq!(stripped[2], stripped[0], "{context}");
        check_ids(&old, &expected, &found, &context);
    }
}

fn counter_from(prefix: &'static str) -> impl FnMut() -> String {
    let mut next = 0;
    move || {
        next += 1;
        format!("{prefix}-{next}")
    }
}

#[test]
fn patches_agree_with_plain_json() {
    let seeds = std::env::var("PATCH_SEEDS").map_or(300, |seeds| seeds.parse().unwrap());
    let mut counts = [0; 3];
    for seed in 0..seeds {
        run(seed, &mut counts);
    }
    // Each kind occurs often enough.
    assert!({ counts }.iter().all(|&count| count > 100), "{counts:?}");
}

#[test]
fn concurrent_patches_to_different_elements_both_survive() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let mut ours = document(1);
        let mut other = document(2);
        let start = json!({"doc": {"children": random_children(&mut random, &mut Vec::new(), 3)}});
        ours.insert_json(&start, &mut counter()).unwrap();
        other.apply_update(&ours.encode_state()).unwrap();
        let json = ours.to_json(true);
        let mut items = places(&json).children;
        items.retain(|item| json.pointer(&format!("{item}/item")).is_some());
        if items.len() < 2 {
            continue;
        }
        let first = items.swap_remove(random.below(items.len()));
        let second = pick(&mut random, &items);
        let patch = |at: &str, name: &str| {
            json!([
                {"op": "add", "path": format!("{at}/item/s"), "value": name},
                {"op": "add", "path": format!("{at}/item/children/0"), "value": {"item": {"s": name}}},
            ])
        };
        let id = |at: &str| {
            json.pointer(&format!("{at}/item/$id"))
                .unwrap()
                .as_str()
                .unwrap()
        };
        let mine = ours.apply_patch(&patch(&first, "mine"), &mut counter_from("m"));
        let theirs = other.apply_patch(&patch(&second, "theirs"), &mut counter_from("t"));
        ours.apply_update(&theirs.unwrap().unwrap()).unwrap();
        other.apply_update(&mine.unwrap().unwrap()).unwrap();
        assert_eq!(ours.to_json(true), other.to_json(true), "seed {seed}");
        for (at, name, new) in [(&first, "mine", "m-1"), (&second, "theirs", "t-1")] {
            let element = ours.node(id(at)).unwrap();
            assert_eq!(element.attribute("s"), Some(name.into()), "seed {seed}");
            let child = ours.node(new).unwrap();
            assert_eq!(child.parent().unwrap().id(), element.id(), "seed {seed}");
        }
        assert_eq!(
            ours.element_count(),
            places(&json).ids.len() + 2,
            "seed {seed}"
        );
    }
}

#[test]
fn long_patches_of_long_lists() {
    for seed in 0..4 {
        let mut random = Random::new(seed);
        let mut ours = document(1);
        let item = |n: usize| json!({"item": {"n": n, "children": []}});
        let mut expected = json!({"doc": {"children": (0..1000).map(item).collect::<Vec<_>>()}});
        ours.insert_json(&expected, &mut counter()).unwrap();
        let mut patch = Vec::new();
        let mut length = 1000;
        for n in 0..1500 {
            // Mostly at one place.
            let mut at = |length: usize| match random.below(4) {
                0 => random.below(length),
                _ => random.below(100),
            };
            let (from, to) = (at(length), at(length));
            let (from, to) = (
                format!("/doc/children/{from}"),
                format!("/doc/children/{to}"),
            );
            patch.push(match random.below(8) {
                0..3 => {
                    length += 1;
                    json!({"op": "add", "path": to, "value": item(1000 + n)})
                }
                3 => {
                    length -= 1;
                    json!({"op": "remove", "path": from})
                }
                4 | 5 => json!({"op": "move", "from": from, "path": to}),
                6 => json!({"op": "add", "path": format!("{to}/item/s"), "value": "s"}),
                _ => {
                    let value = expected.pointer(&from).cloned();
                    json!({"op": "test", "path": from, "value": value})
                }
            });
            assert!(apply(&mut expected, &patch[n]).is_some(), "seed {seed}");
        }
        ours.apply_patch(&patch.into(), &mut counter_from("new"))
            .unwrap();
        assert_eq!(ours.to_json(false), expected, "seed {seed}");
    }
}

/// Asserts that the updates of a patch are within the computed bound.
fn assert_bounded(document: &MeshDocument, patch: &Value, context: &str) {
    let mut copy = MeshDocument::new(document.schema().clone(), 77);
    copy.apply_update(&document.encode_state()).unwrap();
    let before = copy.encode_state();
    let Ok(plan) = copy.plan_patch(patch, &mut counter_from("b")) else {
        return;
    };
    assert_eq!(copy.encode_state(), before, "{context}");
    let (bound, added) = (plan.bound().bytes, plan.bound().added);
    if bound == usize::MAX {
        return;
    }
    let steps = copy.apply_plan(plan).steps;
    let is_added = steps.iter().any(|step| !step.operations.is_empty());
    assert!(!is_added || added > 0, "{context}");
    let bytes: usize = steps.iter().map(|step| step.update.len()).sum();
    assert!(bytes <= bound, "{bytes} bytes, bound {bound}: {context}");
}
