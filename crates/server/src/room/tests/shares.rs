//! The bounds of the memory that documents take for each participant.

use serde_json::{Value, json};

use super::costs::{number, string, update};
use super::{Client, Content, Editor, World, code, text};
use crate::config::Config;

const MAX: usize = 8 << 20;
/// Three eighths of `MAX`.
const SHARE: usize = 3 << 20;

fn world() -> World {
    let mut config = Config::default();
    config.limits.max_open_bytes = MAX;
    World::with_config(config)
}

/// Grows a document by many small elements, which take much more memory than text, until that is
/// refused.
fn grow(world: &mut World, client: &Client, call: &str, editor: &Editor) -> Content {
    for number in 0..20_000 {
        let update = editor.append("body", &format!("{call}-{number}"));
        let id = world.update(client, call, &update);
        world.settle();
        let answer = client.answer(id);
        if code(&answer).is_some() {
            return answer;
        }
        let bytes = world.room.usage.open().bytes();
        assert!(bytes < MAX, "{bytes} bytes after {number} elements");
    }
    panic!("nothing is refused");
}

/// What is behind the last edit of two documents may come in addition.
fn is_within_share(world: &World) {
    let bytes = world.room.usage.open().bytes();
    let most = SHARE + (2 << 20);
    assert!((SHARE / 2..=most).contains(&bytes), "{bytes} bytes");
}

fn is_share_of_participant(refused: &Content) {
    assert_eq!(code(refused), Some(1008), "{refused:?}");
    assert!(text(refused).contains("this participant"), "{refused:?}");
}

fn open(world: &mut World, client: &Client, call: &str) {
    let path = format!("{call}.document");
    world.open(client, call, json!({ "path": path }));
}

#[test]
fn growth_beyond_a_share_is_refused_and_others_open_documents() {
    let mut world = world();
    let [writer, other] = ["writer", "other"].map(|name| world.join(name));
    let editors = [1, 2].map(Editor::new);
    open(&mut world, &writer, "a");
    open(&mut world, &writer, "b");
    for (call, editor) in ["a", "b"].into_iter().zip(&editors) {
        is_share_of_participant(&grow(&mut world, &writer, call, editor));
    }
    is_within_share(&world);
    // A deletion makes space.
    let id = world.update(&writer, "a", &editors[0].remove(0));
    world.settle();
    assert_eq!(writer.answer(id), Content::Empty);
    // Other participants have their own shares, even in the same documents.
    for (call, client) in [("c", 3), ("a", 4)] {
        open(&mut world, &other, call);
        let update = Editor::new(client).append("body", call);
        let id = world.update(&other, call, &update);
        world.settle();
        assert_eq!(other.answer(id), Content::Empty, "{call}");
    }
}

#[test]
fn growth_counts_for_its_author_and_not_for_who_opened_the_document() {
    let mut world = world();
    let [owner, writer] = ["owner", "writer"].map(|name| world.join(name));
    let editors = [1, 2].map(Editor::new);
    for (call, editor) in ["a", "b"].into_iter().zip(&editors) {
        owner.take();
        open(&mut world, &owner, call);
        open(&mut world, &writer, call);
        is_share_of_participant_or_none(&mut world, &writer, call, editor);
    }
    let mine = Editor::new(3);
    owner.take();
    open(&mut world, &owner, "c");
    let id = world.update(&owner, "c", &mine.append("body", "c"));
    world.settle();
    assert_eq!(owner.answer(id), Content::Empty);
    // Another connection of the same participant has no share of its own.
    let again = world.join("writer");
    let refused = world.call(&again, "sync", "create", wide("d.document"));
    is_share_of_participant(&refused);
}

/// Grows the first document by some, because one document may always grow, and the second one until
/// it is refused.
fn is_share_of_participant_or_none(
    world: &mut World,
    client: &Client,
    call: &str,
    editor: &Editor,
) {
    if call != "a" {
        return is_share_of_participant(&grow(world, client, call, editor));
    }
    for number in 0..1_000 {
        let update = editor.append("body", &format!("{call}-{number}"));
        world.update(client, call, &update);
    }
    world.settle();
    client.take();
}

#[test]
fn documents_that_nobody_uses_make_room_for_growth() {
    let mut world = world();
    let writer = world.join("writer");
    let editors = [1, 2].map(Editor::new);
    open(&mut world, &writer, "a");
    open(&mut world, &writer, "b");
    for (call, editor) in ["a", "b"].into_iter().zip(&editors) {
        is_share_of_participant(&grow(&mut world, &writer, call, editor));
    }
    world.chunk(&writer, "a", Content::Control(super::Control::close()));
    world.settle();
    // What was refused is missing in the updates that its editor makes next.
    let fresh = Editor::new(3).append("body", "noch eins");
    let id = world.update(&writer, "b", &fresh);
    world.settle();
    assert_eq!(writer.answer(id), Content::Empty);
    assert_eq!(world.room.documents.len(), 1);
}

#[test]
fn growth_by_patches_is_counted_like_that_by_updates() {
    let mut world = world();
    let writer = world.join("writer");
    for call in ["a", "b"] {
        open(&mut world, &writer, call);
    }
    let patch = |number: usize| {
        let path = ["a.document", "b.document"][number % 2];
        let value = json!(vec![json!({ "body": {} }); 50]);
        let value = value.as_array().unwrap().iter();
        let operations: Vec<_> = value
            .map(|value| json!({ "op": "add", "path": "/document/content/-", "value": value }))
            .collect();
        json!({ "path": path, "patch": operations })
    };
    for number in 0..1_000 {
        let answer = world.call(&writer, "sync", "patch", patch(number));
        if code(&answer).is_some() {
            is_share_of_participant(&answer);
            is_within_share(&world);
            let other = world.join("other");
            open(&mut world, &other, "a");
            let answer = world.call(&other, "sync", "patch", patch(0));
            assert_eq!(code(&answer), None, "{answer:?}");
            return;
        }
    }
    panic!("nothing is refused");
}

fn wide(path: &str) -> Value {
    let content = vec![json!({ "body": {} }); 500];
    json!({ "path": path, "json": { "document": { "content": content } } })
}

/// The bound of the server, with the eighth by which small shares and deletions may exceed it.
const BEYOND: usize = MAX / 8 * 9;

/// The client of forged updates.
const FORGER: u64 = 7;

/// The deleted ranges of an update: each a start and a length.
fn deleted(ranges: &[(u64, u64)]) -> Vec<u8> {
    let mut bytes = [vec![1], number(FORGER), number(ranges.len() as u64)].concat();
    for (start, length) in ranges {
        bytes.extend([number(*start), number(*length)].concat());
    }
    bytes
}

/// An update that only deletes.
fn deletion(ranges: &[(u64, u64)]) -> Vec<u8> {
    [vec![0], deleted(ranges)].concat()
}

/// The first character of a [`text_of`].
const FIRST: u64 = 3;

/// An update with an element that contains this text.
fn text_of(content: &str) -> Vec<u8> {
    let own = |clock: u64| [vec![0], number(FORGER), number(clock)].concat();
    let element = [vec![7, 1], string("xml"), vec![3], string("text")].concat();
    let id = [
        vec![8 | 0x20],
        own(0),
        string("$id"),
        vec![1, 119],
        string("t"),
    ];
    let text = [vec![7], own(0), vec![6]].concat();
    let characters = [vec![4], own(2), string(content)].concat();
    update(FORGER, &[element, id.concat(), text, characters])
}

/// Opens a document that may contain rich texts.
fn open_rich(world: &mut World, client: &Client, call: &str) {
    let texts = json!({ "type": "array", "items": { "anyOf": [{ "$ref": "#/$defs/text" }] } });
    let schema = json!({
        "$root_tag_ref": "#/$defs/page",
        "$defs": {
            "page": { "properties": { "page": { "properties": { "children": texts } } } },
            "text": { "properties": { "text": { "properties": {} } } },
        },
    });
    let path = format!("{call}.rich");
    world.open(client, call, json!({ "path": path, "schema": schema }));
}

fn sent(world: &mut World, client: &Client, call: &str, update: &[u8]) -> Content {
    let id = world.update(client, call, update);
    world.settle();
    let answer = client.answer(id);
    let bytes = world.room.usage.open().bytes();
    assert!(bytes <= BEYOND, "{bytes} bytes, {answer:?}");
    answer
}

#[test]
fn pending_deletions_count_for_their_author() {
    let ranges: Vec<(u64, u64)> = (0..20_000).map(|number| (number * 2 + 10, 1)).collect();
    let alone = deletion(&ranges);
    let one = [vec![7, 1], string("xml"), vec![3], string("body")].concat();
    let mut behind_one = update(FORGER, &[one]);
    behind_one.pop();
    behind_one.extend(deleted(&ranges));
    for update in [alone, behind_one] {
        let mut world = world();
        let writer = world.join("writer");
        let calls: Vec<String> = (0..10).map(|number| format!("d{number}")).collect();
        for call in &calls {
            open(&mut world, &writer, call);
        }
        let answers = calls.iter().map(|call| {
            let answer = sent(&mut world, &writer, call, &update);
            code(&answer).map(|_| answer)
        });
        let refused: Vec<Content> = answers.flatten().collect();
        assert!(refused.len() > 5, "{} are refused", refused.len());
        refused.iter().for_each(is_share_of_participant);
    }
}

#[test]
fn deletions_that_split_a_text_count_for_their_author() {
    const CHARACTERS: usize = 200_000;
    for character in ["a", "文", "😀"] {
        let units = character.encode_utf16().count() as u64;
        let written = text_of(&character.repeat(CHARACTERS));
        let ranges: Vec<(u64, u64)> = (0..CHARACTERS as u64 / 2)
            .map(|number| (FIRST + number * 2 * units, units))
            .collect();
        // In one update, and in many.
        for piece in [ranges.len(), 500] {
            let mut world = world();
            let writer = world.join("writer");
            open(&mut world, &writer, "b");
            open_rich(&mut world, &writer, "a");
            assert_eq!(sent(&mut world, &writer, "a", &written), Content::Empty);
            let refused = ranges.chunks(piece).find_map(|ranges| {
                let answer = sent(&mut world, &writer, "a", &deletion(ranges));
                code(&answer).map(|_| answer)
            });
            is_share_of_participant(&refused.expect("something is refused"));
            let whole = deletion(&[(FIRST, CHARACTERS as u64 * units)]);
            assert_eq!(sent(&mut world, &writer, "a", &whole), Content::Empty);
        }
    }
}

/// They wait for a text, which splits into as many parts when it comes. Before, that counted for
/// the author of the text, whose next keystroke could be refused because of a stranger's deletions.
#[test]
fn deletions_that_will_split_a_missing_text_count_for_their_author() {
    let mut world = world();
    let [writer, stranger] = ["writer", "strängër"].map(|name| world.join(name));
    open(&mut world, &writer, "b");
    open(&mut world, &stranger, "c");
    open_rich(&mut world, &writer, "a");
    open_rich(&mut world, &stranger, "a");
    let deletions = |count: u64| {
        let ranges: Vec<(u64, u64)> = (0..count).map(|number| (FIRST + number * 2, 1)).collect();
        deletion(&ranges)
    };
    let left = |world: &World, client: &Client| {
        let document = world.room.documents.id_at("a.rich");
        let document = world.room.documents.get(document.unwrap()).unwrap();
        let name = world.room.participants[&client.conn].account.participant();
        document.charge.as_ref().unwrap().left(name, MAX)
    };
    is_share_of_participant(&sent(&mut world, &stranger, "a", &deletions(40_000)));
    let answer = sent(&mut world, &stranger, "a", &deletions(4_000));
    assert_eq!(code(&answer), None, "{answer:?}");
    let before = [&writer, &stranger].map(|client| left(&world, client));
    assert!(before[1] < SHARE - 800_000, "{before:?}");
    let answer = sent(&mut world, &writer, "a", &text_of(&"a".repeat(8_000)));
    assert_eq!(code(&answer), None, "{answer:?}");
    let after = [&writer, &stranger].map(|client| left(&world, client));
    assert!(after[0] + 100_000 > before[0], "{before:?} {after:?}");
}

#[test]
fn deletions_are_accepted_at_a_used_share() {
    let mut world = world();
    let writer = world.join("writer");
    open(&mut world, &writer, "b");
    open_rich(&mut world, &writer, "a");
    let written = text_of(&"文".repeat(200_000));
    assert_eq!(sent(&mut world, &writer, "a", &written), Content::Empty);
    let refused = grow(&mut world, &writer, "b", &Editor::new(1));
    is_share_of_participant(&refused);
    for number in 0..100 {
        let ranges: Vec<(u64, u64)> = (0..3).map(|at| (1_000 * number + at * 50, 5)).collect();
        let answer = sent(&mut world, &writer, "a", &deletion(&ranges));
        assert_eq!(answer, Content::Empty, "{number}");
    }
    let whole = deletion(&[(FIRST, 200_000)]);
    assert_eq!(sent(&mut world, &writer, "a", &whole), Content::Empty);
}

/// Also if a connection of the author has not read them.
#[test]
fn recent_changes_leave_space_for_others() {
    for is_read in [true, false] {
        let mut world = world();
        let [writer, reader, other] = ["writer", "writer", "other"].map(|name| world.join(name));
        for number in 0..12 {
            let call = format!("d{number}");
            let path = json!({ "path": format!("{call}.document") });
            let editor = Editor::new(100 + number);
            for client in [&writer, &reader] {
                world.begin_open(client, &call, path.clone());
                world.settle();
            }
            let long = "ж".repeat(500_000);
            for update in [
                editor.append("body", &call),
                editor.set_first("text", &long),
                editor.remove(0),
            ] {
                world.update(&writer, &call, &update);
                world.settle();
            }
            world.pass_seconds(2);
            writer.take();
            if is_read {
                reader.take();
            }
            let bytes = world.room.usage.open().bytes();
            assert!(bytes <= BEYOND, "{bytes} bytes after {number} documents");
        }
        open(&mut world, &other, "other");
        let editor = Editor::new(99);
        let long = "ж".repeat(500_000);
        for update in [
            editor.append("body", "mine"),
            editor.set_first("text", &long),
        ] {
            let answer = sent(&mut world, &other, "other", &update);
            assert_eq!(answer, Content::Empty, "{is_read}");
        }
    }
}

#[test]
fn patches_at_a_used_share_copy_no_document() {
    let mut world = world();
    let writer = world.join("writer");
    let editors = [1, 2].map(Editor::new);
    for (call, editor) in ["a", "b"].into_iter().zip(&editors) {
        open(&mut world, &writer, call);
        is_share_of_participant_or_none(&mut world, &writer, call, editor);
    }
    let encodings = |world: &World| world.metric("meshagent_state_encodings_total");
    let before = encodings(&world);
    let body = json!({ "body": {} });
    let add = json!({ "op": "add", "path": "/document/content/-", "value": body });
    let many: Vec<Value> = (0..1_000).map(|_| add.clone()).collect();
    for number in 0..10 {
        let input = json!({ "path": "a.document", "patch": many, "dry_run": number % 2 == 0 });
        is_share_of_participant(&world.call(&writer, "sync", "patch", input));
    }
    assert!(encodings(&world) - before <= 1);
    let before = encodings(&world);
    for number in 0..10 {
        let patch = json!([{ "op": "remove", "path": "/document/content/0" }]);
        let input = json!({ "path": "a.document", "patch": patch, "dry_run": number % 2 == 0 });
        let answer = world.call(&writer, "sync", "patch", input);
        assert_eq!(code(&answer), None, "{answer:?}");
    }
    assert_eq!(encodings(&world), before);
}

#[test]
fn patches_beside_pending_operations_copy_no_document() {
    let mut world = world();
    let writer = world.join("writer");
    open(&mut world, &writer, "a");
    let editor = Editor::new(1);
    editor.append("body", "missing");
    let answer = sent(&mut world, &writer, "a", &editor.append("body", "pending"));
    assert_eq!(code(&answer), None, "{answer:?}");
    let encodings = |world: &World| world.metric("meshagent_state_encodings_total");
    let before = encodings(&world);
    for _ in 0..10 {
        let value = json!({ "body": {} });
        let patch = json!([{ "op": "add", "path": "/document/content/-", "value": value }]);
        let input = json!({ "path": "a.document", "patch": patch });
        let answer = world.call(&writer, "sync", "patch", input);
        assert_eq!(code(&answer), None, "{answer:?}");
    }
    assert_eq!(encodings(&world), before);
    assert!(world.room.documents.iter().all(|one| one.replica.has_gap()));
}
