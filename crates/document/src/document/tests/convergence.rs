//! Replicas that get the same updates converge, in any order and with duplicates.

use super::document;
use crate::document::MeshDocument;
use crate::test;

/// A small generator, so that a seed reproduces a failing run.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % limit as u64).unwrap()
    }
}

/// Edits through the API of yrs, as another program would.
pub(super) fn edit(doc: &yrs::Doc, random: &mut Random, serial: &mut u32) -> Vec<u8> {
    use yrs::{Transact, WriteTxn, Xml, XmlElementPrelim, XmlFragment, XmlOut};
    let mut transaction = doc.transact_mut();
    let root = transaction.get_or_insert_xml_fragment("xml");
    for _ in 0..=random.below(3) {
        let length = root.len(&transaction);
        let target = if length == 0 {
            None
        } else {
            let at = u32::try_from(random.below(length as usize)).unwrap();
            root.get(&transaction, at)
                .and_then(XmlOut::into_xml_element)
                .map(|element| (at, element))
        };
        match (random.below(5), target) {
            (0 | 1, Some((_, element))) => {
                let value = i64::try_from(random.below(100)).unwrap();
                element.insert_attribute(&mut transaction, "n", value);
            }
            (2, Some((at, _))) => root.remove(&mut transaction, at),
            (3, Some((_, element))) => {
                *serial += 1;
                let child = element.insert(&mut transaction, 0, XmlElementPrelim::empty("item"));
                let id = format!("{}-{serial}", doc.client_id().get());
                child.insert_attribute(&mut transaction, "$id", id);
            }
            _ => {
                let at = random.below(length as usize + 1);
                let at = u32::try_from(at).unwrap();
                *serial += 1;
                let child = root.insert(&mut transaction, at, XmlElementPrelim::empty("item"));
                let id = format!("{}-{serial}", doc.client_id().get());
                child.insert_attribute(&mut transaction, "$id", id);
            }
        }
    }
    transaction.encode_update_v1()
}

fn shuffled(updates: &[Vec<u8>], random: &mut Random) -> Vec<Vec<u8>> {
    let mut order: Vec<Vec<u8>> = updates.to_vec();
    for _ in 0..updates.len() / 3 {
        order.push(updates[random.below(updates.len())].clone());
    }
    for at in (1..order.len()).rev() {
        order.swap(at, random.below(at + 1));
    }
    order
}

#[test]
fn replicas_converge_in_any_order_with_duplicates() {
    use yrs::updates::decoder::Decode;
    use yrs::{Transact, Update};
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let authors = [11, 22, 33].map(yrs::Doc::with_client_id);
        let mut serial = 0;
        let mut updates: Vec<Vec<u8>> = Vec::new();
        for _ in 0..30 {
            let author = &authors[random.below(3)];
            let update = edit(author, &mut random, &mut serial);
            for other in &authors {
                if random.below(3) > 0 {
                    let decoded = Update::decode_v1(&update).unwrap();
                    other.transact_mut().apply_update(decoded).unwrap();
                }
            }
            updates.push(update);
        }
        // Some replicas get the rest only now, so edits are concurrent.
        let mut replicas: Vec<MeshDocument> = Vec::new();
        for client in 1..4 {
            let mut replica = document(client);
            let mut follower = document(client + 10);
            for update in shuffled(&updates, &mut random) {
                let applied = replica.apply_update(&update).unwrap();
                if let Some(visible) = applied.visible {
                    let followed = follower.apply_update(&visible).unwrap();
                    assert!(!followed.gap && !follower.has_gap(), "seed {seed}");
                }
            }
            assert!(!replica.has_gap(), "seed {seed}");
            replicas.push(replica);
            replicas.push(follower);
        }
        for replica in &replicas[1..] {
            replica.engine.check();
            assert_eq!(
                replica.to_json(true),
                replicas[0].to_json(true),
                "seed {seed}"
            );
            assert_eq!(
                replica.state_vector(),
                replicas[0].state_vector(),
                "seed {seed}"
            );
            assert_eq!(
                replica.element_count(),
                replicas[0].element_count(),
                "seed {seed}"
            );
            let echo = replica.classify(&replicas[0].encode_state());
            assert_eq!(echo, Ok(crate::UpdateKind::Contained), "seed {seed}");
        }
        // The index by `$id` agrees with the tree.
        let document = &replicas[0];
        let mut seen = 0;
        let mut stack = vec![document.root()];
        while let Some(element) = stack.pop() {
            for child in element.children() {
                seen += 1;
                let id = child.id().unwrap();
                assert_eq!(document.node(id).unwrap().id(), Some(id), "seed {seed}");
                stack.push(child);
            }
        }
        assert_eq!(seen, document.element_count(), "seed {seed}");
    }
}
