//! The queue of a replica without a server: edits are kept, merged, sent again and given up.

mod gaps;

use std::time::Duration;

use meshagent_client::{Outgoing, Replica};
use meshagent_document::{MeshDocument, MeshSchema, Target, UpdateKind};
use serde_json::json;

fn document(client_id: u64) -> MeshDocument {
    MeshDocument::new(MeshSchema::builtin("document").unwrap(), client_id)
}

fn append(replica: &mut Replica, text: &str) -> String {
    let element = json!({ "body": { "text": text } });
    replica
        .edit(|d| d.append_child(Target::Root, element))
        .unwrap()
}

/// All updates that may be sent now.
fn sent(replica: &mut Replica) -> Vec<Outgoing> {
    std::iter::from_fn(|| replica.next_to_send()).collect()
}

fn texts(document: &MeshDocument) -> Vec<String> {
    let texts = document
        .root()
        .children()
        .filter_map(|child| child.attribute("text"));
    texts
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn what_waits_is_merged_and_counts_as_saved_together() {
    let mut replica = Replica::new(document(1));
    append(&mut replica, "one");
    let first = sent(&mut replica);
    assert_eq!(first.len(), 1);
    for text in ["two", "three", "four"] {
        append(&mut replica, text);
    }
    let second = sent(&mut replica);
    assert_eq!(second.len(), 1, "one message for all that waited");
    assert_eq!(replica.last_number(), 4);
    replica.acknowledged(second[0].number);
    assert_eq!(replica.saved_number(), 0, "the first is not there yet");
    replica.acknowledged(first[0].number);
    assert_eq!(replica.saved_number(), 4);
    assert!(replica.is_saved());

    let mut other = document(2);
    for one in [&first[0], &second[0]] {
        other.apply_update(&one.update).unwrap();
    }
    assert_eq!(texts(&other), ["one", "two", "three", "four"]);
}

#[test]
fn what_deletes_goes_out_alone() {
    let mut replica = Replica::new(document(1));
    let ids: Vec<String> = (0..4)
        .map(|n| append(&mut replica, &n.to_string()))
        .collect();
    for id in &ids[..2] {
        assert!(replica.edit(|d| d.delete(id)).unwrap());
    }
    append(&mut replica, "last");
    append(&mut replica, "very last");
    // The insertions before, two deletions, and the insertions after them.
    assert_eq!(sent(&mut replica).len(), 4);
}

#[test]
fn what_was_under_way_is_sent_again_and_not_too_much_at_once() {
    let mut replica = Replica::new(document(1));
    let long = "x".repeat(300 << 10);
    for _ in 0..6 {
        append(&mut replica, &long);
    }
    let first = sent(&mut replica);
    assert_eq!(first.len(), 4, "more than a megabyte is not under way");
    replica.acknowledged(first[0].number);
    assert_eq!(sent(&mut replica).len(), 1);
    replica.unsent();
    let again = sent(&mut replica);
    assert_eq!(again[..3], first[1..], "the same bytes in the same order");
    assert_eq!(replica.unsaved().count(), 5);
}

#[test]
fn edits_with_another_between_them_are_not_merged() {
    let mut replica = Replica::new(document(1));
    let [one, two, three] = ["one", "two", "three"].map(|text| {
        append(&mut replica, text);
        sent(&mut replica).remove(0)
    });
    // The server's disk failed for the first edit but not for the second, which depends on the
    // first.
    replica.acknowledged(two.number);
    replica.unsent();
    // A merged update would depend on the second edit, which in turn depends on the update, so a
    // server that accepts few pending updates could refuse it.
    assert_eq!(sent(&mut replica), [one, three]);
}

#[test]
fn what_does_not_build_on_a_refused_edit_is_kept() {
    let mut replica = Replica::new(document(1));
    let mut other = document(7);
    let stranger = other
        .append_child(
            Target::Root,
            json!({ "body": { "text": "stranger" } }),
            &mut || "s".to_owned(),
        )
        .unwrap()
        .unwrap();
    append(&mut replica, "refused");
    let refused = sent(&mut replica).remove(0);
    append(&mut replica, "after it");
    replica.adopt(stranger).unwrap();
    replica.refused(refused.number);
    assert_eq!(texts(replica.document()).len(), 3, "until it starts over");
    let lost = replica.start_over(document(3));
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0].update, refused.update);
    assert_eq!(lost[0].changes[0]["inserted"]["body"]["text"], "refused");
    assert_eq!(texts(replica.document()), ["after it", "stranger"]);
    assert_eq!(replica.unsaved().count(), 2);
    append(&mut replica, "new");
    let mut server = document(4);
    while let Some(one) = replica.next_to_send() {
        server.apply_update(&one.update).unwrap();
        replica.acknowledged(one.number);
    }
    assert_eq!(server.to_json(true), replica.document().to_json(true));
    assert!(replica.is_saved());
}

#[test]
fn what_was_changed_before_a_panic_is_kept() {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    let mut replica = Replica::new(document(1));
    let own = append(&mut replica, "früher");
    let element = json!({ "body": { "text": "漢字 🌿" } });
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        replica.edit(|d| {
            d.append_child(Target::Root, element).unwrap();
            d.set_attribute(Target::Id(own), "text", json!("eins"))
                .unwrap();
            panic!("as a program does");
        })
    }));
    assert!(panicked.is_err());
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        replica.edit_with(|document| {
            let element = json!({ "body": { "text": "two" } });
            let made = document.append_child(Target::Root, element, &mut || "two".to_owned());
            made.unwrap();
            panic!("again");
        });
    }));
    assert!(panicked.is_err());
    assert!(!replica.is_saved());
    append(&mut replica, "later");

    let mut other = document(2);
    for one in sent(&mut replica) {
        other.apply_update(&one.update).unwrap();
        replica.acknowledged(one.number);
    }
    assert!(replica.is_saved());
    assert_eq!(texts(&other), ["eins", "漢字 🌿", "two", "later"]);
    assert_eq!(other.to_json(true), replica.document().to_json(true));
}

#[test]
fn many_edits_offline_are_kept_as_what_is_left_of_them() {
    let schema = MeshSchema::builtin("document").unwrap();
    let mut replica = Replica::new(MeshDocument::new(schema.clone(), 1));
    let mut server = MeshDocument::new(schema.clone(), 2);
    let mut insert = |text: &str| {
        let element = json!({ "body": { "text": text } });
        replica
            .edit(|d| d.append_child(Target::Root, element))
            .unwrap()
    };
    let (one, other) = (insert("eins"), insert("zwei"));
    // The server has these, so the first change of each one overwrites content that is not only
    // local.
    server
        .apply_update(&replica.document().encode_state())
        .unwrap();
    while let Some(next) = replica.next_to_send() {
        replica.acknowledged(next.number);
    }
    for number in 0..20_000 {
        let id = if number % 2 == 0 { &one } else { &other };
        let text = format!("{number} 🌿");
        replica
            .edit(|d| d.set_attribute(Target::Id(id.clone()), "text", text))
            .unwrap();
    }
    assert!(!replica.is_saved());
    assert_eq!(replica.last_number(), 20_002);
    let state = replica.document().encode_state().len();
    let kept: usize = replica.unsaved().map(<[u8]>::len).sum();
    // Edits since the last compaction are not compacted yet.
    assert!(kept < 4 * state + (16 << 10), "{kept} bytes of {state}");
    while let Some(next) = replica.next_to_send() {
        server.apply_update(&next.update).unwrap();
        replica.acknowledged(next.number);
    }
    assert!(replica.is_saved());
    assert_eq!(server.to_json(true), replica.document().to_json(true));
    assert!(
        replica
            .document()
            .is_covered_by(&server.state_vector(), &[&server.encode_state()])
            .unwrap()
    );
}

/// A server that refuses updates with a certain text, whether they are pending or not.
struct Picky {
    document: MeshDocument,
    refused: usize,
}

impl Picky {
    fn new() -> Self {
        let document = document(1000);
        Self {
            document,
            refused: 0,
        }
    }

    /// Answers updates until none is left or the replica must start over. Returns whether it must.
    fn serve(&mut self, replica: &mut Replica) -> bool {
        let mut answers = std::collections::VecDeque::new();
        loop {
            answers.extend(sent(replica));
            let Some(next) = answers.pop_front() else {
                return false;
            };
            if next.update.windows(3).any(|bytes| bytes == b"BAD") {
                self.refused += 1;
                if !replica.refused(next.number) {
                    // The updates that were sent after it arrive nevertheless.
                    for one in answers {
                        self.document.apply_update(&one.update).unwrap();
                    }
                    return true;
                }
                continue;
            }
            self.document.apply_update(&next.update).unwrap();
            if self.document.has_gap() {
                let vector = self.document.state_vector();
                assert!(replica.fill_gap(next.number, &vector).unwrap());
            } else {
                replica.acknowledged(next.number);
            }
        }
    }

    /// The server's content in a new replica.
    fn again(&self, client: u64) -> MeshDocument {
        let mut again = document(client);
        again.apply_update(&self.document.encode_state()).unwrap();
        again
    }
}

#[test]
fn merged_edits_are_tried_apart_before_one_is_given_up() {
    let mut replica = Replica::new(document(1));
    let mut server = Picky::new();
    for number in 0..100 {
        let text = if number == 37 { "BAD" } else { "good" };
        append(&mut replica, text);
    }
    assert!(server.serve(&mut replica));
    assert!(server.refused < 10, "{}", server.refused);
    let lost = replica.start_over(server.again(2));
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert_eq!(lost[0].edits, 1);
    assert_eq!(lost[0].changes[0]["inserted"]["body"]["text"], "BAD");
    assert!(!server.serve(&mut replica));
    assert!(replica.is_saved());
    assert_eq!(replica.saved_number(), replica.last_number());
    assert_eq!(texts(&server.document), ["good"; 99]);
    assert_eq!(
        server.document.to_json(true),
        replica.document().to_json(true)
    );
}

#[test]
fn compacted_edits_are_tried_apart_as_well() {
    let mut replica = Replica::new(document(1));
    let mut server = Picky::new();
    let id = append(&mut replica, "first");
    assert!(!server.serve(&mut replica));
    for number in 0..3_000 {
        let text = match number {
            1_500 => "BAD".to_owned(),
            _ => format!("{number}"),
        };
        let target = Target::Id(id.clone());
        replica
            .edit(|d| d.set_attribute(target, "text", text))
            .unwrap();
    }
    append(&mut replica, "BAD");
    append(&mut replica, "last");
    let mut lost = Vec::new();
    for client in 2.. {
        if !server.serve(&mut replica) {
            break;
        }
        lost.extend(replica.start_over(server.again(client)));
    }
    assert!(replica.is_saved());
    assert!(server.refused < 100, "{}", server.refused);
    assert_eq!(texts(&server.document), ["2999", "last"]);
    assert_eq!(
        server.document.to_json(true),
        replica.document().to_json(true)
    );
    assert_eq!(
        lost.last().unwrap().changes[0]["inserted"]["body"]["text"],
        "BAD"
    );
}

#[test]
fn what_waits_for_a_refused_edit_is_neither_lost_nor_there_twice() {
    let mut replica = Replica::new(document(1));
    let mut server = Picky::new();
    append(&mut replica, "BAD");
    let refused = sent(&mut replica).remove(0);
    append(&mut replica, "next");
    let next = sent(&mut replica).remove(0);
    server.document.apply_update(&next.update).unwrap();
    assert!(server.document.has_gap());
    assert!(!replica.refused(refused.number));
    replica.start_over(server.again(2));
    assert!(!server.serve(&mut replica));
    assert!(!server.document.has_gap());
    assert_eq!(texts(&server.document), ["next"]);
    assert!(replica.is_saved());
    // An update that arrives late is already known.
    server.document.apply_update(&refused.update).unwrap();
    assert_eq!(texts(&server.document), ["next"]);
    assert_eq!(
        server.document.to_json(true),
        replica.document().to_json(true)
    );
}

#[expect(
    clippy::redundant_closure_for_method_calls,
    reason = "a method of an editor is not one of every editor"
)]
#[test]
fn undo_goes_on_after_a_refusal() {
    let mut replica = Replica::new(document(1));
    let mut server = Picky::new();
    replica.edit(|d| d.remember_edits(Duration::ZERO));
    append(&mut replica, "first");
    assert!(!server.serve(&mut replica));
    append(&mut replica, "BAD");
    append(&mut replica, "last");
    assert!(server.serve(&mut replica));
    replica.start_over(server.again(2));
    assert_eq!(texts(replica.document()), ["first", "last"]);
    assert!(replica.edit(|d| d.undo()));
    assert_eq!(texts(replica.document()), ["first"]);
    assert!(replica.edit(|d| d.redo()));
    assert!(replica.edit(|d| d.undo() && d.undo()));
    assert!(!replica.edit(|d| d.undo()));
    assert!(texts(replica.document()).is_empty());
    assert!(!server.serve(&mut replica));
    assert!(texts(&server.document).is_empty());
}

#[test]
fn nothing_is_missing_before_a_blank_when_an_edit_before_it_is_refused_later() {
    let mut replica = Replica::new(document(1));
    append(&mut replica, "é");
    let id = append(&mut replica, "BAD");
    let target = Target::Id(id);
    replica
        .edit(|d| d.set_attribute(target, "text", json!("BAD 漢")))
        .unwrap();
    sent(&mut replica);
    append(&mut replica, "zu groß");
    let refused = sent(&mut replica).pop().unwrap();
    append(&mut replica, "🌿");
    sent(&mut replica);
    assert!(!replica.refused(refused.number));
    // The last edit is made again, and a blank follows those before the refused one.
    replica.start_over(document(2));
    let mut server = Picky::new();
    for client in 3..20 {
        // One by one, so that what follows a refused update was not sent.
        let Some(next) = replica.next_to_send() else {
            break;
        };
        if !next.update.windows(3).any(|bytes| bytes == b"BAD") {
            server.document.apply_update(&next.update).unwrap();
            assert!(!server.document.has_gap(), "{next:?}");
            replica.acknowledged(next.number);
        } else if !replica.refused(next.number) {
            replica.start_over(server.again(client));
        }
    }
    assert!(replica.is_saved());
    assert!(!replica.document().has_gap());
    assert_eq!(texts(&server.document), ["é", "🌿"]);
    assert_eq!(texts(replica.document()), ["é", "🌿"]);
}

#[test]
fn everything_is_refused_one_by_one_and_an_end_is_found() {
    let mut replica = Replica::new(document(1));
    let mut server = Picky::new();
    for number in 0..500 {
        append(&mut replica, &format!("BAD {number}"));
    }
    let mut lost = 0;
    for client in 2..10_000 {
        if !server.serve(&mut replica) {
            break;
        }
        let given_up = replica.start_over(server.again(client));
        lost += given_up.iter().map(|one| one.edits).sum::<u64>();
    }
    assert!(replica.is_saved());
    assert_eq!(lost, 500);
    assert!(server.refused < 200, "{}", server.refused);
}

#[test]
fn good_edits_behind_many_refused_ones_are_kept() {
    let mut replica = Replica::new(document(1));
    let mut server = Picky::new();
    for number in 0..100 {
        append(&mut replica, if number < 55 { "BAD" } else { "good" });
    }
    let mut lost = Vec::new();
    for client in 2.. {
        if !server.serve(&mut replica) {
            break;
        }
        lost.extend(replica.start_over(server.again(client)));
    }
    let edits: Vec<u64> = lost.iter().map(|one| one.edits).collect();
    assert_eq!(edits, [1; 55]);
    assert!(replica.is_saved());
    assert_eq!(texts(&server.document), ["good"; 45]);
    assert_eq!(
        server.document.to_json(true),
        replica.document().to_json(true)
    );
}

#[test]
fn who_may_not_write_any_more_is_given_back_all_edits_and_nothing_else() {
    let mut replica = Replica::new(document(1));
    let mut server = Picky::new();
    append(&mut replica, "BAD");
    append(&mut replica, "next");
    assert!(server.serve(&mut replica));
    // The edit that was made again, and the update that replaces the old one, are in flight.
    replica.start_over(server.again(2));
    append(&mut replica, "last");
    assert!(!sent(&mut replica).is_empty());
    replica.all_refused();
    assert_eq!(replica.next_to_send(), None);
    let lost = replica.start_over(server.again(3));
    let texts: Vec<_> = lost
        .iter()
        .map(|one| &one.changes[0]["inserted"]["body"]["text"])
        .collect();
    assert_eq!(texts, ["next", "last"]);
    assert!(replica.is_saved());
    assert_eq!(replica.document().root().child_count(), 0);
}
