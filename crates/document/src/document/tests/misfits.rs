//! Content that Yjs writes and yrs rejects: it is repaired for both, so that its author's other
//! operations are not blocked.
//!
//! `testdata/vectors/misfits.json` contains updates of Yjs 13.6.33: an element with a text, then an
//! unsupported operation, then more text; and the whole state.

use serde_json::Value;
use yrs::updates::decoder::Decode as _;
use yrs::{Doc, GetString as _, ReadTxn as _, Transact as _, Update, XmlFragment as _};

use super::{bytes, document};
use crate::document::Limits;
use crate::test;
use crate::update::{Fitted, UpdateKind, fit_update};

/// The updates and the whole state, by the unsupported content.
fn sessions() -> Vec<(String, Vec<Vec<u8>>, Vec<u8>)> {
    let sessions: Vec<Value> =
        serde_json::from_str(include_str!("../../../../../testdata/vectors/misfits.json")).unwrap();
    let bytes = |hex: &Value| bytes(hex.as_str().unwrap());
    let session = |session: &Value| {
        let sent = session[1].as_array().unwrap().iter().map(bytes).collect();
        (
            session[0].as_str().unwrap().to_owned(),
            sent,
            bytes(&session[2]),
        )
    };
    sessions.iter().map(session).collect()
}

fn fit(update: &[u8]) -> Fitted {
    fit_update(update, &Limits::default()).unwrap()
}

#[test]
fn unsupported_operation_does_not_block_others() {
    for (what, sent, state) in sessions() {
        let mut here = document(9);
        let doc = Doc::with_client_id(7);
        for (number, update) in sent.iter().enumerate() {
            let fitted = fit(update);
            let is_unfit = number == 1;
            assert_eq!(here.inspect(update).is_err(), is_unfit, "{what}");
            assert_eq!(
                fitted.halves > 0 || !fitted.removed.is_empty(),
                is_unfit,
                "{what}: {fitted:?}"
            );
            let inspection = here.inspect(&fitted.update).unwrap();
            assert_eq!(inspection.kind, UpdateKind::New, "{what}, {number}");
            let applied = here.apply_update(&fitted.update).unwrap();
            assert!(!applied.gap, "{what}, {number}");
            here.repair();
            let update = Update::decode_v1(&applied.visible.unwrap()).unwrap();
            doc.transact_mut().apply_update(update).unwrap();
        }
        here.engine.check();
        let text = here.node("a").unwrap().text().unwrap().to_plain();
        assert!(text.starts_with("later 🌿 漢"), "{what}: {text}");
        let transaction = doc.transact();
        let root = transaction.get_xml_fragment("xml").unwrap();
        let shown = root.get_string(&transaction);
        assert!(shown.contains("later 🌿 "), "{what}: {shown}");
        assert_eq!(root.len(&transaction), 1, "{what}");

        // The whole state, sent again after an outage, is an echo; a new replica gets the same.
        let whole = fit(&state).update;
        let inspection = here.inspect(&whole).unwrap();
        assert_eq!(inspection.kind, UpdateKind::Contained, "{what}");
        let mut late = document(10);
        late.apply_update(&whole).unwrap();
        late.repair();
        assert_eq!(late.to_json(true), here.to_json(true), "{what}");
    }
}

#[test]
fn author_must_delete_removed_operation() {
    for (what, sent, _) in sessions() {
        let Fitted {
            update, removed, ..
        } = fit(&sent[1]);
        let scan = crate::update::scan::Scan::read(&update).unwrap();
        assert_eq!(scan.deletes.len(), removed.total(), "{what}: {removed:?}");
    }
}

#[test]
fn surrogate_halves_become_replacement_characters() {
    let (_, sent, _) = sessions().swap_remove(0);
    let mut here = document(9);
    for update in &sent {
        here.apply_update(&fit(update).update).unwrap();
    }
    let json = here.to_json(false).to_string();
    assert!(json.contains("cut \u{fffd}"), "{json}");
}

#[test]
fn malformed_updates_are_not_repaired() {
    let root = [1, 3, b'x', b'm', b'l'];
    for content in [
        // A format and an embedded object that are not JSON.
        &[6, 1, b'k', 2, b'[', b'1'][..],
        &[5, 4, b'"', b'\\', b'x', b'"'],
    ] {
        let (kind, content) = content.split_first().unwrap();
        let update = [&[1, 1, 5, 0, *kind][..], &root, content, &[0]].concat();
        assert!(document(1).inspect(&update).is_err(), "{content:?}");
        assert!(
            fit_update(&update, &Limits::default()).is_err(),
            "{content:?}"
        );
    }
}
