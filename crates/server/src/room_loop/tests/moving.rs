//! Moves of many participants at the same time, and the requests of others between them.

use meshagent_store::{MemoryStore, Store as _};

use super::*;

#[test]
fn moves_of_many_participants_give_way_to_requests_of_others() {
    // Also of a participant whose last request took long.
    for took in [5, 50] {
        moves_give_way(Duration::from_millis(took));
    }
}

fn moves_give_way(took: Duration) {
    const MOVERS: usize = 12;
    let store = MemoryStore::new();
    let room = RoomId::new("project", "room");
    let files: Vec<Write> = (0..MOVERS)
        .map(|number| Write::PutFile {
            room: room.clone(),
            path: format!("Ä{number}/файл"),
            data: "x".into(),
            mime_type: String::new(),
            overwrite: false,
            at: Timestamp(0),
        })
        .collect();
    store.commit(&files).unwrap();
    let mut world = World::new();
    let movers: Vec<Member> = (0..MOVERS)
        .map(|number| world.join(&format!("möver{number}")))
        .collect();
    let writer = world.join("ünschuldig");
    world.settle(&store);
    // The writer has used more of the room's time than any mover.
    world.ask(&writer, 1);
    world.turn(took);
    for (number, mover) in movers.iter().enumerate() {
        mover.answered();
        world.say(mover, rename(&format!("Ä{number}"), &format!("Ö{number}")));
    }
    writer.answered();
    let (mut committing, mut moves, mut answered_after) = (None, 0, None);
    loop {
        match world.room.next(Timestamp(0)) {
            Next::Work { .. } => world.room.work(Timestamp(0), || Duration::ZERO),
            Next::Commit(writes) => {
                committing = Some(store.commit(&writes));
                if moves == 0 {
                    world.ask(&writer, 2);
                }
            }
            Next::Fetch(..) | Next::End => panic!("nobody asked for it"),
            Next::Wait { goes_on, .. } => match committing.take() {
                Some(result) => {
                    moves += 1;
                    world
                        .room
                        .committed(result.map_err(Arc::new), Duration::ZERO);
                }
                None if goes_on => world.room.go_on(),
                None => break,
            },
        }
        if writer.answered() == [2] {
            answered_after = Some(moves);
        }
    }
    assert_eq!(moves, MOVERS, "each mover had its turn");
    assert_eq!(
        answered_after,
        Some(1),
        "moves before the answer, after {took:?}"
    );
}

#[test]
fn moves_have_their_turn_beside_requests_without_end() {
    let store = MemoryStore::new();
    fill_folder(&store, 3);
    let mut world = World::new();
    let (mover, other) = (world.join("möver"), world.join("ünschuldig"));
    world.settle(&store);
    mover.answered();
    for (from, to) in [("F", "Ü"), ("Ü", "F")] {
        world.say(&mover, rename(from, to));
    }
    let (mut turns, mut id, mut moved, mut committing) = (0, 1, 0, None);
    while moved < 2 {
        assert!(turns < 100, "{moved} moves in {turns} turns");
        match world.room.next(Timestamp(0)) {
            Next::Work { .. } => {
                let clock = &world.clock;
                clock.set(Duration::ZERO);
                // Each request takes a millisecond.
                world.room.work(Timestamp(0), || {
                    clock.set(clock.get() + Duration::from_millis(1));
                    clock.get()
                });
                turns += 1;
            }
            Next::Commit(writes) => committing = Some(store.commit(&writes)),
            Next::Wait { .. } => {
                while world.room.queues.len() < TURN {
                    world.ask(&other, id);
                    id += 1;
                }
                match committing.take() {
                    Some(result) => world
                        .room
                        .committed(result.map_err(Arc::new), Duration::ZERO),
                    None => world.room.go_on(),
                }
            }
            next => panic!("unexpected: {next:?}"),
        }
        moved += mover.answered().len();
    }
}
