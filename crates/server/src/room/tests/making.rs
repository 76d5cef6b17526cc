//! What a turn makes is charged before it is made: texts of descriptions, and what the turn drops
//! again.

use meshagent_ledger::{Held, Kind};
use serde_json::{Value, json};

use super::{Client, Content, Editor, World, code};
use crate::config::Config;

const MIB: usize = 1 << 20;
/// The characters of each document. Each is one byte of it, and six of its JSON: `\u0001`.
const CHARACTERS: usize = 100_000;
const PATHS: [&str; 4] = ["a.document", "b.document", "ç.document", "d.document"];

/// A world with documents that are six times as long as JSON.
fn world(config: Config) -> World {
    let mut world = World::with_config(config);
    let writer = world.join("writer");
    for path in PATHS {
        let text = "\u{1}".repeat(CHARACTERS);
        let json = json!({ "document": { "content": [{ "body": { "text": text } }] } });
        let input = json!({ "path": path, "json": json });
        assert_eq!(world.call(&writer, "sync", "create", input), Content::Empty);
    }
    world.leave(&writer);
    // Nothing shared remains of their creation.
    world.pass_seconds(15);
    world
}

/// A participant for each document requests its description.
fn ask(world: &mut World) -> Vec<Client> {
    let ask = |path: &&str| {
        let reader = world.join(path);
        world.invoke(&reader, "sync", "describe", json!({ "path": path }));
        reader
    };
    let readers = PATHS.iter().map(ask).collect();
    world.settle();
    readers
}

/// Reads until each has its answer. Returns the most shared bytes on the way.
fn read_all(world: &mut World, readers: &[Client]) -> usize {
    let (mut answers, mut most) = (0, world.room.usage.shared_bytes());
    for _ in 0..60 {
        for reader in readers {
            answers += reader.take().len();
        }
        world.pass_seconds(1);
        most = most.max(world.room.usage.shared_bytes());
    }
    assert_eq!(answers, readers.len());
    most
}

#[test]
fn a_description_takes_the_space_of_its_text_and_not_of_its_document() {
    let mut config = Config::default();
    config.limits.max_shared_bytes = 11 * CHARACTERS;
    let mut world = world(config);
    let readers = ask(&mut world);
    let shared = world.room.usage.shared_bytes();
    assert!(shared >= 6 * CHARACTERS, "{shared} bytes");
    let most = shared.max(read_all(&mut world, &readers));
    assert!(most <= 11 * CHARACTERS, "{most} bytes");
}

#[test]
fn while_the_server_is_full_descriptions_have_a_quarter_of_their_bound() {
    let mut config = Config::default();
    config.limits.max_held_bytes = 8 * MIB;
    config.limits.max_shared_bytes = 4 * 7 * CHARACTERS;
    let mut world = world(config);
    let common = world.room.usage.common();
    let full = common.charge_anyway(Kind::Received, 8 * MIB);
    let readers = ask(&mut world);
    let most = world.room.usage.shared_bytes();
    assert!(most >= 6 * CHARACTERS, "one is made: {most} bytes");
    let most = most.max(read_all(&mut world, &readers));
    assert!(most <= 7 * CHARACTERS, "{most} bytes");
    drop(full);
    assert_eq!(world.room.usage.ledger().held_of(Kind::Work), 0);
}

#[test]
fn a_description_waits_for_what_other_rooms_make() {
    let mut world = world(Config::default());
    let quarter = Config::default().limits.max_held_bytes / 4;
    let elsewhere = world.room.usage.ledger().account("elsewhere");
    let work = elsewhere.try_work(quarter).unwrap();
    let readers = ask(&mut world);
    world.pass_seconds(3);
    assert!(readers.iter().all(|reader| reader.take().is_empty()));
    drop(work);
    read_all(&mut world, &readers);
}

#[test]
fn a_patch_that_needs_a_copy_is_refused_while_other_rooms_make_copies() {
    let mut config = Config::default();
    // So that a copy decides whether the patch fits.
    config.limits.max_update_bytes = MIB;
    let quarter = config.limits.max_held_bytes / 4;
    let mut world = world(config);
    let ann = world.join("ann");
    let value = json!({ "body": { "text": "字".repeat(CHARACTERS) } });
    let add = json!({ "op": "add", "path": "/document/content/-", "value": value });
    let patch = json!({ "path": PATHS[0], "patch": [add], "dry_run": true });
    let held = |world: &World| world.room.usage.ledger().held_of(Kind::Work);
    let elsewhere = world.room.usage.ledger().account("elsewhere");
    let work = elsewhere.try_work(quarter).unwrap();
    let refused = world.call(&ann, "sync", "patch", patch.clone());
    assert_eq!(code(&refused), Some(1008), "{refused:?}");
    assert_eq!(held(&world), quarter);
    drop(work);
    // A patch that is much larger than the bound is tried alone.
    let account = std::sync::Arc::clone(&world.room.participants[&ann.conn].account);
    world
        .room
        .hold(Held::from(account.charge_anyway(Kind::Received, quarter)));
    let answer = world.call(&ann, "sync", "patch", patch);
    let result = |answer: &Value| answer["operations"][0]["result"] == "applied";
    assert!(
        matches!(&answer, Content::Json(json) if result(json)),
        "{answer:?}"
    );
    assert_eq!(held(&world), 0);
}

/// Before, each commit measured all documents whose description waited for memory.
#[test]
fn documents_whose_descriptions_wait_are_not_measured_with_each_edit() {
    let mut config = Config::default();
    config.limits.max_shared_bytes = 40 * CHARACTERS;
    let mut world = world(config);
    let (writer, reader) = (world.join("writer"), world.join("lësbar"));
    let account = std::sync::Arc::clone(&world.room.participants[&reader.conn].account);
    // What another connection of the participant does not read.
    let unread = account.take_over(vec![0; 14 * CHARACTERS].into());
    for path in PATHS {
        world.open(&writer, path, json!({ "path": path }));
        world.invoke(&reader, "sync", "describe", json!({ "path": path }));
    }
    world.settle();
    let describe = |path: &str| {
        let input = json!({ "path": path });
        meshagent_protocol::sync::SyncDescribe::parse(&Content::Json(input)).unwrap()
    };
    let measured = |world: &World| {
        let documents = &world.room.documents;
        let is_measured = |path: &&&str| {
            let document = documents.get(documents.id_at(path).unwrap()).unwrap();
            document.is_measured(&describe(path))
        };
        PATHS.iter().filter(is_measured).count()
    };
    assert_eq!(measured(&world), 4);
    let mut editors: Vec<_> = (0..4).map(|number| Editor::new(70 + number)).collect();
    for (path, editor) in PATHS.iter().zip(&mut editors) {
        world.update(&writer, path, &editor.append("body", "é"));
    }
    world.settle();
    assert_eq!(measured(&world), 0, "none is measured in vain");
    // As soon as there is space, one turn measures and makes one of them.
    drop(unread);
    world.update(&writer, PATHS[0], &editors[0].append("body", "ü"));
    world.settle();
    assert_eq!(measured(&world), 1);
    let mut answers = 0;
    for _ in 0..10 {
        answers += reader.take().len();
        world.pass_seconds(1);
    }
    assert_eq!(answers, PATHS.len());
}
