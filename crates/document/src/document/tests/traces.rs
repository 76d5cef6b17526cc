//! Real editing histories, by one author or several, give the recorded result.

use std::io::Read;

use serde_json::Value;
use yrs::updates::decoder::Decode;
use yrs::{
    Doc, OffsetKind, Options, Text, Transact, Update, WriteTxn, Xml, XmlElementPrelim, XmlFragment,
    XmlTextPrelim, XmlTextRef,
};

use super::document;
use crate::document::MeshDocument;
use crate::test;

/// An author's replica, and the number of transactions it has seen.
struct Author {
    doc: Doc,
    text: XmlTextRef,
    seen: Vec<bool>,
}

fn author(client_id: u64, transactions: usize, start: &[u8]) -> Author {
    let mut options = Options::with_client_id(yrs::ClientID::new(client_id));
    options.offset_kind = OffsetKind::Utf16;
    let doc = Doc::with_options(options);
    let text = {
        let mut transaction = doc.transact_mut();
        let root = transaction.get_or_insert_xml_fragment("xml");
        transaction
            .apply_update(Update::decode_v1(start).unwrap())
            .unwrap();
        let element = root
            .get(&transaction, 0)
            .unwrap()
            .into_xml_element()
            .unwrap();
        element
            .get(&transaction, 0)
            .unwrap()
            .into_xml_text()
            .unwrap()
    };
    let seen = vec![false; transactions];
    Author { doc, text, seen }
}

fn start() -> Vec<u8> {
    let doc = Doc::with_client_id(1);
    let mut transaction = doc.transact_mut();
    let root = transaction.get_or_insert_xml_fragment("xml");
    let element = root.push_back(&mut transaction, XmlElementPrelim::empty("text"));
    element.insert_attribute(&mut transaction, "$id", "t");
    element.push_back(&mut transaction, XmlTextPrelim::new(""));
    transaction.encode_update_v1()
}

/// All transactions that these build on.
fn ancestors(transactions: &[Value], parents: &[usize], seen: &[bool]) -> Vec<usize> {
    let mut found = std::collections::BTreeSet::new();
    let mut stack = parents.to_vec();
    while let Some(parent) = stack.pop() {
        if !seen[parent] && found.insert(parent) {
            stack.extend(indices(&transactions[parent]["parents"]));
        }
    }
    found.into_iter().collect()
}

fn indices(list: &Value) -> Vec<usize> {
    let list = list.as_array().unwrap().iter();
    list.map(|index| usize::try_from(index.as_u64().unwrap()).unwrap())
        .collect()
}

fn read(compressed: &[u8]) -> Value {
    let mut json = String::new();
    flate2::read::GzDecoder::new(compressed)
        .read_to_string(&mut json)
        .unwrap();
    serde_json::from_str(&json).unwrap()
}

fn check(name: &str, trace: &[u8]) {
    let trace = read(trace);
    let transactions = trace["txns"].as_array().unwrap();
    let start = start();
    let agents = trace["numAgents"].as_u64().unwrap();
    let mut authors: Vec<Author> = (0..agents)
        .map(|agent| author(agent + 2, transactions.len(), &start))
        .collect();
    let mut ours = document(99);
    ours.apply_update(&start).unwrap();
    let mut updates: Vec<Vec<u8>> = Vec::with_capacity(transactions.len());
    for (index, one) in transactions.iter().enumerate() {
        let author = &mut authors[usize::try_from(one["agent"].as_u64().unwrap()).unwrap()];
        let mut transaction = author.doc.transact_mut();
        for missing in ancestors(transactions, &indices(&one["parents"]), &author.seen) {
            let update = Update::decode_v1(&updates[missing]).unwrap();
            transaction.apply_update(update).unwrap();
            author.seen[missing] = true;
        }
        drop(transaction);
        // Positions count characters, each of one unit in these traces.
        let mut transaction = author.doc.transact_mut();
        for patch in one["patches"].as_array().unwrap() {
            let at = u32::try_from(patch[0].as_u64().unwrap()).unwrap();
            let deleted = u32::try_from(patch[1].as_u64().unwrap()).unwrap();
            let inserted = patch[2].as_str().unwrap();
            if deleted > 0 {
                author.text.remove_range(&mut transaction, at, deleted);
            }
            author.text.insert(&mut transaction, at, inserted);
        }
        let update = transaction.encode_update_v1();
        author.seen[index] = true;
        let applied = ours.apply_update(&update).unwrap();
        assert!(!applied.gap, "{name} {index}");
        updates.push(update);
    }
    let text = ours.node("t").unwrap().text().unwrap().to_plain();
    assert_eq!(text, trace["endContent"].as_str().unwrap(), "{name}");
    let updates: Vec<&[u8]> = updates.iter().map(Vec::as_slice).collect();
    let mut merged = document(98);
    merged.apply_update(&start).unwrap();
    merged
        .apply_update(&crate::merge_updates(&updates).unwrap())
        .unwrap();
    assert_eq!(
        merged.node("t").unwrap().text().unwrap().to_plain(),
        text,
        "{name}"
    );
}

#[test]
fn concurrent_histories_give_recorded_text() {
    check(
        "friendsforever",
        include_bytes!("../../../../../testdata/traces/friendsforever.json.gz"),
    );
    check(
        "clownschool",
        include_bytes!("../../../../../testdata/traces/clownschool.json.gz"),
    );
}

/// An author who writes the trace keystroke by keystroke, as a replica would send it. Each
/// character is one unit.
struct Scribe {
    clock: u32,
    /// The clocks of the visible units, in order.
    units: Vec<u32>,
}

impl Scribe {
    const CLIENT: u32 = 2;

    /// The v1 update of one transaction's patches.
    fn update(&mut self, patches: &[Value]) -> Vec<u8> {
        let mut items = Vec::new();
        let mut count = 0;
        let start = self.clock;
        let mut deleted = Vec::new();
        for patch in patches {
            let [at, length] = [&patch[0], &patch[1]]
                .map(|number| usize::try_from(number.as_u64().unwrap()).unwrap());
            deleted.extend(self.units.drain(at..at + length));
            let inserted = patch[2].as_str().unwrap();
            if inserted.is_empty() {
                continue;
            }
            self.item(&mut items, at, inserted);
            count += 1;
        }
        let mut update = Vec::new();
        if count == 0 {
            write(&mut update, 0);
        } else {
            for number in [1, count, Self::CLIENT, start] {
                write(&mut update, number);
            }
            update.extend(items);
        }
        write(&mut update, u32::from(!deleted.is_empty()));
        if !deleted.is_empty() {
            deleted.sort_unstable();
            let ranges = || deleted.chunk_by(|a, b| a + 1 == *b);
            write(&mut update, Self::CLIENT);
            write(&mut update, length(ranges().count()));
            for range in ranges() {
                write(&mut update, range[0]);
                write(&mut update, length(range.len()));
            }
        }
        update
    }

    /// A text between the left and right neighbours of a position.
    fn item(&mut self, out: &mut Vec<u8>, at: usize, text: &str) {
        const TEXT: u8 = 4;
        const HAS_RIGHT: u8 = 0x40;
        const HAS_LEFT: u8 = 0x80;
        let left = at.checked_sub(1).map(|at| self.units[at]);
        let right = self.units.get(at).copied();
        let flag = |is_set: bool, bit| if is_set { bit } else { 0 };
        out.push(TEXT | flag(left.is_some(), HAS_LEFT) | flag(right.is_some(), HAS_RIGHT));
        for neighbour in [left, right].into_iter().flatten() {
            write(out, Self::CLIENT);
            write(out, neighbour);
        }
        if left.is_none() && right.is_none() {
            // The parent is an operation of the start: its client, its clock.
            for number in [0, 1, 2] {
                write(out, number);
            }
        }
        write(out, length(text.len()));
        out.extend(text.as_bytes());
        let units = length(text.encode_utf16().count());
        self.units
            .splice(at..at, self.clock..self.clock + units)
            .for_each(drop);
        self.clock += units;
    }
}

fn write(out: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap()
}

fn check_sequential(name: &str, trace: &[u8]) {
    let trace = read(trace);
    let mut ours = document(99);
    ours.apply_update(&start()).unwrap();
    let mut scribe = Scribe {
        clock: 0,
        units: Vec::new(),
    };
    for (index, transaction) in trace["txns"].as_array().unwrap().iter().enumerate() {
        let update = scribe.update(transaction["patches"].as_array().unwrap());
        let applied = ours.apply_update(&update).unwrap();
        assert!(!applied.gap, "{name} {index}");
    }
    let end = trace["endContent"].as_str().unwrap();
    let text = |document: &MeshDocument| document.node("t").unwrap().text().unwrap().to_plain();
    assert_eq!(text(&ours), end, "{name}");
    let mut from_state = document(98);
    from_state.apply_update(&ours.encode_state()).unwrap();
    assert_eq!(text(&from_state), end, "{name}");
}

#[test]
fn paper_trace_gives_recorded_text() {
    check_sequential(
        "automerge-paper",
        include_bytes!("../../../../../testdata/traces/automerge-paper.json.gz"),
    );
}

#[test]
fn blog_post_trace_gives_recorded_text() {
    check_sequential(
        "json-crdt-blog-post",
        include_bytes!("../../../../../testdata/traces/json-crdt-blog-post.json.gz"),
    );
}
