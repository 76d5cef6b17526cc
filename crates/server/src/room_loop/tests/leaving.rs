//! What the loop keeps of peers that have gone: nothing.

use std::time::Duration;

use super::{Conn, Entering, RoomInput, World};

#[test]
fn who_left_leaves_nothing_behind() {
    let mut world = World::new();
    for round in 0..3 {
        let member = world.join(&format!("gäst{round}"));
        world.ask(&member, 1);
        world.hand_in(RoomInput::Leave(member.conn));
        drop(member.account);
    }
    while world.room.queues.peek(false).is_some() {
        world.turn(Duration::ZERO);
    }
    assert!(world.room.queues.is_forgotten());
}

#[test]
fn join_of_a_peer_that_has_gone_leaves_nothing_behind() {
    let mut world = World::new();
    for number in 0..3 {
        let joining = world.joining(&format!("gäst{number}"), 1 << 20);
        let (entering, outcome) = Entering::new(joining);
        drop(outcome);
        world.hand_in(RoomInput::Join(Conn(100 + number), entering));
    }
    while world.room.queues.peek(false).is_some() {
        world.turn(Duration::ZERO);
    }
    assert!(world.room.queues.is_forgotten());
}
