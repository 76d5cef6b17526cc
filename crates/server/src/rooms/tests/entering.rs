//! Joining a room that is ending.

use super::*;

/// A join has reserved a place in the mailbox, but not sent its envelope, when the empty room ends.
#[tokio::test]
async fn who_is_half_way_in_as_a_room_ends_goes_to_the_next_and_no_second_room_runs() {
    let mut given_back = 0;
    for seed in 0..20 {
        let server = Server::start();
        let rooms = &server.rooms;
        let Way::Open(mailbox) = rooms.enter("grün") else {
            panic!("nobody is stopping");
        };
        let place = mailbox.inputs.clone().reserve_owned().await.unwrap();
        for _ in 0..seed {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(seed % 3)).await;
        let (late, late_outbox) = joining(rooms, "late");
        let (entering, outcome) = Entering::new(late);
        place.send(Letter::new(
            RoomInput::Join(Conn(1_000), entering),
            0,
            None,
            meshagent_ledger::Held::none(),
        ));
        let outcome = tokio::time::timeout(Duration::from_secs(5), outcome);
        let outcome = outcome.await.expect("it waits for ever").unwrap();
        if let Err(back) = outcome {
            given_back += 1;
            let joined = rooms.join("grün", back, std::future::pending()).await;
            assert!(matches!(joined, Joined::In(..)), "{joined:?}");
        }
        let next = tokio::time::timeout(Duration::from_secs(5), join(rooms, "grün"));
        let next = next.await.expect("the next one may join");
        for outbox in [&late_outbox, &next.outbox] {
            let welcome = tokio::time::timeout(Duration::from_secs(5), outbox.take());
            let welcome = welcome.await.expect("it waits for ever");
            assert!(
                welcome.is_some_and(|messages| !messages.is_empty()),
                "{seed}"
            );
        }
        assert_eq!(server.metrics.rooms.get(), 1, "{seed}");
        server.end().await;
    }
    assert!(given_back > 0, "no room was ending");
}
