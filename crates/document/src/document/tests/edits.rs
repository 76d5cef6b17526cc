//! Edits: their results, updates, errors and events.

use std::sync::Arc;

use serde_json::{Value, json};

use super::convergence::Random;
use super::{counter, document};
use crate::DecodeError;
use crate::document::{
    Change, Edit, EditError, InsertError, Limits, MeshDocument, Origin, Position, Target,
    TextChange, TextPosition,
};
use crate::test;

/// `doc` with the items a (with the child b) and c, and the text t.
fn sample(client_id: u64) -> MeshDocument {
    let mut document = document(client_id);
    let json = json!({"doc": {"title": "T", "children": [
        {"item": {"$id": "a", "s": "x", "children": [{"item": {"$id": "b"}}]}},
        {"item": {"$id": "c"}},
        {"text": {"$id": "t", "children": [{"text": {"delta": [{"insert": "a😀b"}]}}]}},
    ]}});
    document.insert_json(&json, &mut counter()).unwrap();
    document
}

fn id(id: &str) -> Target {
    Target::Id(id.to_owned())
}

fn insert(parent: Target, position: Position, name: &str) -> Edit {
    let element = json!({"item": {"$id": name}});
    Edit::Insert {
        parent,
        position,
        element,
    }
}

fn set(target: Target, name: &str, value: impl Into<Value>) -> Edit {
    Edit::SetAttribute {
        target,
        name: name.to_owned(),
        value: value.into(),
    }
}

/// The `$id`s in document order, nested by brackets.
fn outline(document: &MeshDocument) -> String {
    fn print(element: &super::super::Element<'_>, out: &mut String) {
        out.push_str(element.id().unwrap_or(""));
        if element.child_count() > 0 && element.text().is_none() {
            out.push('(');
            for (at, child) in element.children().enumerate() {
                out.push_str(if at > 0 { " " } else { "" });
                print(&child, out);
            }
            out.push(')');
        }
    }
    let mut out = String::new();
    print(&document.root(), &mut out);
    out
}

#[test]
fn insert_and_move_use_given_position() {
    let check = |edits: &[Edit], expected: &str| {
        let mut ours = sample(1);
        let mut other = document(2);
        other.apply_update(&ours.encode_state()).unwrap();
        let update = ours.edit(edits, &mut counter()).unwrap().unwrap();
        assert_eq!(outline(&ours), expected, "{edits:?}");
        let applied = other.apply_update(&update).unwrap();
        assert_eq!((applied.visible, applied.gap), (Some(update), false));
        assert_eq!(other.to_json(true), ours.to_json(true));
        assert_eq!(other.element_count(), ours.element_count());
    };
    let moved = |name: &str, parent, position| Edit::Move {
        id: name.to_owned(),
        parent,
        position,
    };
    check(
        &[insert(Target::Root, Position::First, "n")],
        "(n a(b) c t)",
    );
    check(&[insert(Target::Root, Position::Last, "n")], "(a(b) c t n)");
    check(
        &[insert(Target::Root, Position::Index(2), "n")],
        "(a(b) c n t)",
    );
    check(
        &[insert(Target::Root, Position::Before("c".into()), "n")],
        "(a(b) n c t)",
    );
    check(
        &[insert(Target::Root, Position::After("a".into()), "n")],
        "(a(b) n c t)",
    );
    check(&[insert(id("c"), Position::First, "n")], "(a(b) c(n) t)");
    check(
        &[
            insert(id("c"), Position::Last, "n"),
            insert(id("n"), Position::Last, "m"),
            set(id("m"), "n", 1),
            Edit::Delete { id: "a".into() },
            insert(Target::Root, Position::Index(0), "a"),
        ],
        "(a c(n(m)) t)",
    );
    check(&[moved("a", id("c"), Position::Last)], "(c(a(b)) t)");
    check(&[moved("c", Target::Root, Position::First)], "(c a(b) t)");
    check(
        &[moved("a", Target::Root, Position::Index(2))],
        "(c t a(b))",
    );
    check(
        &[moved("b", Target::Root, Position::After("t".into()))],
        "(a c t b)",
    );
}

#[test]
fn insert_at_front_comes_first() {
    for client_id in [1, 1 << 40] {
        let mut ours = sample(1 << 20);
        let mut other = document(client_id);
        other.apply_update(&ours.encode_state()).unwrap();
        for name in ["x", "y", "z"] {
            let edit = insert(Target::Root, Position::First, name);
            let update = other.edit(&[edit], &mut counter()).unwrap().unwrap();
            ours.apply_update(&update).unwrap();
        }
        assert_eq!(outline(&other), "(z y x a(b) c t)");
        assert_eq!(outline(&ours), "(z y x a(b) c t)");
    }
}

#[test]
fn inserted_element_has_all_attributes_in_other_replica() {
    let mut ours = sample(1);
    let element = json!({"item": {"s": "x", "n": 2, "b": false, "children": [{"item": {"n": 3}}]}});
    let update = ours
        .append_child(id("c"), element.clone(), &mut counter())
        .unwrap()
        .unwrap();
    let mut other = sample(1);
    other.watch(true);
    other.apply_update(&update).unwrap();
    assert_eq!(other.node("id-1").unwrap().to_json(false)["item"]["n"], 2);
    assert_eq!(
        other.node("id-2").unwrap().parent().unwrap().id(),
        Some("id-1")
    );
    assert_eq!(other.poll_event().unwrap().changes.len(), 2);
    assert_eq!(other.poll_event(), None);
}

#[test]
fn text_positions_work_in_both_units() {
    use TextPosition::{Scalars, Utf16};
    let text = |at, text: &str, attributes: Option<Value>| Edit::InsertText {
        id: "t".into(),
        at,
        text: text.into(),
        attributes: attributes.map(|attributes| attributes.as_object().unwrap().clone()),
    };
    let mut ours = sample(1);
    let mut other = document(2);
    other.apply_update(&ours.encode_state()).unwrap();
    let bold = json!({"bold": true});
    let edits = [
        text(Scalars(2), "X", None),
        text(Utf16(3), "Y", Some(bold.clone())),
        Edit::DeleteText {
            id: "t".into(),
            from: Scalars(0),
            to: Utf16(1),
        },
        Edit::FormatText {
            id: "t".into(),
            from: Scalars(0),
            to: Scalars(1),
            attributes: bold.as_object().unwrap().clone(),
        },
    ];
    let update = ours.edit(&edits, &mut counter()).unwrap().unwrap();
    other.apply_update(&update).unwrap();
    let expected = json!([
        {"insert": "😀Y", "attributes": {"bold": true}},
        {"insert": "Xb", "attributes": {}},
    ]);
    for document in [&ours, &other] {
        assert_eq!(
            document.node("t").unwrap().text().unwrap().to_delta(),
            expected
        );
    }
    let inside = ours.edit(&[text(Utf16(1), "!", None)], &mut counter());
    assert_eq!(
        inside,
        Err(EditError::Position {
            position: 1,
            length: 5
        })
    );
}

#[test]
fn rejected_edits_change_nothing() {
    let mut ours = sample(1);
    ours.watch(true);
    let before = ours.encode_state();
    let mut check = |edits: &[Edit], expected: fn(&EditError) -> bool| {
        // Earlier edits of the list are not applied either.
        let mut all = vec![set(id("c"), "n", 7)];
        all.extend_from_slice(edits);
        let error = ours.edit(&all, &mut counter()).unwrap_err();
        assert!(expected(&error), "{error}");
        assert_eq!(ours.encode_state(), before);
        assert_eq!(ours.poll_event(), None);
    };
    let invalid = |error: &EditError| matches!(error, EditError::Invalid(list) if !list.is_empty());
    let not_found = |error: &EditError| matches!(error, EditError::NotFound(_));
    check(&[set(id("c"), "n", "x")], invalid);
    check(&[set(id("c"), "nope", 1)], invalid);
    check(&[set(id("c"), "$id", "d")], invalid);
    check(&[set(id("zzz"), "n", 1)], not_found);
    check(&[insert(id("t"), Position::Last, "n")], invalid);
    check(&[insert(Target::Root, Position::Last, "a")], |error| {
        matches!(error, EditError::Duplicate(_))
    });
    check(&[insert(Target::Root, Position::Index(4), "n")], |error| {
        matches!(error, EditError::Position { length: 3, .. })
    });
    check(
        &[insert(Target::Root, Position::After("b".into()), "n")],
        not_found,
    );
    check(
        &[Edit::Delete { id: "a".into() }, set(id("b"), "n", 1)],
        not_found,
    );
    check(
        &[Edit::Move {
            id: "a".into(),
            parent: id("b"),
            position: Position::Last,
        }],
        |error| matches!(error, EditError::Cycle(_)),
    );
    check(
        &[Edit::InsertText {
            id: "a".into(),
            at: TextPosition::Utf16(0),
            text: "x".into(),
            attributes: None,
        }],
        |error| matches!(error, EditError::NotText(_)),
    );
}

#[test]
fn events_have_old_and_new_values() {
    let name = |name: &str| -> Option<Arc<str>> { Some(name.into()) };
    let mut ours = sample(1);
    let mut other = document(2);
    other.apply_update(&ours.encode_state()).unwrap();
    ours.watch(true);
    other.watch(true);
    let edits = [
        set(id("a"), "s", "y"),
        set(Target::Root, "title", Value::Null),
        Edit::Delete { id: "b".into() },
        insert(id("a"), Position::Last, "n"),
        Edit::Move {
            id: "c".into(),
            parent: id("a"),
            position: Position::First,
        },
        Edit::DeleteText {
            id: "t".into(),
            from: TextPosition::Scalars(1),
            to: TextPosition::Scalars(2),
        },
    ];
    let update = ours.edit(&edits, &mut counter()).unwrap().unwrap();
    other.apply_update(&update).unwrap();
    let expected = [
        Change::Attribute {
            id: name("a"),
            name: "s".into(),
            old: Some("x".into()),
            new: Some("y".into()),
        },
        Change::Attribute {
            id: None,
            name: "title".into(),
            old: Some("T".into()),
            new: Some(Value::Null),
        },
        Change::Deleted {
            id: name("b"),
            tag: "item".into(),
            parent: name("a"),
        },
        Change::Inserted {
            id: name("n"),
            tag: "item".into(),
            parent: name("a"),
        },
        Change::Moved {
            id: name("c"),
            tag: "item".into(),
            from: None,
            to: name("a"),
        },
    ];
    for (document, origin) in [(&mut ours, Origin::Local), (&mut other, Origin::Remote)] {
        let event = document.poll_event().unwrap();
        assert_eq!(event.origin, origin);
        assert_eq!(event.changes.len(), expected.len() + 1);
        let Some(Change::Text { id, changes }) = event.changes.last() else {
            panic!("no text in {:?}", event.changes);
        };
        assert_eq!(*id, name("t"));
        let [TextChange::Deleted { text, at }] = &changes[..] else {
            panic!("{changes:?}");
        };
        assert_eq!(text, "😀");
        assert_eq!(document.position(at), Some(TextPosition::Utf16(1)));
        for change in &expected {
            assert!(
                event.changes.contains(change),
                "{change:?} in {:?}",
                event.changes
            );
        }
        assert_eq!(document.poll_event(), None);
        assert_eq!(document.path("n"), Some(vec!["a".into(), "n".into()]));
    }
}

#[test]
fn root_attributes_are_readable_by_every_sdk() {
    use yrs::updates::decoder::Decode;
    use yrs::{Map, ReadTxn, Transact, WriteTxn, Xml, XmlElementRef};
    let mut ours = sample(1);
    ours.set_attribute(Target::Root, "title", "mine".into())
        .unwrap();
    let npm = yrs::Doc::with_client_id(9);
    let (root, beside) = {
        let mut transaction = npm.transact_mut();
        let update = yrs::Update::decode_v1(&ours.encode_state()).unwrap();
        let root = transaction.get_or_insert_xml_fragment("xml");
        let beside = transaction.get_or_insert_map("xml.attributes");
        transaction.apply_update(update).unwrap();
        let root = XmlElementRef::from(yrs::branch::BranchPtr::from(
            AsRef::<yrs::branch::Branch>::as_ref(&root),
        ));
        (root, beside)
    };
    assert_eq!(root.get_attribute(&npm.transact(), "title"), None);
    assert_eq!(
        beside.get(&npm.transact(), "title"),
        Some(yrs::Out::Any("mine".into()))
    );
    let update = {
        let mut transaction = npm.transact_mut();
        root.insert_attribute(&mut transaction, "title", "theirs");
        transaction.encode_update_v1()
    };
    ours.apply_update(&update).unwrap();
    assert_eq!(ours.to_json(false)["doc"]["title"], "theirs");
    ours.set_attribute(Target::Root, "title", "ours, later".into())
        .unwrap();
    assert_eq!(ours.to_json(false)["doc"]["title"], "ours, later");
    let edit = Edit::RemoveAttribute {
        target: Target::Root,
        name: "title".into(),
    };
    ours.edit(&[edit], &mut counter()).unwrap();
    assert_eq!(ours.root().attribute("title"), None);
    assert_eq!(npm.transact().state_vector().len(), 2);
}

#[test]
fn append_cost_is_independent_of_size() {
    let mut ours = document(1);
    let mut other = document(2);
    let mut next_id = counter();
    for _ in 0..10_000 {
        let update = ours.append_child(Target::Root, json!({"item": {"n": 1}}), &mut next_id);
        other.apply_update(&update.unwrap().unwrap()).unwrap();
    }
    // Another replica's child comes between, and the last child may be deleted.
    let theirs = other.append_child(Target::Root, json!({"item": {"$id": "x"}}), &mut next_id);
    ours.apply_update(&theirs.unwrap().unwrap()).unwrap();
    ours.append_child(Target::Root, json!({"item": {"$id": "y"}}), &mut next_id)
        .unwrap();
    ours.delete("y").unwrap();
    ours.append_child(Target::Root, json!({"item": {"$id": "z"}}), &mut next_id)
        .unwrap();
    let children = ours.root().children();
    let last: Vec<_> = children
        .skip(9_999)
        .map(|child| child.id().unwrap())
        .collect();
    assert_eq!(last, ["id-10000", "x", "z"]);
}

#[test]
fn move_keeps_deep_descendants() {
    const LEVELS: usize = 1_000;
    let mut ours = document(1);
    let mut other = document(2);
    let mut next_id = counter();
    let mut parent = Target::Root;
    for _ in 0..LEVELS {
        let update = ours.append_child(parent, json!({"item": {"s": "x"}}), &mut next_id);
        other.apply_update(&update.unwrap().unwrap()).unwrap();
        let last = ours.element_count();
        parent = id(&format!("id-{last}"));
    }
    let text = json!({"text": {"$id": "t", "lang": "en", "children": [{"text": {"delta": [
        {"insert": "plain ", "attributes": {}},
        {"insert": "bold 😀", "attributes": {"bold": true}},
    ]}}]}});
    ours.append_child(parent, text, &mut next_id).unwrap();
    ours.append_child(Target::Root, json!({"item": {"$id": "new"}}), &mut next_id)
        .unwrap();
    let before = ours.node("t").unwrap().to_json(true);
    let steps = [Edit::Move {
        id: "id-1".to_owned(),
        parent: id("new"),
        position: Position::Last,
    }];
    ours.edit(&steps, &mut next_id).unwrap();
    other.apply_update(&ours.encode_state()).unwrap();
    for document in [&ours, &other] {
        document.engine.check();
        assert_eq!(document.element_count(), LEVELS + 2);
        assert_eq!(document.path("t").unwrap().len(), LEVELS + 2);
        assert_eq!(document.node("t").unwrap().to_json(true), before);
    }
}

#[test]
fn every_entry_point_checks_limits() {
    let mut limits = Limits {
        depth: 3,
        elements: 4,
        ..Limits::default()
    };
    let small = || MeshDocument::with_limits(super::schema(), 1, limits);
    let large = || document(2);
    let item = |children: Value| json!({"item": {"children": children}});
    let nested = item(json!([item(json!([item(json!([item(json!([]))]))]))]));
    let wide = json!([
        item(json!([])),
        item(json!([])),
        item(json!([])),
        item(json!([])),
        item(json!([]))
    ]);
    for children in [json!([nested]), wide] {
        let json = json!({"doc": {"children": children}});
        let mut refused = small();
        let error = refused.insert_json(&json, &mut counter()).unwrap_err();
        assert!(matches!(error, InsertError::TooLarge(_)), "{error}");
        let mut free = large();
        free.insert_json(&json, &mut counter()).unwrap();
        let error = refused.apply_update(&free.encode_state()).unwrap_err();
        assert!(matches!(error, DecodeError::TooLarge { .. }), "{error}");
        let mut next_id = counter();
        let edits = children
            .as_array()
            .unwrap()
            .iter()
            .map(|child| Edit::Insert {
                parent: Target::Root,
                position: Position::Last,
                element: child.clone(),
            });
        let edits: Vec<Edit> = edits.collect();
        let error = refused.edit(&edits, &mut next_id).unwrap_err();
        assert!(matches!(error, EditError::TooLarge { .. }), "{error}");
        assert_eq!(refused.element_count(), 0);
        assert_eq!(refused.encode_state(), [0, 0]);
    }
    // Moved too deep.
    let mut ours = small();
    let json = json!({"doc": {"children": [
        {"item": {"$id": "a", "children": [{"item": {"$id": "b"}}]}},
        {"item": {"$id": "c", "children": [{"item": {"$id": "d"}}]}},
    ]}});
    ours.insert_json(&json, &mut counter()).unwrap();
    let deep = |name: &str, parent: &str| Edit::Move {
        id: name.to_owned(),
        parent: id(parent),
        position: Position::Last,
    };
    let error = ours.edit(&[deep("c", "b")], &mut counter()).unwrap_err();
    assert!(matches!(error, EditError::TooLarge { .. }), "{error}");
    ours.edit(&[deep("d", "b")], &mut counter()).unwrap();
    // Too many operations, too many bytes, and too many pending bytes.
    limits.update_operations = 2;
    let mut ours = MeshDocument::with_limits(super::schema(), 1, limits);
    let three = [0, 1, 5, 3, 0, 1, 2, 1, 4, 1];
    let error = ours.apply_update(&three).unwrap_err();
    assert!(matches!(error, DecodeError::TooLarge { limit: 2, .. }));
    limits.update_bytes = 100;
    limits.pending_bytes = 200;
    let mut ours = MeshDocument::with_limits(super::schema(), 1, limits);
    let error = ours.apply_update(&[0; 101]).unwrap_err();
    assert!(matches!(error, DecodeError::TooLarge { limit: 100, .. }));
    let beyond = [1, 1, 5, 9, 0, 1, 0];
    assert!(ours.apply_update(&beyond).unwrap().gap);
    let further = [1, 1, 5, 19, 0, 1, 0];
    let error = ours.apply_update(&further).unwrap_err();
    assert!(matches!(error, DecodeError::TooLarge { limit: 200, .. }));
}

#[test]
fn delta_is_one_edit() {
    let mut ours = sample(1);
    let mut other = document(2);
    other.apply_update(&ours.encode_state()).unwrap();
    let edit = |delta: Value| Edit::ApplyDelta {
        id: "t".into(),
        delta,
    };
    let delta = json!([
        {"retain": 1, "attributes": {"bold": true}},
        {"delete": 2},
        {"insert": "xy"},
        {"insert": "z", "attributes": {"link": {"href": "/"}}},
        {"retain": 1},
    ]);
    let update = ours.edit(&[edit(delta)], &mut counter()).unwrap().unwrap();
    other.apply_update(&update).unwrap();
    for document in [&ours, &other] {
        let delta = document.node("t").unwrap().text().unwrap().to_delta();
        assert_eq!(
            delta,
            json!([
                {"insert": "a", "attributes": {"bold": true}},
                {"insert": "xy", "attributes": {}},
                {"insert": "z", "attributes": {"link": {"href": "/"}}},
                {"insert": "b", "attributes": {}},
            ])
        );
    }
    let before = ours.encode_state();
    for (wrong, index) in [
        (json!({"insert": "x"}), 0),
        (json!([{"insert": "x"}, {"retain": -1}]), 1),
        (json!([{"insert": "x"}, {"retain": 6}]), 1),
        (json!([{"retain": 1}, {"insert": 1}]), 1),
        (json!([{"insert": "x", "delete": 1}]), 0),
        (json!([{"retain": 1, "attributes": 1}]), 0),
    ] {
        let error = ours.edit(&[edit(wrong)], &mut counter()).unwrap_err();
        assert!(
            matches!(error, EditError::Delta { index: at, .. } if at == index),
            "{error:?}"
        );
        assert_eq!(ours.encode_state(), before);
    }
}

#[test]
fn positions_in_long_lists_and_texts_are_found() {
    let mut random = Random::new(7);
    let mut ours = document(1);
    let mut next_id = counter();
    let text = json!({"text": {"$id": "t", "children": [{"text": {"delta": []}}]}});
    ours.append_child(Target::Root, json!({"item": {"$id": "list"}}), &mut next_id)
        .unwrap();
    ours.append_child(Target::Root, text, &mut next_id).unwrap();
    let mut names: Vec<String> = Vec::new();
    let mut characters: Vec<char> = Vec::new();
    for step in 0..3_000 {
        let at = random.below(names.len() + 1);
        if random.below(4) == 0 && at < names.len() {
            ours.delete(&names.remove(at)).unwrap();
        } else {
            let name = format!("n{step}");
            ours.edit(
                &[insert(id("list"), Position::Index(at), &name)],
                &mut next_id,
            )
            .unwrap();
            names.insert(at, name);
        }
        let at = random.below(characters.len() + 1);
        let edit = if random.below(3) == 0 && at < characters.len() {
            let end = (at + random.below(4)).min(characters.len());
            characters.drain(at..end);
            Edit::DeleteText {
                id: "t".into(),
                from: TextPosition::Scalars(at),
                to: TextPosition::Scalars(end),
            }
        } else {
            let text = ["ab", "😀", "é", "x😀y"][random.below(4)];
            characters.splice(at..at, text.chars());
            Edit::InsertText {
                id: "t".into(),
                at: TextPosition::Scalars(at),
                text: text.into(),
                attributes: None,
            }
        };
        ours.edit(&[edit], &mut next_id).unwrap();
        if step % 500 == 499 {
            ours.engine.check();
        }
    }
    let list = ours.node("list").unwrap();
    assert_eq!(list.child_count(), names.len());
    for (at, name) in names.iter().enumerate() {
        assert_eq!(list.child(at).unwrap().id(), Some(name.as_str()));
        assert_eq!(ours.node(name).unwrap().index_in_parent(), at);
    }
    let text = ours.node("t").unwrap().text().unwrap();
    assert_eq!(text.to_plain(), characters.iter().collect::<String>());
    assert_eq!(text.scalar_length(), characters.len());
}

#[test]
fn unpolled_events_are_bounded_and_loss_is_reported() {
    const MAX_WAITING: usize = 65_536;
    let mut ours = sample(1);
    ours.watch(true);
    for round in 0..70 {
        let edits: Vec<Edit> = (0..1_000)
            .map(|step| set(id("a"), "n", round * 1_000 + step + 1))
            .collect();
        ours.edit(&edits, &mut counter()).unwrap();
    }
    let first = ours.poll_event().unwrap();
    assert!(first.is_after_loss);
    let mut waiting = first.changes.len();
    while let Some(event) = ours.poll_event() {
        assert!(!event.is_after_loss);
        waiting += event.changes.len();
    }
    assert!(
        waiting <= MAX_WAITING && waiting > MAX_WAITING - 1_000,
        "{waiting}"
    );
    ours.edit(&[set(id("a"), "n", 0)], &mut counter()).unwrap();
    assert!(!ours.poll_event().unwrap().is_after_loss);
}
