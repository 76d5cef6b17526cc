//! The computation and memory that documents and schemas cost a room: bounded, whatever a
//! participant sends.

use meshagent_protocol::Content;
use serde_json::{Map, Value, json};

use super::{World, code, text};

/// A schema whose only tag may contain itself.
fn nesting(tag: &str) -> Value {
    let reference = format!("#/$defs/{tag}");
    let list = json!({ "type": "array", "items": { "anyOf": [{ "$ref": reference }] } });
    let inner = json!({ "properties": { "children": list } });
    let element = json!({ "properties": Map::from_iter([(tag.to_owned(), inner)]) });
    json!({
        "$root_tag_ref": reference,
        "$defs": Map::from_iter([(tag.to_owned(), element)]),
    })
}

pub(super) fn number(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

pub(super) fn string(text: &str) -> Vec<u8> {
    [&number(text.len() as u64), text.as_bytes()].concat()
}

/// A v1 update with these structs of one client.
pub(super) fn update(client: u64, structs: &[Vec<u8>]) -> Vec<u8> {
    let head = [
        number(1),
        number(structs.len() as u64),
        number(client),
        vec![0],
    ]
    .concat();
    [head, structs.concat(), vec![0]].concat()
}

/// A chain of elements, each inside the previous one, and `count` unknown attributes of the
/// innermost.
fn chain_with_attributes(tag: &str, depth: u64, count: usize) -> Vec<u8> {
    let client = 7;
    let mut structs = Vec::new();
    for level in 0..depth {
        let parent = match level {
            0 => [vec![1], string("xml")].concat(),
            // The `$id` of each element follows it.
            _ => [vec![0], number(client), number((level - 1) * 2)].concat(),
        };
        structs.push([vec![7], parent, vec![3], string(tag)].concat());
        let own = [vec![0], number(client), number(level * 2)].concat();
        let id = [vec![1, 119], string(&format!("e{level}"))].concat();
        structs.push([vec![0x28], own, string("$id"), id].concat());
    }
    let innermost = [vec![0], number(client), number((depth - 1) * 2)].concat();
    for index in 0..count {
        let name = format!("é{index:x}");
        structs.push([vec![0x28], innermost.clone(), string(&name), vec![1, 120]].concat());
    }
    update(client, &structs)
}

#[test]
fn violations_beyond_the_hundred_are_only_counted() {
    // The longest possible name. Before names had a bound, this exhausted the memory of the
    // process.
    let tag = "é".repeat(128);
    let mut world = World::new();
    let writer = world.join("writer");
    let created = world.call(
        &writer,
        "sync",
        "create",
        json!({ "path": "deep.x", "schema": nesting(&tag) }),
    );
    assert_eq!(created, Content::Empty);
    world.open(&writer, "w", json!({ "path": "deep.x" }));
    let sent = world.update(&writer, "w", &chain_with_attributes(&tag, 100, 4_000));
    world.settle();
    let Content::Json(answer) = writer.answer(sent) else {
        panic!("expected the violations")
    };
    assert_eq!(answer["violation_count"], 4_000);
    let listed = answer["violations"].as_array().unwrap();
    assert_eq!(listed.len(), 100);
    for violation in listed {
        for text in ["pointer", "expected", "found"] {
            assert!(
                violation[text].as_str().unwrap().len() <= 512,
                "{violation}"
            );
        }
        assert!(violation["pointer"].as_str().unwrap().ends_with('…'));
    }
}

#[test]
fn a_schema_has_bounds_and_the_refusal_says_which() {
    let mut world = World::new();
    let writer = world.join("writer");
    let element = |tag: &str, properties: Value| {
        let inner = json!({ "properties": properties });
        json!({ "properties": Map::from_iter([(tag.to_owned(), inner)]) })
    };
    let schema = |elements: Vec<(String, Value)>| {
        let root = element("root", json!({}));
        let elements = [("root".to_owned(), root)].into_iter().chain(elements);
        let elements: Map<String, Value> = elements.collect();
        json!({ "$root_tag_ref": "#/$defs/root", "$defs": elements })
    };
    let numbered = |count: usize| (0..count).map(|index| format!("é{index}"));
    let elements = |count| {
        let elements = numbered(count).map(|tag| (tag.clone(), element(&tag, json!({}))));
        schema(elements.collect())
    };
    let text_property = json!({ "type": "string" });
    let properties = |count| {
        let properties = numbered(count).map(|name| (name, text_property.clone()));
        let properties = Value::Object(properties.collect());
        schema(vec![("many".to_owned(), element("many", properties))])
    };
    let long = |length: usize| {
        let tag = "x".repeat(length);
        schema(vec![(tag.clone(), element(&tag, json!({})))])
    };
    let values = |count: usize| {
        let values = vec![json!(0); count];
        let property = json!({ "n": { "type": "number", "enum": values } });
        schema(vec![("few".to_owned(), element("few", property))])
    };
    let mut described = schema(Vec::new());
    described["$defs"]["root"]["description"] = "😀".repeat(300_000).into();
    let cases = [
        (elements(9_999), None),
        (
            elements(10_000),
            Some("types of elements are limited to 10000"),
        ),
        (properties(1_000), None),
        (
            properties(1_001),
            Some("properties of one element are limited to 1000"),
        ),
        (long(256), None),
        (long(257), Some("has 257 bytes, 256 are allowed")),
        (long(300_000), Some("has 300000 bytes, 256 are allowed")),
        (values(1_000), None),
        (
            values(1_001),
            Some("values of one enumeration are limited to 1000"),
        ),
        (described, Some("bytes of JSON are limited to 1048576")),
    ];
    for (index, (schema, refusal)) in cases.into_iter().enumerate() {
        let path = format!("{index}.x");
        let input = json!({ "path": path, "schema": schema });
        let answer = world.call(&writer, "sync", "create", input);
        let Some(expected) = refusal else {
            assert_eq!(answer, Content::Empty, "case {index}");
            world.open(&writer, &path, json!({ "path": path }));
            continue;
        };
        assert_eq!(code(&answer), Some(1002), "case {index}");
        assert!(text(&answer).contains(expected), "{}", text(&answer));
        assert!(text(&answer).len() < 2_000, "case {index}");
    }
}

#[test]
fn the_schemas_in_memory_have_a_bound_together() {
    let mut config = crate::config::Config::default();
    config.limits.max_schema_bytes = 40_000;
    let mut world = World::with_config(config);
    let writer = world.join("writer");
    let create = |world: &mut World, path: &str, tag: &str| {
        let input = json!({ "path": path, "schema": nesting(tag) });
        world.call(&writer, "sync", "create", input)
    };
    let mut created = 0;
    let refused = loop {
        match create(&mut world, &format!("{created}.x"), &format!("é{created}")) {
            Content::Empty => created += 1,
            refused => break refused,
        }
    };
    assert!((2..40).contains(&created), "{created}");
    assert_eq!(code(&refused), Some(1008));
    // A schema that is in use is still shared.
    assert_eq!(create(&mut world, "same.x", "é0"), Content::Empty);
    // Documents that were unloaded give their schemas back.
    world.unload();
    assert_eq!(create(&mut world, "later.x", "later"), Content::Empty);
}

/// Elements of different clients in the root, all inserted at one place at the same time. Each has
/// a right neighbour of its own, so that none can be skipped.
fn at_one_place(clients: u64) -> Vec<u8> {
    let element = |info: u8, place: &[u8]| [&[info][..], place, &[3], &string("body")].concat();
    let root = [vec![1], string("xml")].concat();
    // The right neighbours, all of one client.
    let mut structs = vec![element(7, &root)];
    for clock in 1..clients {
        structs.push(element(0x87, &[number(1), number(clock - 1)].concat()));
    }
    let mut bytes = [number(clients + 1), number(clients), number(1), vec![0]].concat();
    bytes.extend(structs.concat());
    for index in 0..clients {
        bytes.extend([number(1), number(1_000_000 - index), vec![0]].concat());
        bytes.extend(element(0x47, &[number(1), number(index)].concat()));
    }
    bytes.push(0);
    bytes
}

#[test]
fn an_update_that_takes_too_many_steps_is_refused_and_changes_nothing() {
    let mut world = World::new();
    let (writer, reader) = (world.join("writer"), world.join("reader"));
    world.open(&writer, "w", json!({ "path": "a.document" }));
    world.open(&reader, "r", json!({ "path": "a.document" }));
    let editor = super::Editor::new(3);
    world.update(&writer, "w", &editor.append("body", "before"));
    world.settle();
    reader.take();
    let commits = world.store.commits();
    let sent = world.update(&writer, "w", &at_one_place(9_000));
    world.settle();
    let answer = writer.answer(sent);
    assert_eq!(code(&answer), Some(1002));
    assert!(text(&answer).contains("steps"), "{}", text(&answer));
    assert_eq!(world.store.commits(), commits);
    // The next update finds the document unchanged.
    let sent = world.update(&writer, "w", &editor.append("body", "after"));
    world.settle();
    assert_eq!(writer.answer(sent), Content::Empty);
    let changes = reader.changes("r");
    assert_eq!(changes.len(), 1);
    let late = world.join("late");
    let state = world.open(&late, "l", json!({ "path": "a.document" }));
    let shown = super::shown(std::slice::from_ref(&state)).to_string();
    assert!(
        shown.contains("before") && shown.contains("after"),
        "{shown}"
    );
}

#[test]
fn what_hundreds_did_offline_at_one_place_is_taken() {
    let mut world = World::new();
    let writer = world.join("writer");
    let first = super::Editor::new(1_000);
    world.open(&writer, "w", json!({ "path": "a.document" }));
    world.update(&writer, "w", &first.append("body", "é"));
    world.settle();
    // Each client started from the same state and arrives after the others, in any order.
    for client in 0..300_u64 {
        let editor = super::Editor::new(2_000 + client * 7_919 % 300);
        let mut all = Vec::new();
        for step in 0..10 {
            all.push(editor.append("body", &format!("😀{client}-{step}")));
        }
        let all: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
        let update = meshagent_document::merge_updates(&all).unwrap();
        let sent = world.update(&writer, "w", &update);
        world.settle();
        assert_eq!(writer.answer(sent), Content::Empty, "client {client}");
    }
    let late = world.join("late");
    let state = world.open(&late, "l", json!({ "path": "a.document" }));
    let shown = super::shown(&[state]).to_string();
    assert_eq!(shown.matches("😀").count(), 3_000);
}

#[test]
fn client_ids_have_a_bound_in_an_update_and_in_a_document() {
    let mut config = crate::config::Config::default();
    config.limits.max_document_clients = 15_000;
    let mut world = World::with_config(config);
    let writer = world.join("writer");
    world.open(&writer, "w", json!({ "path": "a.document" }));
    let collected = |clients: std::ops::Range<u64>| {
        let mut bytes = number(clients.end - clients.start);
        for client in clients {
            bytes.extend([number(1), number(client), vec![0, 0, 1]].concat());
        }
        bytes.push(0);
        bytes
    };
    let mut send = |update: &[u8]| {
        let sent = world.update(&writer, "w", update);
        world.settle();
        writer.answer(sent)
    };
    let refused = send(&collected(0..10_001));
    assert_eq!(code(&refused), Some(1002));
    assert!(text(&refused).contains("new client ids in one update is limited to 10000"));
    assert_eq!(send(&collected(0..10_000)), Content::Empty);
    let refused = send(&collected(10_000..15_001));
    assert_eq!(code(&refused), Some(1002));
    assert!(text(&refused).contains("client ids in one document is limited to 15000"));
    assert_eq!(send(&collected(10_000..15_000)), Content::Empty);
    // Known client ids may still write.
    let more = [&number(1)[..], &number(1), &number(3), &[1, 0, 1, 0]].concat();
    assert_eq!(send(&more), Content::Empty);
}
