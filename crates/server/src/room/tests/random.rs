//! Random traffic from a seed: every request is answered once, all readers end with the same
//! document, and a pure reader never sees a document that breaks its schema.

use std::collections::HashMap;

use meshagent_document::{MeshDocument, MeshSchema};
use meshagent_store::Fault;
use serde_json::json;

use super::{Client, Content, Control, Editor, Seen, World, code, sync_chunk};
use crate::config::Config;

/// A small generator (`SplitMix64`, Steele et al. 2014), so that a seed determines a run.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

struct Actor {
    client: Client,
    editor: Editor,
    replica: MeshDocument,
    open: bool,
    asked: Vec<u64>,
    answered: Vec<u64>,
    /// Edits that the server has not answered. It does not send an author its own edits.
    unconfirmed: HashMap<u64, Vec<u8>>,
    edits: u64,
}

impl Actor {
    fn new(world: &mut World, number: u64) -> Self {
        Self {
            client: world.join(&format!("actor{number}")),
            editor: Editor::new(1000 + number),
            replica: MeshDocument::new(MeshSchema::builtin("document").unwrap(), 5000 + number),
            open: false,
            asked: Vec::new(),
            answered: Vec::new(),
            unconfirmed: HashMap::new(),
            edits: 0,
        }
    }

    /// Reads what arrived, and echoes each change as the published clients do.
    fn read(&mut self, world: &mut World) {
        for seen in self.client.take() {
            match seen {
                Seen::Answer(id, content) => {
                    self.answered.push(id);
                    if let Some(update) = self.unconfirmed.remove(&id)
                        && code(&content).is_none()
                    {
                        self.replica.apply_update(&update).unwrap();
                    }
                }
                Seen::Chunk(_, Content::Binary { data, .. }) => {
                    if !data.is_empty() {
                        let update = base64::Engine::decode(&super::STANDARD, &data).unwrap();
                        self.replica.apply_update(&update).unwrap();
                    }
                    self.asked
                        .push(world.chunk(&self.client, "s", sync_chunk(data)));
                }
                Seen::Chunk(_, Content::Control(Control::Close { .. }) | Content::Error { .. }) => {
                    self.open = false;
                }
                Seen::Chunk(..) | Seen::Other(_) => {}
            }
        }
    }

    fn open(&mut self, world: &mut World) {
        if !std::mem::replace(&mut self.open, true) {
            // The number of the invocation directly precedes that of the start chunk.
            let start = world.begin_open(&self.client, "s", json!({ "path": "a.document" }));
            self.asked.extend([start - 1, start]);
        }
    }
}

fn run(seed: u64) {
    let mut random = Random(seed);
    let mut config = Config::default();
    config.limits.max_outbox_bytes = 4 << 10;
    config.snapshot_every = 20;
    let mut world = World::with_config(config);
    let mut witness = Actor::new(&mut world, 9);
    witness.open(&mut world);
    let mut actors: Vec<Actor> = (0..5)
        .map(|number| Actor::new(&mut world, number))
        .collect();
    for _ in 0..400 {
        let chosen = usize::try_from(random.below(5)).unwrap();
        let actor = &mut actors[chosen];
        match random.below(16) {
            0 => actor.open(&mut world),
            1..6 if actor.open => {
                actor.edits += 1;
                let id = format!("{chosen}-{}", actor.edits);
                // Sometimes the schema does not allow the element.
                let tag = if random.below(5) == 0 {
                    "nonsense"
                } else {
                    "body"
                };
                let update = actor.editor.append(tag, &id);
                let asked = world.update(&actor.client, "s", &update);
                actor.asked.push(asked);
                actor.unconfirmed.insert(asked, update);
            }
            6 if actor.open => {
                let close = Content::Control(Control::close());
                actor.asked.push(world.chunk(&actor.client, "s", close));
                actor.open = false;
            }
            7 => actor.asked.push(world.invoke(
                &actor.client,
                "sync",
                "describe",
                json!({ "path": "a.document" }),
            )),
            8 => {
                let commits = world.store.commits();
                world
                    .store
                    .fail_commits(commits..commits + 1, Fault::Unavailable);
            }
            9 => world.pass_seconds(1),
            10..13 => {
                world.commit();
            }
            _ => {
                actor.read(&mut world);
                let conn = actor.client.conn;
                world.room.handle_drained(conn);
            }
        }
        witness.read(&mut world);
        assert_eq!(witness.replica.violations(), [], "seen by a reader");
        world.room.handle_drained(witness.client.conn);
    }
    world.store.recover();
    world.settle();
    world.pass_seconds(3);
    for actor in &mut actors {
        actor.read(&mut world);
        actor.open(&mut world);
    }
    for _ in 0..6 {
        world.settle();
        for actor in &mut actors {
            actor.read(&mut world);
            let conn = actor.client.conn;
            world.room.handle_drained(conn);
        }
    }
    assert_eq!(actors[0].replica.violations(), [], "what ends up is valid");
    let expected = actors[0].replica.to_json(true);
    for actor in &mut actors {
        actor.asked.sort_unstable();
        actor.answered.sort_unstable();
        assert_eq!(actor.asked, actor.answered, "each request is answered once");
        assert_eq!(actor.replica.to_json(true), expected, "all readers agree");
    }
}

#[test]
fn every_request_is_answered_once_and_all_readers_agree() {
    let seeds = match std::env::var("MESHAGENT_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..100).collect(),
    };
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| run(seed));
        assert!(
            outcome.is_ok(),
            "repeat with: MESHAGENT_SEED={seed} cargo test -p meshagent-server every_request"
        );
    }
}
