//! Forged operations without content: no acknowledged or pending edit is lost because of them.

use meshagent_protocol::Content;
use meshagent_store::Fault;
use serde_json::{Value, json};
use yrs::updates::decoder::Decode as _;
use yrs::{
    ReadTxn as _, StateVector, Text as _, Transact as _, Update, XmlFragment as _, XmlTextPrelim,
};

use super::{Client, Editor, World, code, count};
use crate::config::Config;

const VICTIM: u64 = 1;
const PATH: &str = "grüße.document";

fn unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
}

/// An update with one struct: `length` collected operations of the victim from `clock` on. It
/// deletes nothing.
fn collected(clock: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![1, 1];
    unsigned(&mut bytes, VICTIM);
    unsigned(&mut bytes, clock);
    bytes.push(0);
    unsigned(&mut bytes, length);
    bytes.push(0);
    bytes
}

fn clock(editor: &Editor) -> u64 {
    let own = editor.doc.client_id();
    editor.doc.transact().state_vector().get(&own).into()
}

/// A world with two participants that have one document open; the first one owns its client id.
fn two() -> (World, Client, Client, Editor) {
    let mut world = World::new();
    let (victim, other) = (world.join("victim"), world.join("other"));
    world.open(&victim, "v", json!({ "path": PATH }));
    world.open(&other, "o", json!({ "path": PATH }));
    let editor = Editor::new(VICTIM);
    for name in ["one", "zwei", "三"] {
        let id = world.update(&victim, "v", &editor.append("body", name));
        world.settle();
        assert_eq!(victim.answer(id), Content::Empty);
    }
    (world, victim, other, editor)
}

/// How often each name is in the state that a new reader receives.
fn stored<const N: usize>(world: &mut World, names: [&str; N]) -> [usize; N] {
    let late = world.join("late");
    let state = vec![world.open(&late, "l", json!({ "path": PATH }))];
    world.leave(&late);
    names.map(|name| count(&state, name))
}

/// Sends an edit of the sender's own, together with operations of the victim that it claims were
/// collected.
fn forged(world: &mut World, sender: &Client, up_to: u64) -> u64 {
    let own = Editor::new(2).append("body", "other");
    let update = meshagent_document::merge_updates(&[&own, &collected(0, up_to)]).unwrap();
    world.update(sender, "o", &update)
}

#[test]
fn an_acknowledged_edit_is_on_disk_whatever_others_say_of_it_in_its_batch() {
    for is_first in [false, true] {
        let (mut world, victim, other, editor) = two();
        let third = world.join("third");
        world.open(&third, "t", json!({ "path": PATH }));
        // The disk is busy with another batch.
        world.update(&third, "t", &Editor::new(3).append("body", "busy"));
        world.run();
        let known = clock(&editor);
        if is_first {
            forged(&mut world, &other, known);
        }
        let edit = world.update(&victim, "v", &editor.append("body", "acknowledged"));
        if !is_first {
            forged(&mut world, &other, clock(&editor));
        }
        world.settle();
        assert_eq!(victim.answer(edit), Content::Empty);
        for client in [&victim, &other, &third] {
            world.leave(client);
        }
        world.unload();
        let names = ["one", "zwei", "三", "busy", "other", "acknowledged"];
        assert_eq!(stored(&mut world, names), [1; 6], "is_first: {is_first}");
    }
}

#[test]
fn an_acknowledged_edit_stays_when_the_document_is_read_again() {
    let (mut world, victim, other, editor) = two();
    let edit = world.update(&victim, "v", &editor.append("body", "acknowledged"));
    forged(&mut world, &other, clock(&editor));
    world.settle();
    assert_eq!(victim.answer(edit), Content::Empty);
    let commits = world.store.commits();
    world
        .store
        .fail_commits(commits..commits + 1, Fault::Unavailable);
    world.update(&other, "o", &Editor::new(4).append("body", "fails"));
    world.settle();
    world.pass_seconds(1);
    assert_eq!(stored(&mut world, ["acknowledged", "fails"]), [1, 0]);
}

/// Half of a character takes the id of the whole one.
#[test]
fn an_acknowledged_character_is_on_disk() {
    let golden = include_str!("../../../../../testdata/vectors/documents.json");
    let golden: Value = serde_json::from_str(golden).unwrap();
    let schema = &golden["about"]["schema"];
    let mut world = World::new();
    let (victim, other) = (world.join("victim"), world.join("other"));
    world.open(&victim, "v", json!({ "path": PATH, "schema": schema }));
    world.open(&other, "o", json!({ "path": PATH }));
    let editor = Editor::new(VICTIM);
    world.update(&victim, "v", &editor.append("text", "first"));
    let type_text = |editor: &Editor, text: &str| {
        let mut transaction = editor.doc.transact_mut();
        let first = editor.root.get(&transaction, 0).unwrap();
        let first = first.into_xml_element().unwrap();
        match first.get(&transaction, 0) {
            None => drop(first.push_back(&mut transaction, XmlTextPrelim::new(text))),
            Some(node) => node.into_xml_text().unwrap().push(&mut transaction, text),
        }
        transaction.encode_update_v1()
    };
    world.update(&victim, "v", &type_text(&editor, "ab"));
    world.settle();
    victim.take();
    let state = |editor: &Editor| {
        let transaction = editor.doc.transact();
        transaction.encode_state_as_update_v1(&StateVector::default())
    };
    let before = state(&editor);
    let edit = world.update(&victim, "v", &type_text(&editor, "😀"));
    let fork = Editor::new(VICTIM);
    let update = Update::decode_v1(&before).unwrap();
    fork.doc.transact_mut().apply_update(update).unwrap();
    type_text(&fork, "\u{fffd}");
    let own = Editor::new(2).append("text", "other");
    let half = meshagent_document::merge_updates(&[&own, &state(&fork)]).unwrap();
    world.update(&other, "o", &half);
    world.settle();
    assert_eq!(victim.answer(edit), Content::Empty);
    world.leave(&victim);
    world.leave(&other);
    world.unload();
    let late = world.join("late");
    let state = world.open(&late, "l", json!({ "path": PATH }));
    let schema = meshagent_document::MeshSchema::from_json(schema).unwrap();
    let mut document = meshagent_document::MeshDocument::new(schema, 99);
    document.apply_update(&state).unwrap();
    let json = document.to_json(true).to_string();
    assert!(json.contains("ab😀"), "{json}");
}

#[test]
fn what_waits_is_kept_whatever_others_say_of_it() {
    // The clock from which the victim's operations are said to be collected, and whether this
    // arrives before or after the victim's operations.
    for (from_start, is_first, length) in [
        (false, false, 3),
        (false, false, 1),
        (false, true, 3),
        (true, false, 3),
        (true, false, 0),
    ] {
        let mut world = World::new();
        let (victim, other) = (world.join("victim"), world.join("other"));
        world.open(&victim, "v", json!({ "path": PATH }));
        world.open(&other, "o", json!({ "path": PATH }));
        let editor = Editor::new(VICTIM);
        let first = editor.append("body", "first");
        let base = clock(&editor);
        let second = editor.append("body", "second");
        let forgery = if from_start {
            collected(0, clock(&editor) + length)
        } else {
            collected(base, length)
        };
        if is_first {
            world.update(&other, "o", &forgery);
        }
        let waits = world.update(&victim, "v", &second);
        world.settle();
        let answer = victim.answer(waits);
        let Content::Json(answer) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(answer["pending"], true);
        if !is_first {
            world.update(&other, "o", &forgery);
            world.settle();
        }
        world.update(&victim, "v", &first);
        world.settle();
        let case = format!("from the start: {from_start}, first: {is_first}, {length} more");
        // Operations that never arrived are collected if another participant says so.
        let expected = if from_start { [0, 1] } else { [1, 1] };
        let found = stored(&mut world, ["first", "second"]);
        assert!(
            found == expected || from_start && found == [0, 0],
            "{case}: {found:?}"
        );
        world.leave(&victim);
        world.leave(&other);
        world.unload();
        assert_eq!(stored(&mut world, ["first", "second"]), found, "{case}");
    }
}

/// Pending operations that a bound kept out, and that are applied when the document is read again.
#[test]
fn readers_are_sent_what_a_reload_takes_up() {
    for elements in 2..9 {
        let mut config = Config::default();
        config.limits.max_document_elements = elements;
        let mut world = World::with_config(config);
        let [author, other, reader] = ["author", "other", "reader"].map(|name| world.join(name));
        world.open(&author, "a", json!({ "path": PATH }));
        world.open(&other, "o", json!({ "path": PATH }));
        let mut seen = vec![world.open(&reader, "r", json!({ "path": PATH }))];
        let editor = Editor::new(VICTIM);
        let first = editor.append("body", "first");
        world.update(&author, "a", &editor.append("body", "second"));
        let theirs = Editor::new(2);
        world.update(&other, "o", &theirs.append("body", "theirs"));
        world.update(&author, "a", &first);
        world.settle();
        let commits = world.store.commits();
        world
            .store
            .fail_commits(commits..commits + 1, Fault::Unavailable);
        let failing = world.update(&other, "o", &theirs.set_first("x", "y"));
        world.settle();
        assert!(code(&other.answer(failing)).is_some());
        world.pass_seconds(2);
        seen.extend(reader.changes("r"));
        let names = ["first", "second", "theirs"];
        let expected = stored(&mut world, names);
        assert_eq!(names.map(|name| count(&seen, name)), expected, "{elements}");
    }
}
