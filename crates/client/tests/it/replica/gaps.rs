//! Updates that wait on the server for missing operations, and the fills that bring them.

use super::*;

#[test]
fn a_gap_is_filled_with_what_the_server_lacks() {
    let mut replica = Replica::new(document(1));
    append(&mut replica, "lost");
    let lost = sent(&mut replica).remove(0);
    // An acknowledgement arrives, but the server does not have the update.
    replica.acknowledged(lost.number);
    append(&mut replica, "next");
    let next = sent(&mut replica).remove(0);
    let mut server = document(2);
    server.apply_update(&next.update).unwrap();
    assert!(server.has_gap());
    assert!(
        replica
            .fill_gap(next.number, &server.state_vector())
            .unwrap()
    );
    assert!(!replica.is_saved(), "saved is what is shown");
    let fill = sent(&mut replica).remove(0);
    server.apply_update(&fill.update).unwrap();
    assert_eq!(texts(&server), ["lost", "next"]);
    replica.acknowledged(fill.number);
    assert!(replica.is_saved());
    assert!(replica.fill_gap(99, b"nonsense").is_err());

    // A server that always reports a gap is not sent the same fill forever.
    append(&mut replica, "more");
    let mut number = sent(&mut replica).remove(0).number;
    let mut fills = 0;
    while replica.fill_gap(number, &[0]).unwrap() {
        number = sent(&mut replica).remove(0).number;
        fills += 1;
        assert!(fills < 100);
    }
}

#[test]
fn answers_before_a_fill_is_sent_encode_nothing() {
    let mut replica = Replica::new(document(1));
    append(&mut replica, "lost");
    let lost = sent(&mut replica).remove(0);
    replica.acknowledged(lost.number);
    append(&mut replica, "one");
    let one = sent(&mut replica).remove(0);
    append(&mut replica, "two");
    let two = sent(&mut replica).remove(0);
    assert!(replica.fill_gap(one.number, &[0]).unwrap());
    // While a fill is queued, the state vector is not even decoded.
    assert_eq!(replica.fill_gap(two.number, b"nonsense"), Ok(true));
    assert_eq!(sent(&mut replica).len(), 1);
}

#[test]
fn a_fill_is_sent_again_and_first() {
    let mut replica = Replica::new(document(1));
    let [lost, next] = ["lost", "next"].map(|text| {
        append(&mut replica, text);
        sent(&mut replica).remove(0)
    });
    replica.acknowledged(lost.number);
    let mut server = document(2);
    server.apply_update(&next.update).unwrap();
    let vector = server.state_vector();
    assert!(replica.fill_gap(next.number, &vector).unwrap());
    append(&mut replica, "later");
    assert_eq!(sent(&mut replica).len(), 2);
    replica.unsent();
    assert_eq!(
        replica.saved_number(),
        lost.number,
        "what waits is not saved"
    );
    let again = sent(&mut replica);
    for one in &again {
        let kind = server.classify(&one.update).unwrap();
        assert_eq!(kind, UpdateKind::New, "nothing has to wait any more");
        server.apply_update(&one.update).unwrap();
        replica.acknowledged(one.number);
    }
    assert_eq!(texts(&server), ["lost", "next", "later"]);
    assert_eq!(replica.saved_number(), replica.last_number());
}

/// The fill waits for the edits that are tried alone, and must not be sent before them again.
#[test]
fn fill_that_waits_for_edits_is_not_sent_again_before_them() {
    let mut replica = Replica::new(document(1));
    append(&mut replica, "lost");
    let lost = sent(&mut replica).remove(0);
    replica.acknowledged(lost.number);
    append(&mut replica, "一");
    append(&mut replica, "BAD");
    let both = sent(&mut replica).remove(0);
    append(&mut replica, "later");
    let later = sent(&mut replica).remove(0);
    assert!(replica.fill_gap(later.number, &[0]).unwrap());
    let fill = sent(&mut replica).remove(0);
    assert!(replica.refused(both.number), "its parts are tried alone");
    assert!(replica.fill_gap(fill.number, &[0]).unwrap());
    let next = sent(&mut replica).remove(0);
    assert!(next.number < both.number, "{next:?} is not the first part");
}

#[test]
fn what_is_stored_and_waits_is_not_saved_when_its_fill_is_refused() {
    let mut replica = Replica::new(document(1));
    append(&mut replica, "BAD");
    let lost = sent(&mut replica).remove(0);
    replica.acknowledged(lost.number);
    append(&mut replica, "next");
    let next = sent(&mut replica).remove(0);
    // The server was restored, and lacks the first edit.
    let mut server = Picky::new();
    server.document.apply_update(&next.update).unwrap();
    let vector = server.document.state_vector();
    assert!(replica.fill_gap(next.number, &vector).unwrap());
    assert!(server.serve(&mut replica), "the fill is refused");
    assert!(!replica.is_saved());
    let lost = replica.start_over(server.again(2));
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0].update, next.update);
}
