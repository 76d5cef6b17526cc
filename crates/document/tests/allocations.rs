//! The cost of an update, whatever its bytes are. Memory: at most 120 bytes per byte, plus 1 MiB;
//! more if events are recorded. Time: far less than a quadratic algorithm would take.
//!
//! The peak of all memory held while the update is applied counts, including what the document
//! keeps. Everything is seeded, so a failure is reproducible.

#![cfg(not(target_arch = "wasm32"))]

use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use meshagent_document::{MeshDocument, MeshSchema, UpdateKind};
use peak_alloc::PeakAlloc;
use serde_json::Value;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// For a document without events, as in a server, and for one with events.
const BYTES_PER_BYTE: [(bool, usize); 2] = [(false, 120), (true, 180)];
const BYTES_AT_ONCE: usize = 1 << 20;

/// The longest takes a fifth of a second in a debug build; quadratic algorithms took more than
/// a minute.
const TIME: Duration = Duration::from_secs(10);

/// The approximate size of long updates: large enough that the constant allowance hides nothing.
const LONG: usize = 200_000;

/// One test at a time, since they share the allocator.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn updates_of_many_small_parts() {
    let mut check = Check::begin();
    for (name, update) in long_updates() {
        assert!(update.len() > LONG / 2, "{name} is too short");
        check.apply(&name, &update);
        // Rejected only after all of it was read.
        let mut broken = update.clone();
        broken.truncate(update.len() - 1);
        check.apply(&format!("{name}, cut"), &broken);
    }
    check.end();
}

/// Operations that are neither kept nor applied are not listed: neighbours that are joined, and
/// clients beyond the limit.
#[test]
fn joined_or_rejected_operations_are_not_listed() {
    const ONLY_BYTES: usize = 4;
    let mut check = Check::begin();
    check.apply_to(false, ONLY_BYTES, "collected operations", &collected());
    let far_too_many = (1 << 20) + 1;
    let mut update = number(far_too_many);
    for client in 1..=far_too_many {
        update.extend([&[1][..], &number(client), &[0, COLLECTED, 1]].concat());
    }
    update.extend(NO_DELETIONS);
    check.apply_to(false, ONLY_BYTES, "too many clients", &update);
    check.end();
}

#[test]
fn updates_with_false_counts_and_lengths() {
    let mut check = Check::begin();
    let huge: [&[u8]; 3] = [
        &[0xff, 0xff, 0xff, 0xff, 0x07],
        &[0xff, 0xff, 0xff, 0x03],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f],
    ];
    let root = [1, 3, b'x', b'm', b'l'];
    for huge in huge {
        let before_a_count: [&[u8]; 14] = [
            &[],
            &[1],
            &[1, 1],
            &[1, 1, 5],
            &[1, 1, 5, 0, 0],
            &[1, 1, 5, 0, 1],
            &[1, 1, 5, 0, 1, 1],
            &[1, 1, 5, 0, 2, 1, 3, b'x', b'm', b'l'],
            &[1, 1, 5, 0, 4, 1, 3, b'x', b'm', b'l'],
            &[1, 1, 5, 0, 8, 1, 3, b'x', b'm', b'l'],
            &[1, 1, 5, 0, 8, 1, 3, b'x', b'm', b'l', 1, 117],
            &[1, 1, 5, 0, 8, 1, 3, b'x', b'm', b'l', 1, 118],
            &[0, 1, 5],
            &[0, 1, 5, 1, 0],
        ];
        for (index, before) in before_a_count.into_iter().enumerate() {
            for after in [&[][..], &[0], &[0, 0], &root, &[1; 64], &[127; 64]] {
                let update = [before, huge, after].concat();
                check.apply(&format!("claim {index}"), &update);
            }
        }
    }
    check.end();
}

#[test]
fn mutated_updates_of_sdks() {
    let mut check = Check::begin();
    let golden = golden_updates();
    for update in &golden {
        check.apply("golden", update);
    }
    for seed in 0..3_000 {
        let mut random = Random::new(seed);
        let mut update = golden[random.below(golden.len())].clone();
        let other = &golden[random.below(golden.len())];
        for _ in 0..=random.below(4) {
            mutate(&mut update, other, &mut random);
        }
        check.apply(&format!("golden, changed with seed {seed}"), &update);
    }
    check.end();
}

#[test]
fn mutated_long_updates() {
    let mut check = Check::begin();
    let updates = long_updates();
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let (name, mut update) = updates[random.below(updates.len())].clone();
        let (_, other) = &updates[random.below(updates.len())];
        for _ in 0..=random.below(2) {
            mutate(&mut update, other, &mut random);
        }
        check.apply(&format!("{name}, changed with seed {seed}"), &update);
    }
    check.end();
}

/// Small updates that expand to much JSON are rejected without building it.
#[test]
fn oversized_json_is_not_built() {
    const TEXT_BYTES: usize = 1 << 20;
    const MEMORY: usize = 4 << 20;
    let check = Check::begin();
    let mut formats = Structs::with_text();
    for at in 0..700_u64 {
        let name = format!("ü{at}");
        let behind = id(CLIENT, formats.clock - 1);
        let mark = [
            &[FORMAT | HAS_ORIGIN][..],
            &behind,
            &number(name.len() as u64),
            name.as_bytes(),
            b"\x011",
        ]
        .concat();
        formats.push(1, &[&mark]);
        let behind = id(CLIENT, formats.clock - 1);
        formats.push(1, &[&[TEXT | HAS_ORIGIN], &behind, &[1, b'x']]);
    }
    let bytes = |kind: u8| {
        let mut structs = Structs::default();
        structs.push(1, &[&[TYPE], &root(), &[3, 4], b"text"]);
        let count = number(60_000);
        let value = [&[1, kind][..], &count, &vec![120; 60_000]].concat();
        let info = [VALUES | HAS_KEY, 0];
        structs.push(1, &[&info, &id(CLIENT, 0), &[1, b'k'], &value]);
        structs.update(NO_DELETIONS)
    };
    let updates = [
        ("formats", formats.update(NO_DELETIONS)),
        ("bytes", bytes(116)),
        ("values", bytes(117)),
    ];
    for (name, update) in updates {
        let mut document = MeshDocument::new(check.schema.clone(), 1);
        document.apply_update(&update).expect("update is valid");
        ALLOCATOR.reset_peak_usage();
        let before = ALLOCATOR.current_usage();
        let json = document.to_json_within(true, TEXT_BYTES, MEMORY);
        let peak = ALLOCATOR.peak_usage().saturating_sub(before);
        assert!(json.is_none(), "{name}");
        assert!(peak < 2 * TEXT_BYTES, "{name}: {peak} bytes");
        // With sufficient limits the JSON is complete.
        let json = document.to_json_within(true, usize::MAX, usize::MAX);
        assert_eq!(json, Some(document.to_json(true)), "{name}");
        let needed = document.to_json(true).to_string().len();
        let fits = document.to_json_within(true, 3 * needed, usize::MAX);
        assert!(fits.is_some(), "{name}: {needed} bytes");
        assert!(
            document
                .to_json_within(true, needed - 1, usize::MAX)
                .is_none()
        );
    }
}

/// Pending operations are counted by their memory, and few bytes take little of it.
#[test]
fn pending_operations_are_counted_by_memory() {
    let check = Check::begin();
    let mut deletions = [number(0), number(LONG as u64)].concat();
    for client in 0..LONG as u64 {
        deletions.extend([&number(client + (1 << 20))[..], &[1, 3, 1]].concat());
    }
    let updates = [
        ("deletions of many clients", deletions),
        ("deletions of one", waiting_deletions()),
        ("clients", waiting_clients()),
        ("operations", waiting_operations()),
        ("operations that wait for others", waiting_for_others()),
    ];
    for (name, update) in updates {
        let before = ALLOCATOR.current_usage();
        let mut document = MeshDocument::new(check.schema.clone(), 1);
        let inspection = document.inspect(&update).expect("update is valid");
        assert_eq!(inspection.kind, UpdateKind::Gap, "{name}");
        document.apply_update(&update).expect("update is valid");
        let held = ALLOCATOR.current_usage().saturating_sub(before);
        let counted = document.pending_bytes();
        assert!(
            counted <= inspection.waiting,
            "{name}: {counted} of {}",
            inspection.waiting
        );
        assert!(
            held < counted + counted / 2 + (1 << 16),
            "{name}: {held} bytes for {counted}"
        );
        assert!(
            held < 32 * update.len() + (1 << 16),
            "{name}: {held} bytes for {}",
            update.len()
        );
    }
}

/// The check looks at an element with a long `$id` and a long attribute without copying either.
#[test]
fn long_values_are_checked_without_copy() {
    let check = Check::begin();
    let long = "é".repeat(1 << 19);
    let text = [&[1, 119][..], &number(long.len() as u64), long.as_bytes()].concat();
    let mut structs = Structs::default();
    structs.push(1, &[&[TYPE], &root(), &[3, 8], b"messages"]);
    structs.push(1, &[&[TYPE, 0], &id(CLIENT, 0), &[3, 7], b"message"]);
    for (clock, name) in [(0, "$id"), (1, "$id"), (1, "text")] {
        let key = [&number(name.len() as u64)[..], name.as_bytes()].concat();
        structs.push(
            1,
            &[&[VALUES | HAS_KEY, 0], &id(CLIENT, clock), &key, &text],
        );
    }
    let mut document = MeshDocument::new(check.schema.clone(), 1);
    let update = structs.update(NO_DELETIONS);
    document.apply_update(&update).expect("update is valid");
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let violations = document.violations();
    let peak = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(peak < 64 << 10, "{peak} bytes, {violations:?}");
    assert_eq!(violations.total(), 1, "one \"$id\" twice: {violations:?}");
}

/// A few bytes that refer to an operation with much content.
#[test]
fn comparison_cost_follows_update() {
    const ONLY_BYTES: usize = 64 << 10;
    let check = Check::begin();
    let with = |kind: u8, value: &[u8]| {
        let mut structs = Structs::default();
        structs.push(1, &[&[kind], &root(), value]);
        structs.update(NO_DELETIONS)
    };
    let text = |text: &str| [&number(text.len() as u64)[..], text.as_bytes()].concat();
    let list = format!("[{}0]", "0,".repeat(500_000));
    let object = format!("{{\"é\":{list},\"b\":1}}");
    let values = [&[1, 117][..], &number(500_000), &[125, 0].repeat(500_000)].concat();
    let cases = [
        (EMBED, text(&list), text("1"), false),
        (EMBED, text(&list), text("[0,0,0]"), false),
        (EMBED, text(&object), text("{\"b\":1,\"é\":[]}"), false),
        (
            EMBED,
            text(&list),
            text(&list.replace(",0]", ", 0.0 ]")),
            true,
        ),
        (VALUES, values.clone(), vec![1, 117, 1, 125, 0], false),
        (VALUES, values, vec![1, 126], false),
    ];
    for (kind, known, came, is_same) in cases {
        let mut document = MeshDocument::new(check.schema.clone(), 1);
        document
            .apply_update(&with(kind, &known))
            .expect("update is valid");
        let update = with(kind, &came);
        ALLOCATOR.reset_peak_usage();
        let before = ALLOCATOR.current_usage();
        let inspection = document.inspect(&update).expect("update is valid");
        let peak = ALLOCATOR.peak_usage().saturating_sub(before);
        assert!(
            peak < ONLY_BYTES,
            "{peak} bytes for an update of {}",
            update.len()
        );
        let expected = if is_same {
            UpdateKind::Contained
        } else {
            UpdateKind::Conflict
        };
        assert_eq!(inspection.kind, expected, "an update of {}", update.len());
    }
}

/// Applies each update to a document of its own, and collects those that are too expensive.
struct Check {
    schema: MeshSchema,
    failures: Vec<String>,
    _turn: std::sync::MutexGuard<'static, ()>,
}

impl Check {
    fn begin() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let schema = MeshSchema::builtin("thread").expect("schema is built in");
        Self {
            schema,
            failures: Vec::new(),
            _turn: turn,
        }
    }

    fn apply(&mut self, name: &str, update: &[u8]) {
        for (is_watched, bytes_per_byte) in BYTES_PER_BYTE {
            self.apply_to(is_watched, bytes_per_byte, name, update);
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the test measures time")]
    fn apply_to(&mut self, is_watched: bool, bytes_per_byte: usize, name: &str, update: &[u8]) {
        let mut document = MeshDocument::new(self.schema.clone(), 1);
        document.watch(is_watched);
        ALLOCATOR.reset_peak_usage();
        let before = ALLOCATOR.current_usage();
        let start = Instant::now();
        let applied = document.apply_update(update);
        let time = start.elapsed();
        assert!(time < TIME, "{name} took {time:?}");
        let peak = ALLOCATOR.peak_usage().saturating_sub(before);
        let bound = bytes_per_byte * update.len() + BYTES_AT_ONCE;
        if peak > bound {
            let outcome = match applied {
                Ok(applied) if applied.gap => "waits".to_owned(),
                Ok(_) => "is applied".to_owned(),
                Err(error) => error.to_string(),
            };
            self.failures.push(format!(
                "{name}: {peak} bytes for an update of {}, {} for each, events: {is_watched}; \
                 it {outcome}",
                update.len(),
                peak / update.len().max(1),
            ));
        }
    }

    fn end(self) {
        let failures = self.failures;
        let list = failures.join("\n  ");
        assert!(
            failures.is_empty(),
            "updates with too much memory:\n  {list}"
        );
    }
}

/// Updates of the smallest possible parts, since each part has a fixed cost.
fn long_updates() -> Vec<(String, Vec<u8>)> {
    let mut updates: Vec<(String, Vec<u8>)> = [
        ("collected operations", collected as fn() -> Vec<u8>),
        ("deleted operations", deleted),
        ("single characters", characters),
        ("one long text", long_text),
        ("formats", formats),
        ("binaries and embeds", embeds),
        ("texts in texts", || types(&[6])),
        ("elements in a row", || types(&[3, 0])),
        ("maps in a row", || types(&[1])),
        ("a chain of elements", chain),
        ("attributes of one element", attributes),
        ("one attribute, again and again", one_attribute),
        ("clients", clients),
        ("pending clients", waiting_clients),
        ("pending operations", waiting_operations),
        ("operations that wait for others", waiting_for_others),
        ("deletions", deletions),
        ("pending deletions", waiting_deletions),
        ("deletions by many clients", deletions_by_many),
        ("deletions of characters", deletions_of_characters),
        ("tiny values", || values(&[127])),
        ("empty texts as values", || values(&[119, 0])),
        ("empty lists", || values(&[117, 0])),
        ("empty objects", || values(&[118, 0])),
        ("lists of one", || values(&[117, 1, 127])),
        ("objects of one", || values(&[118, 1, 0, 127])),
        ("small objects", || {
            values(&[118, 2, 1, b'a', 127, 1, b'b', 127])
        }),
        ("a list of tiny values", || one_list(&[127])),
        ("a list of empty objects", || one_list(&[118, 0])),
        ("JSON texts", json_texts),
    ]
    .map(|(name, make)| (name.to_owned(), make()))
    .into();
    for seed in 0..20 {
        updates.push((format!("mixed with seed {seed}"), mixed(seed)));
    }
    updates
}

// Info bytes: the content, and whether an origin or a key is present.
const COLLECTED: u8 = 0;
const DELETED: u8 = 1;
const JSON: u8 = 2;
const BINARY: u8 = 3;
const TEXT: u8 = 4;
const EMBED: u8 = 5;
const FORMAT: u8 = 6;
const TYPE: u8 = 7;
const VALUES: u8 = 8;
const HAS_ORIGIN: u8 = 0x80;
const HAS_KEY: u8 = 0x20;

const CLIENT: u64 = 5;

/// The structs of one client, from clock 0 on.
#[derive(Default)]
struct Structs {
    count: u64,
    clock: u64,
    bytes: Vec<u8>,
}

impl Structs {
    /// Adds a struct with this number of operations.
    fn push(&mut self, operations: u64, parts: &[&[u8]]) {
        self.count += 1;
        self.clock += operations;
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
    }

    /// A rich text in the root, for structs that refer to it by origin.
    fn with_text() -> Self {
        let mut structs = Self::default();
        structs.push(1, &[&[TYPE], &root(), &[3, 1, b't']]);
        structs.push(1, &[&[TYPE, 0], &id(CLIENT, 0), &[6]]);
        structs.push(1, &[&[TEXT, 0], &id(CLIENT, 1), &[1, b'x']]);
        structs
    }

    fn is_long(&self) -> bool {
        self.bytes.len() >= LONG
    }

    fn update(&self, deletions: &[u8]) -> Vec<u8> {
        let head = [number(1), number(self.count), number(CLIENT), number(0)].concat();
        [&head[..], &self.bytes, deletions].concat()
    }
}

const NO_DELETIONS: &[u8] = &[0];

/// Appends structs until the update is long enough.
fn repeat(mut structs: Structs, mut next: impl FnMut(&mut Structs)) -> Vec<u8> {
    while !structs.is_long() {
        next(&mut structs);
    }
    structs.update(NO_DELETIONS)
}

fn collected() -> Vec<u8> {
    repeat(Structs::default(), |structs| {
        structs.push(1, &[&[COLLECTED, 1]]);
    })
}

fn deleted() -> Vec<u8> {
    repeat(Structs::with_text(), |structs| {
        structs.push(1, &[&[DELETED | HAS_ORIGIN], &id(CLIENT, 2), &[1]]);
    })
}

fn characters() -> Vec<u8> {
    repeat(Structs::with_text(), |structs| {
        structs.push(1, &[&[TEXT | HAS_ORIGIN], &id(CLIENT, 2), &[1, b'x']]);
    })
}

fn long_text() -> Vec<u8> {
    let mut structs = Structs::with_text();
    let text = "x".repeat(LONG);
    let length = number(text.len() as u64);
    structs.push(
        text.len() as u64,
        &[
            &[TEXT | HAS_ORIGIN],
            &id(CLIENT, 2),
            &length,
            text.as_bytes(),
        ],
    );
    structs.update(NO_DELETIONS)
}

fn formats() -> Vec<u8> {
    repeat(Structs::with_text(), |structs| {
        let format = [1, b'b', 1, b'1'];
        structs.push(1, &[&[FORMAT | HAS_ORIGIN], &id(CLIENT, 2), &format]);
    })
}

fn embeds() -> Vec<u8> {
    repeat(Structs::with_text(), |structs| {
        structs.push(1, &[&[BINARY | HAS_ORIGIN], &id(CLIENT, 2), &[0]]);
        structs.push(1, &[&[EMBED | HAS_ORIGIN], &id(CLIENT, 2), &[1, b'1']]);
    })
}

fn types(kind: &[u8]) -> Vec<u8> {
    repeat(Structs::with_text(), |structs| {
        structs.push(1, &[&[TYPE | HAS_ORIGIN], &id(CLIENT, 0), kind]);
    })
}

fn chain() -> Vec<u8> {
    repeat(Structs::with_text(), |structs| {
        let parent = match structs.clock {
            3 => 0,
            clock => clock - 1,
        };
        structs.push(1, &[&[TYPE, 0], &id(CLIENT, parent), &[3, 0]]);
    })
}

fn attributes() -> Vec<u8> {
    repeat(Structs::with_text(), |structs| {
        let key = format!("{:x}", structs.clock);
        let length = number(key.len() as u64);
        let parent = id(CLIENT, 0);
        let info = [VALUES | HAS_KEY, 0];
        structs.push(1, &[&info, &parent, &length, key.as_bytes(), &[1, 127]]);
    })
}

fn one_attribute() -> Vec<u8> {
    let mut structs = Structs::with_text();
    let parent = id(CLIENT, 0);
    structs.push(1, &[&[VALUES | HAS_KEY, 0], &parent, &[1, b'k', 1, 127]]);
    repeat(structs, |structs| {
        let before = id(CLIENT, structs.clock - 1);
        structs.push(1, &[&[VALUES | HAS_ORIGIN], &before, &[1, 127]]);
    })
}

/// Many clients with one struct each.
fn by_clients(clock: u64, one: &[u8]) -> Vec<u8> {
    let clients = LONG / (one.len() + 5);
    let mut update = number(clients as u64);
    for client in 0..clients as u64 {
        update.extend([number(1), number(client + 10), number(clock)].concat());
        update.extend_from_slice(one);
    }
    [&update[..], NO_DELETIONS].concat()
}

fn clients() -> Vec<u8> {
    by_clients(0, &[&[TYPE][..], &root(), &[6]].concat())
}

fn waiting_clients() -> Vec<u8> {
    by_clients(7, &[COLLECTED, 1])
}

fn waiting_operations() -> Vec<u8> {
    let mut structs = Structs::default();
    while !structs.is_long() {
        structs.push(1, &[&[DELETED | HAS_ORIGIN], &id(CLIENT, 0), &[1]]);
    }
    let head = [number(1), number(structs.count), number(CLIENT), number(9)].concat();
    [&head[..], &structs.bytes, NO_DELETIONS].concat()
}

fn waiting_for_others() -> Vec<u8> {
    repeat(Structs::default(), |structs| {
        let other = id(structs.clock + 100, 1);
        structs.push(1, &[&[TEXT | HAS_ORIGIN], &other, &[1, b'x']]);
    })
}

/// Deletions of every second operation, so that no two ranges are adjacent.
fn every_second(clocks: Range<u64>) -> Vec<u8> {
    let clocks: Vec<u64> = clocks.step_by(2).collect();
    let mut deletions = [number(1), number(CLIENT), number(clocks.len() as u64)].concat();
    for clock in clocks {
        deletions.extend(number(clock));
        deletions.push(1);
    }
    deletions
}

fn deletions() -> Vec<u8> {
    let mut structs = Structs::default();
    structs.push(LONG as u64, &[&[COLLECTED], &number(LONG as u64)]);
    structs.update(&every_second(0..LONG as u64))
}

fn waiting_deletions() -> Vec<u8> {
    [vec![0], every_second(0..LONG as u64)].concat()
}

fn deletions_by_many() -> Vec<u8> {
    let clients = LONG as u64 / 6;
    let mut update = [number(0), number(clients)].concat();
    for client in 0..clients {
        update.extend([number(client), vec![1, 0, 1]].concat());
    }
    update
}

fn deletions_of_characters() -> Vec<u8> {
    let mut structs = Structs::with_text();
    let text = "x".repeat(LONG / 2);
    let length = number(text.len() as u64);
    structs.push(
        text.len() as u64,
        &[
            &[TEXT | HAS_ORIGIN],
            &id(CLIENT, 2),
            &length,
            text.as_bytes(),
        ],
    );
    structs.update(&every_second(3..structs.clock))
}

/// One attribute with many values, like the run of an array.
fn values(value: &[u8]) -> Vec<u8> {
    let mut structs = Structs::with_text();
    let count = LONG / value.len();
    let many = [number(count as u64), value.repeat(count)].concat();
    let info = [VALUES | HAS_ORIGIN];
    structs.push(count as u64, &[&info, &id(CLIENT, 2), &many]);
    structs.update(NO_DELETIONS)
}

/// One attribute whose value is a list.
fn one_list(value: &[u8]) -> Vec<u8> {
    let mut structs = Structs::with_text();
    let count = LONG / value.len();
    let list = [vec![1, 117], number(count as u64), value.repeat(count)].concat();
    let info = [VALUES | HAS_KEY, 0];
    structs.push(1, &[&info, &id(CLIENT, 0), &[1, b'k'], &list]);
    structs.update(NO_DELETIONS)
}

fn json_texts() -> Vec<u8> {
    let mut structs = Structs::with_text();
    let count = LONG / 2;
    let many = [number(count as u64), [1, b'1'].repeat(count)].concat();
    let info = [JSON | HAS_ORIGIN];
    structs.push(count as u64, &[&info, &id(CLIENT, 2), &many]);
    structs.update(NO_DELETIONS)
}

/// A random mixture of all valid structs.
fn mixed(seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut structs = Structs::with_text();
    while !structs.is_long() {
        let origin = id(
            CLIENT,
            random.below(usize::try_from(structs.clock).unwrap_or(1)) as u64,
        );
        let in_text = id(CLIENT, 2);
        match random.below(7) {
            0 => structs.push(1, &[&[COLLECTED, 1]]),
            1 => structs.push(1, &[&[DELETED | HAS_ORIGIN], &origin, &[1]]),
            2 => structs.push(1, &[&[TEXT | HAS_ORIGIN], &in_text, &[1, b'x']]),
            3 => structs.push(1, &[&[TYPE | HAS_ORIGIN], &origin, &[3, 0]]),
            4 => structs.push(1, &[&[TYPE | HAS_ORIGIN], &origin, &[6]]),
            5 => structs.push(1, &[&[FORMAT | HAS_ORIGIN], &in_text, &[1, b'b', 1, b'1']]),
            _ => structs.push(1, &[&[VALUES | HAS_ORIGIN], &origin, &[1, 127]]),
        }
    }
    structs.update(&every_second(0..structs.clock / 8))
}

/// The root `xml` as a parent.
fn root() -> Vec<u8> {
    vec![1, 3, b'x', b'm', b'l']
}

fn id(client: u64, clock: u64) -> Vec<u8> {
    [number(client), number(clock)].concat()
}

/// A number in groups of seven bits, the lowest first.
fn number(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let group = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            bytes.push(group);
            return bytes;
        }
        bytes.push(group | 0x80);
    }
}

/// All updates that the published SDKs sent, and their documents' states.
fn golden_updates() -> Vec<Vec<u8>> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../testdata/vectors/documents.json"
    );
    let json = std::fs::read_to_string(path).expect("vectors exist");
    let golden: Value = serde_json::from_str(&json).expect("the vectors are JSON");
    let mut updates = Vec::new();
    for sdk in ["python", "npm"] {
        for name in ["elements", "text"] {
            let case = &golden[sdk][name];
            let steps = case["steps"].as_array().into_iter().flatten();
            let sent = steps.flat_map(|step| step["updates"].as_array().into_iter().flatten());
            for update in sent.chain([&case["state"]]) {
                let update = update.as_str().expect("updates are texts");
                updates.push(STANDARD.decode(update).expect("updates are base64"));
            }
        }
    }
    updates
}

/// Changes a few bytes, removes some, or inserts some of another update.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    if bytes.is_empty() || other.is_empty() {
        return;
    }
    let at = random.below(bytes.len());
    match random.below(6) {
        0 => bytes[at] = random.byte(),
        1 => bytes[at] ^= 1 << random.below(8),
        2 => bytes[at] = bytes[at].wrapping_add(1),
        3 => {
            // A number that grows beyond all following bytes.
            let end = (at + 1 + random.below(4)).min(bytes.len());
            bytes[at..end].fill(0xff);
        }
        4 => {
            let end = (at + 1 + random.below(8)).min(bytes.len());
            bytes.drain(at..end);
        }
        _ => {
            let from = random.below(other.len());
            let to = (from + 1 + random.below(16)).min(other.len());
            bytes.splice(at..at, other[from..to].iter().copied());
        }
    }
}

/// A small generator: equal seeds give equal numbers.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap_or(0) % limit.max(1)
    }

    fn byte(&mut self) -> u8 {
        self.below(256).to_le_bytes()[0]
    }
}
