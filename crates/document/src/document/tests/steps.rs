//! A state in steps, for replicas whose users can be told one change at a time.

use std::sync::{Arc, Mutex};

use yrs::types::{Change, Event};
use yrs::updates::decoder::Decode;
use yrs::{DeepObservable, ReadTxn, Transact, Update};

use super::convergence::{Random, edit};
use super::document;
use crate::test;

fn apply(doc: &yrs::Doc, update: &[u8]) {
    let decoded = Update::decode_v1(update).unwrap();
    doc.transact_mut().apply_update(decoded).unwrap();
}

#[test]
fn each_step_deletes_in_one_place_at_most() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let authors = [11, 22].map(yrs::Doc::with_client_id);
        let late = yrs::Doc::with_client_id(99);
        let root = late.get_or_insert_xml_fragment("xml");
        let mut replica = document(1);
        let mut serial = 0;
        for round in 0..60 {
            let update = edit(&authors[round % 2], &mut random, &mut serial);
            apply(&authors[(round + 1) % 2], &update);
            replica.apply_update(&update).unwrap();
            if round < 30 {
                apply(&late, &update);
            }
        }

        // How often each event of an update deletes children, and whether anything follows that.
        let deletions: Arc<Mutex<Vec<(usize, bool)>>> = Arc::default();
        let noted = Arc::clone(&deletions);
        root.observe_deep("test", move |transaction, events| {
            for event in events.iter() {
                let Event::XmlFragment(event) = event else {
                    continue;
                };
                let delta = event.delta(transaction);
                let is_removal = |change: &Change| matches!(change, Change::Removed(_));
                let count = delta.iter().filter(|change| is_removal(change)).count();
                let is_last = delta.last().is_some_and(is_removal);
                noted.lock().unwrap().push((count, is_last));
            }
        });
        let steps = replica.encode_in_steps(10_000).unwrap();
        for (number, step) in steps.iter().enumerate() {
            apply(&late, step);
            let mut seen = std::mem::take(&mut *deletions.lock().unwrap());
            seen.retain(|(count, _)| *count > 0);
            let is_alone = number > 0 && seen == [(1, true)];
            assert!(
                seen.is_empty() || is_alone,
                "seed {seed}, step {number}: {seen:?}"
            );
        }
        let mut reader = document(2);
        reader
            .apply_update(
                &late
                    .transact()
                    .encode_state_as_update_v1(&yrs::StateVector::default()),
            )
            .unwrap();
        assert_eq!(reader.to_json(true), replica.to_json(true), "seed {seed}");
        assert_eq!(replica.encode_in_steps(steps.len() - 1), None);
    }
}
