//! Real editing histories, written concurrently by other replicas, end here as they ended there.

use std::io::Read;

use serde_json::Value;
use yrs::updates::decoder::Decode;
use yrs::{
    Doc, OffsetKind, Options, Text, Transact, Update, WriteTxn, Xml, XmlElementPrelim, XmlFragment,
    XmlTextPrelim, XmlTextRef,
};

use super::document;
use crate::test;

/// An author's replica, and how many of the transactions it has seen.
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
        // Positions are those of a text of characters of one unit each, which these are.
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
    let mut at_once = document(98);
    at_once.apply_update(&start).unwrap();
    at_once
        .apply_update(&crate::merge_updates(&updates).unwrap())
        .unwrap();
    assert_eq!(
        at_once.node("t").unwrap().text().unwrap().to_plain(),
        text,
        "{name}"
    );
}

#[test]
fn concurrent_histories_end_as_they_did() {
    check(
        "friendsforever",
        include_bytes!("../../../../../testdata/traces/friendsforever.json.gz"),
    );
    check(
        "clownschool",
        include_bytes!("../../../../../testdata/traces/clownschool.json.gz"),
    );
}
