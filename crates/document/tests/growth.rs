//! Cost is linear: twice the size takes about twice the time, whatever an update's bytes are.
//!
//! Times are compared with each other, never with a fixed duration: a quadratic algorithm takes
//! four times as long. They are CPU times, so that what else the machine does changes them little.

#![cfg(not(target_arch = "wasm32"))]

use std::time::Duration;

use meshagent_document::{MeshDocument, MeshSchema};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

const ATTEMPTS: usize = 6;

/// Runs work of one size and of twice the size until the second takes less than three times as
/// long. The fastest run of each counts, and each runs at least twice.
fn is_linear(size: usize, mut work: impl FnMut(usize) -> Duration) {
    let (mut once, mut twice) = (Duration::MAX, Duration::MAX);
    for attempt in 0..ATTEMPTS {
        once = once.min(work(size));
        twice = twice.min(work(2 * size));
        if attempt > 0 && twice < once * 3 {
            return;
        }
    }
    panic!("a size of {size} takes {once:?}, twice that {twice:?}");
}

fn time(work: impl FnOnce()) -> Duration {
    let start = cpu_time();
    work();
    cpu_time().saturating_sub(start)
}

/// The time for which this thread has run.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("time does not run backwards")
}

const TEXT: u8 = 4;
const FORMAT: u8 = 6;
const TYPE: u8 = 7;
const VALUES: u8 = 8;
const HAS_ORIGIN: u8 = 0x80;
const HAS_RIGHT_ORIGIN: u8 = 0x40;
const HAS_KEY: u8 = 0x20;
const NULL: u8 = 126;

/// The author of the document, and the client that edits it.
const AUTHOR: usize = 5;
const EDITOR: usize = 9;

/// The operations of a `text` element in the root, its text, and the ones after them.
const IN_TEXT: usize = 2;

fn document() -> MeshDocument {
    MeshDocument::new(
        MeshSchema::builtin("thread").expect("schema is built in"),
        1,
    )
}

fn number(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).expect("seven bits"));
    bytes
}

fn id(client: usize, clock: usize) -> Vec<u8> {
    [number(client), number(clock)].concat()
}

/// An update of a client's structs, and deletions of the author's operations.
fn update(
    client: usize,
    clock: usize,
    structs: &[Vec<u8>],
    deletions: &[(usize, usize)],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    if structs.is_empty() {
        bytes.push(0);
    } else {
        let head = [
            number(1),
            number(structs.len()),
            number(client),
            number(clock),
        ];
        bytes.extend(head.concat());
        bytes.extend(structs.concat());
    }
    if deletions.is_empty() {
        bytes.push(0);
        return bytes;
    }
    bytes.extend([number(1), number(AUTHOR), number(deletions.len())].concat());
    for &(start, length) in deletions {
        bytes.extend(id(start, length));
    }
    bytes
}

/// An element with one struct in its text, or as its attribute.
fn with_text(text: &str) -> Vec<u8> {
    let root = [1, 3, b'x', b'm', b'l'];
    let element = [&[TYPE][..], &root, &[3, 4], b"text"].concat();
    let in_element = [&[TYPE, 0][..], &id(AUTHOR, 0), &[6]].concat();
    let in_text = [
        &[TEXT, 0][..],
        &id(AUTHOR, 1),
        &number(text.len()),
        text.as_bytes(),
    ]
    .concat();
    update(AUTHOR, 0, &[element, in_element, in_text], &[])
}

fn with_values(count: usize) -> Vec<u8> {
    let root = [1, 3, b'x', b'm', b'l'];
    let element = [&[TYPE][..], &root, &[3, 4], b"text"].concat();
    let in_element = [&[TYPE, 0][..], &id(AUTHOR, 0), &[6]].concat();
    let info = [VALUES | HAS_KEY, 0];
    let place = [&info[..], &id(AUTHOR, 0), &[1, b'k'], &number(count)].concat();
    let values = [place, vec![NULL; count]].concat();
    update(AUTHOR, 0, &[element, in_element, values], &[])
}

/// Single characters, each `apart` characters of the text, without a conflict.
fn inserts(count: usize, apart: usize) -> Vec<Vec<u8>> {
    let inserts = (0..count).map(|at| {
        let behind = IN_TEXT + (at + 1) * apart;
        let info = [TEXT | HAS_ORIGIN | HAS_RIGHT_ORIGIN];
        let place = [id(AUTHOR, behind - 1), id(AUTHOR, behind)].concat();
        [&info[..], &place, &[1, b'+']].concat()
    });
    inserts.collect()
}

fn deletions(count: usize, apart: usize) -> Vec<(usize, usize)> {
    (0..count).map(|at| (IN_TEXT + at * apart, 1)).collect()
}

/// Applies an initial update, then measures the others, in one update or one by one.
fn timed(first: &[u8], then: &[Vec<u8>]) -> (MeshDocument, Duration) {
    let mut document = document();
    document.apply_update(first).expect("update is valid");
    let time = time(|| {
        for update in then {
            let applied = document.apply_update(update).expect("update is valid");
            assert!(!applied.gap);
        }
    });
    (document, time)
}

/// Asserts that documents are equal, and that copies from their updates are.
fn assert_equal(one: &MeshDocument, other: &MeshDocument) {
    assert!(
        one.to_json(true).to_string().contains("text"),
        "the document has content"
    );
    let mut copy = document();
    copy.apply_update(&one.encode_state())
        .expect("update was made here");
    for document in [other, &copy] {
        assert_eq!(document.to_json(true), one.to_json(true));
        assert_eq!(document.state_vector(), one.state_vector());
        let is_covered = one.is_covered_by(&document.state_vector(), &[&document.encode_state()]);
        assert_eq!(is_covered, Ok(true));
    }
}

#[test]
fn deleting_values_of_one_attribute() {
    let make = |count: usize| {
        (
            with_values(count),
            update(0, 0, &[], &deletions(count / 10, 10)),
        )
    };
    let (first, then) = make(3_000);
    let singly: Vec<_> = deletions(300, 10)
        .iter()
        .map(|&one| update(0, 0, &[], &[one]))
        .collect();
    assert_equal(&timed(&first, &[then]).0, &timed(&first, &singly).0);
    is_linear(20_000, |count| {
        let (first, then) = make(count);
        timed(&first, &[then]).1
    });
}

#[test]
fn inserting_into_long_text() {
    let text = |count: usize| "0123456789".repeat(count * 60);
    let one_update = |count: usize| vec![update(EDITOR, 0, &inserts(count, 500), &[])];
    let singly = |count: usize| -> Vec<Vec<u8>> {
        let inserts = inserts(count, 500).into_iter().enumerate();
        inserts
            .map(|(clock, one)| update(EDITOR, clock, &[one], &[]))
            .collect()
    };
    let first = with_text(&text(100));
    let (one, other) = (
        timed(&first, &one_update(100)).0,
        timed(&first, &singly(100)).0,
    );
    assert_equal(&one, &other);
    is_linear(2_500, |count| {
        timed(&with_text(&text(count)), &one_update(count)).1
    });
    is_linear(2_500, |count| {
        timed(&with_text(&text(count)), &singly(count)).1
    });
}

#[test]
fn deleting_from_long_text() {
    for pattern in ["文字", "😀é"] {
        let units = pattern.encode_utf16().count();
        let text = |count: usize| pattern.repeat(count);
        // The last unit of each repetition; in one of them surrogate halves.
        let ranges = |count: usize| -> Vec<(usize, usize)> {
            let ranges = (0..count).map(|at| (IN_TEXT + (at + 1) * units - 1, 1));
            ranges.collect()
        };
        let one_update = |count: usize| vec![update(0, 0, &[], &ranges(count))];
        let singly = |count: usize| -> Vec<Vec<u8>> {
            let ranges = ranges(count).into_iter();
            ranges.map(|one| update(0, 0, &[], &[one])).collect()
        };
        let first = with_text(&text(2_000));
        let (one, other) = (
            timed(&first, &one_update(2_000)).0,
            timed(&first, &singly(2_000)).0,
        );
        assert_equal(&one, &other);
        is_linear(6_000, |count| {
            timed(&with_text(&text(count)), &one_update(count)).1
        });
        is_linear(3_000, |count| {
            timed(&with_text(&text(count)), &singly(count)).1
        });
    }
}

/// Also inside characters of two units, whose halves become U+FFFD.
#[test]
fn long_texts_are_split_anywhere() {
    let text = "ab😀文é".repeat(2_000);
    let units = text.encode_utf16().count();
    let first = with_text(&text);
    for apart in [3, 100, 999, 2_048] {
        let count = units / apart - 1;
        let singly: Vec<_> = inserts(count, apart)
            .into_iter()
            .enumerate()
            .map(|(clock, one)| update(EDITOR, clock, &[one], &[]))
            .collect();
        let all = update(EDITOR, 0, &inserts(count, apart), &[]);
        assert_equal(&timed(&first, &[all]).0, &timed(&first, &singly).0);
    }
}

/// Applies the update of a foreign program, and measures its check.
fn checked(update: &[u8]) -> Duration {
    let mut document = document();
    document.apply_update(update).expect("update is valid");
    time(|| assert!(!document.violations().is_empty()))
}

#[test]
fn finding_texts_behind_many_elements() {
    let texts = |count: usize| {
        let root = [1, 3, b'x', b'm', b'l'];
        let mut structs = vec![[&[TYPE][..], &root, &[3, 4], b"text"].concat()];
        structs.push([&[TYPE, 0][..], &id(AUTHOR, 0), &[3, 1, b'b']].concat());
        for clock in 1..2 * count {
            let kind: &[u8] = if clock < count { &[3, 1, b'b'] } else { &[6] };
            structs.push([&[TYPE | HAS_ORIGIN][..], &id(AUTHOR, clock), kind].concat());
        }
        update(AUTHOR, 0, &structs, &[])
    };
    is_linear(6_000, |count| checked(&texts(count)));
}

#[test]
fn many_elements_with_one_id() {
    let namesakes = |count: usize| {
        let root = [1, 3, b'x', b'm', b'l'];
        let mut structs = vec![[&[TYPE][..], &root, &[3, 1, b'b']].concat()];
        for clock in 0..count - 1 {
            structs.push([&[TYPE | HAS_ORIGIN][..], &id(AUTHOR, clock), &[3, 1, b'b']].concat());
        }
        for clock in 0..count {
            let place = [&[VALUES | HAS_KEY, 0][..], &id(AUTHOR, clock), &[3], b"$id"].concat();
            structs.push([&place[..], &[1, 119, 5], "é☃".as_bytes()].concat());
        }
        update(AUTHOR, 0, &structs, &[])
    };
    is_linear(20_000, |count| checked(&namesakes(count)));
}

#[test]
fn elements_with_many_attributes() {
    is_linear(450, |count| {
        let names = (0..count).map(|number| format!("é{number}"));
        let json: serde_json::Map<_, _> = names.map(|name| (name, 1.into())).collect();
        let schema = MeshSchema::infer(&json.clone().into()).unwrap();
        let mut document = MeshDocument::new(schema, 1);
        let mut next = 0..;
        let mut next_id = || format!("{:?}", next.next());
        document.insert_json(&json.into(), &mut next_id).unwrap();
        time(|| {
            for _ in 0..10 {
                assert_eq!(document.root().attributes().len(), count);
            }
        })
    });
}

#[test]
fn passing_marks_without_effect() {
    // Many formats that hold to the end, then texts between marks that don't change anything.
    let text = |count: usize| {
        let root = [1, 3, b'x', b'm', b'l'];
        let mut structs = vec![[&[TYPE][..], &root, &[3, 4], b"text"].concat()];
        structs.push([&[TYPE, 0][..], &id(AUTHOR, 0), &[6]].concat());
        structs.push([&[TEXT, 0][..], &id(AUTHOR, 1), &[1, b'x']].concat());
        for clock in 2..3 * count {
            let behind = id(AUTHOR, clock);
            let one = if clock > count && clock % 2 == 0 {
                [&[TEXT | HAS_ORIGIN][..], &behind, &[1, b'x']].concat()
            } else {
                let name = if clock > count {
                    "3".to_owned()
                } else {
                    clock.to_string()
                };
                let content = [number(name.len()), name.into_bytes(), b"\x011".to_vec()].concat();
                [&[FORMAT | HAS_ORIGIN][..], &behind, &content].concat()
            };
            structs.push(one);
        }
        update(AUTHOR, 0, &structs, &[])
    };
    is_linear(1_500, |count| {
        let mut document = document();
        document.apply_update(&text(count)).unwrap();
        let mut runs = 0;
        let time = time(|| {
            let json = document.to_json(true).to_string();
            runs = json.matches("insert").count();
        });
        assert_eq!(runs, 2);
        time
    });
}

#[test]
fn typing_with_pending_deletions_of_many_clients() {
    is_linear(4_000, |count| {
        let mut waiting = [number(0), number(count)].concat();
        for client in 0..count {
            waiting.extend([number(client + 100), vec![1, 3, 1]].concat());
        }
        let mut document = document();
        document.apply_update(&with_text("é")).unwrap();
        assert!(document.apply_update(&waiting).unwrap().gap);
        let typed: Vec<Vec<u8>> = (0..count)
            .map(|clock| {
                let behind = match clock {
                    0 => id(AUTHOR, IN_TEXT),
                    _ => id(EDITOR, clock - 1),
                };
                let one = [&[TEXT | HAS_ORIGIN][..], &behind, &[2], "ü".as_bytes()].concat();
                update(EDITOR, clock, &[one], &[])
            })
            .collect();
        time(|| {
            for update in &typed {
                document.apply_update(update).unwrap();
            }
        })
    });
}

#[test]
fn patching_text_of_many_formats() {
    let wanted = |count: usize| {
        let runs = (0..count).map(|number| {
            let text = ["plain 😀", "bold é"][number % 2];
            json!({"insert": text, "attributes": if number % 2 == 0 { json!({}) } else { json!({"bold": number}) }})
        });
        json!(runs.collect::<Vec<_>>())
    };
    is_linear(1_000, |count| {
        let golden = include_str!("../../../testdata/vectors/documents.json");
        let golden: serde_json::Value = serde_json::from_str(golden).unwrap();
        let schema = MeshSchema::from_json(&golden["about"]["schema"]).unwrap();
        let mut document = MeshDocument::new(schema, 1);
        let mut next = 0..;
        let mut next_id = || format!("{:?}", next.next());
        let written = json!({"doc": {"children": [{"text": {"$id": "t", "children": [{"text": {"delta": [
            {"insert": "before", "attributes": {}}, {"insert": "é behind".repeat(count), "attributes": {"bold": true}},
        ]}}]}}]}});
        document.insert_json(&written, &mut next_id).unwrap();
        let mut json = document.to_json(true);
        let delta = &mut json["doc"]["children"][0]["text"]["children"][0]["text"]["delta"];
        let mut runs = wanted(count).as_array().unwrap().clone();
        runs.insert(0, delta[0].clone());
        runs.push(delta[1].clone());
        *delta = runs.into();
        let mut taken = Duration::ZERO;
        taken += time(|| {
            document.replace_json(&json, &mut next_id).unwrap();
        });
        let shown = document.to_json(true);
        let delta = &shown["doc"]["children"][0]["text"]["children"][0]["text"]["delta"];
        assert!(delta.as_array().unwrap().len() >= count);
        assert_eq!(shown, {
            let mut other = MeshDocument::new(document.schema().clone(), 2);
            other.apply_update(&document.encode_state()).unwrap();
            other.to_json(true)
        });
        taken
    });
}
