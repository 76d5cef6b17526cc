//! The random script of a seed. It is made of raw numbers that are given a meaning only when a step is
//! taken, so that a failing script can be shortened by leaving steps out.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};

use crate::change::Change;
use crate::tree::{ID, TEXT, Tree};

/// How many elements there may be before a script would rather delete.
const MANY: usize = 60;

const DEEP: usize = 6;

/// `SplitMix64`: <https://prng.di.unimi.it/splitmix64.c>.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit.max(1) as u64)).unwrap_or(0)
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        list.get(self.below(list.len()))
    }
}

/// One step; replicas are counted modulo how many there are.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// The replica makes changes in one transaction.
    Edit {
        replica: usize,
        changes: Vec<u64>,
    },
    /// A replica gets one of the updates that are on their way to it, in any order.
    Deliver {
        to: usize,
        which: u64,
        manner: Manner,
        /// Whether what it then sends, its echoes, goes on to the others.
        echo: bool,
    },
    /// A replica gets what it lacks of another one, by state vector.
    Difference {
        from: usize,
        to: usize,
    },
    /// Our replica is stored and read again.
    Reload,
    Undo,
    Redo,
}

/// How an update is delivered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Manner {
    Once,
    /// It will come again.
    Again,
    /// With others, merged into one update by one of the replicas' libraries.
    Merged {
        count: usize,
        by: usize,
    },
}

/// The steps of a seed.
pub(crate) fn steps(random: &mut Random, replicas: usize) -> Vec<Step> {
    let count = 20 + random.below(60);
    // Some scripts deliver seldom, so that much is concurrent.
    let delivery = [25, 45, 60][random.below(3)];
    let step = |random: &mut Random| match random.below(100) {
        0..4 => Step::Undo,
        4..6 => Step::Redo,
        6..8 => Step::Reload,
        8..12 => {
            let from = random.below(replicas);
            let to = (from + 1 + random.below(replicas - 1)) % replicas;
            Step::Difference { from, to }
        }
        at if at < 12 + delivery => Step::Deliver {
            to: random.below(replicas),
            which: random.next(),
            manner: match random.below(6) {
                0 => Manner::Again,
                1 => Manner::Merged {
                    count: 2 + random.below(6),
                    by: random.below(replicas),
                },
                _ => Manner::Once,
            },
            echo: random.below(4) == 0,
        },
        _ => Step::Edit {
            replica: random.below(replicas),
            changes: {
                let count = [1, 1, 1, 2, 3, 5][random.below(6)];
                (0..count).map(|_| random.next()).collect()
            },
        },
    };
    (0..count).map(|_| step(random)).collect()
}

/// Gives a raw number its meaning for a document as it is now.
pub(crate) fn change(
    number: u64,
    tree: &Tree,
    can_move: bool,
    next_id: &mut dyn FnMut() -> String,
) -> Result<Change> {
    let mut random = Random(number);
    let random = &mut random;
    let all = tree.all();
    let texts: Vec<&Tree> = all.iter().copied().filter(|one| one.tag == TEXT).collect();
    let below_root = &all[1..];
    let kind = match random.below(100) {
        0..25 if all.len() > MANY => 30,
        kind => kind,
    };
    Ok(match (kind, random.pick(below_root), random.pick(&texts)) {
        (25..33, Some(element), _) => Change::Delete {
            id: id(element).unwrap_or_default(),
        },
        (33..48, _, _) => set(random, &all),
        (48..52, Some(element), _) => {
            let names: Vec<&String> = element
                .attributes
                .keys()
                .filter(|&name| name != ID)
                .collect();
            match random.pick(&names) {
                Some(&name) => Change::Remove {
                    id: id(element),
                    name: name.clone(),
                },
                None => set(random, &all),
            }
        }
        (52..58, Some(element), _) if can_move => relocate(random, tree, element)?,
        (52..78, _, Some(text)) => insert_text(random, text),
        (78..88, _, Some(text)) => {
            let (id, from, to) = range(random, text);
            Change::DeleteText { id, from, to }
        }
        (88..100, _, Some(text)) => {
            let (id, from, to) = range(random, text);
            let formats = formats(random, true);
            Change::FormatText {
                id,
                from,
                to,
                formats,
            }
        }
        _ => insert(random, tree, &all, next_id),
    })
}

fn insert(
    random: &mut Random,
    tree: &Tree,
    all: &[&Tree],
    next_id: &mut dyn FnMut() -> String,
) -> Change {
    let is_shallow = |one: &&Tree| tree.path(one.id()).is_some_and(|path| path.len() < DEEP);
    let around: Vec<&Tree> = {
        let all = all.iter().copied().filter(|one| one.tag != TEXT);
        all.filter(is_shallow).collect()
    };
    // The root half of the time, so that there are places with many siblings.
    let parent = random.below(2) * random.below(around.len());
    let parent = around[parent];
    Change::Insert {
        parent: id(parent),
        index: place(random, parent.children.len()),
        element: element(random, 2, next_id),
    }
}

/// A new element, with others in it up to this depth.
fn element(random: &mut Random, depth: usize, next_id: &mut dyn FnMut() -> String) -> Tree {
    let is_text = random.below(5) < 2;
    let mut new = Tree {
        tag: if is_text { TEXT } else { "item" }.to_owned(),
        ..Tree::default()
    };
    new.attributes.insert(ID.into(), next_id().into());
    for _ in 0..random.below(3) {
        let (name, value) = attribute(random, &new);
        new.attributes.insert(name, value);
    }
    if is_text {
        for _ in 0..random.below(4) {
            new.runs.push((characters(random), formats(random, false)));
        }
    } else if depth > 0 {
        for _ in 0..[0, 0, 0, 1, 2][random.below(5)] {
            new.children.push(element(random, depth - 1, next_id));
        }
    }
    new
}

fn set(random: &mut Random, all: &[&Tree]) -> Change {
    let target = all[random.below(all.len())];
    let (name, value) = attribute(random, target);
    Change::Set {
        id: id(target),
        name,
        value,
    }
}

/// An attribute that the schema of the golden documents knows.
fn attribute(random: &mut Random, element: &Tree) -> (String, Value) {
    let text = |random: &mut Random| match random.below(5) {
        0 => Value::Null,
        _ => characters(random).into(),
    };
    match (element.tag.as_str(), random.below(3)) {
        ("", _) => ("title".into(), text(random)),
        (TEXT, _) => ("lang".into(), text(random)),
        (_, 0) => ("s".into(), text(random)),
        (_, 1) => {
            let numbers = [
                json!(0.0),
                json!(1.0),
                json!(-7.0),
                json!(64.0),
                json!(0.5),
                json!(-1e-9),
                json!(3_000_000_000.0),
                json!(9_007_199_254_740_991.0),
                json!(1e300),
                Value::Null,
            ];
            ("n".into(), numbers[random.below(numbers.len())].clone())
        }
        _ => ("b".into(), json!(random.below(2) == 0)),
    }
}

fn relocate(random: &mut Random, tree: &Tree, element: &Tree) -> Result<Change> {
    let id = id(element).unwrap_or_default();
    let mut others = tree.clone();
    others.take(&id)?;
    let around = others.all().into_iter();
    let around: Vec<&Tree> = around.filter(|one| one.tag != TEXT).collect();
    let parent = around[random.below(around.len())];
    Ok(Change::Move {
        id,
        parent: parent.id().map(str::to_owned),
        index: place(random, parent.children.len()),
    })
}

fn insert_text(random: &mut Random, text: &Tree) -> Change {
    let length = text.plain().chars().count();
    Change::InsertText {
        id: id(text).unwrap_or_default(),
        at: place(random, length),
        text: characters(random),
        formats: (random.below(3) == 0).then(|| formats(random, false)),
    }
}

fn range(random: &mut Random, text: &Tree) -> (String, usize, usize) {
    let length = text.plain().chars().count();
    let from = random.below(length + 1);
    let to = from + random.below((length - from).min(8) + 1);
    (id(text).unwrap_or_default(), from, to)
}

/// The ends are where things go wrong.
fn place(random: &mut Random, length: usize) -> usize {
    match random.below(6) {
        0 => 0,
        1 => length,
        _ => random.below(length + 1),
    }
}

fn characters(random: &mut Random) -> String {
    const SAMPLES: [&str; 12] = [
        "a",
        "b",
        "word",
        "two words",
        "ä",
        "😀",
        "👩‍👩‍👧",
        "x😀y",
        "\u{301}",
        "漢字",
        "<b>&\"",
        "\n",
    ];
    let mut text = String::new();
    for _ in 0..=random.below(3) {
        text.push_str(SAMPLES[random.below(SAMPLES.len())]);
    }
    text
}

fn formats(random: &mut Random, or_none: bool) -> BTreeMap<String, Value> {
    let mut formats = BTreeMap::new();
    let least = usize::from(or_none);
    for _ in 0..least + random.below(2) {
        let (name, values) = match random.below(3) {
            0 => ("bold", vec![json!(true)]),
            1 => ("color", vec![json!("red"), json!("blue")]),
            _ => ("link", vec![json!({ "href": "a", "n": [1.0, null] })]),
        };
        let takes_away = or_none && random.below(3) == 0;
        let value = random.pick(&values).filter(|_| !takes_away);
        formats.insert(name.to_owned(), value.cloned().unwrap_or(Value::Null));
    }
    formats
}

fn id(element: &Tree) -> Option<String> {
    element.id().map(str::to_owned)
}
