//! Updates that some readers can't decode: the unfit part is removed, and nothing else of its
//! author.

use meshagent_protocol::Content;
use serde_json::{Value, json};
use yrs::updates::decoder::Decode as _;
use yrs::{Doc, GetString as _, ReadTxn as _, Transact as _, Update};

use super::{Seen, World};

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    let pairs = (0..hex.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn what_one_editor_alone_can_read_keeps_nothing_else_out() {
    let golden: Value = serde_json::from_str(include_str!(
        "../../../../../testdata/vectors/documents.json"
    ))
    .unwrap();
    let sessions: Vec<Value> =
        serde_json::from_str(include_str!("../../../../../testdata/vectors/misfits.json")).unwrap();
    for session in sessions {
        let what = session[0].as_str().unwrap();
        let mut world = World::new();
        let (author, reader) = (world.join("作者"), world.join("reader"));
        let start = json!({ "path": "ä.document", "schema": golden["about"]["schema"] });
        world.open(&author, "a", start);
        let mut states = vec![world.open(&reader, "r", json!({ "path": "ä.document" }))];
        let (mut is_told, mut is_removed) = (false, false);
        for (number, update) in session[1].as_array().unwrap().iter().enumerate() {
            let id = world.update(&author, "a", &bytes(update));
            world.settle();
            let seen = author.take();
            is_told |= seen.iter().any(|seen| matches!(seen, Seen::Chunk(..)));
            let answer = seen.into_iter().find_map(|seen| match seen {
                Seen::Answer(request, content) if request == id => Some(content),
                _ => None,
            });
            match answer.unwrap() {
                Content::Empty => assert_ne!(number, 1, "{what}"),
                Content::Json(notice) => {
                    assert_eq!(number, 1, "{what}: {notice}");
                    is_removed = notice["violation_count"] == 1;
                    assert!(is_removed || notice["halves"] == 1, "{what}: {notice}");
                }
                other => panic!("{what}, {number}: {other:?}"),
            }
        }
        states.extend(reader.changes("r"));
        let doc = Doc::with_client_id(7);
        for update in states {
            let update = Update::decode_v1(&update).unwrap();
            doc.transact_mut().apply_update(update).unwrap();
        }
        let transaction = doc.transact();
        let shown = transaction.get_xml_fragment("xml").unwrap();
        let shown = shown.get_string(&transaction);
        assert!(shown.contains("later 🌿 "), "{what}: {shown}");

        // The author deletes what is already deleted, and sends everything again after an outage.
        assert_eq!(is_told, is_removed, "{what}");
        let commits = world.store.commits();
        let again = world.update(&author, "a", &bytes(&session[2]));
        world.settle();
        let answer = author.answer(again);
        let is_known = match &answer {
            Content::Empty => true,
            Content::Json(notice) => notice["deleted"].is_u64() || notice["halves"].is_u64(),
            _ => false,
        };
        assert!(is_known, "{what}: {answer:?}");
        assert_eq!(world.store.commits(), commits, "{what}");
    }
}
