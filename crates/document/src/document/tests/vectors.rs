//! Documents that the published SDKs wrote.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{counter, document, golden};
use crate::document::{Edit, Target};
use crate::test;
use crate::update::{UpdateKind, merge_updates};

/// The SDKs' own view of an element, in JSON form.
fn as_json(tree: &Value) -> Value {
    let mut printed: Map<String, Value> = tree["attributes"].as_object().unwrap().clone();
    let children = tree["children"].as_array().unwrap().iter();
    let children = children.map(|child| match child.get("text") {
        // Python starts a text with an empty run.
        Some(runs) => {
            let runs = runs.as_array().unwrap().iter();
            let runs: Vec<_> = runs.filter(|run| run["insert"] != "").collect();
            json!({"text": {"delta": runs}})
        }
        None => as_json(child),
    });
    printed.insert("children".into(), children.collect());
    json!({ tree["tag"].as_str().unwrap(): printed })
}

/// Python counts in floats.
fn numbers_as_floats(value: &mut Value) {
    match value {
        Value::Number(number) => *value = number.as_f64().into(),
        Value::Array(items) => items.iter_mut().for_each(numbers_as_floats),
        Value::Object(members) => members.values_mut().for_each(numbers_as_floats),
        _ => {}
    }
}

#[test]
fn updates_of_both_sdks_give_their_views() {
    let golden = golden();
    for (sdk, name) in [
        ("python", "elements"),
        ("python", "text"),
        ("npm", "elements"),
        ("npm", "text"),
    ] {
        let case = &golden[sdk][name];
        let mut ours = document(7);
        let mut all = Vec::new();
        for step in case["steps"].as_array().unwrap() {
            for update in step["updates"].as_array().unwrap() {
                let update = STANDARD.decode(update.as_str().unwrap()).unwrap();
                assert_eq!(ours.classify(&update), Ok(UpdateKind::New));
                let applied = ours.apply_update(&update).unwrap();
                assert_eq!(applied.visible.as_ref(), Some(&update));
                assert_eq!(ours.classify(&update), Ok(UpdateKind::Contained));
                // This holds after each small step in which an SDK builds content.
                assert_eq!(ours.violations(), [], "{sdk} {name}: {}", step["op"]);
                all.push(update);
            }
            // Python counts in bytes here, so its own view of the result is wrong.
            if step["op"].as_str().unwrap().contains("SDK bug") {
                continue;
            }
            let (mut found, mut expected) = (ours.to_json(true), as_json(&step["tree"]));
            numbers_as_floats(&mut found);
            numbers_as_floats(&mut expected);
            assert_eq!(found, expected, "{sdk} {name}: {}", step["op"]);
        }
        // The SDK's whole state is an echo here, and ours is one for a replica with that state.
        let state = STANDARD.decode(case["state"].as_str().unwrap()).unwrap();
        assert_eq!(
            ours.classify(&state),
            Ok(UpdateKind::Contained),
            "{sdk} {name}"
        );
        assert_eq!(
            ours.state_vector(),
            STANDARD
                .decode(case["state_vector"].as_str().unwrap())
                .unwrap()
        );
        let all: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
        for state in [state, merge_updates(&all).unwrap()] {
            let mut other = document(8);
            other.apply_update(&state).unwrap();
            assert_eq!(
                other.classify(&ours.encode_state()),
                Ok(UpdateKind::Contained)
            );
            assert_eq!(other.to_json(true), ours.to_json(true), "{sdk} {name}");
        }
    }
}

/// If an attribute comes with several values in one item, the last one is current, as in Yjs; after
/// another value is set, none of them is.
#[test]
fn last_of_several_values_is_current() {
    use yrs::updates::decoder::Decode;
    use yrs::{Doc, Map as _, ReadTxn, Transact, Update};
    let root = b"xml.attributes";
    let head = [&[1, 1, 5, 0, 0x28, 1, 14][..], root, &[5], b"title", &[3]].concat();
    // "one", null, "three"
    let values = b"\x77\x03one\x7e\x77\x05three\x00";
    let update = [&head[..], values].concat();
    let theirs = Doc::with_client_id(2);
    let decoded = Update::decode_v1(&update).unwrap();
    theirs.transact_mut().apply_update(decoded).unwrap();
    let transaction = theirs.transact();
    let attributes = transaction.get_map("xml.attributes").unwrap();
    let title = attributes.get(&transaction, "title").unwrap();
    let title = title.to_string(&transaction);
    assert_eq!(title, "three");

    let mut ours = document(1);
    ours.apply_update(&update).unwrap();
    ours.engine.check();
    assert_eq!(ours.root().attribute("title"), Some(title.into()));
    let edit = Edit::SetAttribute {
        target: Target::Root,
        name: "title".to_owned(),
        value: "other".into(),
    };
    ours.edit(&[edit], &mut counter()).unwrap();
    ours.engine.check();
    let mut other = document(3);
    other.apply_update(&update).unwrap();
    other.apply_update(&ours.encode_state()).unwrap();
    other.engine.check();
    assert_eq!(other.root().attribute("title"), Some("other".into()));
    let old = crate::update::scan::IdRange {
        client: 5,
        start: 0,
        end: 3,
    };
    assert!(ours.engine.is_deleted(old) && other.engine.is_deleted(old));
}
