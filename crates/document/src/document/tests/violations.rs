//! Documents that violate their schema, and their state after a repair.

use serde_json::json;
use yrs::types::xml::XmlIn;
use yrs::{
    Array, Doc, Map, MapPrelim, ReadTxn, Text, Transact, TransactionMut, WriteTxn, Xml,
    XmlElementPrelim, XmlElementRef, XmlFragment, XmlFragmentRef, XmlTextPrelim,
};

use super::{counter, document};
use crate::test;

fn element(
    transaction: &mut TransactionMut<'_>,
    parent: &impl XmlFragment,
    tag: &str,
    id: Option<&str>,
) -> XmlElementRef {
    let element = parent.push_back(transaction, XmlElementPrelim::empty(tag));
    if let Some(id) = id {
        element.insert_attribute(transaction, "$id", id);
    }
    element
}

/// Edits as a foreign program; checks the violations found, and the state after the repair.
fn check(edit: impl Fn(&mut TransactionMut<'_>, &XmlFragmentRef), pointers: &[&str]) {
    let sound = json!({"doc": {"title": "T", "children": [
        {"item": {"$id": "a", "s": "x", "children": [{"item": {"$id": "b", "children": []}}]}},
        {"text": {"$id": "t", "children": [{"text": {"delta": [{"insert": "hi", "attributes": {}}]}}]}},
    ]}});
    let mut ours = document(1);
    ours.insert_json(&sound, &mut counter()).unwrap();
    assert_eq!(ours.violations(), []);
    assert_eq!(ours.repair(), None);

    let foreign = Doc::with_client_id(9);
    let update = {
        let mut transaction = foreign.transact_mut();
        let root = transaction.get_or_insert_xml_fragment("xml");
        let state = yrs::updates::decoder::Decode::decode_v1(&ours.encode_state());
        transaction.apply_update(state.unwrap()).unwrap();
        let before = transaction.state_vector();
        edit(&mut transaction, &root);
        transaction.encode_diff_v1(&before)
    };
    ours.apply_update(&update).unwrap();
    let found: Vec<String> = ours
        .violations()
        .into_iter()
        .map(|one| one.pointer)
        .collect();
    assert_eq!(found, pointers);
    let mut other = document(2);
    other.apply_update(&ours.encode_state()).unwrap();

    let repair = ours.repair().unwrap();
    assert_eq!(repair.violations.len(), pointers.len());
    assert_eq!(ours.violations(), []);
    assert_eq!(ours.repair(), None);
    assert_eq!(ours.to_json(true), sound);
    // Another replica makes the same repair independently, and both converge.
    let alike = other.repair().unwrap();
    ours.apply_update(&alike.update).unwrap();
    other.apply_update(&repair.update).unwrap();
    for document in [&mut ours, &mut other] {
        assert_eq!(document.violations(), []);
        assert_eq!(document.to_json(true), sound);
    }
}

fn first(root: &XmlFragmentRef, transaction: &TransactionMut<'_>, at: u32) -> XmlElementRef {
    root.get(transaction, at)
        .unwrap()
        .into_xml_element()
        .unwrap()
}

#[test]
fn repair_removes_only_violations() {
    // An unknown tag, a child at a wrong place, a missing `$id`, a duplicate `$id`.
    check(
        |transaction, root| {
            element(transaction, root, "li", Some("1"));
        },
        &["/doc/children/2/li"],
    );
    check(
        |transaction, root| {
            let text = first(root, transaction, 1);
            element(transaction, &text, "item", Some("1"));
        },
        &["/doc/children/1/text/children/1/item"],
    );
    check(
        |transaction, root| {
            element(transaction, root, "item", None);
        },
        &["/doc/children/2/item"],
    );
    check(
        |transaction, root| {
            element(transaction, root, "item", Some("b"));
        },
        &["/doc/children/2/item"],
    );
    // Attributes: unknown, of a wrong type, a shared type; on the root too.
    check(
        |transaction, root| {
            let item = first(root, transaction, 0);
            item.insert_attribute(transaction, "nope", 1_i64);
            item.insert_attribute(transaction, "n", "x");
            let nested = MapPrelim::from([("k", "v")]);
            item.insert_attribute(transaction, "b", nested);
        },
        &[
            "/doc/children/0/item/b",
            "/doc/children/0/item/n",
            "/doc/children/0/item/nope",
        ],
    );
    check(
        |transaction, _| {
            let attributes = transaction.get_or_insert_map("xml.attributes");
            attributes.insert(transaction, "nope", 1_i64);
        },
        &["/doc/nope"],
    );
    check(
        |transaction, root| {
            let text = first(root, transaction, 1);
            let content = text.get(transaction, 0).unwrap().into_xml_text().unwrap();
            content.insert_attribute(transaction, "loud", true);
        },
        &["/doc/children/1/text/children/0//loud"],
    );
    // A number that JSON can't represent prints as null, but is not null.
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        check(
            |transaction, root| {
                let item = first(root, transaction, 0).get(transaction, 0).unwrap();
                let item = item.into_xml_element().unwrap();
                for name in ["s", "n", "b"] {
                    item.insert_attribute(transaction, name, number);
                }
            },
            &[
                "/doc/children/0/item/children/0/item/b",
                "/doc/children/0/item/children/0/item/n",
                "/doc/children/0/item/children/0/item/s",
            ],
        );
    }
    // Content other than attributes in the root's attributes.
    check(
        |transaction, _| {
            let text = transaction.get_or_insert_text("xml.attributes");
            text.push(transaction, "hidden 隐藏");
            text.insert_embed(transaction, 2, yrs::Any::Bool(true));
        },
        &[""],
    );
    check(
        |transaction, _| {
            let array = transaction.get_or_insert_array("xml.attributes");
            array.push_back(transaction, vec![0_u8; 10]);
            array.push_back(transaction, 1_i64);
        },
        &[""],
    );
    // Shared types that are not part of an element tree.
    check(
        |transaction, _| {
            let map = transaction.get_or_insert_map("elsewhere");
            map.insert(transaction, "k", MapPrelim::default());
        },
        &[""],
    );
    check(
        |transaction, root| {
            let item = first(root, transaction, 0);
            let array: &yrs::ArrayRef = item.as_ref();
            array.push_back(transaction, "😀 loose");
            array.push_back(transaction, MapPrelim::default());
        },
        &["/doc/children/0/item", "/doc/children/0/item"],
    );
    check(
        |transaction, root| {
            let item = first(root, transaction, 0);
            let loose: XmlIn = XmlTextPrelim::new("loose").into();
            item.push_back(transaction, loose);
            let text = first(root, transaction, 1);
            text.push_back(transaction, XmlTextPrelim::new("second"));
            let content = text.get(transaction, 0).unwrap().into_xml_text().unwrap();
            content.insert_embed(transaction, 1, true);
        },
        &[
            "/doc/children/1/text/children/0/",
            "/doc/children/0/item",
            "/doc/children/1/text",
        ],
    );
}
